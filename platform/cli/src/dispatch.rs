//! `apus bench dispatch`: ways to choose a server for a client, and which to take.

use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use apus_hashes::clients::{Clients, Shape};
use apus_hashes::measure::{Change, Load, Outcome, ideal, outcome};
use apus_hashes::{Contender, Kind, Published, Server};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::advice::Advice;
use crate::args::{DispatchArgs, Format, Weights};
use crate::doctor::which;
use crate::plots;
use crate::print::{self, BOLD, DIM, say};
use crate::{Trouble, VERSION};

/// What a lookup takes, in nanoseconds: of many short runs, each with the contender's memory at hand.
#[derive(Clone, Debug)]
pub(crate) struct Lookup {
    /// Of the fastest run: what others on the machine did not disturb.
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) p99: f64,
}

/// All about one contender.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) kind: Kind,
    pub(crate) outcome: Outcome,
    /// What chance alone does to the load of as many clients.
    pub(crate) floor: Load,
    pub(crate) build: Duration,
    pub(crate) publish: Option<Published>,
    pub(crate) independent: Lookup,
    pub(crate) dependent: Lookup,
    pub(crate) instructions: Option<f64>,
}

/// What is asked, and what of it follows from the numbers alone.
pub(crate) struct Question {
    pub(crate) servers: Vec<Server>,
    pub(crate) change: Change,
    pub(crate) clients: Clients,
    pub(crate) named: String,
    /// The least part of clients that must move, on average over the steps.
    pub(crate) ideal: f64,
    /// Whether servers have, or come to have, different weights.
    pub(crate) uneven: bool,
}

impl Question {
    fn new(args: &DispatchArgs) -> Result<Self, Trouble> {
        let servers = servers(args)?;
        let steps = args.change.steps(&servers).ok_or_else(|| {
            Trouble::Usage(format!(
                "--servers {}: `{}` would leave no server; want --servers 2 or more",
                servers.len(),
                args.change.name()
            ))
        })?;
        let before = std::iter::once(&servers).chain(&steps);
        let sum: f64 = before.zip(&steps).map(|(before, after)| ideal(before, after)).sum();
        let weights =
            |set: &[Server]| set.iter().map(|server| server.weight).filter(|weight| *weight > 0).collect::<Vec<_>>();
        let uneven =
            std::iter::once(&servers).chain(&steps).any(|set| weights(set).windows(2).any(|two| two[0] != two[1]));
        let ideal = sum / steps.len() as f64;
        Ok(Self { change: args.change, clients: clients(args)?, named: args.clients.clone(), ideal, uneven, servers })
    }
}

fn servers(args: &DispatchArgs) -> Result<Vec<Server>, Trouble> {
    let many = usize::from(args.servers);
    let weights: Vec<u32> = match &args.weights {
        Weights::Range(from, to) => (*from..=*to).cycle().take(many).collect(),
        Weights::Each(each) if each.len() == many => each.clone(),
        Weights::Each(each) => {
            return Err(Trouble::Usage(format!(
                "--weights: {}, and there are {}; want one for each, or a range such as 1..100",
                print::count(each.len() as u64, "weight"),
                print::count(many as u64, "server")
            )));
        }
    };
    Ok(weights.into_iter().zip(0..).map(|(weight, id)| Server { id, weight }).collect())
}

fn clients(args: &DispatchArgs) -> Result<Clients, Trouble> {
    let shape = match args.clients.as_str() {
        "uniform" => Shape::Uniform,
        "zipf" => Shape::Zipf,
        "nat" => Shape::Nat,
        file => {
            let text = std::fs::read_to_string(file).map_err(|error| {
                Trouble::Usage(format!(
                    "--clients {file}: {error}; want uniform, zipf, nat, or a file with a line for each client, such as \
                     `192.0.2.7 120`"
                ))
            })?;
            return Clients::read(&text).map_err(|(line, what)| {
                Trouble::Usage(if line == 0 { format!("{file}: {what}") } else { format!("{file}:{line}: {what}") })
            });
        }
    };
    Ok(Clients::draw(shape, args.many))
}

pub(crate) fn dispatch(args: &DispatchArgs, format: Format) -> Result<u8, Trouble> {
    if let Some(name) = &args.count {
        return count(args, name);
    }
    let question = Question::new(args)?;
    let (rows, uncounted) = measure(&question, args)?;
    let advice = Advice::of(&question, &rows);
    let files = match &args.plots {
        Some(dir) => plots::write(dir, &question, &rows)?,
        None => Vec::new(),
    };
    match format {
        Format::Json => print::json(&to_json(&question, &rows, uncounted, &advice)),
        Format::Csv => csv(&question, &rows),
        Format::Text => {
            table(&question, &rows, uncounted, &advice);
            files.iter().for_each(|file| say!("{}", file.display()));
        }
    }
    Ok(0)
}

/// Each contender, and why no instructions were counted, if none were.
fn measure(question: &Question, args: &DispatchArgs) -> Result<(Vec<Row>, Option<&'static str>), Trouble> {
    let Clients { addresses, traffic } = &question.clients;
    let mut built: Vec<(Kind, Box<dyn Contender>, Duration)> = Vec::new();
    for kind in Kind::ALL {
        let began = Instant::now();
        let (mut least, mut contender) = (Duration::MAX, kind.build(&question.servers));
        while began.elapsed() < Duration::from_millis(60) {
            let one = Instant::now();
            contender = kind.build(&question.servers);
            least = least.min(one.elapsed());
        }
        built.push((*kind, contender, least.min(began.elapsed())));
    }
    let times = time(&built, addresses);
    let mut rows = Vec::new();
    for ((kind, _, build), [independent, dependent]) in built.iter().zip(times) {
        let found = outcome(*kind, &question.servers, question.change, addresses, traffic);
        let outcome = found.ok_or_else(|| Trouble::Internal("a change left no server".into()))?;
        let publish = match kind {
            Kind::Balanced => Some(
                Published::measure(&question.servers, 20)
                    .map_err(|error| Trouble::Internal(format!("the table of {}: {error}", kind.name())))?,
            ),
            _ => None,
        };
        let floor = rows.iter().find(|row: &&Row| row.outcome.clients == outcome.clients).map(|row| row.floor);
        let floor = floor.unwrap_or_else(|| floor_of(question, outcome.clients));
        rows.push(Row {
            kind: *kind,
            outcome,
            floor,
            build: *build,
            publish,
            independent,
            dependent,
            instructions: None,
        });
    }
    let counted = instructions(args);
    let uncounted = counted.as_ref().err().copied();
    for (row, counted) in rows.iter_mut().zip(counted.unwrap_or_default()) {
        row.instructions = counted;
    }
    Ok((rows, uncounted))
}

/// The worst of as many perfect draws as there are sets of servers.
fn floor_of(question: &Question, clients: usize) -> Load {
    let traffic = question.clients.traffic.get(..clients).unwrap_or_default();
    let sets = question.change.steps(&question.servers).unwrap_or_default();
    let all = std::iter::once(&question.servers).chain(&sets);
    all.zip(0..).fold(Load::EVEN, |worst, (set, draw)| worst.worse(Load::perfect(set, traffic, draw)))
}

/// Lookups that one short run makes, at most: their addresses fit into a processor's nearest caches beside a table.
const RUN: usize = 1 << 15;
const ROUNDS: usize = 40;

/// Independent and dependent lookups of each. Rounds go through all contenders, so that what disturbs one disturbs all.
fn time(built: &[(Kind, Box<dyn Contender>, Duration)], addresses: &[u32]) -> Vec<[Lookup; 2]> {
    let sample: Vec<u32> = addresses.iter().copied().cycle().take(RUN).collect();
    type Way = fn(&dyn Contender, &[u32]) -> u32;
    let ways: [Way; 2] = [|c, of| c.independent(of), |c, of| c.dependent(of)];
    let run = |way: Way, contender: &dyn Contender, many: usize| {
        let began = Instant::now();
        black_box(way(black_box(contender), black_box(sample.get(..many).unwrap_or(&sample))));
        began.elapsed().as_secs_f64() * 1e9 / many as f64
    };
    let mut all: Vec<[Vec<f64>; 2]> = built.iter().map(|_| [Vec::new(), Vec::new()]).collect();
    for _ in 0..ROUNDS {
        for ((_, contender, _), times) in built.iter().zip(&mut all) {
            for (way, times) in ways.iter().zip(times) {
                // Slow ones get fewer, about half a millisecond; the first run also brings memory near.
                let rough = run(*way, contender.as_ref(), 256);
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of lookups")]
                let many = ((5e5 / rough.max(0.1)) as usize).clamp(256, RUN);
                run(*way, contender.as_ref(), many);
                times.push(run(*way, contender.as_ref(), many));
            }
        }
    }
    all.iter().map(|two| two.each_ref().map(|times| spread(times))).collect()
}

/// In picoseconds, since most take few nanoseconds.
fn spread(times: &[f64]) -> Lookup {
    let least = times.iter().copied().fold(f64::INFINITY, f64::min);
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 1 << 40, 3).ok();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time")]
    for time in times {
        histogram.iter_mut().for_each(|histogram| histogram.saturating_record((time * 1e3) as u64));
    }
    let at = |quantile: f64| histogram.as_ref().map_or(least, |h| h.value_at_quantile(quantile) as f64 / 1e3);
    Lookup { least, median: at(0.5), p99: at(0.99) }
}

/// Lookups that are counted in valgrind.
const COUNTED: u32 = 2_000;

/// What is collected: nothing else of the process is.
#[inline(never)]
fn count_lookups(contender: &dyn Contender, clients: &[u32]) -> u32 {
    contender.independent(clients)
}

/// Inside valgrind.
fn count(args: &DispatchArgs, name: &str) -> Result<u8, Trouble> {
    let kind = Kind::ALL.iter().find(|kind| kind.name() == name);
    let kind = kind.ok_or_else(|| Trouble::Usage(format!("--count {name}: there is no such contender")))?;
    let contender = kind.build(&servers(args)?);
    let clients = Clients::draw(Shape::Uniform, COUNTED);
    say!("{}", black_box(count_lookups(black_box(&*contender), &clients.addresses)));
    Ok(0)
}

/// Instructions of a lookup, by running this program in valgrind, or why that cannot be.
fn instructions(args: &DispatchArgs) -> Result<Vec<Option<f64>>, &'static str> {
    if args.no_instructions {
        return Err("--no-instructions");
    }
    if cfg!(debug_assertions) {
        return Err("this build is not optimised; want `cargo build --release`");
    }
    let valgrind = which("valgrind").ok_or("`valgrind` is missing; install it")?;
    let own = std::env::current_exe().map_err(|_| "the system does not say where this program is")?;
    let weights = match &args.weights {
        Weights::Range(from, to) => format!("{from}..{to}"),
        Weights::Each(each) => each.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
    };
    let next = AtomicUsize::new(0);
    let work = || {
        let mut counted = Vec::new();
        while let Some((at, kind)) = Kind::ALL.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed)) {
            counted.push((at, count_in(&valgrind, &own, kind.name(), &args.servers.to_string(), &weights)));
        }
        counted
    };
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all = vec![None; Kind::ALL.len()];
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        for (at, counted) in workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()) {
            all[at] = counted;
        }
    });
    if all.iter().all(Option::is_none) {
        Err("valgrind counted nothing; try `valgrind --tool=callgrind true`")
    } else {
        Ok(all)
    }
}

fn count_in(valgrind: &Path, own: &Path, kind: &str, servers: &str, weights: &str) -> Option<f64> {
    let out = Command::new(valgrind)
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*count_lookups*"])
        .arg(own)
        .args(["bench", "dispatch", "--count", kind, "--servers", servers, "--weights", weights])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    let number = text.lines().find_map(|line| line.split("Collected :").nth(1))?.trim().parse::<f64>().ok()?;
    (out.status.success() && number > 0.0).then_some(number / f64::from(COUNTED))
}

pub(crate) fn percent(part: f64) -> String {
    format!("{:.3} %", part * 100.0)
}

/// 4 B, 12.3 KiB, 1.0 MiB.
pub(crate) fn bytes(many: usize) -> String {
    match many {
        0..1_024 => format!("{many} B"),
        1_024..1_048_576 => format!("{:.1} KiB", many as f64 / 1024.0),
        _ => format!("{:.1} MiB", many as f64 / 1_048_576.0),
    }
}

/// 40 ns, 1.5 us, 12 ms.
pub(crate) fn took(time: Duration) -> String {
    let ns = time.as_nanos() as f64;
    match ns {
        ..1e3 => format!("{ns:.0} ns"),
        ..1e6 => format!("{:.1} us", ns / 1e3),
        _ => format!("{:.1} ms", ns / 1e6),
    }
}

/// Twice the standard deviation of a part of so many clients.
fn doubt(part: f64, clients: usize) -> f64 {
    2.0 * (part * (1.0 - part).max(0.0) / clients.max(1) as f64).sqrt()
}

fn table(question: &Question, rows: &[Row], uncounted: Option<&str>, advice: &Advice) {
    let clients = question.clients.many();
    let weighted = if question.uneven { ", of different weights" } else { "" };
    let a_step = if question.change == Change::Roll { " a step" } else { "" };
    say!(
        "{BOLD}{}{weighted}; {}; {} ({}){BOLD:#}",
        print::count(question.servers.len() as u64, "server"),
        question.change.name(),
        print::count(clients as u64, "client"),
        question.named
    );
    say!(
        "at least {}{a_step} must move; {} clients show that to within {}",
        percent(question.ideal),
        clients,
        percent(doubt(question.ideal, clients))
    );
    if let Some(row) = rows.iter().find(|row| row.outcome.clients == clients) {
        say!("chance alone makes the load of a perfect draw {:.3} to {:.3}", row.floor.min, row.floor.max);
    }
    say!(
        "\n{BOLD}{:<20} {:>7} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7} {:>7}{BOLD:#}",
        "",
        "max/avg",
        "min/avg",
        "moved",
        "needless",
        "by order",
        "build",
        "memory",
        "publish",
        "ns",
        "ns dep",
        "instr."
    );
    for row in rows {
        let Row { outcome, .. } = row;
        let mark = if question.uneven && !row.kind.weights() { "*" } else { "" };
        let fewer = if outcome.clients < clients { "°" } else { "" };
        say!(
            "{:<20} {:>7.3} {:>7.3} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7.1} {:>7.1} {:>7}",
            format!("{}{mark}{fewer}", row.kind.name()),
            outcome.load.max,
            outcome.load.min,
            percent(outcome.moves.moved),
            percent(outcome.moves.needless),
            outcome.order.map_or_else(|| "-".into(), percent),
            took(row.build),
            bytes(outcome.bytes),
            row.publish.map_or_else(|| "-".into(), |published| took(published.check + published.swap)),
            row.independent.least,
            row.dependent.least,
            row.instructions.map_or_else(|| "-".into(), |many| format!("{many:.0}")),
        );
    }
    if question.uneven && rows.iter().any(|row| !row.kind.weights()) {
        say!("{DIM}* knows no weights{DIM:#}");
    }
    if let Some(row) = rows.iter().filter(|row| row.outcome.clients < clients).min_by_key(|row| row.outcome.clients) {
        say!(
            "{DIM}° slow, so looked at with fewer clients, {} or more: chance makes their load {:.3} to {:.3}{DIM:#}",
            row.outcome.clients,
            row.floor.min,
            row.floor.max
        );
    }
    if let Some(why) = uncounted {
        say!("{DIM}instr.: not counted: {why}{DIM:#}");
    }
    say!("\n{BOLD}take {}{BOLD:#}: {}", advice.take.name(), advice.because.join("; "));
    if !advice.others.is_empty() {
        say!("where another wins:");
        advice.others.iter().for_each(|other| say!("  {other}"));
    }
}

fn to_json(question: &Question, rows: &[Row], uncounted: Option<&str>, advice: &Advice) -> Value {
    let lookup = |of: &Lookup| json!({ "least_ns": of.least, "median_ns": of.median, "p99_ns": of.p99 });
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let ns = |time: Duration| time.as_secs_f64() * 1e9;
            json!({
                "contender": row.kind.name(), "knows_weights": row.kind.weights(), "clients": row.outcome.clients,
                "max_load": row.outcome.load.max, "min_load": row.outcome.load.min,
                "floor_max_load": row.floor.max, "floor_min_load": row.floor.min,
                "moved": row.outcome.moves.moved, "ideal": question.ideal, "needless": row.outcome.moves.needless,
                "order_dependent": row.outcome.order, "build_ns": ns(row.build), "bytes": row.outcome.bytes,
                "publish_check_ns": row.publish.map(|published| ns(published.check)),
                "publish_swap_ns": row.publish.map(|published| ns(published.swap)),
                "independent": lookup(&row.independent), "dependent": lookup(&row.dependent),
                "instructions": row.instructions,
            })
        })
        .collect();
    json!({
        "apus": VERSION, "servers": question.servers.len(),
        "weights": question.servers.iter().map(|server| server.weight).collect::<Vec<_>>(),
        "change": question.change.name(), "clients": question.clients.many(), "clients_named": question.named,
        "ideal": question.ideal, "ideal_doubt": doubt(question.ideal, question.clients.many()), "contenders": rows,
        "instructions_not_counted": uncounted,
        "take": advice.take.name(), "because": advice.because, "others": advice.others, "exit_code": 0,
    })
}

fn csv(question: &Question, rows: &[Row]) {
    say!(
        "contender,knows_weights,clients,max_load,min_load,floor_max_load,floor_min_load,moved,ideal,needless,order_dependent,\
         build_ns,bytes,publish_check_ns,publish_swap_ns,independent_least_ns,independent_median_ns,independent_p99_ns,\
         dependent_least_ns,dependent_median_ns,dependent_p99_ns,instructions"
    );
    for row in rows {
        let optional = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
        let publish =
            |of: fn(Published) -> Duration| optional(row.publish.map(|published| of(published).as_nanos() as f64));
        let Outcome { clients, load, moves, bytes, order } = row.outcome;
        let [a, b] =
            [&row.independent, &row.dependent].map(|of| format!("{:.3},{:.3},{:.3}", of.least, of.median, of.p99));
        say!(
            "{},{},{clients},{},{},{},{},{},{},{},{},{},{bytes},{},{},{a},{b},{}",
            row.kind.name(),
            row.kind.weights(),
            load.max,
            load.min,
            row.floor.max,
            row.floor.min,
            moves.moved,
            question.ideal,
            moves.needless,
            optional(order),
            row.build.as_nanos(),
            publish(|published| published.check),
            publish(|published| published.swap),
            optional(row.instructions),
        );
    }
}
