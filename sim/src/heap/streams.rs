//! Faults of streams, which only a world with streams has: they lie below the transport, where a real network would lay them.

use apus_engine::NodeId;

use super::World;
use super::link::ppm;
use super::outside::StreamId;
use crate::fault::{Kind, Ns};

/// What becomes of an attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connect {
    /// It goes on.
    Go,
    /// It is refused.
    Refuse,
    /// Nothing is heard of it until something changes.
    Hang,
}

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// At most so many bytes are taken.
    Take(usize),
    /// The stream is reset, for both ends.
    Reset,
    /// The peer sees the end of the stream; what is written from now on is lost, and the other way works.
    HalfClose,
    /// Everything written from now on is lost, and nobody is told.
    Vanish,
    /// The stream is closed in the middle of what was written.
    Close,
}

impl World {
    /// The running fault of a kind that touches a link.
    fn on_link(&self, kind: Kind, a: NodeId, b: NodeId) -> Option<u16> {
        self.on_links.iter().copied().find(|index| {
            let state = &self.active[*index as usize];
            self.plan.faults[*index as usize].kind == kind && (state.has(a) || state.has(b))
        })
    }

    /// Whether a fault of a kind that touches a link strikes now, by its rate; counts an effect if so.
    fn strikes(&mut self, kind: Kind, a: NodeId, b: NodeId) -> Option<u64> {
        let index = self.on_link(kind, a, b)?;
        let fault = &self.plan.faults[index as usize];
        let state = &mut self.active[index as usize];
        if kind.spec().rate.is_some() && !state.rng.hit(ppm(fault.rate_ppm)) {
            return None;
        }
        state.effects += 1;
        Some(fault.size)
    }

    /// A node dials another one.
    pub(crate) fn on_connect(&mut self, from: NodeId, to: NodeId) -> Connect {
        let (there, alive) = self.answers(to);
        let cut = self.is_cut_off(from, to) || self.is_cut_off(to, from);
        if cut || !there || self.strikes(Kind::HangConnect, from, to).is_some() {
            Connect::Hang
        } else if self.strikes(Kind::RefuseConnect, from, to).is_some() || !alive {
            Connect::Refuse
        } else {
            Connect::Go
        }
    }

    /// A node writes on a stream on which it has written `written` bytes.
    pub(crate) fn on_write(
        &mut self,
        from: NodeId,
        to: NodeId,
        stream: StreamId,
        written: u64,
        length: usize,
    ) -> Write {
        if self.on_links.is_empty() {
            return Write::Take(length);
        }
        if self.strikes(Kind::StreamReset, from, to).is_some() {
            self.reset(stream);
            return Write::Reset;
        }
        if self.strikes(Kind::HalfClose, from, to).is_some() {
            return Write::HalfClose;
        }
        if self.strikes(Kind::HalfOpen, from, to).is_some() {
            return Write::Vanish;
        }
        if let Some(index) = self.on_link(Kind::CloseAfter, from, to)
            && written + length as u64 > self.plan.faults[index as usize].size
        {
            self.active[index as usize].effects += 1;
            return Write::Close;
        }
        let most = self.strikes(Kind::Slice, from, to).map_or(length, |size| (size.max(1) as usize).min(length));
        Write::Take(most)
    }

    /// How many bytes a node gets in one read at most.
    pub(crate) fn on_read(&mut self, from: NodeId, to: NodeId) -> Option<usize> {
        if self.on_links.is_empty() {
            None
        } else {
            self.strikes(Kind::Slice, from, to).map(|size| size.max(1) as usize)
        }
    }

    /// How much later a node hears that its peer has closed a stream.
    pub(crate) fn on_close(&mut self, from: NodeId, to: NodeId) -> Ns {
        self.strikes(Kind::SlowClose, from, to).unwrap_or(0)
    }

    /// Both ends of a stream see a reset.
    fn reset(&mut self, stream: StreamId) {
        if let Some(outside) = &mut self.outside {
            outside.broken.insert(stream);
        }
        self.stir();
    }

    /// Whether a stream was reset.
    pub(crate) fn is_reset(&self, stream: StreamId) -> bool {
        self.outside.as_ref().is_some_and(|outside| outside.broken.contains(&stream))
    }
}
