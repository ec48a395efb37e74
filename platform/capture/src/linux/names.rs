//! The side of the programs: names, and what belongs to a file besides its bytes. All of a group's names change under one lock, so
//! the records have the order in which the kernel did it.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use libc::{AT_FDCWD, c_int};

use super::busy::Busy;
use super::capture::{Bug, Capture, Source};
use super::files::Bound;
use super::layout::{Kind, NONE, Reasons, state};
use super::lock::Held;
use super::path::{Name, Place};
use super::ring::{Say, Slot};
use super::sys::{self, Stat};
use crate::Globs;

/// What a descriptor is to the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Neither a plain file nor a directory.
    Never,
    /// A directory within the group's root, or the root.
    Directory,
    /// A file or directory that does not belong to the group, as long as [`Capture::entered`] is this.
    Outside(u32),
    /// A file of the group.
    File(Bound),
}

/// What is changed of a file besides bytes and name.
#[derive(Clone, Copy, Debug)]
pub enum Attribute<'a> {
    /// Permissions.
    Mode,
    /// Owner and group.
    Owner,
    /// Times of access and change.
    Times,
    /// An extended attribute and its value.
    Set(&'a [u8], &'a [u8]),
    /// An extended attribute that goes.
    Remove(&'a [u8]),
}

type Call<'a> = &'a mut dyn FnMut() -> isize;

/// Who loses a name.
#[derive(Clone, Copy)]
struct Victim<'a> {
    bound: Option<Bound>,
    stat: Stat,
    /// The name, if the file ends with its last one; `None`: it has one outside the group from then on.
    goes: Option<&'a Name>,
}

impl Capture {
    /// Runs `body` under the lock of names. Without it the call is made all the same, and all is listed anew.
    fn named(&self, call: Call<'_>, body: impl FnOnce(&Busy, Call<'_>) -> isize) -> isize {
        let why = match Busy::enter() {
            None => Reasons::SIGNAL,
            Some(busy) => match self.lock(&self.shared.names) {
                Some(_held) => return body(&busy, call),
                None => Reasons::LOCK,
            },
        };
        self.lose(why | Reasons::ALL);
        let result = call();
        self.lose(why | Reasons::ALL);
        result
    }

    /// Makes the record, the call, and tells the record its result. While the order is lost, the call alone.
    /// `victim` loses a name by it: told before, because the drainer may find the file gone before the call has returned.
    fn told(&self, say: Say<'_>, victim: Option<Victim<'_>>, call: Call<'_>, done: impl FnOnce(Option<Slot>)) -> isize {
        let ending = victim.filter(|victim| victim.stat.links <= 1);
        let _held = ending.and_then(|victim| self.outlive(victim.bound?, victim.goes?));
        let slot = if self.reasons().in_order() { self.reserve(say, state::INTENT) } else { None };
        if slot.is_none() {
            self.full();
        }
        let ending = ending.and_then(|victim| victim.bound);
        if let Some(bound) = ending {
            self.file(bound.index).dead.store(slot.map_or_else(|| self.number(), |slot| slot.seq), SeqCst);
        }
        let result = call();
        if result >= 0 {
            done(slot);
        } else if let Some(bound) = ending {
            self.file(bound.index).dead.store(0, SeqCst);
        }
        if let Some(slot) = slot {
            self.publish(slot, if result < 0 { state::FAILED } else { state::DONE });
        }
        result
    }

    /// A file's last name is about to go, and with it bytes that nobody has read and kept: they are copied. That the drainer may have it
    /// open is not enough, since it may be killed. While what is returned is held nobody writes to the file.
    fn outlive(&self, bound: Bound, name: &Name) -> Option<Held<'_>> {
        let file = self.file(bound.index);
        if !self.reasons().in_order() || self.bug == Bug::NoCopy {
            return None;
        }
        let held = self.lock(&file.lock)?;
        if file.generation.load(Relaxed) != bound.generation || file.last.load(Relaxed) <= file.look(self.shared) {
            return None;
        }
        let fd = sys::openat(AT_FDCWD, name.as_ptr(), libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK).ok()?;
        self.copy_last(file, bound.index, fd);
        sys::close(fd);
        Some(held)
    }

    /// The file's place in the table. One that was there before the group knew it gets a number.
    fn bind(&self, name: &Name, below: &[u8], stat: &Stat) -> Option<Bound> {
        if let Some(bound) = self.find(stat.key) {
            return Some(bound);
        }
        let Ok(handle) = sys::handle(AT_FDCWD, name.as_ptr()) else {
            self.lose(Reasons::DRIFT | Reasons::ALL);
            return None;
        };
        let slot = if self.reasons().in_order() {
            self.reserve(Say::of(Kind::Bind, NONE, 0).named(below, &[]), state::INTENT)
        } else {
            None
        };
        let Some(slot) = slot else {
            self.full();
            return self.admit(stat, &handle, self.number());
        };
        let bound = self.admit(stat, &handle, slot.seq);
        self.record(slot.at).file.store(bound.map_or(NONE, |bound| bound.index), Relaxed);
        self.publish(slot, if bound.is_some() { state::DONE } else { state::FAILED });
        bound
    }

    /// A number that no record has.
    pub(super) fn number(&self) -> u64 {
        let _held = self.lock(&self.shared.ring);
        self.shared.next.fetch_add(1, Relaxed)
    }

    /// A file that was just made or came in, with the number of its record.
    fn born(&self, name: &Name, slot: Option<Slot>) -> Option<Stat> {
        let (Ok(stat), Ok(handle)) = (sys::stat(AT_FDCWD, name.as_ptr()), sys::handle(AT_FDCWD, name.as_ptr())) else {
            self.lose(Reasons::DRIFT | Reasons::ALL);
            return None;
        };
        let bound = self.admit(&stat, &handle, slot.map_or_else(|| self.number(), |slot| slot.seq));
        match (bound, slot) {
            (Some(bound), Some(slot)) => {
                let record = self.record(slot.at);
                record.file.store(bound.index, Relaxed);
                record.offset.store(u64::from(stat.mode & 0o7777), Relaxed);
                self.file(bound.index).last.store(slot.seq, Relaxed);
            }
            (Some(bound), None) => self.file(bound.index).whole.store(1, SeqCst),
            (None, _) => {}
        }
        Some(stat)
    }

    /// What an open descriptor is to the group.
    pub fn classify(&self, fd: c_int) -> Class {
        let entered = self.entered();
        let Ok(stat) = sys::fstat(fd) else { return Class::Never };
        if !stat.is_file() && !stat.is_dir() {
            return Class::Never;
        }
        if stat.links == 0 || stat.key[0] != self.shared.device.load(Relaxed) {
            return Class::Outside(entered);
        }
        if stat.is_dir() {
            // One that cannot be told is waited for: too much is put on the disk then, not too little.
            let ours = |name: &Name| name.as_bytes() == self.root() || self.inside(name).is_some();
            let apart = Name::of(fd).is_ok_and(|name| !ours(&name));
            return if apart { Class::Outside(entered) } else { Class::Directory };
        }
        if let Some(bound) = self.find(stat.key) {
            return Class::File(bound);
        }
        let Ok(name) = Name::of(fd) else {
            self.lose(Reasons::CALL | Reasons::ALL);
            return Class::Outside(entered);
        };
        if self.held(&name).is_none() {
            return Class::Outside(entered);
        }
        let mut class = Class::Outside(entered);
        self.named(&mut || 0, |_, call| {
            // Under the lock the name is the file's still, or it is another file.
            if let (Ok(name), Some(below)) = (Name::of(fd), self.held(&name))
                && let Some(bound) = self.bind(&name, below, &stat)
            {
                class = Class::File(bound);
            }
            call()
        });
        class
    }

    /// Whether `fd` is open on something of the group's file system.
    pub fn shares_disk(&self, fd: c_int) -> bool {
        sys::fstat(fd).is_ok_and(|stat| stat.key[0] == self.shared.device.load(Relaxed))
    }

    /// Opens a file for writing. `flags` are those of the call; `path` is what the program says.
    pub fn open(&self, dir: c_int, path: &[u8], flags: c_int, call: Call<'_>) -> (isize, Option<Class>) {
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & (libc::O_CREAT | libc::O_TRUNC) != 0;
        if !writes || flags & libc::O_PATH != 0 || flags & libc::O_TMPFILE == libc::O_TMPFILE {
            return (call(), None);
        }
        let find = || {
            let exact = flags & libc::O_NOFOLLOW != 0 || flags & libc::O_CREAT != 0 && flags & libc::O_EXCL != 0;
            if exact { Place::here(dir, path) } else { Place::follow(dir, path) }
        };
        let Ok(place) = find() else { return (call(), None) };
        let plain = place.stat.is_none_or(|stat| stat.is_file());
        if self.held(&place.name).is_none() || !plain {
            let other_name = place.stat.is_some_and(|stat| plain && stat.links > 1 && self.find(stat.key).is_some());
            if !other_name {
                return (call(), None);
            }
        }
        let mut fd = -1;
        let mut class = None;
        let result = self.named(call, |busy, call| {
            let Ok(place) = find() else { return call() };
            fd = match place.stat {
                None if flags & libc::O_CREAT != 0 => self.create(&place, call),
                Some(stat) if flags & libc::O_TRUNC != 0 && stat.is_file() => {
                    self.truncate_locked(busy, &place, &stat, call)
                }
                Some(stat) => {
                    let fd = call();
                    if fd >= 0
                        && let Some(below) = self.held(&place.name)
                    {
                        class = self.bind(&place.name, below, &stat).map(Class::File);
                    }
                    fd
                }
                None => call(),
            };
            fd
        });
        if result >= 0 && class.is_none() {
            class = Some(self.classify(result as c_int));
        }
        (result, class)
    }

    fn create(&self, place: &Place, call: Call<'_>) -> isize {
        let Some(below) = self.held(&place.name) else { return call() };
        self.told(Say::of(Kind::Create, NONE, 0).named(below, &[]), None, call, |slot| {
            self.born(&place.name, slot);
        })
    }

    fn truncate_locked(&self, busy: &Busy, place: &Place, stat: &Stat, call: Call<'_>) -> isize {
        let Some(below) = self.held(&place.name) else {
            let Some(bound) = self.find(stat.key) else { return call() };
            return self.cut(busy, place, bound, 0, call);
        };
        match self.bind(&place.name, below, stat) {
            Some(bound) => self.cut(busy, place, bound, 0, call),
            None => call(),
        }
    }

    fn cut(&self, busy: &Busy, place: &Place, bound: Bound, len: u64, call: Call<'_>) -> isize {
        let fd = sys::openat(AT_FDCWD, place.name.as_ptr(), libc::O_RDONLY | libc::O_NOFOLLOW).unwrap_or(-1);
        let result = self.change_locked(busy, bound, fd, Source::Truncate(len), &mut *call);
        if fd >= 0 {
            sys::close(fd);
        }
        result.unwrap_or_else(|_| {
            self.lose(Reasons::DRIFT | Reasons::ALL);
            call()
        })
    }

    /// `truncate` by path.
    pub fn truncate(&self, path: &[u8], len: u64, call: Call<'_>) -> isize {
        let find = || {
            Place::follow(AT_FDCWD, path)
                .ok()
                .and_then(|place| place.stat.filter(Stat::is_file).map(|stat| (place, stat)))
        };
        let ours = |(place, stat): &(Place, Stat)| {
            self.held(&place.name).is_some() || stat.links > 1 && self.find(stat.key).is_some()
        };
        if !find().is_some_and(|found| ours(&found)) {
            return call();
        }
        self.named(call, |busy, call| {
            let Some((place, stat)) = find() else { return call() };
            let bound = match self.held(&place.name) {
                Some(below) => self.bind(&place.name, below, &stat),
                None => self.find(stat.key),
            };
            match bound {
                Some(bound) => self.cut(busy, &place, bound, len, call),
                None => call(),
            }
        })
    }

    /// A new directory.
    pub fn mkdir(&self, dir: c_int, path: &[u8], call: Call<'_>) -> isize {
        let Ok(place) = Place::here(dir, path) else { return call() };
        if self.inside(&place.name).is_none() {
            return call();
        }
        self.named(call, |_, call| {
            let Ok(place) = Place::here(dir, path) else { return call() };
            let Some(below) = self.inside(&place.name) else { return call() };
            self.told(Say::of(Kind::Mkdir, NONE, 0).named(below, &[]), None, call, |slot| {
                if let (Some(slot), Ok(stat)) = (slot, sys::stat(AT_FDCWD, place.name.as_ptr())) {
                    self.record(slot.at).offset.store(u64::from(stat.mode & 0o7777), Relaxed);
                }
            })
        })
    }

    /// A new symbolic link.
    pub fn symlink(&self, target: &[u8], dir: c_int, path: &[u8], call: Call<'_>) -> isize {
        let Ok(place) = Place::here(dir, path) else { return call() };
        if self.held(&place.name).is_none() {
            return call();
        }
        self.named(call, |_, call| {
            let Ok(place) = Place::here(dir, path) else { return call() };
            let Some(below) = self.held(&place.name) else { return call() };
            self.told(Say::of(Kind::Symlink, NONE, 0).named(below, target), None, call, |_| {})
        })
    }

    /// A name goes: `unlink`, `rmdir`.
    pub fn unlink(&self, dir: c_int, path: &[u8], call: Call<'_>) -> isize {
        let ours = |place: &Place| match place.stat {
            Some(stat) if stat.is_dir() => self.inside(&place.name).is_some(),
            Some(_) => self.held(&place.name).is_some(),
            None => false,
        };
        if !Place::here(dir, path).is_ok_and(|place| ours(&place)) {
            return call();
        }
        self.named(call, |_, call| {
            let place = Place::here(dir, path).ok().filter(ours);
            let Some((place, stat)) = place.and_then(|place| place.stat.map(|stat| (place, stat))) else {
                return call();
            };
            let Some(below) = self.inside(&place.name) else { return call() };
            let kind = if stat.is_dir() { Kind::Rmdir } else { Kind::Unlink };
            let bound = if stat.is_file() { self.find(stat.key) } else { None };
            let victim = Victim { bound, stat, goes: Some(&place.name) };
            self.told(self.of(kind, bound).named(below, &[]), Some(victim), call, |_| {})
        })
    }

    fn of<'a>(&self, kind: Kind, bound: Option<Bound>) -> Say<'a> {
        bound
            .map_or(Say::of(kind, NONE, 0), |bound| Say::of(kind, bound.index, self.file(bound.index).id.load(Relaxed)))
    }

    /// Whether opening `path` for writing is about the group.
    pub fn concerns(&self, dir: c_int, path: &[u8]) -> bool {
        Place::follow(dir, path).is_ok_and(|place| {
            let plain = place.stat.is_none_or(|stat| stat.is_file());
            plain
                && (self.held(&place.name).is_some()
                    || place.stat.is_some_and(|stat| stat.links > 1 && self.find(stat.key).is_some()))
        })
    }

    /// Another name for a file. `followed`: the old path is as `Place::follow` finds it.
    pub fn link(&self, old: (c_int, &[u8]), followed: bool, new: (c_int, &[u8]), call: Call<'_>) -> isize {
        let source = || if followed { Place::follow(old.0, old.1).ok() } else { Place::here(old.0, old.1).ok() };
        self.link_from(&source, new, call)
    }

    /// Another name for the file behind `fd`.
    pub fn link_open(&self, fd: c_int, new: (c_int, &[u8]), call: Call<'_>) -> isize {
        self.link_from(&|| Some(Place { name: Name::of(fd).ok()?, stat: Some(sys::fstat(fd).ok()?) }), new, call)
    }

    fn link_from(&self, source: &dyn Fn() -> Option<Place>, new: (c_int, &[u8]), call: Call<'_>) -> isize {
        let find = || source().zip(Place::here(new.0, new.1).ok());
        if !find().is_some_and(|(_, target)| self.held(&target.name).is_some()) {
            return call();
        }
        self.named(call, |_, call| {
            let Some((source, target)) = find() else { return call() };
            let (Some(stat), Some(to)) = (source.stat, self.held(&target.name)) else { return call() };
            if !stat.is_file() {
                self.lose(Reasons::CALL);
                return call();
            }
            let from = self.held(&source.name).filter(|_| stat.links > 0);
            let bound = match from {
                Some(below) => self.bind(&source.name, below, &stat),
                None => self.find(stat.key),
            };
            match bound {
                Some(_) => self.told(self.of(Kind::Link, bound).named(from.unwrap_or(&[]), to), None, call, |_| {}),
                None => self.enter(&target.name, to, &stat, None, call),
            }
        })
    }

    /// A file comes into the group with its content.
    fn enter(&self, name: &Name, to: &[u8], stat: &Stat, victim: Option<Victim<'_>>, call: Call<'_>) -> isize {
        let say = Say::of(Kind::Enter, NONE, 0).at(u64::from(stat.mode & 0o7777), stat.size).named(to, &[]);
        let result = self.told(say, victim, call, |slot| {
            if let (Some(now), Some(slot)) = (self.born(name, slot), slot) {
                // Whoever has it open goes on writing by the descriptor it has.
                self.record(slot.at).len.store(now.size, Relaxed);
                if let Some(bound) = self.find(now.key) {
                    self.file(bound.index).note(slot.seq, 0, now.size, self.shared);
                }
            }
        });
        if result >= 0 {
            self.shared.entered.fetch_add(1, SeqCst);
        }
        result
    }

    /// `rename` with its flags.
    pub fn rename(&self, old: (c_int, &[u8]), new: (c_int, &[u8]), flags: u32, call: Call<'_>) -> isize {
        let find = || Place::here(old.0, old.1).ok().zip(Place::here(new.0, new.1).ok());
        let near = |(source, target): &(Place, Place)| {
            self.inside(&source.name).is_some() || self.inside(&target.name).is_some()
        };
        if !find().is_some_and(|both| near(&both)) {
            return call();
        }
        self.named(call, |_, call| {
            let Some((source, target)) = find() else { return call() };
            let Some(stat) = source.stat else { return call() };
            if target.stat.is_some_and(|other| other.key == stat.key) {
                return call();
            }
            if flags & !(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE) != 0 {
                self.lose(Reasons::CALL | Reasons::ALL);
                return call();
            }
            let exchange = flags & libc::RENAME_EXCHANGE != 0;
            if stat.is_dir() || exchange && target.stat.is_some_and(|other| other.is_dir()) {
                return self.rename_directory(&source, &target, exchange, call);
            }
            self.rename_file(&source, &target, &stat, exchange, call)
        })
    }

    fn rename_directory(&self, source: &Place, target: &Place, exchange: bool, call: Call<'_>) -> isize {
        match (self.inside(&source.name), self.inside(&target.name)) {
            (Some(from), Some(to)) if !exchange && Globs::new(self.patterns()).ignore_directories() => {
                self.told(Say::of(Kind::Rename, NONE, 0).named(from, to), None, call, |_| {})
            }
            (None, None) => call(),
            _ => {
                self.lose(Reasons::DIRECTORY | Reasons::ALL);
                let result = call();
                self.shared.entered.fetch_add(1, SeqCst);
                result
            }
        }
    }

    fn rename_file(&self, source: &Place, target: &Place, stat: &Stat, exchange: bool, call: Call<'_>) -> isize {
        let (from, to) = (self.held(&source.name), self.held(&target.name));
        let victim = target.stat.map(|stat| {
            let bound = if stat.is_file() && to.is_some() { self.find(stat.key) } else { None };
            Victim { bound, stat, goes: Some(&target.name) }
        });
        match (from, to) {
            (None, None) => call(),
            (Some(from), Some(to)) => {
                if stat.is_file() && self.bind(&source.name, from, stat).is_none() {
                    return call();
                }
                if exchange && let Some(there) = target.stat.filter(Stat::is_file) {
                    self.bind(&target.name, to, &there);
                }
                let bound = if stat.is_file() { self.find(stat.key) } else { None };
                let kind = if exchange { Kind::Exchange } else { Kind::Rename };
                self.told(self.of(kind, bound).named(from, to), victim.filter(|_| !exchange), call, |_| {})
            }
            _ if exchange => {
                self.lose(Reasons::DIRECTORY | Reasons::ALL);
                let result = call();
                self.shared.entered.fetch_add(1, SeqCst);
                result
            }
            (Some(from), None) => {
                let bound = if stat.is_file() { self.find(stat.key) } else { None };
                let victim = Victim { bound, stat: *stat, goes: None };
                self.told(self.of(Kind::Unlink, bound).named(from, &[]), Some(victim), call, |_| {})
            }
            (None, Some(to)) if stat.is_file() => match self.find(stat.key) {
                // Another of its names is in the group.
                Some(bound) => self.told(self.of(Kind::Link, Some(bound)).named(&[], to), victim, call, |_| {}),
                None => self.enter(&target.name, to, stat, victim, call),
            },
            (None, Some(to)) => {
                let mut link = [0; libc::PATH_MAX as usize];
                let len = sys::readlinkat(AT_FDCWD, source.name.as_ptr(), &mut link).unwrap_or(0);
                if len == 0 {
                    // A device or a socket: it takes the place of a name.
                    self.lose(Reasons::CALL | Reasons::ALL);
                }
                self.told(Say::of(Kind::Symlink, NONE, 0).named(to, &link[..len]), victim, call, |_| {})
            }
        }
    }

    /// Changes what belongs to the file at a path.
    pub fn attribute(&self, dir: c_int, path: &[u8], follow: bool, what: Attribute<'_>, call: Call<'_>) -> isize {
        let find = || if follow { Place::follow(dir, path) } else { Place::here(dir, path) };
        self.attribute_at(&|| find().ok(), what, call)
    }

    /// Changes what belongs to an open file.
    pub fn attribute_of(&self, fd: c_int, what: Attribute<'_>, call: Call<'_>) -> isize {
        let find =
            || Some(Place { name: Name::of(fd).ok()?, stat: Some(sys::fstat(fd).ok().filter(|stat| stat.links > 0)?) });
        self.attribute_at(&find, what, call)
    }

    fn attribute_at(&self, find: &dyn Fn() -> Option<Place>, what: Attribute<'_>, call: Call<'_>) -> isize {
        let ours = |place: &Place| match place.stat {
            Some(stat) if stat.is_dir() => self.inside(&place.name).is_some(),
            Some(_) => self.held(&place.name).is_some(),
            None => false,
        };
        if !find().is_some_and(|place| ours(&place)) {
            return call();
        }
        self.named(call, |_, call| {
            let Some((place, stat)) = find().filter(ours).and_then(|place| place.stat.map(|stat| (place, stat))) else {
                return call();
            };
            let Some(below) = self.inside(&place.name) else { return call() };
            let bound = if stat.is_file() { self.bind(&place.name, below, &stat) } else { None };
            let (kind, name, value): (_, &[u8], &[u8]) = match what {
                Attribute::Mode => (Kind::Mode, &[], &[]),
                Attribute::Owner => (Kind::Owner, &[], &[]),
                Attribute::Times => (Kind::Times, &[], &[]),
                Attribute::Set(name, value) => (Kind::SetAttribute, name, value),
                Attribute::Remove(name) => (Kind::RemoveAttribute, name, &[]),
            };
            let say = Say { more: value.len(), ..self.of(kind, bound).at(0, value.len() as u64).named(below, name) };
            let slot = if self.reasons().in_order() { self.reserve(say, state::COPYING) } else { None };
            if let Some(slot) = slot {
                self.room(slot, below.len() + name.len(), value.len()).copy_from_slice(value);
                self.begin(slot);
            } else {
                self.full();
            }
            let result = call();
            if let (Some(slot), Ok(now)) = (slot, sys::stat(AT_FDCWD, place.name.as_ptr())) {
                let (offset, len) = match what {
                    Attribute::Mode => (u64::from(now.mode & 0o7777), 0),
                    Attribute::Owner => (u64::from(now.owner.0), u64::from(now.owner.1)),
                    Attribute::Times => (now.accessed as u64, now.modified as u64),
                    Attribute::Set(..) | Attribute::Remove(_) => (0, value.len() as u64),
                };
                self.record(slot.at).offset.store(offset, Relaxed);
                self.record(slot.at).len.store(len, Relaxed);
            }
            if let Some(slot) = slot {
                self.publish(slot, if result < 0 { state::FAILED } else { state::DONE });
            }
            result
        })
    }
}
