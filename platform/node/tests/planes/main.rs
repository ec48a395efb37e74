//! Every data plane of Linux end to end, IPv4 and IPv6: three nodes and servers in namespaces, real TCP connections from a client,
//! who asks for the address itself. The dispatcher hands over, is frozen, is killed.
//!
//! Arguments are names of planes; without any: the one that is chosen here, and the others.

#[cfg(target_os = "linux")]
mod clients;
#[cfg(target_os = "linux")]
mod cluster;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["node", file] => cluster::node(file),
        ["serve", v4, v6, number] => clients::serve([v4, v6], number.parse().unwrap_or_default()),
        ["talk", v4, v6, many] => clients::talk([v4, v6], many.parse().unwrap_or_default()),
        ["poll", ref ports @ ..] => cluster::poll(ports),
        ["--list"] | ["--list", ..] => {
            println!("planes: test");
            Ok(())
        }
        _ => {
            let asked: Vec<&str> = words.iter().filter(|word| !word.starts_with('-')).copied().collect();
            cluster::test(&asked)
        }
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("planes: {what}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("planes: SKIPPED: it needs Linux");
}
