//! Everything that this node tells of itself, in a file: see [`Told`]. Each line is one write, so that a node that is killed leaves
//! whole lines, but perhaps the last.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use apus_engine::{Copy, Event, GuardOrder, Incarnation, Input, OpId, Outcome, ProcessInput, ProcessOrder, Time};

use super::now;
use crate::Told;

pub(super) struct Telling {
    file: RefCell<File>,
    /// When the engine was last handed an input: what it decides is of that time.
    step: Cell<Time>,
    /// Orders to stop a program that are not done.
    stops: RefCell<BTreeMap<OpId, Copy>>,
}

impl Telling {
    /// Goes on with the file; a life begins.
    pub(super) fn open(file: &Path, life: Incarnation) -> io::Result<Self> {
        let opened = File::options().create(true).append(true).open(file);
        let file = opened.map_err(|error| io::Error::other(format!("{}: {error}", file.display())))?;
        let telling = Self { file: RefCell::new(file), step: Cell::new(now()), stops: RefCell::default() };
        telling.tell(&Told::Boot { life });
        Ok(telling)
    }

    /// A full disk loses lines, and no more than that.
    fn tell(&self, told: &Told) {
        let line = told.line(self.step.get()) + "\n";
        let _ = self.file.borrow_mut().write_all(line.as_bytes());
    }

    pub(super) fn step(&self, now: Time) {
        self.step.set(now);
    }

    pub(super) fn event(&self, event: &Event) {
        self.tell(&Told::Event { event: event.clone() });
    }

    pub(super) fn guard(&self, order: GuardOrder) {
        self.tell(&match order {
            GuardOrder::Arm { resource, epoch, until } => Told::Armed { resource, epoch, until },
            GuardOrder::Disarm { resource, epoch, .. } => Told::Disarmed { resource, epoch },
        });
    }

    pub(super) fn process(&self, op: OpId, copy: Copy, order: ProcessOrder) {
        if matches!(order, ProcessOrder::Stop { .. }) {
            self.stops.borrow_mut().insert(op, copy);
        }
        self.tell(&Told::Ordered { copy, order });
    }

    /// What the machine says before the engine hears it.
    pub(super) fn input(&self, input: &Input) {
        let (copy, cause) = match input {
            Input::Process { copy, what: ProcessInput::Exited(cause) } => (*copy, Some(*cause)),
            Input::Done { op, outcome: Outcome::Ok } => match self.stops.borrow_mut().remove(op) {
                Some(copy) => (copy, None),
                None => return,
            },
            _ => return,
        };
        self.step.set(now());
        self.tell(&Told::Gone { copy, cause });
    }
}
