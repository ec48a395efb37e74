//! The bytes of a record: frames with checksums.
//!
//! ```text
//! header  8 magic, 1 version
//! frame   4 length of the body, 4 crc32c of kind and body, 1 kind, body
//! ```
//! A segment of the ring has the magic `APUSREC1` and begins with a start; steps follow, and an end if it was closed in order. An
//! exported incident has the magic `APUSINC1`, the frames of its segments, and a last frame that counts them.

use std::fmt;

use apus_engine::{Command, Incarnation, Input, Marks, NodeId, SubmitError, Time, views};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::crc32c;

/// Of a segment.
pub(super) const SEGMENT: [u8; 8] = *b"APUSREC1";
/// Of an incident.
pub(super) const INCIDENT: [u8; 8] = *b"APUSINC1";
/// The format's version.
pub(super) const VERSION: u8 = 1;
/// Bytes of a header.
pub(super) const HEADER: usize = 9;
/// Bytes of a frame without its body.
pub(super) const FRAME: usize = 9;

/// Where a segment begins.
pub(super) const START: u8 = 1;
/// One thing the engine is fed.
pub(super) const STEP: u8 = 2;
/// The segment was closed in order.
pub(super) const END: u8 = 3;
/// In an incident: the segment before was torn here.
pub(super) const TORN: u8 = 4;
/// In an incident: how many frames came before.
pub(super) const WHOLE: u8 = 5;

/// What is done to an engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// [`Engine::handle`](apus_engine::Engine::handle).
    Input(Input),
    /// [`Engine::submit`](apus_engine::Engine::submit).
    Command(Command),
    /// [`Engine::pass_on`](apus_engine::Engine::pass_on).
    Order(views::Order),
}

impl Act {
    /// Does it.
    ///
    /// # Errors
    /// As the engine refuses a command or an order.
    pub fn apply(self, engine: &mut apus_engine::Engine, now: Time) -> Result<(), SubmitError> {
        match self {
            Self::Input(input) => {
                engine.handle(now, input);
                Ok(())
            }
            Self::Command(command) => engine.submit(now, command),
            Self::Order(order) => engine.pass_on(now, order),
        }
    }

    /// In few words.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Input(Input::Tick) => "tick".into(),
            Self::Input(Input::Packet { from, datagram }) => {
                let kind = apus_engine::wire::peek_kind(datagram).unwrap_or_default();
                let name = apus_engine::wire::kind_name(kind);
                format!("packet `{name}` from {from}, {} bytes", datagram.len())
            }
            Self::Input(Input::Done { op, outcome }) => format!("{op} done: {outcome:?}"),
            Self::Input(Input::Process { copy, what }) => format!("{}/{}: {what:?}", copy.service, copy.slot),
            Self::Input(Input::Files { group, what }) => format!("files {group}: {what:?}"),
            Self::Command(command) => format!("command {command:?}"),
            Self::Order(order) => format!("order {order:?}"),
        }
    }
}

/// Why a segment begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// The engine has just been made.
    Boot,
    /// The segment before was full: this one goes on with its very state.
    Full,
    /// Steps before it were not recorded: the disk was full, slow or failed.
    Gap,
}

/// Where a segment begins: the state of the engine, and when that was.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The engine's sources.
    pub build: String,
    /// Whose record it is.
    pub node: NodeId,
    /// In which of its lives.
    pub incarnation: Incarnation,
    /// Number of the segment in its ring.
    pub segment: u64,
    /// How many steps of this life came before.
    pub before: u64,
    /// Why a segment begins.
    pub reason: Reason,
    /// The node's clock.
    pub now: Time,
    /// The wall clock at that time, in microseconds since 1970 began.
    pub wall: u64,
    /// The engine.
    pub engine: Vec<u8>,
}

impl fmt::Debug for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start")
            .field("node", &self.node)
            .field("incarnation", &self.incarnation)
            .field("segment", &self.segment)
            .field("before", &self.before)
            .field("reason", &self.reason)
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}

/// Hashes of the engine's state after a step: the whole, and a few bits of each part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct After {
    pub(super) whole: u128,
    pub(super) parts: [u16; Marks::PARTS.len()],
}

impl After {
    const LENGTH: usize = 16 + 2 * Marks::PARTS.len();

    pub(super) fn of(marks: &Marks) -> Self {
        Self { whole: marks.whole(), parts: marks.brief() }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.whole.to_le_bytes());
        self.parts.iter().for_each(|part| out.extend_from_slice(&part.to_le_bytes()));
    }

    fn get(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (own, rest) = bytes.split_at_checked(Self::LENGTH)?;
        let (whole, own) = own.split_first_chunk()?;
        let mut parts = [0; Marks::PARTS.len()];
        for (part, bytes) in parts.iter_mut().zip(own.chunks_exact(2)) {
            *part = u16::from_le_bytes([bytes[0], bytes[1]]);
        }
        Some((Self { whole: u128::from_le_bytes(*whole), parts }, rest))
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The state before it, undrained: after the step that came before.
    pub(super) before: After,
    /// The host had drained the engine since.
    pub drained: bool,
    /// The time that was passed in.
    pub now: Time,
    /// What was done.
    pub act: Act,
}

/// The body of a step's frame.
pub(super) fn put_step(out: &mut Vec<u8>, before: &After, drained: bool, now: Time, act: &Act) {
    before.put(out);
    out.push(u8::from(drained));
    *out = postcard::to_extend(&(now, act), std::mem::take(out)).expect("memory takes all");
}

/// One frame, read.
#[derive(Debug)]
pub(super) enum Frame {
    Start(Start),
    Step(Step),
    End(After),
    Torn(super::Torn),
    Whole(u64),
}

/// Writes a frame; `body` appends it.
pub(super) fn put_frame(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; FRAME - 1]);
    out.push(kind);
    body(out);
    let length = u32::try_from(out.len() - at - FRAME).expect("a packet or a state is shorter");
    let crc = crc32c(&[&out[at + FRAME - 1..]]);
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
    out[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
}

/// As bytes.
pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(value).expect("memory takes all")
}

/// All of the bytes, or nothing.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    postcard::take_from_bytes(bytes).ok().and_then(|(value, rest)| rest.is_empty().then_some(value))
}

/// The header of a file.
pub(super) fn put_header(out: &mut Vec<u8>, magic: [u8; 8]) {
    out.extend_from_slice(&magic);
    out.push(VERSION);
}

/// Why a record is not read.
#[derive(Debug)]
pub enum ReadError {
    /// It is something else.
    Another,
    /// It was written by a later version of this program.
    Later(u8),
    /// It ends before it should.
    Short {
        /// At which byte.
        offset: usize,
    },
    /// It is damaged.
    Damaged {
        /// At which byte.
        offset: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// There is nothing in it.
    Empty,
    /// Another engine made it: the state would be misread.
    Build(String),
    /// The disk.
    Disk(std::io::Error),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Another => write!(f, "this is no incident; `apus incident export FILE` writes one"),
            Self::Later(version) => {
                write!(f, "its format is version {version}, and this command reads version {VERSION}: use a newer one")
            }
            Self::Short { offset } => {
                write!(f, "it ends early, at byte {offset}: the rest was not copied; export or copy it again")
            }
            Self::Damaged { offset, what } => {
                write!(f, "it is damaged at byte {offset}: {what}; export or copy it again")
            }
            Self::Empty => write!(f, "nothing is recorded there: does the node run, with `record` not off?"),
            Self::Build(build) => write!(
                f,
                "it was recorded by engine {build}, and this is {}: replay it with the `apus` of that node",
                apus_engine::BUILD
            ),
            Self::Disk(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for ReadError {}

impl From<std::io::Error> for ReadError {
    fn from(error: std::io::Error) -> Self {
        Self::Disk(error)
    }
}

/// What a file has after its header.
pub(super) fn open(bytes: &[u8], magic: [u8; 8]) -> Result<&[u8], ReadError> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(if magic.starts_with(&bytes[..bytes.len().min(8)]) {
            ReadError::Short { offset: bytes.len() }
        } else {
            ReadError::Another
        });
    };
    match head {
        [own @ .., VERSION] if *own == magic => Ok(rest),
        [own @ .., version] if *own == magic => Err(ReadError::Later(*version)),
        _ => Err(ReadError::Another),
    }
}

/// Why a frame is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    Short,
    Wrong(&'static str),
}

/// A frame whose checksum is right: its kind, its body, and its length with all.
pub(super) fn take(bytes: &[u8]) -> Result<(u8, &[u8], usize), Bad> {
    let (head, rest) = bytes.split_first_chunk::<8>().ok_or(Bad::Short)?;
    let [l0, l1, l2, l3, crc @ ..] = *head;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let covered = length.checked_add(1).and_then(|all| rest.get(..all)).ok_or(Bad::Short)?;
    if crc32c(&[covered]) != u32::from_le_bytes(crc) {
        return Err(Bad::Wrong("a checksum is wrong"));
    }
    Ok((covered[0], &covered[1..], FRAME + length))
}

/// What a body says.
pub(super) fn read(kind: u8, body: &[u8]) -> Result<Frame, &'static str> {
    let frame = match kind {
        START => decode(body).map(Frame::Start),
        STEP => step(body).map(Frame::Step),
        END => After::get(body).filter(|(_, rest)| rest.is_empty()).map(|(after, _)| Frame::End(after)),
        TORN => decode(body).map(Frame::Torn),
        WHOLE => decode(body).map(Frame::Whole),
        _ => return Err("its kind is not known"),
    };
    frame.ok_or("its checksum is right, and its content is not of this version")
}

fn step(body: &[u8]) -> Option<Step> {
    let (before, rest) = After::get(body)?;
    let (drained, rest) = rest.split_first()?;
    let (now, act) = decode(rest)?;
    Some(Step { before, drained: *drained != 0, now, act })
}
