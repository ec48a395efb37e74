//! Who started this node and looks after it: systemd, or anything that speaks its protocol, and a watchdog device. The loop feeds both
//! itself, each time it comes round: a loop that is stuck feeds nobody.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use apus_os::linux::{Watchdog, clock};

use super::Say;
use super::control::Serving;
use super::machine::voters_up;
use crate::Error;

/// The state in words is looked at this often.
const LOOK: Duration = Duration::from_secs(1);

/// Who could not be fed is fed again after this at the latest.
const AGAIN: Duration = Duration::from_millis(500);

/// Where the manager listens.
struct Socket {
    socket: UnixDatagram,
    to: SocketAddr,
}

impl Socket {
    /// As `NOTIFY_SOCKET` says: a path, or a name behind `@` that has no file.
    fn new(place: &str) -> io::Result<Self> {
        let to = match place.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(place)?,
            _ => return Err(io::Error::other("only a path, or a name behind `@`, is understood")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, to })
    }

    fn tell(&self, lines: &str) -> io::Result<()> {
        self.socket.send_to_addr(lines.as_bytes(), &self.to).map(|_| ())
    }
}

/// Something that is fed.
struct Fed {
    every: Duration,
    at: Instant,
}

impl Fed {
    fn new(every: Duration) -> Self {
        Self { every, at: Instant::now() }
    }

    fn is_hungry(&self, now: Instant) -> bool {
        now >= self.at
    }

    fn ate(&mut self, now: Instant) {
        self.at = now + self.every;
    }

    /// It was not to be fed: not before the next moment, or the loop would come round for nothing else.
    fn starved(&mut self, now: Instant) {
        self.at = now + self.every.min(AGAIN);
    }
}

/// What looks after this node, as far as there is anything.
pub(super) struct Manager {
    socket: Option<Socket>,
    watchdog: Option<Fed>,
    device: Option<(Watchdog, Fed)>,
    looked: Option<Instant>,
    ready: bool,
    status: String,
    /// It was said that something is not fed.
    complained: bool,
    say: Say,
}

impl Manager {
    /// As the environment and the configuration say.
    ///
    /// # Errors
    /// If there is a device that cannot be had. Without a manager the node runs as well.
    pub(super) fn new(device: Option<&crate::Watchdog>, say: Say) -> Result<Self, Error> {
        let word = |key: &str| std::env::var(key).ok();
        let socket = word("NOTIFY_SOCKET").filter(|place| !place.is_empty()).and_then(|place| {
            Socket::new(&place)
                .map_err(|error| say(&format!("`NOTIFY_SOCKET` is {place}: {error}; nobody is told")))
                .ok()
        });
        let number = |key: &str| word(key).and_then(|text| text.parse::<u64>().ok());
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let period = number("WATCHDOG_USEC").filter(|period| ours && *period > 0).map(Duration::from_micros);
        let device = device.map(|wanted| {
            let timeout = Duration::from_micros(wanted.timeout.0);
            let open = Watchdog::open(&wanted.device, timeout).map_err(|error| {
                Error::Failed(format!(
                    "`watchdog`: {error}; is a driver loaded, such as softdog, and does nobody else have it?"
                ))
            })?;
            if open.timeout() != timeout {
                say(&format!("the watchdog takes {} s for its timeout", open.timeout().as_secs()));
            }
            let fed = Fed::new(open.timeout() / 3);
            Ok::<_, Error>((open, fed))
        });
        Ok(Self {
            watchdog: period.filter(|_| socket.is_some()).map(|period| Fed::new(period / 2)),
            socket,
            device: device.transpose()?,
            looked: None,
            ready: false,
            status: String::new(),
            complained: false,
            say,
        })
    }

    /// When the loop must come round at the latest.
    pub(super) fn due(&self) -> Option<Instant> {
        let device = self.device.as_ref().map(|(_, fed)| fed.at);
        let look = self.socket.as_ref().and(self.looked).map(|looked| looked + LOOK);
        [self.watchdog.as_ref().map(|fed| fed.at), device, look].into_iter().flatten().min()
    }

    /// The loop has come round. `state` gives this node's state in words, once it serves.
    pub(super) fn turn(&mut self, state: impl FnOnce() -> Option<String>) {
        let now = Instant::now();
        let (mut failed, mut ate) = (None, false);
        if let Some((device, fed)) = self.device.as_mut().filter(|(_, fed)| fed.is_hungry(now)) {
            match device.feed() {
                Ok(()) => {
                    fed.ate(now);
                    ate = true;
                }
                Err(error) => {
                    fed.starved(now);
                    failed = Some(format!("the watchdog device is not fed: {error}"));
                }
            }
        }
        if let Some(socket) = &self.socket {
            if let Some(fed) = self.watchdog.as_mut().filter(|fed| fed.is_hungry(now)) {
                match socket.tell("WATCHDOG=1") {
                    Ok(()) => {
                        fed.ate(now);
                        ate = true;
                    }
                    Err(error) => {
                        fed.starved(now);
                        failed = Some(format!("`NOTIFY_SOCKET`: {error}: the service manager is not told"));
                    }
                }
            }
            if self.looked.is_none_or(|looked| now >= looked + LOOK) {
                self.looked = Some(now);
                if let Some(state) = state() {
                    let ready = if self.ready { "" } else { "READY=1\n" };
                    let news = !self.ready || state != self.status;
                    if news && socket.tell(&format!("{ready}STATUS={state}")).is_ok() {
                        (self.ready, self.status) = (true, state);
                    }
                } else {
                    // It starts: looked at again soon.
                    self.looked = None;
                }
            }
        }
        match failed {
            None if ate => self.complained = false,
            None => {}
            Some(_) if self.complained => {}
            Some(what) => {
                self.complained = true;
                (self.say)(&what);
            }
        }
    }

    /// Says something that is no state.
    pub(super) fn tell(&self, lines: &str) {
        if let Some(socket) = &self.socket {
            let _ = socket.tell(lines);
        }
    }

    /// The node ends, in order.
    pub(super) fn stopping(&mut self) {
        self.tell("STOPPING=1\nSTATUS=ends; programs run on");
        if let Some((device, _)) = self.device.take()
            && let Err(error) = device.disarm()
        {
            (self.say)(&format!("the watchdog device counts on: {error}"));
        }
    }

    /// The node takes its own place, with the configuration and the program that are there now.
    pub(super) fn reloading(&mut self) {
        self.tell(&format!(
            "RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=takes its own place; programs run on",
            clock::monotonic() / 1_000
        ));
        // A device counts on until the new one has it.
        self.device = None;
    }
}

/// Takes a device back that counts on, and has it count no more.
pub(super) fn disarm(device: &crate::Watchdog, say: &Say) {
    let taken = Watchdog::open(&device.device, Duration::from_micros(device.timeout.0));
    if let Err(error) = taken.and_then(Watchdog::disarm) {
        say(&format!("the watchdog device counts on: {error}"));
    }
}

impl Serving {
    /// How this node stands, in a line; `None` while it starts.
    pub(super) fn brief(&self) -> Option<String> {
        let engine = self.engine.borrow();
        let (_, log, views, _) = engine.look()?;
        let voters = log.membership().voters.len();
        let up = voters_up(&engine, self.me);
        let leader = log.leader().map_or_else(|| "nobody".into(), |node| format!("node {}", node.0));
        let held = log.state().grants.keys().filter(|resource| views.holds(**resource).is_some());
        let held: Vec<String> = held.map(|resource| self.view.name(*resource)).collect();
        let held = if held.is_empty() { "nothing".to_owned() } else { held.join(", ") };
        let kept = if log.state().drained.contains(&self.me) { ", gets nothing new" } else { "" };
        Some(format!(
            "node {} of cluster {}{kept}: {leader} coordinates, {up} of {voters} voters up; holds {held}",
            self.me.0, self.cluster
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    #[test]
    fn a_manager_that_is_gone_is_not_told_without_a_pause() {
        let said = Arc::new(AtomicU32::new(0));
        let count = said.clone();
        let mut manager = Manager {
            socket: Some(Socket::new("/nobody/listens").expect("a socket")),
            watchdog: Some(Fed::new(Duration::from_millis(300))),
            device: None,
            looked: None,
            ready: false,
            status: String::new(),
            complained: false,
            say: Arc::new(move |_| {
                count.fetch_add(1, Relaxed);
            }),
        };
        let until = Instant::now() + Duration::from_secs(1);
        let mut turns = 0;
        while Instant::now() < until {
            manager.turn(|| Some("it serves".into()));
            turns += 1;
            std::thread::sleep(manager.due().expect("it is to be fed").saturating_duration_since(Instant::now()));
        }
        // As few as the machine likes, but not one after the other.
        assert!(turns <= 6, "{turns} turns");
        assert_eq!(said.load(Relaxed), 1, "once");
    }
}
