//! `apus status`, `apus events`, `apus why`.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use apus_node::view::{Entry, Flow, Health};
use serde_json::{Value, json};

use crate::args::{EventArgs, Format, MoveArgs, StatusArgs, WhyArgs};
use crate::print::{self, BAD, BOLD, DIM, GOOD, ODD, say};
use crate::{Trouble, VERSION, plan};

/// Such as `412 ms`, `7.3 s`, `12 min`.
pub(crate) fn length(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        60_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

/// Time of day, by this machine's zone where it says which that is.
pub(crate) fn clock(us: u64) -> String {
    let (hour, minute, second) = time_of_day(us / 1_000_000);
    format!("{hour:02}:{minute:02}:{second:02}.{:03}", us / 1_000 % 1_000)
}

#[cfg(target_os = "linux")]
fn time_of_day(seconds: u64) -> (u64, u64, u64) {
    apus_os::linux::clock::local_time(seconds)
}

/// UTC.
#[cfg(not(target_os = "linux"))]
fn time_of_day(seconds: u64) -> (u64, u64, u64) {
    (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60)
}

/// A line for systemd's journal, which has a clock of its own.
pub(crate) fn journal_line(entry: &Entry) -> String {
    format!("<{}>{}: {}", entry.level().priority(), entry.part, entry.text)
}

fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| "–".into(), |number| number.to_string())
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Of a node, or nobody.
pub(crate) fn node(value: &Value) -> String {
    value.as_u64().map_or_else(|| "nobody".into(), |node| format!("node {node}"))
}

/// Columns under heads, each as wide as its longest word; `right` are aligned to the right.
pub(crate) fn table(head: &[&str], right: &[usize], rows: &[Vec<String>]) -> String {
    let chars = |text: &str| text.chars().count();
    let width = |at: usize| rows.iter().map(|row| chars(&row[at])).chain([chars(head[at])]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = String::new();
    let mut put = |cells: &[&str], style: anstyle::Style| {
        let mut line = String::new();
        for (at, cell) in cells.iter().enumerate() {
            let pad = " ".repeat(widths[at] - chars(cell));
            let gap = if at == 0 { "" } else { "  " };
            let _ =
                if right.contains(&at) { write!(line, "{gap}{pad}{cell}") } else { write!(line, "{gap}{cell}{pad}") };
        }
        let _ = writeln!(out, "{style}{}{style:#}", line.trim_end());
    };
    put(head, DIM);
    for row in rows {
        put(&row.iter().map(String::as_str).collect::<Vec<_>>(), anstyle::Style::new());
    }
    out.truncate(out.trim_end().len());
    out
}

/// What a script asks for: 0, 1 or 2.
pub(crate) fn code(status: &Value) -> u8 {
    match Health::of(status) {
        Health::Good => 0,
        Health::Degraded => 1,
        Health::NoQuorum => 2,
    }
}

pub(crate) fn status(args: &StatusArgs, format: Format) -> Result<u8, Trouble> {
    let status = apus_node::ask(&args.control, &json!({ "do": "cluster" }))?;
    if format == Format::Json {
        print::json(&status);
    } else {
        say!("{}", tell(&status));
    }
    Ok(code(&status))
}

/// Everything in tables.
pub(crate) fn tell(status: &Value) -> String {
    let mut out = String::new();
    let health = Health::of(status);
    let style = match health {
        Health::Good => GOOD,
        Health::Degraded => ODD,
        Health::NoQuorum => BAD,
    };
    let _ = write!(out, "{BOLD}cluster {}{BOLD:#}, as node {} sees it: ", status["cluster"], status["node"]);
    let _ = writeln!(out, "{style}{}{style:#}", health.name());
    let quorum = &status["quorum"];
    if status["state"] == "running" {
        let _ = writeln!(
            out,
            "coordinator {}, term {}; {} of {} voters up; log #{}, epoch {}",
            node(&status["coordinator"]),
            status["term"],
            quorum["up"],
            quorum["of"],
            status["commit"],
            number(&status["epoch"]),
        );
    }
    for alarm in each(&status["alarms"]) {
        let style = if alarm["level"] == "error" { BAD } else { ODD };
        let _ = writeln!(out, "{style}{}{style:#}: {}", word(&alarm["what"]), word(&alarm["mend"]));
    }
    let _ = writeln!(out, "\n{}", nodes(status));
    if each(&status["leases"]).next().is_some() {
        let _ = writeln!(out, "\n{}", leases(status));
    }
    if each(&status["services"]).next().is_some() {
        let _ = writeln!(out, "\n{}", services(status));
    }
    if each(&status["files"]).next().is_some() {
        let _ = writeln!(out, "\n{}", crate::repl::copies(&status["files"]));
    }
    for missing in each(&status["missing"]) {
        let _ = writeln!(out, "{DIM}not asked: node {}, {}{DIM:#}", missing["node"], word(&missing["why"]));
    }
    out.truncate(out.trim_end().len());
    out
}

fn nodes(status: &Value) -> String {
    let row = |one: &Value| {
        let mut roles = Vec::new();
        for (field, role) in [("coordinator", "coordinator"), ("dispatcher", "dispatcher"), ("drained", "drained")] {
            if one[field] == true {
                roles.push(role);
            }
        }
        if one["maintenance"].is_object() {
            roles.retain(|role| *role != "drained");
            roles.push("maintenance");
        }
        if one["voter"] != true {
            roles.push("no vote");
        }
        let held = each(&status["leases"]).filter(|lease| lease["holder"] == one["node"]).count();
        let clock = one["clock_us"].as_i64().map_or_else(
            || "–".into(),
            |ahead| {
                format!(
                    "{}{}.{} ms",
                    if ahead < 0 { "-" } else { "+" },
                    ahead.unsigned_abs() / 1_000,
                    ahead.unsigned_abs() % 1_000 / 100
                )
            },
        );
        vec![
            number(&one["node"]),
            word(&one["status"]).to_owned(),
            if roles.is_empty() { "–".into() } else { roles.join(", ") },
            held.to_string(),
            number(&one["life"]),
            one["up_s"].as_u64().map_or_else(|| "–".into(), |up| length(up.saturating_mul(1_000))),
            if one["node"] == status["node"] { "this".into() } else { clock },
            word(&one["address"]).to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = each(&status["nodes"]).map(row).collect();
    table(&["NODE", "STATE", "ROLES", "LEASES", "LIFE", "UP FOR", "CLOCK", "ADDRESS"], &[0, 3, 4, 5, 6], &rows)
}

fn leases(status: &Value) -> String {
    let row = |lease: &Value| {
        let left = match (&lease["holder"], lease["left_ms"].as_u64()) {
            (Value::Null, _) => "–".into(),
            (_, Some(left)) => length(left),
            (_, None) => "not known".into(),
        };
        let to = if lease["moving"].is_null() { String::new() } else { "on its way".into() };
        vec![word(&lease["name"]).to_owned(), node(&lease["holder"]), number(&lease["epoch"]), left, to]
    };
    let rows: Vec<Vec<String>> = each(&status["leases"]).map(row).collect();
    table(&["LEASE", "HOLDER", "EPOCH", "LEFT", ""], &[2, 3], &rows)
}

fn services(status: &Value) -> String {
    let row = |one: &Value| {
        let others = each(&one["copies"]).filter(|copy| copy["node"] != one["node"]);
        let others: Vec<String> = others.map(|copy| format!("{} {}", copy["node"], word(&copy["state"]))).collect();
        vec![
            format!("{}.{}", word(&one["name"]), one["slot"]),
            number(&one["node"]),
            word(&one["state"]).to_owned(),
            number(&one["pid"]),
            one["running_ms"].as_u64().map_or_else(|| "–".into(), length),
            number(&one["restarts"]),
            if others.is_empty() { "–".into() } else { others.join(", ") },
            one["last_end"].as_str().map_or_else(|| "–".into(), str::to_owned),
        ]
    };
    let rows: Vec<Vec<String>> = each(&status["services"]).map(row).collect();
    let head = ["SERVICE", "NODE", "STATE", "PID", "RUNNING", "RESTARTS", "OTHER COPIES", "LAST END"];
    table(&head, &[1, 3, 4, 5], &rows)
}

pub(crate) fn hand_over(args: &MoveArgs, format: Format) -> Result<u8, Trouble> {
    let order = json!({ "do": "move", "what": args.what, "node": args.to });
    plan::order(&args.control, order, args.dry_run, format, |_| {
        say!("{} goes to node {}; see `apus status`", args.what, args.to);
    })
}

pub(crate) fn events(args: &EventArgs, format: Format) -> Result<u8, Trouble> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = args.since.map(|since| u64::try_from(now.saturating_sub(since).as_micros()).unwrap_or(u64::MAX));
    let question = json!({ "do": "events", "since_us": since, "node": args.node, "follow": args.follow });
    let mut missing = false;
    apus_node::view::stream(&args.control, &question, |line| {
        if line.get("end").is_some() {
            missing = each(&line["missing"]).next().is_some();
            if format != Format::Json {
                tell_missing(line);
            }
        }
        if format == Format::Json {
            print::line(line);
        } else if line.get("end").is_none() {
            say!("{}", event(line));
        }
        if print::failed().is_some() { Flow::Enough } else { Flow::More }
    })?;
    Ok(u8::from(missing))
}

/// A line of a journal, for people.
pub(crate) fn event(line: &Value) -> String {
    let style = match word(&line["level"]) {
        "error" => BAD,
        "warning" => ODD,
        _ => anstyle::Style::new(),
    };
    let at = clock(line["at_us"].as_u64().unwrap_or_default());
    format!(
        "{DIM}{at}{DIM:#}  node {:<3} {:<9} {style}{}{style:#}",
        line["node"],
        word(&line["part"]),
        word(&line["text"])
    )
}

fn tell_missing(answer: &Value) {
    for missing in each(&answer["missing"]) {
        say!("{DIM}the journal of node {} is missing: {}{DIM:#}", missing["node"], word(&missing["why"]));
    }
}

pub(crate) fn why(args: &WhyArgs, format: Format) -> Result<u8, Trouble> {
    if args.what.ends_with(".json") {
        let mend = "an artifact also needs a node and a time, such as n2 7.5s";
        return Err(Trouble::Usage(format!("{}: {mend}", args.what)));
    }
    let answer = match apus_node::ask(&args.control, &json!({ "do": "why", "of": args.what })) {
        Err(apus_node::Error::Usage(what)) if what.contains("journals tell nothing") => {
            if format == Format::Json {
                print::json(&json!({ "apus": VERSION, "exit_code": 3, "error": what }));
            } else {
                print::error(&what);
            }
            return Ok(3);
        }
        other => other?,
    };
    if format == Format::Json {
        print::json(&answer);
    } else {
        say!("{}", story(&answer));
        tell_missing(&answer);
    }
    Ok(0)
}

/// A story, for people.
pub(crate) fn story(answer: &Value) -> String {
    let mut out = format!("{BOLD}{}{BOLD:#}\n", word(&answer["headline"]));
    if let Some(many) = answer["left_out"].as_u64().filter(|many| *many > 0) {
        let _ = writeln!(out, "{DIM}… {many} earlier steps{DIM:#}");
    }
    let first = answer["steps"][0]["at_us"].as_i64().unwrap_or_default();
    for step in each(&answer["steps"]) {
        // Each on the clock of the node that tells it; the second column is on one clock for all.
        let after = step["at_us"].as_i64().unwrap_or_default() - first;
        let sign = if after < 0 { '-' } else { '+' };
        let after = after.unsigned_abs();
        let _ = writeln!(
            out,
            "{DIM}{}  {sign}{}.{:03}{DIM:#}  node {:<3} {}",
            clock(step["wall_us"].as_u64().unwrap_or_default()),
            after / 1_000_000,
            after / 1_000 % 1_000,
            step["node"],
            word(&step["text"]),
        );
    }
    if let Some(outage) = answer["outage_us"].as_u64() {
        let _ = writeln!(out, "from the first lost probe until it was held again: {} ms", outage / 1_000);
    }
    let far = |clock: &&Value| clock["ahead_us"].as_i64().unwrap_or_default().unsigned_abs() > 1_000;
    for clock in each(&answer["clocks"]).filter(far) {
        let ahead = clock["ahead_us"].as_i64().unwrap_or_default();
        let way = if ahead > 0 { "ahead of" } else { "behind" };
        let within = clock["within_us"].as_u64().unwrap_or_default();
        let _ = writeln!(
            out,
            "{DIM}the clock of node {} is {} ms {way} this one's, to {} ms{DIM:#}",
            clock["node"],
            ahead.unsigned_abs() / 1_000,
            within / 1_000 + 1,
        );
    }
    out.truncate(out.trim_end().len());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let rows = [vec!["a".into(), "1".into()], vec!["long – word".into(), "22".into()]];
        let text = anstream::adapter::strip_str(&table(&["WORD", "N"], &[1], &rows)).to_string();
        assert_eq!(text, "WORD          N\na             1\nlong – word  22");
    }

    #[test]
    fn lengths_of_time_are_short() {
        let all: Vec<String> = [0, 999, 1_250, 61_000, 7_300_000, 200_000_000].into_iter().map(length).collect();
        assert_eq!(all.join(", "), "0 ms, 999 ms, 1.2 s, 1 min, 2 h, 2 d");
    }
}
