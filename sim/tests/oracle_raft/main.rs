//! The `raft` crate as an oracle: our consensus and theirs are given the same schedule and must decide the same.
//!
//! - `voter`: one voter is asked for votes and handed entries of a legal history, with slow syncs and crashes. Same
//!   answers, same state; and what ours promises is on their disk, so it survives a crash.
//! - `leader`: one candidate and leader is given votes and acknowledgements, also under joint members and with learners.
//!   It wins, and commits, at the same message.
//! - `cluster`: 3 and 5 nodes through elections, cuts, lost appends, restarts. After each phase all terms, votes, leaders,
//!   logs and commit indexes are equal.
#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

mod cluster;
mod leader;
mod ours;
mod theirs;
mod voter;

use apus_engine::{Mutant, Rng, Seed};

/// What both are compared by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) term: u64,
    pub(crate) vote: Option<u16>,
    pub(crate) leads: bool,
    pub(crate) commit: u64,
    /// Entries after the snapshot: index, term, note (empty for a leader's first).
    pub(crate) log: Vec<(u64, u64, Vec<u8>)>,
}

impl View {
    /// Entries that both still hold.
    fn align(&mut self, other: &mut Self) {
        let first = |view: &Self| view.log.first().map_or(u64::MAX, |entry| entry.0);
        let both = first(self).max(first(other));
        self.log.retain(|entry| entry.0 >= both);
        other.log.retain(|entry| entry.0 >= both);
    }
}

/// Where both start: as if restored from a snapshot of one entry of term 1.
#[derive(Clone, Debug, Default)]
pub(crate) struct Start {
    pub(crate) voters: Vec<u16>,
    pub(crate) outgoing: Vec<u16>,
    pub(crate) learners: Vec<u16>,
    pub(crate) term: u64,
    pub(crate) vote: Option<u16>,
    /// Terms and notes of the entries from index 2 on.
    pub(crate) log: Vec<(u64, Vec<u8>)>,
}

fn pick<'a, T>(rng: &mut Rng, from: &'a [T]) -> &'a T {
    &from[rng.below(from.len() as u64) as usize]
}

fn chance(rng: &mut Rng, percent: u64) -> bool {
    rng.below(100) < percent
}

/// One comparison under one seed; an error is the first difference.
type Oracle = fn(Rng, Option<Mutant>) -> Result<(), String>;

fn agree(name: &str, oracle: Oracle, seeds: u64) {
    for seed in 0..seeds {
        if let Err(what) = oracle(Seed(seed).stream(name), None) {
            panic!("{name}, seed {seed}: {what}");
        }
    }
}

/// The comparison must see these bugs, each within so many seeds.
fn sees(name: &str, oracle: Oracle, seeds: u64, mutants: &[Mutant]) {
    for mutant in mutants {
        let seen = (0..seeds).any(|seed| oracle(Seed(seed).stream(name), Some(*mutant)).is_err());
        assert!(seen, "{name} does not see {} in {seeds} seeds", mutant.name());
    }
}

#[test]
fn a_voter_answers_as_theirs() {
    agree("voter", voter::compare, 20_000);
}

#[test]
fn a_leader_wins_and_commits_as_theirs() {
    agree("leader", leader::compare, 3_000);
}

#[test]
fn clusters_of_three_and_five_go_the_same_way() {
    agree("cluster", cluster::compare, 600);
}

#[test]
fn planted_bugs_are_seen() {
    let voter = [
        Mutant::UpToDateIgnored,
        Mutant::VotesTwice,
        Mutant::VoteBeforePersist,
        Mutant::AckBeforePersist,
        Mutant::NoStickiness,
        Mutant::StaleTermAccepted,
        Mutant::CommitBeyondMatch,
        Mutant::NoPrevCheck,
        Mutant::ConflictKept,
        Mutant::VoteForgotten,
        Mutant::TermForgotten,
        Mutant::OldSnapshotTaken,
    ];
    sees("voter", voter::compare, 3_000, &voter);
    let leader = [
        Mutant::QuorumOffByOne,
        Mutant::JointIgnoresOld,
        Mutant::LearnerCounted,
        Mutant::CommitsOldTerm,
        Mutant::LeaderRewrites,
    ];
    sees("leader", leader::compare, 3_000, &leader);
    let cluster = [Mutant::NoPreVote, Mutant::NoCheckQuorum, Mutant::UpToDateIgnored, Mutant::QuorumOffByOne];
    sees("cluster", cluster::compare, 600, &cluster);
}
