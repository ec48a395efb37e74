//! Reading and writing the primitive types of the wire.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::DecodeError;
use crate::ids::{
    Epoch, EvidenceId, FileId, GroupId, Incarnation, Index, Lsn, NodeId, OpId, ResourceId, ServiceId, Term, ThreadId,
};
use crate::time::{Micros, Time};

/// Something that can be laid on the wire and on the disk.
pub trait Wire: Sized {
    /// The fewest bytes a value takes; bounds what an announced length may allocate.
    const LEAST: usize;
    /// Appends it.
    fn put(&self, w: &mut Writer);
    /// Takes it from the front.
    fn get(r: &mut Reader<'_>) -> Result<Self, DecodeError>;
    /// Appends several, without their number.
    fn put_all(all: &[Self], w: &mut Writer) {
        all.iter().for_each(|x| x.put(w));
    }
    /// Takes several.
    fn get_all(many: usize, r: &mut Reader<'_>) -> Result<Vec<Self>, DecodeError> {
        (0..many).map(|_| Self::get(r)).collect()
    }
}

/// Collects bytes.
#[derive(Debug)]
pub struct Writer {
    /// The layout to write.
    pub version: u8,
    out: Vec<u8>,
}

impl Writer {
    /// An empty packet.
    #[must_use]
    pub fn new(version: u8) -> Self {
        Self { version, out: Vec::with_capacity(96) }
    }
    /// One byte.
    pub fn u8(&mut self, x: u8) {
        self.out.push(x);
    }
    /// Two bytes.
    pub fn u16(&mut self, x: u16) {
        self.out.extend_from_slice(&x.to_le_bytes());
    }
    /// Four bytes.
    pub fn u32(&mut self, x: u32) {
        self.out.extend_from_slice(&x.to_le_bytes());
    }
    /// Eight bytes.
    pub fn u64(&mut self, x: u64) {
        self.out.extend_from_slice(&x.to_le_bytes());
    }
    /// One to ten bytes (LEB128).
    #[allow(clippy::cast_possible_truncation, reason = "seven bits are meant")]
    pub fn var(&mut self, mut x: u64) {
        while x >= 0x80 {
            self.out.push(x as u8 | 0x80);
            x >>= 7;
        }
        self.out.push(x as u8);
    }
    /// Bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }
    /// What was written.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.out
    }
}

/// Takes bytes from the front of a packet.
#[derive(Debug)]
pub struct Reader<'a> {
    /// The layout to read.
    pub version: u8,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `bytes` in the layout of `version`.
    #[must_use]
    pub const fn new(version: u8, bytes: &'a [u8]) -> Self {
        Self { version, rest: bytes }
    }
    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let (front, rest) = self.rest.split_at_checked(n).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(front)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (front, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*front)
    }
    /// One byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(|[x]| x)
    }
    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }
    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }
    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }
    /// One to ten bytes (LEB128); an overlong or overflowing number is refused.
    pub fn var(&mut self) -> Result<u64, DecodeError> {
        let mut x = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if (shift == 63 && bits > 1) || (shift > 0 && byte == 0) {
                return Err(DecodeError::Value);
            }
            x |= bits << shift;
            if byte < 0x80 {
                return Ok(x);
            }
        }
        Err(DecodeError::Value)
    }
    /// A length of things that take at least `least` bytes each: never more than the packet can hold.
    pub fn len(&mut self, least: usize) -> Result<usize, DecodeError> {
        let n = usize::try_from(self.var()?).map_err(|_| DecodeError::Value)?;
        if n > self.rest.len() / least.max(1) { Err(DecodeError::Truncated) } else { Ok(n) }
    }
    /// That nothing is left.
    pub const fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing) }
    }
    /// How much is left.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }
}

macro_rules! newtype {
    ($($type:ident $via:ident $least:literal),*) => {$(
        impl Wire for $type {
            const LEAST: usize = $least;
            fn put(&self, w: &mut Writer) { w.$via(self.0.into()); }
            fn get(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                r.$via()?.try_into().map($type).map_err(|_| DecodeError::Value)
            }
        }
    )*};
}
newtype!(GroupId var 1, Lsn var 1, FileId var 1, NodeId u16 2, ResourceId u16 2, ServiceId u16 2, Incarnation var 1, Term var 1, Index var 1, Epoch var 1, OpId var 1, ThreadId var 1, Time var 1, Micros var 1);

macro_rules! number {
    ($($type:ident $via:ident $least:literal),*) => {$(
        impl Wire for $type {
            const LEAST: usize = $least;
            fn put(&self, w: &mut Writer) { w.$via((*self).into()); }
            fn get(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                r.$via()?.try_into().map_err(|_| DecodeError::Value)
            }
        }
    )*};
}
number!(u16 u16 2, u32 var 1, u64 var 1);

impl Wire for u8 {
    const LEAST: usize = 1;
    fn put(&self, w: &mut Writer) {
        w.u8(*self);
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.u8()
    }
    fn put_all(all: &[Self], w: &mut Writer) {
        w.bytes(all);
    }
    fn get_all(many: usize, r: &mut Reader<'_>) -> Result<Vec<Self>, DecodeError> {
        r.take(many).map(<[u8]>::to_vec)
    }
}

impl Wire for bool {
    const LEAST: usize = 1;
    fn put(&self, w: &mut Writer) {
        w.u8(u8::from(*self));
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match r.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Value),
        }
    }
}

impl Wire for EvidenceId {
    const LEAST: usize = 4;
    fn put(&self, w: &mut Writer) {
        self.node.put(w);
        self.inc.put(w);
        self.seq.put(w);
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { node: Wire::get(r)?, inc: Wire::get(r)?, seq: Wire::get(r)? })
    }
}

impl<T: Wire> Wire for Option<T> {
    const LEAST: usize = 1;
    fn put(&self, w: &mut Writer) {
        self.is_some().put(w);
        if let Some(x) = self {
            x.put(w);
        }
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        bool::get(r)?.then(|| T::get(r)).transpose()
    }
}

/// What is large and rare, so that messages which are neither are moved quickly; laid as what it holds.
impl<T: Wire> Wire for Box<T> {
    const LEAST: usize = T::LEAST;
    fn put(&self, w: &mut Writer) {
        (**self).put(w);
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        T::get(r).map(Self::new)
    }
}

/// Shared values are laid as what they hold.
impl<T: Wire> Wire for Arc<T> {
    const LEAST: usize = T::LEAST;
    fn put(&self, w: &mut Writer) {
        (**self).put(w);
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        T::get(r).map(Self::new)
    }
}

impl<T: Wire> Wire for Vec<T> {
    const LEAST: usize = 1;
    fn put(&self, w: &mut Writer) {
        w.var(self.len() as u64);
        T::put_all(self, w);
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let n = r.len(T::LEAST)?;
        T::get_all(n, r)
    }
}

impl<T: Wire, const N: usize> Wire for [T; N]
where
    [T; N]: Default,
{
    const LEAST: usize = T::LEAST * N;
    fn put(&self, w: &mut Writer) {
        for x in self {
            x.put(w);
        }
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut out = Self::default();
        for x in &mut out {
            *x = T::get(r)?;
        }
        Ok(out)
    }
}

/// Sets are laid in order; a repeated or unordered element is refused, so each set has one encoding.
impl<T: Wire + Ord> Wire for BTreeSet<T> {
    const LEAST: usize = 1;
    fn put(&self, w: &mut Writer) {
        w.var(self.len() as u64);
        for x in self {
            x.put(w);
        }
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut out = Self::new();
        for _ in 0..r.len(T::LEAST)? {
            let x = T::get(r)?;
            if out.last().is_some_and(|last| *last >= x) {
                return Err(DecodeError::Value);
            }
            out.insert(x);
        }
        Ok(out)
    }
}

/// Maps are laid in key order, as sets are.
impl<K: Wire + Ord, V: Wire> Wire for BTreeMap<K, V> {
    const LEAST: usize = 1;
    fn put(&self, w: &mut Writer) {
        w.var(self.len() as u64);
        for (key, value) in self {
            key.put(w);
            value.put(w);
        }
    }
    fn get(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut out = Self::new();
        for _ in 0..r.len(K::LEAST + V::LEAST)? {
            let (key, value) = (K::get(r)?, V::get(r)?);
            if out.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(DecodeError::Value);
            }
            out.insert(key, value);
        }
        Ok(out)
    }
}

/// Lays the fields of a struct in the order given, and reads them back.
#[macro_export]
macro_rules! wire_struct {
    ($type:ty { $($field:ident),* $(,)? } least $least:expr) => {
        impl $crate::wire::Wire for $type {
            const LEAST: usize = $least;
            fn put(&self, w: &mut $crate::wire::Writer) {
                $($crate::wire::Wire::put(&self.$field, w);)*
            }
            fn get(r: &mut $crate::wire::Reader<'_>) -> Result<Self, $crate::wire::DecodeError> {
                Ok(Self { $($field: $crate::wire::Wire::get(r)?),* })
            }
        }
    };
}

/// Declares a part's messages: the enum, its kind bytes, its codec, and its names.
#[macro_export]
macro_rules! wire_messages {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$doc:meta])* $kind:literal $label:literal $variant:ident($body:ty),)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        $vis enum $name { $($(#[$doc])* $variant($body),)* }

        impl $name {
            /// The kind byte.
            #[must_use]
            pub const fn kind(&self) -> u8 {
                match self { $(Self::$variant(_) => $kind,)* }
            }
            /// The name of a kind byte.
            #[must_use]
            pub const fn kind_name(kind: u8) -> &'static str {
                match kind { $($kind => $label,)* _ => "unknown" }
            }
            /// Every kind byte.
            pub const KINDS: &'static [u8] = &[$($kind,)*];
            /// Lays the body.
            pub(crate) fn put_body(&self, w: &mut $crate::wire::Writer) {
                match self { $(Self::$variant(body) => $crate::wire::Wire::put(body, w),)* }
            }
            /// Reads the body of this kind.
            pub(crate) fn get_body(kind: u8, r: &mut $crate::wire::Reader<'_>) -> Result<Self, $crate::wire::DecodeError> {
                match kind {
                    $($kind => <$body as $crate::wire::Wire>::get(r).map(Self::$variant),)*
                    _ => Err($crate::wire::DecodeError::Kind),
                }
            }
        }
    };
}
