//! Supervised programs on live nodes: one node, and three on addresses of the loopback.
//!
//! Without arguments it is the test. With `--table [TRIALS]` it prints how fast crashes and hangs are seen and mended.

#[cfg(target_os = "linux")]
mod cluster;
#[cfg(target_os = "linux")]
mod fenced;
#[cfg(target_os = "linux")]
mod killed;
#[cfg(target_os = "linux")]
mod managed;
#[cfg(target_os = "linux")]
mod operated;
#[cfg(target_os = "linux")]
mod peers;
#[cfg(target_os = "linux")]
mod shipped;
#[cfg(target_os = "linux")]
mod strangers;
#[cfg(target_os = "linux")]
mod supervise;
#[cfg(target_os = "linux")]
mod tests;

#[cfg(target_os = "linux")]
#[path = "../support/program.rs"]
mod program;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["node", file] => program::node(file),
        ["keep", folder] => apus_node::keep(std::path::Path::new(folder)).map_err(|error| error.to_string()),
        ["fallback", root, ref patterns @ ..] => {
            let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
            apus_node::fallback(std::path::Path::new(root), &patterns).map_err(|error| error.to_string())
        }
        ["hbeat", thread, ms] => {
            let timeout = std::time::Duration::from_millis(ms.parse().unwrap_or_default());
            apus_node::hbeat(thread.parse().unwrap_or_default(), timeout).map_err(|error| error.to_string())
        }
        ["--list", ..] => {
            println!("services: test");
            Ok(())
        }
        ["rows", kind, root, folder] => shipped::rows(kind, root, folder),
        ["program", what] => supervise::program(what),
        ["--table", ref words @ ..] => supervise::table(words),
        _ => {
            tests::all(words.first().copied().filter(|word| !word.starts_with('-')));
            Ok(())
        }
    };
    program::end("services", result)
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("services: SKIPPED: it needs Linux");
}
