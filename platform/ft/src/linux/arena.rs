//! A named stretch of memory that checkpoints hold.

use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use super::PAGE;
use super::system::Mapping;

/// Memory of this name, at the same address in every life. It starts as zeros, and in later lives as it was at the checkpoint that
/// was recovered.
///
/// What is kept here has to mean the same in the next life: addresses within the arenas do, addresses of anything else do not, nor
/// do descriptors, locks or thread numbers.
#[derive(Debug)]
pub struct Arena {
    base: NonNull<u8>,
    bytes: usize,
    _region: Arc<Mapping>,
}

// SAFETY: it is memory that belongs to no thread.
unsafe impl Send for Arena {}
// SAFETY: through a shared reference it is only read.
unsafe impl Sync for Arena {}

impl Arena {
    /// # Safety
    /// The pages must be within the region, and nobody else's.
    pub(super) unsafe fn new(region: &Arc<Mapping>, first: usize, pages: usize) -> Self {
        // SAFETY: it lies within the region, as the caller promises.
        let base = unsafe { region.base().add(first * PAGE) };
        let base = NonNull::new(base).expect("no region is at address zero");
        Self { base, bytes: pages * PAGE, _region: Arc::clone(region) }
    }

    /// Its first byte. The same in every life.
    #[must_use]
    pub const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// How many bytes: what was asked for, up to the next page.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes
    }

    /// Never: an arena has a page at least.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// All of it.
    #[must_use]
    pub const fn as_slice(&self) -> &[u8] {
        // SAFETY: it is mapped for as long as the region is held, and nobody else's; who writes has a reference of its own.
        unsafe { slice::from_raw_parts(self.base.as_ptr().cast_const(), self.bytes) }
    }

    /// All of it, to be changed.
    #[must_use]
    pub const fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above; and nobody else has a reference.
        unsafe { slice::from_raw_parts_mut(self.base.as_ptr(), self.bytes) }
    }
}
