//! What nodes tell, in a few words.

use apus_engine::{Copy, Event, NodeId};
use apus_host::{Names as _, Numbers, exit};

use super::ms;
use crate::trace::{Line, What};

/// A fact in a few words.
#[must_use]
pub fn words(event: &Event) -> String {
    apus_host::words(event, &Numbers)
}

fn copy(copy: Copy) -> String {
    Numbers.copy(copy)
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
