//! What a way to choose costs: uneven loads, clients moved without need, and tables that depend on history.

use std::collections::BTreeMap;

use crate::{Kind, Server, key};

/// What happens to the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// A new one comes, of the weight of the middle one.
    Add,
    /// The middle one leaves.
    Remove,
    /// The middle one gets nothing more, but is still known.
    Drain,
    /// The middle one's weight is doubled, or halved where it cannot be.
    Reweight,
    /// Each drains and comes back, one after the other; of many, 16 of them.
    Roll,
}

/// Most servers of a roll.
const ROLL: usize = 16;

impl Change {
    /// Every change.
    pub const ALL: &'static [Self] = &[Self::Add, Self::Remove, Self::Drain, Self::Reweight, Self::Roll];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Remove => "remove",
            Self::Drain => "drain",
            Self::Reweight => "reweight",
            Self::Roll => "roll",
        }
    }

    /// The sets of servers it goes through after this one; `None` if one of them would be without a server.
    #[must_use]
    pub fn steps(self, servers: &[Server]) -> Option<Vec<Vec<Server>>> {
        self.of(servers, &[servers.len() / 2], false)
    }

    /// The same change of two servers, in both orders.
    #[must_use]
    pub fn orders(self, servers: &[Server]) -> Option<[Vec<Vec<Server>>; 2]> {
        let (a, b) = (servers.len() / 2, servers.len() / 3);
        let distinct = self == Self::Add || a != b;
        let steps = |order: [usize; 2], backwards| distinct.then(|| self.of(servers, &order, backwards)).flatten();
        Some([steps([a, b], false)?, steps([b, a], true)?])
    }

    /// The change of the servers at these places, one after the other. `backwards` tells two new servers apart.
    fn of(self, servers: &[Server], places: &[usize], backwards: bool) -> Option<Vec<Vec<Server>>> {
        let mut now = servers.to_vec();
        let mut sets = Vec::new();
        let first = servers.iter().map(|server| server.id).max().map_or(0, |id| id + 1);
        let mut push = |now: &Vec<Server>| sets.push(now.clone());
        if self == Self::Roll {
            // Two that overlap, for the order; else each by itself.
            if let [a, b] = places {
                for (place, up) in [(*a, false), (*b, false), (*a, true), (*b, true)] {
                    now[place].weight = if up { servers[place].weight } else { 0 };
                    push(&now);
                }
            } else {
                let many = servers.len().min(ROLL);
                for place in (0..many).map(|i| i * servers.len() / many) {
                    now[place].weight = 0;
                    push(&now);
                    now[place] = servers[place];
                    push(&now);
                }
            }
        } else {
            for (place, i) in places.iter().zip(0_u32..) {
                let server = *servers.get(*place)?;
                let at = now.iter().position(|known| known.id == server.id)?;
                match self {
                    Self::Add => {
                        now.push(Server {
                            id: first + if backwards { 1 - i } else { i },
                            weight: server.weight.max(1),
                        });
                        now.sort_unstable();
                    }
                    Self::Remove => drop(now.remove(at)),
                    Self::Drain => now[at].weight = 0,
                    Self::Reweight | Self::Roll => {
                        let most = apus_dispatch::MAX_WEIGHT;
                        now[at].weight = if server.weight <= most / 2 { server.weight * 2 } else { server.weight / 2 };
                    }
                }
                push(&now);
            }
        }
        sets.iter().all(|set| set.iter().any(|server| server.weight > 0)).then_some(sets)
    }
}

/// The busiest and the idlest server, relative to their shares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Most traffic, over the share.
    pub max: f64,
    /// Least traffic, over the share.
    pub min: f64,
}

impl Load {
    /// Of nobody, for [`Load::worse`].
    pub const EVEN: Self = Self { max: 1.0, min: 1.0 };

    /// Of clients that go to these servers.
    #[must_use]
    pub fn of(servers: &[Server], to: &[u32], traffic: &[u32]) -> Self {
        let mut loads: BTreeMap<u32, u64> = BTreeMap::new();
        // Numbers are mostly small and dense: sums in an array, and what is left in the map.
        let mut dense = vec![0_u64; 1 << 14];
        for (server, packets) in to.iter().zip(traffic) {
            match dense.get_mut(*server as usize) {
                Some(sum) => *sum += u64::from(*packets),
                None => *loads.entry(*server).or_default() += u64::from(*packets),
            }
        }
        let all: u64 = traffic.iter().take(to.len()).map(|packets| u64::from(*packets)).sum();
        let weights: u64 = servers.iter().map(|server| u64::from(server.weight)).sum();
        let ratios = servers.iter().filter(|server| server.weight > 0).map(|server| {
            let has = dense.get(server.id as usize).or_else(|| loads.get(&server.id)).copied().unwrap_or(0);
            has as f64 * weights as f64 / (all as f64 * f64::from(server.weight))
        });
        ratios.fold(Self { max: 0.0, min: f64::INFINITY }, |load, ratio| Self {
            max: load.max.max(ratio),
            min: load.min.min(ratio),
        })
    }

    /// The worse of both.
    #[must_use]
    pub const fn worse(self, other: Self) -> Self {
        Self { max: self.max.max(other.max), min: self.min.min(other.min) }
    }

    /// What chance alone does: each client draws its server. The `draw` tells draws apart.
    #[must_use]
    pub fn perfect(servers: &[Server], traffic: &[u32], draw: u64) -> Self {
        let mut sums = Vec::with_capacity(servers.len());
        let mut total = 0_u64;
        for server in servers {
            total += u64::from(server.weight);
            sums.push(total);
        }
        let to: Vec<u32> = (0..traffic.len() as u64)
            .map(|i| {
                let at = ((u128::from(key::pair(key::mix(draw), i)) * u128::from(total)) >> 64) as u64;
                servers.get(sums.partition_point(|sum| *sum <= at)).map_or(crate::NOBODY, |server| server.id)
            })
            .collect();
        Self::of(servers, &to, traffic)
    }
}

/// Clients that changed their server, as parts of all.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Moves {
    /// All of them.
    pub moved: f64,
    /// Those whose old server did not lose weight, and whose new one did not gain any: nothing asked for it.
    pub needless: f64,
}

/// Compares the servers of clients before and after.
#[must_use]
pub fn moves(before: &[Server], after: &[Server], old: &[u32], new: &[u32]) -> Moves {
    let weight = |set: &[Server], id: u32| set.iter().find(|server| server.id == id).map_or(0, |server| server.weight);
    let lost: Vec<u32> = before.iter().filter(|s| weight(after, s.id) < s.weight).map(|s| s.id).collect();
    let gained: Vec<u32> = after.iter().filter(|s| weight(before, s.id) < s.weight).map(|s| s.id).collect();
    let (mut moved, mut needless) = (0_u64, 0_u64);
    for (from, to) in old.iter().zip(new).filter(|(from, to)| from != to) {
        moved += 1;
        needless += u64::from(!lost.contains(from) && !gained.contains(to));
    }
    let part = |many: u64| many as f64 / old.len().max(1) as f64;
    Moves { moved: part(moved), needless: part(needless) }
}

/// The least part of clients that must move so that every server has its share before and after.
#[must_use]
pub fn ideal(before: &[Server], after: &[Server]) -> f64 {
    let total = |set: &[Server]| set.iter().map(|server| f64::from(server.weight)).sum::<f64>();
    let (had, has) = (total(before), total(after));
    let gain = after.iter().map(|server| {
        let weight = before.iter().find(|known| known.id == server.id).map_or(0, |known| known.weight);
        (f64::from(server.weight) / has - f64::from(weight) / had).max(0.0)
    });
    gain.sum()
}

/// What happens to clients in a change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// How many clients were looked at.
    pub clients: usize,
    /// The worst over all sets of servers.
    pub load: Load,
    /// On average over the steps.
    pub moves: Moves,
    /// Most bytes it had.
    pub bytes: usize,
    /// Part of clients whose server depends on the order of two changes; `None` if there are not two to make.
    pub order: Option<f64>,
}

/// Takes a way through a change, and through two in both orders. Where many slow lookups are needed, fewer clients are looked
/// at; how many follows from the question alone, so that every machine gives the same answer.
///
/// `None` if the change leaves no server.
#[must_use]
pub fn outcome(kind: Kind, servers: &[Server], change: Change, addresses: &[u32], traffic: &[u32]) -> Option<Outcome> {
    const BUDGET_NS: usize = 2_000_000_000;
    let steps = change.steps(servers)?;
    let affordable = BUDGET_NS / ((steps.len() + 3) * kind.rough_ns(servers.len()));
    let clients = addresses.len().min(affordable.max(20_000));
    let addresses = addresses.get(..clients).unwrap_or(addresses);

    let mut contender = kind.build(servers);
    let (mut old, mut new) = (Vec::new(), Vec::new());
    contender.servers_of(addresses, &mut old);
    let mut load = Load::of(servers, &old, traffic);
    let mut sum = Moves::default();
    let mut before = servers;
    let mut bytes = contender.bytes();
    for after in &steps {
        contender.change(after);
        bytes = bytes.max(contender.bytes());
        contender.servers_of(addresses, &mut new);
        load = load.worse(Load::of(after, &new, traffic));
        let step = moves(before, after, &old, &new);
        sum = Moves { moved: sum.moved + step.moved, needless: sum.needless + step.needless };
        std::mem::swap(&mut old, &mut new);
        before = after;
    }
    let many = steps.len() as f64;
    let order = change.orders(servers).map(|[one, other]| {
        let mut end = |steps: &[Vec<Server>], out: &mut Vec<u32>| {
            contender = kind.build(servers);
            steps.iter().for_each(|set| contender.change(set));
            contender.servers_of(addresses, out);
        };
        end(&one, &mut old);
        end(&other, &mut new);
        old.iter().zip(&new).filter(|(a, b)| a != b).count() as f64 / clients.max(1) as f64
    });
    let moves = Moves { moved: sum.moved / many, needless: sum.needless / many };
    Some(Outcome { clients, load, moves, bytes, order })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::{Clients, Shape};

    fn equal(many: u32) -> Vec<Server> {
        (0..many).map(|id| Server { id, weight: 1 }).collect()
    }

    #[test]
    fn changes_go_through_their_sets() {
        let four = equal(4);
        let steps = |change: Change| change.steps(&four).expect("it can be made");
        assert_eq!(steps(Change::Remove)[0].iter().map(|s| s.id).collect::<Vec<_>>(), [0, 1, 3]);
        assert_eq!(steps(Change::Drain)[0][2], Server { id: 2, weight: 0 });
        assert_eq!(steps(Change::Reweight)[0][2].weight, 2);
        assert_eq!(steps(Change::Add)[0].len(), 5);
        let roll = steps(Change::Roll);
        assert_eq!((roll.len(), &roll[7]), (8, &four));
        for change in Change::ALL {
            let [one, other] = change.orders(&four).expect("there are two");
            assert_eq!(one.last(), other.last(), "{}: both end alike", change.name());
            assert_ne!(one[0], other[0], "{}: and begin otherwise", change.name());
        }
        assert_eq!(Change::Remove.steps(&equal(1)), None);
        assert_eq!(Change::Remove.orders(&equal(2)), None);
        assert!(Change::Add.orders(&equal(1)).is_some());
        assert_eq!(Change::Roll.steps(&equal(1)), None);
    }

    #[test]
    fn loads_and_moves_are_counted() {
        let servers = [Server { id: 1, weight: 1 }, Server { id: 40_000, weight: 3 }, Server { id: 7, weight: 0 }];
        let load = Load::of(&servers, &[1, 40_000, 40_000, 40_000], &[1, 1, 1, 1]);
        assert_eq!(load, Load::EVEN);
        let load = Load::of(&servers, &[1, 40_000], &[3, 1]);
        assert!((load.max - 3.0).abs() < 1e-9 && (load.min - 1.0 / 3.0).abs() < 1e-9, "{load:?}");
        let (four, three) = (equal(4), &equal(4)[..3]);
        let moves = moves(&four, three, &[0, 1, 2, 3], &[0, 2, 2, 1]);
        assert_eq!(moves, Moves { moved: 0.5, needless: 0.25 });
        assert!((ideal(&four, three) - 0.25).abs() < 1e-9);
        assert!((ideal(three, &four) - 0.25).abs() < 1e-9);
        let doubled = [Server { id: 0, weight: 2 }, Server { id: 1, weight: 1 }];
        assert!((ideal(&doubled, &equal(2)) - 1.0 / 6.0).abs() < 1e-9);
    }

    #[test]
    fn a_perfect_draw_is_nearly_even() {
        let clients = Clients::draw(Shape::Uniform, 200_000);
        let servers: Vec<Server> = (0..8).map(|id| Server { id, weight: id }).collect();
        let load = Load::perfect(&servers, &clients.traffic, 1);
        assert!(load.max > 1.0 && load.max < 1.03 && load.min < 1.0 && load.min > 0.97, "{load:?}");
        assert_ne!(load, Load::perfect(&servers, &clients.traffic, 2));
    }

    /// What the product promises, and what the paper's way costs.
    #[test]
    fn ours_keeps_what_it_promises() {
        let clients = Clients::draw(Shape::Uniform, 300_000);
        let servers = equal(16);
        let of = |kind, change| {
            outcome(kind, &servers, change, &clients.addresses, &clients.traffic).expect("a server is left")
        };
        let modulo = of(Kind::Modulo, Change::Remove);
        assert!((modulo.moves.moved - 0.9375).abs() < 0.01, "{modulo:?}");
        for change in Change::ALL {
            let ours = of(Kind::Balanced, *change);
            assert!(ours.moves.needless <= 0.001, "{}: {ours:?}", change.name());
            assert_eq!(ours.order, Some(0.0), "{}", change.name());
            assert!(ours.load.max <= 1.05 && ours.load.min >= 0.95, "{}: {ours:?}", change.name());
        }
        // History shows in these.
        for kind in [Kind::Jump, Kind::Anchor, Kind::Memento] {
            let order = of(kind, Change::Remove).order;
            assert!(order.is_some_and(|part| part > 0.03), "{}: {order:?}", kind.name());
        }
    }
}
