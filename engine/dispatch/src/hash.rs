//! From a client to its place in the table.
//!
//! A keyed multiply-and-shift hash: it spreads any set of addresses evenly, costs ten instructions and needs no wide
//! product, which kernel targets lack. It is not a cryptographic hash: whoever can watch which server answers may learn
//! to steer; whoever cannot, cannot.

const K0: u64 = 0xbf58_476d_1ce4_e5b9;
const K1: u64 = 0x94d0_49bb_1331_11eb;

/// Only the highest bits of a hash choose a slot, so the last step of the usual finaliser, which mends the lowest, is left
/// out.
#[inline]
const fn spread(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(K0);
    (x ^ (x >> 27)).wrapping_mul(K1)
}

/// The whole finaliser (`SplitMix64`), for those who need every bit. The engine has one of its own: neither crate knows the other.
#[cfg(feature = "alloc")]
#[inline]
#[must_use]
pub const fn mix(x: u64) -> u64 {
    let x = spread(x);
    x ^ (x >> 31)
}

/// Hash of an IPv4 client.
#[inline]
#[must_use]
pub const fn hash_v4(seed: u64, address: [u8; 4]) -> u64 {
    spread(seed ^ u32::from_le_bytes(address) as u64)
}

/// Hash of an IPv6 client.
#[inline]
#[must_use]
pub const fn hash_v6(seed: u64, address: [u8; 16]) -> u64 {
    let all = u128::from_be_bytes(address);
    #[allow(clippy::cast_possible_truncation, reason = "the two halves")]
    let (high, low) = ((all >> 64) as u64, all as u64);
    spread(spread(seed ^ high).wrapping_add(low))
}

/// The hash of a client, moved on by both ports.
#[inline]
#[must_use]
pub const fn with_ports(hash: u64, client: u16, cluster: u16) -> u64 {
    spread(hash ^ ((client as u64) << 16 | cluster as u64))
}
