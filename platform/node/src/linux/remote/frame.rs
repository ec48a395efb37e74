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
//! 10 wait      nothing: this end reads or writes a disk, and will go on; readers pass it over
//! ```
//! Little-endian.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::Value;

/// A block of a file.
pub(crate) const BLOCK: usize = 32 << 10;
/// Kind and body at most.
pub(crate) const LONGEST: usize = BLOCK + 64;
/// Who is busy with a disk says so this often.
const BUSY: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 1_000 });

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
    Wait = 10,
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
            10 => Self::Wait,
            _ => return None,
        })
    }
}

pub(crate) fn odd(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// Writes a frame whose body is these parts.
///
/// # Errors
/// [`ErrorKind::TimedOut`] if the other end takes nothing for too long: half a frame may be written then, and nothing may follow.
pub(crate) fn put(to: &mut impl Write, kind: Kind, parts: &[&[u8]]) -> io::Result<()> {
    let length = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    debug_assert!(length <= LONGEST, "{length}");
    let mut frame = Vec::with_capacity(4 + length);
    frame.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    frame.push(kind as u8);
    parts.iter().for_each(|part| frame.extend_from_slice(part));
    to.write_all(&frame).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            io::Error::new(ErrorKind::TimedOut, "the other end took nothing for too long")
        }
        _ => error,
    })
}

/// Does what may take long while the other end waits: it hears once a second that this one is there. Once that cannot be said any more,
/// the work is told by its flag to end, and has failed.
///
/// # Errors
/// As the work, the stream, or if there is no thread for it.
pub(super) fn busy<T: Send>(
    to: &mut impl Write,
    work: impl FnOnce(&AtomicBool) -> io::Result<T> + Send,
) -> io::Result<T> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (done, is_done) = channel::<()>();
        let stop = &stop;
        let task = std::thread::Builder::new().spawn_scoped(scope, move || {
            let _until_it_ends = done;
            work(stop)
        })?;
        let mut said = Ok(());
        while said.is_ok() && is_done.recv_timeout(BUSY) == Err(RecvTimeoutError::Timeout) {
            said = put(to, Kind::Wait, &[]);
        }
        stop.store(true, Ordering::Relaxed);
        let worked = task.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")));
        worked.map_err(|error| said.err().unwrap_or(error))
    })
}

/// The last frame.
pub(crate) fn end(to: &mut impl Write, value: &Value) -> io::Result<()> {
    put(to, Kind::End, &[value.to_string().as_bytes()])
}

/// Reads a frame; the body lies in `body` then. `None`: the other end has ended. Frames that only say to wait are passed over.
///
/// # Errors
/// If it is no frame, or ends within one; [`ErrorKind::WouldBlock`] if the other end says nothing for too long.
pub(crate) fn get(from: &mut impl Read, body: &mut Vec<u8>) -> io::Result<Option<Kind>> {
    loop {
        match one(from, body) {
            Ok(Some(Kind::Wait)) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(io::Error::new(ErrorKind::WouldBlock, "the other end said nothing for too long"));
            }
            other => return other,
        }
    }
}

fn one(from: &mut impl Read, body: &mut Vec<u8>) -> io::Result<Option<Kind>> {
    let mut length = [0; 4];
    let mut have = 0;
    while have < 4 {
        match from.read(&mut length[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(many) => have += many,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
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
    /// There was an end, and its body as far as it is here.
    ended: bool,
    end: Vec<u8>,
}

impl Watch {
    /// Takes in what passes.
    ///
    /// # Errors
    /// If it is no frame, or follows the end: then it must not pass.
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
            if self.ended {
                return Err(odd("something follows the end"));
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
                self.ended = self.keeps;
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

    #[test]
    fn nothing_follows_the_end() {
        let mut one = Vec::new();
        end(&mut one, &serde_json::json!({ "code": 3 })).expect("memory");
        let (mut watch, mut refused) = (Watch::default(), 0);
        for _ in 0..1_000 {
            refused += usize::from(watch.pass(&one).is_err());
        }
        assert_eq!((refused, watch.end.len()), (999, one.len() - 5));
        assert_eq!(watch.end().expect("it ended")["code"], 3);
    }

    #[test]
    fn who_is_busy_says_so_and_ends_with_the_other_end() {
        let (mut here, mut there) = std::os::unix::net::UnixStream::pair().expect("a pair");
        there.set_read_timeout(Some(10 * BUSY)).expect("a timeout");
        let hears = std::thread::spawn(move || {
            let mut body = Vec::new();
            let kind = get(&mut there, &mut body);
            (kind, there)
        });
        let work = |_: &AtomicBool| {
            std::thread::sleep(30 * BUSY);
            Ok(7)
        };
        assert_eq!(busy(&mut here, work).expect("it is done"), 7);
        put(&mut here, Kind::Done, &[]).expect("it is heard");
        let (kind, there) = hears.join().expect("it ends");
        assert_eq!(kind.expect("it waits"), Some(Kind::Done));
        drop(there);
        let began = std::time::Instant::now();
        let endless = |stop: &AtomicBool| {
            while !stop.load(Ordering::Relaxed) && began.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(1));
            }
            io::Result::<()>::Err(odd("it was to stop"))
        };
        assert!(
            busy(&mut here, endless).is_err_and(|error| error.kind() == ErrorKind::BrokenPipe)
                && began.elapsed() < Duration::from_secs(10)
        );
    }
}
