//! The dialling end of a stream: one task for each peer that this node sends to.

use std::rc::Rc;

use apus_engine::NodeId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::frame::{Decoder, Frame, Hello, VERSION};
use super::queue::Outbox;
use super::{OLDEST, RESTS, Shared, Sockets};

/// Bytes put into one write at most, unless a single packet is longer.
const CHUNK: usize = 16 * 1024;

/// Why a stream is over.
enum End {
    NotDialled,
    Refused,
    Silent,
    BadFrame,
    Closed,
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> Self {
        Self::Closed
    }
}

/// Keeps a stream to one peer for as long as there is something to send; after each failure it waits twice as long.
pub(super) async fn dial<S: Sockets>(shared: Rc<Shared<S>>, peer: NodeId, outbox: Rc<Outbox>) {
    let (least, most) = shared.settings.back_off;
    let mut wait = least;
    loop {
        outbox.filled().await;
        let began = Instant::now();
        let end = Stream {
            shared: &shared,
            outbox: &outbox,
            out: Vec::new(),
            at: 0,
            sent: 0,
            credited: 0,
            version: None,
            used: true,
        }
        .run(peer)
        .await;
        shared.count(|counters| match end {
            End::NotDialled => &mut counters.dial_failed,
            End::Refused => &mut counters.hellos_refused,
            End::Silent => &mut counters.silent,
            End::BadFrame => &mut counters.bad_frames,
            End::Closed => &mut counters.ended,
        });
        if began.elapsed() > most {
            wait = least;
        }
        sleep(wait).await;
        wait = (wait * 2).min(most);
    }
}

struct Stream<'a, S: Sockets> {
    shared: &'a Shared<S>,
    outbox: &'a Outbox,
    /// Bytes to write, and how many of them are written.
    out: Vec<u8>,
    at: usize,
    sent: u64,
    credited: u64,
    /// Once welcomed.
    version: Option<u8>,
    /// Packets went out since the last ping.
    used: bool,
}

impl<S: Sockets> Stream<'_, S> {
    async fn run(mut self, peer: NodeId) -> End {
        let Some(address) = self.shared.peers.address(peer) else { return End::NotDialled };
        let dialled = timeout(self.shared.settings.connect, self.shared.sockets.connect(address)).await;
        let Ok(Ok(stream)) = dialled else { return End::NotDialled };
        let identity = self.shared.identity;
        Frame::Hello(Hello {
            version: VERSION,
            oldest: OLDEST,
            cluster: identity.cluster,
            from: identity.me,
            to: peer,
            incarnation: identity.incarnation,
        })
        .put(&mut self.out);
        match self.pump(stream).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn pump(&mut self, stream: S::Stream) -> Result<std::convert::Infallible, End> {
        let settings = self.shared.settings;
        let (mut read, mut write) = tokio::io::split(stream);
        let mut decoder = Decoder::default();
        let mut buffer = vec![0; 4_096];
        // Since when an answer is owed, if one is; and when a ping was sent last.
        let mut owed = Some(Instant::now());
        let mut pinged = Instant::now();
        loop {
            self.fill();
            let writing = self.at < self.out.len();
            let rests = self.version.is_some_and(|version| version >= RESTS) && !self.used && owed.is_none();
            let ping = pinged + if rests { settings.rest } else { settings.keep_alive };
            tokio::select! {
                biased;
                length = read.read(&mut buffer) => {
                    match length? {
                        0 => return Err(End::Closed),
                        length => decoder.push(&buffer[..length]),
                    }
                    while let Some(frame) = decoder.next().map_err(|_| End::BadFrame)? {
                        self.take(&frame)?;
                        owed = None;
                    }
                }
                length = write.write(&self.out[self.at..]), if writing => match length? {
                    0 => return Err(End::Closed),
                    length => self.at += length,
                },
                () = self.outbox.filled(), if !writing && self.may_send() => {}
                () = sleep_until(ping), if self.version.is_some() => {
                    Frame::Ping.put(&mut self.out);
                    pinged = Instant::now();
                    owed = owed.or(Some(pinged));
                    self.used = false;
                }
                () = sleep_until(owed.unwrap_or(pinged) + settings.silence), if owed.is_some() => return Err(End::Silent),
            }
        }
    }

    const fn may_send(&self) -> bool {
        self.version.is_some() && self.sent.saturating_sub(self.credited) < self.shared.settings.window
    }

    /// Takes packets from the outbox, once everything before them is written.
    fn fill(&mut self) {
        if self.at < self.out.len() {
            return;
        }
        self.out.clear();
        self.at = 0;
        while self.may_send() && self.out.len() < CHUNK {
            let Some(packet) = self.outbox.pop(self.shared) else { break };
            Frame::Data(packet).put(&mut self.out);
            self.sent += 1;
            self.used = true;
            self.shared.count(|counters| &mut counters.packets_sent);
        }
    }

    fn take(&mut self, frame: &Frame) -> Result<(), End> {
        match frame {
            Frame::Welcome { version: version @ OLDEST..=VERSION, .. } if self.version.is_none() => {
                self.version = Some(*version);
                self.shared.count(|counters| &mut counters.dialled);
            }
            Frame::Credit(received) if self.version.is_some() && *received <= self.sent => self.credited = *received,
            Frame::Refuse(_) => return Err(End::Refused),
            _ => return Err(End::BadFrame),
        }
        Ok(())
    }
}
