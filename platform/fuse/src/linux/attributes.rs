//! Attributes, plain and extended.

use std::sync::Arc;

use apus_capture::linux::sys::Errno;

use super::backing::{self, Done};
use super::protocol::{GETATTR_FH, ROOT, names, set};
use super::queue::Did;
use super::server::{Request, STATUS, Server};
use super::tree::{Kind, Node};

/// The longest value of an extended attribute, and the longest list of names.
const LONGEST: usize = 65_536;

impl Server {
    pub(super) fn get_attributes(&self, request: &mut Request<'_>) -> Done<usize> {
        let of = request.fields();
        let found = if of.u32(0) & GETATTR_FH != 0
            && let Ok(open) = self.opens.get(of.u64(8))
        {
            backing::stat(open.fd(), c"")?
        } else {
            let node = self.node(request.header.node)?;
            backing::stat(node.reach(self.root())?.raw(), c"")?
        };
        Ok(request.answer().attr_out(&found).len())
    }

    /// `SETATTR`: what is asked for, in the order in which one call of a program may ask for it.
    pub(super) fn set_attributes(&self, request: &mut Request<'_>) -> Done<usize> {
        let of = request.fields();
        let valid = of.u32(0);
        let node = self.node(request.header.node)?;
        let reached = node.reach(self.root())?;
        if valid & set::SIZE != 0 {
            let open =
                if valid & set::FH != 0 { self.opens.get(of.u64(8)).ok().filter(|open| open.writes) } else { None };
            self.cut(&node, open.as_ref().map(|open| open.fd()), of.u64(16), valid & set::KILL_SUIDGID != 0)?;
        }
        if valid & (set::UID | set::GID) != 0 {
            let user = if valid & set::UID != 0 { of.u32(76) } else { u32::MAX };
            let group = if valid & set::GID != 0 { of.u32(80) } else { u32::MAX };
            let names = self.names();
            let before = backing::stat(reached.raw(), c"")?;
            backing::set_owner(reached.raw(), user, group)?;
            let after = backing::stat(reached.raw(), c"")?;
            if let Some(path) = names.one(&node) {
                let changed = after.mode != before.mode;
                self.say(&node, !changed, Did::Owner(path.clone(), after.user, after.group));
                if changed {
                    self.say(&node, true, Did::Mode(path, after.mode & 0o7777));
                }
            }
        }
        if valid & set::MODE != 0 {
            let names = self.names();
            backing::set_mode(reached.raw(), of.u32(68) & 0o7777)?;
            if let Some(path) = names.one(&node) {
                self.say(&node, true, Did::Mode(path, of.u32(68) & 0o7777));
            }
        }
        if valid & (set::ATIME | set::MTIME) != 0 {
            let time = |on: u32, now: u32, seconds: usize, nanos: usize| libc::timespec {
                tv_sec: of.u64(seconds).cast_signed(),
                tv_nsec: match () {
                    () if valid & on == 0 => libc::UTIME_OMIT,
                    () if valid & now != 0 => libc::UTIME_NOW,
                    () => i64::from(of.u32(nanos)),
                },
            };
            let times = [time(set::ATIME, set::ATIME_NOW, 32, 56), time(set::MTIME, set::MTIME_NOW, 40, 60)];
            let names = self.names();
            backing::set_times(reached.raw(), &times)?;
            if let Some(path) = names.one(&node) {
                let found = backing::stat(reached.raw(), c"")?;
                let nanos = |at: (i64, u32)| at.0.saturating_mul(1_000_000_000).saturating_add(i64::from(at.1));
                self.say(&node, true, Did::Times(path, nanos(found.accessed), nanos(found.modified)));
            }
        }
        let found = backing::stat(reached.raw(), c"")?;
        Ok(request.answer().attr_out(&found).len())
    }

    /// Cuts or lengthens a file.
    pub(super) fn cut(&self, node: &Arc<Node>, fd: Option<i32>, len: u64, kill: bool) -> Done<()> {
        if kill {
            self.kill_privileges(node)?;
        }
        let mut state = node.state();
        match fd {
            Some(fd) => backing::set_len(fd, len)?,
            None => backing::set_len(backing::raw(&node.open(self.root(), libc::O_WRONLY)?), len)?,
        }
        self.record(&mut state, true, Did::Truncate(len), len, u64::MAX);
        Ok(())
    }

    /// Set-user and set-group bits go as the file is changed by somebody who has no right to keep them.
    pub(super) fn kill_privileges(&self, node: &Arc<Node>) -> Done<()> {
        let reached = node.reach(self.root())?;
        let names = self.names();
        let mode = backing::stat(reached.raw(), c"")?.mode & 0o7777;
        let group = if mode & libc::S_IXGRP == 0 { 0 } else { libc::S_ISGID };
        let kept = mode & !(libc::S_ISUID | group);
        if kept != mode {
            backing::set_mode(reached.raw(), kept)?;
            if let Some(path) = names.one(node) {
                self.say(node, true, Did::Mode(path, kept));
            }
        }
        Ok(())
    }

    /// An operation about a node, whose names the caller holds.
    pub(super) fn say(&self, node: &Node, publish: bool, did: Did) {
        let file = if node.found == Kind::File { node.state().file } else { 0 };
        self.queue.push(Some(file), publish, did);
    }

    pub(super) fn attribute(&self, request: &mut Request<'_>) -> Done<usize> {
        let size = request.fields().u32(0) as usize;
        let name = request.name()?;
        if request.header.node == ROOT && name.as_c_str() == STATUS {
            let text = self.status().to_string();
            return told(request, size, text.as_bytes());
        }
        let node = self.node(request.header.node)?;
        let mut value = vec![0; LONGEST];
        let got = backing::attribute(node.reach(self.root())?.raw(), &name, &mut value)?;
        told(request, size, &value[..got])
    }

    pub(super) fn list_attributes(&self, request: &mut Request<'_>) -> Done<usize> {
        let size = request.fields().u32(0) as usize;
        let node = self.node(request.header.node)?;
        let mut list = vec![0; LONGEST];
        let got = backing::attributes(node.reach(self.root())?.raw(), &mut list)?;
        told(request, size, &list[..got])
    }

    pub(super) fn set_attribute(&self, request: &mut Request<'_>) -> Done<usize> {
        let (size, flags) = (request.fields().u32(0) as usize, request.fields().i32(4));
        let name = request.name()?;
        let from = name.as_bytes_with_nul().len();
        let value = request.payload().get(from..from + size).ok_or(Errno(libc::EINVAL))?.to_vec();
        let node = self.node(request.header.node)?;
        let reached = node.reach(self.root())?;
        let names = self.names();
        backing::set_attribute(reached.raw(), &name, &value, flags)?;
        if let Some(path) = names.one(&node) {
            self.say(&node, true, Did::SetAttribute(path, name.into_bytes(), value));
        }
        Ok(0)
    }

    pub(super) fn remove_attribute(&self, request: &mut Request<'_>) -> Done<usize> {
        let name = request.name()?;
        let node = self.node(request.header.node)?;
        let reached = node.reach(self.root())?;
        let names = self.names();
        backing::remove_attribute(reached.raw(), &name)?;
        if let Some(path) = names.one(&node) {
            self.say(&node, true, Did::RemoveAttribute(path, name.into_bytes()));
        }
        Ok(0)
    }

    /// A file that comes into the group brings its attributes along.
    pub(super) fn attributes_of(&self, node: &Node) -> Done<Vec<(Vec<u8>, Vec<u8>)>> {
        let reached = node.reach(self.root())?;
        let mut list = vec![0; LONGEST];
        let got = match backing::attributes(reached.raw(), &mut list) {
            Err(Errno(libc::EOPNOTSUPP)) => 0,
            other => other?,
        };
        let mut all = Vec::new();
        for name in names(&list[..got]).filter(|name| !name.is_empty()) {
            let name = std::ffi::CString::new(name).map_err(|_| Errno(libc::EINVAL))?;
            let mut value = vec![0; LONGEST];
            if let Ok(got) = backing::attribute(reached.raw(), &name, &mut value) {
                value.truncate(got);
                all.push((name.into_bytes(), value));
            }
        }
        Ok(all)
    }
}

/// Answers with bytes, or with their length where the caller has no room.
fn told(request: &mut Request<'_>, size: usize, bytes: &[u8]) -> Done<usize> {
    match size {
        0 => Ok(request.answer().u32(bytes.len() as u32).u32(0).len()),
        size if size < bytes.len() => Err(Errno(libc::ERANGE)),
        _ => Ok(request.answer().bytes(bytes).len()),
    }
}
