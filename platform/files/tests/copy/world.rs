//! A copy in a folder of its own, a writer of records, and what its files should be.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use apus_engine::shipping::{Answer, Attributes, Base, Change, Entry, History, Record, Work};
use apus_engine::{Epoch, FileId, GroupId, Lsn, OpId, Rng};
use apus_files::{Globs, Settings, Store};

pub(crate) const GROUP: GroupId = GroupId(7);

/// A folder that goes with the test.
pub(crate) struct Place(pub(crate) PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// Somewhere to test, or why there is none.
pub(crate) fn place(name: &str) -> Place {
    let top = std::env::var_os("APUS_FILES_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let path = top.join(format!("apus-files-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(path.join("root")).expect("a folder");
    Place(path)
}

pub(crate) fn settings(place: &Path) -> Settings {
    Settings {
        group: GROUP,
        root: place.join("root"),
        state: place.join("state"),
        globs: Globs::new(&["**", "!*.foreign"]),
        log_bytes: 1 << 20,
    }
}

pub(crate) fn open(place: &Path) -> Store {
    std::fs::create_dir_all(place.join("root")).expect("a folder");
    match Store::open(settings(place)) {
        Ok(store) => store,
        Err(error) => panic!("{error}"),
    }
}

/// What the files should be: numbers and names, as in the simulator's tree.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Model {
    pub(crate) files: BTreeMap<FileId, Modelled>,
    pub(crate) names: BTreeMap<(FileId, Vec<u8>), FileId>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Sort {
    File(Vec<u8>),
    Dir,
    Link(Vec<u8>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Modelled {
    pub(crate) sort: Sort,
    mode: u32,
    owner: (u32, u32),
    mtime: u64,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) sort: Sort,
    mode: u32,
    owner: (u32, u32),
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path of the same file.
    first: Vec<u8>,
}

impl Model {
    pub(crate) fn apply(&mut self, change: &Change) {
        let key = |at: &Entry| (at.dir, at.name.clone());
        let new = |sort, mode| Modelled { sort, mode, owner: (0, 0), mtime: 0, xattrs: BTreeMap::new() };
        match change {
            Change::Create { file, at, mode } => {
                self.files.insert(*file, new(Sort::File(Vec::new()), *mode));
                self.names.insert(key(at), *file);
            }
            Change::Mkdir { file, at, mode } => {
                self.files.insert(*file, new(Sort::Dir, *mode));
                self.names.insert(key(at), *file);
            }
            Change::Symlink { file, at, target } => {
                self.files.insert(*file, new(Sort::Link(target.clone()), 0o777));
                self.names.insert(key(at), *file);
            }
            Change::Write { file, offset, bytes } | Change::Append { file, offset, bytes } => {
                if let Some(Sort::File(content)) = self.files.get_mut(file).map(|file| &mut file.sort) {
                    let (from, to) = (*offset as usize, *offset as usize + bytes.len());
                    if content.len() < to {
                        content.resize(to, 0);
                    }
                    content[from..to].copy_from_slice(bytes);
                }
            }
            Change::Truncate { file, length } => {
                if let Some(Sort::File(content)) = self.files.get_mut(file).map(|file| &mut file.sort) {
                    content.resize(*length as usize, 0);
                }
            }
            Change::Punch { file, offset, length } => {
                if let Some(Sort::File(content)) = self.files.get_mut(file).map(|file| &mut file.sort) {
                    let many = content.len();
                    content[(*offset as usize).min(many)..((offset + length) as usize).min(many)].fill(0);
                }
            }
            Change::Rename { file, from, to } => {
                if self.names.get(&key(from)) == Some(file) {
                    self.names.remove(&key(from));
                }
                self.names.insert(key(to), *file);
            }
            Change::Link { file, at } => drop(self.names.insert(key(at), *file)),
            Change::Unlink { at } | Change::Rmdir { at } => drop(self.names.remove(&key(at))),
            Change::Attributes { file, attributes } => {
                if let Some(file) = self.files.get_mut(file) {
                    (file.mode, file.owner) = (attributes.mode, (attributes.uid, attributes.gid));
                    file.mtime = attributes.mtime;
                }
            }
            Change::SetXattr { file, name, value } => {
                if let Some(file) = self.files.get_mut(file) {
                    file.xattrs.insert(name.clone(), value.clone());
                }
            }
            Change::RemoveXattr { file, name } => {
                if let Some(file) = self.files.get_mut(file) {
                    file.xattrs.remove(name);
                }
            }
            Change::Barrier { .. } | Change::Era { .. } => {}
        }
        let named: BTreeSet<FileId> = self.names.values().copied().collect();
        self.files.retain(|file, _| named.contains(file));
    }

    fn path(&self, dir: FileId, name: &[u8]) -> Option<Vec<u8>> {
        let mut out = name.to_vec();
        let mut at = dir;
        while at != FileId::ROOT {
            let ((parent, name), _) = self.names.iter().find(|(_, file)| **file == at)?;
            out = [&name[..], b"/", &out].concat();
            at = *parent;
        }
        Some(out)
    }

    /// All paths of a file.
    pub(crate) fn paths(&self, file: FileId) -> Vec<std::ffi::OsString> {
        use std::os::unix::ffi::OsStringExt as _;
        let names = self.names.iter().filter(|(_, named)| **named == file);
        names.filter_map(|((dir, name), _)| Some(std::ffi::OsString::from_vec(self.path(*dir, name)?))).collect()
    }

    /// By path.
    pub(crate) fn seen(&self) -> BTreeMap<Vec<u8>, Seen> {
        let mut first: BTreeMap<FileId, Vec<u8>> = BTreeMap::new();
        let mut paths: Vec<(Vec<u8>, FileId)> =
            self.names.iter().filter_map(|((dir, name), file)| Some((self.path(*dir, name)?, *file))).collect();
        paths.sort();
        let mut out = BTreeMap::new();
        for (path, file) in paths {
            let Some(is) = self.files.get(&file) else { continue };
            let first = first.entry(file).or_insert_with(|| path.clone()).clone();
            let (sort, mode, owner, xattrs) = (is.sort.clone(), is.mode, is.owner, is.xattrs.clone());
            out.insert(path, Seen { sort, mode, owner, xattrs, first });
        }
        out
    }
}

/// What is in a folder.
pub(crate) fn seen(root: &Path) -> BTreeMap<Vec<u8>, Seen> {
    let mut out = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("a name").path();
            let is = path.symlink_metadata().expect("it is there");
            let below = path.strip_prefix(root).expect("below").as_os_str().as_bytes().to_vec();
            let sort = if is.is_dir() {
                folders.push(path.clone());
                Sort::Dir
            } else if is.is_symlink() {
                Sort::Link(std::fs::read_link(&path).expect("a link").as_os_str().as_bytes().to_vec())
            } else {
                Sort::File(std::fs::read(&path).expect("a file"))
            };
            let mode = if is.is_symlink() { 0o777 } else { is.permissions().mode() & 0o7777 };
            let xattrs = if is.is_symlink() { BTreeMap::new() } else { xattrs(&path) };
            let seen = Seen { sort, mode, owner: (is.uid(), is.gid()), xattrs, first: is.ino().to_le_bytes().to_vec() };
            out.insert(below, seen);
        }
    }
    let mut first: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for (path, seen) in &mut out {
        seen.first = first.entry(seen.first.clone()).or_insert_with(|| path.clone()).clone();
    }
    out
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0; 65536];
    let many = rustix::fs::listxattr(path, &mut list[..]).expect("they are told");
    let mut out = BTreeMap::new();
    for name in list[..many].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")) {
        let mut value = vec![0; 65536];
        let many = rustix::fs::getxattr(path, name, &mut value[..]).expect("it is there");
        value.truncate(many);
        out.insert(name.to_vec(), value);
    }
    out
}

/// That files are what they should be, with the first difference.
pub(crate) fn same(root: &Path, model: &Model, what: &str) {
    equal(&seen(root), &model.seen(), what);
}

pub(crate) fn equal(are: &BTreeMap<Vec<u8>, Seen>, should: &BTreeMap<Vec<u8>, Seen>, what: &str) {
    for path in are.keys().chain(should.keys()) {
        let name = String::from_utf8_lossy(path);
        let short = |seen: Option<&Seen>| {
            seen.map(|seen| match &seen.sort {
                Sort::File(bytes) => format!("{} bytes, {seen:?}", bytes.len()).chars().take(300).collect(),
                _ => format!("{seen:?}"),
            })
        };
        assert!(
            are.get(path) == should.get(path),
            "{what}: {name}\n is     {:?}\n should {:?}",
            short(are.get(path)),
            short(should.get(path))
        );
    }
}

/// Writes a history.
pub(crate) struct Writer {
    pub(crate) history: History,
    pub(crate) model: Model,
    pub(crate) era: Epoch,
    next: u64,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self { history: History::default(), model: Model::default(), era: Epoch(1 << 20 | 1), next: 0 }
    }

    /// The next record.
    pub(crate) fn write(&mut self, change: Change) -> Vec<u8> {
        self.model.apply(&change);
        let lsn = self.history.end.next();
        let record = Record { group: GROUP, era: self.era, lsn, prev: self.history.check, change };
        let (bytes, _) = record.encode();
        let head = apus_engine::shipping::Head::read(&bytes).expect("it is whole");
        self.history.push(&head);
        bytes
    }

    pub(crate) fn base(&self) -> Base {
        Base { lsn: self.history.end, check: self.history.check, eras: self.history.eras.clone() }
    }

    /// A change that a program could make.
    pub(crate) fn any(&mut self, rng: &mut Rng) -> Change {
        loop {
            if let Some(change) = self.try_any(rng) {
                return change;
            }
        }
    }

    fn try_any(&mut self, rng: &mut Rng) -> Option<Change> {
        let model = &self.model;
        let dirs: Vec<FileId> = std::iter::once(FileId::ROOT)
            .chain(model.files.iter().filter(|(_, file)| file.sort == Sort::Dir).map(|(file, _)| *file))
            .collect();
        let files: Vec<FileId> =
            model.files.iter().filter(|(_, file)| matches!(file.sort, Sort::File(_))).map(|(file, _)| *file).collect();
        let dir = dirs[rng.below(dirs.len() as u64) as usize];
        let at = Entry { dir, name: vec![b'a' + rng.below(7) as u8] };
        let there = model.names.get(&(at.dir, at.name.clone())).copied();
        let file = if files.is_empty() { None } else { Some(files[rng.below(files.len() as u64) as usize]) };
        self.next += 1;
        let new = FileId(1000 + self.next);
        let length = |file: FileId| match &model.files[&file].sort {
            Sort::File(bytes) => bytes.len() as u64,
            _ => 0,
        };
        Some(match rng.below(20) {
            0..=3 if there.is_none() => Change::Create { file: new, at, mode: 0o600 | rng.below(64) as u32 },
            4 if there.is_none() && dirs.len() < 9 => Change::Mkdir { file: new, at, mode: 0o755 },
            5 if there.is_none() => Change::Symlink { file: new, at, target: b"../somewhere".to_vec() },
            6..=8 => {
                let (offset, many) = (rng.below(30_000), rng.between(1, 9_000));
                Change::Write { file: file?, offset, bytes: vec![1 + rng.below(255) as u8; many as usize] }
            }
            9 => {
                let file = file?;
                let many = rng.between(1, 500);
                Change::Append { file, offset: length(file), bytes: vec![7; many as usize] }
            }
            10 => Change::Truncate { file: file?, length: rng.below(20_000) },
            11 => Change::Punch { file: file?, offset: rng.below(20_000), length: rng.between(1, 9_000) },
            12 | 13 => {
                let names: Vec<_> = model.names.iter().collect();
                let ((from_dir, from_name), file) = names.get(rng.below(names.len().max(1) as u64) as usize)?;
                let from = Entry { dir: *from_dir, name: from_name.clone() };
                let is_dir = model.files[file].sort == Sort::Dir;
                if there == Some(**file) || is_dir && self.is_within(at.dir, **file) {
                    return None;
                }
                if let Some(over) = there {
                    let over_dir = model.files[&over].sort == Sort::Dir;
                    let full = model.names.keys().any(|(dir, _)| *dir == over);
                    if over_dir != is_dir || full {
                        return None;
                    }
                }
                Change::Rename { file: **file, from, to: at }
            }
            14 if there.is_none() => Change::Link { file: file?, at },
            15 | 16 => match model.files[&there?].sort {
                Sort::Dir if model.names.keys().any(|(dir, _)| Some(*dir) == there) => return None,
                Sort::Dir => Change::Rmdir { at },
                _ => Change::Unlink { at },
            },
            17 => {
                let attributes =
                    Attributes { mode: rng.below(512) as u32 | 0o400, uid: 5, gid: rng.below(9) as u32, mtime: 10 };
                Change::Attributes { file: file?, attributes }
            }
            18 => Change::SetXattr { file: file?, name: b"user.mark".to_vec(), value: vec![rng.below(9) as u8; 5] },
            19 => Change::RemoveXattr { file: file?, name: b"user.mark".to_vec() },
            _ => return None,
        })
    }

    fn is_within(&self, dir: FileId, file: FileId) -> bool {
        let mut at = dir;
        while at != FileId::ROOT {
            if at == file {
                return true;
            }
            let Some(((parent, _), _)) = self.model.names.iter().find(|(_, named)| **named == at) else { return false };
            at = *parent;
        }
        false
    }
}

/// Does one thing and expects it to be done.
pub(crate) fn done(store: &mut Store, work: &Work) {
    let answer = store.perform(work);
    assert!(matches!(answer, Some((_, Answer::Done))), "{work:?}: {answer:?}, {:?}", store.alarms());
}

pub(crate) fn append(store: &mut Store, records: Vec<u8>) {
    done(store, &Work::Append { op: OpId(1), staged: false, records, captured: 0 });
}

pub(crate) fn apply(store: &mut Store, upto: Lsn) {
    done(store, &Work::Apply { op: OpId(2), upto });
}

/// A copy that is not blank: its history begins here.
pub(crate) fn begin(store: &mut Store, writer: &mut Writer) {
    store.found().expect("it is found");
    append(store, writer.write(Change::Era { fresh: false }));
    done(store, &Work::Open { op: OpId(3), era: writer.era });
    assert_eq!(store.perform(&Work::Close { op: OpId(4) }), None);
    assert_eq!(store.happened().len(), 1);
    assert_eq!(store.open_era(), None);
}
