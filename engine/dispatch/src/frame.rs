//! Reading and writing a frame at any place, without a panic.

/// The bytes of one Ethernet frame, wherever they are. Reads and writes outside it fail.
pub trait Frame {
    /// `N` bytes from `at` on.
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]>;
    /// Puts `N` bytes at `at`; false, and nothing written, if they are not all inside.
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> bool;
    /// How many bytes there are.
    fn size(&self) -> usize;
    /// The same value. A kernel's verifier follows every way through the code for itself, unless the ways come together
    /// with values that it cannot tell apart: there a kernel's frame hides where a value came from.
    #[inline]
    fn hide(&self, value: usize) -> usize {
        value
    }
}

impl Frame for [u8] {
    #[inline]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.get(at..)?.first_chunk().copied()
    }

    #[inline]
    fn write<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> bool {
        let Some(place) = self.get_mut(at..).and_then(<[u8]>::first_chunk_mut) else { return false };
        *place = bytes;
        true
    }

    #[inline]
    fn size(&self) -> usize {
        self.len()
    }
}
