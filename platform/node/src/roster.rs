//! What the replicated log says of nodes and authorities: one setting each, so that a change of one is small.
//!
//! ```text
//! SETTINGS + N   node N:       1 version  1 in or out  16 address  6 mac  4 weight  8 last serial number that is taken back
//!                              2 length of its newest certificate  certificate
//! SETTINGS + 0x100 + N   why node N is in maintenance: JSON; empty: it is not
//! SETTINGS + 0x200 + N   what became of the last attempt to fence node N: JSON
//! 0xffff         authorities:  1 version  for each: 8 believed until (seconds since 1970)  2 length  certificate
//! ```
//! Big-endian. Certificates are public; no key is ever here.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use apus_dispatch::Mac;
use apus_engine::{NodeId, ResourceId};

use crate::{Member, Part};

const VERSION: u8 = 1;
/// The setting of the authorities.
pub(crate) const AUTHORITIES: ResourceId = ResourceId(u16::MAX);

/// The setting of a node.
pub(crate) const fn setting(node: NodeId) -> ResourceId {
    ResourceId(ResourceId::SETTINGS.0 + (node.0 & 0xff))
}

/// Why a node is in maintenance.
pub(crate) const fn maintenance(node: NodeId) -> ResourceId {
    ResourceId(ResourceId::SETTINGS.0 + 0x100 + (node.0 & 0xff))
}

/// How the last attempt to fence a node went.
pub(crate) const fn fencing(node: NodeId) -> ResourceId {
    ResourceId(ResourceId::SETTINGS.0 + 0x200 + (node.0 & 0xff))
}

/// What a setting of JSON says; nothing if it is none.
pub(crate) fn words(settings: &BTreeMap<ResourceId, Vec<u8>>, setting: ResourceId) -> serde_json::Value {
    settings.get(&setting).and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default()
}

/// One node, as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Whether it is in the cluster.
    pub(crate) is_in: bool,
    pub(crate) address: IpAddr,
    pub(crate) mac: Mac,
    pub(crate) weight: u32,
    /// Certificates up to this number are taken back.
    pub(crate) revoked: u64,
    /// Its newest certificate, if one was made since it is here.
    pub(crate) certificate: Vec<u8>,
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn get<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let (length, after) = rest.split_first_chunk()?;
    let (bytes, after) = after.split_at_checked(u16::from_be_bytes(*length).into())?;
    *rest = after;
    Some(bytes)
}

impl Entry {
    /// A node that is in since the configuration.
    pub(crate) const fn of(member: &Member) -> Self {
        let Member { address, mac, weight, .. } = *member;
        Self { is_in: true, address, mac, weight, revoked: 0, certificate: Vec::new() }
    }

    /// As a setting.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = vec![VERSION, u8::from(self.is_in)];
        let address = match self.address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        out.extend_from_slice(&address.octets());
        out.extend_from_slice(&self.mac);
        out.extend_from_slice(&self.weight.to_be_bytes());
        out.extend_from_slice(&self.revoked.to_be_bytes());
        put(&mut out, &self.certificate);
        out
    }

    /// Reads a setting; `None`: one of a later version.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (is_in, rest) = bytes.strip_prefix(&[VERSION])?.split_first()?;
        let (address, rest) = rest.split_first_chunk::<16>()?;
        let (mac, rest) = rest.split_first_chunk()?;
        let (weight, rest) = rest.split_first_chunk()?;
        let (revoked, mut rest) = rest.split_first_chunk()?;
        Some(Self {
            is_in: *is_in == 1,
            address: Ipv6Addr::from(*address).to_canonical(),
            mac: *mac,
            weight: u32::from_be_bytes(*weight),
            revoked: u64::from_be_bytes(*revoked),
            certificate: get(&mut rest)?.to_vec(),
        })
    }
}

/// The entries of the log.
pub(crate) fn entries(settings: &BTreeMap<ResourceId, Vec<u8>>) -> BTreeMap<NodeId, Entry> {
    let range = settings.range(ResourceId::SETTINGS..=setting(NodeId(0xff)));
    range.filter_map(|(id, value)| Some((NodeId(id.0 - ResourceId::SETTINGS.0), Entry::read(value)?))).collect()
}

/// The nodes now: those of the configuration, changed by what the log says.
pub(crate) fn nodes(first: &[Member], entries: &BTreeMap<NodeId, Entry>) -> Vec<Member> {
    let mut nodes: BTreeMap<NodeId, Member> = first.iter().map(|member| (member.id, member.clone())).collect();
    for (id, entry) in entries {
        let Entry { address, mac, weight, .. } = *entry;
        if entry.is_in {
            let joined = nodes.get(id).is_none_or(|known| known.joined);
            let part = nodes.get(id).map_or(Part::Voter, |known| known.part);
            nodes.insert(*id, Member { id: *id, address, mac, weight, joined, part });
        } else {
            nodes.remove(id);
        }
    }
    nodes.into_values().collect()
}

/// Authorities, each with the second until which it is believed.
pub(crate) fn put_authorities(all: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![VERSION];
    for (until, certificate) in all {
        out.extend_from_slice(&until.to_be_bytes());
        put(&mut out, certificate);
    }
    out
}

/// Reads [`put_authorities`]; `None`: of a later version, or none.
pub(crate) fn authorities(settings: &BTreeMap<ResourceId, Vec<u8>>) -> Option<Vec<(u64, Vec<u8>)>> {
    let mut rest = settings.get(&AUTHORITIES)?.strip_prefix(&[VERSION])?;
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (until, after) = rest.split_first_chunk()?;
        rest = after;
        all.push((u64::from_be_bytes(*until), get(&mut rest)?.to_vec()));
    }
    (!all.is_empty()).then_some(all)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use apus_engine::NodeId;

    use super::{AUTHORITIES, Entry, authorities, entries, nodes, put_authorities, setting};
    use crate::{Member, Part};

    #[test]
    fn the_log_changes_the_configuration() {
        let member = |id: u16| Member {
            id: NodeId(id),
            address: [10, 0, 0, u8::try_from(id).expect("small")].into(),
            mac: [2, 0, 0, 0, 0, 1],
            weight: 1,
            joined: false,
            part: Part::Voter,
        };
        let first = [member(0), member(1)];
        let gone = Entry { is_in: false, revoked: 77, ..Entry::of(&member(1)) };
        let new = Entry {
            address: "fd00::2".parse().expect("an address"),
            certificate: vec![3; 400],
            ..Entry::of(&member(2))
        };
        let mut settings = BTreeMap::from([
            (setting(NodeId(1)), gone.bytes()),
            (setting(NodeId(2)), new.bytes()),
            (setting(NodeId(9)), vec![2, 1, 1]),
        ]);
        let read = entries(&settings);
        assert_eq!(read, BTreeMap::from([(NodeId(1), gone), (NodeId(2), new.clone())]));
        let now = nodes(&first, &read);
        assert_eq!(now.iter().map(|node| (node.id.0, node.joined)).collect::<Vec<_>>(), [(0, false), (2, true)]);
        assert!(new.bytes().len() < 1_024);
        assert!((0..new.bytes().len()).all(|cut| Entry::read(&new.bytes()[..cut]).is_none()));
        let all = vec![(u64::MAX, vec![1; 330]), (5, vec![2; 330])];
        settings.insert(AUTHORITIES, put_authorities(&all));
        assert_eq!(authorities(&settings), Some(all));
        assert_eq!(entries(&settings).len(), 2);
    }
}
