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

/// A database.
pub(crate) struct Connection {
    db: *mut c_void,
    exec: Exec,
    message: Message,
}

// SAFETY: SQLite as distributions build it lets a connection go from one thread to another.
unsafe impl Send for Connection {}

/// A database with one statement, which inserts a row.
pub(crate) struct Database {
    connection: Connection,
    insert: *mut c_void,
    step: Step,
    reset: Step,
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

impl Connection {
    /// The database at `path`, which is made if there is none.
    pub(crate) fn open(path: &str) -> io::Result<Self> {
        let library = library().ok_or_else(|| io::Error::other("libsqlite3.so.0 is not installed"))?;
        // SAFETY: `SQLite`'s own function, as its header has it.
        let open = unsafe { function::<Open>(library, c"sqlite3_open") }?;
        // SAFETY: as above.
        let exec = unsafe { function::<Exec>(library, c"sqlite3_exec") }?;
        // SAFETY: as above.
        let message = unsafe { function::<Message>(library, c"sqlite3_errmsg") }?;
        let path = CString::new(path)?;
        let mut db = std::ptr::null_mut();
        // SAFETY: the path ends with a zero.
        let done = unsafe { open(path.as_ptr(), &raw mut db) };
        let made = Self { db, exec, message };
        made.check(done, OK)?;
        Ok(made)
    }

    /// Runs statements that answer nothing.
    pub(crate) fn run(&self, text: &str) -> io::Result<()> {
        let text = CString::new(text)?;
        let none = std::ptr::null_mut();
        // SAFETY: the text ends with a zero; nobody is called back.
        let done = unsafe { (self.exec)(self.db, text.as_ptr(), none, none, none) };
        self.check(done, OK)
    }

    fn check(&self, done: c_int, wanted: c_int) -> io::Result<()> {
        if done == wanted {
            return Ok(());
        }
        // SAFETY: a database, open or failed to open.
        let text = unsafe { (self.message)(self.db) };
        // SAFETY: `SQLite`'s text, ended by a zero.
        let text = unsafe { CStr::from_ptr(text) };
        Err(io::Error::other(format!("SQLite: {}", text.to_string_lossy())))
    }
}

impl Database {
    /// A new database at `path`, after `settings`.
    pub(crate) fn new(path: &str, settings: &[&str]) -> io::Result<Self> {
        let connection = Connection::open(path)?;
        for text in settings.iter().chain([&"CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)"]) {
            connection.run(text)?;
        }
        let library = library().ok_or_else(|| io::Error::other("libsqlite3.so.0 is not installed"))?;
        // SAFETY: `SQLite`'s own function, as its header has it.
        let prepare = unsafe { function::<Prepare>(library, c"sqlite3_prepare_v2") }?;
        // SAFETY: as above.
        let bind = unsafe { function::<BindText>(library, c"sqlite3_bind_text") }?;
        // SAFETY: as above.
        let step = unsafe { function::<Step>(library, c"sqlite3_step") }?;
        // SAFETY: as above.
        let reset = unsafe { function::<Step>(library, c"sqlite3_reset") }?;
        let (value, mut insert) = (CString::new("x".repeat(100))?, std::ptr::null_mut());
        let text = c"INSERT INTO t(v) VALUES(?)";
        // SAFETY: the text ends with a zero.
        let done = unsafe { prepare(connection.db, text.as_ptr(), -1, &raw mut insert, std::ptr::null_mut()) };
        connection.check(done, OK)?;
        // SAFETY: the value lives as long as the statement (`SQLITE_STATIC`).
        let done = unsafe { bind(insert, 1, value.as_ptr(), 100, 0) };
        connection.check(done, OK)?;
        Ok(Self { connection, insert, step, reset, _value: value })
    }

    /// One row, in a transaction of its own.
    pub(crate) fn insert(&mut self) -> io::Result<()> {
        // SAFETY: the statement is ours.
        let done = unsafe { (self.step)(self.insert) };
        self.connection.check(done, DONE)?;
        // SAFETY: as above.
        let done = unsafe { (self.reset)(self.insert) };
        self.connection.check(done, OK)
    }
}
