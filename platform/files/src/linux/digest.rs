//! Two trees compared stretch by stretch: what is told of one, and what makes it like the other.

use std::collections::BTreeMap;
use std::io;

use apus_engine::FileId;
use apus_engine::shipping::{BLOCK, Digest, Item, Mend, Mends, Page, Place, Sort};

use super::disk::{About, Kind};

/// Bytes that one answer may have on the wire, if a single item is not longer.
const WIRE: usize = 40 * 1024;
/// Blocks that are looked at for one answer.
const BLOCKS: u64 = 2048;

/// Files and names in the order of the walk.
pub(super) trait View {
    /// The next file from this number on.
    fn next_file(&self, from: FileId) -> Option<(FileId, Kind)>;
    /// What is so of a file, and where a link leads; `None`: it is gone meanwhile.
    fn about(&mut self, file: FileId, kind: Kind) -> io::Result<Option<(About, Vec<u8>)>>;
    /// Bytes of a file; fewer at its end.
    fn read(&mut self, file: FileId, to: &mut [u8], at: u64) -> io::Result<usize>;
    /// The next name from this one on.
    fn next_name(&self, dir: FileId, name: &[u8]) -> Option<((FileId, Vec<u8>), FileId)>;
}

fn sort(kind: Kind, about: &About, target: &[u8]) -> Sort {
    match kind {
        Kind::Regular => Sort::Regular(about.length),
        Kind::Directory => Sort::Directory,
        Kind::Symlink => Sort::Symlink(target.to_vec()),
    }
}

fn short(hash: &blake3::Hash) -> Digest {
    hash.as_bytes().first_chunk().copied().unwrap_or_default()
}

/// Of all but content and time: the time of a file changes with each write, also of a copy's own.
fn about_digest(sort: &Sort, about: &About) -> Digest {
    let owner = (about.attributes.mode, about.attributes.uid, about.attributes.gid);
    let bytes = postcard::to_stdvec(&(sort, owner, &about.xattrs)).unwrap_or_default();
    short(&blake3::hash(&bytes))
}

fn block_digest(bytes: &[u8]) -> Digest {
    short(&blake3::hash(bytes))
}

/// Calls with each block of a range, as long as it says so.
fn blocks(
    view: &mut dyn View,
    file: FileId,
    range: std::ops::Range<u64>,
    each: &mut dyn FnMut(u64, &[u8]) -> bool,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * BLOCK as usize];
    let mut at = range.start;
    while at < range.end {
        let want = ((range.end - at).min(64) * BLOCK) as usize;
        let got = view.read(file, &mut buffer[..want], at * BLOCK)?;
        for (nth, block) in buffer[..got].chunks(BLOCK as usize).enumerate() {
            if !each(at + nth as u64, block) {
                return Ok(());
            }
        }
        if got < want {
            return Ok(());
        }
        at += 64;
    }
    Ok(())
}

/// The next file that is not before `from`, and its first block that is not.
fn next(view: &dyn View, from: &Place) -> Option<(FileId, Kind, u64)> {
    let Place::File(first, skip) = from else { return None };
    let (file, kind) = view.next_file(*first)?;
    Some((file, kind, if file == *first { *skip } else { 0 }))
}

/// What is there from a place on.
pub(super) fn page(view: &mut dyn View, from: &Place) -> io::Result<Page> {
    let mut items = Vec::new();
    let (mut bytes, mut looked) = (0, 0);
    let mut at = from.clone();
    let full = |bytes: usize, looked: u64| bytes >= WIRE || looked >= BLOCKS;
    while let Some((file, kind, start)) = next(view, &at) {
        if full(bytes, looked) {
            return Ok(Page { from: from.clone(), to: Place::File(file, start), items });
        }
        let after = Place::File(FileId(file.0.saturating_add(1)), 0);
        let Some((about, target)) = view.about(file, kind)? else {
            at = after;
            continue;
        };
        let count = if kind == Kind::Regular { about.length.div_ceil(BLOCK) } else { 0 };
        let room = (WIRE - bytes) as u64 / 16;
        let end = count.min(start + room.min(BLOCKS - looked).max(1)).max(start);
        let mut told = Vec::new();
        blocks(view, file, start..end.min(count), &mut |_, block| {
            told.push(block_digest(block));
            true
        })?;
        bytes += 40 + 16 * told.len();
        looked += 1 + told.len() as u64;
        let about = about_digest(&sort(kind, &about, &target), &about);
        items.push(Item::File { file, block: start, about, blocks: told });
        if end < count {
            return Ok(Page { from: from.clone(), to: Place::File(file, end), items });
        }
        at = after;
        if file.0 == u64::MAX {
            break;
        }
    }
    let mut name = match from {
        Place::File(..) => (FileId::ROOT, Vec::new()),
        Place::Name(dir, name) => (*dir, name.clone()),
        Place::End => return Ok(Page { from: from.clone(), to: Place::End, items }),
    };
    while let Some((found, file)) = view.next_name(name.0, &name.1) {
        if full(bytes, looked) {
            return Ok(Page { from: from.clone(), to: Place::Name(found.0, found.1), items });
        }
        bytes += 32 + found.1.len();
        items.push(Item::Name { dir: found.0, name: found.1.clone(), file });
        name = found;
        name.1.push(0);
    }
    Ok(Page { from: from.clone(), to: Place::End, items })
}

type Theirs<'a> = BTreeMap<FileId, (u64, &'a Digest, &'a [Digest])>;

/// What makes a stretch of another tree like this one; perhaps only of the first part of it.
pub(super) fn compare(view: &mut dyn View, page: &Page) -> io::Result<Mends> {
    let mut out = Mends { from: page.from.clone(), to: page.to.clone(), mends: Vec::new() };
    let mut theirs: Theirs<'_> = BTreeMap::new();
    let mut named: BTreeMap<(FileId, &[u8]), FileId> = BTreeMap::new();
    for item in &page.items {
        match item {
            Item::File { file, block, about, blocks } => drop(theirs.insert(*file, (*block, about, blocks))),
            Item::Name { dir, name, file } => drop(named.insert((*dir, name), *file)),
        }
    }
    let mut bytes = 0;
    compare_files(view, page, &theirs, &mut out, &mut bytes)?;
    let within = |place: &Place, to: &Place| *place >= page.from && place < to;
    for file in theirs.keys() {
        let ours = view.next_file(*file).is_some_and(|(next, _)| next == *file);
        let here =
            within(&Place::File(*file, 0), &out.to) || matches!(page.from, Place::File(first, _) if first == *file);
        if !ours && here {
            out.mends.push(Mend::Gone(*file));
        }
    }
    let mut at = match &page.from {
        Place::File(..) => (FileId::ROOT, Vec::new()),
        Place::Name(dir, name) => (*dir, name.clone()),
        Place::End => return Ok(out),
    };
    while let Some((found, file)) = view.next_name(at.0, &at.1) {
        let place = Place::Name(found.0, found.1.clone());
        if place >= out.to {
            break;
        }
        if bytes >= WIRE {
            out.to = place;
            break;
        }
        if named.get(&(found.0, &found.1[..])) != Some(&file) {
            bytes += 40 + found.1.len();
            out.mends.push(Mend::Name { dir: found.0, name: found.1.clone(), file: Some(file) });
        }
        at = found;
        at.1.push(0);
    }
    for (dir, name) in named.keys() {
        let ours = view.next_name(*dir, name).is_some_and(|((other, found), _)| other == *dir && found == *name);
        if !ours && within(&Place::Name(*dir, name.to_vec()), &out.to) {
            out.mends.push(Mend::Name { dir: *dir, name: name.to_vec(), file: None });
        }
    }
    Ok(out)
}

fn compare_files(
    view: &mut dyn View,
    page: &Page,
    theirs: &Theirs<'_>,
    out: &mut Mends,
    bytes: &mut usize,
) -> io::Result<()> {
    let mut looked = 0;
    let mut at = page.from.clone();
    while let Some((file, kind, start)) = next(view, &at) {
        if Place::File(file, start) >= page.to {
            break;
        }
        if *bytes >= WIRE || looked >= BLOCKS {
            out.to = Place::File(file, start);
            break;
        }
        looked += 1;
        at = Place::File(FileId(file.0.saturating_add(1)), 0);
        let Some((about, target)) = view.about(file, kind)? else { continue };
        let known = theirs.get(&file);
        let count = if kind == Kind::Regular { about.length.div_ceil(BLOCK) } else { 0 };
        let sort = sort(kind, &about, &target);
        if known.is_none_or(|(_, digest, _)| **digest != about_digest(&sort, &about)) {
            *bytes += 64
                + target.len()
                + about.xattrs.iter().map(|(name, value)| name.len() + value.len() + 8).sum::<usize>();
            let (attributes, xattrs) = (about.attributes, about.xattrs);
            out.mends.push(Mend::File { file, sort, attributes, xattrs });
        }
        let mut stopped = None;
        blocks(view, file, start..count, &mut |block, content| {
            if Place::File(file, block) >= page.to {
                return false;
            }
            let told = known.and_then(|(from, _, blocks)| blocks.get(usize::try_from(block.checked_sub(*from)?).ok()?));
            // Where they have nothing, there will be zeros.
            let same = match told {
                Some(digest) => *digest == block_digest(content),
                None => content.iter().all(|byte| *byte == 0),
            };
            if same && looked < BLOCKS {
                looked += 1;
                return true;
            }
            if looked >= BLOCKS || *bytes > 0 && *bytes + content.len() > WIRE {
                stopped = Some(block);
                return false;
            }
            looked += 1;
            *bytes += content.len() + 24;
            out.mends.push(Mend::Block { file, block, bytes: content.to_vec() });
            true
        })?;
        if let Some(block) = stopped {
            out.to = Place::File(file, block);
            break;
        }
        if file.0 == u64::MAX {
            break;
        }
    }
    Ok(())
}
