//! A lab with a database whose files are replicated: what it wrote, what it was told to be kept, and where.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use apus_node::Part;
use apus_os::linux::clock;
use serde_json::{Value, json};

use super::cluster::{Cluster, Extra};
use super::lab::{Lab, can_be};
use super::net::Net;
use super::sh::{sh, until};
use super::writer::tree;
use super::{Rows, disk, live};
use crate::Error;
use crate::rows::{self, What};

/// A lab is whole within this.
const WHOLE: Duration = Duration::from_secs(30);
/// Names of the group and of its service.
const GROUP: &str = "books";
const SERVICE: &str = "db";
/// Rows a second.
const RATE: u32 = 200;

/// A lab with one cold service that writes rows.
#[derive(Clone, Debug)]
pub struct Books {
    cluster: Cluster,
    kind: Rows,
}

/// What a program found, or was told last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// On whose machine.
    pub node: u16,
    /// Rows.
    pub rows: u64,
    /// When, on the boot clock in nanoseconds.
    pub at: u64,
}

fn failed(what: String) -> Error {
    Error::Failed(what)
}

impl Books {
    /// Makes machines with a disk each, nodes, and the service on one of them; what was made is taken away again if that fails.
    ///
    /// # Errors
    /// If it cannot be made: with what is missing.
    pub fn up(name: &str, nodes: u16, kind: Rows) -> Result<Self, Error> {
        can_be(name, nodes)?;
        if let Some(what) = live::library().or_else(disk::missing) {
            return Err(Error::Usage(what));
        }
        if kind == Rows::Sqlite && sh(&["sh", "-c", "command -v sqlite3"]).is_err() {
            return Err(Error::Usage("`sqlite3` is missing: install it, or take `--plain`".into()));
        }
        let made = Self::make(name, nodes, kind);
        if made.is_err() {
            let _ = Lab::down(name);
        }
        made.map_err(failed)
    }

    fn make(name: &str, nodes: u16, kind: Rows) -> Result<Self, String> {
        let exe = std::env::current_exe().map_err(|error| error.to_string())?.display().to_string();
        let net = Net { id: name.into(), nodes };
        let folder = Lab::folder(name);
        Cluster::clear(&folder, name)?;
        let books = Self { cluster: Cluster { net, folder, exe, first: false, disks: true }, kind };
        books.cluster.make()?;
        let parts = vec![Part::Voter; usize::from(nodes)];
        for node in 0..nodes {
            let extra = Extra { top: "lease = \"1s\"\n".into(), tables: books.tables(node), cluster: 98 };
            books.cluster.write(node, &parts, &extra)?;
            books.cluster.format(node)?;
            books.cluster.start(node)?;
        }
        until(WHOLE, || books.is_whole())?;
        Ok(books)
    }

    /// The service and its files as a node's file has them.
    fn tables(&self, node: u16) -> String {
        let (files, root) = (self.cluster.files(node), self.cluster.root(node));
        let sqlite = if self.kind == Rows::Sqlite { ", \"--sqlite\"" } else { "" };
        format!(
            "[[services]]\nname = \"{SERVICE}\"\n\
             command = [\"{}\", \"lab\", \"program\", \"{}\", \"0\", \"\", \"--root\", \"{}\", \"--rate\", \"{RATE}\"{sqlite}]\n\
             ready = \"notify\"\nfailures = 200\nbackoff = \"10ms\"\nbackoff_max = \"50ms\"\nstop = {{ grace = \"500ms\" }}\n\
             [[groups]]\nname = \"{GROUP}\"\nservice = \"{SERVICE}\"\nroot = \"{}\"\npatterns = [\"**\", \"!*-shm\"]\n\
             mode = \"sync\"\nneed = 2\nring = \"{}\"\n",
            self.cluster.exe,
            files.display(),
            root.display(),
            root.display(),
            self.cluster.ring(node).display(),
        )
    }

    /// How many machines it has.
    #[must_use]
    pub const fn nodes(&self) -> u16 {
        self.cluster.net.nodes
    }

    /// The control socket of a node.
    #[must_use]
    pub fn control(&self, node: u16) -> PathBuf {
        self.cluster.control(node)
    }

    /// One copy is written, and all others follow it.
    fn is_whole(&self) -> Result<(), String> {
        let mut writes = Vec::new();
        for node in 0..self.nodes() {
            let copies = self.cluster.copies(GROUP, node);
            let copies = copies.map_err(|error| format!("{error}; n{node} said: {}", self.cluster.last_words(node)))?;
            match copies.get(&node).and_then(|copy| copy["doing"].as_str()) {
                Some("writes") => writes.push(node),
                Some("follows") => {}
                other => return Err(format!("the copy of n{node} {}", other.unwrap_or("is not told of"))),
            }
        }
        match writes[..] {
            [node] if !self.cluster.said(node).is_empty() => Ok(()),
            _ => Err(format!("copies that are written: n{writes:?}")),
        }
    }

    /// Waits until all copies follow one.
    ///
    /// # Errors
    /// If that takes longer than 30 s: with what is missing.
    pub fn wait(&self) -> Result<(), Error> {
        until(WHOLE, || self.is_whole()).map_err(failed)
    }

    /// The row that was told last to be kept.
    #[must_use]
    pub fn kept(&self) -> Option<Kept> {
        self.all(|what| *what == What::Kept, 0).max_by_key(|kept| kept.at)
    }

    /// Waits until so many more rows are kept.
    ///
    /// # Errors
    /// If that takes longer than 30 s.
    pub fn write(&self, more: u64) -> Result<Kept, Error> {
        let before = self.kept().map_or(0, |kept| kept.rows);
        let enough = || {
            let kept = self.kept().filter(|kept| kept.rows >= before + more);
            kept.ok_or_else(|| format!("{more} rows more were not kept"))
        };
        until(WHOLE, enough).map_err(failed)
    }

    fn all(&self, such: impl Fn(&What) -> bool, after: u64) -> impl Iterator<Item = Kept> {
        let said = (0..self.nodes()).flat_map(|node| self.cluster.said(node).into_iter().map(move |said| (node, said)));
        said.filter(move |(_, said)| said.at > after && such(&said.what)).map(|(node, said)| Kept {
            node,
            rows: said.row,
            at: said.at,
        })
    }

    /// Pulls the cable of a machine: its node goes on alone until its lease is over.
    ///
    /// # Errors
    /// If it cannot be done.
    pub fn pull_cable(&self, node: u16) -> Result<(), Error> {
        self.cluster.net.carrier(node, false).map_err(failed)
    }

    /// Takes the power from a machine, and with it memory and what its disks did not have yet. When that was, on the boot clock.
    ///
    /// # Errors
    /// If it cannot be done.
    pub fn power_off(&self, node: u16) -> Result<u64, Error> {
        let at = clock::boot();
        self.cluster.power_off(node).map_err(failed)?;
        Ok(at)
    }

    /// Gives it power again.
    ///
    /// # Errors
    /// If it cannot be done.
    pub fn power_on(&self, node: u16) -> Result<(), Error> {
        self.cluster.power_on(node).and_then(|()| self.cluster.start(node)).map_err(failed)
    }

    /// Waits until a program began after a time, and gives what it found, and what it was told first to be kept.
    ///
    /// # Errors
    /// If that takes longer than 30 s, or what it found is no state of its history.
    pub fn taken_over(&self, after: u64) -> Result<(Kept, Kept), Error> {
        let began = || {
            let found = self.all(|what| matches!(what, What::Found(_)), after).min_by_key(|found| found.at);
            let found = found.ok_or("no program began")?;
            let kept = self.all(|what| *what == What::Kept, found.at).min_by_key(|kept| kept.at);
            Ok((found, kept.ok_or("no row was kept")?))
        };
        let taken = until(WHOLE, began).map_err(failed)?;
        let wrong = (0..self.nodes()).flat_map(|node| self.cluster.said(node)).find_map(|said| match said.what {
            What::Found(Some(wrong)) if said.at > after => Some(format!("{} finds {wrong}", said.life)),
            _ => None,
        });
        wrong.map_or(Ok(taken), |wrong| Err(failed(wrong)))
    }

    /// What a node saved of updates that no other has: as `apus repl orphans` tells.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn orphans(&self, node: u16) -> Result<Vec<Value>, Error> {
        let saved = self.cluster.ask(node, &json!({ "do": "orphans" })).map_err(failed)?;
        Ok(saved["orphans"].as_array().cloned().unwrap_or_default())
    }

    /// Lets the program rest, and once all copies have everything looks at all trees: how many files and bytes each has.
    ///
    /// # Errors
    /// If that takes longer than 15 s, or two trees differ: with the file.
    pub fn equal(&self) -> Result<(usize, usize), Error> {
        self.cluster.settle(GROUP, 0..self.nodes()).map_err(failed)?;
        let of = |node: u16| {
            let mut all = tree(&self.cluster.root(node));
            // Made anew by whoever opens the database.
            all.retain(|name, _| !name.to_string_lossy().ends_with("-shm"));
            all
        };
        let trees = (0..self.nodes()).map(|node| (node, of(node))).collect();
        if let Some(what) = crate::judge::differ(&trees) {
            return Err(failed(what));
        }
        let one = trees.first_key_value().map(|(_, tree)| tree.clone()).unwrap_or_default();
        Ok((one.len(), one.values().map(Vec::len).sum()))
    }

    /// The rows in a copy of a node's tree, as the database itself finds them there; the program must rest.
    ///
    /// # Errors
    /// If the copy is damaged.
    pub fn rows(&self, node: u16) -> Result<BTreeSet<u64>, Error> {
        let root = self.cluster.root(node);
        if self.kind == Rows::Files {
            let found = rows::look(&root).map_err(|error| failed(error.to_string()))?;
            return found.wrong.map_or_else(|| Ok((1..=found.rows).collect()), |wrong| Err(failed(wrong)));
        }
        let copy = self.cluster.files(node).join("looked-at");
        let told = |error: std::io::Error| failed(format!("{}: {error}", copy.display()));
        fs::create_dir_all(&copy).map_err(told)?;
        for (name, bytes) in tree(&root) {
            fs::write(copy.join(name), bytes).map_err(told)?;
        }
        let question = "PRAGMA integrity_check; SELECT n FROM rows ORDER BY n;";
        let text = sh(&["sqlite3", &copy.join("books.db").display().to_string(), question]).map_err(failed)?;
        match text.split_once('\n') {
            Some(("ok", rows)) => Ok(rows.lines().filter_map(|line| line.parse().ok()).collect()),
            _ => Err(failed(format!("the database of n{node} is damaged: {text}"))),
        }
    }
}
