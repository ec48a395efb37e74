//! Frames of a stream.
//!
//! ```text
//! 4 length of kind and body, at most 65,664    4 crc32c of kind and body    1 kind    body
//!
//! kind        body
//! 1 hello     4 magic "APUS", 1 version, 1 oldest version, 4 cluster, 2 sender, 2 receiver, 4 sender's incarnation
//! 2 welcome   1 version to speak, 4 receiver's incarnation
//! 3 refuse    1 reason
//! 4 data      a packet of the engine
//! 5 ping      nothing; asks for a credit
//! 6 credit    8 data frames received on this stream so far
//! ```
//! Little-endian. The dialler sends hello, data and pings; the acceptor answers with the others.

use apus_engine::{ClusterId, Incarnation, NodeId};

use crate::crc32c;

/// The newest version of this format. From 2 on a stream that is not used is seldom pinged.
pub const VERSION: u8 = 2;
/// Length of kind and body at most: an engine's packet has up to 64 KiB.
pub const LONGEST: usize = 64 * 1024 + 128;
const HEAD: usize = 8;
const MAGIC: [u8; 4] = *b"APUS";

/// The first frame of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Newest version the sender speaks.
    pub version: u8,
    /// Oldest version it speaks.
    pub oldest: u8,
    /// Whose cluster.
    pub cluster: ClusterId,
    /// Who dials.
    pub from: NodeId,
    /// Whom it means to reach.
    pub to: NodeId,
    /// In which life it dials.
    pub incarnation: Incarnation,
}

/// Why a hello is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Refusal {
    /// No version in common.
    Version = 1,
    /// Another cluster.
    Cluster = 2,
    /// Another node was meant.
    Receiver = 3,
    /// A later life of the sender is connected.
    Old = 4,
    /// The sender is not who its certificate says.
    Sender = 5,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Who dials.
    Hello(Hello),
    /// Goes on in this version.
    Welcome {
        /// The version to speak.
        version: u8,
        /// The life of who answers.
        incarnation: Incarnation,
    },
    /// Does not go on.
    Refuse(Refusal),
    /// A packet of the engine.
    Data(Vec<u8>),
    /// Asks for a credit.
    Ping,
    /// So many data frames were received on this stream.
    Credit(u64),
}

/// Why a stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A frame longer than allowed: this is no stream of ours.
    TooLong,
    /// Damaged on the way.
    Checksum,
    /// A right checksum over what is no frame of this version.
    Content,
}

impl Frame {
    /// Appends the frame to `out`.
    pub fn put(&self, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&[0; HEAD]);
        match self {
            Self::Hello(hello) => {
                out.push(1);
                out.extend_from_slice(&MAGIC);
                out.extend_from_slice(&[hello.version, hello.oldest]);
                out.extend_from_slice(&hello.cluster.0.to_le_bytes());
                out.extend_from_slice(&hello.from.0.to_le_bytes());
                out.extend_from_slice(&hello.to.0.to_le_bytes());
                out.extend_from_slice(&hello.incarnation.0.to_le_bytes());
            }
            Self::Welcome { version, incarnation } => {
                out.extend_from_slice(&[2, *version]);
                out.extend_from_slice(&incarnation.0.to_le_bytes());
            }
            Self::Refuse(reason) => out.extend_from_slice(&[3, *reason as u8]),
            Self::Data(packet) => {
                out.push(4);
                out.extend_from_slice(packet);
            }
            Self::Ping => out.push(5),
            Self::Credit(received) => {
                out.push(6);
                out.extend_from_slice(&received.to_le_bytes());
            }
        }
        let (head, content) = out[at..].split_at_mut(HEAD);
        head[..4].copy_from_slice(&u32::try_from(content.len()).unwrap_or(u32::MAX).to_le_bytes());
        head[4..].copy_from_slice(&crc32c(&[content]).to_le_bytes());
    }

    /// Reads kind and body.
    fn get(content: &[u8]) -> Option<Self> {
        let (kind, body) = content.split_first()?;
        let number = |at: usize, many: usize| {
            let bytes = body.get(at..at + many)?;
            Some(bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
        };
        let small = |at| number(at, 4).and_then(|number| u32::try_from(number).ok());
        let node = |at| number(at, 2).and_then(|number| u16::try_from(number).ok()).map(NodeId);
        Some(match (kind, body.len()) {
            (1, 18) if body[..4] == MAGIC => Self::Hello(Hello {
                version: body[4],
                oldest: body[5],
                cluster: ClusterId(small(6)?),
                from: node(10)?,
                to: node(12)?,
                incarnation: Incarnation(small(14)?),
            }),
            (2, 5) => Self::Welcome { version: body[0], incarnation: Incarnation(small(1)?) },
            (3, 1) => Self::Refuse(match body[0] {
                1 => Refusal::Version,
                2 => Refusal::Cluster,
                3 => Refusal::Receiver,
                4 => Refusal::Old,
                5 => Refusal::Sender,
                _ => return None,
            }),
            (4, _) => Self::Data(body.into()),
            (5, 0) => Self::Ping,
            (6, 8) => Self::Credit(number(0, 8)?),
            _ => return None,
        })
    }
}

/// Takes bytes as they come and gives frames.
///
/// It holds at most one frame and what was pushed last: whoever pushes takes all frames out before pushing again.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    at: usize,
    failed: Option<FrameError>,
}

impl Decoder {
    /// Takes in bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.bytes.drain(..self.at);
            self.at = 0;
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Bytes held.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.bytes.len()
    }

    /// The next whole frame; `None`: more bytes are needed.
    ///
    /// # Errors
    /// Once the stream cannot be read on; then for ever.
    #[allow(clippy::should_implement_trait, reason = "an iterator would end where this one waits for bytes")]
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.take();
        if let Err(error) = result {
            self.failed = Some(error);
            self.bytes = Vec::new();
            self.at = 0;
        }
        result
    }

    fn take(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = &self.bytes[self.at..];
        let Some((length, after)) = rest.split_first_chunk() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > LONGEST {
            return Err(FrameError::TooLong);
        }
        let Some((crc, after)) = after.split_first_chunk() else { return Ok(None) };
        let Some(content) = after.get(..length) else { return Ok(None) };
        if crc32c(&[content]) != u32::from_le_bytes(*crc) {
            return Err(FrameError::Checksum);
        }
        let frame = Frame::get(content).ok_or(FrameError::Content)?;
        self.at += HEAD + length;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use apus_engine::{ClusterId, Incarnation, NodeId, Rng, Seed};

    use super::{Decoder, Frame, FrameError, Hello, LONGEST, Refusal, VERSION};

    const PIECE: usize = 4_096;

    #[allow(clippy::cast_possible_truncation, reason = "random bytes and small numbers")]
    fn draw(rng: &mut Rng) -> Frame {
        match rng.below(7) {
            0 => Frame::Hello(Hello {
                version: VERSION,
                oldest: rng.next() as u8,
                cluster: ClusterId(rng.next() as u32),
                from: NodeId(rng.next() as u16),
                to: NodeId(rng.next() as u16),
                incarnation: Incarnation(rng.next() as u32),
            }),
            1 => Frame::Welcome { version: rng.next() as u8, incarnation: Incarnation(rng.next() as u32) },
            2 => Frame::Refuse(
                [Refusal::Version, Refusal::Cluster, Refusal::Receiver, Refusal::Old][rng.below(4) as usize],
            ),
            3 => Frame::Ping,
            4 => Frame::Credit(rng.next()),
            _ => {
                let long = if rng.below(20) == 0 { 64 * 1024 } else { 300 };
                Frame::Data((0..rng.below(long + 1)).map(|_| rng.next() as u8).collect())
            }
        }
    }

    /// Pushes pieces of random length, taking frames out in between; checks the bound on memory.
    fn feed(rng: &mut Rng, bytes: &[u8]) -> (Vec<Frame>, Option<FrameError>) {
        let (mut decoder, mut frames, mut rest) = (Decoder::default(), Vec::new(), bytes);
        while !rest.is_empty() {
            let many = usize::try_from(rng.between(1, PIECE as u64)).unwrap().min(rest.len());
            decoder.push(&rest[..many]);
            rest = &rest[many..];
            assert!(decoder.held() <= LONGEST + 8 + PIECE);
            loop {
                match decoder.next() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => {
                        assert_eq!(decoder.next(), Err(error));
                        decoder.push(&[0; 100]);
                        assert_eq!(decoder.held(), 0);
                        return (frames, Some(error));
                    }
                }
            }
        }
        (frames, None)
    }

    #[test]
    fn frames_survive_any_slicing() {
        let mut rng = Seed(1).stream("frames");
        for _ in 0..400 {
            let frames: Vec<Frame> = (0..rng.below(12)).map(|_| draw(&mut rng)).collect();
            let mut bytes = Vec::new();
            frames.iter().for_each(|frame| frame.put(&mut bytes));
            assert_eq!(feed(&mut rng, &bytes), (frames, None));
        }
    }

    /// Damage never panics, never grows the buffer, and never makes a frame out of a damaged one.
    #[test]
    fn damage_ends_the_stream() {
        let mut rng = Seed(2).stream("damage");
        let (mut ended, mut waited) = (0, 0);
        for _ in 0..20_000 {
            let frames: Vec<Frame> = (0..1 + rng.below(4)).map(|_| draw(&mut rng)).collect();
            let mut bytes = Vec::new();
            frames.iter().for_each(|frame| frame.put(&mut bytes));
            let bit = rng.below(bytes.len() as u64 * 8);
            bytes[usize::try_from(bit / 8).unwrap()] ^= 1 << (bit % 8);
            let (read, error) = feed(&mut rng, &bytes);
            assert!(frames.starts_with(&read) && read.len() < frames.len());
            ended += u32::from(error.is_some());
            waited += u32::from(error.is_none());
        }
        assert!(ended > 15_000 && waited > 100, "{ended} streams ended, {waited} wait for a longer frame");
    }

    #[test]
    #[allow(clippy::cast_possible_truncation, reason = "random bytes")]
    fn garbage_is_harmless() {
        let mut rng = Seed(3).stream("garbage");
        for _ in 0..20_000 {
            let mut bytes: Vec<u8> = (0..rng.below(200)).map(|_| rng.next() as u8).collect();
            if rng.below(2) == 0 && bytes.len() > 4 {
                bytes[1..4].copy_from_slice(&[0; 3]);
            }
            let (frames, _) = feed(&mut rng, &bytes);
            assert_eq!(frames, []);
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_before_it_is_there() {
        let mut decoder = Decoder::default();
        decoder.push(&u32::MAX.to_le_bytes());
        assert_eq!(decoder.next(), Err(FrameError::TooLong));
    }
}
