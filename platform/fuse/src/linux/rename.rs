//! A name becomes another one, and may join or leave the group by that.

use std::ffi::CStr;
use std::sync::Arc;

use apus_capture::linux::Reasons;
use apus_capture::linux::sys::Errno;

use super::backing::{self, Done};
use super::protocol::opcode;
use super::queue::Did;
use super::server::{Request, Server};
use super::tree::{Kind, Names, Node};

/// One of the two names.
struct Side {
    dir: u64,
    name: std::ffi::CString,
    path: Vec<u8>,
    /// What is there before.
    node: Option<Arc<Node>>,
    /// How many names that has.
    links: u32,
}

impl Side {
    fn is(&self, kind: Kind) -> bool {
        self.node.as_ref().is_some_and(|node| node.found == kind)
    }

    fn file(&self) -> u64 {
        self.node.as_ref().filter(|node| node.found == Kind::File).map_or(0, |node| node.state().file)
    }
}

impl Server {
    /// `RENAME` and `RENAME2`.
    pub(super) fn rename(&self, request: &mut Request<'_>) -> Done<usize> {
        let (first, second) = request.two_names()?;
        let of = request.fields();
        let flags = if request.header.opcode == opcode::RENAME2 { of.u32(8) } else { 0 };
        if flags & !(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE) != 0 {
            return Err(Errno(libc::EINVAL));
        }
        let (dir, new_dir) = (request.header.node, of.u64(0));
        let mut names = self.names();
        let (parent, new_parent) = (names.node(dir)?, names.node(new_dir)?);
        let (from_dir, to_dir) = (parent.reach(self.root())?, new_parent.reach(self.root())?);
        let side = |names: &mut Names, dir: u64, fd: i32, name: &CStr| -> Done<Side> {
            let found = match backing::stat(fd, name) {
                Err(Errno(libc::ENOENT)) => None,
                other => Some(other?),
            };
            let node = match &found {
                Some(found) if found.key[0] != self.device => return Err(Errno(libc::EXDEV)),
                Some(found) => Some(names.meet(fd, name, found, false)?),
                None => None,
            };
            let path = names.path(dir, name.to_bytes())?;
            Ok(Side { dir, name: name.to_owned(), path, node, links: found.map_or(0, |found| found.links) })
        };
        let from = side(&mut names, dir, from_dir.raw(), &first)?;
        let to = side(&mut names, new_dir, to_dir.raw(), &second)?;
        backing::rename(from_dir.raw(), &first, to_dir.raw(), &second, flags)?;
        let Some(moved) = from.node.clone() else { return Err(Errno(libc::ENOENT)) };
        if (from.is(Kind::Directory) || flags & libc::RENAME_EXCHANGE != 0 && to.is(Kind::Directory))
            && !self.folders_may_move()
        {
            // Files may have joined or left.
            self.queue.lose(Reasons::DIRECTORY);
        }
        if flags & libc::RENAME_EXCHANGE != 0 {
            self.exchanged(&mut names, &from, &to)?;
        } else {
            self.moved(&mut names, &moved, &from, &to)?;
        }
        Ok(0)
    }

    fn moved(&self, names: &mut Names, node: &Arc<Node>, from: &Side, to: &Side) -> Done<()> {
        let (from_name, to_name) = (from.name.to_bytes(), to.name.to_bytes());
        if node.found == Kind::Directory {
            self.queue.push(Some(0), true, Did::Rename(from.path.clone(), to.path.clone()));
            if let Some(old) = &to.node {
                names.ended(old);
            }
            names.place(node.id, to.dir, to_name);
            return Ok(());
        }
        let can = matches!(node.found, Kind::File | Kind::Symlink);
        let (was, is) = (can && self.holds(&from.path), can && self.holds(&to.path));
        match (was, is) {
            (true, true) => {
                self.queue.push(Some(from.file()), true, Did::Rename(from.path.clone(), to.path.clone()));
                names.let_go(node.id, from.dir, from_name);
                names.hold(node.id, to.dir, to_name);
            }
            (true, false) => {
                let mut state = node.state();
                self.queue.push(Some(state.file), true, Did::Unlink(from.path.clone()));
                if !names.let_go(node.id, from.dir, from_name) {
                    self.left(&mut state);
                }
            }
            (false, true) => self.named_anew(names, node, to.dir, &to.name, to.path.clone())?,
            // A pipe or a device stands where a file of the group was.
            (false, false) if self.holds(&to.path) && to.node.is_some() => {
                self.queue.push(Some(to.file()), true, Did::Unlink(to.path.clone()));
            }
            (false, false) => {}
        }
        if let Some(old) = &to.node {
            self.replaced(names, old, to);
        }
        Ok(())
    }

    /// What had the name has lost it.
    fn replaced(&self, names: &mut Names, old: &Arc<Node>, to: &Side) {
        if !names.let_go(old.id, to.dir, to.name.to_bytes()) {
            self.left(&mut old.state());
        }
        if to.links <= 1 {
            names.ended(old);
        }
    }

    fn exchanged(&self, names: &mut Names, from: &Side, to: &Side) -> Done<()> {
        let (Some(one), Some(other)) = (&from.node, &to.node) else { return Err(Errno(libc::ENOENT)) };
        let folders = [from, to].map(|side| side.is(Kind::Directory));
        let held = [self.holds(&from.path), self.holds(&to.path)];
        for (node, side) in [(one, to), (other, from)] {
            if node.found == Kind::Directory {
                names.place(node.id, side.dir, side.name.to_bytes());
            }
        }
        if folders == [true, true] {
            self.queue.push(Some(0), true, Did::Exchange(from.path.clone(), to.path.clone()));
            return Ok(());
        }
        if folders[0] != folders[1] || from.is(Kind::Other) || to.is(Kind::Other) {
            // Not all of it is in the copy: it is listed anew, which finds the names.
            self.queue.lose(Reasons::DIRECTORY);
            return Ok(());
        }
        match held {
            [true, true] => {
                self.queue.push(Some(from.file()), true, Did::Exchange(from.path.clone(), to.path.clone()));
                for (node, old, new) in [(one, from, to), (other, to, from)] {
                    names.let_go(node.id, old.dir, old.name.to_bytes());
                    names.hold(node.id, new.dir, new.name.to_bytes());
                }
            }
            [true, false] => self.swapped(names, one, other, from)?,
            [false, true] => self.swapped(names, other, one, to)?,
            [false, false] => {}
        }
        Ok(())
    }

    /// At a name of the group there is `new` now instead of `old`, which has got one outside.
    fn swapped(&self, names: &mut Names, old: &Arc<Node>, new: &Arc<Node>, at: &Side) -> Done<()> {
        let others = names.let_go(old.id, at.dir, at.name.to_bytes());
        self.named_anew(names, new, at.dir, &at.name, at.path.clone())?;
        if !others {
            self.left(&mut old.state());
        }
        Ok(())
    }
}
