//! `SQLite`, opened while the program runs: who measures without it needs no library.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;

type Open = unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> c_int;
type Exec = unsafe extern "C" fn(*mut c_void, *const c_char, *mut c_void, *mut c_void, *mut c_void) -> c_int;
type Prepare = unsafe extern "C" fn(*mut c_void, *const c_char, c_int, *mut *mut c_void, *mut *const c_char) -> c_int;
type BindText = unsafe extern "C" fn(*mut c_void, c_int, *const c_char, c_int, isize) -> c_int;
type Step = unsafe extern "C" fn(*mut c_void) -> c_int;
type Message = unsafe extern "C" fn(*mut c_void) -> *const c_char;

const OK: c_int = 0;
const DONE: c_int = 101;

/// A database with one statement, which inserts a row.
pub(crate) struct Database {
    db: *mut c_void,
    insert: *mut c_void,
    step: Step,
    reset: Step,
    message: Message,
    /// What the statement refers to.
    _value: CString,
}

/// The function of that name, as `T`.
///
/// # Safety
/// `T` is the function's type.
unsafe fn function<T: Copy>(library: *mut c_void, name: &CStr) -> io::Result<T> {
    // SAFETY: the library is open, the name ends with a zero.
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    if found.is_null() {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("libsqlite3 has no {}", name.to_string_lossy()),
        ));
    }
    // SAFETY: the caller's; a function's address and a pointer have one size.
    Ok(unsafe { std::mem::transmute_copy::<*mut c_void, T>(&found) })
}

/// The library; `None` if it is not installed.
fn library() -> Option<*mut c_void> {
    // SAFETY: the name ends with a zero.
    let library = unsafe { libc::dlopen(c"libsqlite3.so.0".as_ptr(), libc::RTLD_NOW) };
    (!library.is_null()).then_some(library)
}

/// Whether it is installed.
pub(crate) fn installed() -> bool {
    library().is_some()
}

impl Database {
    /// A new database at `path`, after `settings`.
    pub(crate) fn new(path: &str, settings: &[&str]) -> io::Result<Self> {
        let library = library().ok_or_else(|| io::Error::other("libsqlite3.so.0 is not installed"))?;
        // SAFETY: SQLite's own functions, as its header has them.
        let (open, exec) = (unsafe { function::<Open>(library, c"sqlite3_open") }?, unsafe {
            function::<Exec>(library, c"sqlite3_exec")
        }?);
        // SAFETY: as above.
        let (prepare, bind) = (unsafe { function::<Prepare>(library, c"sqlite3_prepare_v2") }?, unsafe {
            function::<BindText>(library, c"sqlite3_bind_text")
        }?);
        // SAFETY: as above.
        let (step, reset) = (unsafe { function::<Step>(library, c"sqlite3_step") }?, unsafe {
            function::<Step>(library, c"sqlite3_reset")
        }?);
        // SAFETY: as above.
        let message = unsafe { function::<Message>(library, c"sqlite3_errmsg") }?;
        let path = CString::new(path)?;
        let value = CString::new("x".repeat(100))?;
        let (mut db, mut insert) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the path ends with a zero.
        let done = unsafe { open(path.as_ptr(), &raw mut db) };
        let mut made = Self { db, insert, step, reset, message, _value: value };
        made.check(done, OK)?;
        let table = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)";
        for text in settings.iter().chain([&table]) {
            let text = CString::new(*text)?;
            // SAFETY: the text ends with a zero; nobody is called back.
            let done =
                unsafe { exec(db, text.as_ptr(), std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut()) };
            made.check(done, OK)?;
        }
        let text = c"INSERT INTO t(v) VALUES(?)";
        // SAFETY: the text ends with a zero.
        let done = unsafe { prepare(db, text.as_ptr(), -1, &raw mut insert, std::ptr::null_mut()) };
        made.check(done, OK)?;
        made.insert = insert;
        // SAFETY: the value lives as long as the statement (`SQLITE_STATIC`).
        let done = unsafe { bind(insert, 1, made._value.as_ptr(), 100, 0) };
        made.check(done, OK)?;
        Ok(made)
    }

    fn check(&self, done: c_int, wanted: c_int) -> io::Result<()> {
        if done == wanted {
            return Ok(());
        }
        // SAFETY: a database, open or failed to open.
        let text = unsafe { (self.message)(self.db) };
        // SAFETY: SQLite's text, ended by a zero.
        let text = unsafe { CStr::from_ptr(text) };
        Err(io::Error::other(format!("SQLite: {}", text.to_string_lossy())))
    }

    /// One row, in a transaction of its own.
    pub(crate) fn insert(&mut self) -> io::Result<()> {
        // SAFETY: the statement is ours.
        let done = unsafe { (self.step)(self.insert) };
        self.check(done, DONE)?;
        // SAFETY: as above.
        let done = unsafe { (self.reset)(self.insert) };
        self.check(done, OK)
    }
}
