//! `apus doctor`: what this machine and this build can do, and what each missing thing costs.

use std::path::PathBuf;

use apus_engine::Mutant;
use apus_sim::fault::Kind;
use apus_sim::scenario::shipped;
use apus_sim::world::WORLDS;
use serde_json::json;

use crate::VERSION;
use crate::args::Format;
use crate::print::{self, BOLD, GOOD, ODD, say};

/// One thing that was looked at.
struct Check {
    name: &'static str,
    found: String,
    /// What its lack costs; `None`: nothing lacks.
    costs: Option<&'static str>,
}

fn check(name: &'static str, found: impl Into<String>, good: bool, costs: &'static str) -> Check {
    Check { name, found: found.into(), costs: (!good).then_some(costs) }
}

/// Where a program of the search path is.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let name = if cfg!(windows) { format!("{program}.exe") } else { program.to_owned() };
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(&name)).find(|path| path.is_file())
}

fn tool(name: &'static str, programs: &[&str], costs: &'static str) -> Check {
    let found = programs.iter().find_map(|program| which(program));
    let good = found.is_some();
    check(name, found.map_or_else(|| "not found".into(), |path| path.display().to_string()), good, costs)
}

fn checks() -> Vec<Check> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let worlds: Vec<&str> = WORLDS.iter().map(|world| world.name()).collect();
    let carries = |world: &str| worlds.contains(&world);
    let here = std::env::temp_dir();
    let writable = std::fs::write(here.join(format!("apus-doctor-{}", std::process::id())), b"x")
        .and_then(|()| std::fs::remove_file(here.join(format!("apus-doctor-{}", std::process::id()))));
    vec![
        check("processors", cores.to_string(), cores > 1, "seeds run one after the other"),
        check(
            "profile",
            if cfg!(debug_assertions) { "debug" } else { "release" },
            !cfg!(debug_assertions),
            "worlds run several times slower: build with --release",
        ),
        check("compiler", env!("APUS_RUSTC"), true, ""),
        check("target", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH), true, ""),
        check(
            "worlds",
            worlds.join(", "),
            carries("turmoil"),
            "no run of the async host loop: `--world turmoil` is refused",
        ),
        check(
            "tokio_unstable",
            if cfg!(tokio_unstable) { "set" } else { "not set" },
            cfg!(tokio_unstable),
            "panics of spawned tasks would pass in silence: build inside the repository, whose .cargo/config.toml sets it",
        ),
        check("temporary files", here.display().to_string(), writable.is_ok(), "files cannot be written there"),
        check(
            "network namespaces",
            if namespaces() { "there" } else { "not there" },
            namespaces(),
            "no emulated or live cluster on this machine; the simulated worlds need none",
        ),
        tool("wine", &["wine64", "wine"], "no check of the Windows build on this machine"),
        tool("valgrind", &["valgrind"], "no instruction counts in the benches"),
        tool("git", &["git"], "no seeds from commits by `--seed-from-commit $(git rev-parse HEAD)`"),
    ]
}

fn namespaces() -> bool {
    std::path::Path::new("/proc/self/ns/net").exists()
}

pub(crate) fn doctor(format: Format) -> u8 {
    let checks = checks();
    if format == Format::Json {
        let rows: Vec<_> = checks
            .iter()
            .map(|check| json!({ "check": check.name, "found": check.found, "good": check.costs.is_none(), "costs": check.costs }))
            .collect();
        print::json(&json!({
            "apus": VERSION, "checks": rows, "scenarios": shipped().len(), "fault_kinds": Kind::ALL.len(),
            "mutants": Mutant::ALL.len(), "exit_code": 0,
        }));
        return 0;
    }
    say!("{BOLD}apus {VERSION}{BOLD:#}");
    for check in checks {
        match check.costs {
            None => say!("{GOOD}ok{GOOD:#}    {:<18} {}", check.name, check.found),
            Some(costs) => say!("{ODD}lacks{ODD:#} {:<18} {}: {costs}", check.name, check.found),
        }
    }
    say!(
        "      carries            {} scenarios, {} fault kinds, {} planted bugs",
        shipped().len(),
        Kind::ALL.len(),
        Mutant::ALL.len()
    );
    0
}
