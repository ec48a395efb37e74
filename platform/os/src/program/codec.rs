//! Frames between daemon and keeper: a length of four bytes, a kind, a body; all numbers little-endian. A decoder never panics and
//! takes no more memory than the bytes that are there.

use std::net::SocketAddr;

use super::{
    Cause, Check, End, Hooks, Identity, LONGEST, Limits, Liveness, Order, Readiness, Report, Runs, Spec, State,
};

/// Bytes that are no frame of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// How long the frame at the start of `bytes` is, its length's four bytes too; `None` while they are not there.
///
/// # Errors
/// If it would be longer than [`LONGEST`].
pub fn frame_length(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some(head) = bytes.first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_le_bytes(*head)).map_err(|_| Malformed)?;
    if length == 0 || length > LONGEST { Err(Malformed) } else { Ok(Some(4 + length)) }
}

/// A value that goes over the socket.
trait Wire: Sized {
    fn put(&self, to: &mut Vec<u8>);
    fn take(from: &mut &[u8]) -> Option<Self>;
}

macro_rules! numbers {
    ($($type:ty)*) => {$(
        impl Wire for $type {
            fn put(&self, to: &mut Vec<u8>) {
                to.extend(self.to_le_bytes());
            }
            fn take(from: &mut &[u8]) -> Option<Self> {
                let (head, rest) = from.split_first_chunk()?;
                *from = rest;
                Some(Self::from_le_bytes(*head))
            }
        }
    )*};
}
numbers!(u8 u16 u32 u64 i32);

impl Wire for bool {
    fn put(&self, to: &mut Vec<u8>) {
        to.push(u8::from(*self));
    }
    fn take(from: &mut &[u8]) -> Option<Self> {
        match u8::take(from)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl Wire for String {
    fn put(&self, to: &mut Vec<u8>) {
        u32::try_from(self.len()).unwrap_or(u32::MAX).put(to);
        to.extend(self.as_bytes());
    }
    fn take(from: &mut &[u8]) -> Option<Self> {
        let length = usize::try_from(u32::take(from)?).ok()?;
        let (head, rest) = from.split_at_checked(length)?;
        *from = rest;
        Self::from_utf8(head.into()).ok()
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, to: &mut Vec<u8>) {
        u32::try_from(self.len()).unwrap_or(u32::MAX).put(to);
        self.iter().for_each(|item| item.put(to));
    }
    fn take(from: &mut &[u8]) -> Option<Self> {
        let many = u32::take(from)?;
        // Grows with what is there, whatever is promised.
        (0..many).map(|_| T::take(from)).collect()
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, to: &mut Vec<u8>) {
        self.is_some().put(to);
        if let Some(value) = self {
            value.put(to);
        }
    }
    fn take(from: &mut &[u8]) -> Option<Self> {
        if bool::take(from)? { T::take(from).map(Some) } else { Some(None) }
    }
}

impl Wire for (String, String) {
    fn put(&self, to: &mut Vec<u8>) {
        self.0.put(to);
        self.1.put(to);
    }
    fn take(from: &mut &[u8]) -> Option<Self> {
        Some((String::take(from)?, String::take(from)?))
    }
}

impl Wire for SocketAddr {
    fn put(&self, to: &mut Vec<u8>) {
        self.to_string().put(to);
    }
    fn take(from: &mut &[u8]) -> Option<Self> {
        String::take(from)?.parse().ok()
    }
}

impl Wire for Check {
    fn put(&self, to: &mut Vec<u8>) {
        match self {
            Self::Tcp(address) => {
                to.push(0);
                address.put(to);
            }
            Self::Http { address, path } => {
                to.push(1);
                address.put(to);
                path.put(to);
            }
            Self::Script(command) => {
                to.push(2);
                command.put(to);
            }
        }
    }
    fn take(from: &mut &[u8]) -> Option<Self> {
        match u8::take(from)? {
            0 => Some(Self::Tcp(SocketAddr::take(from)?)),
            1 => Some(Self::Http { address: SocketAddr::take(from)?, path: String::take(from)? }),
            2 => Some(Self::Script(Vec::take(from)?)),
            _ => None,
        }
    }
}

impl Wire for Readiness {
    fn put(&self, to: &mut Vec<u8>) {
        match self {
            Self::Started => to.push(0),
            Self::Notify => to.push(1),
            Self::Check { check, every } => {
                to.push(2);
                check.put(to);
                every.put(to);
            }
        }
    }
    fn take(from: &mut &[u8]) -> Option<Self> {
        match u8::take(from)? {
            0 => Some(Self::Started),
            1 => Some(Self::Notify),
            2 => Some(Self::Check { check: Check::take(from)?, every: u64::take(from)? }),
            _ => None,
        }
    }
}

impl Wire for Cause {
    fn put(&self, to: &mut Vec<u8>) {
        let (kind, number) = match *self {
            Self::Code(code) => (0, code),
            Self::Signal(signal) => (1, signal),
            Self::OutOfMemory => (2, 0),
            Self::Guard => (3, 0),
            Self::Stopped => (4, 0),
        };
        to.push(kind);
        number.put(to);
    }
    fn take(from: &mut &[u8]) -> Option<Self> {
        let (kind, number) = (u8::take(from)?, i32::take(from)?);
        Some(match kind {
            0 => Self::Code(number),
            1 => Self::Signal(number),
            2 => Self::OutOfMemory,
            3 => Self::Guard,
            4 => Self::Stopped,
            _ => return None,
        })
    }
}

/// Fields in order.
macro_rules! records {
    ($($type:ident { $($field:ident),* })*) => {$(
        impl Wire for $type {
            fn put(&self, to: &mut Vec<u8>) {
                $(self.$field.put(to);)*
            }
            fn take(from: &mut &[u8]) -> Option<Self> {
                $(let $field = Wire::take(from)?;)*
                Some(Self { $($field),* })
            }
        }
    )*};
}
records! {
    Limits { memory, cpu, pids }
    Liveness { check, every, within, thread, promise }
    Hooks { before, after, within }
    End { cause, at }
    Identity { pid, began }
    Runs { main, active, epoch, until, since, ready, ending }
    State { version, boot, keeper, runs, starts, last, strangers }
}

/// All of it but hooks and core: those follow on it in a frame of another kind, so that a keeper that knows none still understands
/// who asks for none.
impl Wire for Spec {
    fn put(&self, to: &mut Vec<u8>) {
        let Self { name, slot, command, user, environment, directory, limits, readiness, liveness, .. } = self;
        let Self { watchdog, stop_signal, grace, promote, log_bytes, log_files, .. } = self;
        name.put(to);
        slot.put(to);
        command.put(to);
        user.put(to);
        environment.put(to);
        directory.put(to);
        limits.put(to);
        readiness.put(to);
        liveness.put(to);
        watchdog.put(to);
        stop_signal.put(to);
        grace.put(to);
        promote.put(to);
        log_bytes.put(to);
        log_files.put(to);
    }
    fn take(from: &mut &[u8]) -> Option<Self> {
        Some(Self {
            name: Wire::take(from)?,
            slot: Wire::take(from)?,
            command: Wire::take(from)?,
            user: Wire::take(from)?,
            environment: Wire::take(from)?,
            directory: Wire::take(from)?,
            limits: Wire::take(from)?,
            readiness: Wire::take(from)?,
            liveness: Wire::take(from)?,
            watchdog: Wire::take(from)?,
            stop_signal: Wire::take(from)?,
            grace: Wire::take(from)?,
            promote: Wire::take(from)?,
            log_bytes: Wire::take(from)?,
            log_files: Wire::take(from)?,
            hooks: Hooks::default(),
            core: None,
        })
    }
}

/// A frame around a kind and a body.
fn frame(kind: u8, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, kind];
    body(&mut bytes);
    let length = u32::try_from(bytes.len() - 4).unwrap_or(u32::MAX);
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// A whole frame.
#[must_use]
pub fn encode_order(order: &Order) -> Vec<u8> {
    match order {
        Order::Hello { version } => frame(1, |to| version.put(to)),
        Order::Start { op, spec, active, epoch, until } => {
            let plain = spec.hooks == Hooks::default() && spec.core.is_none();
            frame(if plain { 2 } else { 9 }, |to| {
                op.put(to);
                spec.put(to);
                if !plain {
                    spec.hooks.put(to);
                    spec.core.put(to);
                }
                active.put(to);
                epoch.put(to);
                until.put(to);
            })
        }
        Order::Promote { op, epoch, until } => frame(3, |to| [op, epoch, until].iter().for_each(|part| part.put(to))),
        Order::Lease { epoch, until } => frame(4, |to| [epoch, until].iter().for_each(|part| part.put(to))),
        Order::Stop { op, grace } => frame(5, |to| [op, grace].iter().for_each(|part| part.put(to))),
        Order::Capture { op } => frame(6, |to| op.put(to)),
        Order::Leave => frame(7, |_| {}),
        Order::Release { op, epoch } => frame(8, |to| [op, epoch].iter().for_each(|part| part.put(to))),
    }
}

/// What is between the length and the next frame.
fn whole<T>(frame: &[u8], read: impl FnOnce(u8, &mut &[u8]) -> Option<T>) -> Result<T, Malformed> {
    let mut body = frame.get(4..).ok_or(Malformed)?;
    let kind = u8::take(&mut body).ok_or(Malformed)?;
    read(kind, &mut body).filter(|_| body.is_empty()).ok_or(Malformed)
}

/// Reads a whole frame.
///
/// # Errors
/// If it is none.
pub fn decode_order(frame: &[u8]) -> Result<Order, Malformed> {
    whole(frame, |kind, from| {
        Some(match kind {
            1 => Order::Hello { version: Wire::take(from)? },
            2 | 9 => {
                let (op, mut spec) = (Wire::take(from)?, Box::new(Spec::take(from)?));
                if kind == 9 {
                    (spec.hooks, spec.core) = (Wire::take(from)?, Wire::take(from)?);
                    if spec.hooks == Hooks::default() && spec.core.is_none() {
                        return None;
                    }
                }
                let (active, epoch, until) = (Wire::take(from)?, Wire::take(from)?, Wire::take(from)?);
                Order::Start { op, spec, active, epoch, until }
            }
            3 => Order::Promote { op: Wire::take(from)?, epoch: Wire::take(from)?, until: Wire::take(from)? },
            4 => Order::Lease { epoch: Wire::take(from)?, until: Wire::take(from)? },
            5 => Order::Stop { op: Wire::take(from)?, grace: Wire::take(from)? },
            6 => Order::Capture { op: Wire::take(from)? },
            7 => Order::Leave,
            8 => Order::Release { op: Wire::take(from)?, epoch: Wire::take(from)? },
            _ => return None,
        })
    })
}

/// A whole frame.
#[must_use]
pub fn encode_report(report: &Report) -> Vec<u8> {
    match report {
        Report::State(state) => frame(65, |to| state.put(to)),
        Report::Done { op, wrong, note } => frame(66, |to| {
            op.put(to);
            wrong.put(to);
            note.put(to);
        }),
        Report::Began { pid, since } => frame(67, |to| {
            pid.put(to);
            since.put(to);
        }),
        Report::Ready => frame(68, |_| {}),
        Report::Beat { thread, timeout } => frame(69, |to| {
            thread.put(to);
            timeout.put(to);
        }),
        Report::Ended(end) => frame(70, |to| end.put(to)),
    }
}

/// Reads a whole frame.
///
/// # Errors
/// If it is none.
pub fn decode_report(frame: &[u8]) -> Result<Report, Malformed> {
    whole(frame, |kind, from| {
        Some(match kind {
            65 => Report::State(State::take(from)?),
            66 => Report::Done { op: Wire::take(from)?, wrong: Wire::take(from)?, note: Wire::take(from)? },
            67 => Report::Began { pid: Wire::take(from)?, since: Wire::take(from)? },
            68 => Report::Ready,
            69 => Report::Beat { thread: Wire::take(from)?, timeout: Wire::take(from)? },
            70 => Report::Ended(End::take(from)?),
            _ => return None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders() -> Vec<Order> {
        let address = "127.0.0.1:80".parse().expect("an address");
        let check = Check::Http { address, path: "/health".into() };
        let spec = Spec {
            name: "web".into(),
            slot: 2,
            command: vec!["/bin/sh".into(), "-c".into(), "exec sleep 9".into()],
            user: Some("nobody".into()),
            environment: vec![("A".into(), "1".into())],
            limits: Limits { memory: Some(1 << 30), cpu: None, pids: Some(7) },
            readiness: Readiness::Check { check: check.clone(), every: 5 },
            liveness: Some(Liveness { check: Check::Tcp(address), every: 1, within: 2, thread: 3, promise: 4 }),
            stop_signal: 15,
            promote: Some(vec!["true".into()]),
            ..Spec::default()
        };
        let hooks = Hooks { before: Some(vec!["mount".into(), "/srv".into()]), after: None, within: 5 };
        let hooked = Spec { hooks, core: Some(7), ..spec.clone() };
        vec![
            Order::Hello { version: 1 },
            Order::Start { op: 1, spec: Box::new(hooked), active: false, epoch: 3, until: 4 },
            Order::Start { op: 1, spec: Box::new(spec), active: true, epoch: 2, until: NO },
            Order::Promote { op: 1, epoch: 2, until: 3 },
            Order::Lease { epoch: 1, until: 0 },
            Order::Stop { op: 1, grace: 2 },
            Order::Capture { op: 9 },
            Order::Leave,
            Order::Release { op: 3, epoch: 4 },
        ]
    }
    const NO: u64 = super::super::NO_LEASE;

    fn reports() -> Vec<Report> {
        let main = Identity { pid: 7, began: 8 };
        let runs = Runs { main, active: true, epoch: 1, until: 2, since: 3, ready: true, ending: false };
        let last = Some(End { cause: Cause::Signal(11), at: 4 });
        vec![
            Report::State(State {
                version: 1,
                boot: "x".into(),
                keeper: main,
                runs: Some(runs),
                starts: 2,
                last,
                strangers: 0,
            }),
            Report::Done { op: 1, wrong: Some("no".into()), note: String::new() },
            Report::Began { pid: 1, since: 2 },
            Report::Ready,
            Report::Beat { thread: 1, timeout: 2 },
            Report::Ended(End { cause: Cause::Code(-1), at: 5 }),
        ]
    }

    #[test]
    fn what_is_written_is_read_and_nothing_shorter_or_longer() {
        for order in orders() {
            let bytes = encode_order(&order);
            assert_eq!(frame_length(&bytes), Ok(Some(bytes.len())));
            assert_eq!(decode_order(&bytes), Ok(order));
            for cut in 0..bytes.len() {
                assert_eq!(decode_order(&bytes[..cut]), Err(Malformed));
            }
            assert_eq!(decode_order(&[&bytes[..], &[0]].concat()), Err(Malformed));
        }
        for report in reports() {
            let bytes = encode_report(&report);
            assert_eq!(decode_report(&bytes), Ok(report));
            for cut in 0..bytes.len() {
                assert_eq!(decode_report(&bytes[..cut]), Err(Malformed));
            }
        }
    }

    /// Each byte of each frame set to each value: refused or read, never a panic or a great allocation.
    #[test]
    fn damage_is_survived() {
        for mut bytes in orders().iter().map(encode_order).chain(reports().iter().map(encode_report)) {
            for at in 4..bytes.len() {
                let was = bytes[at];
                for value in 0..=255 {
                    bytes[at] = value;
                    let (order, report) = (decode_order(&bytes), decode_report(&bytes));
                    assert!(order.is_err() || report.is_err());
                }
                bytes[at] = was;
            }
        }
        assert_eq!(frame_length(&[0xff; 8]), Err(Malformed));
        assert_eq!(frame_length(&[0; 4]), Err(Malformed));
        assert_eq!(frame_length(&[1, 0, 0]), Ok(None));
    }
}
