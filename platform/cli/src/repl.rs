//! `apus repl`: files that several nodes have.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use apus_node::view::Flow;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::args::{CONTROL, Format, SOCKET_ENV, node as node_number};
use crate::print::{self, BAD, BOLD, DIM, ODD, say};
use crate::view::{length, node, table};
use crate::{Trouble, plan};

/// Between two looks while something is waited for.
const LOOK: Duration = Duration::from_millis(250);

const STATUS: &str = "\
Exit codes: 0 all copies follow and nothing is amiss; 1 something is, told with the mend; 64 there
is no such group; 70 no node answers here.";

const VERIFY: &str = "\
Ask the node that writes: `apus repl status` tells which. Each copy that follows is looked through
to its end, while programs go on; one that differs is compared with the writer's, and so mended. A
file is told by its path, and by its number if it has none any more.

Exit codes: 0 all copies are alike; 1 one differs, told with file and block; 2 not done in time;
64 refused, or no such group; 70 no node answers here.";

const ORPHANS: &str = "\
What a node wrote and no other one had, when it came back: records, and whole files as they were,
each in a folder with a readable `manifest.txt`. Nobody but you removes them.

Exit codes: 0 told, also if there are none; 64 there is no such group; 70 no node answers here.";

const PROMOTE: &str = "\
The program is stopped where it runs, the other copies get what it wrote, and it starts on the
node. The same as `apus move` for the group's service.

Exit codes: 0 ordered, and in the log; 64 refused, with the reason; 70 no node answers here.";

const RESYNC: &str = "\
Ask the node that writes. The copy's files are compared with the writer's from the start, while
programs go on; what differs is sent.

Exit codes: 0 begun, or with --wait done; 2 not done in time; 64 refused, or no such group; 70 no
node answers here.";

#[derive(Debug, Args)]
pub(crate) struct ReplArgs {
    #[command(subcommand)]
    pub what: ReplCommand,
    /// The control socket of the node that runs here
    #[arg(long, global = true, value_name = "SOCKET", env = SOCKET_ENV, hide_env_values = true, default_value = CONTROL)]
    pub control: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReplCommand {
    /// Who writes each group, how far each copy is behind, and what is amiss
    #[command(after_help = STATUS)]
    Status {
        /// Only this group
        group: Option<String>,
    },
    /// Look through all copies now, and tell what differs
    #[command(after_help = VERIFY)]
    Verify {
        /// The group
        group: String,
        /// For so many seconds at most
        #[arg(long, value_name = "SECONDS", default_value_t = 3_600)]
        within: u64,
    },
    /// Updates that were saved on this node because no other one had them
    #[command(after_help = ORPHANS)]
    Orphans {
        /// Only of this group
        group: Option<String>,
    },
    /// Have another node's copy be the one that is written
    #[command(after_help = PROMOTE)]
    Promote {
        /// The group
        group: String,
        /// Number of the node
        #[arg(long, value_name = "NODE", value_parser = node_number)]
        to: u16,
        /// Only tell what would happen
        #[arg(long)]
        dry_run: bool,
    },
    /// Compare a copy's files from the start
    #[command(after_help = RESYNC)]
    Resync {
        /// The group
        group: String,
        /// Number of the node whose copy it is
        #[arg(long, value_name = "NODE", value_parser = node_number)]
        node: u16,
        /// Wait until it is done, with a progress line
        #[arg(long)]
        wait: bool,
        /// For so many seconds at most
        #[arg(long, value_name = "SECONDS", default_value_t = 3_600)]
        within: u64,
    },
}

pub(crate) fn repl(args: &ReplArgs, format: Format) -> Result<u8, Trouble> {
    let control = &args.control;
    match &args.what {
        ReplCommand::Status { group } => {
            let status = apus_node::ask(control, &json!({ "do": "files", "group": group }))?;
            if format == Format::Json {
                print::json(&status);
            } else {
                say!("{}", tell(&status));
            }
            let amiss = each(&status["alarms"]).next().is_some();
            Ok(u8::from(amiss))
        }
        ReplCommand::Verify { group, within } => verify(control, group, Duration::from_secs(*within), format),
        ReplCommand::Orphans { group } => {
            let answer = apus_node::ask(control, &json!({ "do": "orphans", "group": group }))?;
            if format == Format::Json {
                print::json(&answer);
            } else {
                say!("{}", orphans(&answer));
            }
            Ok(0)
        }
        ReplCommand::Promote { group, to, dry_run } => promote(control, group, *to, *dry_run, format),
        ReplCommand::Resync { group, node, wait, within } => {
            let wait = wait.then(|| Duration::from_secs(*within));
            resync(control, group, *node, wait, format)
        }
    }
}

fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| "–".into(), |number| number.to_string())
}

/// Such as `900 B`, `12.3 MB`.
fn size(bytes: u64) -> String {
    if bytes < 10_000 { format!("{bytes} B") } else { format!("{}B", print::short(bytes)) }
}

/// An era: the grant, and the life of the daemon that opened the files.
fn era(value: &Value) -> String {
    value.as_u64().map_or_else(|| "–".into(), |era| format!("{}.{}", era >> 20, era & 0xf_ffff))
}

/// What a copy does, for people.
fn doing(copy: &Value) -> String {
    if copy["answers"] == false {
        return "does not answer".into();
    }
    let with = copy["of"].as_u64().map(|of| format!(" node {of}")).unwrap_or_default();
    match (word(&copy["doing"]), copy["compared_thousandths"].as_u64()) {
        ("compares", Some(part)) => format!("compares with{with}, {}.{} %", part / 10, part % 10),
        ("fetches", _) => format!("takes over up to @{}", number(&copy["upto"])),
        (what, _) => format!("{what}{with}"),
    }
}

/// How far behind a copy is: in operations, bytes and time.
pub(crate) fn lag(group: &Value, copy: &Value) -> [String; 3] {
    if copy["node"] == group["writer"] || copy["behind"].is_null() {
        return ["–".into(), "–".into(), "–".into()];
    }
    let us = copy["behind_us"].as_u64().unwrap_or_default();
    let more = copy["behind_more"] == true && copy["behind"].as_u64() > Some(0);
    if more && us == 0 {
        // It was written before the writer's daemon began.
        return [number(&copy["behind"]), "not known".into(), "not known".into()];
    }
    let more = if more { "≥ " } else { "" };
    [
        number(&copy["behind"]),
        format!("{more}{}", size(copy["behind_bytes"].as_u64().unwrap_or_default())),
        format!("{more}{}", length(us / 1_000)),
    ]
}

/// Copies of all groups, in a table.
pub(crate) fn copies(groups: &Value) -> String {
    let mut rows = Vec::new();
    for group in each(groups) {
        for copy in each(&group["copies"]) {
            let [behind, bytes, time] = lag(group, copy);
            rows.push(vec![
                word(&group["group"]).to_owned(),
                number(&copy["node"]),
                doing(copy),
                number(&copy["end"]),
                number(&copy["applied"]),
                behind,
                bytes,
                time,
                number(&copy["orphans"]),
            ]);
        }
    }
    let head = ["FILES", "NODE", "STATE", "LOGGED", "APPLIED", "BEHIND", "BYTES", "TIME", "ORPHANS"];
    table(&head, &[1, 3, 4, 5, 6, 7, 8], &rows)
}

fn tell(status: &Value) -> String {
    let mut out = String::new();
    for alarm in each(&status["alarms"]) {
        let style = if alarm["level"] == "error" { BAD } else { ODD };
        let _ = writeln!(out, "{style}{}{style:#}: {}", word(&alarm["what"]), word(&alarm["mend"]));
    }
    if each(&status["groups"]).next().is_none() {
        out += "no group of files is configured on this node";
        return out;
    }
    for group in each(&status["groups"]) {
        let need = if group["mode"] == "sync" { format!(", {} copies", group["need"]) } else { String::new() };
        let era = group["era"].as_u64().map(|_| format!(", era {}, at @{}", era(&group["era"]), number(&group["end"])));
        let _ = writeln!(
            out,
            "{BOLD}{}{BOLD:#}: {}{need}; written by {}{}",
            word(&group["group"]),
            word(&group["mode"]),
            node(&group["writer"]),
            era.unwrap_or_default()
        );
    }
    let _ = writeln!(out, "\n{}", copies(&status["groups"]));
    for missing in each(&status["missing"]) {
        let _ = writeln!(out, "{DIM}not asked: node {}, {}{DIM:#}", missing["node"], word(&missing["why"]));
    }
    out.truncate(out.trim_end().len());
    out
}

fn orphans(answer: &Value) -> String {
    let row = |one: &Value| {
        let records = match (one["from"].as_u64(), one["upto"].as_u64()) {
            (Some(from), Some(upto)) if from <= upto => format!("@{from} to @{upto}"),
            _ => "none".into(),
        };
        vec![
            word(&one["group"]).to_owned(),
            era(&one["era"]),
            records,
            number(&one["files"]),
            size(one["bytes"].as_u64().unwrap_or_default()),
            word(&one["path"]).to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = each(&answer["orphans"]).map(row).collect();
    if rows.is_empty() {
        return format!("nothing was saved on node {}", answer["node"]);
    }
    table(&["FILES", "ERA", "RECORDS", "WHOLE FILES", "BYTES", "FOLDER"], &[1, 3, 4], &rows)
}

fn promote(control: &Path, group: &str, to: u16, dry_run: bool, format: Format) -> Result<u8, Trouble> {
    let status = apus_node::ask(control, &json!({ "do": "files", "group": group }))?;
    let resource = &status["groups"][0]["resource"];
    let all = apus_node::ask(control, &json!({ "do": "cluster" }))?;
    let lease = each(&all["leases"]).find(|lease| lease["resource"] == *resource);
    let service = lease.map(|lease| word(&lease["name"])).unwrap_or_default();
    let order = json!({ "do": "move", "what": service, "node": to });
    plan::order(control, order, dry_run, format, |_| {
        say!("{group} and {service} go to node {to}; see `apus repl status`");
    })
}

/// `[#####.....]`.
fn bar(thousandths: u64) -> String {
    let full = usize::try_from(thousandths.min(1_000) / 25).unwrap_or(40);
    format!("[{}{}] {}.{} %", "#".repeat(full), ".".repeat(40 - full), thousandths / 10, thousandths % 10)
}

fn group_of(control: &Path, group: &str) -> Result<Value, Trouble> {
    let status = apus_node::ask(control, &json!({ "do": "files", "group": group }))?;
    Ok(status["groups"][0].clone())
}

fn copy_of(group: &Value, node: &Value) -> Value {
    each(&group["copies"]).find(|copy| copy["node"] == *node).cloned().unwrap_or_default()
}

fn verify(control: &Path, group: &str, within: Duration, format: Format) -> Result<u8, Trouble> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
    let until = Instant::now() + within;
    let before = group_of(control, group)?;
    apus_node::ask(control, &json!({ "do": "scrub", "group": group }))?;
    // Those whose files can be looked through; one that is being compared will be alike by that.
    let mut open: Vec<Value> =
        each(&before["copies"]).filter(|copy| copy["follows"] == true).map(|copy| copy["node"].clone()).collect();
    let (looked_at, began) = (open.clone(), Instant::now());
    loop {
        let now = group_of(control, group)?;
        open.retain(|node| {
            let (old, new) = (copy_of(&before, node), copy_of(&now, node));
            let done = new["scrubs"].as_u64() > old["scrubs"].as_u64() && new["scrubbing"] != true;
            // What was found to differ begins to be compared, and counts from nothing again.
            let anew = new["compares"] == true || new["scrubs"].as_u64() < old["scrubs"].as_u64();
            !(done || anew)
        });
        let left: Vec<String> = open.iter().map(|node| format!("node {node}")).collect();
        if open.is_empty() || Instant::now() >= until {
            break;
        }
        print::over(&format!("{group}: looks through {}, since {} s", left.join(", "), began.elapsed().as_secs()));
        std::thread::sleep(LOOK);
    }
    print::over("");
    let mut differs = Vec::new();
    let name = format!(" of {group} at ");
    apus_node::view::stream(control, &json!({ "do": "events", "since_us": since }), |line| {
        if line["part"] == "files" && line["kind"] == "differs" && word(&line["text"]).contains(&name) {
            differs.push(line.clone());
        }
        Flow::More
    })?;
    name_files(control, group, &mut differs);
    let code = if !differs.is_empty() {
        1
    } else if open.is_empty() {
        0
    } else {
        2
    };
    if format == Format::Json {
        let alike = code == 0;
        print::json(
            &json!({ "group": group, "looked_through": looked_at, "alike": alike, "differs": differs, "not_done": open }),
        );
        return Ok(code);
    }
    for line in &differs {
        say!("{BAD}node {}{BAD:#} {}", line["node"], word(&line["text"]));
    }
    match (code, looked_at.len()) {
        (0, 0) => say!("{group}: no copy takes records at present: nothing was looked through"),
        (0, many) => say!("{group}: {} alike with node {}", print::count(many as u64, "copy is"), before["writer"]),
        (1, _) => say!("{group}: copies that differ are compared with node {} now", before["writer"]),
        _ => say!("{group}: not done in time; it goes on"),
    }
    Ok(code)
}

/// The number of the file that a difference is about.
fn file_in(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("file f")?;
    rest.split(' ').next()?.parse().ok()
}

/// Puts paths for numbers, of files that still have one.
fn name_files(control: &Path, group: &str, differs: &mut [Value]) {
    let mut files: Vec<u64> = differs.iter().filter_map(|line| file_in(word(&line["text"]))).collect();
    files.sort_unstable();
    files.dedup();
    files.truncate(1_000);
    let until = Instant::now() + Duration::from_secs(2);
    let mut paths = Value::Null;
    while paths.is_null() && !files.is_empty() && Instant::now() < until {
        let question = json!({ "do": "paths", "group": group, "files": files });
        let Ok(answer) = apus_node::ask(control, &question) else { return };
        paths = answer["paths"].clone();
        std::thread::sleep(Duration::from_millis(20));
    }
    for line in differs {
        let text = word(&line["text"]).to_owned();
        let Some(file) = file_in(&text) else { continue };
        if let Some(path) = paths[file.to_string()].as_str() {
            line["path"] = path.into();
            line["text"] = text.replacen(&format!("file f{file} "), &format!("`{path}` "), 1).into();
        }
    }
}

fn resync(control: &Path, group: &str, node: u16, wait: Option<Duration>, format: Format) -> Result<u8, Trouble> {
    let answer = apus_node::ask(control, &json!({ "do": "compare", "group": group, "node": node }))?;
    let mut done = None;
    if let Some(within) = wait {
        let until = Instant::now() + within;
        let mut begun = false;
        done = Some(false);
        while Instant::now() < until {
            let copy = copy_of(&group_of(control, group)?, &json!(node));
            begun |= copy["doing"] == "compares" || copy["compares"] == true || copy["follows"] == false;
            if begun && copy["doing"] == "follows" && copy["follows"] == true && copy["compares"] == false {
                done = Some(true);
                break;
            }
            print::over(&format!(
                "{group} at node {node}: {}",
                bar(copy["compared_thousandths"].as_u64().unwrap_or(0))
            ));
            // One that is small is over before the next long look.
            std::thread::sleep(if begun { LOOK } else { Duration::from_millis(20) });
        }
        print::over("");
    }
    if format == Format::Json {
        print::json(&json!({ "group": group, "node": node, "begun": answer["done"], "done": done }));
    } else {
        match done {
            None => say!("{group} at node {node} is compared from the start; see `apus repl status`"),
            Some(true) => say!("{group} at node {node} was compared, and follows"),
            Some(false) => say!("{group} at node {node}: not done in time; it goes on"),
        }
    }
    Ok(if done == Some(false) { 2 } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_told_in_a_table() {
        let status = json!({
            "node": 0,
            "groups": [{ "group": "books", "mode": "sync", "need": 2, "writer": 0, "era": 9_437_187, "end": 40, "copies": [
                { "node": 0, "answers": true, "doing": "writes", "end": 40, "applied": 40, "orphans": 0 },
                { "node": 1, "answers": true, "doing": "follows", "of": 0, "end": 38, "applied": 36, "behind": 4, "behind_bytes": 12_345,
                  "behind_us": 1_500_000, "orphans": 1 },
                { "node": 2, "answers": true, "doing": "compares", "of": 0, "compared_thousandths": 423, "end": 9, "applied": 0, "behind": 40,
                  "behind_bytes": 900, "behind_us": 12_000, "behind_more": true },
                { "node": 3, "answers": false, "behind": 40, "behind_bytes": 0, "behind_us": 0, "behind_more": true } ] }],
            "alarms": [{ "level": "warning", "what": "files books at node 1: updates", "mend": "look" }],
            "missing": [{ "node": 3, "why": "it is down" }],
        });
        let plain = anstream::adapter::strip_str(&tell(&status)).to_string();
        insta::assert_snapshot!(plain, @"
        files books at node 1: updates: look
        books: sync, 2 copies; written by node 0, era 9.3, at @40

        FILES  NODE  STATE                         LOGGED  APPLIED  BEHIND      BYTES       TIME  ORPHANS
        books     0  writes                            40       40       –          –          –        0
        books     1  follows node 0                    38       36       4    12.3 kB      1.5 s        1
        books     2  compares with node 0, 42.3 %       9        0      40    ≥ 900 B    ≥ 12 ms        –
        books     3  does not answer                    –        –      40  not known  not known        –
        not asked: node 3, it is down
        ");
        assert_eq!(bar(423), "[################........................] 42.3 %");
    }

    #[test]
    fn a_difference_names_its_file() {
        assert_eq!(file_in("finds block 1 of file f281474976 of books at node 1 to differ"), Some(281_474_976));
        assert_eq!(file_in("finds something else"), None);
    }

    #[test]
    fn saved_updates_are_listed() {
        let none = json!({ "node": 2, "orphans": [] });
        assert_eq!(orphans(&none), "nothing was saved on node 2");
        let some = json!({ "node": 2, "orphans": [{ "group": "books", "era": 9_437_187, "from": 41, "upto": 44, "files": 2, "bytes": 5_000_000,
            "path": "/srv/.db.apus/orphaned-updates/9-41" }] });
        let plain = anstream::adapter::strip_str(&orphans(&some)).to_string();
        insta::assert_snapshot!(plain, @"
        FILES  ERA  RECORDS     WHOLE FILES    BYTES  FOLDER
        books  9.3  @41 to @44            2  5.00 MB  /srv/.db.apus/orphaned-updates/9-41
        ");
    }
}
