//! A timer of the kernel's. tokio keeps timers in slots of 1 ms, 64 ms and 4 s, and wakes at the begin of a slot to sort what is in
//! it, and at the old deadline of what was put off; a node whose timers are nearly all put off wakes more for that than for its work.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A timer for one deadline at a time, on the monotonic clock.
#[derive(Debug)]
pub struct Timer {
    fd: AsyncFd<File>,
    /// What the kernel was told last, until it said that it is over.
    armed: Option<Instant>,
}

impl Timer {
    /// A timer that is not set.
    ///
    /// # Errors
    /// No descriptor is left.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new() -> io::Result<Self> {
        // SAFETY: it takes no pointer.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was made just now, and nobody else has it.
        let fd = unsafe { File::from_raw_fd(fd) };
        // SAFETY: a file has the same descriptor until it is closed, and this one is never taken out of what owns it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)?;
        Ok(Self { fd, armed: None })
    }

    /// The deadline from now on; what is past is over at once.
    ///
    /// # Panics
    /// Never: the kernel takes any length of time.
    pub fn reset(&mut self, at: Instant) {
        if self.armed == Some(at) {
            return;
        }
        // Zero would stop it.
        let left = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let value = libc::timespec {
            tv_sec: libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let once = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // SAFETY: the descriptor is open, `once` is read during the call only, and nothing is written.
        let set = unsafe { libc::timerfd_settime(self.fd.as_raw_fd(), 0, &raw const once, std::ptr::null_mut()) };
        assert_eq!(set, 0, "a timer takes any time: {}", io::Error::last_os_error());
        self.armed = Some(at);
    }

    /// Whether the deadline is past; the task is woken when it is. A timer is over once.
    pub fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Ok(mut ready) = ready!(self.fd.poll_read_ready(cx)) else { return Poll::Pending };
            // Setting it again takes back what it had to say.
            match ready.try_io(|fd| fd.get_ref().read(&mut [0; 8])) {
                Ok(_) => {
                    self.armed = None;
                    return Poll::Ready(());
                }
                Err(_not_yet) => {}
            }
        }
    }

    /// Waits for the deadline.
    pub async fn over(&mut self) {
        std::future::poll_fn(|cx| self.poll_over(cx)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Timer;

    #[test]
    fn a_timer_is_over_at_the_deadline_it_was_given_last() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
        runtime.block_on(async {
            let mut timer = Timer::new().expect("a timer");
            let begun = Instant::now();
            timer.reset(begun + Duration::from_millis(1));
            timer.reset(begun + Duration::from_millis(40));
            timer.over().await;
            assert!(begun.elapsed() >= Duration::from_millis(40), "not at the first");
            // One that was over, and not looked at, before it was put off.
            timer.reset(begun);
            std::thread::sleep(Duration::from_millis(5));
            let later = Instant::now() + Duration::from_millis(20);
            timer.reset(later);
            timer.over().await;
            assert!(Instant::now() >= later);
            // What is past, twice.
            for _ in 0..2 {
                timer.reset(begun);
                timer.over().await;
            }
        });
    }
}
