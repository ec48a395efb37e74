//! A program that says that it lives: a file of its own, with its first and newest moment on the boot clock, written each 2 ms. All
//! namespaces of a machine have one boot clock, so two files tell whether two copies lived at once.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use apus_os::linux::clock;

use super::judge::Span;

/// Between two signs of life. A copy that is ended has lived at most so much longer than it says.
pub(crate) const TICK: Duration = Duration::from_millis(2);

/// Lives until it is ended.
pub(crate) fn live(folder: &Path) -> io::Result<()> {
    let began = clock::boot();
    let file = File::create(folder.join(format!("{began}-{}", std::process::id())))?;
    loop {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(began / 1_000).to_le_bytes());
        bytes[8..].copy_from_slice(&(clock::boot() / 1_000).to_le_bytes());
        file.write_all_at(&bytes, 0)?;
        std::thread::sleep(TICK);
    }
}

/// When copies lived, in microseconds of the boot clock; those that lived after `since`.
pub(crate) fn lives(folder: &Path, since: u64) -> Vec<Span> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let bytes = fs::read(entry.path()).unwrap_or_default();
        let Some((first, rest)) = bytes.split_first_chunk::<8>() else { continue };
        let Some((last, _)) = rest.split_first_chunk::<8>() else { continue };
        let span = (u64::from_le_bytes(*first), u64::from_le_bytes(*last));
        if span.1 >= since {
            all.push(span);
        }
    }
    all.sort_unstable();
    all
}
