//! `--dry-run`: what an order would do, asked of the node and told.

use std::path::Path;

use serde_json::{Value, json};

use crate::Trouble;
use crate::args::Format;
use crate::print::{self, say};

/// Asks what an order would do, and tells it.
pub(crate) fn tell(control: &Path, mut order: Value, format: Format) -> Result<u8, Trouble> {
    order["dry"] = json!(true);
    let plan = apus_node::ask(control, &order)?;
    if format == Format::Json {
        print::json(&plan);
    } else {
        text(&plan);
    }
    Ok(0)
}

/// Gives an order, and has `done` tell people what was answered; with `dry_run` only asks what it would do.
pub(crate) fn order(
    control: &Path,
    order: Value,
    dry_run: bool,
    format: Format,
    done: impl FnOnce(&Value),
) -> Result<u8, Trouble> {
    if dry_run {
        return tell(control, order, format);
    }
    let answer = apus_node::ask(control, &order)?;
    if format == Format::Json {
        print::json(&answer);
    } else {
        done(&answer);
    }
    Ok(0)
}

fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn node(value: &Value) -> String {
    value.as_u64().map_or_else(|| "nobody".into(), |node| format!("node {node}"))
}

/// A plan, for people.
pub(crate) fn text(plan: &Value) {
    let mut any = false;
    let mut line = |text: String| {
        any = true;
        say!("{text}");
    };
    for one in each(&plan["changes"]) {
        let from = if one["from"].is_null() {
            String::new()
        } else {
            format!(" {} to {}", word(&one["from"]), word(&one["to"]))
        };
        let when = if one["when"] == "reload" { "at the next reload" } else { "at once, on all nodes" };
        line(format!("{:<20} {}{}: {}", when, word(&one["what"]), from, word(&one["effect"])));
    }
    for one in each(&plan["resources"]) {
        let name = word(&one["name"]);
        line(match &one["to"] {
            Value::Null => format!(
                "{name} stays with {}: {}, and no other node can have it",
                node(&one["from"]),
                word(&one["why"])
            ),
            to => format!("{name} goes from {} to {}: {}", node(&one["from"]), node(to), word(&one["why"])),
        });
    }
    for one in each(&plan["copies"]) {
        let place = if one["node"].is_null() { "not here".into() } else { format!("on {}", node(&one["node"])) };
        let pid = if one["pid"].is_u64() { format!(", process {},", one["pid"]) } else { String::new() };
        line(format!("{} {place}{pid} {}", word(&one["name"]), word(&one["what"])));
    }
    if let Some(moved) = plan["table"]["clients_moved_per_mille"].as_u64() {
        line(format!("{}.{} % of the clients get another server", moved / 10, moved % 10));
        for one in each(&plan["table"]["servers"]) {
            line(format!("  {:<8} {:>8} slots, then {:>8}", node(&one["node"]), one["slots"], one["then"]));
        }
    }
    if plan["runs"].is_array() {
        line(format!("runs {}", each(&plan["runs"]).map(word).collect::<Vec<_>>().join(" ")));
        line(format!("with {} on its standard input, for {} ms at most", plan["input"], plan["within_ms"]));
    }
    for warning in each(&plan["warnings"]) {
        line(format!("careful: {}", word(warning)));
    }
    if !any {
        say!("nothing would change");
    }
}
