//! An engine fed again with what was recorded.

use apus_engine::{Engine, Incarnation, NodeId, Output, SubmitError, Time};

use super::difference::{Difference, Place, fields};
use super::file::{After, ReadError, Reason, Step, decode, encode};
use super::incident::{Incident, Span};

/// One thing that happens in a replay, in order.
#[derive(Debug)]
pub enum Turn<'a> {
    /// A state is taken up: that of a new life, or one behind a gap. One that goes on where the last one ended is not told.
    From {
        /// Where it begins.
        start: &'a super::Start,
        /// The engine.
        engine: &'a Engine,
    },
    /// The engine is fed.
    Step(&'a Step),
    /// An output, at the time of the step that led to it.
    Output(Time, Output),
    /// Nothing more is recorded of this life.
    Until(Time),
}

/// What was compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Steps whose state afterwards has the hash that was recorded.
    pub same: u64,
    /// Steps that were fed, but whose hash was not recorded: the last ones before a crash.
    pub unknown: u64,
    /// Whole states compared, byte by byte, where a segment follows on another.
    pub states: u64,
    /// Lives, by node.
    pub lives: Vec<(NodeId, Incarnation)>,
    /// The last state's hash.
    pub hash: u128,
}

/// Feeds an engine with all that was recorded, and compares its state after every step.
///
/// # Errors
/// The first difference, with its place. [`ReadError`] if a state cannot be read.
pub fn replay(
    incident: &Incident,
    mut watch: impl FnMut(Turn<'_>),
) -> Result<Result<Replayed, Box<Difference>>, ReadError> {
    let mut replayed = Replayed::default();
    // The engine that the last span ended with, and its last step's time.
    let mut carried: Option<(Engine, Time)> = None;
    for (at, span) in incident.spans.iter().enumerate() {
        let what = "the state in it is not of this engine";
        let mut engine: Engine = decode(&span.start.engine).ok_or(ReadError::Damaged { offset: 0, what })?;
        let life = (span.start.node, span.start.incarnation);
        if replayed.lives.last() != Some(&life) {
            replayed.lives.push(life);
        }
        let follows = span.start.reason == Reason::Full && incident.missing(at) == Some(0);
        match carried.take() {
            Some((mut last, time)) if follows => {
                if engine.is_drained() {
                    drain(&mut last, time, &mut watch);
                }
                if encode(&last) != span.start.engine {
                    let place = Place::new(span, 0, "the state at the beginning of the segment".into());
                    return Ok(Err(Box::new(Difference { place, parts: Vec::new(), fields: fields(&engine, &last) })));
                }
                replayed.states += 1;
            }
            last => {
                if let Some((mut last, time)) = last {
                    drain(&mut last, time, &mut watch);
                    watch(Turn::Until(time));
                }
                watch(Turn::From { start: &span.start, engine: &engine });
            }
        }
        let mut time = span.start.now;
        let ended = feed(span, &mut engine, &mut time, &mut replayed, &mut watch);
        if let Err(mut difference) = ended {
            // The next segment tells how the state was when this one ended, if nothing is missing between them.
            if incident.missing(at + 1) == Some(0)
                && let Some(next) = incident.spans.get(at + 1).filter(|next| next.start.reason == Reason::Full)
                && let Some(recorded) = decode::<Engine>(&next.start.engine)
            {
                if recorded.is_drained() {
                    while engine.poll_output().is_some() {}
                }
                difference.fields = fields(&recorded, &engine);
            }
            return Ok(Err(difference));
        }
        replayed.hash = engine.marks().whole();
        carried = Some((engine, time));
    }
    if let Some((mut last, time)) = carried {
        drain(&mut last, time, &mut watch);
        watch(Turn::Until(time));
    }
    Ok(Ok(replayed))
}

fn drain(engine: &mut Engine, time: Time, watch: &mut impl FnMut(Turn<'_>)) {
    while let Some(output) = engine.poll_output() {
        watch(Turn::Output(time, output));
    }
}

/// Feeds the steps of one span. After a difference it goes on to the end without telling, so that the states there can be compared.
fn feed(
    span: &Span,
    engine: &mut Engine,
    time: &mut Time,
    replayed: &mut Replayed,
    watch: &mut impl FnMut(Turn<'_>),
) -> Result<(), Box<Difference>> {
    let mut found: Option<Box<Difference>> = None;
    let differs = |engine: &Engine, after: &After, at: usize| {
        let own = engine.marks();
        (own.whole() != after.whole).then(|| {
            let place = match at.checked_sub(1).and_then(|last| span.steps.get(last)) {
                Some(step) => Place::new(span, at, step.act.words()),
                None => Place::new(span, 0, "the state at the beginning of the segment".into()),
            };
            let parts = apus_engine::Marks::PARTS.iter().zip(own.brief().into_iter().zip(after.parts));
            let parts = parts.filter(|(_, (own, recorded))| own != recorded).map(|(name, _)| *name).collect();
            Box::new(Difference { place, parts, fields: Vec::new() })
        })
    };
    for (at, step) in span.steps.iter().enumerate() {
        if found.is_none() {
            found = differs(engine, &step.before, at);
            replayed.same += u64::from(found.is_none() && at > 0);
        }
        if step.drained {
            if found.is_none() {
                drain(engine, *time, watch);
            } else {
                while engine.poll_output().is_some() {}
            }
        }
        *time = step.now;
        if found.is_none() {
            watch(Turn::Step(step));
        }
        // A refusal is the same one again, or the states differ.
        let _: Result<(), SubmitError> = step.act.clone().apply(engine, step.now);
    }
    let many = span.steps.len();
    match &span.end {
        Some(after) if found.is_none() => {
            found = differs(engine, after, many);
            replayed.same += u64::from(found.is_none() && many > 0);
        }
        None if found.is_none() && many > 0 => replayed.unknown += 1,
        _ => {}
    }
    found.map_or(Ok(()), Err)
}
