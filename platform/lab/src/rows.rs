//! What a program with replicated files writes, and what its files must be: a state of its history, whoever looks at them and when.
//!
//! Row `n` is three steps in three files: line `n` is added to `rows`; page `n mod 8` of `pages` becomes the number `n`, again and again; and
//! with each sixteenth row the file `current` is replaced, by renaming, by one that says `n`. So each place of the history has one tree.

#![allow(clippy::cast_possible_truncation, reason = "lengths of a few files of a test program")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

pub(crate) const ROWS: &str = "rows";
pub(crate) const PAGES: &str = "pages";
pub(crate) const CURRENT: &str = "current";
/// Bytes of a line and of a page.
pub(crate) const LINE: u64 = 40;
pub(crate) const PAGE: u64 = 4_096;
const MANY_PAGES: u64 = 8;
pub(crate) const CURRENT_EVERY: u64 = 16;
/// Where the program tells what it did, among a machine's files.
pub(crate) const TOLD: &str = "rows.told";

/// The line of a row, with who wrote it.
pub(crate) fn line(row: u64, life: &str) -> String {
    format!("{row:010} by {life:<25.25}\n")
}

pub(crate) const fn page_of(row: u64) -> u64 {
    row % MANY_PAGES
}

pub(crate) fn page(row: u64) -> Vec<u8> {
    row.to_le_bytes().repeat((PAGE / 8) as usize)
}

/// What is in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Whole lines.
    pub(crate) rows: u64,
    /// Why this is no state of the program's history, if so.
    pub(crate) wrong: Option<String>,
}

/// Looks at a tree on a disk.
pub(crate) fn look(root: &Path) -> io::Result<Found> {
    let read = |name: &str| match fs::read(root.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    };
    Ok(judge(read(ROWS)?.as_deref(), read(PAGES)?.as_deref(), read(CURRENT)?.as_deref()))
}

pub(crate) fn judge(rows: Option<&[u8]>, pages: Option<&[u8]>, current: Option<&[u8]>) -> Found {
    let rows = rows.unwrap_or_default();
    let lines: Vec<&[u8]> = rows.chunks_exact(LINE as usize).collect();
    let many = lines.len() as u64;
    let is =
        |(row, line): (u64, &&[u8])| line.starts_with(format!("{row:010} by ").as_bytes()) && line.ends_with(b"\n");
    let hole = (1..).zip(&lines).find(|pair| !is(*pair)).map(|(row, _)| row);
    if let Some(row) = hole {
        return Found { rows: many, wrong: Some(format!("line {row} of {many} is another one")) };
    }
    let says = current.map(|text| String::from_utf8_lossy(text).trim_end().parse::<u64>().unwrap_or(u64::MAX));
    // A row is done in three steps; each leaves a tree of its own.
    let after = |step: u64| {
        let paged = if step == 0 { many.saturating_sub(1) } else { many };
        let whole = if step == 2 { many } else { many.saturating_sub(1) };
        let marked = Some(whole / CURRENT_EVERY * CURRENT_EVERY).filter(|row| *row > 0);
        let mut bytes = Vec::new();
        let last: BTreeMap<u64, u64> =
            (paged.saturating_sub(MANY_PAGES - 1).max(1)..=paged).map(|row| (page_of(row), row)).collect();
        for at in 0..MANY_PAGES {
            // What was never written is a hole, up to the last page that was.
            bytes.extend(last.get(&at).map_or_else(|| vec![0; PAGE as usize], |row| page(*row)));
        }
        bytes.truncate(last.keys().next_back().map_or(0, |last| (last + 1) * PAGE) as usize);
        (bytes, marked)
    };
    let fits = |step| {
        let (bytes, marked) = after(step);
        bytes == pages.unwrap_or_default() && marked == says
    };
    if many == 0 || (0..3).any(fits) {
        return Found { rows: many, wrong: None };
    }
    let page = |at: u64| {
        let from = (at * PAGE) as usize;
        pages
            .and_then(|pages| pages.get(from..from + 8))
            .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap_or_default()))
    };
    let has: Vec<Option<u64>> = (0..MANY_PAGES).map(page).collect();
    Found { rows: many, wrong: Some(format!("{many} lines, but pages of rows {has:?}, and `current` is {says:?}")) }
}

/// What a program told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// It began, and this is wrong with the files that it found.
    Found(Option<String>),
    /// It was told that all up to its row is kept.
    Kept,
}

/// One line that a program told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    /// On the boot clock, in nanoseconds.
    pub(crate) at: u64,
    /// Which run of the program.
    pub(crate) life: String,
    pub(crate) row: u64,
    pub(crate) what: What,
}

impl Said {
    pub(crate) fn line(&self) -> String {
        let what = match &self.what {
            What::Found(None) => "found".to_owned(),
            What::Found(Some(wrong)) => format!("found {}", wrong.replace('\n', " ")),
            What::Kept => "kept".to_owned(),
        };
        format!("{} {} {} {what}\n", self.at, self.life, self.row)
    }

    pub(crate) fn read(line: &str) -> Option<Self> {
        let mut words = line.splitn(5, ' ');
        let (at, life, row) = (words.next()?.parse().ok()?, words.next()?.to_owned(), words.next()?.parse().ok()?);
        let what = match (words.next()?, words.next()) {
            ("found", wrong) => What::Found(wrong.map(str::to_owned)),
            ("kept", None) => What::Kept,
            _ => return None,
        };
        Some(Self { at, life, row, what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files after some rows, and after so many steps of the last one.
    fn files(rows: u64, step: u64) -> (Vec<u8>, Vec<u8>, Option<Vec<u8>>) {
        let (mut lines, mut pages, mut current) = (Vec::new(), Vec::new(), None);
        for row in 1..=rows {
            lines.extend(line(row, "n0.17").into_bytes());
            if row < rows || step > 0 {
                let from = (page_of(row) * PAGE) as usize;
                pages.resize(pages.len().max(from + PAGE as usize), 0);
                pages.splice(from..from + PAGE as usize, page(row));
            }
            if row.is_multiple_of(CURRENT_EVERY) && (row < rows || step > 1) {
                current = Some(format!("{row}\n").into_bytes());
            }
        }
        (lines, pages, current)
    }

    fn found((rows, pages, current): &(Vec<u8>, Vec<u8>, Option<Vec<u8>>)) -> Found {
        judge(Some(rows), Some(pages), current.as_deref())
    }

    #[test]
    fn every_place_of_the_history_is_sound_and_no_mixture_is() {
        assert_eq!(line(1, "n0.17").len() as u64, LINE);
        assert_eq!(line(1, "a life with a very long name indeed").len() as u64, LINE);
        for rows in 0..40 {
            for step in 0..3 {
                assert_eq!(found(&files(rows, step)), Found { rows, wrong: None }, "{rows} {step}");
            }
        }
        let mut cut = files(20, 2);
        cut.0.truncate(20 * LINE as usize - 3);
        assert_eq!(found(&cut).rows, 19);
        assert!(found(&cut).wrong.is_some(), "a page is newer than the lines");
        let torn = (files(32, 2).0, files(30, 2).1, files(32, 2).2);
        assert!(found(&torn).wrong.is_some_and(|what| what.contains("32 lines")));
        let torn = (files(31, 2).0, files(31, 2).1, files(32, 2).2);
        assert!(found(&torn).wrong.is_some());
        let mut hole = files(20, 2);
        hole.0.drain(0..LINE as usize);
        assert_eq!(found(&hole).wrong.as_deref(), Some("line 1 of 19 is another one"));
    }

    #[test]
    fn what_a_program_told_is_read_as_it_was_written() {
        for what in [What::Kept, What::Found(None), What::Found(Some("3 lines, but more".into()))] {
            let said = Said { at: 12, life: "n0.17".into(), row: 3, what };
            assert_eq!(Said::read(said.line().trim_end()), Some(said));
        }
        assert_eq!(Said::read("12 n0.17 3"), None);
    }
}
