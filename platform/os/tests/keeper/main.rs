//! The conformance of keepers: what a program, its children, a daemon or a keeper does, and what is told and left then.
//!
//! Without arguments it is the test. With `--table [TRIALS]` it prints how fast ends are seen and programs begin again.

#[cfg(target_os = "linux")]
mod client;
#[cfg(target_os = "linux")]
mod conformance;
#[cfg(target_os = "linux")]
mod program;
#[cfg(target_os = "linux")]
mod times;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    use std::path::{Path, PathBuf};
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let code = match words[..] {
        ["keep", folder] => match apus_os::linux::program::keep(Path::new(folder)) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("{error}");
                1
            }
        },
        ["program", ref args @ ..] => program::run(args),
        ["say", lines] => {
            let socket = std::env::var_os("NOTIFY_SOCKET").map(PathBuf::from).unwrap_or_default();
            i32::from(apus_os::linux::program::tell(&socket, lines).is_err())
        }
        ["daemon", folder, lease] => conformance::daemon(Path::new(folder), lease.parse().unwrap_or_default()),
        ["--list", ..] => {
            println!("keeper: test");
            0
        }
        ["--table", ref trials @ ..] => {
            times::table(trials.first().and_then(|trials| trials.parse().ok()).unwrap_or(500));
            0
        }
        _ => {
            conformance::all(words.first().copied().filter(|word| !word.starts_with('-')));
            0
        }
    };
    std::process::ExitCode::from(u8::try_from(code).unwrap_or(255))
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("keeper: SKIPPED: it needs Linux");
}
