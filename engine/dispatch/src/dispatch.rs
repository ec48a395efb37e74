//! From a frame to its verdict.

use crate::any::any;
use crate::usual::usual;
use crate::{Frame, Here, Hooks, Table, Verdict};

/// The slot of a hash.
#[inline]
#[must_use]
pub const fn slot_of(hash: u64, log2_slots: u8) -> u32 {
    #[allow(clippy::cast_possible_truncation, reason = "the highest bits, 20 at most")]
    let slot = hash.wrapping_shr(64_u32.wrapping_sub(log2_slots as u32)) as u32;
    slot
}

/// Says what becomes of a frame, and rewrites it where the verdict is [`Verdict::Transmit`].
#[inline]
pub fn dispatch<F, T, H>(here: &Here, table: &T, hooks: &H, frame: &mut F) -> Verdict
where
    F: Frame + ?Sized,
    T: Table + ?Sized,
    H: Hooks + ?Sized,
{
    match usual(here, table, frame) {
        Some(()) => Verdict::Transmit,
        None => any(here, table, hooks, frame),
    }
}
