//! `apus corpus`: past failures that are run again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use apus_sim::artifact::{Artifact, Standing};
use apus_sim::runner::{options, run_guarded};
use apus_sim::world::Options;
use serde_json::json;

use crate::args::{CorpusCommand, Format};
use crate::artifacts::load;
use crate::print::{self, BAD, GOOD, count, say};
use crate::{Trouble, VERSION};

pub(crate) fn corpus(action: &CorpusCommand, format: Format) -> Result<u8, Trouble> {
    match action {
        CorpusCommand::Run { dir } => run(dir, format),
        CorpusCommand::Add { artifact, dir } => add(artifact, dir, format),
        CorpusCommand::Minimize { dir, budget } => minimize(dir, *budget, format),
    }
}

fn artifacts_in(dir: &Path) -> Result<Vec<PathBuf>, Trouble> {
    let entries = std::fs::read_dir(dir).map_err(|error| Trouble::Usage(format!("{}: {error}", dir.display())))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    Ok(paths)
}

fn run(dir: &Path, format: Format) -> Result<u8, Trouble> {
    let mut rows = Vec::new();
    let mut wrong = 0;
    for path in artifacts_in(dir)? {
        let artifact = load(&path)?;
        let standing = artifact.standing();
        let right = standing.is_right();
        wrong += u64::from(!right);
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if format == Format::Text {
            let (colour, sign) = if right { (GOOD, "ok  ") } else { (BAD, "FAIL") };
            say!("{colour}{sign}{colour:#}  {name:<52} {standing}");
        }
        rows.push(json!({
            "entry": name, "right": right, "standing": standing.to_string(), "same_trace": standing.same_trace(),
            "seed": artifact.plan.seed, "mutant": artifact.mutant.map(apus_engine::Mutant::name),
        }));
    }
    let code = if rows.is_empty() { 4 } else { u8::from(wrong > 0) };
    if format == Format::Json {
        print::json(&json!({ "apus": VERSION, "entries": rows, "wrong": wrong, "exit_code": code }));
    } else {
        say!(
            "{} in {}, {wrong} not as they should",
            count(rows.len() as u64, "entry").replace("entrys", "entries"),
            dir.display()
        );
    }
    Ok(code)
}

fn add(path: &Path, dir: &Path, format: Format) -> Result<u8, Trouble> {
    let artifact = load(path)?;
    let standing = artifact.standing();
    if !standing.is_right() {
        return Err(Trouble::Usage(format!("{}: no entry for a corpus: {standing}", path.display())));
    }
    let name = artifact.mutant.map_or_else(
        || path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        |mutant| format!("{}--{}", mutant.name(), artifact.plan.scenario.name),
    );
    let to = dir.join(name).with_extension("json");
    crate::write(&to, renewed(&artifact).to_json())?;
    if format == Format::Json {
        print::json(
            &json!({ "apus": VERSION, "wrote": to.display().to_string(), "standing": standing.to_string(), "exit_code": 0 }),
        );
    } else {
        say!("wrote {}: {standing}", to.display());
    }
    Ok(0)
}

/// The artifact as the engine of today runs it.
fn renewed(artifact: &Artifact) -> Artifact {
    let options = Options { keep_trace: true, ..options(&artifact.plan.scenario) };
    let run = run_guarded(artifact.world, &artifact.plan, &options);
    Artifact::new(&artifact.text, &artifact.plan, artifact.world, &run)
}

fn minimize(dir: &Path, budget: std::time::Duration, format: Format) -> Result<u8, Trouble> {
    let mut seen = BTreeSet::new();
    let mut rows = Vec::new();
    for path in artifacts_in(dir)? {
        let artifact = load(&path)?;
        let name = path.display().to_string();
        if matches!(artifact.standing(), Standing::Mended) {
            // It guards a mended failure: there is nothing left that could be shrunk.
            rows.push(json!({ "entry": name, "kept": true }));
            continue;
        }
        let before = artifact.plan.faults.len();
        let small = match apus_sim::shrink::shrink(artifact.world, &artifact.plan, budget) {
            Some(shrunk) => renewed(&Artifact { plan: shrunk.plan, ..artifact }),
            None => artifact,
        };
        let kinds: Vec<_> = small.plan.faults.iter().map(|fault| fault.kind).collect();
        let checker = small.violation.as_ref().map(|violation| violation.checker);
        let kept = seen.insert((small.mutant, checker, kinds));
        if kept {
            crate::write(&path, small.to_json())?;
        } else {
            std::fs::remove_file(&path).map_err(|error| Trouble::Internal(format!("{name}: {error}")))?;
        }
        if format == Format::Text {
            let what = if kept { "kept" } else { "dropped: it fails like an earlier one" };
            say!("{name}: {} of {}, {what}", small.plan.faults.len(), count(before as u64, "fault"));
        }
        rows.push(json!({ "entry": name, "kept": kept, "faults": small.plan.faults.len(), "faults_before": before }));
    }
    if format == Format::Json {
        print::json(&json!({ "apus": VERSION, "entries": rows, "exit_code": 0 }));
    }
    Ok(0)
}
