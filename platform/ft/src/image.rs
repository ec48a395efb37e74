//! Checkpoints as files: the format, which is the same on every system.
//!
//! ```text
//! file    = head, runs, pages, seal
//! head    = magic "APUSFTCK", version u32, page size u32, kind u32 (0 full, 1 incremental), runs u32,
//!           epoch u64, number u64, base address u64, capacity u64 (pages), pages u64 (in this file),
//!           before 32 bytes (the seal of the file that this one goes on from; zeros in a full one), layout 256 bytes
//! run     = first page u32, pages u32, sum 16 bytes (blake3 of its pages, cut)
//! seal    = 32 bytes, blake3 of all before it
//! ```
//! Numbers are little-endian. The seal tells a whole file from any other; a run's sum tells where a file that is not whole is
//! damaged. A chain is a full file and incremental ones, each with the seal of the one before: a file that is missing, changed or
//! of another chain is found before a byte of any is used.

/// Bytes of a head.
pub const HEAD: usize = 8 + 4 * 4 + 5 * 8 + 32 + LAYOUT;
/// Bytes of a layout's name at most.
pub const LAYOUT: usize = 256;
/// Bytes of a run's entry.
pub const RUN: usize = 24;
/// Bytes of a seal.
pub const SEAL: usize = 32;
/// The newest version that is read, and the one that is written.
pub const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"APUSFTCK";

/// What a file tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of a page.
    pub page: u32,
    /// It goes on from the file with this seal; `None` is a full one.
    pub before: Option<[u8; SEAL]>,
    /// The life that made it.
    pub epoch: u64,
    /// Its checkpoint's number, which no other checkpoint of the same folder has.
    pub number: u64,
    /// Address of page 0.
    pub base: u64,
    /// Pages that there can be.
    pub capacity: u64,
    /// Who laid the data out.
    pub layout: String,
}

/// Why a file is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flaw {
    /// It is no checkpoint.
    Foreign,
    /// Of a later version.
    Later(u32),
    /// Damaged, or cut.
    Damaged {
        /// From which byte on.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
}

/// A file whose seal is right.
#[derive(Debug)]
pub struct Image<'a> {
    /// What it tells of itself.
    pub head: Head,
    /// Its seal.
    pub seal: [u8; SEAL],
    runs: &'a [u8],
    pages: &'a [u8],
}

/// The start of a file with these runs (first page, pages and their content): all of it but the seal, and without the pages.
#[must_use]
pub fn encode(head: &Head, runs: &[(u32, &[u8])]) -> Vec<u8> {
    let pages: usize = runs.iter().map(|(_, bytes)| bytes.len() / head.page as usize).sum();
    let mut out = Vec::with_capacity(HEAD + runs.len() * RUN);
    out.extend_from_slice(&MAGIC);
    for word in [VERSION, head.page, u32::from(head.before.is_some()), u32::try_from(runs.len()).unwrap_or(u32::MAX)] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for word in [head.epoch, head.number, head.base, head.capacity, pages as u64] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&head.before.unwrap_or_default());
    let mut layout = [0; LAYOUT];
    let name = &head.layout.as_bytes()[..head.layout.len().min(LAYOUT)];
    layout[..name.len()].copy_from_slice(name);
    out.extend_from_slice(&layout);
    for (first, bytes) in runs {
        let count = u32::try_from(bytes.len() / head.page as usize).unwrap_or(u32::MAX);
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&sum(bytes));
    }
    out
}

/// The seal of a file: over its start, then its pages.
#[must_use]
pub fn seal(start: &[u8], runs: &[(u32, &[u8])]) -> [u8; SEAL] {
    let mut hash = blake3::Hasher::new();
    hash.update(start);
    for (_, bytes) in runs {
        hash.update(bytes);
    }
    hash.finalize().into()
}

fn sum(bytes: &[u8]) -> [u8; 16] {
    let mut sum = [0; 16];
    sum.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    sum
}

/// Four bytes as a number; zero beyond the end.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(<[u8]>::first_chunk).map_or(0, |word| u32::from_le_bytes(*word))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(<[u8]>::first_chunk).map_or(0, |word| u64::from_le_bytes(*word))
}

/// Reads what a file tells of itself. Nothing of it is proved by that.
///
/// # Errors
/// If it is no checkpoint that this version reads.
pub fn head(bytes: &[u8]) -> Result<Head, Flaw> {
    if bytes.get(..8) != Some(&MAGIC) {
        return Err(Flaw::Foreign);
    }
    let version = word(bytes, 8);
    if version > VERSION {
        return Err(Flaw::Later(version));
    }
    let Some(start) = bytes.get(..HEAD) else {
        return Err(Flaw::Damaged { offset: bytes.len() as u64, what: "it ends within its head" });
    };
    let before = start[64..96].first_chunk().copied();
    let layout = String::from_utf8_lossy(&start[96..]).trim_end_matches('\0').to_owned();
    Ok(Head {
        page: word(start, 12),
        before: before.filter(|_| word(start, 16) != 0),
        epoch: long(start, 24),
        number: long(start, 32),
        base: long(start, 40),
        capacity: long(start, 48),
        layout,
    })
}

/// Reads a file, and proves that it is whole.
///
/// # Errors
/// What is wrong with it, and where.
pub fn read(bytes: &[u8]) -> Result<Image<'_>, Flaw> {
    let head = head(bytes)?;
    let damaged = |offset: usize, what| Err(Flaw::Damaged { offset: offset as u64, what });
    let (many, pages, page) = (word(bytes, 20) as usize, long(bytes, 56), head.page as usize);
    let Some(runs) = many.checked_mul(RUN).and_then(|length| bytes.get(HEAD..HEAD.checked_add(length)?)) else {
        return damaged(bytes.len(), "it ends within its table of pages");
    };
    let start = HEAD + runs.len();
    let length = usize::try_from(pages).ok().and_then(|pages| pages.checked_mul(page));
    let Some(content) = length.and_then(|length| bytes.get(start..start.checked_add(length)?)) else {
        return damaged(bytes.len(), "it ends within its pages");
    };
    let end = start + content.len();
    let (body, rest) = bytes.split_at(end);
    let told: Option<[u8; SEAL]> = rest.try_into().ok();
    if told.is_none() && rest.len() < SEAL {
        return damaged(bytes.len(), "it ends within its seal");
    }
    let found: [u8; SEAL] = blake3::hash(body).into();
    if told == Some(found) {
        // The table is as it was written; that it was written rightly is looked at all the same, as pages are copied by it.
        let mut sum = 0_u64;
        for (at, run) in runs.chunks_exact(RUN).enumerate() {
            let (first, count) = (u64::from(word(run, 0)), u64::from(word(run, 4)));
            sum += count;
            if first + count > head.capacity {
                return damaged(HEAD + at * RUN, "pages beyond the capacity");
            }
        }
        if sum != pages {
            return damaged(HEAD, "the table tells of more or fewer pages than there are");
        }
        return Ok(Image { head, seal: found, runs, pages: content });
    }
    if told.is_none() {
        return damaged(end + SEAL, "something follows its seal");
    }
    // Where: the first run whose pages are not what its sum says. If there is none, the table or the seal itself.
    let mut at = 0;
    for run in runs.chunks_exact(RUN) {
        let length = (word(run, 4) as usize).saturating_mul(page).min(content.len() - at);
        if run[8..RUN] != sum(&content[at..at + length]) {
            return damaged(start + at, "pages are not what their sum says");
        }
        at += length;
    }
    damaged(HEAD, "its seal is of another content: its head, its table or the seal was changed")
}

impl<'a> Image<'a> {
    /// Its stretches: the first page and the bytes.
    pub fn runs(&self) -> impl Iterator<Item = (u32, &'a [u8])> {
        let (mut rest, page) = (self.pages, self.head.page as usize);
        self.runs.chunks_exact(RUN).map(move |run| {
            let (bytes, after) = rest.split_at((word(run, 4) as usize * page).min(rest.len()));
            rest = after;
            (word(run, 0), bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(before: Option<[u8; SEAL]>) -> Vec<u8> {
        let pages: Vec<u8> = (0..3 * 64).map(|byte: u32| byte.to_le_bytes()[0]).collect();
        let runs = [(4, &pages[..64]), (9, &pages[64..])];
        let layout = "v7".to_owned();
        let head = Head { page: 64, before, epoch: 3, number: 12, base: 0x2000, capacity: 16, layout };
        let mut out = encode(&head, &runs);
        let seal = seal(&out, &runs);
        for (_, bytes) in runs {
            out.extend_from_slice(bytes);
        }
        out.extend_from_slice(&seal);
        out
    }

    #[test]
    fn what_is_written_is_read() {
        for before in [None, Some([7; SEAL])] {
            let bytes = file(before);
            let image = read(&bytes).expect("it is whole");
            assert_eq!((image.head.before, image.head.epoch, image.head.number), (before, 3, 12));
            assert_eq!((image.head.base, image.head.capacity, &image.head.layout[..]), (0x2000, 16, "v7"));
            let runs: Vec<_> = image.runs().map(|(first, bytes)| (first, bytes.len())).collect();
            assert_eq!(runs, [(4, 64), (9, 128)]);
        }
    }

    #[test]
    fn every_bit_counts_and_damage_has_a_place() {
        let whole = file(None);
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let flaw = read(&bytes).expect_err("it is damaged");
            let pages = HEAD + 2 * RUN..HEAD + 2 * RUN + 192;
            if let (Flaw::Damaged { offset, .. }, true) = (&flaw, pages.contains(&(bit / 8))) {
                let run = if bit / 8 < pages.start + 64 { pages.start } else { pages.start + 64 };
                assert_eq!(*offset, run as u64, "bit {bit}: {flaw:?}");
            }
        }
    }

    #[test]
    fn a_cut_file_is_told_and_none_panics() {
        let whole = file(Some([1; SEAL]));
        for length in 0..whole.len() {
            let flaw = read(&whole[..length]).expect_err("it is cut");
            assert!(length >= 8 || flaw == Flaw::Foreign);
        }
        let longer = [&whole[..], b"x"].concat();
        assert!(matches!(read(&longer), Err(Flaw::Damaged { .. })));
        let mut later = whole;
        later[8] = 2;
        assert_eq!(read(&later).expect_err("it is later"), Flaw::Later(2));
    }
}
