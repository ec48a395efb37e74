//! A ring in one file, and that file read.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::file::{
    After, Bad, FRAME, Frame, HEADER, INCIDENT, ReadError, Reason, SEGMENT, START, Start, Step, TORN, WHOLE, encode,
    open, put_frame, put_header, read, take,
};
use super::ring::{name, segments};

/// A segment that a crash ended, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Torn {
    /// The segment's file.
    pub file: String,
    /// What follows this byte was cut.
    pub offset: u64,
    /// So many bytes.
    pub cut: u64,
}

/// Steps that follow on one state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The state.
    pub start: Start,
    /// The steps.
    pub steps: Vec<Step>,
    /// The state after the last one, if the segment was closed in order.
    pub(super) end: Option<After>,
    /// Where it was torn, if it was.
    pub torn: Option<Torn>,
}

/// What a file of an incident holds, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// One for each segment.
    pub spans: Vec<Span>,
}

impl Incident {
    /// Whether a file's bytes begin as those of an incident.
    #[must_use]
    pub fn is(bytes: &[u8]) -> bool {
        bytes.starts_with(&INCIDENT)
    }

    /// Reads a file that [`export`] wrote. Nothing of it may be missing.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn read(bytes: &[u8]) -> Result<Self, ReadError> {
        let mut rest = open(bytes, INCIDENT)?;
        let mut spans: Vec<Span> = Vec::new();
        let mut frames = 0;
        loop {
            let offset = bytes.len() - rest.len();
            let damaged = |what| ReadError::Damaged { offset, what };
            let (kind, body, length) = take(rest).map_err(|bad| match bad {
                Bad::Short => ReadError::Short { offset: bytes.len() },
                Bad::Wrong(what) => damaged(what),
            })?;
            rest = &rest[length..];
            match (read(kind, body).map_err(damaged)?, spans.last_mut()) {
                (Frame::Start(start), _) => spans.push(Span { start, steps: Vec::new(), end: None, torn: None }),
                (Frame::Step(step), Some(span)) => span.steps.push(step),
                (Frame::End(after), Some(span)) => span.end = Some(after),
                (Frame::Torn(torn), Some(span)) => span.torn = Some(torn),
                (Frame::Whole(many), _) if many == frames && rest.is_empty() => break,
                (Frame::Whole(_), _) => return Err(damaged("it does not end where it says")),
                (_, None) => return Err(damaged("steps without a state")),
            }
            frames += 1;
        }
        if spans.is_empty() { Err(ReadError::Empty) } else { Ok(Self { spans }) }
    }

    /// Whether this engine made all of it, and so can read the states in it.
    ///
    /// # Errors
    /// [`ReadError::Build`], with the one that did.
    pub fn check_build(&self) -> Result<(), ReadError> {
        match self.spans.iter().find(|span| span.start.build != apus_engine::BUILD) {
            Some(span) => Err(ReadError::Build(span.start.build.clone())),
            None => Ok(()),
        }
    }

    /// All steps.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.spans.iter().map(|span| span.steps.len()).sum()
    }

    /// Steps that are missing before a span, if it follows on another one of the same life.
    #[must_use]
    pub fn missing(&self, at: usize) -> Option<u64> {
        let [before, span] = self.spans.get(at.checked_sub(1)?..=at)? else { return None };
        let same = before.start.incarnation == span.start.incarnation && span.start.reason != Reason::Boot;
        same.then(|| span.start.before.saturating_sub(before.start.before + before.steps.len() as u64))
    }
}

/// Copies the ring in a node's folder of records into one file's bytes, while the node runs or after its end. With `last`, only
/// segments that were still written so many microseconds before the newest one ended.
///
/// # Errors
/// If nothing is recorded there, or a segment is damaged elsewhere than at its end.
pub fn export(folder: &Path, last: Option<u64>) -> Result<Vec<u8>, (String, ReadError)> {
    let at = |error: ReadError| (folder.display().to_string(), error);
    let listed = match segments(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(at(ReadError::Empty)),
        listed => listed.map_err(|error| at(error.into()))?,
    };
    let mut all: Vec<(Segment, Vec<u8>)> = Vec::new();
    for (number, _) in listed {
        let file = name(number);
        let path = folder.join(&file);
        let fail = |error: ReadError| (path.display().to_string(), error);
        let bytes = match fs::read(&path) {
            // The node goes on, and has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            bytes => bytes.map_err(|error| fail(error.into()))?,
        };
        if let Some(segment) = scan(&file, &bytes).map_err(fail)? {
            all.push((segment, bytes));
        }
    }
    let newest = all.last().map_or(0, |(segment, _)| segment.until);
    if let Some(last) = last {
        all.retain(|(segment, _)| segment.until >= newest.saturating_sub(last));
    }
    if all.is_empty() {
        return Err(at(ReadError::Empty));
    }
    let mut out = Vec::new();
    put_header(&mut out, INCIDENT);
    let mut frames = 0_u64;
    for (segment, bytes) in all {
        out.extend_from_slice(&bytes[HEADER..segment.whole]);
        frames += segment.frames;
        if let Some(torn) = segment.torn {
            put_frame(&mut out, TORN, |body| body.extend_from_slice(&encode(&torn)));
            frames += 1;
        }
    }
    put_frame(&mut out, WHOLE, |body| body.extend_from_slice(&encode(&frames)));
    Ok(out)
}

/// What a segment holds.
struct Segment {
    frames: u64,
    /// Bytes up to the last whole frame.
    whole: usize,
    torn: Option<Torn>,
    /// The wall clock at its last step.
    until: u64,
}

/// Looks through a segment. What cannot be read at its end was being written when the node or the machine died, and is cut; if
/// something whole follows, it is damage. `None`: not even its start is whole.
fn scan(file: &str, bytes: &[u8]) -> Result<Option<Segment>, ReadError> {
    let rest = match open(bytes, SEGMENT) {
        Err(ReadError::Short { .. }) => return Ok(None),
        rest => rest?,
    };
    let (mut frames, mut whole, mut start, mut now) = (0, bytes.len() - rest.len(), None, 0);
    let mut torn = None;
    while whole < bytes.len() {
        let offset = whole;
        let (kind, body, length) = match take(&bytes[offset..]) {
            Ok(frame) => frame,
            Err(bad) => {
                let later = (offset + 1..bytes.len().saturating_sub(FRAME)).any(|at| {
                    // An empty body of zeroes is no frame of ours.
                    take(&bytes[at..]).is_ok_and(|(kind, body, _)| kind != 0 && read(kind, body).is_ok())
                });
                if later {
                    let what = if bad == Bad::Short { "a length is wrong" } else { "a checksum is wrong" };
                    return Err(ReadError::Damaged { offset, what });
                }
                torn = Some(Torn { file: file.into(), offset: offset as u64, cut: (bytes.len() - offset) as u64 });
                break;
            }
        };
        match read(kind, body).map_err(|what| ReadError::Damaged { offset, what })? {
            Frame::Start(own) if frames == 0 => {
                now = own.now.0;
                start = Some(own);
            }
            Frame::Step(step) if frames > 0 => now = step.now.0,
            Frame::End(_) if frames > 0 => {}
            _ => return Err(ReadError::Damaged { offset, what: "a frame is out of place" }),
        }
        frames += 1;
        whole += length;
    }
    let Some(start) = start else { return Ok(None) };
    debug_assert_eq!(bytes.get(HEADER + 8), Some(&START));
    let until = start.wall.saturating_add(now.saturating_sub(start.now.0));
    Ok(Some(Segment { frames, whole, torn, until }))
}
