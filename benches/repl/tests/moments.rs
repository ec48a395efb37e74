//! A few moments of each workload, with a crash: what `benches/compare-replication` does with hundreds.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use apus_repl_bench::{Moments, moments};

/// What lacks, if anything does.
fn lacks(library: &Path) -> Option<String> {
    if std::fs::metadata("/proc/self").map_or(1, |meta| meta.uid()) != 0 {
        return Some("it needs root: files are opened by handle".into());
    }
    if !library.is_file() {
        return Some(format!("{} is not built: cargo build -p apus-interpose", library.display()));
    }
    let there = |program: &str| {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join(program).is_file())
    };
    ["sqlite3", "redis-server", "redis-cli", "redis-check-aof"]
        .into_iter()
        .find(|program| !there(program))
        .map(|program| format!("{program} is not installed"))
}

/// The receiver is stopped at random instants, programs are killed and started again: what the copy holds is whole each time.
#[test]
fn a_few_moments_are_whole() {
    let me = PathBuf::from(env!("CARGO_BIN_EXE_compare-replication"));
    let library = me.with_file_name("libapus_interpose.so");
    if let Some(why) = lacks(&library) {
        println!("SKIPPED: {why}");
        return;
    }
    for (workload, many) in [("sqlite", 22), ("redis", 22)] {
        let plan = Moments {
            dir: env!("CARGO_TARGET_TMPDIR").into(),
            moments: many,
            lag: Duration::from_secs(1),
            rounds: 0,
            workloads: vec![workload.into()],
            systems: vec!["apus".into()],
            keep: None,
            seed: 1,
            me: vec![me.clone().into(), "role".into()],
            library: library.clone(),
        };
        let outcome = moments(&plan, &mut |_| ()).expect("it runs");
        let part = &outcome.parts[0];
        assert_eq!((part.moments, part.torn, part.crashes), (many, 0, 1), "{part:?}");
        assert!(!part.lag.is_empty(), "no mark came");
    }
}
