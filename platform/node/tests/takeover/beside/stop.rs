//! Being asked to end: everything is then taken away as after a failure.

use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT and SIGTERM ask.
pub(crate) fn listen() {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (mut first, mut second) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            tokio::select! { _ = first.recv() => {}, _ = second.recv() => {} }
            ASKED.store(true, Ordering::Relaxed);
            Ok::<(), std::io::Error>(())
        })
    });
}

pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

pub(crate) fn check() -> Result<(), String> {
    if asked() { Err("asked to end".into()) } else { Ok(()) }
}

/// Looks again and again until it is so, or the program is asked to end.
pub(crate) fn until<T>(seconds: u64, what: &str, mut look: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let began = std::time::Instant::now();
    loop {
        check()?;
        match look() {
            Ok(found) => return Ok(found),
            Err(error) if began.elapsed().as_secs() >= seconds => {
                return Err(format!("{what}: not within {seconds} s: {error}"));
            }
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(50)),
        }
    }
}
