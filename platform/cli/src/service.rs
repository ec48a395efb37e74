//! `apus service`, `apus hbeat`, and the keepers that a node starts.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Trouble;
use crate::args::{Format, ServiceArgs, ServiceCommand};
use crate::print::{self, say};

pub(crate) fn service(args: &ServiceArgs, format: Format) -> Result<u8, Trouble> {
    match args.what {
        ServiceCommand::Status => {
            let status = apus_node::ask(&args.control, &json!({ "do": "services" }))?;
            if format == Format::Json { print::json(&status) } else { tell(&status) }
        }
    }
    Ok(0)
}

pub(crate) fn hbeat(thread: u32, timeout: Duration) -> Result<u8, Trouble> {
    apus_node::hbeat(thread, timeout)?;
    Ok(0)
}

pub(crate) fn keep(folder: &Path) -> Result<u8, Trouble> {
    apus_node::keep(folder)?;
    Ok(0)
}

/// This process serves a group's folder by a mount, for the daemon that started it.
pub(crate) fn fallback(root: &Path, patterns: &[String]) -> Result<u8, Trouble> {
    apus_node::fallback(root, patterns)?;
    Ok(0)
}

/// A line for each slot, and what there is to say of it below.
fn tell(status: &Value) {
    let rows = status["services"].as_array().cloned().unwrap_or_default();
    if rows.is_empty() {
        say!("no service is configured");
        return;
    }
    say!(
        "{:<24} {:<6} {:<13} {:>8} {:>9} {:>8} {:>9}",
        "SERVICE",
        "NODE",
        "STATE",
        "PID",
        "RUNNING",
        "RESTARTS",
        "LEASE"
    );
    for row in rows {
        let name = format!("{}.{}", row["name"].as_str().unwrap_or_default(), row["slot"]);
        let or_dash = |value: &Value| value.as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string());
        let time = |value: &Value| value.as_u64().map_or_else(|| "-".to_owned(), length);
        let here = row["here"] == true;
        let elsewhere = !here && row["node"].is_u64() && row["node"] != status["node"];
        let state = if elsewhere { "there" } else { row["state"].as_str().unwrap_or_default() };
        let lease = if row["fenced"] == false { "none".to_owned() } else { time(&row["lease_ms"]) };
        say!(
            "{name:<24} {:<6} {state:<13} {:>8} {:>9} {:>8} {lease:>9}",
            or_dash(&row["node"]),
            or_dash(&row["pid"]),
            time(&row["running_ms"]),
            row["restarts"],
        );
        if let Some(next) = row["next_ms"].as_u64() {
            say!("    tried again in {}", length(next));
        }
        if let Some(end) = row["last_end"].as_str() {
            say!("    the last one ended {} ago: {end}", time(&row["last_end_ms_ago"]));
        }
        if let Some(note) = row["note"].as_str().filter(|note| !note.is_empty()) {
            say!("    {note}");
        }
    }
}

/// Such as `412 ms`, `7.3 s`, `12 min`.
#[expect(clippy::match_overlapping_arm, reason = "the first that holds")]
fn length(ms: u64) -> String {
    match ms {
        ..1_000 => format!("{ms} ms"),
        ..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        ..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}
