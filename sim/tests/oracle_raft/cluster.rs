//! Whole clusters in phases: within one, messages flow inside groups of nodes until there are none. After it, every node
//! must be as its twin.

use std::collections::VecDeque;

use apus_engine::consensus::Message;
use apus_engine::{Mutant, Rng};
use raft::eraftpb::{self, MessageType};

use crate::ours::Ours;
use crate::theirs::{ELECTION, Theirs, ends};
use crate::{Start, chance};

/// More messages than any phase needs.
const STORM: usize = 20_000;

struct Twins {
    ours: Vec<Ours>,
    theirs: Vec<Theirs>,
    /// Which group each node is in.
    groups: Vec<u8>,
    /// Only votes pass.
    votes_only: bool,
}

impl Twins {
    fn collect_ours(&mut self, flight: &mut VecDeque<(u16, u16, Message)>) {
        for (from, node) in self.ours.iter_mut().enumerate() {
            node.sync(u64::MAX);
            flight.extend(node.sent().into_iter().map(|(to, message)| (from as u16, to, message)));
        }
    }

    fn collect_theirs(&mut self, flight: &mut VecDeque<eraftpb::Message>) {
        for node in &mut self.theirs {
            node.sync(u64::MAX);
            flight.extend(node.sent());
        }
    }

    fn passes(&self, from: u16, to: u16, vote: bool) -> bool {
        self.groups[from as usize] == self.groups[to as usize] && (vote || !self.votes_only)
    }

    /// Delivers until there is nothing to deliver.
    fn settle(&mut self) -> Result<(), String> {
        let mut flight = VecDeque::new();
        self.collect_ours(&mut flight);
        let mut many = 0;
        while let Some((from, to, message)) = flight.pop_front() {
            let vote = matches!(message, Message::VoteRequest(_) | Message::VoteReply(_));
            if self.passes(from, to, vote) {
                self.ours[to as usize].receive(from, &message);
                self.collect_ours(&mut flight);
            }
            many += 1;
            if many > STORM {
                return Err("ours never falls silent".into());
            }
        }
        let mut flight = VecDeque::new();
        self.collect_theirs(&mut flight);
        while let Some(message) = flight.pop_front() {
            let vote = matches!(
                message.get_msg_type(),
                MessageType::MsgRequestVote
                    | MessageType::MsgRequestPreVote
                    | MessageType::MsgRequestVoteResponse
                    | MessageType::MsgRequestPreVoteResponse
            );
            let (from, to) = ends(&message);
            if self.passes(from, to, vote) {
                self.theirs[to as usize].receive_raw(message);
                self.collect_theirs(&mut flight);
            }
        }
        Ok(())
    }

    /// Leaders beat for more than two election timeouts: followers catch up, leaders without a quorum step down.
    fn beat(&mut self) -> Result<(), String> {
        for _ in 0..2 * ELECTION + 2 {
            for node in &mut self.theirs {
                node.tick();
            }
            for node in &mut self.ours {
                if node.view().leads {
                    node.time_out();
                }
            }
            self.settle()?;
        }
        Ok(())
    }

    /// A leader that a newer term outran hears of it before it can reach anybody else: who of its followers it still
    /// reaches depends on the order of messages.
    fn depose(&mut self) -> Result<(), String> {
        let groups = self.groups.clone();
        for at in 0..groups.len() {
            let term = |node: &usize| self.theirs[*node].view().term;
            let newest = (0..groups.len()).filter(|node| groups[*node] == groups[at]).max_by_key(term).unwrap_or(at);
            if !self.theirs[at].view().leads || term(&newest) <= term(&at) {
                continue;
            }
            self.groups = (0..groups.len()).map(|node| if node == newest { at as u8 } else { node as u8 }).collect();
            for _ in 0..2 {
                self.theirs[at].tick();
            }
            self.ours[at].time_out();
            self.settle()?;
        }
        self.groups = groups;
        Ok(())
    }

    /// Followers of ours learn of commits by the next heartbeat, theirs at once: one that was not reached since may lag.
    fn compare(&self, beaten: bool) -> Result<(), String> {
        for (at, (ours, theirs)) in self.ours.iter().zip(&self.theirs).enumerate() {
            let (mut a, mut b) = (ours.view(), theirs.view());
            a.align(&mut b);
            let led = self
                .theirs
                .iter()
                .zip(&self.groups)
                .any(|(other, group)| *group == self.groups[at] && other.view().leads);
            if !(beaten && led) && a.commit <= b.commit {
                b.commit = a.commit;
            }
            if a != b {
                return Err(format!("n{at} differs: {a:?}\ntheirs {b:?}"));
            }
        }
        Ok(())
    }
}

pub(crate) fn compare(mut rng: Rng, mutant: Option<Mutant>) -> Result<(), String> {
    let nodes = if chance(&mut rng, 50) { 3 } else { 5 };
    let start = Start { voters: (0..nodes).collect(), term: 1, ..Start::default() };
    let mut twins = Twins {
        ours: (0..nodes).map(|me| Ours::new(me, &start, mutant)).collect(),
        theirs: (0..nodes).map(|me| Theirs::new(me, &start)).collect(),
        groups: vec![0; nodes as usize],
        votes_only: false,
    };
    let mut told = String::new();
    let mut highest = vec![0; nodes as usize];
    for phase in 0..25_u8 {
        let node = rng.below(u64::from(nodes)) as u16;
        let mut beaten = true;
        match rng.below(10) {
            0..4 => {
                let lapse = chance(&mut rng, 80);
                twins.votes_only = chance(&mut rng, 30);
                told = format!(
                    "{told}\n{phase}: n{node} campaigns, leases lapse {lapse}, votes only {}",
                    twins.votes_only
                );
                for at in 0..nodes as usize {
                    if lapse {
                        twins.ours[at].forget_leader();
                        twins.theirs[at].forget_leader();
                    }
                }
                if !twins.theirs[node as usize].view().leads {
                    twins.ours[node as usize].time_out();
                    twins.theirs[node as usize].time_out();
                }
                twins.settle()?;
                twins.votes_only = false;
                beaten = false;
            }
            4..6 => {
                told = format!("{told}\n{phase}: leaders are given a note");
                for at in 0..nodes as usize {
                    twins.ours[at].propose(&[phase + 1]);
                    twins.theirs[at].propose(&[phase + 1]);
                }
                twins.beat().map_err(|what| what + &told)?;
            }
            6..8 => {
                twins.groups = (0..nodes).map(|_| rng.below(2) as u8).collect();
                if chance(&mut rng, 40) {
                    twins.groups.fill(0);
                }
                told = format!("{told}\n{phase}: groups {:?}", twins.groups);
                twins.depose().map_err(|what| what + &told)?;
                twins.beat().map_err(|what| what + &told)?;
            }
            8 => {
                told = format!("{told}\n{phase}: n{node} restarts");
                twins.ours[node as usize].restart();
                twins.theirs[node as usize].restart();
                highest[node as usize] = 0;
                twins.settle()?;
                beaten = false;
            }
            _ => {
                told = format!("{told}\n{phase}: leaders beat");
                twins.beat().map_err(|what| what + &told)?;
            }
        }
        twins.compare(beaten).map_err(|what| what + &told)?;
        for (at, highest) in highest.iter_mut().enumerate() {
            let commit = twins.ours[at].view().commit;
            if commit < *highest {
                return Err(format!("n{at} takes its commit back from {highest} to {commit}{told}"));
            }
            *highest = commit;
        }
    }
    Ok(())
}
