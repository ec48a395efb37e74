//! Mappings: a store leaves no call behind.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU32, AtomicUsize};

use apus_capture::linux::{Bound, sys};
use libc::{c_int, c_void, off_t, size_t};

use super::state::{capture, file};

/// Shared mappings of files of the group that cannot be written through yet.
const READ_ONLY: usize = 64;

struct Mapping {
    start: AtomicUsize,
    end: AtomicUsize,
    index: AtomicU32,
    generation: AtomicU32,
}

static MAPPINGS: [Mapping; READ_ONLY] = [const {
    Mapping {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        index: AtomicU32::new(0),
        generation: AtomicU32::new(0),
    }
}; READ_ONLY];
static USED: AtomicUsize = AtomicUsize::new(0);

fn remember(start: usize, len: usize, bound: Bound) -> bool {
    for mapping in &MAPPINGS {
        if mapping.end.load(Relaxed) == 0 && mapping.start.compare_exchange(0, start, Relaxed, Relaxed).is_ok() {
            mapping.index.store(bound.index, Relaxed);
            mapping.generation.store(bound.generation, Relaxed);
            mapping.end.store(start + len, Release);
            USED.fetch_add(1, Release);
            return true;
        }
    }
    false
}

macro_rules! mmaps {
    ($($name:ident)*) => {hook! {$(
        fn $name(place: *mut c_void, len: size_t, protection: c_int, flags: c_int, fd: c_int, offset: off_t) -> *mut c_void, real => {
            let shared = fd >= 0 && flags & libc::MAP_ANONYMOUS == 0 && matches!(flags & libc::MAP_TYPE, libc::MAP_SHARED | libc::MAP_SHARED_VALIDATE);
            let Some(capture) = capture().filter(|_| shared) else { return real() };
            let writable = sys::flags(fd).is_ok_and(|flags| flags & libc::O_ACCMODE == libc::O_RDWR);
            let Some((bound, _)) = file(fd).filter(|_| writable) else { return real() };
            if protection & libc::PROT_WRITE != 0 {
                capture.untracked(bound);
                return real();
            }
            let mapped = real();
            if mapped != libc::MAP_FAILED && !remember(mapped as usize, len, bound) {
                capture.untracked(bound);
            }
            mapped
        };
    )*}};
}
mmaps!(mmap mmap64);

hook! {
    fn mprotect(place: *mut c_void, len: size_t, protection: c_int) -> c_int, real => {
        if USED.load(Acquire) > 0 && protection & libc::PROT_WRITE != 0 {
            let (start, end) = (place as usize, place as usize + len);
            for mapping in MAPPINGS.iter().filter(|mapping| mapping.start.load(Relaxed) < end && start < mapping.end.load(Acquire)) {
                if let Some(capture) = capture() {
                    capture.untracked(Bound { index: mapping.index.load(Relaxed), generation: mapping.generation.load(Relaxed) });
                }
            }
        }
        real()
    };
    fn munmap(place: *mut c_void, len: size_t) -> c_int, real => {
        if USED.load(Acquire) > 0 {
            let (start, end) = (place as usize, place as usize + len);
            for mapping in MAPPINGS.iter().filter(|mapping| mapping.end.load(Acquire) != 0) {
                if start <= mapping.start.load(Relaxed) && mapping.end.load(Relaxed) <= end {
                    mapping.end.store(0, Relaxed);
                    mapping.start.store(0, Release);
                    USED.fetch_sub(1, Relaxed);
                }
            }
        }
        real()
    };
}
