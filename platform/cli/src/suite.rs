//! Which scenarios, seeds and times are meant.

use std::path::Path;
use std::time::Duration;

use apus_sim::scenario::{Scenario, shipped};

use crate::Trouble;

/// One scenario with where it came from.
pub(crate) struct Item {
    pub file: String,
    pub text: String,
    pub scenario: Scenario,
}

/// Reads what was named. Every problem of every file is told, not only the first.
pub(crate) fn load(names: &[String]) -> Result<Vec<Item>, Trouble> {
    let mut texts: Vec<(String, String)> = Vec::new();
    for name in names {
        let path = Path::new(name);
        if path.is_dir() {
            texts.extend(read_dir(path)?);
        } else if path.exists() {
            texts.push((name.clone(), read(path)?));
        } else if let Some((known, text)) = shipped().iter().find(|(known, _)| known == name) {
            texts.push(((*known).into(), (*text).into()));
        } else {
            return Err(Trouble::Usage(format!(
                "`{name}`: no such file, folder or shipped scenario; see `apus list scenarios`"
            )));
        }
    }
    parse(texts)
}

/// The shipped suite.
pub(crate) fn load_shipped() -> Result<Vec<Item>, Trouble> {
    parse(shipped().iter().map(|(name, text)| (format!("{name}.toml"), (*text).into())).collect())
}

fn parse(texts: Vec<(String, String)>) -> Result<Vec<Item>, Trouble> {
    let mut items = Vec::new();
    let mut problems = Vec::new();
    for (file, text) in texts {
        match Scenario::parse(&file, &text) {
            Ok(scenario) => items.push(Item { file, text, scenario }),
            Err(found) => problems.push(found.to_string()),
        }
    }
    if problems.is_empty() { Ok(items) } else { Err(Trouble::Usage(format!("bad scenario\n{}", problems.join("\n")))) }
}

fn read(path: &Path) -> Result<String, Trouble> {
    std::fs::read_to_string(path).map_err(|error| Trouble::Usage(format!("{}: {error}", path.display())))
}

fn read_dir(dir: &Path) -> Result<Vec<(String, String)>, Trouble> {
    let entries = std::fs::read_dir(dir).map_err(|error| Trouble::Usage(format!("{}: {error}", dir.display())))?;
    let mut paths: Vec<_> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    if paths.is_empty() {
        return Err(Trouble::Usage(format!("{}: no *.toml in this folder", dir.display())));
    }
    paths.iter().map(|path| Ok((path.display().to_string(), read(path)?))).collect()
}

/// `A..B`.
pub(crate) fn seeds(text: &str) -> Result<(u64, u64), Trouble> {
    let wrong = || Trouble::Usage(format!("--seeds `{text}`: want A..B with A below B, such as 0..1000"));
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let from = if from.is_empty() { 0 } else { from.parse().map_err(|_| wrong())? };
    let to = to.parse().map_err(|_| wrong())?;
    if from < to { Ok((from, to)) } else { Err(wrong()) }
}

/// `I/N`.
pub(crate) fn shard(text: &str) -> Result<(u64, u64), Trouble> {
    let wrong = || Trouble::Usage(format!("--shard `{text}`: want I/N with I below N, such as 0/4"));
    let (i, n) = text.split_once('/').ok_or_else(wrong)?;
    let (i, n) = (i.parse().map_err(|_| wrong())?, n.parse().map_err(|_| wrong())?);
    if i < n { Ok((i, n)) } else { Err(wrong()) }
}

/// The seed of a commit: the first 16 hex digits of its hash.
pub(crate) fn commit(text: &str) -> Result<u64, Trouble> {
    let digits: String = text.chars().take(16).collect();
    let wrong = || Trouble::Usage(format!("--seed-from-commit `{text}`: want a hash of at least 7 hex digits"));
    if digits.len() < 7 {
        return Err(wrong());
    }
    u64::from_str_radix(&digits, 16).map_err(|_| wrong())
}

/// `20m`, `60s`, `500ms`.
pub(crate) fn duration(what: &str, text: &str) -> Result<Duration, Trouble> {
    let wrong = || Trouble::Usage(format!("{what} `{text}`: want a whole number and ms, s, m or h, such as 90s"));
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: u64 = text[..at].parse().map_err(|_| wrong())?;
    let ms = match &text[at..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    Ok(Duration::from_millis(number.saturating_mul(ms)))
}

/// As many threads as asked for, or as there are processors.
pub(crate) fn jobs(asked: Option<usize>) -> usize {
    asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1)
}
