//! Pictures and stories of one run, all from its trace.

mod chain;
mod html;
mod mermaid;
mod pcapng;
mod perfetto;
mod story;

pub use chain::why;
pub use html::html;
pub use mermaid::mermaid;
pub use pcapng::pcapng;
pub use perfetto::perfetto;
pub use story::story;

use apus_engine::{Event, NodeId};

use crate::fault::Ns;
use crate::report::Run;
use crate::trace::{Line, What};

/// A time in milliseconds with three decimals, without floating point.
fn ms(at: Ns) -> String {
    format!("{}.{:03}", at / 1_000_000, at / 1_000 % 1_000)
}

/// All events of a run with their time and node.
fn events(run: &Run) -> impl Iterator<Item = (Ns, NodeId, &Event)> {
    run.trace.iter().filter_map(|line| match (&line.what, line.node) {
        (What::Event(event), Some(node)) => Some((line.at, node, event)),
        _ => None,
    })
}

/// A fact in a few words.
#[must_use]
pub fn words(event: &Event) -> String {
    use apus_engine::{Fact, consensus, diagnosis, supervision, views};
    match &event.fact {
        Fact::Diagnosis(diagnosis::Fact::Missed { node, deadline }) => {
            format!("no answer from {node} within {} ms", deadline.0 / 1_000)
        }
        Fact::Diagnosis(diagnosis::Fact::Suspected { node, by, .. }) => format!("{by} suspects {node}"),
        Fact::Diagnosis(diagnosis::Fact::Cleared { node, .. }) => format!("{node} is cleared"),
        Fact::Diagnosis(diagnosis::Fact::Down { node, .. }) => format!("{node} is down"),
        Fact::Diagnosis(diagnosis::Fact::Up { node, .. }) => format!("{node} is up"),
        Fact::Consensus(consensus::Fact::Campaign { term, pre }) => {
            format!("{} for {term}", if *pre { "asks about an election" } else { "stands" })
        }
        Fact::Consensus(consensus::Fact::Voted { term, candidate }) => format!("votes for {candidate} in {term}"),
        Fact::Consensus(consensus::Fact::Elected { term }) => format!("leads {term}"),
        Fact::Consensus(consensus::Fact::SteppedDown { term, .. }) => format!("leads {term} no longer"),
        Fact::Consensus(consensus::Fact::Follows { leader, term }) => format!("follows {leader} in {term}"),
        Fact::Consensus(consensus::Fact::Committed { index, .. }) => format!("commits {index}"),
        Fact::Views(views::Fact::Waiting { resource, holder, left }) => {
            format!("waits {} ms for {holder}'s lease of {resource}", left.0 / 1_000)
        }
        Fact::Views(views::Fact::Proposed { resource, holder, .. }) => format!("proposes {resource} for {holder}"),
        Fact::Views(views::Fact::Granted { resource, epoch, holder }) => {
            format!("{resource} belongs to {holder} by {epoch}")
        }
        Fact::Views(views::Fact::Armed { resource, epoch, .. }) => format!("holds {resource} by {epoch}"),
        Fact::Views(views::Fact::Expired { resource, epoch }) => {
            format!("its lease of {resource} by {epoch} has run out")
        }
        Fact::Views(views::Fact::Released { resource, epoch }) => format!("lets go of {resource} by {epoch}"),
        Fact::Views(views::Fact::Refused { resource, epoch, newest }) => {
            format!("refuses {epoch} of {resource}: {newest} is newer")
        }
        Fact::Views(views::Fact::Seized { resource }) => format!("takes {resource} by the 1998 rule, asking nobody"),
        Fact::Supervision(supervision::Fact::Failed { copy, cause }) => format!("{} fails: {cause:?}", copy.service),
        other => {
            let text = format!("{other:?}");
            text.chars().take(120).collect()
        }
    }
}

/// Whether an event is worth a line in a story.
fn is_notable(line: &Line) -> bool {
    use apus_engine::{Fact, consensus, views};
    match &line.what {
        What::FaultStart { .. }
        | What::FaultStop { .. }
        | What::Healed
        | What::Refused
        | What::Boot(_)
        | What::Halt => true,
        What::Event(event) => !matches!(
            event.fact,
            Fact::Consensus(
                consensus::Fact::Committed { .. } | consensus::Fact::Follows { .. } | consensus::Fact::Voted { .. }
            ) | Fact::Views(views::Fact::Noted { .. })
                | Fact::Engine(_)
        ),
        _ => false,
    }
}
