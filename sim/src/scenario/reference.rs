//! The tables of docs/scenarios.md, made from the parser's own key tables.

use std::fmt::Write as _;

use super::keys::{Shape, TABLES};
use super::units::{show_bytes, show_share, show_time};
use crate::checker::names::NAMES;
use crate::fault::{Aim, Kind, Unit};
use crate::goal::GOALS;

/// Keys, kinds, checkers and goals as Markdown.
#[must_use]
pub fn reference() -> String {
    let mut out = String::new();
    keys(&mut out);
    kinds(&mut out);
    checkers(&mut out);
    goals(&mut out);
    out
}

fn line(out: &mut String, cells: &[&str]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

fn keys(out: &mut String) {
    for table in TABLES {
        let title = if table.name.is_empty() { "The top of the file".to_owned() } else { format!("`{}`", table.name) };
        let _ = writeln!(out, "### {title}\n\n{}\n", table.about);
        line(out, &["key", "value", "default", "meaning"]);
        line(out, &["---", "---", "---", "---"]);
        for key in table.keys {
            line(
                out,
                &[&format!("`{}`", key.name), &value(key.shape), key.default.unwrap_or("**must be there**"), key.about],
            );
        }
        out.push('\n');
    }
}

fn value(shape: Shape) -> String {
    match shape {
        Shape::Text => "text".into(),
        Shape::Name => "name".into(),
        Shape::Word(words) if words.all().len() <= 4 => {
            words.all().iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
        }
        Shape::Word(words) => format!("{} (below)", words.noun()),
        Shape::WordList(words) if words.all().len() <= 4 => {
            format!("list of {}", words.all().iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "))
        }
        Shape::WordList(words) => format!("list of {}s (below)", words.noun()),
        Shape::NameList => "list of names".into(),
        Shape::Count(least, most) => format!("{least} to {most}"),
        Shape::Counts(least, most) => format!("{least} to {most}, or a range"),
        Shape::Flag => "`true`, `false`".into(),
        Shape::Time(..) => "duration".into(),
        Shape::Times(..) => "duration, or a range".into(),
        Shape::TimeList(..) => "list of durations".into(),
        Shape::Share(most) => format!("share up to {}", show_share(most)),
        Shape::Shares(_) => "share, or a range".into(),
        Shape::Sizes => "size in the kind's unit, or a range".into(),
        Shape::Target => "target".into(),
        Shape::Reasons => "table: checker = reason".into(),
        Shape::Table(_) => "table".into(),
        Shape::Tables(_) => "tables".into(),
        Shape::ByKind(_) => "table by kind of fault".into(),
    }
}

fn kinds(out: &mut String) {
    let _ = writeln!(out, "### Kinds of faults\n");
    line(
        out,
        &[
            "kind",
            "code",
            "what happens",
            "target means",
            "`for`",
            "`rate`: usual, most",
            "`size`: usual, most",
            "worlds",
        ],
    );
    line(out, &["---", "---", "---", "---", "---", "---", "---", "---"]);
    for kind in Kind::ALL {
        let spec = kind.spec();
        let rate = spec.rate.map_or_else(String::new, |(usual, most)| {
            format!("{}, {}", show_share(usual.into()), show_share(most.into()))
        });
        let size = spec.size.map_or_else(String::new, |(unit, usual, most)| size(*kind, unit, usual, most));
        let lasts = if spec.lasts { "yes" } else { "" };
        let name = format!("`{}`", spec.name);
        line(out, &[&name, spec.code, spec.about, aim(spec.aim), lasts, &rate, &size, &spec.worlds.join(", ")]);
    }
    out.push('\n');
}

fn size(kind: Kind, unit: Unit, usual: u64, most: u64) -> String {
    if kind == Kind::DropKind {
        let names: Vec<String> = super::parse::packet_kind_names().iter().map(|name| format!("`{name}`")).collect();
        return format!("one of {}", names.join(", "));
    }
    let show = |value| match unit {
        Unit::Time => show_time(value),
        Unit::Bytes => show_bytes(value),
        Unit::Ppm => show_share(value),
        Unit::Count => value.to_string(),
        Unit::Bandwidth => format!("{}/s", show_bytes(value)),
    };
    format!("{}, {}", show(usual), show(most))
}

const fn aim(aim: Aim) -> &'static str {
    match aim {
        Aim::Links => "their links",
        Aim::Cut => "they against the rest",
        Aim::Nodes => "the nodes",
        Aim::Disks => "their disks",
        Aim::Clocks => "their clocks",
        Aim::Programs => "programs there",
        Aim::Cluster => "the cluster, or whom it is about",
    }
}

fn checkers(out: &mut String) {
    let _ = writeln!(out, "### Checkers\n");
    line(out, &["checker", "what must hold", "kind", "source"]);
    line(out, &["---", "---", "---", "---"]);
    for row in NAMES {
        let kind = if row.liveness { "liveness" } else { "safety" };
        line(out, &[&format!("`{}`", row.name), row.property, kind, row.source]);
    }
    out.push('\n');
}

fn goals(out: &mut String) {
    let _ = writeln!(out, "### Goals\n");
    line(out, &["goal", "reached when"]);
    line(out, &["---", "---"]);
    for goal in GOALS {
        line(out, &[&format!("`{}`", goal.name), goal.about]);
    }
}
