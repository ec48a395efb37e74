//! `apus run --tap`: one seed at the pace of the clock, joined to this machine by a TAP device.

use crate::Trouble;
use crate::args::{self, RunArgs};
use crate::suite::Item;

#[cfg(not(target_os = "linux"))]
pub(crate) fn run(_: &str, _: &RunArgs, _: Vec<Item>, _: args::Format) -> Result<u8, Trouble> {
    Err(Trouble::Usage("--tap needs TAP devices of Linux: run it there".into()))
}

/// The one scenario that is meant.
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "Linux only"))]
fn only(args: &RunArgs, items: Vec<Item>) -> Result<Item, Trouble> {
    if args.world != args::World::Emulated {
        return Err(Trouble::Usage("--tap joins the emulated world: add --world emulated".into()));
    }
    let many = items.len();
    match <[Item; 1]>::try_from(items) {
        Ok([item]) => Ok(item),
        Err(_) if many == 0 => {
            Err(Trouble::Usage("the scenario is not for the emulated world; see its `worlds`".into()))
        }
        Err(_) => Err(Trouble::Usage(format!("--tap runs one scenario, and {many} were named"))),
    }
}

#[cfg(target_os = "linux")]
pub(crate) use linux::run;

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Instant;

    use apus_os::linux::{Cable, Seen};
    use apus_sim::emulated::{self, CLUSTER, Came, Joined, OUTSIDE, join};
    use apus_sim::report::Verdict;
    use apus_sim::runner::{Summary, options};
    use apus_sim::scenario::Plan;
    use serde_json::json;

    use super::only;
    use crate::args::{Format, RunArgs};
    use crate::print::{self, BOLD, DIM, say, style, word};
    use crate::suite::Item;
    use crate::{Trouble, VERSION};

    /// The device as the world's cable.
    struct Plugged(Cable);

    impl emulated::Cable for Plugged {
        fn wait(&mut self, until: Instant) -> io::Result<Came> {
            Ok(match self.0.wait(until)? {
                Seen::Frame(frame) => Came::Frame(frame),
                Seen::Nothing => Came::Nothing,
                Seen::Signal => Came::Enough,
            })
        }

        fn send(&mut self, frame: &[u8]) -> io::Result<()> {
            self.0.send(frame)
        }
    }

    fn trouble(error: &io::Error) -> Trouble {
        match error.kind() {
            io::ErrorKind::InvalidInput => Trouble::Usage(format!("--tap: {error}")),
            _ => Trouble::Internal(format!("--tap: {error}")),
        }
    }

    pub(crate) fn run(name: &str, args: &RunArgs, items: Vec<Item>, format: Format) -> Result<u8, Trouble> {
        let mut scenario = only(args, items)?.scenario;
        scenario.mutant = args.mutant.or(scenario.mutant);
        if let Some(lasts) = args.lasts {
            // Faults stay where they are; what is left of a longer time is one in which all heals.
            let lasts = u64::try_from(lasts.as_nanos()).unwrap_or(u64::MAX);
            scenario.heal = scenario.heal.max(lasts.saturating_sub(scenario.duration));
        }
        let seed = args.seed.or(args.seed_from_commit).unwrap_or(0);
        let plan = Plan::draw(&scenario, seed);
        let ((v4, v4_bits), (v6, v6_bits)) = OUTSIDE;
        let (v4, v6) = (Ipv4Addr::from(v4), Ipv6Addr::from(v6));
        let network = format!("{}/{v4_bits}", Ipv4Addr::from(u32::from(v4) & u32::MAX << (32 - u32::from(v4_bits))));
        let (v4, v6) = (format!("{v4}/{v4_bits}"), format!("{v6}/{v6_bits}"));
        let mut cable = Plugged(Cable::plug(name, &v4, &network, &v6).map_err(|error| trouble(&error))?);
        let text = format == Format::Text;
        let whole = std::time::Duration::from_nanos(scenario.duration + scenario.heal);
        let lasts = args.lasts.unwrap_or(whole);
        let (cluster4, cluster6) = (Ipv4Addr::from(CLUSTER.0), Ipv6Addr::from(CLUSTER.1));
        let has_v6 = cable.0.no_v6().is_none();
        if text {
            say!(
                "{BOLD}apus {VERSION}{BOLD:#}  {}, seed {seed}, in the emulated world for {:.1} s",
                scenario.name,
                lasts.as_secs_f64()
            );
            let six = if has_v6 { format!(" and {v6}") } else { String::new() };
            say!("device {} has {v4}{six}; it goes with this command", cable.0.name());
            if let Some(why) = cable.0.no_v6() {
                say!("no IPv6 here: {why}");
            }
            say!("try: curl http://{cluster4}/");
            if has_v6 {
                say!("     curl 'http://[{cluster6}]/'");
            }
        } else {
            print::line(json!({
                "apus": VERSION, "scenario": scenario.name, "seed": seed, "device": cable.0.name(),
                "addresses": if has_v6 { vec![&v4, &v6] } else { vec![&v4] },
                "cluster": if has_v6 { vec![cluster4.to_string(), cluster6.to_string()] } else { vec![cluster4.to_string()] },
            }));
        }
        let mut tell = |now: u64, what: &str| {
            let ms = now / 1_000_000;
            if text { say!("{DIM}{ms:>6} ms{DIM:#}  {what}") } else { print::line(json!({ "ms": ms, "what": what })) }
        };
        let joined =
            join(&plan, &options(&scenario), args.lasts, &mut cable, &mut tell).map_err(|error| trouble(&error))?;
        drop(cable);
        Ok(finish(joined, &plan, text))
    }

    /// Tells the verdict.
    fn finish(joined: Joined, plan: &Plan, text: bool) -> u8 {
        let Joined { run, early, came, went, late } = joined;
        let violation = run.violation.clone();
        let mut summary = Summary::default();
        summary.add(run, plan.configs.len());
        let verdict = match summary.verdict(&plan.scenario) {
            // Faults that had not begun could have no effect.
            Verdict::Vacuous if early => Verdict::Pass,
            verdict => verdict,
        };
        if text {
            say!("frames {came} in, {went} out; at worst {} ms behind the clock", late.as_millis());
            if let Some(violation) = &violation {
                say!("{}: {}", violation.checker, violation.what);
            }
            if early {
                say!("ended early: what must hold at the end was not looked at");
            }
            let colour = style(verdict);
            say!("verdict {colour}{}{colour:#}", word(verdict));
        } else {
            print::line(json!({
                "verdict": word(verdict), "exit_code": verdict as u8, "early": early, "frames_in": came, "frames_out": went,
                "late_ms": late.as_millis() as u64,
                "violation": violation.map(|violation| json!({ "checker": violation.checker, "what": violation.what })),
            }));
        }
        verdict as u8
    }
}
