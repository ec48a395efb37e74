//! What goes to and fro once something is granted: on the control socket, on the stream between nodes, and within the node that does it.
//!
//! ```text
//! 4 length of kind and body, at most 32 KiB + 64   1 kind   body
//!
//! kind         body
//!  1 in        bytes for the program
//!  2 in-end    nothing: no more of them
//!  3 out       what the program says
//!  4 err       what it says on its second output
//!  5 head      8 length of the file, 4 its mode, 32 SHA-256 of it all        who has the file
//!  6 from      8 how much of it is there already: whole blocks              who gets it
//!  7 block     8 where, 32 SHA-256, bytes: 32 KiB, the last one fewer       who has it
//!  8 done      nothing: that was the last block                             who has it
//!  9 end       JSON: what came of it; nothing follows                       who does it
//! ```
//! Little-endian.

use std::io::{self, Read, Write};

use serde_json::Value;

/// A block of a file.
pub(crate) const BLOCK: usize = 32 << 10;
/// Kind and body at most.
pub(crate) const LONGEST: usize = BLOCK + 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    In = 1,
    InEnd = 2,
    Out = 3,
    Err = 4,
    Head = 5,
    From = 6,
    Block = 7,
    Done = 8,
    End = 9,
}

impl Kind {
    pub(crate) const fn read(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::In,
            2 => Self::InEnd,
            3 => Self::Out,
            4 => Self::Err,
            5 => Self::Head,
            6 => Self::From,
            7 => Self::Block,
            8 => Self::Done,
            9 => Self::End,
            _ => return None,
        })
    }
}

pub(crate) fn odd(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Writes a frame whose body is these parts.
pub(crate) fn put(to: &mut impl Write, kind: Kind, parts: &[&[u8]]) -> io::Result<()> {
    let length = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    debug_assert!(length <= LONGEST, "{length}");
    let mut frame = Vec::with_capacity(4 + length);
    frame.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    frame.push(kind as u8);
    parts.iter().for_each(|part| frame.extend_from_slice(part));
    to.write_all(&frame)
}

/// The last frame.
pub(crate) fn end(to: &mut impl Write, value: &Value) -> io::Result<()> {
    put(to, Kind::End, &[value.to_string().as_bytes()])
}

/// Reads a frame; the body lies in `body` then. `None`: the other end has ended.
///
/// # Errors
/// If it is no frame, or ends within one.
pub(crate) fn get(from: &mut impl Read, body: &mut Vec<u8>) -> io::Result<Option<Kind>> {
    let mut length = [0; 4];
    let mut have = 0;
    while have < 4 {
        match from.read(&mut length[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(many) => have += many,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let length = u32::from_le_bytes(length) as usize;
    if !(1..=LONGEST).contains(&length) {
        return Err(odd("a frame of a length that none has"));
    }
    let mut kind = [0];
    from.read_exact(&mut kind)?;
    body.resize(length - 1, 0);
    from.read_exact(body)?;
    Kind::read(kind[0]).map(Some).ok_or_else(|| odd("a frame of an unknown kind"))
}

/// Looks at frames that pass, in any pieces, and keeps the body of the last one.
#[derive(Debug, Default)]
pub(super) struct Watch {
    head: Vec<u8>,
    left: usize,
    keeps: bool,
    end: Vec<u8>,
    /// Bytes of programs' outputs and of files.
    pub(super) carried: u64,
}

impl Watch {
    /// Takes in what passes.
    ///
    /// # Errors
    /// If it is no frame: then it must not pass.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let many = self.left.min(bytes.len());
                if self.keeps {
                    self.end.extend_from_slice(&bytes[..many]);
                }
                self.left -= many;
                bytes = &bytes[many..];
                continue;
            }
            let (first, rest) = bytes.split_at((5 - self.head.len()).min(bytes.len()));
            self.head.extend_from_slice(first);
            bytes = rest;
            if let [a, b, c, d, kind] = self.head[..] {
                let length = u32::from_le_bytes([a, b, c, d]) as usize;
                let kind = Kind::read(kind).filter(|_| (1..=LONGEST).contains(&length));
                let kind = kind.ok_or_else(|| odd("no frame"))?;
                self.left = length - 1;
                self.keeps = kind == Kind::End;
                self.carried += match kind {
                    Kind::In | Kind::Out | Kind::Err => self.left as u64,
                    Kind::Block => self.left.saturating_sub(40) as u64,
                    _ => 0,
                };
                self.head.clear();
            }
        }
        Ok(())
    }

    /// What came of it, if that was said.
    pub(super) fn end(&self) -> Option<Value> {
        serde_json::from_slice(&self.end).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_there_and_back_in_any_pieces() {
        let mut bytes = Vec::new();
        put(&mut bytes, Kind::Out, &[b"ab", b"c"]).expect("memory");
        put(&mut bytes, Kind::InEnd, &[]).expect("memory");
        put(&mut bytes, Kind::Block, &[&[0; 40], &[7; BLOCK]]).expect("memory");
        end(&mut bytes, &serde_json::json!({ "code": 3 })).expect("memory");
        let (mut from, mut body, mut seen) = (&bytes[..], Vec::new(), Vec::new());
        while let Some(kind) = get(&mut from, &mut body).expect("a frame") {
            seen.push((kind, body.len()));
        }
        assert_eq!(seen, [(Kind::Out, 3), (Kind::InEnd, 0), (Kind::Block, 40 + BLOCK), (Kind::End, 10)]);
        for piece in [1, 3, 7, 1_000, bytes.len()] {
            let mut watch = Watch::default();
            bytes.chunks(piece).for_each(|piece| watch.pass(piece).expect("frames"));
            assert_eq!(watch.end().expect("it ended")["code"], 3, "{piece}");
            assert_eq!(watch.carried, 3 + BLOCK as u64);
        }
        for cut in 1..12 {
            let (mut from, mut all) = (&bytes[..cut], 0);
            while let Ok(Some(_)) = get(&mut from, &mut body) {
                all += 1;
            }
            assert!(all <= 1 && body.len() < 100);
        }
    }

    #[test]
    fn what_is_no_frame_takes_no_memory() {
        for bytes in [&[0xff; 64][..], &[0, 0, 0, 0, 1], &[1, 0, 0, 0, 77], b"GET / HTTP/1.1\r\n\r\n"] {
            let mut body = Vec::new();
            assert!(get(&mut &bytes[..], &mut body).is_err(), "{bytes:?}");
            assert!(body.capacity() <= LONGEST);
            assert!(Watch::default().pass(bytes).is_err(), "{bytes:?}");
        }
    }
}
