//! Incidents: what live nodes recorded, copied into files and replayed.

use std::path::{Path, PathBuf};

use apus_host::record::{FOLDER, Incident, Reason, Replayed, export as copy, replay as again};
use apus_sim::explain;
use apus_sim::incident::picture;
use apus_sim::report::Verdict;
use serde_json::{Value, json};

use crate::args::{ExplainArgs, Format, IncidentCommand};
use crate::print::{self, BAD, BOLD, count, say};
use crate::{Trouble, VERSION};

/// The file's content, if it is an incident.
pub(crate) fn load(path: &Path) -> Result<Option<Incident>, Trouble> {
    let bytes = std::fs::read(path).map_err(|error| Trouble::Usage(format!("{}: {error}", path.display())))?;
    if !Incident::is(&bytes) {
        return Ok(None);
    }
    let incident = Incident::read(&bytes).and_then(|incident| incident.check_build().map(|()| incident));
    incident.map(Some).map_err(|error| wrong(path, &error))
}

fn wrong(path: &Path, error: &dyn std::fmt::Display) -> Trouble {
    Trouble::Usage(format!("{}: {error}", path.display()))
}

pub(crate) fn incident(what: &IncidentCommand, format: Format) -> Result<u8, Trouble> {
    match what {
        IncidentCommand::Export { node, last, file } => {
            let last = last.map(|last| u64::try_from(last.as_micros()).unwrap_or(u64::MAX));
            let bytes =
                copy(&node.join(FOLDER), last).map_err(|(place, error)| Trouble::Usage(format!("{place}: {error}")))?;
            let incident =
                Incident::read(&bytes).map_err(|error| Trouble::Internal(format!("what was made: {error}")))?;
            crate::write(file, &bytes)?;
            let mut out = head(&incident);
            if format == Format::Json {
                out.insert("wrote".into(), file.display().to_string().into());
                out.insert("bytes".into(), bytes.len().into());
                out.insert("exit_code".into(), 0.into());
                print::json(&out.into());
            } else {
                tell(&incident);
                say!(
                    "wrote {}, {} bytes; `apus replay` runs it again, `apus explain --html` draws it",
                    file.display(),
                    bytes.len()
                );
            }
            Ok(0)
        }
    }
}

/// What an incident is, as data.
fn head(incident: &Incident) -> serde_json::Map<String, Value> {
    let first = incident.spans.first().map(|span| &span.start);
    let torn: Vec<Value> = incident
        .spans
        .iter()
        .filter_map(|span| span.torn.as_ref())
        .map(|torn| json!({ "file": torn.file, "offset": torn.offset, "cut": torn.cut }))
        .collect();
    let missing: u64 = (0..incident.spans.len()).filter_map(|at| incident.missing(at)).sum();
    let fields = [
        ("apus", json!(VERSION)),
        ("engine", json!(first.map(|start| start.build.clone()))),
        ("node", json!(first.map(|start| start.node.0))),
        ("steps", json!(incident.steps())),
        ("segments", json!(incident.spans.len())),
        ("missing", json!(missing)),
        ("torn", json!(torn)),
    ];
    fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The same for people: a line a life, and what is not there.
fn tell(incident: &Incident) {
    let seconds = |micros: u64| format!("{}.{:03} s", micros / 1_000_000, micros / 1_000 % 1_000);
    let mut at = 0;
    while let Some(span) = incident.spans.get(at) {
        let start = &span.start;
        let more = incident.spans[at + 1..].iter().take_while(|next| next.start.reason == Reason::Full).count();
        let life = &incident.spans[at..=at + more];
        let steps: usize = life.iter().map(|span| span.steps.len()).sum();
        let until = life.iter().rev().find_map(|span| span.steps.last()).map_or(start.now, |step| step.now);
        let from = match start.reason {
            Reason::Boot => "from its start".to_owned(),
            Reason::Full => format!("from step {}, what came before is no longer kept", start.before + 1),
            Reason::Gap => {
                let missing = incident.missing(at).unwrap_or_default();
                format!(
                    "from step {}, {} before it missing: the disk did not take them",
                    start.before + 1,
                    count(missing, "step")
                )
            }
        };
        say!(
            "{}  life {}  {}  {}  {from}",
            start.node,
            start.incarnation.0,
            count(steps as u64, "step"),
            seconds(until.since(start.now).0)
        );
        for torn in life.iter().filter_map(|span| span.torn.as_ref()) {
            say!(
                "{}: torn at byte {}: {} bytes were cut, as a killed node leaves them",
                torn.file,
                torn.offset,
                torn.cut
            );
        }
        at += more + 1;
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// 0 if every state is the recorded one, 5 if not.
pub(crate) fn replay(path: &Path, incident: &Incident, format: Format) -> Result<u8, Trouble> {
    let replayed = again(incident, |_| {}).map_err(|error| wrong(path, &error))?;
    let code = if replayed.is_ok() { 0 } else { Verdict::NotDeterministic as u8 };
    if format == Format::Json {
        let mut out = head(incident);
        let Replayed { same, unknown, states, hash, .. } = replayed.clone().unwrap_or_default();
        out.insert("same".into(), same.into());
        out.insert("unhashed".into(), unknown.into());
        out.insert("whole_states".into(), states.into());
        out.insert("state_hash".into(), replayed.is_ok().then(|| format!("{hash:032x}")).into());
        out.insert("difference".into(), replayed.err().map(|difference| difference.to_string()).into());
        out.insert("exit_code".into(), code.into());
        print::json(&out.into());
        return Ok(code);
    }
    let build = incident.spans.first().map_or("", |span| &span.start.build);
    say!("{BOLD}apus {VERSION}{BOLD:#}  replay  incident {}  engine {build}", name(path));
    tell(incident);
    match replayed {
        Ok(Replayed { same, unknown, states, hash, .. }) => {
            let crashed =
                if unknown == 0 { String::new() } else { format!(", {unknown} without a hash (a crash followed)") };
            say!(
                "{} with the same state hash{crashed}, {} the same byte by byte; state {hash:032x}",
                count(same, "step"),
                count(states, "whole state")
            );
        }
        Err(difference) => say!("{BAD}another state:{BAD:#} {difference}"),
    }
    Ok(code)
}

pub(crate) fn explain(args: &ExplainArgs, first: Incident, format: Format) -> Result<u8, Trouble> {
    let mut incidents = vec![first];
    for path in &args.more {
        let what = "it is no incident; further files must be incidents of other nodes";
        incidents.push(load(path)?.ok_or_else(|| wrong(path, &what))?);
    }
    let drawn = picture(&incidents).map_err(|error| wrong(&args.artifact, &error))?;
    let drawn = drawn.map_err(|difference| wrong(&args.artifact, &difference))?;
    let ns = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let story = match args.trace {
        Some((from, to)) => explain::excerpt(&drawn.run, ns(from), ns(to)),
        None => explain::story(&drawn.run),
    };
    if format == Format::Text {
        say!("{BOLD}apus {VERSION}{BOLD:#}  explain  incident {}", name(&args.artifact));
        incidents.iter().for_each(tell);
        story.iter().for_each(|line| say!("{line}"));
    }
    let stem = args.artifact.file_stem().unwrap_or_default().to_string_lossy();
    let place = |own: &Option<PathBuf>, end: &str| {
        own.clone().or_else(|| args.all.as_ref().map(|dir| dir.join(format!("{stem}.{end}"))))
    };
    let title = format!("incident {}", name(&args.artifact));
    let pictures = [
        place(&args.html, "html").map(|path| (path, explain::html(&drawn.plan, &drawn.run, &title).into_bytes())),
        place(&args.mermaid, "mmd").map(|path| (path, explain::mermaid(&drawn.run).into_bytes())),
        place(&args.perfetto, "perfetto.json").map(|path| (path, explain::perfetto(&drawn.run).into_bytes())),
        place(&args.pcapng, "pcapng").map(|path| (path, explain::pcapng(&drawn.run))),
    ];
    let mut wrote = Vec::new();
    for (path, bytes) in pictures.into_iter().flatten() {
        crate::write(&path, bytes)?;
        wrote.push(path.display().to_string());
    }
    if format == Format::Json {
        let mut out = head(&incidents[0]);
        out.insert("began_us".into(), drawn.began.into());
        out.insert(if args.trace.is_some() { "trace" } else { "story" }.into(), story.into());
        out.insert("wrote".into(), wrote.into());
        out.insert("exit_code".into(), 0.into());
        print::json(&out.into());
        return Ok(0);
    }
    wrote.iter().for_each(|path| say!("wrote {path}"));
    Ok(0)
}
