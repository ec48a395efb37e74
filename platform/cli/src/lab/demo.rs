//! `apus lab demo`: the machine that has the address loses power while clients ask, and what came of it.

use std::io::Write as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use apus_lab::{Fault, Lab, Seen, Up};
use serde_json::{Value, json};

use crate::args::Format;
use crate::print::{self, BOLD, count, say};
use crate::{Trouble, VERSION, view};

/// Clients fail for at most so long.
const GOAL: Duration = Duration::from_secs(1);
/// How long clients ask before the fault, and after it.
const BEFORE: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(3);

/// A lab that is gone with the value.
pub(super) struct Gone(pub(super) String);

impl Drop for Gone {
    fn drop(&mut self) {
        if let Err(error) = Lab::down(&self.0) {
            print::error(&error.to_string());
        }
    }
}

/// Says something at once, to people only.
pub(super) fn step(format: Format, what: &str) {
    if format != Format::Json {
        say!("{what}");
        let _ = std::io::stdout().flush();
    }
}

/// Exit code 0 if clients failed for at most a second.
pub(super) fn demo(name: &str, nodes: u16, plain: bool, format: Format) -> Result<u8, Trouble> {
    // What an interrupted one has left.
    Lab::down(name)?;
    let began = Instant::now();
    let mut lab = Lab::up(&Up { name: name.into(), nodes, plain })?;
    let gone = Gone(name.into());
    let (web, address) = (lab.web.clone(), Lab::address());
    step(format, &format!("{BOLD}{}{BOLD:#}, up after {:.1} s", count(nodes.into(), "machine"), seconds(began)));
    step(format, &format!("    {web} on each, all behind http://{address}/; a client connects every 5 ms"));

    lab.clients()?;
    sleep(BEFORE);
    let calm = lab.seen()?;
    let had = lab.role("dispatcher")?;
    step(format, &format!("{BOLD}n{had} has the address: its machine loses power{BOLD:#}"));
    lab.fault(had, Fault::PowerOff)?;
    sleep(AFTER);
    let seen = lab.seen()?;
    let has = lab.role("dispatcher")?;
    let good = has != had && calm.failed == 0 && seen.failing <= GOAL && seen.silent <= GOAL;
    step(format, &format!("    n{has} has it now; {}", told(&seen)));

    let why = |of: &str| apus_node::ask(&lab.control(has), &json!({ "do": "why", "of": of }));
    let stories: Vec<(&str, Value)> = vec![("vip", why("vip")?), ("web", why("web")?)];
    for (of, story) in &stories {
        step(format, &format!("{BOLD}apus why {of}{BOLD:#}"));
        step(format, &view::story(story).lines().map(|line| format!("    {line}\n")).collect::<String>());
    }

    let began = Instant::now();
    lab.heal(None)?;
    lab.wait()?;
    let healed = seconds(began);
    step(format, &format!("{BOLD}n{had} has power again{BOLD:#}: every node serves after {healed:.1} s"));
    drop(gone);
    if format == Format::Json {
        let why: serde_json::Map<String, Value> = stories.into_iter().map(|(of, story)| (of.into(), story)).collect();
        print::json(&json!({
            "apus": VERSION, "nodes": nodes, "web": web, "address": address, "dispatcher_before": had, "dispatcher_after": has,
            "requests": seen.asked, "failed": seen.failed, "failing_ms": millis(seen.failing),
            "silent_ms": millis(seen.silent), "healed_s": healed, "why": why,
        }));
    } else if !good {
        print::error(&format!("clients were to fail for at most {} s, and not before the fault", GOAL.as_secs()));
    }
    Ok(if good { 0 } else { 2 })
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

#[allow(clippy::cast_possible_truncation, reason = "a run takes seconds")]
pub(super) fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}

fn told(seen: &Seen) -> String {
    let silent = format!("the longest time without any answer was {} ms", millis(seen.silent));
    if seen.failed == 0 {
        return format!("none of {} failed; {silent}", count(seen.asked as u64, "request"));
    }
    format!(
        "{} of {} failed, sent within {} ms; {silent}",
        seen.failed,
        count(seen.asked as u64, "request"),
        millis(seen.failing)
    )
}
