//! At most one leader a term (Raft §5.2, Election Safety), and at most one vote of a voter a term.

use std::collections::BTreeMap;

use apus_engine::{Fact, NodeId, Term, consensus};

use super::Checker;
use crate::trace::{Line, What};

#[derive(Clone, Default)]
pub(super) struct ElectionSafety {
    leaders: BTreeMap<Term, NodeId>,
}

impl Checker for ElectionSafety {
    fn name(&self) -> &'static str {
        "election-safety"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        let (Some(node), What::Event(event)) = (line.node, &line.what) else { return Ok(()) };
        match event.fact {
            Fact::Consensus(consensus::Fact::Elected { term }) => match self.leaders.insert(term, node) {
                Some(other) if other != node => Err(format!("{node} and {other} both lead {term}")),
                _ => Ok(()),
            },
            Fact::Consensus(consensus::Fact::Follows { leader, term }) => match self.leaders.get(&term) {
                Some(other) if *other != leader => {
                    Err(format!("{node} follows {leader} in {term}, which {other} leads"))
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

#[derive(Clone, Default)]
pub(super) struct VotesOnce {
    votes: BTreeMap<(NodeId, Term), NodeId>,
}

impl Checker for VotesOnce {
    fn name(&self) -> &'static str {
        "votes-once"
    }
    fn see(&mut self, line: &Line) -> Result<(), String> {
        let (Some(node), What::Event(event)) = (line.node, &line.what) else { return Ok(()) };
        let Fact::Consensus(consensus::Fact::Voted { term, candidate }) = event.fact else { return Ok(()) };
        match self.votes.insert((node, term), candidate) {
            Some(other) if other != candidate => Err(format!("{node} votes for {other} and for {candidate} in {term}")),
            _ => Ok(()),
        }
    }
}
