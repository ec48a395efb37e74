//! Pictures and stories of one run, all from its trace.

mod chain;
mod html;
mod mermaid;
mod pcapng;
mod perfetto;
mod relevant;
mod scene;
mod story;
mod words;

pub use chain::why;
pub use html::html;
pub use mermaid::mermaid;
pub use pcapng::pcapng;
pub use perfetto::perfetto;
pub use story::story;
pub use words::words;

use apus_engine::{Event, NodeId};

use crate::fault::Ns;
use crate::report::Run;
use crate::trace::{Line, What};

/// A time in milliseconds with three decimals, without floating point.
fn ms(at: Ns) -> String {
    format!("{}.{:03}", at / 1_000_000, at / 1_000 % 1_000)
}

/// Every line of the trace from one time to another, packets too.
#[must_use]
pub fn excerpt(run: &Run, from: Ns, to: Ns) -> Vec<String> {
    let show = |line: &Line| {
        let who = line.node.map_or_else(|| "--".into(), |node| node.to_string());
        format!("{:>12}  {who:<4} {}", ms(line.at), words::full(line))
    };
    run.trace.iter().filter(|line| (from..to).contains(&line.at)).map(show).collect()
}

/// All events of a run with their time and node.
fn events(run: &Run) -> impl Iterator<Item = (Ns, NodeId, &Event)> {
    run.trace.iter().filter_map(|line| match (&line.what, line.node) {
        (What::Event(event), Some(node)) => Some((line.at, node, event)),
        _ => None,
    })
}

/// Whether an event is worth a line in a story.
fn is_notable(line: &Line) -> bool {
    use apus_engine::{EngineFact, Fact, consensus, views};
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
                | Fact::Engine(EngineFact::Started { .. } | EngineFact::Stalled { .. })
        ),
        _ => false,
    }
}
