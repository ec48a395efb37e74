//! Which scenarios are meant, and in which world.

use std::num::NonZeroUsize;
use std::path::Path;

use apus_sim::scenario::{Scenario, nearest, shipped};
use apus_sim::world::WORLDS;

use crate::Trouble;
use crate::args::World;

/// A world that seeds can run in.
pub(crate) type Place = &'static (dyn apus_sim::world::World + Sync);

/// One scenario with where it came from.
#[derive(Clone)]
pub(crate) struct Item {
    pub file: String,
    pub text: String,
    pub scenario: Scenario,
}

impl World {
    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Heap => "heap",
            Self::Turmoil => "turmoil",
            Self::Emulated => "emulated",
            Self::Live => "live",
            Self::All => "all",
        }
    }

    /// Those of the worlds meant that a scenario names.
    pub(crate) fn of(self, scenario: &Scenario) -> Vec<Place> {
        if self == Self::Live {
            return if apus_lab::not_live(scenario).is_empty() { vec![apus_lab::LIVE] } else { Vec::new() };
        }
        let named = |world: &Place| scenario.worlds.iter().any(|name| name == world.name());
        WORLDS.into_iter().filter(|world| self == Self::All || self.name() == world.name()).filter(named).collect()
    }
}

/// Reads what was named. Every problem of every file is told, not only the first.
pub(crate) fn load(names: &[String]) -> Result<Vec<Item>, Trouble> {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for name in names {
        let path = Path::new(name);
        if path.is_dir() {
            files.extend(read_dir(path)?);
        } else if path.exists() {
            files.push((name.clone(), read(path)?));
        } else if let Some((known, text)) = shipped().iter().find(|(known, _)| known == name) {
            files.push(((*known).into(), (*text).into()));
        } else {
            let near = nearest(name, shipped().iter().map(|(known, _)| *known));
            let near = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            return Err(Trouble::Usage(format!(
                "`{name}`: no such file, folder or shipped scenario{near} `apus list scenarios` names them"
            )));
        }
    }
    parse(files)
}

/// The shipped suite.
pub(crate) fn load_shipped() -> Result<Vec<Item>, Trouble> {
    parse(shipped().iter().map(|(name, text)| (format!("{name}.toml"), (*text).into())).collect())
}

fn parse(files: Vec<(String, Vec<u8>)>) -> Result<Vec<Item>, Trouble> {
    let mut items = Vec::new();
    let mut problems = Vec::new();
    for (file, bytes) in files {
        match Scenario::parse_bytes(&file, &bytes) {
            Ok((scenario, text)) => items.push(Item { file, text: text.into(), scenario }),
            Err(found) => problems.push(found),
        }
    }
    if problems.is_empty() { Ok(items) } else { Err(Trouble::Scenarios(problems)) }
}

fn read(path: &Path) -> Result<Vec<u8>, Trouble> {
    std::fs::read(path).map_err(|error| Trouble::Usage(format!("{}: {error}", path.display())))
}

fn read_dir(dir: &Path) -> Result<Vec<(String, Vec<u8>)>, Trouble> {
    let entries = std::fs::read_dir(dir).map_err(|error| Trouble::Usage(format!("{}: {error}", dir.display())))?;
    let mut paths: Vec<_> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    if paths.is_empty() {
        return Err(Trouble::Usage(format!("{}: no *.toml in this folder", dir.display())));
    }
    paths.iter().map(|path| Ok((path.display().to_string(), read(path)?))).collect()
}

/// As many threads as asked for, or as there are processors.
pub(crate) fn jobs(asked: Option<NonZeroUsize>) -> usize {
    asked.or_else(|| std::thread::available_parallelism().ok()).map_or(1, usize::from)
}
