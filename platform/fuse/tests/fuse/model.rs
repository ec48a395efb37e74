//! The simplest consumer that could be right: a tree in memory. It keeps what it looked like each time that it might be shown.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::sync::{Arc, Mutex};

use apus_capture::{Change, Consumer, Kind, Operation};

use crate::world::Entry;

#[derive(Clone, Debug)]
enum At {
    File(u64),
    Folder(u32),
    Link(Vec<u8>),
}

/// A tree in memory.
#[derive(Default)]
pub(crate) struct Model {
    names: BTreeMap<String, At>,
    files: BTreeMap<u64, (u32, Vec<u8>)>,
    last: u64,
    seen: Arc<Mutex<Seen>>,
}

/// What was shown.
#[derive(Default)]
pub(crate) struct Seen {
    /// Hashes of trees, without those that are like the one before.
    pub(crate) trees: Vec<u64>,
    /// The first eight bytes of each write, in order.
    pub(crate) writes: Vec<u64>,
    /// Operations, as text, for whoever looks for a fault, and how many trees were shown before.
    pub(crate) log: Vec<(usize, String)>,
}

impl Seen {
    /// Operations around a tree.
    pub(crate) fn logged(&self, tree: usize) -> String {
        let near = self.log.iter().filter(|(at, _)| (tree.saturating_sub(3)..tree + 3).contains(at));
        near.map(|(at, text)| format!("{at}: {text}")).collect::<Vec<_>>().join("\n")
    }
}

/// The hash of a tree, without owners.
pub(crate) fn hash(tree: &BTreeMap<String, Entry>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (path, (mode, _, _, bytes)) in tree {
        (path, mode, bytes).hash(&mut hasher);
    }
    hasher.finish()
}

impl Model {
    pub(crate) fn seen(&self) -> Arc<Mutex<Seen>> {
        Arc::clone(&self.seen)
    }

    fn tree(&self) -> BTreeMap<String, Entry> {
        let entry = |at: &At| match at {
            At::File(file) => {
                let (mode, bytes) = self.files.get(file).cloned().unwrap_or_default();
                (libc::S_IFREG | mode, 0, 0, bytes)
            }
            At::Folder(mode) => (libc::S_IFDIR | mode, 0, 0, Vec::new()),
            At::Link(target) => (libc::S_IFLNK | 0o777, 0, 0, target.clone()),
        };
        self.names.iter().map(|(path, at)| (path.clone(), entry(at))).collect()
    }

    fn with(&mut self, file: u64, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some((_, bytes)) = self.files.get_mut(&file) {
            change(bytes);
        }
    }

    /// Takes a name away, with all below it.
    fn cut(&mut self, path: &str) -> Vec<(String, At)> {
        let below = format!("{path}/");
        let gone: Vec<String> =
            self.names.keys().filter(|name| *name == path || name.starts_with(&below)).cloned().collect();
        gone.into_iter()
            .filter_map(|name| {
                let at = self.names.remove(&name)?;
                Some((name[path.len()..].to_string(), at))
            })
            .collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Names as text, bytes as their number.
fn short(change: &Change<'_>) -> String {
    match *change {
        Change::Write { offset, bytes } => format!("Write {offset} {} bytes of {:?}", bytes.len(), bytes.last()),
        Change::Create { path, mode } => format!("Create {} {mode:o}", text(path)),
        Change::Rename { from, to } => format!("Rename {} {}", text(from), text(to)),
        Change::Exchange { from, to } => format!("Exchange {} {}", text(from), text(to)),
        Change::Unlink { path } => format!("Unlink {}", text(path)),
        Change::Link { path } => format!("Link {}", text(path)),
        Change::Symlink { path, .. } => format!("Symlink {}", text(path)),
        ref other => format!("{other:?}"),
    }
}

fn missing(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{path} is not in the model"))
}

impl Consumer for Model {
    fn take(&mut self, operation: &Operation<'_>) -> io::Result<()> {
        let (file, seq) = (operation.file.0, operation.seq);
        assert!(seq >= self.last, "{seq} comes after {}", self.last);
        self.last = seq;
        match operation.change {
            Change::Bind { .. } => {}
            Change::Create { path, mode } => {
                assert_eq!(file, seq, "a file is called by the number of its first record");
                self.files.insert(file, (mode, Vec::new()));
                self.names.insert(text(path), At::File(file));
            }
            Change::Write { offset, bytes } => {
                let offset = offset as usize;
                self.with(file, |all| {
                    all.resize(all.len().max(offset + bytes.len()), 0);
                    all[offset..offset + bytes.len()].copy_from_slice(bytes);
                });
                let first = bytes.get(..8).map_or(0, |first| u64::from_ne_bytes(first.try_into().expect("eight")));
                self.seen.lock().expect("no thread ends with it").writes.push(first);
            }
            Change::Truncate { len } => self.with(file, |all| all.resize(len as usize, 0)),
            Change::Extend { len } => self.with(file, |all| all.resize(all.len().max(len as usize), 0)),
            Change::Zero { offset, len } => self.with(file, |all| {
                let end = (offset + len).min(all.len() as u64);
                if offset < end {
                    all[offset as usize..end as usize].fill(0);
                }
            }),
            Change::Rename { from, to } => {
                let (from, to) = (text(from), text(to));
                let moved = self.cut(&from);
                if moved.is_empty() {
                    return Err(missing(&from));
                }
                self.cut(&to);
                self.names.extend(moved.into_iter().map(|(rest, at)| (format!("{to}{rest}"), at)));
            }
            Change::Exchange { from, to } => {
                let (from, to) = (text(from), text(to));
                let (one, other) = (self.cut(&from), self.cut(&to));
                if one.is_empty() || other.is_empty() {
                    return Err(missing(&from));
                }
                self.names.extend(one.into_iter().map(|(rest, at)| (format!("{to}{rest}"), at)));
                self.names.extend(other.into_iter().map(|(rest, at)| (format!("{from}{rest}"), at)));
            }
            Change::Link { path } => {
                assert!(self.files.contains_key(&file), "a link to a file that is not known");
                self.names.insert(text(path), At::File(file));
            }
            Change::Symlink { path, target } => {
                self.names.insert(text(path), At::Link(target.to_vec()));
            }
            Change::Unlink { path } | Change::Rmdir { path } => {
                if self.names.remove(&text(path)).is_none() {
                    return Err(missing(&text(path)));
                }
            }
            Change::Mkdir { path, mode } => {
                self.names.insert(text(path), At::Folder(mode));
            }
            Change::Mode { path, mode } => match self.names.get_mut(&text(path)) {
                Some(At::Folder(old)) => *old = mode,
                Some(At::File(file)) => self.files.get_mut(file).expect("it has a file").0 = mode,
                _ => return Err(missing(&text(path))),
            },
            Change::Owner { .. } | Change::Times { .. } | Change::Sync | Change::Resynced => {}
            Change::SetAttribute { path, .. } | Change::RemoveAttribute { path, .. } => {
                if !self.names.contains_key(&text(path)) {
                    return Err(missing(&text(path)));
                }
            }
            Change::Listing { entries } => {
                self.names.clear();
                for listed in entries {
                    let at = match &listed.kind {
                        Kind::File => {
                            self.files.entry(listed.file.0).or_default().0 = listed.mode;
                            At::File(listed.file.0)
                        }
                        Kind::Directory => At::Folder(listed.mode),
                        Kind::Symlink(target) => At::Link(target.clone()),
                    };
                    self.names.insert(text(&listed.path), at);
                }
            }
        }
        let mut log = format!("{seq} {file} {} {:?}", operation.publish, short(&operation.change));
        log.truncate(300);
        let mut seen = self.seen.lock().expect("no thread ends with it");
        if operation.publish {
            let now = hash(&self.tree());
            if seen.trees.last() != Some(&now) {
                seen.trees.push(now);
            }
        }
        let shown = seen.trees.len();
        seen.log.push((shown, log));
        Ok(())
    }
}
