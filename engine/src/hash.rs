//! One small fixed hash for ring orders, digests, checksums, and state and trace hashes.
//!
//! It is ours so that a seed, a digest on the wire and a stored trace hash keep their meaning when a
//! dependency changes. It is not a cryptographic hash: it finds accidents, not attackers.

#![allow(clippy::cast_possible_truncation, reason = "halves of a product or a hash are cut on purpose")]

use core::hash::Hasher;

const K0: u64 = 0x9e37_79b9_7f4a_7c15;
const K1: u64 = 0xbf58_476d_1ce4_e5b9;
const K2: u64 = 0x94d0_49bb_1331_11eb;

/// Mixes 64 bits so that each input bit moves about half of the output bits (the finaliser of `SplitMix64`).
#[must_use]
pub const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(K1);
    x = (x ^ (x >> 27)).wrapping_mul(K2);
    x ^ (x >> 31)
}

/// Folds the 128-bit product of two words into one.
const fn fold(a: u64, b: u64) -> u64 {
    let wide = (a as u128).wrapping_mul(b as u128);
    (wide as u64) ^ ((wide >> 64) as u64)
}

/// Hashes a byte string with a key.
#[must_use]
pub fn hash_bytes(key: u64, bytes: &[u8]) -> u64 {
    let mut hash = Hash128::new(key);
    hash.bytes(bytes);
    hash.finish64()
}

/// A running 128-bit hash over words and bytes, the same on every host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hash128 {
    a: u64,
    b: u64,
}

impl Hash128 {
    /// An empty hash under `key`.
    #[must_use]
    pub const fn new(key: u64) -> Self {
        Self { a: mix(key ^ K0), b: mix(key.wrapping_add(K1)) }
    }

    /// Adds one word.
    pub const fn word(&mut self, word: u64) {
        self.a = fold(self.a ^ word, K1 ^ self.b);
        self.b = self.b.wrapping_add(word ^ K2).rotate_left(29).wrapping_mul(K0) ^ self.a;
    }

    /// Adds bytes, eight at a time, and their number.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
        let rest = chunks.remainder();
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(word));
        self.word(bytes.len() as u64);
    }

    /// All 128 bits.
    #[must_use]
    pub const fn finish128(&self) -> u128 {
        let low = mix(self.a ^ self.b.rotate_left(17));
        let high = mix(self.b.wrapping_add(low) ^ K0);
        ((high as u128) << 64) | low as u128
    }

    /// The low 64 bits.
    #[must_use]
    pub const fn finish64(&self) -> u64 {
        self.finish128() as u64
    }
}

/// `#[derive(Hash)]` feeds this; every width is widened to 64 bits so that word size does not show.
impl Hasher for Hash128 {
    fn finish(&self) -> u64 {
        self.finish64()
    }
    fn write(&mut self, bytes: &[u8]) {
        self.bytes(bytes);
    }
    fn write_u8(&mut self, x: u8) {
        self.word(u64::from(x));
    }
    fn write_u16(&mut self, x: u16) {
        self.word(u64::from(x));
    }
    fn write_u32(&mut self, x: u32) {
        self.word(u64::from(x));
    }
    fn write_u64(&mut self, x: u64) {
        self.word(x);
    }
    fn write_usize(&mut self, x: usize) {
        self.word(x as u64);
    }
    #[allow(clippy::cast_sign_loss, reason = "a bit pattern is hashed, not a number")]
    fn write_isize(&mut self, x: isize) {
        self.word(x as i64 as u64);
    }
}
