//! Which way to choose a server to take, and why.
//!
//! What repeats decides: how clients move and how even loads are, which are functions of the question. What a lookup costs
//! only chooses among ways that are alike in that, and only where the difference is clear.

use std::cmp::Ordering;

use apus_hashes::Kind;

use crate::dispatch::{Question, Row, bytes, percent, took};

/// What must hold for a way to be recommended: the product's own goals.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Limit {
    Weights,
    Needless,
    Order,
    Busiest,
    Idlest,
}

const LIMITS: [Limit; 5] = [Limit::Weights, Limit::Needless, Limit::Order, Limit::Busiest, Limit::Idlest];
/// Part of clients that may move without need, or have another server by the order of changes.
const NEEDLESS: f64 = 0.001;
/// How far a server may be from its share, beyond what chance does.
const UNEVEN: f64 = 0.05;
/// What a way without weights is over the limits, in limits: more than any other fault.
const BLIND: f64 = 1e6;
/// A lookup of more instructions than this many of the cheapest's is slow. Instructions repeat.
const CLEAR_INSTRUCTIONS: f64 = 2.0;
/// The same for times, which differ by a third from run to run, and by more on a busy machine.
const CLEAR_TIME: f64 = 3.0;
/// A lookup that takes no longer is not slow, in nanoseconds.
const FAST_NS: f64 = 2.5;

/// What to take, and why.
pub(crate) struct Advice {
    pub(crate) take: Kind,
    pub(crate) because: Vec<String>,
    pub(crate) others: Vec<String>,
}

/// How a way breaks a limit.
struct Fault {
    /// How far it is over it: 1 is as far again as is allowed.
    over: f64,
    what: String,
}

fn fault(question: &Question, row: &Row, limit: Limit) -> Option<Fault> {
    let (load, floor) = (row.outcome.load, row.floor);
    let (over, what) = match limit {
        Limit::Weights => {
            (if question.uneven && !row.kind.weights() { BLIND } else { 0.0 }, "it knows no weights".into())
        }
        Limit::Needless => {
            let part = row.outcome.moves.needless;
            (part / NEEDLESS - 1.0, format!("it moves {} of clients without need", percent(part)))
        }
        Limit::Order => {
            let part = row.outcome.order.unwrap_or_default();
            (part / NEEDLESS, format!("{} of clients depend on the order of changes", percent(part)))
        }
        Limit::Busiest => {
            let over = (load.max / floor.max - 1.0) / UNEVEN - 1.0;
            (over, format!("its busiest server has {:.3} of its share", load.max))
        }
        Limit::Idlest => {
            let over = (1.0 - load.min / floor.min) / UNEVEN - 1.0;
            (over, format!("its idlest server has {:.3} of its share", load.min))
        }
    };
    // NaN is no fault: nobody has a share of nothing.
    (over > 0.0).then_some(Fault { over, what })
}

/// What a lookup costs beside the cheapest: in instructions where all are counted, else in nanoseconds.
struct Cost {
    of: fn(&Row) -> Option<f64>,
    clear: f64,
    /// What is not slow in any case.
    free: f64,
}

impl Cost {
    fn new(rows: &[&Row]) -> Self {
        if rows.iter().all(|row| row.instructions.is_some()) {
            Self { of: |row| row.instructions, clear: CLEAR_INSTRUCTIONS, free: 0.0 }
        } else {
            Self { of: |row| Some(row.independent.median), clear: CLEAR_TIME, free: FAST_NS }
        }
    }

    fn slow(&self, row: &Row, rows: &[&Row]) -> bool {
        let cost = |row: &Row| (self.of)(row).unwrap_or(f64::INFINITY);
        let least = rows.iter().map(|row| cost(row)).fold(f64::INFINITY, f64::min);
        cost(row) > (self.clear * least).max(self.free)
    }
}

impl Advice {
    pub(crate) fn of(question: &Question, rows: &[Row]) -> Self {
        let faults = |row: &Row| LIMITS.iter().filter_map(|limit| fault(question, row, *limit)).collect::<Vec<_>>();
        let over = |row: &Row| faults(row).iter().map(|fault| fault.over).sum::<f64>();
        let least = rows.iter().map(over).fold(f64::INFINITY, f64::min);
        // As good as the best, to a tenth of a limit.
        let alike: Vec<&Row> =
            rows.iter().filter(|row| over(row) <= least + 0.1 && (least > 0.0 || over(row) <= 0.0)).collect();
        let cost = Cost::new(&alike);
        // Slow ones last; then fewest clients moved without need, to a hundredth of a percent; then least memory.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of one")]
        let rank = |row: &&&Row| {
            (cost.slow(row, &alike), (row.outcome.moves.needless * 1e4).round() as u64, row.outcome.bytes)
        };
        let Some(best) = alike.iter().min_by_key(rank) else {
            return Self { take: Kind::Balanced, because: Vec::new(), others: Vec::new() };
        };
        let outcome = &best.outcome;
        let mut because = vec![
            format!("{} of clients move without need", percent(outcome.moves.needless)),
            format!("loads are {:.3} to {:.3} of their shares", outcome.load.min, outcome.load.max),
            match outcome.order {
                Some(part) if part > 0.0 => format!("{} of clients depend on the order of changes", percent(part)),
                _ => "one set of servers has one table, whatever came before".into(),
            },
            format!("a lookup takes {:.1} ns, {:.1} ns after another", best.independent.least, best.dependent.least),
        ];
        let missed: Vec<String> = faults(best).into_iter().map(|fault| fault.what).collect();
        if !missed.is_empty() {
            because
                .insert(0, format!("none keeps every limit, and this one is least over them: {}", missed.join("; ")));
        }
        let others = Self::others(rows, best, &|row| {
            let mut but: Vec<String> = faults(row).into_iter().map(|fault| fault.what).collect();
            if but.is_empty() && cost.slow(row, &alike) {
                but.push(format!("a lookup takes {:.1} ns", row.independent.least));
            }
            if but.is_empty() { "it keeps the limits, too".into() } else { format!("but {}", but.join("; ")) }
        });
        Self { take: best.kind, because, others }
    }

    /// In what another is better than the best, and what it costs there.
    fn others(rows: &[Row], best: &Row, but: &dyn Fn(&Row) -> String) -> Vec<String> {
        let least = |name: &str, of: &dyn Fn(&Row) -> f64, shown: &dyn Fn(&Row) -> String| {
            let winner = rows.iter().min_by(|a, b| of(a).total_cmp(&of(b)))?;
            // As good as that is no loss.
            let wins = of(winner).total_cmp(&of(best)) == Ordering::Less && shown(winner) != shown(best);
            wins.then(|| {
                format!("{name}: {}, {} against {}; {}", winner.kind.name(), shown(winner), shown(best), but(winner))
            })
        };
        let spread = |row: &Row| (row.outcome.load.max - 1.0).max(1.0 - row.outcome.load.min);
        let others = [
            least("evenest load", &spread, &|row| {
                format!("{:.3} to {:.3}", row.outcome.load.min, row.outcome.load.max)
            }),
            least("fewest needless moves", &|row| row.outcome.moves.needless, &|row| {
                percent(row.outcome.moves.needless)
            }),
            least("fastest lookup", &|row| row.independent.least, &|row| format!("{:.1} ns", row.independent.least)),
            least("fastest after another", &|row| row.dependent.least, &|row| format!("{:.1} ns", row.dependent.least)),
            least("least memory", &|row| row.outcome.bytes as f64, &|row| bytes(row.outcome.bytes)),
            least("fastest to build", &|row| row.build.as_secs_f64(), &|row| took(row.build)),
        ];
        others.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use apus_hashes::Server;
    use apus_hashes::clients::{Clients, Shape};
    use apus_hashes::measure::{Change, Load, outcome};

    use super::*;
    use crate::dispatch::Lookup;

    /// Nanoseconds of a lookup among 16 servers, as a quiet machine has them, and instructions.
    const COSTS: [(f64, f64); 16] = [
        (1.9, 7.0),
        (3.4, 31.0),
        (0.2, 3.0),
        (15.7, 130.0),
        (34.2, 438.0),
        (155.8, 1384.0),
        (31.7, 91.0),
        (2.2, 25.0),
        (3.5, 23.0),
        (159.7, 1912.0),
        (12.5, 57.0),
        (33.8, 114.0),
        (15.7, 49.0),
        (0.4, 5.0),
        (2.1, 23.0),
        (2.3, 16.0),
    ];

    fn question(change: Change, servers: u32, weights: u32) -> Question {
        let servers: Vec<Server> = (0..servers).map(|id| Server { id, weight: 1 + id % weights }).collect();
        let clients = Clients::draw(Shape::Uniform, 40_000);
        let uneven = servers.iter().any(|server| server.weight != servers[0].weight);
        Question { servers, change, clients, named: "uniform".into(), ideal: 0.0, uneven }
    }

    fn rows(question: &Question) -> Vec<Row> {
        let Clients { addresses, traffic } = &question.clients;
        let sets = question.change.steps(&question.servers).expect("a server is left");
        let floor =
            sets.iter().zip(0..).fold(Load::EVEN, |worst, (set, i)| worst.worse(Load::perfect(set, traffic, i)));
        let row = |(kind, (ns, many)): (&Kind, (f64, f64))| {
            let outcome = outcome(*kind, &question.servers, question.change, addresses, traffic).expect("as before");
            let lookup = Lookup { least: ns, median: ns, p99: ns };
            let (build, publish) = (Duration::from_nanos(100), None);
            let [independent, dependent] = [lookup.clone(), lookup];
            Row { kind: *kind, outcome, floor, build, publish, independent, dependent, instructions: Some(many) }
        };
        Kind::ALL.iter().zip(COSTS).map(row).collect()
    }

    /// Whatever a machine's other work does to times, short of a factor of 1.4 up or down for each way by itself, every
    /// change gets one recommendation, and it is ours.
    #[test]
    fn noise_does_not_change_the_advice() {
        for (change, servers, weights) in [(Change::Remove, 16, 1), (Change::Roll, 5, 1), (Change::Reweight, 7, 5)] {
            let question = question(change, servers, weights);
            let mut rows = rows(&question);
            for draw in 0..60_u32 {
                for (row, i) in rows.iter_mut().zip(0..) {
                    let bits = u32::try_from(apus_engine::hash::mix(u64::from(draw << 8 | i)) % 1_000).expect("small");
                    let noise = 1.4_f64.powf(f64::from(bits) / 500.0 - 1.0);
                    let ns = COSTS[i as usize].0 * noise;
                    row.independent = Lookup { least: ns * 0.9, median: ns, p99: ns * 3.0 };
                    row.instructions = (draw % 2 == 0).then_some(COSTS[i as usize].1);
                }
                let advice = Advice::of(&question, &rows);
                assert_eq!(advice.take, Kind::Balanced, "{}, draw {draw}: {:?}", change.name(), advice.because);
            }
        }
    }

    /// A faster way that is worse is not taken; of ways that are alike, a clearly faster one is.
    #[test]
    fn time_decides_between_equals_only() {
        let question = question(Change::Remove, 16, 1);
        let all = rows(&question);
        let take = |of: &[Kind], ours: f64| {
            let mut rows: Vec<Row> = all.iter().filter(|row| of.contains(&row.kind)).cloned().collect();
            for row in &mut rows {
                row.instructions = None;
                if row.kind == Kind::Balanced {
                    row.independent.median = ours;
                }
            }
            Advice::of(&question, &rows)
        };
        let alike = [Kind::Modulo, Kind::Rendezvous, Kind::Dx, Kind::Balanced];
        assert_eq!(take(&alike, 2.3).take, Kind::Balanced, "those with less memory take more than three times as long");
        assert_eq!(take(&alike, 70.0).take, Kind::Rendezvous, "ours is slow, and it has less memory than the other");
        assert_eq!(take(&alike, 14.0).take, Kind::Rendezvous, "nobody is clearly slow: the least memory");
        // Without the good ones, the one that is least over the limits, and it is said.
        let advice = take(&[Kind::Modulo, Kind::Ring, Kind::IpvsSh, Kind::IpvsMh], 0.0);
        assert_eq!(advice.take, Kind::Ring);
        assert!(advice.because[0].starts_with("none keeps every limit"), "{:?}", advice.because);
    }
}
