//! Names come and go. All of it happens under the lock of the names.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use apus_capture::linux::Reasons;
use apus_capture::linux::sys::Errno;

use super::backing::{self, Done, Found};
use super::protocol::Header;
use super::queue::Did;
use super::server::{Request, Server};
use super::tree::{Kind, Names, Node};

impl Server {
    pub(super) fn lookup(&self, request: &mut Request<'_>) -> Done<usize> {
        let name = request.name()?;
        let found = self.find(&mut self.names(), request.header.node, &name, true);
        match found {
            Ok((node, found)) => Ok(request.answer().entry(node.id, &found).len()),
            Err(Errno(libc::ENOENT)) => Ok(request.answer().nothing().len()),
            Err(error) => Err(error),
        }
    }

    /// What is at `name` below `dir`.
    pub(super) fn find(&self, names: &mut Names, dir: u64, name: &CStr, looked_up: bool) -> Done<(Arc<Node>, Found)> {
        let parent = names.node(dir)?;
        let reached = parent.reach(self.root())?;
        let found = backing::stat(reached.raw(), name)?;
        if found.key[0] != self.device {
            return Err(Errno(libc::EXDEV));
        }
        let node = names.meet(reached.raw(), name, &found, looked_up)?;
        match node.found {
            Kind::Directory => names.place(node.id, dir, name.to_bytes()),
            Kind::File | Kind::Symlink => {
                let path = names.path(dir, name.to_bytes())?;
                if self.holds(&path) && names.hold(node.id, dir, name.to_bytes()) {
                    // Every name of the group was listed or made here: somebody else changed the tree underneath.
                    self.queue.lose(Reasons::DRIFT | Reasons::ALL);
                }
            }
            Kind::Other => {}
        }
        Ok((node, found))
    }

    /// A new thing belongs to whoever asked for it; a folder may hand its group on.
    pub(super) fn give(&self, dir: i32, fd: i32, header: &Header) -> Done<Found> {
        let found = backing::stat(fd, c"")?;
        let same = found.group == header.group;
        let inherits = same || backing::stat(dir, c"")?.mode & libc::S_ISGID != 0;
        let group = if inherits { u32::MAX } else { header.group };
        if found.user == header.user && group == u32::MAX {
            return Ok(found);
        }
        backing::set_owner(fd, header.user, group)?;
        let after = backing::stat(fd, c"")?;
        if after.mode == found.mode {
            return Ok(after);
        }
        backing::set_mode(fd, found.mode & 0o7777)?;
        backing::stat(fd, c"")
    }

    /// Says that there is a new file, folder or link. Its owner follows if that is not who does the operations over again.
    fn made(&self, names: &mut Names, dir: u64, name: &CStr, node: &Arc<Node>, found: &Found, did: Did) -> Done<()> {
        let path = names.path(dir, name.to_bytes())?;
        let mut file = Some(0);
        let mut state = node.state();
        match node.found {
            Kind::Directory => names.place(node.id, dir, name.to_bytes()),
            _ if !self.holds(&path) => return Ok(()),
            Kind::File => {
                file = None;
                names.hold(node.id, dir, name.to_bytes());
            }
            Kind::Symlink => {
                names.hold(node.id, dir, name.to_bytes());
            }
            Kind::Other => return Ok(()),
        }
        let owned = found.user != 0 || found.group != 0;
        let seq = self.queue.push(file, !owned, did);
        if node.found == Kind::File {
            state.file = seq.unwrap_or_else(|| self.queue.number());
            state.whole = seq.is_none();
            file = Some(state.file);
        }
        if owned {
            self.queue.push(file, true, Did::Owner(path, found.user, found.group));
        }
        Ok(())
    }

    /// A new plain file, open.
    pub(super) fn make_file(
        &self,
        names: &mut Names,
        header: &Header,
        name: &CStr,
        mode: u32,
    ) -> Done<(Arc<Node>, Found, OwnedFd)> {
        let parent = names.node(header.node)?;
        let reached = parent.reach(self.root())?;
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        let fd = backing::open(reached.raw(), name, flags, mode & 0o7777)?;
        let done = self.give(reached.raw(), backing::raw(&fd), header).and_then(|found| {
            let node = names.meet(reached.raw(), name, &found, true)?;
            let did = Did::Create(names.path(header.node, name.to_bytes())?, found.mode & 0o7777);
            self.made(names, header.node, name, &node, &found, did)?;
            Ok((node, found))
        });
        match done {
            Ok((node, found)) => Ok((node, found, fd)),
            Err(error) => {
                // Nobody knows of it.
                let _ = backing::unlink(reached.raw(), name, false);
                Err(error)
            }
        }
    }

    pub(super) fn make_node(&self, request: &mut Request<'_>) -> Done<usize> {
        let (mode, device) = (request.fields().u32(0), request.fields().u32(4));
        let (header, name) = (request.header, request.name()?);
        backing::mask(request.fields().u32(8));
        let mut names = self.names();
        let (node, found) = if mode & libc::S_IFMT == libc::S_IFREG {
            self.make_file(&mut names, &header, &name, mode).map(|(node, found, _)| (node, found))?
        } else {
            self.new_name(&mut names, &header, &name, |dir| backing::make_node(dir, &name, mode, device), |_, _| None)?
        };
        drop(names);
        Ok(request.answer().entry(node.id, &found).len())
    }

    pub(super) fn make_dir(&self, request: &mut Request<'_>) -> Done<usize> {
        let (header, name, mode) = (request.header, request.name()?, request.fields().u32(0) & 0o7777);
        backing::mask(request.fields().u32(4));
        let mut names = self.names();
        let make = |dir| backing::make_dir(dir, &name, mode);
        let did = |path, found: &Found| Some(Did::Mkdir(path, found.mode & 0o7777));
        let (node, found) = self.new_name(&mut names, &header, &name, make, did)?;
        drop(names);
        Ok(request.answer().entry(node.id, &found).len())
    }

    pub(super) fn make_symlink(&self, request: &mut Request<'_>) -> Done<usize> {
        let (name, target) = request.two_names()?;
        let header = request.header;
        let mut names = self.names();
        let make = |dir| backing::make_symlink(&target, dir, &name);
        let did = |path, _: &Found| Some(Did::Symlink(path, target.to_bytes().to_vec()));
        let (node, found) = self.new_name(&mut names, &header, &name, make, did)?;
        drop(names);
        Ok(request.answer().entry(node.id, &found).len())
    }

    fn new_name(
        &self,
        names: &mut Names,
        header: &Header,
        name: &CStr,
        make: impl FnOnce(i32) -> Done<()>,
        did: impl FnOnce(Vec<u8>, &Found) -> Option<Did>,
    ) -> Done<(Arc<Node>, Found)> {
        let parent = names.node(header.node)?;
        let reached = parent.reach(self.root())?;
        make(reached.raw())?;
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let fd = backing::open(reached.raw(), name, flags, 0)?;
        let found = self.give(reached.raw(), backing::raw(&fd), header)?;
        let node = names.meet(reached.raw(), name, &found, true)?;
        if let Some(did) = did(names.path(header.node, name.to_bytes())?, &found) {
            self.made(names, header.node, name, &node, &found, did)?;
        }
        Ok((node, found))
    }

    pub(super) fn unlink(&self, request: &mut Request<'_>) -> Done<usize> {
        let (dir, name) = (request.header.node, request.name()?);
        let mut names = self.names();
        let parent = names.node(dir)?;
        let reached = parent.reach(self.root())?;
        let found = backing::stat(reached.raw(), &name)?;
        let node = names.known(&found.key);
        let path = names.path(dir, name.to_bytes())?;
        let in_group = self.holds(&path) && (found.is_file() || found.is_link());
        let mut state = node.as_ref().map(|node| node.state());
        backing::unlink(reached.raw(), &name, false)?;
        if in_group {
            let file = state.as_ref().map_or(0, |state| state.file);
            self.queue.push(Some(file), true, Did::Unlink(path));
        }
        if let Some(node) = &node {
            let others = names.let_go(node.id, dir, name.to_bytes());
            if let Some(state) = &mut state
                && !others
            {
                self.left(state);
            }
            drop(state);
            if found.links <= 1 {
                names.ended(node);
            }
        }
        Ok(0)
    }

    /// A file has no name in the group any more: nobody sees what is written to it.
    pub(super) fn left(&self, state: &mut super::tree::State) {
        state.file = 0;
        state.whole = false;
        state.spans.clear();
        if std::mem::take(&mut state.untracked) {
            self.untracked.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    pub(super) fn remove_dir(&self, request: &mut Request<'_>) -> Done<usize> {
        let (dir, name) = (request.header.node, request.name()?);
        let mut names = self.names();
        let parent = names.node(dir)?;
        let reached = parent.reach(self.root())?;
        let found = backing::stat(reached.raw(), &name)?;
        if found.key[0] != self.device {
            return Err(Errno(libc::EBUSY));
        }
        backing::unlink(reached.raw(), &name, true)?;
        self.queue.push(Some(0), true, Did::Rmdir(names.path(dir, name.to_bytes())?));
        if let Some(node) = names.known(&found.key) {
            names.ended(&node);
        }
        Ok(0)
    }

    pub(super) fn link(&self, request: &mut Request<'_>) -> Done<usize> {
        let (dir, name) = (request.header.node, request.name()?);
        let mut names = self.names();
        let node = names.node(request.fields().u64(0))?;
        let parent = names.node(dir)?;
        let (reached, to) = (node.reach(self.root())?, parent.reach(self.root())?);
        backing::link(reached.raw(), to.raw(), &name)?;
        names.revived(&node);
        let path = names.path(dir, name.to_bytes())?;
        if self.holds(&path) {
            self.named_anew(&mut names, &node, dir, &name, path)?;
        }
        let found = backing::stat(reached.raw(), c"")?;
        let again = names.meet(to.raw(), &name, &found, true)?;
        drop(names);
        Ok(request.answer().entry(again.id, &found).len())
    }

    /// A file or link has got a name in the group, which is free or whose file has just lost it.
    pub(super) fn named_anew(
        &self,
        names: &mut Names,
        node: &Arc<Node>,
        dir: u64,
        name: &CStr,
        path: Vec<u8>,
    ) -> Done<()> {
        match node.found {
            Kind::Symlink => {
                let target = backing::read_link(node.reach(self.root())?.raw())?;
                self.queue.push(Some(0), true, Did::Symlink(path, target));
                names.hold(node.id, dir, name.to_bytes());
            }
            Kind::File => {
                names.hold(node.id, dir, name.to_bytes());
                let mut state = node.state();
                if state.file == 0 {
                    self.enter(node, &mut state, path)?;
                } else {
                    self.queue.push(Some(state.file), true, Did::Link(path));
                }
            }
            Kind::Directory | Kind::Other => {}
        }
        Ok(())
    }

    pub(super) fn read_link(&self, request: &mut Request<'_>) -> Done<usize> {
        let node = self.node(request.header.node)?;
        let text = backing::read_link(node.reach(self.root())?.raw())?;
        Ok(request.answer().bytes(&text).len())
    }
}
