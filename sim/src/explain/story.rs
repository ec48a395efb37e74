//! The story of a failure for a terminal: at most 40 lines.

use std::collections::BTreeSet;

use super::relevant::{chain, end};
use super::scene::Scene;
use super::words::sentence;
use super::{is_notable, ms};
use crate::fault::{Ns, S};
use crate::report::Run;
use crate::trace::{Line, What};

/// Lines of a story at most.
const LINES: usize = 40;

/// One line of a story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// When; `None` for a remark.
    pub(super) at: Option<Ns>,
    pub(super) node: Option<u16>,
    pub(super) text: String,
}

impl Told {
    fn show(&self) -> String {
        let at = self.at.map_or_else(String::new, ms);
        let who = match (self.at, self.node) {
            (Some(_), Some(node)) => format!("n{node}"),
            (Some(_), None) => "--".into(),
            (None, _) => String::new(),
        };
        format!("{at:>12}  {who:<4} {}", self.text)
    }
}

/// Faults, the causal chain behind the violation, and what happened right before it.
#[must_use]
pub fn story(run: &Run) -> Vec<String> {
    tell(run, &Scene::new(run)).iter().map(Told::show).collect()
}

/// The same as data.
pub(super) fn tell(run: &Run, scene: &Scene) -> Vec<Told> {
    let end = end(run);
    let chain = chain(run, scene);
    let mut seen = BTreeSet::new();
    let mut tells = |line: &Line| match &line.what {
        What::FaultStart { .. } | What::FaultStop { .. } | What::Healed | What::Disarmed { .. } => true,
        // A guard that is opened again and again is told once a grant.
        What::Armed { resource, epoch, .. } => seen.insert((line.node, *resource, *epoch)),
        What::Event(event) => chain.contains(&event.id),
        _ => is_notable(line) && line.at > 0 && end.saturating_sub(line.at) < 2 * S,
    };
    let mut told: Vec<Told> = run
        .trace
        .iter()
        .filter(|line| line.at <= end && tells(line))
        .map(|line| Told { at: Some(line.at), node: line.node.map(|node| node.0), text: sentence(line) })
        .collect();
    for hold in scene.holds.iter().filter(|hold| hold.from <= end && hold.renewals > 0 && hold.renewed <= end) {
        let until = ms(hold.to);
        let text = match hold.renewals {
            1 => format!("renews r{} by e{}, its guard stays open until {until}", hold.resource, hold.epoch),
            n => format!(
                "renews r{} by e{} the {} time, its guard stays open until {until}",
                hold.resource,
                hold.epoch,
                nth(n)
            ),
        };
        told.push(Told { at: Some(hold.renewed), node: Some(hold.node), text });
    }
    told.sort_by_key(|told| told.at);
    shorten(&mut told, LINES - 2);
    if let Some(violation) = &run.violation {
        let text = format!("VIOLATED {}: {}", violation.checker, violation.what);
        told.push(Told { at: Some(violation.at), node: None, text });
    }
    if let Some(overlap) = run.measures.get("two-holders-time") {
        told.push(Told {
            at: None,
            node: None,
            text: format!("two nodes held one resource at once for {} ms", ms(*overlap)),
        });
    }
    told
}

fn nth(n: u32) -> String {
    let end = match (n % 10, n % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{n}{end}")
}

/// Leaves lines out until there are no more than `most`: never a fault, the latest ones last.
fn shorten(told: &mut Vec<Told>, most: usize) {
    if told.len() <= most {
        return;
    }
    let mut over = told.len() - (most - 1);
    let cut = over;
    let first = told.len() - (most - 1).min(told.len());
    let mut at = 0;
    let mut place = None;
    // First what is no fault, from the oldest on; then, if faults alone are too many, these.
    for faults in [false, true] {
        while over > 0 && at < told.len() {
            if faults || !told[at].text.contains("FAULT") {
                told.remove(at);
                place.get_or_insert(at);
                over -= 1;
            } else {
                at += 1;
            }
        }
        at = 0;
    }
    let text = format!("… {cut} earlier lines left out");
    told.insert(place.unwrap_or(first).min(told.len()), Told { at: None, node: None, text });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_and_the_end_are_kept() {
        let line = |at, text: &str| Told { at: Some(at), node: None, text: text.into() };
        let mut told: Vec<Told> = (0..100).map(|at| line(at, if at == 3 { "FAULT loss" } else { "talk" })).collect();
        shorten(&mut told, 38);
        assert_eq!(told.len(), 38);
        assert!(told.iter().any(|told| told.text == "FAULT loss"));
        assert_eq!(told.last().and_then(|told| told.at), Some(99));
        let mut faults: Vec<Told> = (0..100).map(|at| line(at, "FAULT loss")).collect();
        shorten(&mut faults, 38);
        assert_eq!(faults.len(), 38);
    }

    #[test]
    fn ordinals() {
        let all: Vec<String> = [1, 2, 3, 4, 11, 12, 13, 21, 22, 101, 111].into_iter().map(nth).collect();
        assert_eq!(all.join(" "), "1st 2nd 3rd 4th 11th 12th 13th 21st 22nd 101st 111th");
    }
}
