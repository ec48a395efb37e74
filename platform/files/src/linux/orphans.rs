//! What only this copy has, saved before other files take its place. Only people remove it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use apus_engine::shipping::{Change, Record};
use apus_engine::{Epoch, FileId, GroupId, Lsn};

use super::disk::{self, Kind};
use super::index::Index;
use super::log::Log;
use super::sealed;
use super::tree::{Tree, said};

/// The name of what people read.
const MANIFEST: &str = "manifest.txt";

/// What was saved of a history that no other copy has. Only people remove it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The folder; `manifest.txt` in it can be read by people.
    pub path: PathBuf,
    /// The last era of that history.
    pub era: Epoch,
    /// The first record that was saved.
    pub from: Lsn,
    /// The last one; before `from` if there is none.
    pub upto: Lsn,
    /// Files that were saved whole.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What is saved of.
pub(super) struct Source<'a> {
    pub(super) group: GroupId,
    pub(super) log: &'a Log,
    pub(super) tree: &'a mut Tree,
    pub(super) index: &'a mut Index,
    /// The files are not what the log leads to: all are saved.
    pub(super) all: bool,
}

/// The name under which a file is saved.
fn saved_name(file: FileId) -> String {
    format!("{:016x}", file.0)
}

/// Saves the records from `from` on and the files that they touch, under a folder of its own, which is there whole or not at all.
pub(super) fn save(folder: &Path, from: Lsn, source: Source<'_>) -> io::Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let end = source.log.history().end;
    let era = source.log.history().eras.last().map(|last| last.era).unwrap_or_default();
    let part = folder.join(".part");
    super::shadow::clear(&part)?;
    std::fs::create_dir_all(part.join("files"))?;
    let mut records = File::create(part.join("records.bin"))?;
    let mut list = String::new();
    let mut touched = BTreeSet::new();
    let first = from.max(source.log.base().lsn.next());
    let mut at = first;
    while at <= end {
        let bytes = source.log.read(at, disk::CHUNK)?;
        let mut rest = &bytes[..];
        while let Ok((record, head)) = Record::read(rest) {
            rest = rest.get(head.size()..).unwrap_or_default();
            let _ = writeln!(list, "{} {} {}", record.lsn.0, record.era.0, said(&record.change));
            touch(source.index, &record.change, &mut touched);
            at = record.lsn.next();
        }
        if bytes.is_empty() {
            break;
        }
        records.write_all(&bytes)?;
    }
    records.sync_all()?;
    if source.all {
        touched.extend(source.index.nodes_from(FileId::ROOT).map(|(file, _)| file));
    }
    let (mut files, mut bytes, mut sums) = (0, 0, String::new());
    for file in touched {
        let Some(kind) = source.index.node(file).map(|node| node.kind) else { continue };
        let path = source.index.path(file).unwrap_or_default();
        let Some(fd) = source.tree.reach(source.index, file)? else { continue };
        let shown = String::from_utf8_lossy(&path).escape_debug().to_string();
        match kind {
            Kind::Regular => {
                let to = File::options()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(part.join("files").join(saved_name(file)))?;
                disk::copy(fd, to.as_fd())?;
                to.sync_all()?;
                let (hash, length) = hash(&to)?;
                let _ = writeln!(sums, "{} {length} files/{} {shown}", hash.to_hex(), saved_name(file));
                (files, bytes) = (files + 1, bytes + length);
            }
            Kind::Symlink => {
                let target = String::from_utf8_lossy(&disk::link_text(fd)?).escape_debug().to_string();
                let _ = writeln!(sums, "link {} {shown} -> {target}", saved_name(file));
            }
            Kind::Directory => drop(writeln!(sums, "directory {} {shown}", saved_name(file))),
        }
    }
    let what = format!(
        "What this copy of a group had and no other copy has. Nothing of Apus reads or removes it.\n\
         group {}\nera {}\nfrom {}\nupto {}\nfiles {files}\nbytes {bytes}\n{}\n\n\
         records.bin holds the records as they were in the log. Position, era, and what was done:\n{list}\n\
         Files as they were (BLAKE3, bytes, where it lies here, its name in the group):\n{sums}",
        source.group.0,
        era.0,
        first.0,
        end.0,
        if source.all { "all files: they were not what the log led to" } else { "files that the records touch" },
    );
    sealed::write(&part.join(MANIFEST), what.as_bytes())?;
    sealed::sync_folder(&part.join("files"))?;
    sealed::sync_folder(&part)?;
    let mut to = folder.join(format!("{}-{}", era.0, from.0));
    let mut again = 1;
    while to.exists() {
        again += 1;
        to = folder.join(format!("{}-{}-{again}", era.0, from.0));
    }
    std::fs::rename(&part, &to)?;
    sealed::sync_folder(folder)?;
    Ok(to)
}

fn touch(index: &Index, change: &Change, touched: &mut BTreeSet<FileId>) {
    match change {
        Change::Unlink { at } | Change::Rmdir { at } => touched.extend(index.at(at.dir, &at.name)),
        Change::Barrier { .. } | Change::Era { .. } => {}
        other => drop(touched.insert(other.file())),
    }
}

fn hash(file: &File) -> io::Result<(blake3::Hash, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; disk::CHUNK];
    let mut at = 0;
    loop {
        let got = disk::read_at(file, &mut buffer, at)?;
        hasher.update(&buffer[..got]);
        at += got as u64;
        if got < buffer.len() {
            return Ok((hasher.finalize(), at));
        }
    }
}

/// What was saved. Folders that are none of ours are left out.
pub(super) fn list(folder: &Path) -> io::Result<Vec<Saved>> {
    let mut out = Vec::new();
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(out),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(path.join(MANIFEST)) else { continue };
        let number = |word: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
            line.and_then(|line| line.parse::<u64>().ok()).unwrap_or_default()
        };
        out.push(Saved {
            era: Epoch(number("era")),
            from: Lsn(number("from")),
            upto: Lsn(number("upto")),
            files: number("files"),
            bytes: number("bytes"),
            path,
        });
    }
    out.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(out)
}
