//! What the copies of a group tell each other. Kinds `0x4…`, since version 5.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::history::{Base, EraStart};
use super::page::{Mends, Page, Stretch};
use crate::ids::{Epoch, GroupId, Lsn};
use crate::{wire_messages, wire_struct};

/// Who has the grant asks how far the others have come; who answers has promised the era.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ask {
    /// Of which group.
    pub group: GroupId,
    /// In which era the asking node wants to write.
    pub era: Epoch,
}
wire_struct!(Ask { group, era } least 2);

/// How far a copy has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Have {
    /// Of which group.
    pub group: GroupId,
    /// The era that it was asked in.
    pub era: Epoch,
    /// The era that it has promised: above `era` it refuses.
    pub promised: Epoch,
    /// It holds nothing and has lost what it may have held.
    pub blank: bool,
    /// Its files are a state of the history, or will be with the log's records: others can be compared with them.
    pub whole: bool,
    /// Its log reaches back to here.
    pub base: Lsn,
    /// The last record that it holds durably.
    pub end: Lsn,
    /// The eras of its history.
    pub eras: Vec<EraStart>,
}
wire_struct!(Have { group, era, promised, blank, whole, base, end, eras } least 8);

/// Who writes tells so, again and again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lead {
    /// Of which group.
    pub group: GroupId,
    /// In which era.
    pub era: Epoch,
    /// Its log reaches back to here.
    pub base: Lsn,
    /// The last record.
    pub end: Lsn,
    /// The eras of its history.
    pub eras: Vec<EraStart>,
}
wire_struct!(Lead { group, era, base, end, eras } least 5);

/// A copy wants records, or its files compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Follow {
    /// Of which group.
    pub group: GroupId,
    /// In which era.
    pub era: Epoch,
    /// Tells this wish from earlier ones of the same node.
    pub stream: u32,
    /// The records after this one; none: files are to be compared first.
    pub from: Option<Lsn>,
}
wire_struct!(Follow { group, era, stream, from } least 4);

/// Records, one behind the other as in a log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Records {
    /// Of which group.
    pub group: GroupId,
    /// In which era the sender serves.
    pub era: Epoch,
    /// For which wish.
    pub stream: u32,
    /// The last record of the sender.
    pub end: Lsn,
    /// As encoded.
    pub bytes: Vec<u8>,
}
wire_struct!(Records { group, era, stream, end, bytes } least 5);

/// How far a copy has come with what it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ack {
    /// Of which group.
    pub group: GroupId,
    /// In which era.
    pub era: Epoch,
    /// For which wish.
    pub stream: u32,
    /// In memory without a gap.
    pub received: Lsn,
    /// Durable without a gap.
    pub durable: Lsn,
    /// In its files.
    pub applied: Lsn,
    /// 0: none; 1: its disk is full; 2: its disk fails.
    pub trouble: u8,
}
wire_struct!(Ack { group, era, stream, received, durable, applied, trouble } least 7);

/// The comparison of files begins; records after `base` come meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Begin {
    /// Of which group.
    pub group: GroupId,
    /// In which era.
    pub era: Epoch,
    /// For which wish.
    pub stream: u32,
    /// What the new log of the copy begins after.
    pub base: Base,
}
wire_struct!(Begin { group, era, stream, base } least 6);

/// What a copy has in stretches of its files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Holds {
    /// Of which group.
    pub group: GroupId,
    /// In which era.
    pub era: Epoch,
    /// For which wish.
    pub stream: u32,
    /// Tells it from what else was told for this wish; its answers bear it. Of a scrub: as the scrub.
    pub number: u32,
    /// A scrub's: of its published files, with all records up to here and no others. None: of files that are being mended.
    pub scrub: Option<Lsn>,
    /// The stretches.
    pub page: Page,
}
wire_struct!(Holds { group, era, stream, number, scrub, page } least 7);

/// What makes stretches of a copy's files right, or a part of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mending {
    /// Of which group.
    pub group: GroupId,
    /// In which era.
    pub era: Epoch,
    /// For which wish.
    pub stream: u32,
    /// Of what was told.
    pub number: u32,
    /// Nothing more comes: what lies behind is to be told again.
    pub last: bool,
    /// With the records up to here the mended files are right.
    pub upto: Lsn,
    /// The stretches.
    pub mends: Mends,
}
wire_struct!(Mending { group, era, stream, number, last, upto, mends } least 11);

/// A scrub wants to know what a copy has in stretches of its published files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scrub {
    /// Of which group.
    pub group: GroupId,
    /// In which era.
    pub era: Epoch,
    /// For which wish.
    pub stream: u32,
    /// Tells it from other scrubs for this wish.
    pub number: u32,
    /// What hashes are made with.
    pub salt: u64,
    /// How fine it is to be told.
    pub depth: u8,
    /// Which.
    pub stretches: Vec<Stretch>,
}
wire_struct!(Scrub { group, era, stream, number, salt, depth, stretches } least 7);

/// A copy's files are not what they should be: they are to be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wrong {
    /// Of which group.
    pub group: GroupId,
    /// In which era.
    pub era: Epoch,
    /// For which wish.
    pub stream: u32,
}
wire_struct!(Wrong { group, era, stream } least 3);

wire_messages! {
    /// What the copies of a group tell each other.
    pub enum Message {
        /// How far have you come?
        0x40 "ask-files" Ask(Ask),
        /// So far.
        0x41 "have-files" Have(Have),
        /// I write.
        0x42 "lead-files" Lead(Lead),
        /// I follow.
        0x43 "follow-files" Follow(Follow),
        /// Records.
        0x44 "records" Records(Records),
        /// So far have I come.
        0x45 "records-ack" Ack(Ack),
        /// Files are compared.
        0x46 "sync-begin" Begin(Begin),
        /// That is what I have.
        0x47 "sync-holds" Holds(Holds),
        /// That is what it should be.
        0x48 "sync-mends" Mends(Box<Mending>),
        /// What have you?
        0x49 "scrub" Scrub(Scrub),
        /// Your files are wrong.
        0x4a "files-wrong" Wrong(Wrong),
    }
}

impl Message {
    /// Of which group.
    #[must_use]
    pub const fn group(&self) -> GroupId {
        match self {
            Self::Ask(m) => m.group,
            Self::Have(m) => m.group,
            Self::Lead(m) => m.group,
            Self::Follow(m) => m.group,
            Self::Records(m) => m.group,
            Self::Ack(m) => m.group,
            Self::Begin(m) => m.group,
            Self::Holds(m) => m.group,
            Self::Mends(m) => m.group,
            Self::Scrub(m) => m.group,
            Self::Wrong(m) => m.group,
        }
    }
}
