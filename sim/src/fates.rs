//! What became of every packet of a run, as data: so that an artifact needs no chance to send them through the same losses
//! and delays again.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use apus_engine::NodeId;

use crate::fault::Ns;
use crate::trace::{Line, What};

/// One way of a link, and one kind of packet on it. Counting by kind keeps the other kinds' packets in step when an engine
/// sends more or fewer of one.
type Lane = (NodeId, NodeId, u8);

/// One arrival of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// After it was sent.
    pub after: Ns,
    /// Whose packet it seemed to be, if not its sender's.
    pub posed: Option<NodeId>,
    /// Its bytes, if they were changed on the way.
    pub altered: Option<Vec<u8>>,
}

/// What became of one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was still on its way when the run was over.
    Open,
    /// It arrived so often: not at all, once, or more.
    Known(Vec<Arrival>),
}

/// The fates of all packets, by lane and number in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fates {
    lanes: BTreeMap<Lane, Vec<Fate>>,
}

impl Fates {
    /// Of a run whose trace was kept.
    #[must_use]
    pub fn of(trace: &[Line]) -> Self {
        let mut fates = Self::default();
        let mut sent: BTreeMap<u64, (Lane, usize, Ns, &[u8])> = BTreeMap::new();
        for line in trace {
            let Some(node) = line.node else { continue };
            match &line.what {
                What::Sent { to, id, kind, datagram } => {
                    let lane = (node, *to, *kind);
                    let list = fates.lanes.entry(lane).or_default();
                    list.push(Fate::Open);
                    sent.insert(*id, (lane, list.len() - 1, line.at, datagram));
                }
                What::Received { from, id, datagram, .. } => {
                    let Some((lane, nth, at, bytes)) = sent.get(id) else { continue };
                    let posed = (*from != lane.0).then_some(*from);
                    let altered = (datagram != bytes).then(|| datagram.clone());
                    fates.arrives(*lane, *nth, Some(Arrival { after: line.at - at, posed, altered }));
                }
                What::Lost { id, fault, .. } => {
                    let Some((lane, nth, at, _)) = sent.get(id) else { continue };
                    // Where nobody was there it did arrive, for whoever is there the next time.
                    let there = Arrival { after: line.at - at, posed: None, altered: None };
                    fates.arrives(*lane, *nth, fault.is_none().then_some(there));
                }
                _ => {}
            }
        }
        fates
    }

    fn arrives(&mut self, lane: Lane, nth: usize, arrival: Option<Arrival>) {
        if let Some(fate) = self.lanes.get_mut(&lane).and_then(|list| list.get_mut(nth)) {
            match fate {
                Fate::Known(arrivals) => arrivals.extend(arrival),
                Fate::Open => *fate = Fate::Known(arrival.into_iter().collect()),
            }
        }
    }

    /// What becomes of the `nth` packet of a kind from one node to another; `None`: that is left to chance.
    #[must_use]
    pub fn get(&self, from: NodeId, to: NodeId, kind: u8, nth: usize) -> Option<&[Arrival]> {
        match self.lanes.get(&(from, to, kind))?.get(nth)? {
            Fate::Known(arrivals) => Some(arrivals),
            Fate::Open => None,
        }
    }

    /// How many packets it knows.
    #[must_use]
    pub fn packets(&self) -> usize {
        self.lanes.values().map(Vec::len).sum()
    }

    /// One line of text a lane: the delay of each packet in nanoseconds, `-` lost, `?` still on its way, `a+b` arrived
    /// twice, `a@n3` as if from another node, `a=hex` with these bytes instead.
    #[must_use]
    pub fn to_lines(&self) -> Vec<(String, String)> {
        let lane = |((from, to, kind), list): (&Lane, &Vec<Fate>)| {
            let key = format!("{from}>{to} {kind:#04x} {}", apus_engine::wire::kind_name(*kind));
            (key, list.iter().map(show).collect::<Vec<_>>().join(" "))
        };
        self.lanes.iter().map(lane).collect()
    }

    /// Reads one such line.
    pub fn add_line(&mut self, key: &str, text: &str) -> Result<(), String> {
        let mut words = key.split(' ');
        let nodes = words.next().and_then(|nodes| nodes.split_once('>'));
        let node = |text: &str| text.strip_prefix('n').and_then(|n| n.parse().ok()).map(NodeId);
        let kind =
            words.next().and_then(|kind| kind.strip_prefix("0x")).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let lane = nodes.and_then(|(from, to)| Some((node(from)?, node(to)?, kind?)));
        let lane = lane.ok_or_else(|| format!("`{key}`: want `n0>n1 0x11`, two nodes and the kind of packet"))?;
        let fates: Option<Vec<Fate>> = text.split_whitespace().map(read).collect();
        self.lanes.insert(lane, fates.ok_or_else(|| format!("`{key}`: want delays in nanoseconds, `-` or `?`"))?);
        Ok(())
    }
}

fn show(fate: &Fate) -> String {
    let Fate::Known(arrivals) = fate else { return "?".into() };
    if arrivals.is_empty() {
        return "-".into();
    }
    let one = |arrival: &Arrival| {
        let mut text = arrival.after.to_string();
        if let Some(node) = arrival.posed {
            let _ = write!(text, "@{node}");
        }
        if let Some(bytes) = &arrival.altered {
            text.push('=');
            for byte in bytes {
                let _ = write!(text, "{byte:02x}");
            }
        }
        text
    };
    arrivals.iter().map(one).collect::<Vec<_>>().join("+")
}

fn read(text: &str) -> Option<Fate> {
    match text {
        "?" => Some(Fate::Open),
        "-" => Some(Fate::Known(Vec::new())),
        _ => text.split('+').map(read_arrival).collect::<Option<_>>().map(Fate::Known),
    }
}

fn read_arrival(text: &str) -> Option<Arrival> {
    let (text, altered) = text.split_once('=').map_or((text, None), |(text, hex)| (text, Some(hex)));
    let (after, posed) = text.split_once('@').map_or((text, None), |(after, node)| (after, Some(node)));
    let posed = posed.map(|node| node.strip_prefix('n').and_then(|n| n.parse().ok()).map(NodeId));
    if posed == Some(None) {
        return None;
    }
    let altered = match altered {
        None => None,
        Some(hex) if hex.len() % 2 == 0 && hex.is_ascii() => {
            let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).ok();
            Some((0..hex.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>()?)
        }
        Some(_) => return None,
    };
    Some(Arrival { after: after.parse().ok()?, posed: posed.flatten(), altered })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fates_read_back() {
        let text = "203412 - ? 12+900@n7 5=00ff 8@n1=aa";
        let mut fates = Fates::default();
        assert_eq!(fates.add_line("n0>n2 0x11 probe", text), Ok(()));
        let lines = fates.to_lines();
        assert_eq!((lines.len(), lines[0].1.as_str()), (1, text));
        assert_eq!(fates.get(NodeId(0), NodeId(2), 0x11, 1), Some(&[][..]));
        assert_eq!(fates.get(NodeId(0), NodeId(2), 0x11, 2), None, "left to chance");
        assert_eq!(fates.get(NodeId(0), NodeId(2), 0x11, 9), None, "beyond the end");
        for bad in ["x", "1+", "5=0", "5=zz", "5@3", "-5", "1 é=é"] {
            assert!(fates.add_line("n0>n2 0x11", bad).is_err(), "{bad}");
        }
        for bad in ["", "n0", "n0>n1", "n0>x 0x11", "n0>n1 17", "n0>n1 0x111"] {
            assert!(fates.add_line(bad, "1").is_err(), "{bad}");
        }
    }
}
