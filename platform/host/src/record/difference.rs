//! Where a replay goes another way.

use std::collections::BTreeMap;
use std::fmt;

use apus_engine::{Engine, Incarnation, NodeId, Time};

use super::incident::Span;

/// Where in an incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Whose record it is.
    pub node: NodeId,
    /// In which of its lives.
    pub incarnation: Incarnation,
    /// The how-manieth step of that life, from 1; 0 is the state before all steps.
    pub step: u64,
    /// The segment of the ring.
    pub segment: u64,
    /// The node's clock.
    pub now: Time,
    /// What was fed.
    pub input: String,
}

impl Place {
    /// After so many steps of the span.
    pub(super) fn new(span: &Span, steps: usize, input: String) -> Self {
        let start = &span.start;
        let now = steps.checked_sub(1).and_then(|last| span.steps.get(last)).map_or(start.now, |step| step.now);
        let step = start.before + steps as u64;
        Self { node: start.node, incarnation: start.incarnation, step, segment: start.segment, now, input }
    }
}

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its path in the engine.
    pub path: String,
    /// As it was recorded.
    pub recorded: String,
    /// As the replay has it.
    pub replayed: String,
}

/// The first step after which the state is another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub place: Place,
    /// Parts of the engine whose hashes differ.
    pub parts: Vec<&'static str>,
    /// Fields that differ in the next whole state that was recorded, a few at most; empty where none was.
    pub fields: Vec<Field>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { node, incarnation, step, segment, now, input } = &self.place;
        let (seconds, micros) = (now.0 / 1_000_000, now.0 % 1_000_000);
        write!(
            f,
            "{node}, life {}: another state after step {step} ({input}, at {seconds}.{micros:06} s of its clock, segment {segment})",
            incarnation.0
        )?;
        if !self.parts.is_empty() {
            write!(f, "; it differs in {}", self.parts.join(", "))?;
        }
        for Field { path, recorded, replayed } in &self.fields {
            write!(f, "\n  at the next whole state, {path}: recorded {recorded}, replayed {replayed}")?;
        }
        Ok(())
    }
}

/// Fields named at most.
const MOST: usize = 5;

/// The first fields in which two engines differ.
pub(super) fn fields(recorded: &Engine, replayed: &Engine) -> Vec<Field> {
    let (recorded, replayed) = (lines(recorded), lines(replayed));
    let map = |lines: &[(String, String)]| lines.iter().cloned().collect::<BTreeMap<_, _>>();
    let (in_recorded, in_replayed) = (map(&recorded), map(&replayed));
    let nothing = || "nothing".to_owned();
    let value = |map: &BTreeMap<String, String>, path| map.get(path).cloned().unwrap_or_else(nothing);
    let only_replayed = replayed.iter().filter(|(path, _)| !in_recorded.contains_key(path));
    let all = recorded.iter().chain(only_replayed).map(|(path, _)| path);
    all.filter(|path| in_recorded.get(*path) != in_replayed.get(*path))
        .take(MOST)
        .map(|path| Field {
            path: path.clone(),
            recorded: value(&in_recorded, path),
            replayed: value(&in_replayed, path),
        })
        .collect()
}

/// An engine as paths and values, from how it is printed. The journal is no state.
fn lines(engine: &Engine) -> Vec<(String, String)> {
    let printed = format!("{engine:#?}");
    let mut printed: Vec<String> = printed.lines().map(ToOwned::to_owned).collect();
    while join(&mut printed) {}
    let mut out = Vec::new();
    // Names of what is open, and how many nameless things each has had.
    let mut open: Vec<(String, usize)> = Vec::new();
    for line in &printed {
        let line = line.trim().trim_end_matches(',');
        if matches!(line, "}" | "]" | ")") {
            open.pop();
            continue;
        }
        let (name, value) = match line.split_once(": ") {
            Some((name, value)) => (name.to_owned(), value),
            None => {
                let nth = open.last_mut().map_or(0, |(_, many)| {
                    *many += 1;
                    *many - 1
                });
                (nth.to_string(), line)
            }
        };
        let names = open.iter().skip(1).map(|(name, _)| name.as_str()).chain(std::iter::once(name.as_str()));
        let path = names.collect::<Vec<_>>().join(".");
        if value.ends_with(['{', '[', '(']) {
            open.push((name, 0));
        }
        let value = value.trim_end_matches(['{', '[', '(', ' ']);
        if !value.is_empty() && !path.starts_with("shared.journal") {
            out.push((path, value.to_owned()));
        }
    }
    out
}

/// `Time(`, `5,`, `)` on three lines as one, wherever it is so.
fn join(lines: &mut Vec<String>) -> bool {
    let mut out: Vec<String> = Vec::with_capacity(lines.len());
    let mut rest = lines.iter().peekable();
    let mut joined = false;
    while let Some(line) = rest.next() {
        let mut ahead = rest.clone();
        if line.ends_with('(')
            && let (Some(inner), Some(end)) = (ahead.next(), ahead.next())
            && end.trim_start().starts_with(')')
            && !inner.trim_end_matches(',').ends_with(['{', '[', '('])
        {
            out.push(format!("{line}{}{}", inner.trim().trim_end_matches(','), end.trim()));
            rest = ahead;
            joined = true;
        } else {
            out.push(line.clone());
        }
    }
    *lines = out;
    joined
}
