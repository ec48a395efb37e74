//! ONE-IP on real packets: five nodes and servers in namespaces, a thousand connections, and what happens to them when the
//! dispatcher dies, freezes, loses its net, hands over, and when all servers are rolled in turn.
//!
//! Without arguments it is the test: some faults, each once; with `--plane NAME`, on that data plane. With
//! `--table [TRIALS] [--only WORDS] [--format json]` it prints a table, with keepalived beside it; with `--beside`, another of faults
//! that strike peers alike ([`beside`]).

#[cfg(target_os = "linux")]
mod beside;
#[cfg(target_os = "linux")]
mod cluster;
#[cfg(target_os = "linux")]
mod experiment;
#[cfg(target_os = "linux")]
mod load;
#[cfg(target_os = "linux")]
mod net;
#[cfg(target_os = "linux")]
mod operate;
#[cfg(target_os = "linux")]
mod peers;
#[cfg(target_os = "linux")]
#[path = "../support/program.rs"]
mod program;
#[cfg(target_os = "linux")]
mod serve;
#[cfg(target_os = "linux")]
mod strike;
#[cfg(target_os = "linux")]
mod vrrp;
#[cfg(target_os = "linux")]
#[path = "../support/wait.rs"]
mod wait;
#[cfg(target_os = "linux")]
mod watch;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["node", file] => program::node(file),
        ["clear", file] => cluster::clear(file),
        ["serve", address, number] => {
            serve::serve(address, number.parse().unwrap_or_default()).map_err(|error| error.to_string())
        }
        ["load", target, sources, connections] => {
            let sources = sources.split(',').filter_map(|source| source.parse().ok()).collect();
            load::load(target.parse().expect("an address"), sources, connections.parse().expect("a number"))
                .map_err(|error| error.to_string())
        }
        ["keep", folder] => apus_node::keep(std::path::Path::new(folder)).map_err(|error| error.to_string()),
        ["copy", folder] => beside::live(std::path::Path::new(folder)).map_err(|error| error.to_string()),
        ["ask", node] => beside::ask(node.parse().unwrap_or_default()).map_err(|error| error.to_string()),
        ["probe", target, sources] => {
            let sources = sources.split(',').filter_map(|source| source.parse().ok()).collect();
            beside::probe(target.parse().expect("an address"), sources).map_err(|error| error.to_string())
        }
        ["--list"] | ["--list", ..] => {
            println!("takeover: test");
            Ok(())
        }
        ["--table", ref more @ ..] => {
            let trials = more.first().and_then(|trials| trials.parse().ok()).unwrap_or(30);
            let only = more.windows(2).find(|pair| pair[0] == "--only").map_or("", |pair| pair[1]);
            experiment::table(trials, only, more.ends_with(&["--format", "json"]))
        }
        ["--beside", ref more @ ..] => beside::Asked::read(more)
            .and_then(|asked| experiment::ready("compare-failover").map_or(Ok(()), |()| beside::compare(&asked))),
        ["--plane", plane] => experiment::test(Some(plane)),
        _ => experiment::test(None),
    };
    program::end("takeover", result)
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("takeover: SKIPPED: it needs Linux");
}
