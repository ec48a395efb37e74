//! Replicated files of a live run: the group that a scenario describes, and what is there to be judged at its end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use apus_engine::Mode;
use apus_node::LIBRARY;
use apus_sim::fault::Kind;
use serde_json::Value;

use super::Stage;
use crate::judge::Files;
use crate::linux::writer::tree;
use crate::rows::{LINE, ROWS, Said};

/// What the group of a run is called.
pub(super) const GROUP: &str = "files";
/// A file of a daemon has no smaller log.
const LEAST_LOG: u64 = 1 << 20;

impl Stage {
    /// What the program of the first service is told besides, and its group, as a node's file has them.
    pub(super) fn group(&self, node: u16) -> (String, String) {
        let Some(files) = &self.plan.scenario.files else { return Default::default() };
        let root = self.cluster.root(node);
        let writes = format!(", \"--root\", \"{}\", \"--rate\", \"{}\"", root.display(), files.rate);
        let (mode, need) = match files.mode {
            Mode::Async => ("async", String::new()),
            Mode::SemiSync => ("semi-sync", String::new()),
            Mode::Sync => ("sync", format!("need = {}\n", files.need)),
        };
        let scrub = if files.scrub == 0 { "false".to_owned() } else { format!("\"{}us\"", files.scrub / 1_000) };
        let copies: Vec<String> = (0..files.copies).map(|copy| copy.to_string()).collect();
        let group = format!(
            "candidates = [{}]\n[[groups]]\nname = \"{GROUP}\"\nid = 1\nservice = \"{}\"\nroot = \"{}\"\npatterns = [\"**\"]\n\
             mode = \"{mode}\"\n{need}log = {}\nlag = {}\nscrub = {scrub}\nring = \"{}\"\nguard = \"{}\"\n",
            copies.join(", "),
            self.plan.scenario.services[0].name,
            root.display(),
            files.log.max(LEAST_LOG),
            files.lag,
            self.cluster.ring(node).display(),
            if self.has_strangers() { "mark" } else { "refuse" },
        );
        (writes, group)
    }

    /// Nodes that have the files.
    fn copies(&self) -> u16 {
        self.plan.scenario.files.as_ref().map_or(0, |files| files.copies)
    }

    /// Somebody changes files who is not captured.
    fn has_strangers(&self) -> bool {
        self.plan.faults.iter().any(|fault| fault.kind == Kind::FilesMissed)
    }

    /// Whether the files are written at a node.
    fn writes(&self, node: u16) -> bool {
        self.cluster.copies(GROUP, node).is_ok_and(|rows| rows.get(&node).is_some_and(|row| row["doing"] == "writes"))
    }

    /// A bit turns in a file of a copy that nobody writes, unseen by its disk.
    pub(super) fn rot(&self, node: u16) -> Result<u64, String> {
        if node >= self.copies() || self.writes(node) {
            return Ok(0);
        }
        let file = self.cluster.root(node).join(ROWS);
        let turned = File::options().read(true).write(true).open(&file).and_then(|file| {
            // Within the first line, which no row comes to again.
            let mut byte = [0];
            file.read_exact_at(&mut byte, LINE - 2)?;
            file.write_all_at(&[byte[0] ^ 1], LINE - 2)
        });
        turned.map(|()| 1).map_err(|error| format!("{}: {error}", file.display()))
    }

    /// A program without the library writes into the files that are written at a node.
    pub(super) fn stranger(&self, node: u16) -> Result<u64, String> {
        if !self.writes(node) {
            return Ok(0);
        }
        let file = self.cluster.root(node).join("stranger");
        let told = |error: std::io::Error| format!("{}: {error}", file.display());
        let mut open = File::options().create(true).append(true).open(&file).map_err(told)?;
        open.write_all(b"nobody saw this\n").map(|()| 1).map_err(told)
    }

    /// One of the copies is written, and the others follow it.
    pub(super) fn files_well(&self, nodes: &[u16]) -> Result<(), String> {
        let copies: Vec<u16> = nodes.iter().copied().filter(|node| *node < self.copies()).collect();
        let Some(first) = copies.first() else { return Ok(()) };
        let rows = self.cluster.copies(GROUP, *first)?;
        let mut writes = 0;
        for node in copies {
            let row = rows.get(&node).map_or(&Value::Null, |row| row);
            match row["doing"].as_str() {
                Some("writes") => writes += 1,
                Some("follows") => {}
                other => return Err(format!("the copy of n{node} {}", other.unwrap_or("is not told of"))),
            }
        }
        if writes == 1 { Ok(()) } else { Err(format!("{writes} copies are written")) }
    }

    /// The program rests, and once all copies have everything, they are looked at.
    pub(super) fn files(&self) -> Option<Files> {
        self.plan.scenario.files.as_ref()?;
        let settled = self.cluster.settle(GROUP, 0..self.copies());
        let mut said: Vec<Said> = Vec::new();
        let (mut trees, mut saved) = (BTreeMap::new(), Vec::new());
        for node in 0..self.copies() {
            said.extend(self.cluster.said(node));
            if self.cluster.data(node).is_seen() {
                let root = self.cluster.root(node);
                trees.insert(node, tree(&root));
                saved.extend(tree(&root.with_file_name(".root.apus").join("orphans")).into_values());
            }
        }
        said.sort_by_key(|said| said.at);
        Some(Files { said, trees, saved, settled })
    }
}

/// What replicated files need here and is not there: the library that captures programs lies beside this command.
pub(crate) fn missing() -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return Some("replicated files need x86-64".into());
    }
    let own = std::env::current_exe().ok()?.with_file_name(LIBRARY);
    let mend = "`cargo build -p apus-interpose` makes it";
    (!own.is_file()).then(|| format!("{} is missing, without which no program is captured: {mend}", own.display()))
}
