//! What a node tells of itself in a file, a line of JSON each: its lives, events, leases, and orders to programs. Who runs a cluster
//! to look at it judges it by these files: `apus lab` and the live world of scenarios.
//!
//! A line is `[time, what, …]`: `what` is a word, what follows are its fields in order. Times are those of the step in which the
//! engine decided, in microseconds of the boot clock, which all namespaces of a machine share.

use apus_engine::supervision::{FailureCause, Rung};
use apus_engine::{
    Copy, EngineFact, Epoch, Event, EvidenceId, ExitCause, Fact, FileId, GroupId, Incarnation, Index, Lsn, Micros,
    NodeId, ProcessOrder, ResourceId, ServiceId, Term, ThreadId, Time, consensus, diagnosis, shipping, supervision,
    views,
};
use serde_json::Value;

/// One thing that a node tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A life begins.
    Boot {
        /// Which.
        life: Incarnation,
    },
    /// The engine says so.
    Event {
        /// What.
        event: Event,
    },
    /// The kernel's guard is told that this node owns `resource`.
    Armed {
        /// What.
        resource: ResourceId,
        /// By which grant.
        epoch: Epoch,
        /// Until when, on the boot clock.
        until: Time,
    },
    /// It is told that it does not any longer.
    Disarmed {
        /// What.
        resource: ResourceId,
        /// By which grant.
        epoch: Epoch,
    },
    /// A program is ordered something.
    Ordered {
        /// Which.
        copy: Copy,
        /// What.
        order: ProcessOrder,
    },
    /// A program is gone, by the word of its keeper.
    Gone {
        /// Which.
        copy: Copy,
        /// Why; `None`: it was asked to end.
        cause: Option<ExitCause>,
    },
}

impl Told {
    /// The line of it, without an end of line.
    #[must_use]
    pub fn line(&self, at: Time) -> String {
        let mut parts = vec![Value::from(at.0)];
        if let Value::Array(own) = self.put() {
            parts.extend(own);
        }
        Value::from(parts).to_string()
    }

    /// Reads a line; `None`: it is none, or was cut short when its node died.
    #[must_use]
    pub fn read(line: &str) -> Option<(Time, Self)> {
        let Value::Array(mut parts) = serde_json::from_str(line).ok()? else { return None };
        if parts.is_empty() {
            return None;
        }
        let at = Time(parts.remove(0).as_u64()?);
        Some((at, Self::get(&Value::Array(parts))?))
    }
}

/// Something that can stand in a line.
trait Field: Sized {
    fn put(&self) -> Value;
    fn get(value: &Value) -> Option<Self>;
}

macro_rules! names {
    ($($type:ident $number:ty),*) => {$(
        impl Field for $type {
            fn put(&self) -> Value { self.0.into() }
            fn get(value: &Value) -> Option<Self> { <$number>::try_from(value.as_u64()?).ok().map($type) }
        }
    )*};
}
names!(NodeId u16, GroupId u16, Lsn u64, FileId u64, ResourceId u16, ServiceId u16, Incarnation u32, ThreadId u32, Term u64, Index u64, Epoch u64, Micros u64, Time u64);

macro_rules! numbers {
    ($($type:ident $as:ident),*) => {$(
        impl Field for $type {
            fn put(&self) -> Value { (*self).into() }
            fn get(value: &Value) -> Option<Self> { $type::try_from(value.$as()?).ok() }
        }
    )*};
}
numbers!(u8 as_u64, u16 as_u64, u32 as_u64, u64 as_u64, i32 as_i64, bool as_bool);

impl<T: Field> Field for Option<T> {
    fn put(&self) -> Value {
        self.as_ref().map_or(Value::Null, Field::put)
    }
    fn get(value: &Value) -> Option<Self> {
        if value.is_null() { Some(None) } else { T::get(value).map(Some) }
    }
}

impl Field for [EvidenceId; 3] {
    fn put(&self) -> Value {
        self.iter().filter(|id| id.is_some()).map(Field::put).collect()
    }
    fn get(value: &Value) -> Option<Self> {
        let mut all = [EvidenceId::NONE; 3];
        for (place, id) in all.iter_mut().zip(value.as_array()?) {
            *place = Field::get(id)?;
        }
        Some(all)
    }
}

macro_rules! records {
    ($($type:ident { $($field:ident),* })*) => {$(
        impl Field for $type {
            fn put(&self) -> Value { Value::Array(vec![$(Field::put(&self.$field)),*]) }
            fn get(value: &Value) -> Option<Self> {
                let mut parts = value.as_array()?.iter();
                Some(Self { $($field: Field::get(parts.next()?)?),* })
            }
        }
    )*};
}
records! {
    EvidenceId { node, inc, seq }
    Copy { service, slot }
    Event { id, because, fact }
}

macro_rules! variants {
    ($($type:ty { $($word:literal $variant:ident $({ $($field:ident),* })? $(($inner:ident))?;)* })*) => {$(
        impl Field for $type {
            fn put(&self) -> Value {
                Value::Array(match self {
                    $(Self::$variant $({ $($field),* })? $(($inner))? => {
                        vec![Value::from($word) $($(, Field::put($field))*)? $(, Field::put($inner))?]
                    })*
                })
            }
            fn get(value: &Value) -> Option<Self> {
                let mut parts = value.as_array()?.iter();
                match parts.next()?.as_str()? {
                    $($word => {
                        $($(let $field = Field::get(parts.next()?)?;)*)?
                        $(let $inner = Field::get(parts.next()?)?;)?
                        Some(Self::$variant $({ $($field),* })? $(($inner))?)
                    })*
                    _ => None,
                }
            }
        }
    )*};
}
variants! {
    Told {
        "boot" Boot { life };
        "event" Event { event };
        "armed" Armed { resource, epoch, until };
        "disarmed" Disarmed { resource, epoch };
        "ordered" Ordered { copy, order };
        "gone" Gone { copy, cause };
    }
    ProcessOrder {
        "start" Start { active, epoch };
        "promote" Promote { epoch };
        "stop" Stop { grace };
        "capture" Capture;
    }
    ExitCause {
        "code" Code(code);
        "signal" Signal(signal);
        "out-of-memory" OutOfMemory;
        "guard" Guard;
    }
    FailureCause {
        "crash" Crash(cause);
        "hang" Hang(thread);
        "not-ready" NotReady;
        "not-started" NotStarted;
        "machine" Machine;
    }
    Rung {
        "restart" Restart;
        "fail-over" FailOver;
        "reboot" Reboot;
    }
    Fact {
        "engine" Engine(fact);
        "diagnosis" Diagnosis(fact);
        "consensus" Consensus(fact);
        "views" Views(fact);
        "supervision" Supervision(fact);
        "files" Shipping(fact);
    }
    EngineFact {
        "started" Started { formatted };
        "stalled" Stalled { late };
        "superseded" Superseded { inc, silent };
        "disk-failed" DiskFailed;
        "disk-full" DiskFull;
    }
    diagnosis::Fact {
        "missed" Missed { node, deadline };
        "suspected" Suspected { node, inc, by };
        "cleared" Cleared { node, inc };
        "down" Down { node, inc };
        "up" Up { node, inc };
        "self-degraded" SelfDegraded { lhm };
    }
    consensus::Fact {
        "campaign" Campaign { term, pre };
        "voted" Voted { term, candidate };
        "elected" Elected { term };
        "stepped-down" SteppedDown { term, no_quorum };
        "follows" Follows { leader, term };
        "committed" Committed { index, term, digest };
        "installed" Installed { index };
        "members" Members { index, voters, joint };
        "blank" Blank { node };
    }
    views::Fact {
        "waiting" Waiting { resource, holder, left };
        "proposed" Proposed { resource, holder, index };
        "granted" Granted { resource, epoch, holder };
        "armed" Armed { resource, epoch, until };
        "expired" Expired { resource, epoch };
        "released" Released { resource, epoch };
        "refused" Refused { resource, epoch, newest };
        "seized" Seized { resource };
        "yielded" Yielded { resource, to };
        "lapsed" Lapsed { resource, holder, over };
        "noted" Noted { index, digest };
    }
    supervision::Fact {
        "starting" Starting { copy, active, epoch };
        "ready" Ready { copy };
        "promoted" Promoted { copy, epoch };
        "failed" Failed { copy, cause };
        "backing-off" BackingOff { copy, wait, failures };
        "escalated" Escalated { copy, rung };
        "stopping" Stopping { copy };
        "stopped" Stopped { copy };
    }
    shipping::Trouble {
        "full" Full;
        "failed" Failed;
    }
    shipping::Fact {
        "promised" Promised { group, era };
        "refused" Refused { group, era, promised };
        "fetching" Fetching { group, era, from, upto };
        "too-few" TooFew { group, era, have, need };
        "no-model" NoModel { group, era, furthest };
        "opened" Opened { group, era, at, fresh };
        "closed" Closed { group, at };
        "let-go" LetGo { group, at, whole };
        "following" Following { group, era, source, compares };
        "synced" Synced { group, era, at };
        "orphaned" Orphaned { group, from, upto };
        "lagging" Lagging { group, node, behind };
        "caught-up" CaughtUp { group, node };
        "troubled" Troubled { group, node, why };
        "recovered" Recovered { group, node };
        "dropped" Dropped { group, node, upto };
        "missed" Missed { group, after };
        "differs" Differs { group, node, file, block };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u32, because: [EvidenceId; 3], fact: Fact) -> Told {
        let id = EvidenceId { node: NodeId(3), inc: Incarnation(7), seq };
        Told::Event { event: Event { id, because, fact } }
    }

    #[test]
    fn what_is_told_is_read_as_it_was_and_a_torn_line_is_none() {
        let cause = EvidenceId { node: NodeId(1), inc: Incarnation(2), seq: 9 };
        let copy = Copy { service: ServiceId(4), slot: 1 };
        let (resource, epoch) = (ResourceId(257), Epoch(90));
        let failed = FailureCause::Crash(ExitCause::Signal(6));
        let all = [
            Told::Boot { life: Incarnation(7) },
            event(1, [cause, EvidenceId::NONE, EvidenceId::NONE], Fact::Engine(EngineFact::DiskFull)),
            event(2, [cause; 3], Fact::Diagnosis(diagnosis::Fact::Down { node: NodeId(1), inc: Incarnation(2) })),
            event(3, [EvidenceId::NONE; 3], Fact::Supervision(supervision::Fact::Failed { copy, cause: failed })),
            event(
                4,
                [cause; 3],
                Fact::Consensus(consensus::Fact::Committed { index: Index(5), term: Term(2), digest: u64::MAX }),
            ),
            event(5, [cause; 3], Fact::Views(views::Fact::Granted { resource, epoch, holder: NodeId(1) })),
            Told::Armed { resource, epoch, until: Time(u64::MAX) },
            Told::Disarmed { resource, epoch },
            Told::Ordered { copy, order: ProcessOrder::Start { active: true, epoch } },
            Told::Ordered { copy, order: ProcessOrder::Capture },
            Told::Gone { copy, cause: Some(ExitCause::Code(-1)) },
            Told::Gone { copy, cause: None },
        ];
        for told in all {
            let line = told.line(Time(12));
            assert_eq!(Told::read(&line), Some((Time(12), told)), "{line}");
            for cut in 0..line.len() {
                assert_eq!(Told::read(&line[..cut]), None, "{line} cut after {cut}");
            }
        }
        assert_eq!(Told::Boot { life: Incarnation(7) }.line(Time(12)), r#"[12,"boot",7]"#);
        assert_eq!(Told::read(r#"[12,"boot"]"#), None);
        assert_eq!(Told::read(r#"[12,"boot",4294967296]"#), None);
    }
}
