//! One file in memory: its bytes, or so many that only those that were written are kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use apus_engine::hash::{Hash128, hash_bytes, mix};
use apus_engine::shipping::walk::{About, Block};
use apus_engine::shipping::{Attributes, BLOCK, Sort};

/// Content of which each block is made from a seed until it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vast {
    seed: u64,
    /// So many blocks are made.
    made: u64,
    /// Blocks that were written; those behind the made ones are zeros otherwise.
    written: BTreeMap<u64, Arc<[u8]>>,
    blocks: u64,
}

fn made(seed: u64, block: u64) -> Vec<u8> {
    let start = mix(seed ^ mix(block));
    (0..BLOCK / 8).flat_map(|word| mix(start ^ word).to_le_bytes()).collect()
}

impl Vast {
    /// What a block is worth in the sum of the content.
    fn worth(&self, block: u64) -> u64 {
        match self.written.get(&block) {
            Some(bytes) => hash_bytes(block, bytes),
            None if block < self.made => mix(self.seed ^ mix(block)),
            None => 0,
        }
    }

    fn block(&self, block: u64) -> Seen<'_> {
        match self.written.get(&block) {
            Some(bytes) => Seen::Bytes(bytes),
            None if block < self.made => Seen::Made(self.seed, block),
            None => Seen::Zeros,
        }
    }

    /// A block is written; one that is as it was made is not kept.
    fn put(&mut self, block: u64, bytes: Vec<u8>) {
        if block < self.made && bytes == made(self.seed, block) {
            self.written.remove(&block);
        } else {
            self.written.insert(block, bytes.into());
        }
    }
}

/// A block as it is seen.
pub(crate) enum Seen<'a> {
    Bytes(&'a [u8]),
    Made(u64, u64),
    Zeros,
}

impl Block for Seen<'_> {
    fn hash(&self, salt: u64) -> [u8; 16] {
        let mut hash = Hash128::new(salt);
        match self {
            Seen::Bytes(bytes) => hash.bytes(bytes),
            // Bytes that are as they were made are never kept.
            Seen::Made(seed, block) => {
                hash.word(*seed);
                hash.word(*block);
            }
            Seen::Zeros => hash.bytes(&[0; BLOCK as usize]),
        }
        hash.finish128().to_le_bytes()
    }

    fn is_zero(&self) -> bool {
        match self {
            Seen::Bytes(bytes) => bytes.iter().all(|byte| *byte == 0),
            Seen::Made(..) => false,
            Seen::Zeros => true,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Seen::Bytes(bytes) => bytes.to_vec(),
            Seen::Made(seed, block) => made(*seed, *block),
            Seen::Zeros => vec![0; BLOCK as usize],
        }
    }
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) sort: Sort,
    pub(super) attributes: Attributes,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    bytes: Vec<u8>,
    /// Instead of `bytes`.
    vast: Option<Vast>,
    /// Of the content, kept up to date: the sum over its words of what each is worth at its place. Zeros are worth nothing.
    pub(super) sum: u64,
}

impl File {
    pub(super) fn new(sort: Sort, mode: u32) -> Self {
        Self {
            sort,
            attributes: Attributes { mode, ..Attributes::default() },
            xattrs: BTreeMap::new(),
            bytes: Vec::new(),
            vast: None,
            sum: 0,
        }
    }

    /// So many blocks, made from a seed.
    pub(crate) fn vast(seed: u64, blocks: u64) -> Self {
        let vast = Vast { seed, made: blocks, written: BTreeMap::new(), blocks };
        let sum = (0..blocks).map(|block| vast.worth(block)).fold(0, u64::wrapping_add);
        Self { vast: Some(vast), sum, ..Self::new(Sort::Regular(0), 0o600) }
    }

    pub(super) const fn is_vast(&self) -> bool {
        self.vast.is_some()
    }

    /// Bytes of content.
    pub(crate) fn len(&self) -> usize {
        self.vast.as_ref().map_or(self.bytes.len(), |vast| (vast.blocks * BLOCK) as usize)
    }

    /// What the words are worth that a range touches.
    fn worth(&self, from: usize, to: usize) -> u64 {
        let from = from & !7;
        let part = self.bytes.get(from..to.next_multiple_of(8).min(self.bytes.len())).unwrap_or_default();
        let mut sum = 0_u64;
        for (at, chunk) in part.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let word = u64::from_le_bytes(word);
            if word != 0 {
                sum = sum.wrapping_add(mix(word ^ mix((from / 8 + at) as u64)));
            }
        }
        sum
    }

    /// Changes content within a range.
    fn change(&mut self, from: usize, to: usize, how: impl FnOnce(&mut [u8])) {
        let before = self.worth(from, to);
        how(&mut self.bytes[from..to]);
        self.sum = self.sum.wrapping_sub(before).wrapping_add(self.worth(from, to));
    }

    /// Cuts content off, or adds zeros.
    pub(super) fn resize(&mut self, length: usize) {
        if let Some(vast) = &mut self.vast {
            let blocks = (length as u64).div_ceil(BLOCK);
            let gone = (blocks..vast.blocks).map(|block| vast.worth(block)).fold(0, u64::wrapping_add);
            self.sum = self.sum.wrapping_sub(gone);
            (vast.blocks, vast.made) = (blocks, vast.made.min(blocks));
            vast.written.split_off(&blocks);
            return;
        }
        if length > self.bytes.len() {
            self.bytes.resize(length, 0);
            return;
        }
        let gone = self.worth(length, self.bytes.len());
        self.bytes.truncate(length);
        self.sum = self.sum.wrapping_sub(gone).wrapping_add(self.worth(length, length));
    }

    /// Turns a bit.
    pub(crate) fn flip(&mut self, bit: usize) {
        if self.vast.is_some() {
            let block = bit as u64 / (8 * BLOCK);
            let mut bytes = self.block(block).bytes();
            bytes[bit / 8 % BLOCK as usize] ^= 1 << (bit % 8);
            return self.write((block * BLOCK) as usize, &bytes);
        }
        self.change(bit / 8, bit / 8 + 1, |bytes| bytes[0] ^= 1 << (bit % 8));
    }

    pub(super) fn sort(&self) -> Sort {
        match &self.sort {
            Sort::Regular(_) => Sort::Regular(self.len() as u64),
            other => other.clone(),
        }
    }

    pub(super) fn about(&self) -> About {
        let mut hash = Hash128::new(1);
        std::hash::Hash::hash(&(self.sort(), self.attributes, &self.xattrs), &mut hash);
        About {
            sort: self.sort(),
            attributes: self.attributes,
            xattrs: self.xattrs.clone().into_iter().collect(),
            compared: hash.finish128().to_le_bytes().to_vec(),
        }
    }

    pub(super) fn blocks(&self) -> u64 {
        (self.len() as u64).div_ceil(BLOCK)
    }

    pub(super) fn block(&self, block: u64) -> Seen<'_> {
        if let Some(vast) = &self.vast {
            return vast.block(block);
        }
        let from = (block * BLOCK) as usize;
        let to = (from + BLOCK as usize).min(self.bytes.len());
        Seen::Bytes(self.bytes.get(from..to).unwrap_or_default())
    }

    /// Bytes of blocks that another file has otherwise, or not at all.
    pub(super) fn differs_by(&self, other: Option<&Self>) -> u64 {
        if let (Some(ours), Some(theirs)) = (&self.vast, other.and_then(|other| other.vast.as_ref())) {
            let written: std::collections::BTreeSet<&u64> = ours.written.keys().chain(theirs.written.keys()).collect();
            return written.into_iter().filter(|at| ours.worth(**at) != theirs.worth(**at)).count() as u64 * BLOCK;
        }
        let there = |block| other.filter(|other| block < other.blocks()).map(|other| other.block(block).bytes());
        let bytes = |block| Some(self.block(block).bytes()).filter(|bytes| there(block).as_ref() != Some(bytes));
        (0..self.blocks()).filter_map(bytes).map(|bytes| bytes.len() as u64).sum()
    }

    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) {
        if self.vast.is_some() {
            return self.write_vast(at as u64, bytes);
        }
        if self.bytes.len() < at + bytes.len() {
            self.resize(at + bytes.len());
        }
        self.change(at, at + bytes.len(), |place| place.copy_from_slice(bytes));
    }

    /// Block by block.
    fn write_vast(&mut self, mut at: u64, mut bytes: &[u8]) {
        let Some(vast) = &mut self.vast else { return };
        while !bytes.is_empty() {
            let (block, from) = (at / BLOCK, (at % BLOCK) as usize);
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK as usize - from));
            let before = vast.worth(block);
            let mut content = vast.block(block).bytes();
            content[from..from + now.len()].copy_from_slice(now);
            vast.put(block, content);
            vast.blocks = vast.blocks.max(block + 1);
            self.sum = self.sum.wrapping_sub(before).wrapping_add(vast.worth(block));
            (at, bytes) = (at + now.len() as u64, later);
        }
    }

    /// Zeros take the place of content.
    pub(super) fn punch(&mut self, offset: usize, length: usize) {
        let many = self.len();
        let (from, to) = (offset.min(many), offset.saturating_add(length).min(many));
        if self.vast.is_some() {
            return self.write_vast(from as u64, &vec![0; to - from]);
        }
        self.change(from, to, |bytes| bytes.fill(0));
    }
}
