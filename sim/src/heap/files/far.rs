//! What the comparison of a large tree costs on the wire, and whether programs go on meanwhile.

use std::collections::BTreeMap;

use apus_engine::NodeId;
use apus_engine::wire::peek_kind;

use super::judge::Wrong;
use super::tree::Tree;
use super::vault::Vault;
use crate::fault::{Ns, S};

/// Changes that are fewer say nothing of what a comparison costs.
const ENOUGH: u64 = 512 * 1024;
/// A comparison ends within this time and what its changes take at so many bytes a second, a fifth of 10 Mbit/s.
const SOON: Ns = 10 * S;
const SLOW: u64 = 250_000;
/// A program that steps all the time may pause for so long.
const PAUSE: Ns = S;

/// Of scenarios with a large tree.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    /// Whose files are compared, and bytes of blocks that differed when that began.
    comparing: Option<(NodeId, u64)>,
    begun: Ns,
    /// Bytes of the comparison's packets, both ways, lost and doubled ones too.
    wire: u64,
    /// Of those, by whom files are mended: what it told.
    told: u64,
    /// Bytes of records meanwhile.
    records: u64,
    stepped: Ns,
    paused: Ns,
    pub(super) measures: BTreeMap<&'static str, Ns>,
}

impl Meter {
    /// A second tree is there.
    pub(super) fn begins(&mut self, now: Ns, node: NodeId, vaults: &BTreeMap<NodeId, Vault>) {
        let Some(vault) = vaults.get(&node) else { return };
        let Some(model) = vaults.values().find(|vault| vault.writes) else { return };
        if self.comparing.is_none() {
            self.begun = now;
            (self.wire, self.told, self.records, self.stepped, self.paused) = (0, 0, 0, now, 0);
        }
        self.comparing = Some((node, Tree::differs_by(&model.tree, &vault.tree)));
    }

    /// A packet leaves: `sync-begin`, `sync-holds`, `sync-mends`.
    pub(super) fn sends(&mut self, datagram: &[u8]) {
        if self.comparing.is_none() {
            return;
        }
        let bytes = datagram.len() as u64;
        match peek_kind(datagram) {
            Some(kind @ 0x46..=0x48) => {
                self.wire += bytes;
                self.told += if kind == 0x47 { bytes } else { 0 };
            }
            Some(0x44) => self.records += bytes,
            _ => {}
        }
    }

    /// A program changes files.
    pub(super) fn steps(&mut self, now: Ns) {
        self.paused = self.paused.max(now.saturating_sub(self.stepped));
        self.stepped = now;
    }

    /// A copy has published what was compared.
    pub(super) fn ends(&mut self, now: Ns, node: NodeId) -> Result<(), Wrong> {
        let Some((_, changed)) = self.comparing.take_if(|(of, _)| *of == node) else { return Ok(()) };
        self.steps(now);
        if changed < ENOUGH {
            return Ok(());
        }
        let worst = |measures: &mut BTreeMap<_, _>, name, value: Ns| {
            let before = measures.entry(name).or_insert(value);
            *before = value.max(*before);
        };
        worst(&mut self.measures, "compared-wire-ppm", self.wire * 1_000_000 / changed);
        worst(&mut self.measures, "compared-told-ppm", self.told * 1_000_000 / changed);
        worst(&mut self.measures, "paused-while-compared", self.paused);
        if self.wire * 10 > changed * 11 {
            let (wire, told, records) = (self.wire, self.told, self.records);
            let what = format!(
                "{node}: {wire} bytes on the wire to mend {changed} bytes, {told} of them told by it, and {records} of records"
            );
            return Err(("files-compared-cheaply", what));
        }
        let took = now.saturating_sub(self.begun);
        worst(&mut self.measures, "comparing", took);
        if took > SOON + changed * S / SLOW {
            let what = format!("{node}: {changed} bytes were mended in {} ms", took / 1_000_000);
            return Err(("files-compared-soon", what));
        }
        if self.paused > PAUSE {
            let what =
                format!("{node}: a program stood still for {} ms while files were compared", self.paused / 1_000_000);
            return Err(("files-never-held", what));
        }
        Ok(())
    }
}
