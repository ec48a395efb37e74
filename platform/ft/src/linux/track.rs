//! Which pages were written since the last look.
//!
//! The kernel's way: a userfaultfd protects pages against writing, asynchronously (the first write takes the protection away
//! without asking anybody), and `PAGEMAP_SCAN` tells and protects again those that lost it, in one step (Linux 6.7). Where that
//! cannot be had, pages are hashed.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use super::system::told;
use super::{PAGE, Run};

/// How written pages are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// By the kernel's write protection. A page's first write after a checkpoint costs about 1 us more.
    Protected,
    /// By hashes of all pages at each checkpoint: about 0.4 ms per MB. Kernels before 6.7, or those that refuse userfaultfd.
    Hashed,
}

// linux/userfaultfd.h
const UFFD_USER_MODE_ONLY: libc::c_int = 1;
const UFFD_API: u64 = 0xAA;
const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const FEATURE_WP_ASYNC: u64 = 1 << 15;
const MODE_WP: u64 = 1 << 1;
const UFFDIO_API: libc::Ioctl = 0xc018_aa3f_u32 as libc::Ioctl;
const UFFDIO_REGISTER: libc::Ioctl = 0xc020_aa00_u32 as libc::Ioctl;
const UFFDIO_WRITEPROTECT: libc::Ioctl = 0xc018_aa06_u32 as libc::Ioctl;

// linux/fs.h
const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610_u32 as libc::Ioctl;
const SCAN_WP_MATCHING: u64 = 1;
const SCAN_CHECK_WPASYNC: u64 = 2;
const PAGE_IS_WRITTEN: u64 = 2;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    length: u64,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct WriteProtect {
    start: u64,
    length: u64,
    mode: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

#[repr(C)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    found: u64,
    found_length: u64,
    most_pages: u64,
    inverted: u64,
    mask: u64,
    any_of: u64,
    answer: u64,
}

/// Regions told by one call.
const TOLD: usize = 512;

#[derive(Debug)]
pub(super) struct Tracker {
    base: usize,
    way: Way,
}

enum Way {
    Protected { faults: OwnedFd, pages: File, found: Box<[Region; TOLD]> },
    Hashed(Vec<[u8; 32]>),
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Protected { .. } => "Protected",
            Self::Hashed(_) => "Hashed",
        })
    }
}

impl Tracker {
    /// For memory of ours from `base` on; nothing is tracked yet. `wanted` is tried, and if it is [`Tracking::Protected`] and
    /// cannot be had, pages are hashed.
    pub(super) fn new(base: usize, wanted: Tracking) -> Self {
        let protected = (wanted == Tracking::Protected).then(|| Self::protected().ok()).flatten();
        let way = protected.unwrap_or_else(|| Way::Hashed(Vec::new()));
        Self { base, way }
    }

    fn protected() -> io::Result<Way> {
        let how = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY;
        // SAFETY: no memory is passed.
        let fd = told(unsafe { libc::syscall(libc::SYS_userfaultfd, how) })?;
        let fd = RawFd::try_from(fd).unwrap_or(-1);
        // SAFETY: the kernel has just opened it for this process.
        let faults = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut api = Api { api: UFFD_API, features: FEATURE_WP_UNPOPULATED | FEATURE_WP_ASYNC, ioctls: 0 };
        // SAFETY: what is passed is as the request wants it, and outlives the call.
        told(unsafe { libc::ioctl(faults.as_raw_fd(), UFFDIO_API, &raw mut api) }.into())?;
        let pages = File::open("/proc/self/pagemap")?;
        let way = Way::Protected { faults, pages, found: Box::new([Region::default(); TOLD]) };
        // The request for pages is younger than the feature: asked once, about nothing.
        let mut none = Self { base: 0, way };
        none.scan(0, 0, &mut Vec::new())?;
        Ok(none.way)
    }

    pub(super) const fn tracking(&self) -> Tracking {
        match self.way {
            Way::Protected { .. } => Tracking::Protected,
            Way::Hashed(_) => Tracking::Hashed,
        }
    }

    /// Takes pages `from..to` in as they are now: unwritten.
    ///
    /// # Safety
    /// They must be readable memory of this process, mapped by it privately, for as long as this lives.
    pub(super) unsafe fn begin(&mut self, from: usize, to: usize) -> io::Result<()> {
        let (start, length) = ((self.base + from * PAGE) as u64, ((to - from) * PAGE) as u64);
        match &mut self.way {
            Way::Protected { faults, .. } => {
                let mut register = Register { start, length, mode: MODE_WP, ioctls: 0 };
                // SAFETY: what is passed is as the request wants it, and outlives the call.
                told(unsafe { libc::ioctl(faults.as_raw_fd(), UFFDIO_REGISTER, &raw mut register) }.into())?;
                let mut protect = WriteProtect { start, length, mode: 1 };
                // SAFETY: as above.
                told(unsafe { libc::ioctl(faults.as_raw_fd(), UFFDIO_WRITEPROTECT, &raw mut protect) }.into())?;
            }
            Way::Hashed(hashes) => {
                let mut hashes_of = Vec::with_capacity(to - from);
                for page in from..to {
                    // SAFETY: it is readable, as the caller promises.
                    hashes_of.push(unsafe { hash(self.base, page) });
                }
                hashes.truncate(from);
                hashes.extend(hashes_of);
            }
        }
        Ok(())
    }

    /// Appends the pages of `0..pages` that were written since the last look, in order.
    ///
    /// # Safety
    /// They must have [begun](Self::begin).
    pub(super) unsafe fn look(&mut self, pages: usize, runs: &mut Vec<Run>) -> io::Result<()> {
        if let Way::Hashed(hashes) = &mut self.way {
            for (page, known) in hashes.iter_mut().enumerate().take(pages) {
                // SAFETY: it has begun, so it is readable.
                let now = unsafe { hash(self.base, page) };
                if *known != now {
                    *known = now;
                    push(runs, page, 1);
                }
            }
            return Ok(());
        }
        self.scan(0, pages, runs)
    }

    fn scan(&mut self, from: usize, to: usize, runs: &mut Vec<Run>) -> io::Result<()> {
        let base = self.base;
        let Way::Protected { pages, found, .. } = &mut self.way else { return Ok(()) };
        let (mut start, end) = ((base + from * PAGE) as u64, (base + to * PAGE) as u64);
        loop {
            let mut scan = Scan {
                size: size_of::<Scan>() as u64,
                flags: SCAN_WP_MATCHING | SCAN_CHECK_WPASYNC,
                start,
                end,
                walk_end: 0,
                found: found.as_mut_ptr() as u64,
                found_length: TOLD as u64,
                most_pages: 0,
                inverted: 0,
                mask: PAGE_IS_WRITTEN,
                any_of: 0,
                answer: PAGE_IS_WRITTEN,
            };
            // SAFETY: what is passed is as the request wants it, and there is room for as many regions as it says.
            let many = told(unsafe { libc::ioctl(pages.as_raw_fd(), PAGEMAP_SCAN, &raw mut scan) }.into());
            let many = match many {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            for region in &found[..many.min(TOLD)] {
                let first = (region.start as usize - base) / PAGE;
                push(runs, first, (region.end - region.start) as usize / PAGE);
            }
            if scan.walk_end >= end || scan.walk_end <= start && many == 0 {
                return Ok(());
            }
            start = scan.walk_end;
        }
    }
}

/// Adds pages behind the last ones.
fn push(runs: &mut Vec<Run>, first: usize, count: usize) {
    let (first, count) = (first as u32, count as u32);
    match runs.last_mut() {
        Some(last) if last.first + last.count == first => last.count += count,
        _ => runs.push(Run { first, count }),
    }
}

/// # Safety
/// The page must be readable.
unsafe fn hash(base: usize, page: usize) -> [u8; 32] {
    // SAFETY: as the caller promises; pages that change meanwhile are hashed again at the next look.
    let bytes = unsafe { std::slice::from_raw_parts((base + page * PAGE) as *const u8, PAGE) };
    blake3::hash(bytes).into()
}
