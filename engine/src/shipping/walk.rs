//! How two trees are compared, for hosts: what is told of one, and what makes it like the other.
//!
//! A tree is told coarsely first: one hash for 256 blocks, files and names. Where hashes differ, 16 of them are told by one hash each, and
//! where those differ, each by its own (Merkle 1987, with a walk in place of a tree). With every hundredth block changed, wherever it is, that
//! costs less than a twentieth of what changed.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::page::{BLOCK, Digest, Item, Mend, Mends, Page, Place, Sort, Stretch, TOP, Told, What, grain};
use super::record::Attributes;
use crate::ids::FileId;

/// Blocks of a file that comes whole with what it is.
const SMALL: u64 = 2;

/// How much one answer may hold and cost.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes on the wire, if a single item is not longer.
    pub bytes: usize,
    /// Blocks, files and names that are looked at.
    pub units: u64,
}

/// What is so of a file apart from its content.
#[derive(Clone, Debug)]
pub struct About {
    /// What it is.
    pub sort: Sort,
    /// Whose.
    pub attributes: Attributes,
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of all this what is compared, in one encoding.
    pub compared: Vec<u8>,
}

impl About {
    const fn blocks(&self) -> u64 {
        match self.sort {
            Sort::Regular(length) => length.div_ceil(BLOCK),
            _ => 0,
        }
    }
}

/// A block of a file.
pub trait Block {
    /// Its hash with a salt.
    fn hash(&self, salt: u64) -> [u8; 16];
    /// It holds zeros alone.
    fn is_zero(&self) -> bool;
    /// All of it; less at the end of the file.
    fn bytes(&self) -> Vec<u8>;
}

/// Files and names in the order of the walk.
pub trait View {
    /// Why something cannot be read.
    type Error;
    /// The next file from this number on.
    fn next_file(&self, from: FileId) -> Option<FileId>;
    /// What is so of a file; `None`: it is gone meanwhile.
    ///
    /// # Errors
    /// If it cannot be read.
    fn about(&mut self, file: FileId) -> Result<Option<About>, Self::Error>;
    /// Calls with each block from one up to before another, as far as the file goes and for as long as it is told `true`.
    ///
    /// # Errors
    /// If they cannot be read.
    fn blocks(
        &mut self,
        file: FileId,
        from: u64,
        to: u64,
        each: &mut dyn FnMut(u64, &dyn Block) -> bool,
    ) -> Result<(), Self::Error>;
    /// The next name from this one on.
    fn next_name(&self, dir: FileId, name: &[u8]) -> Option<((FileId, Vec<u8>), FileId)>;
    /// A hash of bytes with a salt.
    fn hash(salt: u64, bytes: &[u8]) -> [u8; 16];
}

enum Step<'a> {
    /// A file, from this block on.
    File(FileId, u64, &'a About),
    Block(FileId, u64, &'a dyn Block),
    Name(FileId, &'a [u8], FileId),
}

#[derive(PartialEq, Eq)]
enum Go {
    On,
    /// The file's content is left out.
    Over,
    /// Before this step.
    Stop,
}

/// Takes each step between two places; where it was stopped. A file's first block is at the place of the file: it is no place to stop at.
fn walk<V: View>(
    view: &mut V,
    (from, to): (&Place, &Place),
    each: &mut dyn FnMut(&Place, Step<'_>) -> Go,
) -> Result<Option<Place>, V::Error> {
    let mut name = match from {
        Place::File(first, skip) => {
            let mut at = *first;
            while let Some(file) = view.next_file(at) {
                let start = if file == *first { *skip } else { 0 };
                let place = Place::File(file, start);
                if place >= *to {
                    return Ok(None);
                }
                if let Some(about) = view.about(file)? {
                    match each(&place, Step::File(file, start, &about)) {
                        Go::Stop => return Ok(Some(place)),
                        Go::Over => {}
                        Go::On => {
                            let end = match to {
                                Place::File(last, block) if *last == file => about.blocks().min(*block),
                                _ => about.blocks(),
                            };
                            let mut stopped = None;
                            view.blocks(file, start, end, &mut |block, content| {
                                let place = Place::File(file, block);
                                let go = each(&place, Step::Block(file, block, content));
                                if go == Go::Stop {
                                    stopped = Some(place);
                                }
                                go == Go::On
                            })?;
                            if stopped.is_some() {
                                return Ok(stopped);
                            }
                        }
                    }
                }
                let Some(next) = file.0.checked_add(1) else { break };
                at = FileId(next);
            }
            (FileId::ROOT, Vec::new())
        }
        Place::Name(dir, name) => (*dir, name.clone()),
        Place::End => return Ok(None),
    };
    if matches!(to, Place::File(..)) {
        return Ok(None);
    }
    while let Some((found, file)) = view.next_name(name.0, &name.1) {
        let place = Place::Name(found.0, found.1);
        if place >= *to {
            break;
        }
        let Place::Name(dir, found) = &place else { break };
        if each(&place, Step::Name(*dir, found, file)) == Go::Stop {
            return Ok(Some(place));
        }
        name = (*dir, found.clone());
        name.1.push(0);
    }
    Ok(None)
}

/// What one sum is made of.
#[derive(Default)]
struct Sum {
    bytes: Vec<u8>,
    units: u64,
}

impl Sum {
    fn take<V: View>(&mut self, salt: u64, step: &Step<'_>) {
        self.units += 1;
        let mut add = |kind: u8, one: u64, two: u64, hash: &[u8]| {
            self.bytes.push(kind);
            self.bytes.extend_from_slice(&one.to_le_bytes());
            self.bytes.extend_from_slice(&two.to_le_bytes());
            self.bytes.extend_from_slice(hash);
        };
        match step {
            Step::File(file, 0, about) => add(1, file.0, 0, &V::hash(salt, &about.compared)),
            Step::File(..) => {}
            Step::Block(file, block, content) => add(2, file.0, *block, &content.hash(salt)),
            Step::Name(dir, name, file) => add(3, dir.0, file.0, &V::hash(salt, name)),
        }
    }

    fn end<V: View>(&mut self, salt: u64) -> Digest {
        let Self { bytes, .. } = core::mem::take(self);
        short(V::hash(salt, &bytes))
    }
}

fn short(hash: [u8; 16]) -> Digest {
    let [a, b, c, d, e, f, ..] = hash;
    [a, b, c, d, e, f]
}

/// Whether a step is a file's first block, which goes with the file.
const fn is_joined(step: &Step<'_>, after: Option<(FileId, u64)>) -> bool {
    match (step, after) {
        (Step::Block(file, block, _), Some((of, from))) => file.0 == of.0 && *block == from,
        _ => false,
    }
}

/// The file that a step begins.
const fn begins(step: &Step<'_>) -> Option<(FileId, u64)> {
    match step {
        Step::File(file, block, _) => Some((*file, *block)),
        _ => None,
    }
}

/// What is in stretches of a tree, or in the first of them.
///
/// # Errors
/// If the tree cannot be read.
pub fn page<V: View>(
    view: &mut V,
    bounds: &Bounds,
    (salt, depth): (u64, u8),
    stretches: &[Stretch],
) -> Result<Page, V::Error> {
    let mut out = Page { salt, told: Vec::new() };
    let (mut bytes, mut units) = (0, 0);
    for Stretch { from, to } in stretches {
        if bytes >= bounds.bytes || units >= bounds.units {
            break;
        }
        let (mut sums, mut items) = (Vec::new(), Vec::new());
        let mut sum = Sum::default();
        let mut file = None;
        bytes += 16;
        let stopped = walk(view, (from, to), &mut |place, step| {
            let may = *place > *from && !is_joined(&step, file);
            if may && (bytes >= bounds.bytes || units >= bounds.units) {
                return Go::Stop;
            }
            if may && depth > 0 && sum.units >= grain(depth) {
                bytes += 12;
                sums.push((place.clone(), sum.end::<V>(salt)));
            }
            units += 1;
            file = begins(&step);
            if depth > 0 {
                sum.take::<V>(salt, &step);
                return Go::On;
            }
            match step {
                Step::File(file, block, about) => {
                    bytes += 20;
                    let about = (block == 0).then(|| short(V::hash(salt, &about.compared)));
                    items.push(Item::File { file, block, about, blocks: Vec::new() });
                }
                Step::Block(.., content) => {
                    bytes += 6;
                    if let Some(Item::File { blocks, .. }) = items.last_mut() {
                        blocks.push(short(content.hash(salt)));
                    }
                }
                Step::Name(dir, name, file) => {
                    bytes += 24 + name.len();
                    items.push(Item::Name { dir, name: name.to_vec(), file });
                }
            }
            Go::On
        })?;
        let cut = stopped.is_some();
        let to = stopped.unwrap_or_else(|| to.clone());
        if depth > 0 && sums.last().is_none_or(|(last, _)| *last != to) {
            sums.push((to.clone(), sum.end::<V>(salt)));
        }
        let what = if depth > 0 { What::Sums(sums) } else { What::Items(items) };
        out.told.push(Told { from: from.clone(), to, what });
        if cut {
            break;
        }
    }
    Ok(out)
}

/// The sum of a stretch; `None`: it holds more than one that was told can.
fn sum_of<V: View>(view: &mut V, salt: u64, stretch: (&Place, &Place)) -> Result<(Option<Digest>, u64), V::Error> {
    let mut sum = Sum::default();
    let most = 2 * grain(TOP);
    let stopped = walk(view, stretch, &mut |_, step| {
        if sum.units > most {
            return Go::Stop;
        }
        sum.take::<V>(salt, &step);
        Go::On
    })?;
    let units = sum.units;
    Ok((if stopped.is_none() { Some(sum.end::<V>(salt)) } else { None }, units))
}

/// What an answer has come to.
struct Answer {
    out: Mends,
    bytes: usize,
    units: u64,
}

impl Answer {
    const fn is_full(&self, bounds: &Bounds) -> bool {
        self.bytes >= bounds.bytes || self.units >= bounds.units
    }
}

/// What makes stretches of another tree like this one, from a place on; perhaps only the first part of it.
///
/// # Errors
/// If the tree cannot be read.
pub fn compare<V: View>(view: &mut V, bounds: &Bounds, page: &Page, from: &Place) -> Result<Mends, V::Error> {
    let start = page.told.first().map_or(&Place::START, |told| &told.from).max(from).clone();
    let out = Mends { to: start.clone(), from: start, mends: Vec::new(), finer: Vec::new(), zeros: Vec::new() };
    let mut answer = Answer { out, bytes: 0, units: 0 };
    for told in page.told.iter().filter(|told| told.to > *from) {
        if answer.is_full(bounds) {
            break;
        }
        let start = (&told.from).max(from);
        let stopped = match &told.what {
            What::Sums(sums) => compare_sums(view, bounds, (page.salt, start), sums, &mut answer)?,
            What::Items(items) => compare_items(view, bounds, (page.salt, start, &told.to), items, &mut answer)?,
            What::Zeros => compare_zeros(view, bounds, (start, &told.to), &mut answer)?,
        };
        if let Some(place) = stopped {
            answer.out.to = place;
            break;
        }
        answer.out.to = told.to.clone();
    }
    Ok(answer.out)
}

fn compare_sums<V: View>(
    view: &mut V,
    bounds: &Bounds,
    (salt, start): (u64, &Place),
    sums: &[(Place, Digest)],
    answer: &mut Answer,
) -> Result<Option<Place>, V::Error> {
    let mut at = start.clone();
    for (to, told) in sums.iter().filter(|(to, _)| to > start) {
        if at > *start && answer.is_full(bounds) {
            return Ok(Some(at));
        }
        let (ours, units) = sum_of(view, salt, (&at, to))?;
        answer.units += units;
        if ours != Some(*told) {
            answer.bytes += 16;
            answer.out.finer.push(Stretch { from: at, to: to.clone() });
        }
        at = to.clone();
    }
    Ok(None)
}

/// What they have of a file: its first block that is told, what it is, its blocks.
type Theirs<'a> = (u64, Option<&'a Digest>, &'a [Digest]);

fn compare_items<V: View>(
    view: &mut V,
    bounds: &Bounds,
    (salt, start, to): (u64, &Place, &Place),
    items: &[Item],
    answer: &mut Answer,
) -> Result<Option<Place>, V::Error> {
    let mut theirs: BTreeMap<FileId, Theirs<'_>> = BTreeMap::new();
    let mut named: BTreeMap<(FileId, &[u8]), FileId> = BTreeMap::new();
    for item in items {
        match item {
            Item::File { file, block, about, blocks } => drop(theirs.insert(*file, (*block, about.as_ref(), blocks))),
            Item::Name { dir, name, file } => drop(named.insert((*dir, name), *file)),
        }
    }
    let mut begun = None;
    let mut made = None;
    let stopped = walk(view, (start, to), &mut |place, step| {
        // What makes a file and its content are not parted: one part of an answer may be lost.
        let joined = is_joined(&step, begun) || matches!(step, Step::Block(file, ..) if made == Some(file));
        if *place > *start && !joined && answer.is_full(bounds) {
            return Go::Stop;
        }
        begun = begins(&step);
        answer.units += 1;
        match step {
            Step::File(file, 0, about) => {
                let known = theirs.get(&file).and_then(|(_, digest, _)| *digest);
                if known != Some(&short(V::hash(salt, &about.compared))) {
                    mend_file(file, about, answer);
                    if !theirs.contains_key(&file) {
                        made = Some(file);
                        if about.blocks() > SMALL {
                            let (from, to) = (Place::File(file, 0), Place::File(file, about.blocks()));
                            answer.bytes += 16;
                            answer.out.zeros.push(Stretch { from, to });
                            return Go::Over;
                        }
                    }
                }
            }
            Step::File(..) => {}
            Step::Block(file, block, content) => {
                let told = theirs
                    .get(&file)
                    .and_then(|(from, _, blocks)| blocks.get(usize::try_from(block.checked_sub(*from)?).ok()?));
                // Where they have nothing, there will be zeros.
                let same = told.map_or_else(|| content.is_zero(), |told| *told == short(content.hash(salt)));
                if !same {
                    return mend_block((file, block, content), bounds, joined || *place == *start, answer);
                }
            }
            Step::Name(dir, name, file) => {
                if named.get(&(dir, name)) != Some(&file) {
                    answer.bytes += 40 + name.len();
                    answer.out.mends.push(Mend::Name { dir, name: name.to_vec(), file: Some(file) });
                }
            }
        }
        Go::On
    })?;
    let end = stopped.as_ref().unwrap_or(to);
    let within = |place: &Place| place >= start && place < end;
    // What else there is to a file is told with its block 0: there it is missed, too.
    for (file, (block, ..)) in &theirs {
        if *block == 0 && within(&Place::File(*file, 0)) && view.next_file(*file) != Some(*file) {
            answer.out.mends.push(Mend::Gone(*file));
        }
    }
    for (dir, name) in named.keys() {
        let ours = view.next_name(*dir, name).is_some_and(|((other, found), _)| other == *dir && found == *name);
        if !ours && within(&Place::Name(*dir, name.to_vec())) {
            answer.out.mends.push(Mend::Name { dir: *dir, name: name.to_vec(), file: None });
        }
    }
    Ok(stopped)
}

fn mend_file(file: FileId, about: &About, answer: &mut Answer) {
    let target = if let Sort::Symlink(target) = &about.sort { target.len() } else { 0 };
    answer.bytes += 64 + target + about.xattrs.iter().map(|(name, value)| name.len() + value.len() + 8).sum::<usize>();
    answer.out.mends.push(Mend::File {
        file,
        sort: about.sort.clone(),
        attributes: about.attributes,
        xattrs: about.xattrs.clone(),
    });
}

fn mend_block(
    (file, block, content): (FileId, u64, &dyn Block),
    bounds: &Bounds,
    always: bool,
    answer: &mut Answer,
) -> Go {
    let bytes = content.bytes();
    if !always && answer.bytes > 0 && answer.bytes + bytes.len() > bounds.bytes {
        return Go::Stop;
    }
    answer.bytes += bytes.len() + 24;
    answer.out.mends.push(Mend::Block { file, block, bytes });
    Go::On
}

fn compare_zeros<V: View>(
    view: &mut V,
    bounds: &Bounds,
    (start, to): (&Place, &Place),
    answer: &mut Answer,
) -> Result<Option<Place>, V::Error> {
    walk(view, (start, to), &mut |place, step| {
        if *place > *start && answer.is_full(bounds) {
            return Go::Stop;
        }
        answer.units += 1;
        match step {
            Step::Block(file, block, content) if !content.is_zero() => {
                mend_block((file, block, content), bounds, *place == *start, answer)
            }
            _ => Go::On,
        }
    })
}
