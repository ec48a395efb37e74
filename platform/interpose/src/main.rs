//! `apus-capture`: drains a ring into a directory, starts programs under the library, tells how a group is.

#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
mod command;

#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
fn main() -> std::process::ExitCode {
    command::main()
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")))]
fn main() {
    eprintln!("apus-capture: it needs Linux on x86-64 with glibc");
    std::process::exit(2);
}
