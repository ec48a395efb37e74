//! What is kept: a program that does one thing.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use apus_os::linux::program::tell;

fn say(lines: &str) {
    let socket = std::env::var_os("NOTIFY_SOCKET").expect("a keeper");
    tell(&PathBuf::from(socket), lines).expect("the keeper listens");
}

/// Waits for a signal, for ever.
fn rest() -> ! {
    loop {
        // SAFETY: no memory is passed.
        unsafe { libc::pause() };
    }
}

pub(crate) fn run(args: &[&str]) -> i32 {
    match *args {
        ["exit", code] => code.parse().expect("a number"),
        ["signal", number] => {
            let number = number.parse().expect("a number");
            // Rust looks at `SIGSEGV` first, and goes on.
            // SAFETY: no function of ours is called.
            unsafe { libc::signal(number, libc::SIG_DFL) };
            // SAFETY: no memory is passed.
            unsafe { libc::raise(number) };
            rest()
        }
        ["rest"] => rest(),
        ["ready"] => {
            say("READY=1");
            rest()
        }
        ["deaf"] => {
            // SAFETY: no function of ours is called.
            unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
            say("READY=1");
            rest()
        }
        // Children that leave group, session and parent; all numbers are told in a file, then it is ready.
        ["tree", file] => {
            let exe = std::env::current_exe().expect("it runs");
            let mut child = Command::new(&exe);
            child.args(["program", "leave", file]);
            child.spawn().expect("a child").wait().expect("it leaves");
            say("READY=1");
            rest()
        }
        ["leave", file] => {
            let exe = std::env::current_exe().expect("it runs");
            let mut numbers = String::new();
            for _ in 0..3 {
                let mut child = Command::new(&exe);
                child.args(["program", "deaf-alone"]);
                let alone = || {
                    // SAFETY: no memory is passed.
                    unsafe { libc::setsid() };
                    Ok(())
                };
                // SAFETY: a system call only.
                unsafe { child.pre_exec(alone) };
                numbers += &format!("{} ", child.spawn().expect("a child").id());
            }
            std::fs::write(file, numbers + "\n").expect("a file");
            0
        }
        ["deaf-alone"] => {
            // SAFETY: no function of ours is called.
            unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
            rest()
        }
        ["hog"] => {
            let mut all: Vec<Vec<u8>> = Vec::new();
            for byte in 1..=64 {
                all.push(vec![byte; 4 << 20]);
            }
            i32::from(all.iter().map(|part| u32::from(part[7])).sum::<u32>() == 0)
        }
        ["beat"] => {
            say("READY=1\nWATCHDOG=1");
            say("HBEAT=3 TIMEOUT_USEC=700000");
            // By a command of its own, as a shell would.
            let exe = std::env::current_exe().expect("it runs");
            let said = Command::new(exe).args(["say", "HBEAT=4\nTIMEOUT_USEC=9"]).status().expect("a child");
            assert!(said.success());
            rest()
        }
        // Is ready once a line was sent to its port.
        ["serve", file, answer] => {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            std::fs::write(file, format!("{}\n", listener.local_addr().expect("it has one").port())).expect("a file");
            for stream in listener.incoming() {
                let mut stream = stream.expect("one comes");
                let _ = stream.read(&mut [0; 1_024]);
                let _ = stream.write_all(format!("HTTP/1.1 {answer} X\r\n\r\n").as_bytes());
            }
            0
        }
        // Who it is, where, and what it was told.
        ["who", file] => {
            // SAFETY: no memory is passed.
            let uid = unsafe { libc::getuid() };
            // SAFETY: no memory is passed.
            let gid = unsafe { libc::getgid() };
            let role = std::env::var("APUS_ROLE").expect("a role");
            let own = std::env::var("OWN").expect("it was given");
            let secret = std::env::var("APUS_TEST_SECRET").is_ok();
            let at = std::env::current_dir().expect("somewhere");
            let text = format!("{uid} {gid} {role} {own} {secret} {}\n", at.display());
            std::fs::write(file, text).expect("a file");
            rest()
        }
        ["flood", lines] => {
            let mut out = std::io::stdout().lock();
            for number in 0..lines.parse::<u32>().expect("a number") {
                writeln!(out, "line {number}").expect("it is read");
            }
            0
        }
        // A standby that is active after SIGUSR1, and ends with 42 then.
        ["standby"] => {
            extern "C" fn active(_: libc::c_int) {
                // SAFETY: allowed in a signal's function.
                unsafe { libc::_exit(42) }
            }
            let active = active as extern "C" fn(libc::c_int) as libc::sighandler_t;
            // SAFETY: what is called only ends the process.
            unsafe { libc::signal(libc::SIGUSR1, active) };
            say("READY=1");
            rest()
        }
        _ => 99,
    }
}
