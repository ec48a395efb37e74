//! The copies of a group in a lab: how they stand, and what its programs told.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::time::Duration;

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::sh::until;
use crate::rows::{Said, TOLD};

/// All copies have everything within this once the program rests.
const SETTLED: Duration = Duration::from_secs(15);
/// What was on its way between two looks has come.
const AGAIN: Duration = Duration::from_millis(50);

impl Cluster {
    /// The copies of a group by the word of one node.
    pub(crate) fn copies(&self, group: &str, node: u16) -> Result<BTreeMap<u16, Value>, String> {
        let status = self.ask(node, &json!({ "do": "files", "group": group }))?;
        let copies = status["groups"][0]["copies"].as_array().cloned().unwrap_or_default();
        let number = |copy: &Value| copy["node"].as_u64().and_then(|node| u16::try_from(node).ok());
        Ok(copies.into_iter().filter_map(|copy| Some((number(&copy)?, copy))).collect())
    }

    /// Whether every copy has what the writer has.
    fn settled(&self, group: &str, node: u16) -> Result<(), String> {
        let rows = self.copies(group, node)?;
        let writer = rows.values().find(|row| row["doing"] == "writes").ok_or("no copy is written")?;
        let end = &writer["end"];
        for (node, row) in &rows {
            let has = row["doing"] == "writes" || row["doing"] == "follows" && row["applied"] == *end;
            if !has || row["end"] != *end {
                let doing = row["doing"].as_str().unwrap_or("is not told of");
                return Err(format!("the copy of n{node} {doing}, and has applied {} of {end}", row["applied"]));
            }
        }
        Ok(())
    }

    /// Lets programs rest, and waits until all copies have everything.
    pub(crate) fn settle(&self, group: &str, copies: Range<u16>) -> Result<(), String> {
        let first = copies.start;
        self.rest(copies, true);
        until(SETTLED, || {
            self.settled(group, first)?;
            std::thread::sleep(AGAIN);
            self.settled(group, first)
        })
    }

    /// Programs write no rows for now, or go on.
    pub(crate) fn rest(&self, copies: Range<u16>, quiet: bool) {
        for node in copies {
            let file = self.files(node).join("quiet");
            let _ = if quiet { fs::write(file, "") } else { fs::remove_file(file) };
        }
    }

    /// What programs of a node told, oldest first.
    pub(crate) fn said(&self, node: u16) -> Vec<Said> {
        let text = fs::read_to_string(self.files(node).join(TOLD)).unwrap_or_default();
        text.split_inclusive('\n').filter_map(|line| Said::read(line.strip_suffix('\n')?)).collect()
    }
}
