//! The state file: small, and replaced as a whole.
//!
//! ```text
//! 8 magic "APUSSTAT", 1 version, 1 formatted, 8 number of the first segment, 4 crc32c of all before it
//! ```

use crate::crc32c;

const MAGIC: [u8; 8] = *b"APUSSTAT";
const VERSION: u8 = 1;
const LENGTH: usize = 22;

/// What a node knows before it reads its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The disk belongs to a node that may vote.
    pub formatted: bool,
    /// The log begins with this segment.
    pub first: u64,
}

impl State {
    /// As the file's content.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let mut out = Vec::from(MAGIC);
        out.push(VERSION);
        out.push(u8::from(self.formatted));
        out.extend_from_slice(&self.first.to_le_bytes());
        let crc = crc32c(&[&out]);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// From the file's content; an error is the offset and what is wrong there.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, (usize, &'static str)> {
        let whole: &[u8; LENGTH] = bytes.try_into().map_err(|_| (bytes.len().min(LENGTH), "the length is wrong"))?;
        let state = Self {
            formatted: whole[9] == 1,
            first: whole[10..].first_chunk().map_or(0, |first| u64::from_le_bytes(*first)),
        };
        if whole[..8] == MAGIC && whole[8] > VERSION && crc32c(&[&whole[..18]]).to_le_bytes() == whole[18..] {
            return Err((8, "a version that this one does not read"));
        }
        if state.encode() == whole { Ok(state) } else { Err((0, "the checksum is wrong")) }
    }
}
