//! One file from one end to the other: in blocks, each with its hash, and the hash of it all; gone on with where it ended; whole or not
//! at all at its place.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use apus_os::linux::Place;
use apus_quic::Sum;
use serde_json::json;

use super::SAID;
use super::frame::{self, BLOCK, Kind, odd};
use crate::hex::hex;
use crate::remote::Copied;
use crate::view::short;

/// Reads up to the end or until there is a block.
fn fill(from: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < into.len() {
        match from.read(&mut into[have..]) {
            Ok(0) => break,
            Ok(many) => have += many,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(have)
}

/// Hash of the first so many bytes, unless it is to stop.
fn sum_of(file: &mut (impl Read + Seek), length: u64, stop: &AtomicBool) -> io::Result<Sum> {
    let mut block = [0; BLOCK];
    let (mut sum, mut left) = (Sum::new(), length);
    file.seek(SeekFrom::Start(0))?;
    while left > 0 {
        if stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("nobody waits for it any more"));
        }
        let want = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
        let many = fill(file, &mut block[..want])?;
        if many == 0 {
            return Err(odd("the file became shorter while it was read"));
        }
        sum.add(&block[..many]);
        left -= many as u64;
    }
    Ok(sum)
}

/// Tells who gets a file what it is, and gives the blocks that are wanted. Then the other end says what came of it.
///
/// # Errors
/// As disk and stream say, or if the file changes meanwhile.
pub(crate) fn give(file: &mut File, most: u64, stream: &mut (impl Read + Write)) -> io::Result<Copied> {
    let is = file.metadata()?;
    send(file, is.len(), is.mode(), most, stream)
}

fn send(
    file: &mut (impl Read + Seek + Send),
    length: u64,
    mode: u32,
    most: u64,
    stream: &mut (impl Read + Write),
) -> io::Result<Copied> {
    if length > most {
        return Err(io::Error::other(format!("the file has {length} bytes, and {most} are allowed")));
    }
    let whole = frame::busy(stream, |stop| sum_of(file, length, stop))?.end();
    let (size, mode) = (length.to_le_bytes(), (mode & 0o777).to_le_bytes());
    frame::put(stream, Kind::Head, &[&size, &mode, &whole])?;
    let mut body = Vec::new();
    let from = match frame::get(stream, &mut body)? {
        Some(Kind::From) => u64::from_le_bytes(body[..].try_into().map_err(|_| odd("no place to begin at"))?),
        Some(Kind::End) => return Err(io::Error::other(said(&body))),
        _ => return Err(odd("no place to begin at")),
    };
    if from > length {
        return Err(odd("a place to begin at beyond the end"));
    }
    file.seek(SeekFrom::Start(from))?;
    let (mut at, mut block) = (from, [0; BLOCK]);
    while at < length {
        let want = usize::try_from(length - at).unwrap_or(BLOCK).min(BLOCK);
        let many = fill(file, &mut block[..want])?;
        if many < want {
            return Err(odd("the file became shorter while it was copied"));
        }
        let mut sum = Sum::new();
        sum.add(&block[..many]);
        frame::put(stream, Kind::Block, &[&at.to_le_bytes(), &sum.end(), &block[..many]])?;
        at += many as u64;
    }
    frame::put(stream, Kind::Done, &[])?;
    Ok(Copied { bytes: length, before: from })
}

/// What the other end says at the end.
pub(crate) fn said(end: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(end).unwrap_or_default();
    short(value["error"].as_str().unwrap_or("it ended before it was done"), SAID)
}

/// Where a file is to go: looks at what comes, and asks for what is not there yet.
///
/// # Errors
/// As disk and stream say; if it is longer than `most`, does not fit on the disk, or is damaged. What was begun stays, to be gone on
/// with, unless it is of no use.
pub(crate) fn take(place: Place, most: u64, stream: &mut (impl Read + Write)) -> io::Result<Copied> {
    let mut body = Vec::new();
    let head = match frame::get(stream, &mut body)? {
        Some(Kind::Head) if body.len() == 44 => body.clone(),
        Some(Kind::End) => return Err(io::Error::other(said(&body))),
        _ => return Err(odd("nothing about the file")),
    };
    let length = u64::from_le_bytes(head[..8].try_into().unwrap_or_default());
    let mode = u32::from_le_bytes(head[8..12].try_into().unwrap_or_default());
    let whole = &head[12..];
    if length > most {
        return Err(io::Error::other(format!("the file has {length} bytes, and {most} are allowed")));
    }
    let room = place.room()?;
    // Of the same content only: another version of a file begins anew.
    let part = place.part(&hex(&whole[..8]))?;
    let had = part.file().metadata()?.len();
    if length.saturating_sub(had) > room {
        if had == 0 {
            part.discard();
        }
        return Err(io::Error::other(format!("{length} bytes do not fit: the disk there has room for {room}")));
    }
    let from = had.min(length) / BLOCK as u64 * BLOCK as u64;
    part.file().set_len(from)?;
    let mut had = part.file().try_clone()?;
    let mut sum = frame::busy(stream, |stop| sum_of(&mut had, from, stop))?;
    frame::put(stream, Kind::From, &[&from.to_le_bytes()])?;
    let mut at = from;
    loop {
        let next = match frame::get(stream, &mut body) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            next => next?,
        };
        match next {
            Some(Kind::Block) if body.len() > 40 => {
                let (head, bytes) = body.split_at(40);
                let mut own = Sum::new();
                own.add(bytes);
                let place = u64::from_le_bytes(head[..8].try_into().unwrap_or_default());
                if place != at || own.end()[..] != head[8..] {
                    return Err(odd("a block is damaged, or not the next one: copy again, to go on from there"));
                }
                if bytes.len() as u64 > length - at {
                    return Err(odd("it is longer than was said"));
                }
                if let Err(error) = part.write(bytes, at) {
                    // A full disk is not left full.
                    if error.kind() == io::ErrorKind::StorageFull {
                        part.discard();
                    }
                    return Err(io::Error::new(error.kind(), format!("writing at byte {at} of {length}: {error}")));
                }
                sum.add(bytes);
                at += bytes.len() as u64;
            }
            Some(Kind::Done) => break,
            Some(Kind::End) => return Err(io::Error::other(said(&body))),
            Some(_) => return Err(odd("neither a block nor the end")),
            None => {
                return Err(io::Error::other(format!(
                    "it ended at byte {at} of {length}: copy again, to go on from there"
                )));
            }
        }
    }
    if at != length || sum.end()[..] != *whole {
        part.discard();
        return Err(odd(
            "what came is not what was sent: the file changed, or an earlier part was damaged; copy again",
        ));
    }
    frame::busy(stream, |_| part.finish(mode))?;
    Ok(Copied { bytes: length, before: from })
}

/// As it is told at the end.
pub(crate) fn told(copied: Copied) -> serde_json::Value {
    json!({ "done": true, "bytes": copied.bytes, "before": copied.before })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixStream;
    use std::path::{Path, PathBuf};

    use apus_os::linux::Beneath;

    use super::*;

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn folder(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("apus-copy-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|at| u8::try_from(at.wrapping_mul(2_654_435_761) >> 7 & 255).unwrap_or(0)).collect()
    }

    fn place(folder: &Path) -> Place {
        Beneath::open(folder).expect("a folder").place("to").expect("a place")
    }

    /// Both ends, with what `between` does to the bytes that the giver sends.
    fn copy(
        folder: &Path,
        most: u64,
        between: impl FnMut(&mut Vec<u8>) -> bool + Send + 'static,
    ) -> (io::Result<Copied>, io::Result<Copied>) {
        let mut between = between;
        let (mut giver, mut front) = UnixStream::pair().expect("a pair");
        let (mut back, mut taker) = UnixStream::pair().expect("a pair");
        let (mut front_in, mut back_out) = (front.try_clone().expect("a copy"), back.try_clone().expect("a copy"));
        std::thread::spawn(move || {
            let mut bytes = vec![0; 5_000];
            while let Ok(many @ 1..) = front_in.read(&mut bytes) {
                let mut piece = bytes[..many].to_vec();
                if !between(&mut piece) || back_out.write_all(&piece).is_err() {
                    break;
                }
            }
            let _ = back_out.shutdown(std::net::Shutdown::Both);
            let _ = front_in.shutdown(std::net::Shutdown::Both);
        });
        std::thread::spawn(move || {
            let _ = io::copy(&mut back, &mut front);
            let _ = front.shutdown(std::net::Shutdown::Both);
        });
        let mut file = File::open(folder.join("from")).expect("a file");
        let gives = std::thread::spawn(move || give(&mut file, 1 << 30, &mut giver));
        let taken = take(place(folder), most, &mut taker);
        drop(taker);
        (gives.join().expect("it ends"), taken)
    }

    fn parts(folder: &Path) -> usize {
        let names = fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".part")).count()
    }

    #[test]
    fn a_file_of_any_length_comes_as_it_is() {
        let folder = folder("lengths");
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK, 7 * BLOCK + 11] {
            fs::write(folder.0.join("from"), content(length)).expect("a file");
            fs::set_permissions(folder.0.join("from"), fs::Permissions::from_mode(0o4751)).expect("a mode");
            let (gave, took) = copy(&folder.0, 1 << 30, |_| true);
            let all = Copied { bytes: length as u64, before: 0 };
            assert_eq!((gave.expect("it gives"), took.expect("it takes")), (all, all));
            assert!(fs::read(folder.0.join("to")).expect("it is there") == content(length));
            assert_eq!(fs::metadata(folder.0.join("to")).expect("it is there").mode() & 0o7777, 0o751);
        }
        assert_eq!(parts(&folder.0), 0);
    }

    #[test]
    fn it_goes_on_where_it_ended_and_is_whole_or_not_there() {
        let folder = folder("resumed");
        fs::write(folder.0.join("from"), content(40 * BLOCK + 5)).expect("a file");
        fs::write(folder.0.join("to"), "before").expect("a file");
        let mut left = 20 * BLOCK;
        let (_, took) = copy(&folder.0, 1 << 30, move |piece| {
            left = left.saturating_sub(piece.len());
            left > 0
        });
        let why = took.expect_err("it was cut off").to_string();
        assert!(why.contains("go on from there"), "{why}");
        assert_eq!(fs::read_to_string(folder.0.join("to")).expect("it is there"), "before");
        assert_eq!(parts(&folder.0), 1);
        let (_, took) = copy(&folder.0, 1 << 30, |_| true);
        let took = took.expect("it takes");
        assert!(took.before >= 15 * BLOCK as u64 && took.before < 21 * BLOCK as u64, "{took:?}");
        assert!(fs::read(folder.0.join("to")).expect("it is there") == content(40 * BLOCK + 5));
        assert_eq!(parts(&folder.0), 0);
    }

    /// A file on a disk that takes its time.
    struct Slow(io::Cursor<Vec<u8>>);

    impl Read for Slow {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(std::time::Duration::from_millis(10));
            self.0.read(into)
        }
    }

    impl Seek for Slow {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.0.seek(to)
        }
    }

    #[test]
    fn a_disk_may_take_longer_than_anybody_is_waited_for() {
        let folder = folder("slow");
        let (mut giver, mut taker) = UnixStream::pair().expect("a pair");
        taker.set_read_timeout(Some(std::time::Duration::from_millis(250))).expect("a timeout");
        let gives = std::thread::spawn(move || {
            let mut file = Slow(io::Cursor::new(content(50 * BLOCK)));
            send(&mut file, 50 * BLOCK as u64, 0o644, 1 << 30, &mut giver)
        });
        let took = take(place(&folder.0), 1 << 30, &mut taker);
        assert_eq!(took.expect("it takes").bytes, 50 * BLOCK as u64);
        assert!(gives.join().expect("it ends").is_ok());
        assert!(fs::read(folder.0.join("to")).expect("it is there") == content(50 * BLOCK));
    }

    #[test]
    fn damage_is_seen_on_the_way_and_in_what_was_there() {
        let folder = folder("damage");
        fs::write(folder.0.join("from"), content(10 * BLOCK)).expect("a file");
        let mut seen = 0;
        let (_, took) = copy(&folder.0, 1 << 30, move |piece| {
            // A byte within the fourth block.
            let at = 3 * BLOCK + 300;
            if (seen..seen + piece.len()).contains(&at) {
                piece[at - seen] ^= 1;
            }
            seen += piece.len();
            true
        });
        assert!(took.expect_err("damaged").to_string().contains("a block is damaged"));
        // And a part that rotted on the disk.
        let part = fs::read_dir(&folder.0)
            .expect("a folder")
            .flatten()
            .find(|entry| entry.file_name().to_string_lossy().ends_with(".part"));
        let part = part.expect("a part").path();
        let mut bytes = fs::read(&part).expect("it is there");
        assert!(bytes.len() >= BLOCK);
        bytes[5] ^= 1;
        fs::write(&part, bytes).expect("a file");
        let (_, took) = copy(&folder.0, 1 << 30, |_| true);
        assert!(took.expect_err("damaged").to_string().contains("not what was sent"));
        assert!(!folder.0.join("to").exists() && parts(&folder.0) == 0);
        let (_, took) = copy(&folder.0, 1 << 30, |_| true);
        assert_eq!(took.expect("it takes"), Copied { bytes: 10 * BLOCK as u64, before: 0 });
    }

    #[test]
    fn what_is_too_long_or_no_file_is_refused() {
        let folder = folder("refused");
        fs::write(folder.0.join("from"), content(3 * BLOCK)).expect("a file");
        let (_, took) = copy(&folder.0, 1_000, |_| true);
        assert!(took.expect_err("too long").to_string().contains("1000 are allowed"));
        let mut file = File::open(folder.0.join("from")).expect("a file");
        let (mut one, _other) = UnixStream::pair().expect("a pair");
        assert!(give(&mut file, 1_000, &mut one).is_err_and(|error| error.to_string().contains("1000 are allowed")));
        for odd in [&[9_u8; 100][..], &[1, 0, 0, 0, 7], &[1, 0, 0, 0, 5], b""] {
            let (mut one, mut other) = UnixStream::pair().expect("a pair");
            one.write_all(odd).expect("it takes bytes");
            drop(one);
            assert!(take(place(&folder.0), 1 << 30, &mut other).is_err(), "{odd:?}");
        }
        assert_eq!(parts(&folder.0), 0);
    }
}
