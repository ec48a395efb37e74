//! The workloads. Each runs in a process of its own that does a slot of work whenever it is told to.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use super::sqlite::{self, Database};
use crate::stats::Draw;

/// A workload.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// In one word.
    pub name: &'static str,
    /// What one operation is.
    pub about: &'static str,
    /// Operations of a slot.
    pub count: u64,
}

/// All workloads.
pub const KINDS: [Kind; 6] = [
    Kind { name: "sqlite-normal", about: "SQLite, WAL, synchronous NORMAL: a row each", count: 2000 },
    Kind { name: "sqlite-full", about: "SQLite, WAL, synchronous FULL: a row each", count: 250 },
    Kind { name: "random-fsync", about: "4 KiB at random in 64 MiB, fsync", count: 250 },
    Kind { name: "append", about: "4 KiB appended", count: 8000 },
    Kind { name: "rename", about: "create, 1 KiB, close, rename over", count: 250 },
    Kind { name: "redis", about: "Redis, append-only file, everysec: SET of 200 bytes", count: 15_000 },
];

impl Kind {
    /// What lacks on this machine, if anything does.
    pub(crate) fn lacks(&self) -> Option<&'static str> {
        match self.name {
            "sqlite-normal" | "sqlite-full" if !sqlite::installed() => {
                Some("libsqlite3.so.0 is not installed (Debian: libsqlite3-0)")
            }
            "redis" if !super::redis::installed() => {
                Some("redis-server or redis-benchmark is not installed (Debian: redis-server, redis-tools)")
            }
            _ => None,
        }
    }
}

trait Work {
    /// What belongs to no slot.
    fn prepare(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// One operation.
    fn operation(&mut self) -> io::Result<()>;
}

impl Work for Database {
    fn operation(&mut self) -> io::Result<()> {
        self.insert()
    }
}

const BLOCK: [u8; 4096] = [b'x'; 4096];

struct Random {
    file: File,
    draw: Draw,
}

impl Work for Random {
    fn operation(&mut self) -> io::Result<()> {
        self.file.write_all_at(&BLOCK, self.draw.below(16_384) << 12)?;
        self.file.sync_all()
    }
}

struct Append(File);

impl Work for Append {
    fn prepare(&mut self) -> io::Result<()> {
        self.0.set_len(0)
    }
    fn operation(&mut self) -> io::Result<()> {
        self.0.write_all(&BLOCK)
    }
}

struct Rename;

impl Work for Rename {
    fn operation(&mut self) -> io::Result<()> {
        let mut next = File::create("next.db")?;
        next.write_all(&BLOCK[..1024])?;
        drop(next);
        std::fs::rename("next.db", "current.db")
    }
}

fn make(kind: &str) -> io::Result<Box<dyn Work>> {
    let wal = "PRAGMA journal_mode=WAL";
    Ok(match kind {
        "sqlite-normal" => Box::new(Database::new("normal.db", &[wal, "PRAGMA synchronous=NORMAL"])?),
        "sqlite-full" => Box::new(Database::new("full.db", &[wal, "PRAGMA synchronous=FULL"])?),
        "random-fsync" => {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open("random.db")?;
            for at in 0..16_384 {
                file.write_all_at(&BLOCK, at << 12)?;
            }
            file.sync_all()?;
            Box::new(Random { file, draw: Draw(1) })
        }
        "append" => Box::new(Append(OpenOptions::new().append(true).create(true).open("append.db")?)),
        "rename" => Box::new(Rename),
        other => return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{other} is no workload"))),
    })
}

/// Processor time of this process so far, in nanoseconds.
fn processor() -> u64 {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is the kernel's.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut at) };
    at.tv_sec.unsigned_abs() * 1_000_000_000 + at.tv_nsec.unsigned_abs()
}

/// Does slots in the folder it runs in: for each line of its input, a number of operations, it says how many nanoseconds they took, and
/// how many of a processor.
pub(crate) fn worker(kind: &str) -> io::Result<()> {
    let mut work = make(kind)?;
    println!("ready");
    for line in io::stdin().lock().lines() {
        let count: u64 = line?.trim().parse().map_err(|_| io::Error::other("want a number of operations"))?;
        work.prepare()?;
        let (began, used) = (Instant::now(), processor());
        for _ in 0..count {
            work.operation()?;
        }
        println!("{} {}", began.elapsed().as_nanos(), processor() - used);
    }
    Ok(())
}
