//! ONE-IP on real packets: five nodes and servers in namespaces, a thousand connections, and what happens to them when the
//! dispatcher dies, freezes, loses its link, hands over, and when all servers are drained in turn.
//!
//! Without arguments it is the test: one fault of each kind. With `--table [TRIALS]` it prints a table, with keepalived beside it.

#[cfg(target_os = "linux")]
mod cluster;
#[cfg(target_os = "linux")]
mod load;
#[cfg(target_os = "linux")]
mod net;
#[cfg(target_os = "linux")]
mod serve;
#[cfg(target_os = "linux")]
mod watch;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["node", file] => cluster::node(file),
        ["serve", address, number] => {
            serve::serve(address, number.parse().unwrap_or_default()).map_err(|error| error.to_string())
        }
        ["load", target, sources, connections] => {
            let sources = sources.split(',').filter_map(|source| source.parse().ok()).collect();
            load::load(target.parse().expect("an address"), sources, connections.parse().expect("a number"))
                .map_err(|error| error.to_string())
        }
        ["--list"] | ["--list", ..] => {
            println!("takeover: test");
            Ok(())
        }
        ["--table", ref trials @ ..] => {
            let trials = trials.first().and_then(|trials| trials.parse().ok()).unwrap_or(10);
            cluster::experiment(trials, 1_000, true)
        }
        _ => cluster::experiment(1, 200, false),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("takeover: {what}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("takeover: SKIPPED: it needs Linux");
}
