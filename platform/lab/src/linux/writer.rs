//! The program of a service with replicated files: rows that build on each other, what it found of them, and what it was told to be kept.
//!
//! What it tells goes to a file beside the machine's disks, as to a client far away: a line each, with the time on the boot clock.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use apus_os::linux::clock;

use crate::Error;
use crate::rows::{self, CURRENT, CURRENT_EVERY, LINE, PAGE, PAGES, Said, TOLD, What, line, page_of};

/// Every so many rows the program waits until all so far are kept.
const KEPT_EVERY: u64 = 4;
/// Between two looks whether to go on.
const REST: Duration = Duration::from_millis(5);

/// What rows are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Lines of a file, pages of a second, and a third that is replaced by renaming.
    Files,
    /// A table of `SQLite`, through the program `sqlite3`, and a diary that nobody waits for.
    Sqlite,
}

trait Rows {
    /// How many rows are there; the second is what is wrong with them.
    fn found(&mut self) -> io::Result<(u64, Option<String>)>;
    /// Adds this row; whether all so far are kept then.
    fn add(&mut self, row: u64) -> io::Result<bool>;
}

/// Writes rows into `root`, `rate` a second, for ever, and tells of them in `folder`; while that holds a file `quiet` it rests. `ready` is
/// called once it has looked at what was there.
///
/// # Errors
/// If a file cannot be written, or is not kept.
pub(super) fn write((kind, root, rate): (Kind, &Path, u32), folder: &Path, ready: &dyn Fn()) -> Result<(), Error> {
    let failed = |error: io::Error| Error::Failed(format!("{}: {error}", root.display()));
    let told = File::options().create(true).append(true).open(folder.join(TOLD));
    let mut told = told.map_err(|error| Error::Failed(format!("{}: {error}", folder.display())))?;
    let life = format!("{}.{}", folder.file_name().unwrap_or_default().display(), std::process::id());
    let mut rows: Box<dyn Rows> = match kind {
        Kind::Files => Box::new(Lines::open(root, &life).map_err(failed)?),
        Kind::Sqlite => Box::new(Sqlite::open(root).map_err(failed)?),
    };
    if kind == Kind::Sqlite {
        let (root, folder) = (root.to_path_buf(), folder.to_path_buf());
        std::thread::spawn(move || diary(&root, &folder));
    }
    let mut tell = |row, what| {
        let said = Said { at: clock::boot(), life: life.clone(), row, what };
        told.write_all(said.line().as_bytes()).map_err(|error| Error::Failed(error.to_string()))
    };
    let (had, wrong) = rows.found().map_err(failed)?;
    tell(had, What::Found(wrong))?;
    ready();
    let every = Duration::from_secs(1) / rate.max(1);
    let mut due = Instant::now();
    for row in had + 1.. {
        while folder.join("quiet").exists() {
            sleep(REST);
            due = Instant::now();
        }
        sleep(due.saturating_duration_since(Instant::now()));
        due = (due + every).max(Instant::now());
        if rows.add(row).map_err(failed)? {
            tell(row, What::Kept)?;
        }
    }
    Ok(())
}

/// A line each few milliseconds for which nobody waits: of a machine that fails others do not have the last ones.
fn diary(root: &Path, folder: &Path) -> io::Result<()> {
    let mut file = File::options().create(true).append(true).open(root.join("diary"))?;
    loop {
        if !folder.join("quiet").exists() {
            file.write_all(format!("{}\n", clock::boot()).as_bytes())?;
        }
        sleep(REST);
    }
}

/// See [`rows`](crate::rows) for what they are.
struct Lines {
    root: PathBuf,
    life: String,
    rows: File,
    pages: File,
}

impl Lines {
    fn open(root: &Path, life: &str) -> io::Result<Self> {
        let rows = File::options().create(true).append(true).open(root.join(rows::ROWS))?;
        let pages = File::options().create(true).write(true).truncate(false).open(root.join(PAGES))?;
        Ok(Self { root: root.to_path_buf(), life: life.to_owned(), rows, pages })
    }

    /// All of a row but its line.
    fn rest(&mut self, row: u64) -> io::Result<()> {
        self.pages.seek(SeekFrom::Start(page_of(row) * PAGE))?;
        self.pages.write_all(&rows::page(row))?;
        if row.is_multiple_of(CURRENT_EVERY) {
            let new = self.root.join(format!("{CURRENT}.new"));
            let mut file = File::create(&new)?;
            file.write_all(format!("{row}\n").as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, self.root.join(CURRENT))?;
        }
        Ok(())
    }
}

impl Rows for Lines {
    fn found(&mut self) -> io::Result<(u64, Option<String>)> {
        let found = rows::look(&self.root)?;
        // A line that a power failure cut was not kept.
        self.rows.set_len(found.rows * LINE)?;
        if found.rows > 0 {
            self.rest(found.rows)?;
        }
        Ok((found.rows, found.wrong))
    }

    fn add(&mut self, row: u64) -> io::Result<bool> {
        self.rows.write_all(line(row, &self.life).as_bytes())?;
        self.rest(row)?;
        if !row.is_multiple_of(KEPT_EVERY) {
            return Ok(false);
        }
        self.pages.sync_data()?;
        self.rows.sync_data().map(|()| true)
    }
}

/// Every commit is durable.
struct Sqlite {
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    _child: Child,
}

impl Sqlite {
    fn open(root: &Path) -> io::Result<Self> {
        let mut child =
            Command::new("sqlite3").arg(root.join("books.db")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let none = || io::Error::other("no pipe");
        let (to, from) = (child.stdin.take().ok_or_else(none)?, child.stdout.take().ok_or_else(none)?);
        let mut own = Self { to, from: BufReader::new(from), _child: child };
        own.ask(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE IF NOT EXISTS rows (n INTEGER PRIMARY KEY, t TEXT);",
        )?;
        Ok(own)
    }

    /// All lines of an answer.
    fn ask(&mut self, what: &str) -> io::Result<Vec<String>> {
        writeln!(self.to, "{what}\nSELECT 'end';")?;
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.from.read_line(&mut line)? == 0 {
                return Err(io::Error::other("sqlite3 has ended"));
            }
            match line.trim_end() {
                "end" => return Ok(lines),
                line => lines.push(line.to_owned()),
            }
        }
    }
}

impl Rows for Sqlite {
    fn found(&mut self) -> io::Result<(u64, Option<String>)> {
        let whole = self.ask("PRAGMA integrity_check;")?;
        let counts = self.ask("SELECT count(*), coalesce(max(n), 0) FROM rows;")?;
        let mut numbers = counts.first().map_or("", |line| line).split('|').filter_map(|word| word.parse::<u64>().ok());
        let (Some(many), Some(last)) = (numbers.next(), numbers.next()) else {
            return Err(io::Error::other(format!("sqlite3 counts {counts:?}")));
        };
        let wrong = if whole != ["ok"] {
            Some(format!("the database is damaged: {whole:?}"))
        } else {
            (many != last).then(|| format!("there are {many} rows, the last is {last}"))
        };
        Ok((last, wrong))
    }

    fn add(&mut self, row: u64) -> io::Result<bool> {
        // What it refuses it says on standard error, and answers nothing.
        let answer = self.ask(&format!("INSERT INTO rows VALUES ({row}, hex(randomblob(100))); SELECT changes();"))?;
        if answer == ["1"] { Ok(true) } else { Err(io::Error::other(format!("row {row}: {answer:?}"))) }
    }
}

/// A tree as names and contents.
pub(crate) fn tree(folder: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let (mut all, mut open) = (std::collections::BTreeMap::new(), vec![folder.to_path_buf()]);
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let mut bytes = Vec::new();
            let _ = File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes));
            all.insert(path.strip_prefix(folder).unwrap_or(&path).to_path_buf(), bytes);
        }
    }
    all
}
