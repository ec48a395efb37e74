//! What nodes tell, in a few words.

use apus_engine::{Copy, EngineFact, Event, ExitCause, Fact, NodeId, consensus, diagnosis, supervision, views};

use super::ms;
use crate::trace::{Line, What};

/// A fact in a few words.
#[must_use]
pub fn words(event: &Event) -> String {
    match &event.fact {
        Fact::Engine(fact) => engine(fact),
        Fact::Diagnosis(fact) => diagnosis(fact, event.id.node),
        Fact::Consensus(fact) => consensus(fact),
        Fact::Views(fact) => views(fact),
        Fact::Supervision(fact) => supervision(fact),
    }
}

fn engine(fact: &EngineFact) -> String {
    match fact {
        EngineFact::Started { formatted: true } => "starts from its disk".into(),
        EngineFact::Started { formatted: false } => "starts with an empty disk".into(),
        EngineFact::Stalled { late } => format!("notices that it stood still for {} ms", late.0 / 1_000),
        EngineFact::Superseded { inc, silent: true } => format!("hears of its later life {inc} and falls silent"),
        EngineFact::Superseded { inc, .. } => format!("hears of its later life {inc} and begins another"),
        EngineFact::DiskFailed => "cannot write its disk and decides nothing more".into(),
        EngineFact::DiskFull => "finds its disk full".into(),
    }
}

fn diagnosis(fact: &diagnosis::Fact, me: NodeId) -> String {
    match fact {
        diagnosis::Fact::Suspected { node, by, .. } if *by == me => format!("suspects {node}"),
        diagnosis::Fact::Missed { node, deadline } => format!("no answer from {node} within {} ms", deadline.0 / 1_000),
        diagnosis::Fact::Suspected { node, by, .. } => format!("hears that {by} suspects {node}"),
        diagnosis::Fact::Cleared { node, .. } => format!("clears {node}"),
        diagnosis::Fact::Down { node, .. } => format!("judges {node} down"),
        diagnosis::Fact::Up { node, .. } => format!("judges {node} up"),
        diagnosis::Fact::SelfDegraded { lhm } => format!("finds itself slow (degree {lhm})"),
    }
}

fn consensus(fact: &consensus::Fact) -> String {
    match fact {
        consensus::Fact::Campaign { term, pre: true } => format!("asks whether it could win {term}"),
        consensus::Fact::Campaign { term, .. } => format!("stands for {term}"),
        consensus::Fact::Voted { term, candidate } => format!("votes for {candidate} in {term}"),
        consensus::Fact::Elected { term } => format!("leads {term}"),
        consensus::Fact::SteppedDown { term, no_quorum: true } => format!("hears no quorum and leads {term} no longer"),
        consensus::Fact::SteppedDown { term, .. } => format!("leads {term} no longer"),
        consensus::Fact::Follows { leader, term } => format!("follows {leader} in {term}"),
        consensus::Fact::Committed { index, .. } => format!("commits {index}"),
        consensus::Fact::Installed { index } => format!("catches up by a snapshot to {index}"),
        consensus::Fact::Members { index, voters, joint: true } => {
            format!("works with old and new members from {index}, {voters} new voters")
        }
        consensus::Fact::Members { index, voters, .. } => format!("works with {voters} voters from {index}"),
        consensus::Fact::Blank { node } => format!("learns that {node} has an empty disk"),
    }
}

fn views(fact: &views::Fact) -> String {
    match fact {
        views::Fact::Waiting { resource, holder, left } => {
            format!("waits {} ms for {holder}'s lease of {resource}", left.0 / 1_000)
        }
        views::Fact::Proposed { resource, holder, .. } => format!("proposes {resource} for {holder}"),
        views::Fact::Granted { resource, epoch, holder } => {
            format!("applies the grant: {resource} to {holder} by {epoch}")
        }
        views::Fact::Armed { resource, epoch, .. } => format!("holds {resource} by {epoch}"),
        views::Fact::Expired { resource, epoch } => format!("its lease of {resource} by {epoch} has run out"),
        views::Fact::Released { resource, epoch } => format!("lets go of {resource} by {epoch}"),
        views::Fact::Refused { resource, epoch, newest } => format!("refuses {epoch} of {resource}: {newest} is newer"),
        views::Fact::Seized { resource } => format!("takes {resource} by the 1998 rule, asking nobody"),
        views::Fact::Yielded { resource, to } => format!("yields {resource} to {to} by the 1998 rule"),
        views::Fact::Noted { index, .. } => format!("applies the note {index}"),
    }
}

fn copy(copy: Copy) -> String {
    format!("copy {} of {}", copy.slot, copy.service)
}

fn supervision(fact: &supervision::Fact) -> String {
    use supervision::{Fact, FailureCause, Rung};
    match fact {
        Fact::Starting { copy: one, active: true, epoch } => format!("starts {} by {epoch}", copy(*one)),
        Fact::Starting { copy: one, .. } => format!("starts {} as a standby", copy(*one)),
        Fact::Ready { copy: one } => format!("{} is ready", copy(*one)),
        Fact::Promoted { copy: one, epoch } => format!("makes the standby {} active by {epoch}", copy(*one)),
        Fact::Failed { copy: one, cause } => {
            let why = match cause {
                FailureCause::Crash(cause) => exit(*cause),
                FailureCause::Hang(thread) => format!("its thread {thread} did not beat"),
                FailureCause::NotReady => "it was not ready in time".into(),
                FailureCause::NotStarted => "it could not be started".into(),
                FailureCause::Machine => "its machine failed".into(),
            };
            format!("{} fails: {why}", copy(*one))
        }
        Fact::BackingOff { copy: one, wait, failures } => {
            format!("starts {} again in {} ms, after {failures} failures", copy(*one), wait.0 / 1_000)
        }
        Fact::Escalated { copy: one, rung } => {
            let to = match rung {
                Rung::Restart => "a restart",
                Rung::FailOver => "another node",
                Rung::Reboot => "a reboot",
            };
            format!("{} failed too often: {to}", copy(*one))
        }
        Fact::Stopping { copy: one } => format!("stops {}", copy(*one)),
        Fact::Stopped { copy: one } => format!("{} is gone, as ordered", copy(*one)),
    }
}

fn exit(cause: ExitCause) -> String {
    match cause {
        ExitCause::Code(code) => format!("it ended with code {code}"),
        ExitCause::Signal(signal) => format!("signal {signal} ended it"),
        ExitCause::OutOfMemory => "the system was out of memory".into(),
        ExitCause::Guard => "its guard ended it".into(),
    }
}

fn nodes(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// A line of a trace in a few words; empty for packets.
pub(super) fn sentence(line: &Line) -> String {
    match &line.what {
        What::FaultStart { kind, nodes: at, .. } if at.len() > 8 => {
            format!("FAULT {} on {} nodes", kind.spec().name, at.len())
        }
        What::FaultStart { kind, nodes: at, .. } => format!("FAULT {} on {}", kind.spec().name, nodes(at)),
        What::FaultStop { kind, effects, .. } => {
            format!("fault {} ends after {effects} effect{}", kind.spec().name, if *effects == 1 { "" } else { "s" })
        }
        What::Healed => "everything is healed from here on".into(),
        What::Armed { resource, epoch, until } => {
            let until = if *until == u64::MAX { "without end".into() } else { format!("until {}", ms(*until)) };
            format!("its guard opens {resource} by {epoch} {until}")
        }
        What::Disarmed { resource, epoch } => format!("its guard closes {resource} of {epoch}"),
        What::Boot(inc) => format!("starts its life {}", inc.0),
        What::Halt => "is gone".into(),
        What::Refused => "finds its disk damaged and is wiped".into(),
        What::Event(event) => words(event),
        What::Program { copy: one, order } => match order {
            apus_engine::ProcessOrder::Start { .. } => format!("its host starts {}", copy(*one)),
            apus_engine::ProcessOrder::Promote { .. } => format!("its host makes {} active", copy(*one)),
            apus_engine::ProcessOrder::Stop { .. } => format!("its host stops {}", copy(*one)),
            apus_engine::ProcessOrder::Capture => format!("its host keeps the stacks of {}", copy(*one)),
        },
        What::Began { copy: one, .. } => format!("{} has begun", copy(*one)),
        What::Found { copy: one, .. } => format!("{} of an earlier daemon runs here", copy(*one)),
        What::Kept { copy: one, .. } => format!("{} is taken over as it runs", copy(*one)),
        What::Gone { copy: one, cause: None } => format!("{} is gone, as asked", copy(*one)),
        What::Gone { copy: one, cause: Some(cause) } => format!("{} is gone: {}", copy(*one), exit(*cause)),
        What::Sent { .. } | What::Received { .. } | What::Lost { .. } => String::new(),
    }
}

/// A line of a trace with the packets, as `--trace` shows it.
pub(super) fn full(line: &Line) -> String {
    match &line.what {
        What::Sent { to, id, kind, datagram } => {
            format!("-> {to}  {} #{id}, {} bytes", apus_engine::wire::kind_name(*kind), datagram.len())
        }
        What::Received { from, id, kind, .. } => format!("<- {from}  {} #{id}", apus_engine::wire::kind_name(*kind)),
        What::Lost { to, id, fault: None } => format!("-x {to}  #{id}, nobody there"),
        What::Lost { to, id, fault: Some(fault) } => format!("-x {to}  #{id}, by fault {fault}"),
        _ => sentence(line),
    }
}
