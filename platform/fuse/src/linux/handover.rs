//! From the queue to the consumer; and the listing, when the order was lost.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use apus_capture::linux::Reasons;
use apus_capture::linux::sys::Errno;
use apus_capture::{Change, Consumer, FileId, Kind as ListedKind, Listed, Operation};

use super::backing::{self, Done};
use super::content::CHUNK;
use super::protocol::ROOT;
use super::queue::Item;
use super::server::Server;
use super::tree::{Kind, Names, Node};

/// By these a consumer says that its copy is not what the operation was made on.
const APART: [i32; 6] = [libc::ENOENT, libc::ENOTEMPTY, libc::EISDIR, libc::ENOTDIR, libc::EEXIST, libc::ELOOP];
/// Operations that are taken out of the queue at once.
const BATCH: usize = 64;
/// How long it sleeps while little happens. Programs do not wake it: that would cost them more than the operation does.
const NAP: Duration = Duration::from_millis(1);
/// After how many naps it sleeps until it is woken.
const NAPS: u32 = 500;
/// How long it waits before it hands over again what was refused.
const AGAIN: Duration = Duration::from_millis(100);

/// What was found while nothing moved.
struct Quiet {
    seq: u64,
    all: bool,
    entries: Vec<Listed>,
    /// Files, whether all of each must be read, and else which ranges.
    files: Vec<(Arc<Node>, Listed, bool, Vec<(u64, u64)>)>,
}

/// Hands over.
pub(super) struct Handover {
    server: Arc<Server>,
    consumer: Box<dyn Consumer + Send>,
    /// Taken out of the queue, and due.
    items: VecDeque<Item>,
    /// Up to this number nothing is shown: what is read anew is not whole before.
    hidden: u64,
    /// Whether `Resynced` is still to be said.
    renewed: bool,
    /// Whether the last operation was one that may be shown.
    whole: bool,
    /// What was listed before anybody could change a thing.
    first: Option<Quiet>,
}

impl Handover {
    pub(super) fn new(server: Arc<Server>, consumer: Box<dyn Consumer + Send>) -> Self {
        Self { server, consumer, items: VecDeque::new(), hidden: 0, renewed: false, whole: true, first: None }
    }

    /// The first listing, before the mount.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        self.first = Some(self.quiesce()?);
        Ok(())
    }

    /// Until the queue is closed and empty, or `stop`.
    pub(super) fn run(&mut self, stop: &AtomicBool) {
        let mut naps = 0;
        let mut first = self.first.take();
        while !stop.load(Relaxed) {
            let stepped = match first.take() {
                Some(quiet) => self.renewed_by(&quiet).map(|()| true),
                None => self.step(),
            };
            match stepped {
                Ok(true) => naps = 0,
                Ok(false) if self.server.queue.closed() => return,
                Ok(false) if naps < NAPS => {
                    naps += 1;
                    std::thread::sleep(NAP);
                }
                Ok(false) => self.server.queue.sleep(Duration::from_millis(200)),
                Err(error) => {
                    self.server.tell(error.to_string());
                    std::thread::sleep(AGAIN);
                    continue;
                }
            }
            let mut refused = self.server.refused.lock().expect("no thread ends while it holds it");
            if refused.is_some() {
                *refused = None;
            }
        }
    }

    /// Hands over what is due. Whether there was anything.
    fn step(&mut self) -> io::Result<bool> {
        if self.items.is_empty() {
            self.server.queue.take(BATCH, &mut self.items);
        }
        if self.items.is_empty() {
            if !self.server.queue.told().reasons.in_order() {
                self.resync()?;
                return Ok(true);
            }
            self.show(true)?;
            self.consumer.rests();
            return Ok(false);
        }
        let mut bytes = 0;
        let mut done = Ok(());
        let mut last = 0;
        while let Some(item) = self.items.front() {
            if self.renewed && item.seq >= self.hidden && self.whole {
                done = self.show(false);
                if done.is_err() {
                    break;
                }
                continue;
            }
            let publish = item.publish && !self.renewed;
            done = self.consumer.take(&item.operation(publish));
            if done.is_err() {
                break;
            }
            self.whole = item.publish;
            bytes += item.bytes();
            last = item.seq;
            self.items.pop_front();
        }
        if last != 0 {
            self.server.queue.handed(last, bytes);
        }
        match done {
            Err(error) if error.raw_os_error().is_some_and(|number| APART.contains(&number)) => {
                // Refused for ever: the copy is made anew.
                self.server.queue.lose(Reasons::DRIFT | Reasons::ALL);
                self.drop_items();
                Ok(true)
            }
            other => other.map(|()| true),
        }
    }

    fn drop_items(&mut self) {
        if let Some(last) = self.items.back() {
            self.server.queue.handed(last.seq, self.items.iter().map(Item::bytes).sum());
        }
        self.items.clear();
    }

    /// Says so once what was read anew is whole. `idle`: nothing waits.
    fn show(&mut self, idle: bool) -> io::Result<()> {
        if self.renewed && self.whole && self.server.queue.told().reasons.in_order() {
            let seq = self.hidden.saturating_sub(1);
            self.consumer.take(&Operation { seq, file: FileId(0), publish: true, change: Change::Resynced })?;
            self.server.queue.handed(seq, 0);
            self.renewed = false;
            self.server.shown.store(true, Relaxed);
        } else if !idle {
            // Lost again meanwhile: it stays hidden until the next listing.
            self.hidden = u64::MAX;
        }
        Ok(())
    }

    /// Lists the group and reads what may differ, while programs go on.
    pub(super) fn resync(&mut self) -> io::Result<()> {
        self.items.clear();
        let quiet = self.quiesce()?;
        self.renewed_by(&quiet)
    }

    fn renewed_by(&mut self, quiet: &Quiet) -> io::Result<()> {
        let done = self.renew(quiet);
        if done.is_err() {
            // What may differ was remembered, and is not any more.
            self.server.queue.lose(Reasons::NEW | Reasons::ALL);
        }
        done
    }

    fn renew(&mut self, quiet: &Quiet) -> io::Result<()> {
        self.renewed = true;
        self.whole = true;
        let seq = quiet.seq;
        let wanted = self.consumer.anew(false);
        self.send(seq, 0, Change::Listing { entries: &quiet.entries })?;
        for (node, listed, whole, spans) in quiet.files.iter().filter(|_| wanted) {
            let whole = quiet.all || *whole || self.consumer.wants(listed);
            if !whole && spans.is_empty() {
                continue;
            }
            let file = listed.file.0;
            // Removed since: an operation says so.
            let Ok(fd) = node.open(self.server.root(), libc::O_RDONLY) else { continue };
            let size = backing::stat(backing::raw(&fd), c"")?.size;
            if whole {
                // Holes are not written: nothing old may stay in them.
                self.send(seq, file, Change::Truncate { len: 0 })?;
            }
            self.send(seq, file, Change::Truncate { len: size })?;
            let spans = if whole { &[(0, u64::MAX)][..] } else { spans };
            let mut buffer = vec![0; CHUNK as usize];
            for &(start, end) in spans {
                let (mut at, end) = (start, end.min(size));
                while at < end {
                    if whole {
                        match backing::seek(backing::raw(&fd), at, libc::SEEK_DATA) {
                            Ok(data) => at = data,
                            Err(_) => break,
                        }
                    }
                    let want = (end.saturating_sub(at)).min(CHUNK) as usize;
                    let got = backing::read(backing::raw(&fd), &mut buffer[..want], at)?;
                    if got == 0 {
                        break;
                    }
                    self.send(seq, file, Change::Write { offset: at, bytes: &buffer[..got] })?;
                    at += got as u64;
                }
            }
        }
        self.hidden = self.server.queue.told().next;
        Ok(())
    }

    /// One operation of what is read anew.
    fn send(&mut self, seq: u64, file: u64, change: Change<'_>) -> io::Result<()> {
        self.consumer.take(&Operation { seq, file: FileId(file), publish: false, change })
    }

    /// All names and what must be read, while nobody changes names. From here on operations are handed over again.
    fn quiesce(&self) -> Done<Quiet> {
        let server = &self.server;
        let mut names = server.names();
        let before = names.release_all();
        // First: who sees that the order is kept again must not take what is being read anew for shown.
        server.shown.store(false, Relaxed);
        let (reasons, seq) = server.queue.begin();
        let mut quiet = Quiet { seq, all: reasons & Reasons::ALL != 0, entries: Vec::new(), files: Vec::new() };
        let done = self.list(&mut names, ROOT, &mut quiet);
        for node in &before {
            // In the group no more.
            if names.one(node).is_none() {
                server.left(&mut node.state());
            }
        }
        names.tidy(before);
        if let Err(error) = done {
            server.queue.lose(reasons | Reasons::DIRECTORY);
            return Err(error);
        }
        Ok(quiet)
    }

    /// All names below a folder, parents first.
    fn list(&self, names: &mut Names, dir: u64, quiet: &mut Quiet) -> Done<()> {
        let server = &self.server;
        let parent = names.node(dir)?;
        let fd = parent.open(server.root(), libc::O_RDONLY | libc::O_DIRECTORY)?;
        let mut room = vec![0; 32_768];
        let mut found = Vec::new();
        loop {
            let entries = backing::entries(backing::raw(&fd), &mut room)?;
            if entries.is_empty() {
                break;
            }
            found.extend(entries.into_iter().map(|(.., name)| name));
        }
        found.retain(|name| !matches!(name.to_bytes(), b"." | b".."));
        found.sort();
        for name in found {
            match self.listed(names, dir, backing::raw(&fd), &name, quiet) {
                // Removed underneath by somebody else.
                Err(Errno(libc::ENOENT)) => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn listed(&self, names: &mut Names, dir: u64, fd: i32, name: &CStr, quiet: &mut Quiet) -> Done<()> {
        let server = &self.server;
        let found = backing::stat(fd, name)?;
        if found.key[0] != server.device {
            return Ok(());
        }
        let path = names.path(dir, name.to_bytes())?;
        let held = server.holds(&path);
        let kind = match Kind::of(&found) {
            Kind::Directory => ListedKind::Directory,
            Kind::File if held => ListedKind::File,
            Kind::Symlink if held => {
                let link = backing::open(fd, name, libc::O_PATH, 0)?;
                ListedKind::Symlink(backing::read_link(backing::raw(&link))?)
            }
            _ => return Ok(()),
        };
        let node = names.meet(fd, name, &found, false)?;
        let mut listed = Listed {
            path,
            file: FileId(0),
            kind,
            mode: found.mode & 0o7777,
            owner: (found.user, found.group),
            size: found.size,
        };
        match node.found {
            Kind::Directory => {
                names.place(node.id, dir, name.to_bytes());
                quiet.entries.push(listed);
                self.list(names, node.id, quiet)?;
            }
            Kind::File => {
                names.hold(node.id, dir, name.to_bytes());
                let mut state = node.state();
                if state.file == 0 {
                    state.file = server.queue.number();
                    state.whole = true;
                }
                listed.file = FileId(state.file);
                let (whole, spans) = (std::mem::take(&mut state.whole), std::mem::take(&mut state.spans));
                quiet.entries.push(listed.clone());
                drop(state);
                // A second name of a file finds nothing left to read.
                quiet.files.push((node, listed, whole, spans));
            }
            _ => {
                names.hold(node.id, dir, name.to_bytes());
                quiet.entries.push(listed);
            }
        }
        Ok(())
    }
}
