//! Records as bytes.
//!
//! A tag byte, then the fields as the wire lays them: 0 born, 1 vote, 2 entries, 3 snapshot, 4 admitted.

use apus_engine::wire::{DecodeError, Reader, VERSION, Wire, Writer};
use apus_engine::{Durable, Record};

/// The wire version whose layout the disk uses.
pub(super) const LAYOUT: u8 = VERSION;

/// Lays records one after the other.
pub(super) fn put<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<u8> {
    let mut w = Writer::new(LAYOUT);
    for record in records {
        match record {
            Record::Born(incarnation) => (w.u8(0), incarnation.put(&mut w)).1,
            Record::Vote { term, voted } => {
                w.u8(1);
                term.put(&mut w);
                voted.put(&mut w);
            }
            Record::Entries(entries) => (w.u8(2), entries.put(&mut w)).1,
            Record::Snapshot(snapshot) => (w.u8(3), snapshot.put(&mut w)).1,
            Record::Admitted => w.u8(4),
        }
    }
    w.into_vec()
}

/// Reads all records of a body.
pub(super) fn get(layout: u8, body: &[u8]) -> Result<Vec<Record>, DecodeError> {
    let mut r = Reader::new(layout, body);
    let mut records = Vec::new();
    while r.remaining() > 0 {
        records.push(match r.u8()? {
            0 => Record::Born(Wire::get(&mut r)?),
            1 => Record::Vote { term: Wire::get(&mut r)?, voted: Wire::get(&mut r)? },
            2 => Record::Entries(Wire::get(&mut r)?),
            3 => Record::Snapshot(Wire::get(&mut r)?),
            4 => Record::Admitted,
            _ => return Err(DecodeError::Value),
        });
    }
    Ok(records)
}

/// Records that lead from nothing to `durable`.
pub(super) fn checkpoint(durable: &Durable) -> Vec<Record> {
    let mut records =
        vec![Record::Born(durable.incarnation), Record::Vote { term: durable.term, voted: durable.voted }];
    if durable.formatted {
        records.push(Record::Admitted);
    }
    records.extend(durable.snapshot.clone().map(Record::Snapshot));
    if !durable.log.is_empty() {
        records.push(Record::Entries(durable.log.values().cloned().collect()));
    }
    records
}
