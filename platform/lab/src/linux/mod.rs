//! Namespaces, daemons and faults of Linux.

mod ask;
mod books;
mod cgroup;
mod cluster;
mod copies;
mod demo;
mod disk;
mod lab;
mod live;
mod machine;
mod net;
mod program;
mod sh;
mod watch;
mod writer;

pub use books::{Books, Kept};
pub use demo::Seen;
pub use lab::{Fault, Lab, Status, Up};
pub(crate) use live::{missing_for, run};
pub use program::{load, program, serve};
pub use writer::Kind as Rows;

/// Nanoseconds on the boot clock, which all machines of all labs have.
#[must_use]
pub fn now() -> u64 {
    apus_os::linux::clock::boot()
}

/// Why no lab can be made on this machine, if so: what is missing, and how to mend it.
pub(crate) fn missing() -> Option<String> {
    for (tool, package) in [("ip", "iproute2"), ("nft", "nftables"), ("setsid", "util-linux"), ("kill", "procps")] {
        if sh::sh(&["sh", "-c", &format!("command -v {tool}")]).is_err() {
            return Some(format!("`{tool}` is missing: install {package}"));
        }
    }
    let probe = format!("apus-probe-{}", std::process::id());
    let made = sh::sh(&["ip", "netns", "add", &probe]);
    let ruled = made.and_then(|_| {
        let rules = "table bridge lab {\nchain forward {\ntype filter hook forward priority 0\n}\n}\n";
        sh::feed(&["ip", "netns", "exec", &probe, "nft", "-f", "-"], rules)
    });
    let _ = sh::sh(&["ip", "netns", "del", &probe]);
    ruled.err().map(|error| format!("no namespaces with a filtering bridge: {error}; run it as root"))
}
