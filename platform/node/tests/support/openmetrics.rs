//! A strict reader of the `OpenMetrics` text format 1.0: what it takes, scrapers take.

use std::collections::{BTreeMap, BTreeSet};

/// A sample: name, labels, value.
pub(crate) type Sample = (String, BTreeMap<String, String>, f64);

/// A family that is open, and what was said of it.
#[derive(Default)]
struct Family {
    name: String,
    kind: String,
    unit: String,
    said: BTreeSet<&'static str>,
    sampled: bool,
}

fn is_name(text: &str, colon: bool) -> bool {
    let fits = |c: char| c.is_ascii_alphabetic() || c == '_' || (colon && c == ':');
    text.starts_with(fits) && text.chars().all(|c| fits(c) || c.is_ascii_digit())
}

/// Labels between braces, and what follows the closing one.
fn labels(text: &str) -> Result<(BTreeMap<String, String>, &str), String> {
    let mut all = BTreeMap::new();
    let mut rest = text;
    loop {
        let (name, after) = rest.split_once("=\"").ok_or_else(|| format!("no label: {rest}"))?;
        if !is_name(name, false) {
            return Err(format!("`{name}` is no label's name"));
        }
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().ok_or("a label does not end")? {
                (at, '"') => break at,
                (_, '\\') => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, c @ ('"' | '\\'))) => value.push(c),
                    other => return Err(format!("an unknown escape: {other:?}")),
                },
                (_, c) => value.push(c),
            }
        };
        if all.insert(name.to_owned(), value).is_some() {
            return Err(format!("label `{name}` twice"));
        }
        rest = &after[end + 1..];
        match rest.chars().next() {
            Some(',') => rest = &rest[1..],
            Some('}') => return Ok((all, &rest[1..])),
            _ => return Err(format!("neither comma nor brace: {rest}")),
        }
    }
}

/// What a family's sample may be called.
fn fits(family: &Family, name: &str) -> bool {
    let Some(end) = name.strip_prefix(family.name.as_str()) else { return false };
    match family.kind.as_str() {
        "counter" => matches!(end, "_total" | "_created"),
        "info" => end == "_info",
        _ => end.is_empty(),
    }
}

/// Reads a whole exposition.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub(crate) fn read(text: &str) -> Result<Vec<Sample>, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("it does not end with `# EOF`")?;
    let mut families = BTreeSet::new();
    let mut series = BTreeSet::new();
    let mut open = Family::default();
    let mut all = Vec::new();
    for (at, line) in body.split_terminator('\n').enumerate() {
        let wrong = |what: &str| format!("line {}: {what}: {line}", at + 1);
        if let Some(said) = line.strip_prefix("# ") {
            let mut words = said.splitn(3, ' ');
            let (what, name, value) = (words.next(), words.next(), words.next());
            let (Some(what), Some(name), Some(value)) = (what, name, value) else {
                return Err(wrong("not three words"));
            };
            let what =
                ["TYPE", "UNIT", "HELP"].into_iter().find(|known| *known == what).ok_or_else(|| wrong("what is it"))?;
            if name != open.name {
                if !is_name(name, true) || !families.insert(name.to_owned()) {
                    return Err(wrong("no name, or this family was there before"));
                }
                open = Family { name: name.into(), kind: "unknown".into(), ..Family::default() };
            }
            if open.sampled || !open.said.insert(what) {
                return Err(wrong("after a sample, or twice"));
            }
            match what {
                "TYPE" if !matches!(value, "counter" | "gauge" | "info" | "stateset" | "unknown") => {
                    return Err(wrong("no type that is used here"));
                }
                "TYPE" => open.kind = value.into(),
                "UNIT" => open.unit = value.into(),
                _ => {}
            }
            if !open.unit.is_empty() && !open.name.ends_with(&format!("_{}", open.unit)) {
                return Err(wrong("the name does not end with the unit"));
            }
            continue;
        }
        let split = line.find(['{', ' ']).ok_or_else(|| wrong("no value"))?;
        let (name, rest) = line.split_at(split);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(inner) => labels(inner).map_err(|what| wrong(&what))?,
            None => (BTreeMap::new(), rest),
        };
        let value = rest.strip_prefix(' ').ok_or_else(|| wrong("no single space before the value"))?;
        let value: f64 = value.parse().map_err(|_| wrong("the value is no number"))?;
        if !fits(&open, name) {
            return Err(wrong(&format!("no sample of the open family `{}` ({})", open.name, open.kind)));
        }
        if open.kind == "counter" && !(value >= 0.0 && value.is_finite()) {
            return Err(wrong("a counter below zero"));
        }
        let binary = value.to_bits() == 0_f64.to_bits() || value.to_bits() == 1_f64.to_bits();
        if open.kind == "stateset" && (!labels.contains_key(&open.name) || !binary) {
            return Err(wrong("no state, or neither 0 nor 1"));
        }
        if open.kind == "info" && value.to_bits() != 1_f64.to_bits() {
            return Err(wrong("an info that is not 1"));
        }
        if !series.insert((name.to_owned(), labels.clone())) {
            return Err(wrong("the same series twice"));
        }
        open.sampled = true;
        all.push((name.to_owned(), labels, value));
    }
    Ok(all)
}
