//! Commands on one artifact: replay, shrink, explain, why.

use std::path::{Path, PathBuf};
use std::time::Duration;

use apus_engine::NodeId;
use apus_sim::artifact::{Artifact, scenario_hash};
use apus_sim::explain;
use apus_sim::report::{Run, Verdict};
use apus_sim::runner::{options, run_guarded};
use apus_sim::world::Options;
use serde_json::{Value, json};

use crate::args::{ExplainArgs, Format};
use crate::print::{self, BAD, BOLD, DIM, count, ms, say, style, word};
use crate::{Trouble, VERSION};

pub(crate) fn load(path: &Path) -> Result<Artifact, Trouble> {
    let bytes = std::fs::read(path).map_err(|error| Trouble::Usage(format!("{}: {error}", path.display())))?;
    let other = || Trouble::Usage(format!("{}: this is neither an artifact nor an incident", path.display()));
    let text = String::from_utf8(bytes).map_err(|_| other())?;
    Artifact::from_json(&text).map_err(|what| Trouble::Usage(format!("{}: {what}", path.display())))
}

/// Runs an artifact as it is kept: its faults and the fate of each packet.
pub(crate) fn again(artifact: &Artifact, keep_trace: bool) -> Run {
    let options = Options { keep_trace, ..artifact.options() };
    run_guarded(artifact.world, &artifact.plan, &options)
}

pub(crate) fn verdict(run: &Run) -> Verdict {
    match &run.violation {
        Some(violation) if violation.liveness => Verdict::Liveness,
        Some(_) => Verdict::Safety,
        None => Verdict::Pass,
    }
}

/// What names a run: the first line of every command on artifacts.
fn head(what: &str, artifact: &Artifact) {
    let scenario = &artifact.plan.scenario;
    let mutant = artifact.mutant.map_or_else(String::new, |mutant| format!("  mutant {}", mutant.name()));
    say!(
        "{BOLD}apus {VERSION}{BOLD:#}  {what}  {} ({:016x})  seed {}  {}  {}  trace {:032x}{mutant}",
        scenario.name,
        scenario_hash(&artifact.text),
        artifact.plan.seed,
        count(artifact.plan.faults.len() as u64, "fault"),
        count(scenario.nodes.into(), "node"),
        artifact.hash,
    );
}

/// The same as data.
fn head_json(artifact: &Artifact, run: &Run) -> serde_json::Map<String, Value> {
    let violation = run.violation.as_ref().map(
        |violation| json!({ "checker": violation.checker, "liveness": violation.liveness, "at_ns": violation.at, "what": violation.what }),
    );
    let fields = [
        ("apus", json!(VERSION)),
        ("scenario", json!(artifact.plan.scenario.name)),
        ("scenario_hash", json!(format!("{:016x}", scenario_hash(&artifact.text)))),
        ("seed", json!(artifact.plan.seed)),
        ("mutant", json!(artifact.mutant.map(apus_engine::Mutant::name))),
        ("faults", json!(artifact.plan.faults.len())),
        ("nodes", json!(artifact.plan.scenario.nodes)),
        ("trace_hash", json!(format!("{:032x}", run.hash))),
        ("verdict", json!(word(verdict(run)).to_lowercase())),
        ("violation", json!(violation)),
    ];
    fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn foot(artifact: &Artifact, run: &Run) {
    let verdict = verdict(run);
    let colour = style(verdict);
    say!(
        "verdict {colour}{}{colour:#}  apus {VERSION}  seed {}  scenario {:016x}  trace {:032x}",
        word(verdict),
        run.seed,
        scenario_hash(&artifact.text),
        run.hash
    );
}

fn print_violation(run: &Run) {
    match &run.violation {
        Some(violation) => {
            say!("{BAD}{}{BAD:#} at {} ms: {}", violation.checker, ms(violation.at), violation.what);
        }
        None => say!("nothing is violated"),
    }
    if let Some(overlap) = run.measures.get("two-holders-time") {
        say!("two nodes held one resource at once for {} ms", ms(*overlap));
    }
}

/// 5 if the hash is another one; else as `run`.
pub(crate) fn replay(path: &Path, format: Format) -> Result<u8, Trouble> {
    if let Some(incident) = crate::incident::load(path)? {
        return crate::incident::replay(path, &incident, format);
    }
    let artifact = load(path)?;
    let run = again(&artifact, false);
    let same = run.hash == artifact.hash;
    let code = if same { verdict(&run) as u8 } else { Verdict::NotDeterministic as u8 };
    if format == Format::Json {
        let mut out = head_json(&artifact, &run);
        out.insert("same_trace".into(), same.into());
        out.insert("artifact_trace_hash".into(), format!("{:032x}", artifact.hash).into());
        out.insert("artifact_engine".into(), artifact.engine.clone().into());
        out.insert("exit_code".into(), code.into());
        print::json(&out.into());
        return Ok(code);
    }
    head("replay", &artifact);
    print_violation(&run);
    if same {
        say!("the trace hash is the artifact's");
    } else {
        say!(
            "{BAD}another trace:{BAD:#} the artifact was made by apus {}; the engine or the world has changed since",
            artifact.engine
        );
    }
    foot(&artifact, &run);
    Ok(code)
}

pub(crate) fn shrink(path: &Path, out: Option<&Path>, budget: Duration, format: Format) -> Result<u8, Trouble> {
    let artifact = load(path)?;
    let shrunk = apus_sim::shrink::shrink(artifact.world, &artifact.plan, budget);
    if format == Format::Text {
        head("shrink", &artifact);
    }
    let Some(shrunk) = shrunk else {
        if format == Format::Json {
            print::json(&json!({ "apus": VERSION, "shrunk": null, "exit_code": 3 }));
        } else {
            say!("nothing is violated any more: there is nothing to shrink");
        }
        return Ok(3);
    };
    let out = out.unwrap_or(path);
    let run =
        run_guarded(artifact.world, &shrunk.plan, &Options { keep_trace: true, ..options(&shrunk.plan.scenario) });
    let small = Artifact::new(&artifact.text, &shrunk.plan, artifact.world, &run);
    crate::write(out, small.to_json())?;
    if format == Format::Json {
        let mut fields = head_json(&small, &run);
        fields.insert("faults_before".into(), artifact.plan.faults.len().into());
        fields.insert("nodes_before".into(), artifact.plan.scenario.nodes.into());
        fields.insert("runs".into(), shrunk.tried.into());
        fields.insert("minimal".into(), shrunk.minimal.into());
        fields.insert("artifact".into(), out.display().to_string().into());
        fields.insert("exit_code".into(), 0.into());
        print::json(&fields.into());
        return Ok(0);
    }
    say!(
        "{} of {} on {} of {} in {} of {} ms, {} tried; {}",
        shrunk.plan.faults.len(),
        count(artifact.plan.faults.len() as u64, "fault"),
        shrunk.plan.scenario.nodes,
        count(artifact.plan.scenario.nodes.into(), "node"),
        shrunk.plan.scenario.duration / 1_000_000,
        artifact.plan.scenario.duration / 1_000_000,
        count(shrunk.tried.into(), "run"),
        if shrunk.minimal { "no fault can be taken away" } else { "the time was over first" }
    );
    say!("wrote {}", out.display());
    foot(&small, &run);
    Ok(0)
}

pub(crate) fn explain(args: &ExplainArgs, format: Format) -> Result<u8, Trouble> {
    if let Some(incident) = crate::incident::load(&args.artifact)? {
        return crate::incident::explain(args, incident, format);
    }
    if let Some(other) = args.more.first() {
        return Err(Trouble::Usage(format!(
            "{}: one artifact at a time; only incidents are drawn together",
            other.display()
        )));
    }
    let artifact = load(&args.artifact)?;
    let run = again(&artifact, true);
    let scenario = &artifact.plan.scenario;
    let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let story = match args.trace {
        Some((from, to)) => explain::excerpt(&run, ns(from), ns(to)),
        None => explain::story(&run),
    };
    if format == Format::Text {
        head("explain", &artifact);
        for line in &story {
            if line.contains("VIOLATED") {
                say!("{BAD}{line}{BAD:#}");
            } else if line.contains("FAULT ") || line.contains(" fault ") {
                say!("{DIM}{line}{DIM:#}");
            } else {
                say!("{line}");
            }
        }
    }
    let stem = args.artifact.file_stem().unwrap_or_default().to_string_lossy();
    let place = |own: &Option<PathBuf>, end: &str| {
        own.clone().or_else(|| args.all.as_ref().map(|dir| dir.join(format!("{stem}.{end}"))))
    };
    let mut wrote = Vec::new();
    let mut put = |path: Option<PathBuf>, bytes: &dyn Fn() -> Vec<u8>| -> Result<(), Trouble> {
        if let Some(path) = path {
            crate::write(&path, bytes())?;
            wrote.push(path.display().to_string());
        }
        Ok(())
    };
    let title = format!("{} · seed {}", scenario.name, run.seed);
    put(place(&args.html, "html"), &|| explain::html(&artifact.plan, &run, &title).into_bytes())?;
    put(place(&args.mermaid, "mmd"), &|| explain::mermaid(&run).into_bytes())?;
    put(place(&args.perfetto, "perfetto.json"), &|| explain::perfetto(&run).into_bytes())?;
    put(place(&args.pcapng, "pcapng"), &|| explain::pcapng(&run))?;
    if format == Format::Json {
        let mut out = head_json(&artifact, &run);
        out.insert(if args.trace.is_some() { "trace" } else { "story" }.into(), story.into());
        out.insert("wrote".into(), wrote.into());
        out.insert("exit_code".into(), 0.into());
        print::json(&out.into());
        return Ok(0);
    }
    for path in wrote {
        say!("wrote {path}");
    }
    foot(&artifact, &run);
    Ok(0)
}

pub(crate) fn why(path: &Path, node: u16, time: Duration, format: Format) -> Result<u8, Trouble> {
    let artifact = load(path)?;
    let nodes = artifact.plan.scenario.nodes;
    if node >= nodes {
        return Err(Trouble::Usage(format!("there is no node n{node}: the artifact has n0 to n{}", nodes - 1)));
    }
    let at = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let run = again(&artifact, true);
    let chain = explain::why(&run, NodeId(node), at);
    let code = if chain.is_some() { 0 } else { 3 };
    let lines = chain.unwrap_or_default();
    if format == Format::Json {
        let mut out = head_json(&artifact, &run);
        out.insert("node".into(), format!("n{node}").into());
        out.insert("before_ns".into(), at.into());
        out.insert("chain".into(), lines.into());
        out.insert("exit_code".into(), code.into());
        print::json(&out.into());
        return Ok(code);
    }
    head("why", &artifact);
    if code != 0 {
        say!("n{node} did nothing before {} ms that has a cause", ms(at));
    }
    for line in lines {
        say!("{line}");
    }
    foot(&artifact, &run);
    Ok(code)
}
