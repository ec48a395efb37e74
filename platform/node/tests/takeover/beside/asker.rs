//! Who answers for the address, seen from outside: on each node's own side of the net somebody asks that node alone, each 2 ms, also
//! while it is cut off from the others. Answers are taken where they leave a node, with the kernel's time.

use std::io::{self, Read};
use std::net::UdpSocket;
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use super::clock::wall_us;
use super::judge::Answer;
use crate::net::{Net, VIP};
use crate::serve::PORT;

/// Between two questions to one node.
const EVERY: Duration = Duration::from_millis(2);
/// Ports that they come from: a dispatcher has some of them served by its own node.
const FLOWS: usize = 64;

/// Asks for ever; `node` is written into each question.
pub(crate) fn ask(node: u8) -> io::Result<()> {
    let sockets = (0..FLOWS).map(|_| UdpSocket::bind("0.0.0.0:0")).collect::<io::Result<Vec<_>>>()?;
    let mut due = Instant::now();
    for socket in sockets.iter().cycle() {
        sleep(due.saturating_duration_since(Instant::now()));
        due = (due + EVERY).max(Instant::now());
        let mut bytes = wall_us().to_be_bytes();
        // The clock's first byte is 0 for another two thousand years.
        bytes[0] = node;
        // A port without a carrier takes nothing.
        let _ = socket.send_to(&bytes, (VIP, PORT));
    }
    Ok(())
}

/// Programs that take the answers, one at each node's port, as they come out of it.
pub(crate) struct Answers {
    children: Vec<Child>,
    readers: Vec<JoinHandle<()>>,
    all: Arc<Mutex<Vec<Answer>>>,
}

impl Answers {
    /// `askers`: a network that all who ask are in.
    pub(crate) fn start(net: &Net, askers: &str) -> Result<Self, String> {
        let mut answers = Self { children: Vec::new(), readers: Vec::new(), all: Arc::default() };
        let what = format!("udp and src port {PORT} and src host {VIP} and dst net {askers}");
        for node in 0..net.nodes {
            let port = format!("v{node}");
            let dump = ["tcpdump", "-i", &port, "-Q", "in", "-s", "96", "-B", "4096", "-n", "-U", "--immediate-mode"];
            let command = [&dump[..], &["-Z", "root", "-w", "-", &what]].concat();
            let mut child = net.start(&net.bridge(), &command, "answers.log").map_err(|error| error.to_string())?;
            let mut from = child.stdout.take().ok_or("no standard output")?;
            answers.children.push(child);
            // The head comes when it has begun.
            from.read_exact(&mut [0; 24]).map_err(|error| format!("tcpdump on {port}: {error}"))?;
            let all = answers.all.clone();
            answers.readers.push(std::thread::spawn(move || read(io::BufReader::new(from), &all)));
        }
        Ok(answers)
    }

    /// Forgets what came before, in microseconds of the wall clock.
    pub(crate) fn forget(&self, before: u64) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).retain(|answer| answer.gave >= before);
    }

    pub(crate) fn since(&self, from: u64) -> Vec<Answer> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|answer| answer.gave >= from).copied().collect()
    }

    /// Who answered within so many microseconds.
    pub(crate) fn owners(&self, within: u64) -> Vec<usize> {
        let mut owners: Vec<usize> =
            self.since(wall_us().saturating_sub(within)).iter().map(|answer| usize::from(answer.asked)).collect();
        owners.sort_unstable();
        owners.dedup();
        owners
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.children.iter_mut().for_each(crate::cluster::end);
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

/// Reads frames until the program ends.
fn read(mut from: impl Read, all: &Mutex<Vec<Answer>>) {
    let mut head = [0; 16];
    let mut frame = Vec::new();
    while from.read_exact(&mut head).is_ok() {
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let gave = u64::from(word(0)) * 1_000_000 + u64::from(word(4));
        frame.resize(word(8) as usize, 0);
        if from.read_exact(&mut frame).is_err() {
            return;
        }
        // Ethernet, IPv4 without options, UDP, then the server's number and the question.
        let Some(question) = frame.get(43..51).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok()) else { continue };
        let (asked, mut sent) = (question[0], question);
        sent[0] = 0;
        let answer = Answer { asked, sent: u64::from_be_bytes(sent), gave };
        all.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
    }
}
