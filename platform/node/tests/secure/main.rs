//! A cluster with certificates, on addresses of the loopback: they change while it runs, a node joins, a node is taken out.
//! Then what is done at one node for an operator at another, and what those meet who mean harm while a node fails.

#[cfg(target_os = "linux")]
mod far;
#[cfg(target_os = "linux")]
mod nodes;
#[cfg(target_os = "linux")]
#[path = "../support/program.rs"]
mod program;
#[cfg(target_os = "linux")]
mod siege;
#[cfg(target_os = "linux")]
mod story;
#[cfg(target_os = "linux")]
#[path = "../support/wait.rs"]
mod wait;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["node", file] => program::node(file),
        ["keep", folder] => apus_node::keep(std::path::Path::new(folder)).map_err(|error| error.to_string()),
        ["--list", ..] => {
            println!("secure: test");
            Ok(())
        }
        _ => story::tell().and_then(|()| far::tell()),
    };
    program::end("secure", result)
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("secure: SKIPPED: it needs Linux");
}
