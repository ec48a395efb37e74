//! One segment of the log: frames with checksums, and what a scan of it may conclude.
//!
//! ```text
//! header  8 magic "APUSLOG1", 1 layout, 8 segment number, 4 crc32c of these 17
//! frame   4 length of the body, 4 crc32c of all that follows and the segment number, 1 kind, 8 sequence, body
//! ```
//! Kind 1 is a batch: its body are records, and its sequence is one more than the last batch's. A batch is written only after the
//! one before it was synced. Kind 2 is a mark without a body: it is written after its batch was synced, and says so.
//!
//! A frame that cannot be read is the torn end of an interrupted write, unless a mark of its batch or a later batch but one follows:
//! then what is unreadable had been synced, and the segment is damaged. An unreadable mark before a whole batch is passed over.

use apus_engine::Record;

use super::record;
use crate::crc32c;

const MAGIC: [u8; 8] = *b"APUSLOG1";
/// Bytes of a segment's header.
pub(super) const HEADER: usize = 21;
const FRAME: usize = 17;
const BATCH: u8 = 1;
const MARK: u8 = 2;

/// A segment's header.
pub(super) fn header(number: u64) -> Vec<u8> {
    let mut out = Vec::from(MAGIC);
    out.push(record::LAYOUT);
    out.extend_from_slice(&number.to_le_bytes());
    let crc = crc32c(&[&out]);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn frame(number: u64, kind: u8, sequence: u64, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(FRAME + body.len());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&crc32c(&[&[kind], &sequence.to_le_bytes(), body, &number.to_le_bytes()]).to_le_bytes());
    out.push(kind);
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(body);
    out
}

/// A batch of records.
pub(super) fn batch<'a>(number: u64, sequence: u64, records: impl IntoIterator<Item = &'a Record>) -> Vec<u8> {
    frame(number, BATCH, sequence, &record::put(records))
}

/// The mark that a batch was synced.
pub(super) fn mark(number: u64, sequence: u64) -> Vec<u8> {
    frame(number, MARK, sequence, &[])
}

/// A frame whose checksum is right.
struct Frame<'a> {
    kind: u8,
    sequence: u64,
    body: &'a [u8],
}

fn read(number: u64, bytes: &[u8]) -> Option<Frame<'_>> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (crc, rest) = rest.split_first_chunk()?;
    let (kind, rest) = rest.split_first()?;
    let (sequence, rest) = rest.split_first_chunk()?;
    let body = rest.get(..usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    let right = crc32c(&[&[*kind], sequence, body, &number.to_le_bytes()]) == u32::from_le_bytes(*crc);
    right.then_some(Frame { kind: *kind, sequence: u64::from_le_bytes(*sequence), body })
}

/// Why a segment is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) offset: usize,
    pub(super) what: &'static str,
}

/// What a segment holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scan {
    /// Records of all whole batches.
    pub(super) records: Vec<Record>,
    /// Sequence of the last batch.
    pub(super) last: u64,
    /// Bytes up to the last whole frame; what follows is torn.
    pub(super) whole: usize,
    /// Where the last mark begins: damage before it is always found.
    pub(super) vouched: usize,
    /// The last batch has its mark.
    pub(super) marked: bool,
}

/// Reads a segment. Its header was synced before the state named it.
pub(super) fn scan(number: u64, bytes: &[u8]) -> Result<Scan, Damage> {
    let Some(head) = bytes.first_chunk::<HEADER>() else {
        return Err(Damage { offset: bytes.len(), what: "the header ends early" });
    };
    let layout = head[MAGIC.len()];
    if head[..] != header(number) {
        let other = head[..MAGIC.len()] == MAGIC && layout > record::LAYOUT;
        let what = if other { "a layout that this version does not read" } else { "the header is damaged" };
        return Err(Damage { offset: 0, what });
    }
    let mut scan = Scan { records: Vec::new(), last: 0, whole: HEADER, vouched: HEADER, marked: true };
    while scan.whole < bytes.len() {
        let offset = scan.whole;
        let Some(frame) = read(number, &bytes[offset..]) else {
            let next = bytes.get(offset + FRAME..).and_then(|rest| read(number, rest));
            if !scan.marked && next.is_some_and(|next| next.kind == BATCH && next.sequence == scan.last + 1) {
                scan.whole += FRAME;
                continue;
            }
            let synced = (offset + 1..bytes.len()).any(|at| {
                read(number, &bytes[at..]).is_some_and(|later| {
                    (later.kind == MARK && later.sequence > scan.last)
                        || (later.kind == BATCH && later.sequence > scan.last + 1)
                })
            });
            if synced {
                return Err(Damage { offset, what: "a frame that had been synced is damaged" });
            }
            break;
        };
        scan.whole += FRAME + frame.body.len();
        match (frame.kind, frame.sequence.checked_sub(scan.last)) {
            (BATCH, Some(1)) => {
                let records = record::get(layout, frame.body);
                let what = "a batch with a right checksum holds no records of this version";
                scan.records.extend(records.map_err(|_| Damage { offset, what })?);
                scan.last = frame.sequence;
                scan.marked = false;
            }
            (MARK, Some(0)) => (scan.vouched, scan.marked) = (offset, true),
            _ => return Err(Damage { offset, what: "a frame is out of sequence" }),
        }
    }
    Ok(scan)
}
