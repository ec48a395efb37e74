//! Hashes that contenders share, so that none wins by a better one.

pub(crate) use apus_dispatch::mix;

/// Key of the hash: any number will do.
pub(crate) const SEED: u64 = 0x1998_0a75;

/// Of a client, as the product hashes it.
#[inline]
pub(crate) const fn client(client: u32) -> u64 {
    apus_dispatch::hash_v4(SEED, client.to_be_bytes())
}

/// Of a pair.
#[inline]
pub(crate) const fn pair(a: u64, b: u64) -> u64 {
    mix(a.wrapping_add(b.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// A hash scaled to 0 up to `below`, by its highest bits.
#[inline]
pub(crate) const fn scale(hash: u64, below: u32) -> u32 {
    (((hash >> 32) * below as u64) >> 32) as u32
}
