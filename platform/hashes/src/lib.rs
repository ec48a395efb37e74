//! Ways to choose a server for a client, and what each costs.
//!
//! Each [`Contender`] is written here, from its paper or from what its program does, but for the last: that is the table
//! of `apus-dispatch` itself. [`measure`] compares them on [`clients`].
#![forbid(unsafe_code)]

mod anchor;
mod balanced;
pub mod clients;
mod dx;
mod ipvs;
mod jump;
mod key;
mod maglev;
pub mod measure;
mod memento;
mod modulo;
mod rendezvous;
mod ring;

pub use balanced::{Balanced, Published};

/// Nobody serves a client.
pub const NOBODY: u32 = u32::MAX;

/// Most servers: a table of ours names 4,096, and changes add two.
pub const MAX_SERVERS: u16 = apus_dispatch::MAX_SERVERS - 2;

/// A server that can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Server {
    /// Its number, which it keeps for life.
    pub id: u32,
    /// Its share, relative to that of the others; with 0 it is known but drains.
    pub weight: u32,
}

/// A way to choose. Servers are named by place, which is what a lookup yields; [`Contender::ids`] says who is where.
pub trait Contender {
    /// The place of a client's server. A client is an IPv4 address as a number.
    fn place_of(&self, client: u32) -> u32;
    /// The server of each place. Some places may be those of servers that are gone: no lookup yields them.
    fn ids(&self) -> &[u32];
    /// Goes over to these servers, of which at least one has a weight. They come in the order of their numbers.
    fn change(&mut self, servers: &[Server]);
    /// Bytes that a lookup may read, and those kept for the next change.
    fn bytes(&self) -> usize;

    /// The server of each client.
    fn servers_of(&self, clients: &[u32], out: &mut Vec<u32>) {
        let ids = self.ids();
        out.clear();
        out.extend(clients.iter().map(|client| ids.get(self.place_of(*client) as usize).copied().unwrap_or(NOBODY)));
    }

    /// Looks all up, none after another's answer. For measuring: returns something that depends on all.
    fn independent(&self, clients: &[u32]) -> u32 {
        clients.iter().fold(0, |sum, client| sum.wrapping_add(self.place_of(*client)))
    }

    /// Looks all up, each after the answer before it. For measuring.
    fn dependent(&self, clients: &[u32]) -> u32 {
        clients.iter().fold(0, |last, client| self.place_of(client.wrapping_add(last)))
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident $name:literal $weights:literal $make:expr,)*) => {
        /// Which way to choose.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $($(#[$doc])* $variant,)* }

        impl Kind {
            /// Every way, in the order in which they are shown.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Whether it knows weights; if not, all servers with any weight get alike.
            #[must_use]
            pub const fn weights(self) -> bool {
                match self { $(Self::$variant => $weights,)* }
            }

            /// One for these servers.
            #[must_use]
            pub fn build(self, servers: &[Server]) -> Box<dyn Contender> {
                match self { $(Self::$variant => Box::new($make(servers)),)* }
            }
        }
    };
}

kinds! {
    /// The paper's: the client's address modulo the number of servers.
    Modulo "modulo" false modulo::Modulo::new,
    /// CRC-32 of the address, modulo.
    Crc "crc-modulo" false modulo::Crc::new,
    /// The address times the golden ratio, scaled to the number of servers.
    Fibonacci "fibonacci" false modulo::Fibonacci::new,
    /// A ring of 160 points a server, as in ketama.
    Ring "ring" true ring::Ring::new,
    /// Highest random weight (Thaler and Ravishankar 1998).
    Rendezvous "rendezvous" false rendezvous::Rendezvous::<rendezvous::Plain>::new,
    /// The same with logarithmic scores (Schindelhauer and Schomaker 2005).
    WeightedRendezvous "rendezvous-weighted" true rendezvous::Rendezvous::<rendezvous::Clock>::new,
    /// Jump (Lamping and Veach 2014); who leaves has its place taken by the last.
    Jump "jump" false jump::Jump::new,
    /// Maglev (Eisenbud et al. 2016), with the smaller of its paper's tables.
    Maglev "maglev-65537" true maglev::Maglev::<65_537>::new,
    /// Maglev with the larger one.
    MaglevLarge "maglev-655373" true maglev::Maglev::<655_373>::new,
    /// One point a server and 21 probes a client (Appleton and O'Reilly 2015).
    MultiProbe "multi-probe" false ring::MultiProbe::new,
    /// `AnchorHash` (Mendelson et al. 2020), with room for twice the servers.
    Anchor "anchor" false anchor::Anchor::new,
    /// `MementoHash` (Coluzzi et al. 2023).
    Memento "memento" false memento::Memento::new,
    /// `DxHash` (Dong and Wang 2021), with room for twice the servers.
    Dx "dx" false dx::Dx::new,
    /// A model of the `sh` scheduler of Linux IPVS, with its fall-back: 256 buckets.
    IpvsSh "ipvs-sh" true ipvs::Sh::new,
    /// A model of the `mh` scheduler of Linux IPVS: a Maglev table of 4,093.
    IpvsMh "ipvs-mh" true ipvs::Mh::new,
    /// The table of `apus-dispatch`, 2^18 slots.
    Balanced "balanced" true Balanced::new,
}

impl Kind {
    /// About what a lookup among so many servers takes, in nanoseconds, where nothing else is at hand: it only says how many
    /// lookups can be afforded.
    const fn rough_ns(self, servers: usize) -> usize {
        match self {
            Self::Rendezvous => 4 + 2 * servers,
            Self::WeightedRendezvous => 4 + 10 * servers,
            // A search of a ring, 21 times.
            Self::MultiProbe => 40 * (1 + servers.ilog2() as usize),
            Self::Ring => 4 * (4 + servers.ilog2() as usize),
            Self::Jump | Self::Memento => 8 * (1 + servers.ilog2() as usize),
            Self::Anchor | Self::Dx => 16,
            _ => 4,
        }
    }
}

/// Numbers of the servers with a weight.
fn live(servers: &[Server]) -> Vec<u32> {
    servers.iter().filter(|server| server.weight > 0).map(|server| server.id).collect()
}

/// Places are few.
#[allow(clippy::cast_possible_truncation, reason = "at most MAX_SERVERS + 2 of them, or twice as many")]
const fn place(of: usize) -> u32 {
    of as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Change, moves};

    fn servers(many: u32, weight: impl Fn(u32) -> u32) -> Vec<Server> {
        (0..many).map(|id| Server { id: id * 3 + 5, weight: weight(id) }).collect()
    }

    fn sample(many: u32) -> Vec<u32> {
        (0..many).map(|i| (key::mix(u64::from(i)) >> 32) as u32).collect()
    }

    fn of(contender: &dyn Contender, clients: &[u32]) -> Vec<u32> {
        let mut out = Vec::new();
        contender.servers_of(clients, &mut out);
        out
    }

    /// After any change and any number of them, every client has a server, and one with a weight.
    #[test]
    fn each_client_gets_a_live_server() {
        let clients = sample(3_000);
        for kind in Kind::ALL {
            for many in [2, 3, 16, 100] {
                let mut set = servers(many, |id| 1 + id % 5);
                let mut contender = kind.build(&set);
                for step in 0..24_u32 {
                    let at = key::scale(key::mix(u64::from(step)), place(set.len())) as usize;
                    match step % 4 {
                        0 if set.len() > 2 => drop(set.remove(at)),
                        1 if live(&set).len() > 1 => set[at].weight = 0,
                        2 => set[at].weight += 1,
                        _ => set.push(Server { id: 10_000 + step, weight: 1 + step % 3 }),
                    }
                    if live(&set).is_empty() {
                        set[0].weight = 1;
                    }
                    contender.change(&set);
                    let known = live(&set);
                    for (client, server) in clients.iter().zip(of(&*contender, &clients)) {
                        assert!(known.contains(&server), "{}, {many}, step {step}: {client} to {server}", kind.name());
                    }
                }
            }
        }
    }

    /// Those who promise it move nobody else's clients when a server leaves, and to nobody else when one comes.
    #[test]
    fn a_removal_moves_its_own_clients_only() {
        let clients = sample(20_000);
        let (mut exact, mut loose) = (Vec::new(), Vec::new());
        for kind in Kind::ALL {
            let mut worst = 0.0_f64;
            for change in [Change::Remove, Change::Drain, Change::Add] {
                let before = servers(16, |_| 1);
                let mut contender = kind.build(&before);
                let old = of(&*contender, &clients);
                for after in change.steps(&before).expect("there are enough") {
                    contender.change(&after);
                    worst = worst.max(moves(&before, &after, &old, &of(&*contender, &clients)).needless);
                }
            }
            if worst == 0.0 { exact.push(kind.name()) } else { loose.push((kind.name(), worst)) }
        }
        let promise = ["rendezvous", "rendezvous-weighted", "multi-probe", "anchor", "memento", "dx"];
        assert!(promise.iter().all(|name| exact.contains(name)), "{exact:?} {loose:?}");
        for (name, worst) in loose {
            let limit = match name {
                "modulo" | "crc-modulo" | "fibonacci" | "ipvs-sh" => 0.95,
                // The last server's clients move, too.
                "jump" => 0.08,
                "ipvs-mh" => 0.05,
                // Its number of points is per hundred of all: it loses some where one comes.
                "ring" => 0.02,
                "balanced" => 0.001,
                _ => 0.02,
            };
            assert!(worst < limit, "{name}: {worst}");
        }
    }

    /// Half of all ways know weights; they give a server of twice the weight twice the clients.
    #[test]
    fn weights_are_obeyed_by_those_that_know_them() {
        let clients = sample(60_000);
        let set = servers(8, |id| 1 + u32::from(id == 3));
        for kind in Kind::ALL {
            let of = of(&*kind.build(&set), &clients);
            let has = of.iter().filter(|id| **id == 14).count() as f64 / clients.len() as f64;
            let want = if kind.weights() { 2.0 / 9.0 } else { 1.0 / 8.0 };
            // Rings are uneven; one point a server is worse.
            let off = if matches!(kind, Kind::Ring | Kind::MultiProbe) { 0.25 } else { 0.06 };
            assert!((has / want - 1.0).abs() < off, "{}: {has} of {want}", kind.name());
        }
    }

    /// Both ways to time a lookup are lookups.
    #[test]
    fn timed_loops_look_up() {
        let clients = sample(100);
        let set = servers(7, |_| 1);
        for kind in Kind::ALL {
            let one = kind.build(&set);
            let sum = clients.iter().map(|client| one.place_of(*client)).sum::<u32>();
            assert_eq!(one.independent(&clients), sum, "{}", kind.name());
            let mut last = 0;
            for client in &clients {
                last = one.place_of(client.wrapping_add(last));
            }
            assert_eq!(one.dependent(&clients), last, "{}", kind.name());
            assert!(one.bytes() > 0 && one.ids().len() >= set.len(), "{}", kind.name());
        }
    }
}
