//! `apus bench repl`: what ways to capture file operations cost programs, on the disk that is named.

use crate::Trouble;
use crate::args::{Format, ReplArgs};

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub(crate) fn repl(_: &ReplArgs, _: Format) -> Result<u8, Trouble> {
    Err(Trouble::Usage("`apus bench repl` needs Linux on x86-64: there is no capture elsewhere".into()))
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) fn repl(args: &ReplArgs, format: Format) -> Result<u8, Trouble> {
    linux::repl(args, format)
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod linux {
    use std::io;
    use std::time::{Duration, Instant};

    use apus_repl_bench::{Cell, Interval, KINDS, Plan, Report, Step, WAYS, median, role, run};
    use serde_json::{Value, json};

    use crate::args::{Format, ReplArgs};
    use crate::print::{self, say};
    use crate::{Trouble, VERSION};

    fn told(error: &io::Error) -> Trouble {
        let text = error.to_string();
        match error.kind() {
            io::ErrorKind::InvalidInput | io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
                Trouble::Usage(text)
            }
            _ => Trouble::Internal(text),
        }
    }

    pub(super) fn repl(args: &ReplArgs, format: Format) -> Result<u8, Trouble> {
        if !args.role.is_empty() {
            return role(&args.role).map(|()| 0).map_err(|error| told(&error));
        }
        let all = |given: &[String], names: &[&str]| {
            if given.is_empty() { names.iter().map(ToString::to_string).collect() } else { given.to_vec() }
        };
        let me = std::env::current_exe().map_err(|error| told(&error))?;
        let beside = me.with_file_name("libapus_interpose.so");
        let plan = Plan {
            dir: args.dir.clone(),
            rounds: args.rounds.into(),
            turns: args.turns.into(),
            kinds: all(&args.workloads, &KINDS.map(|kind| kind.name)),
            ways: all(&args.ways, &WAYS.map(|(name, _)| name)),
            me: vec![me.into(), "bench".into(), "repl".into(), "--role".into()],
            library: args.library.clone().unwrap_or(beside),
        };
        let (began, mut shown) = (Instant::now(), None);
        let report = run(&plan, &mut |step| progress(step, began, &mut shown));
        print::over("");
        let report = report.map_err(|error| told(&error))?;
        // Who measured something else than was asked says so.
        let code = u8::from(report.seen.iter().any(|(_, seen)| seen.starts_with("TROUBLE")));
        if format == Format::Json {
            print::json(&document(&report, &plan, code));
        } else {
            say!("{}", report.text().trim());
        }
        Ok(code)
    }

    fn progress(step: Step<'_>, began: Instant, shown: &mut Option<Instant>) {
        if shown.is_some_and(|shown| shown.elapsed() < Duration::from_millis(150)) {
            return;
        }
        *shown = Some(Instant::now());
        let elapsed = began.elapsed();
        let left = elapsed.mul_f64((step.of - step.done) as f64 / step.done.max(1) as f64).as_secs();
        print::over(&format!("{}  {}/{} slots  ETA {}:{:02}", step.kind, step.done, step.of, left / 60, left % 60));
    }

    fn document(report: &Report, plan: &Plan, code: u8) -> Value {
        let interval = |of: &Interval| json!({ "median": of.median, "low": of.low, "high": of.high });
        let cell = |cell: &Cell| {
            let (least, greatest) = cell.spread();
            json!({
                "way": cell.way, "ns": { "median": median(&cell.nanos), "least": least, "greatest": greatest },
                "ratio": interval(&cell.ratio), "rounds": cell.ratios, "processor": interval(&cell.processor),
                "beside_ns": cell.beside,
            })
        };
        let rows: Vec<_> = report
            .rows
            .iter()
            .map(|row| {
                let cells: Vec<_> = row.cells.iter().map(cell).collect();
                json!({ "workload": row.kind.name, "about": row.kind.about, "operations": row.kind.count, "ways": cells })
            })
            .collect();
        let pairs = |pairs: &[(String, String)]| -> Value {
            pairs
                .iter()
                .map(|(name, what)| (name.clone(), what.clone().into()))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        json!({
            "apus": VERSION, "rounds": plan.rounds, "turns": plan.turns, "workloads": rows, "seen": pairs(&report.seen),
            "not_available": pairs(&report.left_out), "exit_code": code,
        })
    }
}
