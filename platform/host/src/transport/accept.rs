//! The accepting end of streams.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use apus_engine::NodeId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::frame::{Decoder, Frame, Hello, Refusal, VERSION};
use super::{OLDEST, RESTS, Shared, Sockets, pass_on};

/// Why a stream is over.
enum End {
    Refused,
    Silent,
    BadFrame,
    Closed,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Closed
    }
}

/// Accepts streams, each served by a task of its own.
pub(super) async fn accept<S: Sockets>(shared: Rc<Shared<S>>, listener: S::Listener) {
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            ended = streams.join_next(), if !streams.is_empty() => pass_on(ended),
            accepted = S::accept(&listener), if streams.len() < shared.settings.streams => match accepted {
                Ok((stream, _)) => {
                    streams.spawn_local(serve(shared.clone(), stream));
                }
                // Out of handles, as a rule: they come back.
                Err(_) => sleep(shared.settings.back_off.0).await,
            }
        }
    }
}

async fn serve<S: Sockets>(shared: Rc<Shared<S>>, stream: S::Stream) {
    let proved = S::who(&stream);
    let (read, write) = tokio::io::split(stream);
    let (decoder, buffer) = (Decoder::default(), vec![0; 16 * 1024]);
    let stream =
        Stream { shared: &shared, proved, read, write, decoder, buffer, received: 0, silence: shared.settings.silence };
    let end = match stream.run().await {
        Ok(never) => match never {},
        Err(end) => end,
    };
    shared.count(|counters| match end {
        End::Refused => &mut counters.hellos_refused,
        End::Silent => &mut counters.silent,
        End::BadFrame => &mut counters.bad_frames,
        End::Closed => &mut counters.ended,
    });
}

struct Stream<'a, S: Sockets> {
    shared: &'a Shared<S>,
    /// Who dials, where the sockets know.
    proved: Option<NodeId>,
    read: ReadHalf<S::Stream>,
    write: WriteHalf<S::Stream>,
    decoder: Decoder,
    buffer: Vec<u8>,
    received: u64,
    /// Without a frame for so long the stream is dropped.
    silence: Duration,
}

impl<S: Sockets> Stream<'_, S> {
    async fn run(mut self) -> Result<std::convert::Infallible, End> {
        let Frame::Hello(hello) = self.frame().await? else { return Err(End::BadFrame) };
        let replaced = Rc::new(Notify::new());
        if let Err(reason) = self.admit(&hello, &replaced) {
            self.answer(&Frame::Refuse(reason)).await?;
            let _ = timeout(self.shared.settings.silence, self.write.shutdown()).await;
            return Err(End::Refused);
        }
        let version = hello.version.min(VERSION);
        self.answer(&Frame::Welcome { version, incarnation: self.shared.identity.incarnation }).await?;
        if version >= RESTS {
            self.silence += self.shared.settings.rest;
        }
        let mut owed = 0;
        loop {
            let frame = tokio::select! {
                biased;
                () = replaced.notified() => return Err(End::Closed),
                frame = self.frame() => frame?,
            };
            match frame {
                Frame::Data(packet) => {
                    self.hand_over(hello.from, packet).await?;
                    self.received += 1;
                    owed += 1;
                }
                Frame::Ping => owed = u64::MAX / 2,
                _ => return Err(End::BadFrame),
            }
            if owed >= self.shared.settings.window / 4 {
                owed = 0;
                self.answer(&Frame::Credit(self.received)).await?;
            }
        }
    }

    /// The next frame. Cancel-safe.
    async fn frame(&mut self) -> Result<Frame, End> {
        loop {
            if let Some(frame) = self.decoder.next().map_err(|_| End::BadFrame)? {
                return Ok(frame);
            }
            let read = timeout(self.silence, self.read.read(&mut self.buffer)).await;
            match read.map_err(|_| End::Silent)?? {
                0 => return Err(End::Closed),
                length => self.decoder.push(&self.buffer[..length]),
            }
        }
    }

    async fn answer(&mut self, frame: &Frame) -> Result<(), End> {
        let mut out = Vec::new();
        frame.put(&mut out);
        timeout(self.shared.settings.silence, self.write.write_all(&out)).await.map_err(|_| End::Silent)??;
        Ok(())
    }

    /// Checks who dials. A newer stream of the same or a later life replaces an older one.
    fn admit(&self, hello: &Hello, replaced: &Rc<Notify>) -> Result<(), Refusal> {
        let identity = self.shared.identity;
        if hello.oldest > VERSION || hello.version < OLDEST {
            return Err(Refusal::Version);
        }
        if hello.cluster != identity.cluster {
            return Err(Refusal::Cluster);
        }
        if self.proved.is_some_and(|proved| proved != hello.from) {
            return Err(Refusal::Sender);
        }
        if hello.to != identity.me {
            return Err(Refusal::Receiver);
        }
        let mut accepted = self.shared.accepted.borrow_mut();
        if accepted.get(&hello.from).is_some_and(|(known, _)| *known > hello.incarnation) {
            return Err(Refusal::Old);
        }
        if let Some((_, older)) = accepted.insert(hello.from, (hello.incarnation, replaced.clone())) {
            older.notify_one();
        }
        Ok(())
    }

    /// Waits for room: a slow engine is felt by its peers. Credits meanwhile say that this node lives.
    async fn hand_over(&mut self, from: NodeId, mut packet: Vec<u8>) -> Result<(), End> {
        loop {
            if self.shared.inbox.push_packet(from, &mut packet) {
                self.shared.count(|counters| &mut counters.packets_received);
                return Ok(());
            }
            if timeout(self.shared.settings.keep_alive, self.shared.inbox.emptied()).await.is_err() {
                self.answer(&Frame::Credit(self.received)).await?;
            }
        }
    }
}
