//! What signals do while a process becomes another program.

/// From here on, `SIGHUP` does nothing until the next program asks for it, and `SIGTERM` and `SIGINT` end this process at once: nobody
/// listens to them any more, and none is lost.
pub fn give_way() {
    for (signal, how) in [(libc::SIGHUP, libc::SIG_IGN), (libc::SIGTERM, libc::SIG_DFL), (libc::SIGINT, libc::SIG_DFL)]
    {
        // SAFETY: no memory is passed, and no function of this process is named.
        unsafe { libc::signal(signal, how) };
    }
}
