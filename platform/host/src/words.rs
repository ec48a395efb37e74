//! What nodes tell, in a few words: for traces, journals and people.

use apus_engine::{
    Copy, EngineFact, Event, ExitCause, Fact, GroupId, NodeId, ResourceId, consensus, diagnosis, shipping, supervision,
    views,
};

/// How things are called in sentences.
pub trait Names {
    /// A node.
    fn node(&self, node: NodeId) -> String {
        node.to_string()
    }
    /// What a node may hold.
    fn resource(&self, resource: ResourceId) -> String {
        resource.to_string()
    }
    /// A copy of a service.
    fn copy(&self, copy: Copy) -> String {
        format!("copy {} of {}", copy.slot, copy.service)
    }
    /// A group of files.
    fn group(&self, group: GroupId) -> String {
        group.to_string()
    }
}

/// By their numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Numbers;

impl Names for Numbers {}

/// A fact in a few words.
#[must_use]
pub fn words(event: &Event, names: &impl Names) -> String {
    match &event.fact {
        Fact::Engine(fact) => engine(fact),
        Fact::Diagnosis(fact) => diagnosis(fact, event.id.node, names),
        Fact::Consensus(fact) => consensus(fact, names),
        Fact::Views(fact) => views(fact, names),
        Fact::Supervision(fact) => supervision(fact, names),
        Fact::Shipping(fact) => shipping(fact, names),
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

fn diagnosis(fact: &diagnosis::Fact, me: NodeId, names: &impl Names) -> String {
    use diagnosis::Fact;
    let name = |node: &NodeId| names.node(*node);
    match fact {
        Fact::Suspected { node, by, .. } if *by == me => format!("suspects {}", name(node)),
        Fact::Missed { node, deadline } => format!("no answer from {} within {} ms", name(node), deadline.0 / 1_000),
        Fact::Suspected { node, by, .. } => format!("hears that {} suspects {}", name(by), name(node)),
        Fact::Cleared { node, .. } => format!("clears {}", name(node)),
        Fact::Down { node, .. } => format!("judges {} down", name(node)),
        Fact::Up { node, .. } => format!("judges {} up", name(node)),
        Fact::SelfDegraded { lhm } => format!("finds itself slow (degree {lhm})"),
    }
}

fn consensus(fact: &consensus::Fact, names: &impl Names) -> String {
    match fact {
        consensus::Fact::Campaign { term, pre: true } => format!("asks whether it could win {term}"),
        consensus::Fact::Campaign { term, .. } => format!("stands for {term}"),
        consensus::Fact::Voted { term, candidate } => format!("votes for {} in {term}", names.node(*candidate)),
        consensus::Fact::Elected { term } => format!("leads {term}"),
        consensus::Fact::SteppedDown { term, no_quorum: true } => format!("hears no quorum and leads {term} no longer"),
        consensus::Fact::SteppedDown { term, .. } => format!("leads {term} no longer"),
        consensus::Fact::Follows { leader, term } => format!("follows {} in {term}", names.node(*leader)),
        consensus::Fact::Committed { index, .. } => format!("commits {index}"),
        consensus::Fact::Installed { index } => format!("catches up by a snapshot to {index}"),
        consensus::Fact::Members { index, voters, joint: true } => {
            format!("works with old and new members from {index}, {voters} new voters")
        }
        consensus::Fact::Members { index, voters, .. } => format!("works with {voters} voters from {index}"),
        consensus::Fact::Blank { node } => format!("learns that {} has an empty disk", names.node(*node)),
    }
}

fn views(fact: &views::Fact, names: &impl Names) -> String {
    use views::Fact;
    let node = |node: &NodeId| names.node(*node);
    let what = |resource: &ResourceId| names.resource(*resource);
    match fact {
        Fact::Waiting { resource, holder, left } => {
            format!("waits {} ms for {}'s lease of {}", left.0 / 1_000, node(holder), what(resource))
        }
        Fact::Proposed { resource, holder, .. } => format!("proposes {} for {}", what(resource), node(holder)),
        Fact::Granted { resource, epoch, holder } => {
            format!("applies the grant: {} to {} by {epoch}", what(resource), node(holder))
        }
        Fact::Armed { resource, epoch, .. } => format!("holds {} by {epoch}", what(resource)),
        Fact::Expired { resource, epoch } => format!("its lease of {} by {epoch} has run out", what(resource)),
        Fact::Released { resource, epoch } => format!("lets go of {} by {epoch}", what(resource)),
        Fact::Refused { resource, epoch, newest } => {
            format!("refuses {epoch} of {}: {newest} is newer", what(resource))
        }
        Fact::Seized { resource } => format!("takes {} by the 1998 rule, asking nobody", what(resource)),
        Fact::Yielded { resource, to } => format!("yields {} to {} by the 1998 rule", what(resource), node(to)),
        Fact::Noted { index, .. } => format!("applies the note {index}"),
        Fact::Lapsed { resource, holder, over } => format!(
            "asks for another holder of {}: {}, though up, could not keep its lease for {} ms",
            what(resource),
            node(holder),
            over.0 / 1_000
        ),
    }
}

fn shipping(fact: &shipping::Fact, names: &impl Names) -> String {
    use shipping::{Fact, Trouble};
    let name = |node: &NodeId| names.node(*node);
    let files = |group: &GroupId| names.group(*group);
    match fact {
        Fact::Promised { group, era } => format!("promises to refuse who writes files {} before {era}", files(group)),
        Fact::Refused { group, era, promised } => {
            format!("refuses {era} of files {}: {promised} is promised", files(group))
        }
        Fact::Fetching { group, from, upto, .. } => {
            format!("takes files {} over from {} up to {upto}", files(group), name(from))
        }
        Fact::TooFew { group, have, need, .. } => {
            format!("waits with files {}: {have} copies answer, {need} have to", files(group))
        }
        Fact::NoModel { group, furthest, .. } => {
            let furthest = name(furthest);
            format!(
                "waits with files {}: {furthest} has the last records, no copy whole files before them",
                files(group)
            )
        }
        Fact::Opened { group, era, at, fresh: false } => format!("opens files {} at {at} in {era}", files(group)),
        Fact::Opened { group, era, at, .. } => {
            format!("opens files {} as it finds them, at {at} in {era}", files(group))
        }
        Fact::Closed { group, at } => format!("closes files {} at {at}", files(group)),
        Fact::LetGo { group, at, whole: true } => {
            format!("lets go of files {}: all that follow have {at}", files(group))
        }
        Fact::LetGo { group, at, .. } => format!("lets go of files {}: not all that follow have {at}", files(group)),
        Fact::Following { group, source, compares: false, .. } => {
            format!("follows {} with files {}", name(source), files(group))
        }
        Fact::Following { group, source, .. } => {
            format!("compares its files {} with those of {}", files(group), name(source))
        }
        Fact::Synced { group, at, .. } => format!("has files {} compared, as of {at}", files(group)),
        Fact::Orphaned { group, from, upto } => {
            format!("saves what only it has of files {}, from {from} to {upto}", files(group))
        }
        Fact::Lagging { group, node, behind } => {
            format!("finds {} {behind} records behind with files {}", name(node), files(group))
        }
        Fact::CaughtUp { group, node } => format!("finds {} caught up with files {}", name(node), files(group)),
        Fact::Troubled { group, node, why: Trouble::Full } => {
            format!("hears that {} has no room for files {}", name(node), files(group))
        }
        Fact::Troubled { group, node, .. } => {
            format!("hears that the disk of {} fails files {}", name(node), files(group))
        }
        Fact::Recovered { group, node } => format!("hears that {} takes files {} again", name(node), files(group)),
        Fact::Dropped { group, node, upto } => {
            format!(
                "has no room to keep records of files {} for {}: those up to {upto} are gone",
                files(group),
                name(node)
            )
        }
        Fact::Missed { group, after } => format!("has missed changes of files {} after {after}", files(group)),
        Fact::Differs { group, node, file, block: Some(block) } => {
            format!("finds block {block} of file {file} of {} at {} to differ", files(group), name(node))
        }
        Fact::Differs { group, node, file, .. } => {
            format!("finds file {file} of {} at {} to differ", files(group), name(node))
        }
    }
}

fn supervision(fact: &supervision::Fact, names: &impl Names) -> String {
    use supervision::{Fact, FailureCause, Rung};
    match fact {
        Fact::Starting { copy: one, active: true, epoch } => format!("starts {} by {epoch}", names.copy(*one)),
        Fact::Starting { copy: one, .. } => format!("starts {} as a standby", names.copy(*one)),
        Fact::Ready { copy: one } => format!("{} is ready", names.copy(*one)),
        Fact::Promoted { copy: one, epoch } => format!("makes the standby {} active by {epoch}", names.copy(*one)),
        Fact::Failed { copy: one, cause } => {
            let why = match cause {
                FailureCause::Crash(cause) => exit(*cause),
                FailureCause::Hang(thread) => format!("its thread {thread} did not beat"),
                FailureCause::NotReady => "it was not ready in time".into(),
                FailureCause::NotStarted => "it could not be started".into(),
                FailureCause::Machine => "its machine failed".into(),
            };
            format!("{} fails: {why}", names.copy(*one))
        }
        Fact::BackingOff { copy: one, wait, failures } => {
            format!("starts {} again in {} ms, after {failures} failures", names.copy(*one), wait.0 / 1_000)
        }
        Fact::Escalated { copy: one, rung } => {
            let to = match rung {
                Rung::Restart => "a restart",
                Rung::FailOver => "another node",
                Rung::Reboot => "a reboot",
            };
            format!("{} failed too often: {to}", names.copy(*one))
        }
        Fact::Stopping { copy: one } => format!("stops {}", names.copy(*one)),
        Fact::Stopped { copy: one } => format!("{} is gone, as ordered", names.copy(*one)),
    }
}

/// How a program ended.
#[must_use]
pub fn exit(cause: ExitCause) -> String {
    match cause {
        ExitCause::Code(code) => format!("it ended with code {code}"),
        ExitCause::Signal(signal) => format!("signal {signal} ended it"),
        ExitCause::OutOfMemory => "the system was out of memory".into(),
        ExitCause::Guard => "its guard ended it".into(),
    }
}
