//! Questions to a program from outside. A connection is tried in a thread of its own, a script is a child of the keeper.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::clock;
use crate::program::Check;

/// A check that is made again and again.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) check: Check,
    every: u64,
    within: Duration,
    /// When it is tried next, on the boot clock in nanoseconds.
    pub(super) next: u64,
    /// A try that is under way: its number, and until when.
    pub(super) trying: Option<(u32, u64)>,
    /// The child of a script.
    pub(super) child: Option<u32>,
}

impl Probe {
    /// Times in microseconds; the first try is at once.
    pub(super) fn new(check: Check, every: u64, within: u64) -> Self {
        let every = every.max(1_000).saturating_mul(1_000);
        Self { check, every, within: Duration::from_micros(within.max(1_000)), next: 0, trying: None, child: None }
    }

    /// When something has to be done about it.
    pub(super) fn deadline(&self) -> u64 {
        self.trying.map_or(self.next, |(_, until)| until)
    }

    /// Notes that a try begins.
    pub(super) fn begin(&mut self, number: u32) {
        let now = clock::boot();
        let within = u64::try_from(self.within.as_nanos()).unwrap_or(u64::MAX);
        self.trying = Some((number, now.saturating_add(within)));
        self.next = now.saturating_add(self.every);
    }

    /// Notes its end.
    pub(super) fn end(&mut self) {
        self.trying = None;
        self.child = None;
        self.next = self.next.max(clock::boot());
    }

    /// Tries a connection in a thread, which tells `to` its number and how it went. False if this is a script.
    pub(super) fn connect(&self, number: u32, to: &Arc<UnixDatagram>) -> bool {
        let (address, path) = match &self.check {
            Check::Tcp(address) => (*address, None),
            Check::Http { address, path } => (*address, Some(path.clone())),
            Check::Script(_) => return false,
        };
        let (to, within) = (to.clone(), self.within);
        let _ = std::thread::Builder::new().name("probe".into()).spawn(move || {
            let passed = passes(address, path.as_deref(), within);
            let [a, b, c, d] = number.to_le_bytes();
            let _ = to.send(&[super::keeper::PROBED, a, b, c, d, u8::from(passed)]);
        });
        true
    }
}

/// Whether a program takes a connection, and answers with a status of 200 to 399 if a path is asked for.
fn passes(address: SocketAddr, path: Option<&str>, within: Duration) -> bool {
    let until = Instant::now() + within;
    let Ok(mut stream) = TcpStream::connect_timeout(&address, within) else { return false };
    // A port of this machine that nobody has may connect to itself.
    if stream.local_addr().is_ok_and(|own| own == address) {
        return false;
    }
    let Some(path) = path else { return true };
    let ask = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: apus\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let mut bytes = [0; 64];
    if stream.set_write_timeout(Some(within)).is_err() || stream.write_all(ask.as_bytes()).is_err() {
        return false;
    }
    // `HTTP/1.1 200` is all that is needed; a drip of bytes does not prolong it.
    while answer.len() < 12 {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return false;
        }
        match stream.read(&mut bytes) {
            Ok(0) | Err(_) => return false,
            Ok(many) => answer.extend(&bytes[..many]),
        }
    }
    answer.starts_with(b"HTTP/1.") && matches!(answer[9], b'2' | b'3') && answer[8] == b' '
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn answers_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it has one");
        let within = Duration::from_secs(5);
        let answers: [(&[u8], bool); 5] = [
            (b"HTTP/1.1 200 OK\r\n\r\n", true),
            (b"HTTP/1.0 302 Found\r\n\r\n", true),
            (b"HTTP/1.1 503 No\r\n\r\n", false),
            (b"SSH-2.0-something", false),
            (b"HTTP/1.1", false),
        ];
        let server = std::thread::spawn(move || {
            for (answer, _) in answers {
                let (mut stream, _) = listener.accept().expect("one comes");
                let mut asked = [0; 256];
                let many = stream.read(&mut asked).expect("it asks");
                assert!(asked[..many].starts_with(b"GET /health HTTP/1.1\r\n"));
                stream.write_all(answer).expect("it listens");
            }
            // Connects, and never answers.
            listener.accept().expect("one comes")
        });
        for (answer, good) in answers {
            assert_eq!(passes(address, Some("/health"), within), good, "{}", String::from_utf8_lossy(answer));
        }
        assert!(!passes(address, Some("/"), Duration::from_millis(50)), "silence");
        drop(server.join().expect("no panic"));
        assert!(!passes(address, None, within), "nobody listens any more");
    }
}
