//! Files that the kernel or the group knows, and their names.

use std::collections::{BTreeSet, HashMap};
use std::ffi::CStr;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use apus_capture::linux::sys::{Errno, Handle};

use super::backing::{self, Done, Found};
use super::protocol::ROOT;

/// Folders that are kept open, so that they need not be found by their handle each time.
const KEPT: usize = 4096;
/// Ranges of a file that are remembered one by one while the order is lost.
const SPANS: usize = 8;

/// How a file is open, and what it is to the group. Its lock makes one order of all that is done to its bytes.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Its number in the group; 0: it is not in it.
    pub(super) file: u64,
    /// What must be read again, as the order is lost.
    pub(super) whole: bool,
    pub(super) spans: Vec<(u64, u64)>,
    /// Open in passthrough: the kernel wants all openings of a file to be alike.
    pub(super) through: u32,
    /// Those of them that may write.
    pub(super) through_writers: u32,
    /// The kernel's number for the file underneath, while it is open in passthrough.
    pub(super) backing: i32,
    /// Open through this process.
    pub(super) cached: u32,
    /// Written in passthrough since the kernel kept pages of it.
    pub(super) stale: bool,
    /// In the group, and written by programs that opened it before it was.
    pub(super) untracked: bool,
}

impl State {
    /// These bytes must be read again.
    pub(super) fn remember(&mut self, start: u64, end: u64) {
        self.spans.push((start, end));
        if self.spans.len() > SPANS {
            let start = self.spans.iter().map(|span| span.0).min().unwrap_or(0);
            let end = self.spans.iter().map(|span| span.1).max().unwrap_or(u64::MAX);
            self.spans = vec![(start, end)];
        }
    }
}

/// One file, whatever its names are.
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) key: [u64; 3],
    pub(super) found: Kind,
    handle: Handle,
    fd: Option<OwnedFd>,
    lookups: AtomicU64,
    state: Mutex<State>,
}

/// What a node is; that never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    Other,
}

impl Kind {
    pub(super) fn of(found: &Found) -> Self {
        match () {
            () if found.is_file() => Self::File,
            () if found.is_dir() => Self::Directory,
            () if found.is_link() => Self::Symlink,
            () => Self::Other,
        }
    }
}

/// A descriptor of a node: kept, or for this once.
pub(super) enum Reached<'a> {
    Kept(&'a OwnedFd),
    Once(OwnedFd),
}

impl Reached<'_> {
    pub(super) fn raw(&self) -> RawFd {
        match self {
            Self::Kept(fd) => fd.as_raw_fd(),
            Self::Once(fd) => fd.as_raw_fd(),
        }
    }
}

impl Node {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread ends while it holds it")
    }

    /// As a path: for names below it, attributes, and all that needs no reading or writing.
    pub(super) fn reach(&self, root: RawFd) -> Done<Reached<'_>> {
        match &self.fd {
            Some(fd) => Ok(Reached::Kept(fd)),
            None => backing::open_handle(root, &self.handle, libc::O_PATH | libc::O_NOFOLLOW).map(Reached::Once),
        }
    }

    /// For reading or writing.
    pub(super) fn open(&self, root: RawFd, flags: i32) -> Done<OwnedFd> {
        match &self.fd {
            Some(fd) => backing::open(fd.as_raw_fd(), c".", flags, 0),
            None => backing::open_handle(root, &self.handle, flags | libc::O_NOFOLLOW),
        }
    }
}

/// All names of a group have one lock: this is behind it.
pub(super) struct Names {
    nodes: HashMap<u64, Arc<Node>>,
    keys: HashMap<[u64; 3], u64>,
    /// Folder and name of each folder.
    places: HashMap<u64, (u64, Vec<u8>)>,
    /// Names in the group of files and links.
    held: HashMap<u64, BTreeSet<(u64, Vec<u8>)>>,
    next: u64,
    kept: usize,
}

impl Names {
    /// `root` is the folder underneath.
    pub(super) fn new(root: OwnedFd, found: &Found) -> Done<Self> {
        let node = Node {
            id: ROOT,
            key: found.key,
            found: Kind::Directory,
            handle: backing::handle(root.as_raw_fd(), c"")?,
            fd: Some(root),
            lookups: AtomicU64::new(1),
            state: Mutex::default(),
        };
        Ok(Self {
            keys: HashMap::from([(found.key, ROOT)]),
            nodes: HashMap::from([(ROOT, Arc::new(node))]),
            places: HashMap::new(),
            held: HashMap::new(),
            next: ROOT + 1,
            kept: 0,
        })
    }

    pub(super) fn node(&self, id: u64) -> Done<Arc<Node>> {
        self.nodes.get(&id).cloned().ok_or(Errno(libc::ESTALE))
    }

    pub(super) fn known(&self, key: &[u64; 3]) -> Option<Arc<Node>> {
        self.keys.get(key).and_then(|id| self.nodes.get(id)).cloned()
    }

    /// The node of what was found at `name` below `dir`, with one more reason for the kernel to know it if `looked_up`.
    pub(super) fn meet(&mut self, dir: RawFd, name: &CStr, found: &Found, looked_up: bool) -> Done<Arc<Node>> {
        let node = match self.known(&found.key) {
            Some(node) => node,
            None => self.add(backing::handle(dir, name)?, dir, name, found),
        };
        node.lookups.fetch_add(u64::from(looked_up), Relaxed);
        Ok(node)
    }

    fn add(&mut self, handle: Handle, dir: RawFd, name: &CStr, found: &Found) -> Arc<Node> {
        let id = self.next;
        self.next += 1;
        let mut fd = None;
        if found.is_dir() && self.kept < KEPT {
            let flags = libc::O_PATH | libc::O_DIRECTORY;
            fd = backing::open(dir, name, flags, 0).ok();
            self.kept += usize::from(fd.is_some());
        }
        let (lookups, state) = (AtomicU64::new(0), Mutex::default());
        let node = Arc::new(Node { id, key: found.key, found: Kind::of(found), handle, fd, lookups, state });
        self.nodes.insert(id, Arc::clone(&node));
        self.keys.insert(found.key, id);
        node
    }

    /// A file without a name, open as `fd`.
    pub(super) fn meet_open(&mut self, fd: RawFd, found: &Found) -> Done<Arc<Node>> {
        let node = self.add(backing::handle(fd, c"")?, fd, c"", found);
        node.lookups.fetch_add(1, Relaxed);
        Ok(node)
    }

    /// The kernel has forgotten `id` as often as is said.
    pub(super) fn forget(&mut self, id: u64, times: u64) {
        let Some(node) = self.nodes.get(&id) else { return };
        let left = node.lookups.load(Relaxed).saturating_sub(times);
        node.lookups.store(left, Relaxed);
        if left == 0 {
            self.clear(id);
        }
    }

    /// Removes a node that nobody needs.
    fn clear(&mut self, id: u64) {
        let Some(node) = self.nodes.get(&id) else { return };
        let needed = id == ROOT
            || node.lookups.load(Relaxed) > 0
            || self.places.contains_key(&id)
            || self.held.contains_key(&id)
            // It is open, or somebody is about to use it.
            || Arc::strong_count(node) > 1;
        if !needed && let Some(node) = self.nodes.remove(&id) {
            if self.keys.get(&node.key) == Some(&id) {
                self.keys.remove(&node.key);
            }
            self.kept -= usize::from(node.fd.is_some());
        }
    }

    /// The last name of a file is gone: its inode number may be used again.
    pub(super) fn ended(&mut self, node: &Node) {
        if self.keys.get(&node.key) == Some(&node.id) {
            self.keys.remove(&node.key);
        }
        self.places.remove(&node.id);
        self.clear(node.id);
    }

    /// A file that had no name has one again.
    pub(super) fn revived(&mut self, node: &Node) {
        self.keys.insert(node.key, node.id);
    }

    /// The name below the group's root of `name` below the folder `dir`.
    pub(super) fn path(&self, dir: u64, name: &[u8]) -> Done<Vec<u8>> {
        let mut parts = vec![name];
        let mut at = dir;
        while at != ROOT {
            let (parent, name) = self.places.get(&at).ok_or(Errno(libc::ENOENT))?;
            parts.push(name);
            at = *parent;
        }
        parts.reverse();
        Ok(parts.join(&b'/'))
    }

    /// Where a folder is from now on.
    pub(super) fn place(&mut self, node: u64, dir: u64, name: &[u8]) {
        self.places.insert(node, (dir, name.to_vec()));
    }

    /// The file has this name in the group from now on. Whether it is a new one.
    pub(super) fn hold(&mut self, node: u64, dir: u64, name: &[u8]) -> bool {
        self.held.entry(node).or_default().insert((dir, name.to_vec()))
    }

    /// The file has not this name any more. Whether it has others in the group.
    pub(super) fn let_go(&mut self, node: u64, dir: u64, name: &[u8]) -> bool {
        let Some(names) = self.held.get_mut(&node) else { return false };
        names.remove(&(dir, name.to_vec()));
        if names.is_empty() {
            self.held.remove(&node);
        }
        self.held.contains_key(&node)
    }

    /// Forgets which files are in the group; the nodes that were.
    pub(super) fn release_all(&mut self) -> Vec<Arc<Node>> {
        let held = std::mem::take(&mut self.held);
        held.keys().filter_map(|id| self.nodes.get(id)).cloned().collect()
    }

    /// Removes what was held and is no more.
    pub(super) fn tidy(&mut self, nodes: Vec<Arc<Node>>) {
        for node in nodes {
            let id = node.id;
            drop(node);
            self.clear(id);
        }
    }

    /// One of a node's names in the group: folders have one, files those that fit.
    pub(super) fn one(&self, node: &Node) -> Option<Vec<u8>> {
        let (dir, name) = match node.found {
            Kind::Directory => self.places.get(&node.id).map(|(dir, name)| (*dir, name))?,
            _ => self.held.get(&node.id)?.first().map(|(dir, name)| (*dir, name))?,
        };
        self.path(dir, name).ok()
    }

    /// How many are known.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }
}
