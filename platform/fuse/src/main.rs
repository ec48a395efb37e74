//! `apus-fuse`: mounts a group's folder and replays what programs do there into another one.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod command;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() -> std::process::ExitCode {
    command::main()
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() {
    eprintln!("apus-fuse: it needs Linux on x86-64");
    std::process::exit(2);
}
