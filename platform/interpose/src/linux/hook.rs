//! How a function stands before the C library's.

use core::ffi::{CStr, c_void};
use core::sync::atomic::{AtomicPtr, Ordering::Relaxed};

/// The function of the same name that comes after ours.
pub(crate) struct Real {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Real {
    pub(crate) const fn new(name: &'static CStr) -> Self {
        Self { name, found: AtomicPtr::new(core::ptr::null_mut()) }
    }

    /// Looks it up: when the library is loaded, or at the first call if another library calls before that.
    pub(crate) fn resolve(&self) -> *mut c_void {
        let found = self.found.load(Relaxed);
        if !found.is_null() {
            return found;
        }
        // SAFETY: the name ends with a zero.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.found.store(found, Relaxed);
        found
    }
}

/// `hook! { fn name(args) -> type, real => body }`: exports `name`; `real()` calls the C library's with the same arguments.
macro_rules! hook {
    ($(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty, $real:ident => $body:expr;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> $ret {
            static REAL: $crate::linux::hook::Real = $crate::linux::hook::Real::new(
                match core::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) { Ok(name) => name, Err(_) => c"" });
            #[used]
            #[unsafe(link_section = ".init_array")]
            static RESOLVE: extern "C" fn() = { extern "C" fn resolve() { REAL.resolve(); } resolve };
            #[allow(unused_variables, reason = "not every function needs the one it stands before")]
            let $real = move || -> $ret {
                let found = REAL.resolve();
                if found.is_null() {
                    $crate::linux::state::errno(libc::ENOSYS);
                    // SAFETY: an integer or a pointer of zeros.
                    return unsafe { core::mem::zeroed() };
                }
                // SAFETY: the C library's function of this name has this type.
                let function = unsafe { core::mem::transmute::<*mut core::ffi::c_void, unsafe extern "C" fn($($ty),*) -> $ret>(found) };
                // SAFETY: the caller's arguments.
                unsafe { function($($arg),*) }
            };
            $body
        }
    )*};
}
