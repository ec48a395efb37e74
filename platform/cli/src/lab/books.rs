//! `apus lab demo files`: the machine with a database loses power while rows are written, and what came of its files.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use apus_lab::{Books, Kept, Rows};
use serde_json::{Value, json};

use super::demo::{Gone, millis, step};
use crate::args::Format;
use crate::print::{self, BOLD, count, say};
use crate::{Trouble, VERSION, view};

/// The database is up elsewhere within this.
const GOAL: Duration = Duration::from_secs(2);
/// Rows before the failure, and after it.
const BEFORE: u64 = 200;
const AFTER: u64 = 100;
/// How long the machine goes on without its cable: what it writes then nobody else gets.
const ALONE: Duration = Duration::from_millis(150);

/// What is told as it happens: milliseconds from the power failure on.
struct Line {
    format: Format,
    off: Option<u64>,
    told: Vec<Value>,
}

impl Line {
    /// Of a moment on the boot clock.
    fn at(&mut self, at: u64, what: &str) {
        let off = self.off.unwrap_or(at);
        let ms = i64::try_from(at / 1_000_000).unwrap_or(0) - i64::try_from(off / 1_000_000).unwrap_or(0);
        step(self.format, &format!("{ms:>7} ms  {what}"));
        self.told.push(json!({ "ms": ms, "what": what }));
    }

    fn now(&mut self, what: &str) {
        self.at(apus_lab::now(), what);
    }
}

/// Rows of which one was acknowledged and is not there.
fn lost(acknowledged: u64, there: &BTreeSet<u64>) -> Vec<u64> {
    (1..=acknowledged).filter(|row| !there.contains(row)).collect()
}

/// Exit code 0 if the database was up elsewhere in time, with every row that was acknowledged, and all trees were equal at the end; 1 if a
/// row was lost, the rest was not saved or trees differ; 2 if something took too long.
pub(super) fn demo(name: &str, nodes: u16, plain: bool, format: Format) -> Result<u8, Trouble> {
    // What an interrupted one has left.
    apus_lab::Lab::down(name)?;
    let began = Instant::now();
    let kind = if plain { Rows::Files } else { Rows::Sqlite };
    let what = if plain { "lines and pages of files" } else { "SQLite" };
    let books = Books::up(name, nodes, kind)?;
    let gone = Gone(name.into());
    let up =
        format!("{BOLD}{}{BOLD:#}, up after {:.1} s", count(nodes.into(), "machine"), began.elapsed().as_secs_f64());
    step(format, &up);
    step(
        format,
        &format!("    {what} on one of them, its files on all disks; a row is acknowledged once two disks have it"),
    );

    let calm = books.write(BEFORE)?;
    let (had, mut line) = (calm.node, Line { format, off: None, told: Vec::new() });
    step(format, &format!("{BOLD}n{had} writes, and its machine fails{BOLD:#}"));
    books.pull_cable(had)?;
    let cut = apus_lab::now();
    sleep(ALONE);
    let off = books.power_off(had)?;
    line.off = Some(off);
    let last = books.kept().unwrap_or(calm);
    let mut before = [
        (last.at, format!("row {} is acknowledged on n{had}, the last one there", last.rows)),
        (cut, format!("n{had} loses its cable, and goes on: what it writes now nobody else gets")),
    ];
    // An answer may have been on its way.
    before.sort();
    before.iter().for_each(|(at, what)| line.at(*at, what));
    line.at(off, &format!("n{had} loses its power: memory, and what its disk had not written yet"));

    let (found, first) = books.taken_over(off)?;
    let story = apus_node::ask(&books.control(found.node), &json!({ "do": "why", "of": "db" }))?;
    let position = position(&story.to_string());
    let at = position.map_or_else(|| "where the log told".to_owned(), |position| format!("at position {position}"));
    line.at(found.at, &format!("n{} opens the files {at}, and finds {} rows", found.node, found.rows));
    line.at(first.at, &format!("row {} is acknowledged there", first.rows));
    let took = Duration::from_nanos(first.at.saturating_sub(off));
    books.write(AFTER)?;

    line.now(&format!("n{had} gets power again"));
    books.power_on(had)?;
    books.wait()?;
    line.now(&format!("n{had} has compared its files, and follows n{}", found.node));
    let saved = books.orphans(had)?;
    for orphan in &saved {
        line.now(&format!(
            "n{had} kept {}, in {}",
            what_only_it_had(orphan),
            orphan["path"].as_str().unwrap_or_default()
        ));
    }
    let manifests: Vec<Vec<String>> = saved.iter().map(manifest).collect();
    let equal = books.equal();
    let kept = books.kept().unwrap_or(first);
    let there = books.rows(had)?;
    let lost = lost(kept.rows, &there);
    match &equal {
        Ok((files, bytes)) => line.now(&format!(
            "all {} trees are equal: {}, {bytes} bytes; {} rows, every one that was acknowledged",
            nodes,
            count(*files as u64, "file"),
            there.len()
        )),
        Err(error) => line.now(&error.to_string()),
    }
    step(format, &format!("{BOLD}apus why db{BOLD:#}"));
    step(format, &view::story(&story).lines().map(|line| format!("    {line}\n")).collect::<String>());
    for row in manifests.iter().flatten() {
        step(format, &format!("    {row}"));
    }
    drop(gone);

    let code = verdict(&Outcome { last, found, took, saved: saved.len(), lost: &lost, equal: equal.is_ok() });
    if format == Format::Json {
        print::json(&json!({
            "apus": VERSION, "nodes": nodes, "program": if plain { "files" } else { "sqlite" }, "mode": "sync",
            "writer_before": had, "writer_after": found.node, "acknowledged": last.rows, "found": found.rows,
            "position": position, "up_ms": millis(Duration::from_nanos(found.at.saturating_sub(off))),
            "acknowledged_again_ms": millis(took), "rows": there.len(), "lost": lost, "orphans": saved,
            "equal": equal.is_ok(), "timeline": line.told, "why": story, "exit_code": code,
        }));
    } else if let Some(what) = wrong(code) {
        print::error(&what);
    } else {
        say!("{BOLD}n{} was up after {} ms, with every row that was acknowledged{BOLD:#}", found.node, millis(took));
    }
    Ok(code)
}

/// What a run came to.
struct Outcome<'o> {
    last: Kept,
    found: Kept,
    took: Duration,
    saved: usize,
    lost: &'o [u64],
    equal: bool,
}

fn verdict(of: &Outcome<'_>) -> u8 {
    if of.found.rows < of.last.rows || !of.lost.is_empty() || of.saved == 0 || !of.equal {
        return 1;
    }
    if of.took > GOAL { 2 } else { 0 }
}

fn wrong(code: u8) -> Option<String> {
    match code {
        0 => None,
        1 => Some("an acknowledged row is not there, what only one machine had was not saved, or trees differ".into()),
        _ => Some(format!("rows were to be acknowledged elsewhere within {} s", GOAL.as_secs())),
    }
}

/// Where files were opened last, by a story that tells it.
fn position(story: &str) -> Option<u64> {
    let (_, rest) = story.rsplit_once("opens files books at @")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// What was saved.
fn what_only_it_had(orphan: &Value) -> String {
    let (from, upto) = (orphan["from"].as_u64().unwrap_or(0), orphan["upto"].as_u64().unwrap_or(0));
    let files = count(orphan["files"].as_u64().unwrap_or(0), "file");
    if from > upto {
        return format!("its {files} as the failure left them");
    }
    format!("what only it had, changes {from} to {upto}, and its {files} as the failure left them")
}

/// The first lines of what tells of saved updates.
fn manifest(orphan: &Value) -> Vec<String> {
    let file = std::path::Path::new(orphan["path"].as_str().unwrap_or_default()).join("manifest.txt");
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().take(8).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_good_only_if_nothing_is_lost_late_or_left() {
        let kept = |rows| Kept { node: 1, rows, at: 0 };
        let code = |found: u64, lost: &[u64], saved: usize, equal: bool, ms: u64| {
            let took = Duration::from_millis(ms);
            verdict(&Outcome { last: kept(7), found: kept(found), took, saved, lost, equal })
        };
        assert_eq!(code(7, &[], 1, true, 1_900), 0);
        assert_eq!(code(8, &[], 1, true, 2_000), 0, "one that was not acknowledged may be there");
        assert_eq!(code(6, &[], 1, true, 10), 1);
        assert_eq!(code(7, &[3], 1, true, 10), 1);
        assert_eq!(code(7, &[], 0, true, 10), 1);
        assert_eq!(code(7, &[], 1, false, 10), 1);
        assert_eq!(code(7, &[], 1, true, 2_001), 2);
        assert_eq!(lost(4, &BTreeSet::from([1, 2, 4, 5])), [3]);
        assert_eq!(position("opens files books at @12\"}, {\"x\": \"opens files books at @1207\"}"), Some(1_207));
        assert_eq!(position("nothing"), None);
    }
}
