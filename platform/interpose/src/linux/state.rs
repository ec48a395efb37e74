//! What a process knows: its ring, and what each descriptor is to the group.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU32, AtomicU64};

use apus_capture::linux::sys::{self, Errno};
use apus_capture::linux::{Bound, Bug, Capture, Class, Mark, Source, Stale, Target};
use libc::{c_char, c_int};

/// Descriptors whose class is remembered; higher ones are looked at each time.
const DESCRIPTORS: usize = 1 << 20;
/// What the library needs in the environment.
pub(crate) const RING: &[u8] = b"APUS_CAPTURE=";
pub(crate) const PRELOAD: &[u8] = b"LD_PRELOAD=";

const UNKNOWN: u64 = 0;
const NEVER: u64 = 1;
const OUTSIDE: u64 = 2;
const FILE: u64 = 4;
const APPENDS: u64 = 8;
/// Opened so that writes return once they are on the disk.
const DURABLE: u64 = 16;
/// One of the group's. Looked at anew whenever it is put on the disk, since it may be moved.
const DIRECTORY: u64 = 32;

const NEW: u32 = 0;
const STARTING: u32 = 1;
const READY: u32 = 2;
const NONE: u32 = 3;

static FDS: [AtomicU64; DESCRIPTORS] = [const { AtomicU64::new(UNKNOWN) }; DESCRIPTORS];
static STATE: AtomicU32 = AtomicU32::new(NEW);
static CAPTURE: Once = Once(UnsafeCell::new(MaybeUninit::uninit()));

struct Once(UnsafeCell<MaybeUninit<Capture>>);
// SAFETY: written once, by whoever moved `STATE` to `STARTING`, and read only when it is `READY`.
unsafe impl Sync for Once {}

/// Sets the thread's error number.
pub(crate) fn errno(number: i32) {
    // SAFETY: the C library's own place of this thread.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { *place = number };
}

/// The kernel's result as the C library's.
pub(crate) fn finish(result: isize) -> isize {
    if result < 0 {
        errno(-result as i32);
        return -1;
    }
    result
}

/// The kernel's result of a call with these arguments.
pub(crate) fn raw<const N: usize>(number: libc::c_long, args: [usize; N]) -> isize {
    let mut all = [0; 6];
    all[..N].copy_from_slice(&args);
    // SAFETY: the arguments are those that the program gave for the same call.
    unsafe { sys::call(number, all) }
}

/// The ring of this process, if it has one.
pub(crate) fn capture() -> Option<&'static Capture> {
    match STATE.load(Acquire) {
        READY => {}
        NONE => return None,
        _ => {
            if !start() {
                return None;
            }
        }
    }
    // SAFETY: it is ready.
    let place = unsafe { &*CAPTURE.0.get() };
    // SAFETY: as above.
    Some(unsafe { place.assume_init_ref() })
}

#[cold]
fn start() -> bool {
    if STATE.compare_exchange(NEW, STARTING, Acquire, Acquire).is_err() {
        // Another thread is at it; it makes no call of ours and waits for nothing.
        while STATE.load(Acquire) == STARTING {
            core::hint::spin_loop();
        }
        return STATE.load(Acquire) == READY;
    }
    // SAFETY: the name ends with a zero.
    let path = unsafe { libc::getenv(c"APUS_CAPTURE".as_ptr()) };
    let made = if path.is_null() { Err(Errno(0)) } else { attach(path) };
    match made {
        Ok(capture) => {
            // SAFETY: no other thread has the state to be here.
            let place = unsafe { &mut *CAPTURE.0.get() };
            place.write(capture);
            super::process::remember(path);
            // SAFETY: a function without arguments.
            unsafe { libc::pthread_atfork(None, None, Some(forked)) };
            STATE.store(READY, Release);
            true
        }
        Err(error) => {
            if error.0 != 0 {
                complain(path);
            }
            STATE.store(NONE, Release);
            false
        }
    }
}

fn attach(path: *const c_char) -> Result<Capture, Errno> {
    let fd = sys::openat(libc::AT_FDCWD, path, libc::O_RDWR)?;
    let capture = Capture::attach(fd);
    sys::close(fd);
    #[cfg_attr(not(debug_assertions), allow(unused_mut, reason = "faults are planted in debug builds only"))]
    let mut capture = capture?;
    #[cfg(debug_assertions)]
    {
        // SAFETY: the name ends with a zero.
        let bug = unsafe { libc::getenv(c"APUS_CAPTURE_BUG".as_ptr()) };
        if !bug.is_null() {
            // SAFETY: a text of the environment.
            let bug = unsafe { apus_capture::linux::text(bug) };
            capture.plant(match bug {
                b"no-copy" => Bug::NoCopy,
                b"late-sequence" => Bug::LateSequence,
                _ => Bug::None,
            });
        }
    }
    let _ = Bug::None;
    Ok(capture)
}

/// A program that was to be captured and is not says so once.
fn complain(path: *const c_char) {
    // SAFETY: a text of the environment.
    let path = unsafe { apus_capture::linux::text(path) };
    for text in [
        b"apus: APUS_CAPTURE names no ring that can be used; file operations are not captured: ".as_slice(),
        path,
        b"\n",
    ] {
        raw(libc::SYS_write, [2, text.as_ptr() as usize, text.len()]);
    }
}

extern "C" fn forked() {
    if STATE.load(Acquire) == READY
        && let Some(capture) = capture()
    {
        capture.forked();
    }
}

/// Another program or descriptor has this number now, or none.
pub(crate) fn forget(fd: c_int) {
    if let Some(slot) = FDS.get(fd as usize) {
        slot.store(UNKNOWN, Relaxed);
    }
}

/// Forgets `from..=to`.
pub(crate) fn forget_all(from: usize, to: usize) {
    for slot in FDS.iter().take(to.saturating_add(1)).skip(from) {
        // Untouched pages stay so.
        if slot.load(Relaxed) != UNKNOWN {
            slot.store(UNKNOWN, Relaxed);
        }
    }
}

/// `to` is the same as `from` now.
pub(crate) fn same(from: c_int, to: c_int) {
    let value = FDS.get(from as usize).map_or(UNKNOWN, |slot| slot.load(Relaxed));
    if let Some(slot) = FDS.get(to as usize) {
        slot.store(value, Relaxed);
    }
}

/// What an open call found out.
pub(crate) fn learn(fd: c_int, class: Option<Class>, flags: c_int) {
    let Some(slot) = FDS.get(fd as usize) else { return };
    let appends = if flags & libc::O_APPEND != 0 { APPENDS } else { 0 };
    let durable = if flags & libc::O_DSYNC != 0 { DURABLE } else { 0 };
    slot.store(class.map_or(UNKNOWN, |class| encode(class, appends | durable)), Relaxed);
}

/// Whether writes go to the end, for all descriptors of the same file: which of them share it is not known.
pub(crate) fn appends(fd: c_int, yes: bool) {
    let Some((bound, _)) = file(fd) else { return };
    let same = encode(Class::File(bound), 0);
    // Who has more open descriptors than this changes the flag before it writes, if at all.
    for slot in FDS.iter().take(4096) {
        let value = slot.load(Relaxed);
        if value & !(APPENDS | DURABLE) == same {
            slot.store(if yes { value | APPENDS } else { value & !APPENDS }, Relaxed);
        }
    }
}

fn encode(class: Class, how: u64) -> u64 {
    match class {
        Class::Never => NEVER,
        Class::Directory => DIRECTORY,
        Class::Outside(entered) => OUTSIDE | u64::from(entered) << 8,
        Class::File(bound) => FILE | how | u64::from(bound.index) << 8 | u64::from(bound.generation) << 32,
    }
}

/// The file of the group behind `fd`, and whether writes go to its end.
#[inline]
pub(crate) fn file(fd: c_int) -> Option<(Bound, bool)> {
    of(capture()?, fd)
}

#[inline]
fn of(capture: &Capture, fd: c_int) -> Option<(Bound, bool)> {
    let value = FDS.get(fd as usize).map_or(UNKNOWN, |slot| slot.load(Relaxed));
    if value == NEVER || value & 0xff == OUTSIDE && (value >> 8) as u32 == capture.entered() {
        return None;
    }
    if value & FILE != 0 {
        return Some((
            Bound { index: (value >> 8) as u32 & 0x00ff_ffff, generation: (value >> 32) as u32 },
            value & APPENDS != 0,
        ));
    }
    look(capture, fd)
}

#[cold]
fn look(capture: &Capture, fd: c_int) -> Option<(Bound, bool)> {
    if fd < 0 {
        return None;
    }
    let flags = sys::flags(fd).unwrap_or(0);
    let class = capture.classify(fd);
    learn(fd, Some(class), flags);
    match class {
        Class::File(bound) => Some((bound, flags & libc::O_APPEND != 0)),
        _ => None,
    }
}

/// An operation on bytes: `real` if the file does not belong to the group, else `call`, the same by the kernel's convention, with its
/// record. `source` gets whether writes go to the end.
#[inline]
pub(crate) fn bytes(
    fd: c_int,
    source: impl Fn(bool) -> Source,
    real: impl FnOnce() -> isize,
    call: impl FnMut() -> isize,
) -> isize {
    bytes_as(fd, false, source, real, call)
}

/// The same; `durable`: the call returns once the bytes are on the disk, however the file was opened.
#[inline]
pub(crate) fn bytes_as(
    fd: c_int,
    durable: bool,
    source: impl Fn(bool) -> Source,
    real: impl FnOnce() -> isize,
    mut call: impl FnMut() -> isize,
) -> isize {
    loop {
        let Some(capture) = capture() else { return real() };
        let Some((bound, appends)) = of(capture, fd) else { return real() };
        match capture.change(bound, fd, source(appends), &mut call) {
            Ok(result) => {
                if result > 0 && capture.awaits() && (durable || is_durable(fd)) && !kept(capture, fd) {
                    return finish(-(libc::EIO as isize));
                }
                return finish(result);
            }
            Err(Stale) => forget(fd),
        }
    }
}

/// Whether writes of this descriptor return once they are on the disk.
fn is_durable(fd: c_int) -> bool {
    match FDS.get(fd as usize) {
        Some(slot) => slot.load(Relaxed) & DURABLE != 0,
        None => sys::flags(fd).unwrap_or(0) & libc::O_DSYNC != 0,
    }
}

/// Waits until the copies have what was written so far; `false`: the time for it is over.
#[cold]
fn kept(capture: &Capture, fd: c_int) -> bool {
    marked(capture, fd).is_none_or(|marked| released(capture, fd, marked))
}

/// What is put on the disk by way of `fd`; `None`: nothing of the group.
fn target(capture: &Capture, fd: c_int) -> Option<Target> {
    if let Some((bound, _)) = of(capture, fd) {
        return Some(Target::File(bound));
    }
    let names = match FDS.get(fd as usize) {
        Some(slot) => slot.load(Relaxed) == DIRECTORY,
        None => capture.classify(fd) == Class::Directory,
    };
    names.then_some(Target::Names)
}

/// What `fd` is open on is about to be put on the disk; `None`: it does not belong to the group.
pub(crate) fn marked(capture: &Capture, fd: c_int) -> Option<(Target, Mark)> {
    loop {
        let target = target(capture, fd)?;
        match capture.mark(target) {
            Ok(mark) => return Some((target, mark)),
            Err(Stale) => forget(fd),
        }
    }
}

/// All that there is is about to be put on the disk.
pub(crate) fn marked_all(capture: &Capture) -> Option<(Target, Mark)> {
    capture.mark(Target::Names).ok().map(|mark| (Target::Names, mark))
}

/// Waits until the copies have what was marked; `false`: the time for it is over.
pub(crate) fn released(capture: &Capture, fd: c_int, mut marked: (Target, Mark)) -> bool {
    loop {
        let (target, mark) = marked;
        match capture.wait_released(target, mark) {
            Ok(in_time) => return in_time,
            Err(Stale) => forget(fd),
        }
        match self::marked(capture, fd) {
            Some(next) => marked = next,
            // It has no name any more.
            None => return true,
        }
    }
}
