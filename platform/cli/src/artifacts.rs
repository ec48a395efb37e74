//! Commands on artifacts: replay, shrink, explain, why, corpus.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use apus_engine::NodeId;
use apus_sim::artifact::Artifact;
use apus_sim::explain;
use apus_sim::heap::Heap;
use apus_sim::report::Run;
use apus_sim::runner::{options, run_guarded};
use apus_sim::world::Options;

use crate::Trouble;
use crate::args::{CorpusCommand, ExplainArgs};
use crate::run::write;
use crate::suite;

fn load(path: &Path) -> Result<Artifact, Trouble> {
    let text = std::fs::read_to_string(path).map_err(|error| Trouble::Usage(format!("{}: {error}", path.display())))?;
    Artifact::from_json(&text).map_err(|what| Trouble::Usage(format!("{}: {what}", path.display())))
}

fn again(artifact: &Artifact, keep_trace: bool) -> Run {
    let options = Options { keep_trace, ..options(&artifact.plan.scenario) };
    run_guarded(&Heap, &artifact.plan, &options)
}

/// 0: the same failure and hash; 5: another hash; 1 or 2 tell that the failure is still there with another hash is 5 too.
pub(crate) fn replay(path: &Path) -> Result<u8, Trouble> {
    let artifact = load(path)?;
    let run = again(&artifact, false);
    println!("apus {}  seed {}  trace {:032x}", env!("CARGO_PKG_VERSION"), run.seed, run.hash);
    match &run.violation {
        Some(violation) => {
            println!("violated {} at {} ms: {}", violation.checker, violation.at / 1_000_000, violation.what);
        }
        None => println!("nothing is violated"),
    }
    if run.hash == artifact.hash {
        println!("the trace hash is the artifact's");
        return Ok(match &run.violation {
            Some(violation) if violation.liveness => 2,
            Some(_) => 1,
            None => 0,
        });
    }
    println!(
        "the artifact's trace was {:032x}, made by apus {}: the engine or the world has changed since",
        artifact.hash, artifact.engine
    );
    Ok(5)
}

pub(crate) fn shrink(path: &Path, out: Option<&Path>, seconds: u64) -> Result<u8, Trouble> {
    let artifact = load(path)?;
    let before = artifact.plan.faults.len();
    let Some(shrunk) = apus_sim::shrink::shrink(&Heap, &artifact.plan, Duration::from_secs(seconds)) else {
        println!("nothing is violated any more: there is nothing to shrink");
        return Ok(3);
    };
    println!(
        "{} faults of {before} on {} nodes, {} runs tried{}",
        shrunk.plan.faults.len(),
        shrunk.plan.scenario.nodes,
        shrunk.tried,
        if shrunk.minimal { "; no fault can be taken away" } else { "; the time was over first" }
    );
    write(out.unwrap_or(path), &Artifact::new(&artifact.text, &shrunk.plan, &shrunk.run).to_json())?;
    Ok(0)
}

pub(crate) fn explain(args: &ExplainArgs) -> Result<u8, Trouble> {
    let artifact = load(&args.artifact)?;
    let run = again(&artifact, true);
    let scenario = &artifact.plan.scenario;
    println!("{} seed {} trace {:032x}", scenario.name, run.seed, run.hash);
    for line in explain::story(&run) {
        println!("{line}");
    }
    let title = format!("{} · seed {}", scenario.name, run.seed);
    let files = [
        (&args.html, explain::html as fn(&_, &_, &str) -> String),
        (&args.mermaid, |_, run, _| explain::mermaid(run)),
        (&args.perfetto, |_, run, _| explain::perfetto(run)),
    ];
    for (path, make) in files {
        if let Some(path) = path {
            write(path, &make(&artifact.plan, &run, &title))?;
            println!("wrote {}", path.display());
        }
    }
    if let Some(path) = &args.pcapng {
        std::fs::write(path, explain::pcapng(&run))
            .map_err(|error| Trouble::Internal(format!("{}: {error}", path.display())))?;
        println!("wrote {}", path.display());
    }
    Ok(0)
}

pub(crate) fn why(path: &Path, node: &str, time: &str) -> Result<u8, Trouble> {
    let artifact = load(path)?;
    let number = node.strip_prefix('n').unwrap_or(node).parse();
    let node = NodeId(number.map_err(|_| Trouble::Usage(format!("`{node}`: want a node such as n2")))?);
    let at = suite::duration("time", time)?.as_nanos();
    let run = again(&artifact, true);
    for line in explain::why(&run, node, u64::try_from(at).unwrap_or(u64::MAX)) {
        println!("{line}");
    }
    Ok(0)
}

fn artifacts_in(dir: &Path) -> Result<Vec<PathBuf>, Trouble> {
    let entries = std::fs::read_dir(dir).map_err(|error| Trouble::Usage(format!("{}: {error}", dir.display())))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    Ok(paths)
}

pub(crate) fn corpus(action: &CorpusCommand) -> Result<u8, Trouble> {
    match action {
        CorpusCommand::Run { dir } => {
            let mut worst = 0;
            for path in artifacts_in(dir)? {
                let artifact = load(&path)?;
                let run = again(&artifact, false);
                // With its planted bug an entry must still fail; without one the bug is mended and it must not.
                let fails = run.violation.is_some();
                let right = fails == artifact.mutant.is_some();
                println!("{:<60} {}", path.display(), if right { "as it should" } else { "NOT as it should" });
                worst = worst.max(u8::from(!right));
            }
            Ok(worst)
        }
        CorpusCommand::Add { artifact, dir } => {
            let known = load(artifact)?;
            let name = artifact.file_name().unwrap_or_default();
            write(&dir.join(name), &Artifact::new(&known.text, &known.plan, &again(&known, false)).to_json())?;
            Ok(0)
        }
        CorpusCommand::Minimize { dir, seconds } => {
            let mut seen = BTreeSet::new();
            for path in artifacts_in(dir)? {
                shrink(&path, None, *seconds)?;
                let small = load(&path)?;
                let kinds: Vec<_> = small.plan.faults.iter().map(|fault| fault.kind).collect();
                let checker = small.violation.as_ref().map(|violation| violation.checker);
                if !seen.insert((small.mutant, checker, kinds)) {
                    println!("{}: fails like an earlier one, dropped", path.display());
                    std::fs::remove_file(&path)
                        .map_err(|error| Trouble::Internal(format!("{}: {error}", path.display())))?;
                }
            }
            Ok(0)
        }
    }
}
