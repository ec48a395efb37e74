//! New processes and programs: the library goes along.

use core::cell::UnsafeCell;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicUsize};

use apus_capture::linux::Reasons;
use libc::{c_char, c_int, c_void, pid_t};

use super::names::path;
use super::state::{PRELOAD, RING, capture, raw};

/// The longest text that is kept for programs whose environment lacks it.
const LIMIT: usize = 8192;

struct Kept {
    len: AtomicUsize,
    bytes: UnsafeCell<[u8; LIMIT]>,
}
// SAFETY: written once, before `len` is.
unsafe impl Sync for Kept {}

impl Kept {
    const fn new() -> Self {
        Self { len: AtomicUsize::new(0), bytes: UnsafeCell::new([0; LIMIT]) }
    }

    fn keep(&self, name: &[u8], value: &[u8]) {
        let len = name.len() + value.len();
        if len < LIMIT {
            // SAFETY: called once, by the thread that starts the library.
            let bytes = unsafe { &mut *self.bytes.get() };
            bytes[..name.len()].copy_from_slice(name);
            bytes[name.len()..len].copy_from_slice(value);
            self.len.store(len, Release);
        }
    }

    fn get(&self) -> Option<*const c_char> {
        (self.len.load(Acquire) > 0).then_some(self.bytes.get().cast::<c_char>().cast_const())
    }
}

static RING_TEXT: Kept = Kept::new();
static PRELOAD_TEXT: Kept = Kept::new();

/// Keeps what new programs need.
pub(super) fn remember(ring: *const c_char) {
    // SAFETY: a text of the environment.
    RING_TEXT.keep(RING, unsafe { path(ring) });
    // SAFETY: the name ends with a zero.
    let preload = unsafe { libc::getenv(c"LD_PRELOAD".as_ptr()) };
    // SAFETY: a text of the environment, or none.
    let preload = unsafe { path(preload) };
    if !preload.is_empty() {
        PRELOAD_TEXT.keep(PRELOAD, preload);
    }
}

fn mentions(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|window| window == what)
}

/// Runs `then` with an environment that has what the library needs. The room is the kernel's: this may run after a fork.
fn with(old: *const *const c_char, then: impl FnOnce(*const *const c_char) -> c_int) -> c_int {
    let (Some(_), Some(ring)) = (capture(), RING_TEXT.get()) else { return then(old) };
    let (mut count, mut has_ring, mut has_library) = (0, false, false);
    if !old.is_null() {
        loop {
            // SAFETY: the caller's list, ended by a null.
            let entry = unsafe { *old.wrapping_add(count) };
            if entry.is_null() {
                break;
            }
            // SAFETY: the caller's text.
            let text = unsafe { path(entry) };
            has_ring |= text.starts_with(RING);
            has_library |= text.starts_with(PRELOAD) && mentions(text, b"apus_interpose");
            count += 1;
        }
    }
    let preload = PRELOAD_TEXT.get().filter(|_| !has_library);
    if has_ring && preload.is_none() {
        return then(old);
    }
    let bytes = (count + 3) * size_of::<*const c_char>();
    let protection = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    let room =
        raw(libc::SYS_mmap, [0, bytes, protection, (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize, usize::MAX, 0]);
    if room < 0 {
        return then(old);
    }
    let list = core::ptr::with_exposed_provenance_mut::<*const c_char>(room as usize);
    let mut used = 0;
    let mut put = |entry: *const c_char| {
        // SAFETY: there is room for all of the old ones, two more and the end.
        let place = unsafe { list.add(used) };
        // SAFETY: as above.
        unsafe { place.write(entry) };
        used += 1;
    };
    for at in 0..count {
        // SAFETY: counted above.
        let entry = unsafe { *old.wrapping_add(at) };
        // SAFETY: the caller's text.
        let replaced = preload.is_some() && unsafe { path(entry) }.starts_with(PRELOAD);
        if !replaced {
            put(entry);
        }
    }
    if !has_ring {
        put(ring);
    }
    if let Some(preload) = preload {
        put(preload);
    }
    put(core::ptr::null());
    let result = then(list.cast_const());
    // Only a failure, or a program that was spawned beside, comes here.
    raw(libc::SYS_munmap, [room as usize, bytes]);
    result
}

unsafe extern "C" {
    static environ: *const *const c_char;
    fn execvpe(file: *const c_char, args: *const *const c_char, env: *const *const c_char) -> c_int;
}

fn own_environment() -> *const *const c_char {
    // SAFETY: the C library's; a program that changes it in another thread meanwhile breaks the C library too.
    unsafe { environ }
}

/// Lists of what a new process opens, by their addresses.
struct Lists {
    places: [AtomicUsize; 16],
    /// There was no room: every list may be one.
    any: AtomicBool,
}

impl Lists {
    fn has(&self, list: usize) -> bool {
        self.places.iter().any(|place| place.load(Relaxed) == list)
    }

    fn add(&self, list: *const c_void) {
        let list = list.addr();
        let free = |place: &AtomicUsize| place.compare_exchange(0, list, Relaxed, Relaxed).is_ok();
        if !self.has(list) && !self.places.iter().any(free) {
            self.any.store(true, Relaxed);
        }
    }

    fn remove(&self, list: *const c_void) {
        for place in &self.places {
            let _ = place.compare_exchange(list.addr(), 0, Relaxed, Relaxed);
        }
    }
}

/// Those with which a file of the group may be made or cut.
static LISTS: Lists = Lists { places: [const { AtomicUsize::new(0) }; 16], any: AtomicBool::new(false) };
/// Whether a list was told to change the directory.
static MOVED: AtomicBool = AtomicBool::new(false);

/// The C library opens what `list` says in the child, unseen.
fn opening(list: *const c_void, call: impl FnOnce() -> c_int) -> c_int {
    let unseen = !list.is_null() && (LISTS.any.load(Relaxed) || LISTS.has(list.addr()));
    let Some(capture) = capture().filter(|_| unseen) else { return call() };
    capture.lose(Reasons::CALL | Reasons::ALL);
    let result = call();
    // A listing may have come between. The child has opened all by now, or has failed.
    capture.lose(Reasons::CALL | Reasons::ALL);
    result
}

/// The real function with another environment.
macro_rules! with_environment {
    ($($name:ident($($arg:ident: $ty:ty),*) $(opens $list:ident)?;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $ty,)* env: *const *const c_char) -> c_int {
            type Function = unsafe extern "C" fn($($ty,)* *const *const c_char) -> c_int;
            static REAL: super::hook::Real = super::hook::Real::new(
                match core::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) { Ok(name) => name, Err(_) => c"" });
            #[used]
            #[unsafe(link_section = ".init_array")]
            static RESOLVE: extern "C" fn() = { extern "C" fn resolve() { REAL.resolve(); } resolve };
            // SAFETY: the C library's function of this name has this type; it is in every glibc.
            let function = unsafe { core::mem::transmute::<*mut c_void, Function>(REAL.resolve()) };
            // SAFETY: the caller's arguments.
            let call = || with(env, |env| unsafe { function($($arg,)* env) });
            $(let call = || opening($list, call);)?
            call()
        }
    )*};
}
type Texts = *const *const c_char;
with_environment! {
    execve(file: *const c_char, args: Texts);
    fexecve(fd: c_int, args: Texts);
    posix_spawn(pid: *mut pid_t, file: *const c_char, actions: *const c_void, attributes: *const c_void, args: Texts) opens actions;
    posix_spawnp(pid: *mut pid_t, file: *const c_char, actions: *const c_void, attributes: *const c_void, args: Texts) opens actions;
}

hook! {
    fn execv(file: *const c_char, args: *const *const c_char) -> c_int, real => {
        // SAFETY: the caller's arguments.
        unsafe { execve(file, args, own_environment()) }
    };
    fn execvp(file: *const c_char, args: *const *const c_char) -> c_int, real => {
        // SAFETY: the caller's arguments.
        with(own_environment(), |env| unsafe { execvpe(file, args, env) })
    };
    // The child of a vfork would change what the parent remembers of its descriptors.
    fn vfork() -> pid_t, real => {
        // SAFETY: no arguments.
        unsafe { libc::fork() }
    };
    // The file is opened by the C library, in the child.
    fn posix_spawn_file_actions_addopen(actions: *mut c_void, fd: c_int, name: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int, real => {
        if flags & (libc::O_TRUNC | libc::O_CREAT) != 0
            && let Some(capture) = capture()
        {
            // SAFETY: the caller's.
            let below = unsafe { path(name) };
            // Where a path leads that is not a whole one is known in the child alone once a list changes directories.
            let unknown = MOVED.load(Relaxed) && below.first() != Some(&b'/');
            if unknown || capture.concerns(libc::AT_FDCWD, below) {
                LISTS.add(actions);
            }
        }
        real()
    };
    fn posix_spawn_file_actions_addchdir_np(actions: *mut c_void, name: *const c_char) -> c_int, real => {
        MOVED.store(true, Relaxed);
        real()
    };
    fn posix_spawn_file_actions_addfchdir_np(actions: *mut c_void, fd: c_int) -> c_int, real => {
        MOVED.store(true, Relaxed);
        real()
    };
    fn posix_spawn_file_actions_init(actions: *mut c_void) -> c_int, real => {
        LISTS.remove(actions);
        real()
    };
    fn posix_spawn_file_actions_destroy(actions: *mut c_void) -> c_int, real => {
        LISTS.remove(actions);
        real()
    };
}
