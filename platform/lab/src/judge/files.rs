//! The verdict on replicated files, by what programs told and by what lies on the disks.

use std::collections::BTreeMap;
use std::path::PathBuf;

use apus_engine::Mode;
use apus_sim::fault::{Kind, Ns};
use apus_sim::report::Violation;
use apus_sim::trace::What as Done;

use super::{Court, Evidence};
use crate::rows::{self, CURRENT, PAGES, ROWS, Said, What, line};

/// Bytes that a difference is told by.
const BLOCK: usize = 4_096;

/// A tree as names and contents.
pub(crate) type Tree = BTreeMap<PathBuf, Vec<u8>>;

/// What is there at the end of a run.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// What programs told, oldest first.
    pub(crate) said: Vec<Said>,
    /// The tree of each copy whose machine there is.
    pub(crate) trees: BTreeMap<u16, Tree>,
    /// Every file among what copies saved.
    pub(crate) saved: Vec<Vec<u8>>,
    /// Whether all copies came to have what the writer has.
    pub(crate) settled: Result<(), String>,
}

impl Files {
    fn has_saved(&self, row: u64, life: &str) -> bool {
        let line = line(row, life);
        self.saved.iter().any(|bytes| bytes.windows(line.len()).any(|window| window == line.as_bytes()))
    }
}

impl Court {
    /// What programs found and were told, and all trees.
    pub(super) fn files(&mut self, evidence: &Evidence) {
        let Some(files) = &evidence.files else { return };
        let at = |said: &Said| said.at.saturating_sub(evidence.start);
        let mut found = self.found(evidence, files);
        found.extend(alone(files).map(|(said, what)| Violation {
            checker: "files-one-writer",
            liveness: false,
            at: at(said),
            what,
        }));
        for violation in found {
            self.blame(Some(violation));
        }
        for (node, tree) in &files.trees {
            if let Some(wrong) = state(tree).wrong {
                self.say("files-prefix", false, evidence.end, format!("n{node}: {wrong}"));
            }
        }
        let healed = evidence.done.iter().find(|line| line.what == Done::Healed).map_or(0, |line| line.at);
        if !files.said.iter().any(|said| said.what == What::Kept && at(said) > healed) {
            let what = "no program was told after healing that its files are kept".into();
            self.say("files-go-on", true, evidence.end, what);
        }
        if let Err(what) = &files.settled {
            self.say("files-equal", true, evidence.end, what.clone());
        } else if let Some(what) = differ(&files.trees) {
            self.say("files-equal", true, evidence.end, what);
        }
    }

    /// What a program found of what earlier ones were told to be kept.
    fn found(&self, evidence: &Evidence, files: &Files) -> Vec<Violation> {
        let scenario = &evidence.plan.scenario;
        let sync = scenario.files.as_ref().is_some_and(|files| files.mode == Mode::Sync);
        let orders = |kind: &Kind| matches!(kind, Kind::Drain | Kind::MoveHolder);
        let planned = evidence.plan.faults.iter().all(|fault| orders(&fault.kind));
        // Who was told so of each row last. What a later program writes anew is another row of the same number.
        let mut kept: BTreeMap<u64, &Said> = BTreeMap::new();
        let mut told = 0;
        let mut out = Vec::new();
        for said in &files.said {
            let at: Ns = said.at.saturating_sub(evidence.start);
            let mut wrong = |checker, what| out.push(Violation { checker, liveness: false, at, what });
            match &said.what {
                What::Kept => {
                    kept.extend((told + 1..=said.row).map(|row| (row, said)));
                    told = said.row;
                }
                What::Found(mistake) => {
                    if let Some(mistake) = mistake {
                        wrong("files-prefix", format!("{} finds {mistake}", said.life));
                    }
                    let lost = kept.split_off(&(said.row + 1));
                    told = said.row.min(told);
                    let Some((first, by)) = lost.first_key_value() else { continue };
                    let what = format!(
                        "{} finds {} rows; {} was told {} ms before that row {first} is kept, and {} more",
                        said.life,
                        said.row,
                        by.life,
                        (said.at - by.at) / 1_000_000,
                        lost.len() - 1,
                    );
                    if planned {
                        wrong("files-nothing-lost", what);
                    } else if sync {
                        wrong("files-kept", what);
                    } else if let Some((row, by)) = lost.iter().find(|(row, by)| !files.has_saved(**row, &by.life)) {
                        wrong(
                            "files-orphans",
                            format!("{what}; row {row} of {} is among nothing that was saved", by.life),
                        );
                    }
                }
            }
        }
        out
    }
}

/// The state that a tree is in.
fn state(tree: &Tree) -> rows::Found {
    let file = |name: &str| tree.get(&PathBuf::from(name)).map(|bytes| &bytes[..]);
    rows::judge(file(ROWS), file(PAGES), file(CURRENT))
}

/// A program that was told that something is kept after another one began.
fn alone(files: &Files) -> Option<(&Said, String)> {
    let mut last: Option<&Said> = None;
    for said in &files.said {
        match &said.what {
            What::Found(_) => last = Some(said),
            What::Kept => {
                if let Some(newer) = last.filter(|newer| newer.life != said.life) {
                    let late = (said.at - newer.at) / 1_000_000;
                    return Some((
                        said,
                        format!(
                            "{} is told that row {} is kept {late} ms after {} began",
                            said.life, said.row, newer.life
                        ),
                    ));
                }
            }
        }
    }
    None
}

/// How trees differ, if they do.
pub(crate) fn differ(trees: &BTreeMap<u16, Tree>) -> Option<String> {
    let (first, model) = trees.first_key_value()?;
    for (node, tree) in trees.iter().skip(1) {
        let names = model.keys().chain(tree.keys());
        for name in names {
            let (one, other) = (model.get(name), tree.get(name));
            if one == other {
                continue;
            }
            let name = name.display();
            let (Some(one), Some(other)) = (one, other) else {
                let has = if one.is_some() { first } else { node };
                return Some(format!("`{name}` is there on n{has} alone, of n{first} and n{node}"));
            };
            let block = one.chunks(BLOCK).zip(other.chunks(BLOCK)).position(|(one, other)| one != other);
            let place = block.map_or_else(|| "in length".into(), |block| format!("in block {block}"));
            return Some(format!("`{name}` differs {place} between n{first} and n{node}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use apus_sim::scenario::{Plan, Scenario};

    use super::*;
    use crate::judge::judge;

    fn said(at: u64, life: &str, row: u64, what: What) -> Said {
        Said { at: at * 1_000_000, life: life.into(), row, what }
    }

    /// Six rows as `n0.1` wrote them, and two that `n1.2` wrote after it.
    fn tree_of(lives: &[&str]) -> Tree {
        let mut tree = Tree::new();
        let lines = (1..).zip(lives).flat_map(|(row, life)| line(row, life).into_bytes()).collect();
        tree.insert(ROWS.into(), lines);
        let pages = (0..8).flat_map(|page| if page == 0 { vec![0; 4_096] } else { rows::page(page) });
        let upto = 4_096 * (lives.len() + 1);
        tree.insert(PAGES.into(), pages.take(upto).collect());
        tree
    }

    fn evidence(mode: &str, fault: &str) -> Evidence {
        let text = format!(
            "name = \"x\"\nabout = \"y\"\nnodes = 3\nduration = \"5s\"\nheal = \"3s\"\n[[service]]\nname = \"s\"\n[files]\nmode = \"{mode}\"\n\
             [[fault]]\nkind = \"{fault}\"\nat = \"2s\"\nfor = \"1s\"\ntarget = \"n0\"\n"
        );
        let plan = Plan::draw(&Scenario::parse("x", &text).expect("it is sound"), 0);
        let tree = tree_of(&["n0.1", "n0.1", "n0.1", "n0.1", "n1.2", "n1.2"]);
        Evidence {
            plan,
            start: 0,
            end: 8_000_000_000,
            told: vec![Vec::new(); 3],
            done: Vec::new(),
            powerless: Vec::new(),
            well: Ok(0),
            asked: Vec::new(),
            reigns: None,
            files: Some(Files {
                said: vec![
                    said(100, "n0.1", 0, What::Found(None)),
                    said(200, "n0.1", 4, What::Kept),
                    said(3_000, "n1.2", 4, What::Found(None)),
                    said(3_100, "n1.2", 6, What::Kept),
                ],
                trees: (0..3).map(|node| (node, tree.clone())).collect(),
                saved: Vec::new(),
                settled: Ok(()),
            }),
        }
    }

    fn verdict(mode: &str, fault: &str, change: impl FnOnce(&mut Files)) -> Option<&'static str> {
        let mut evidence = evidence(mode, fault);
        if let Some(files) = &mut evidence.files {
            change(files);
        }
        judge(&evidence).violation.map(|violation| violation.checker)
    }

    #[test]
    fn what_is_wrong_with_files_is_found_by_its_checker() {
        let sync = |change: fn(&mut Files)| verdict("sync", "power-off", change);
        assert_eq!(sync(|_| {}), None);
        let loses = |files: &mut Files| files.said[2].row = 3;
        assert_eq!(sync(loses), Some("files-kept"));
        assert_eq!(verdict("async", "drain", loses), Some("files-nothing-lost"));
        assert_eq!(verdict("async", "power-off", loses), Some("files-orphans"));
        let saves = |files: &mut Files| {
            loses(files);
            files.saved.push([b"xx", line(4, "n0.1").as_bytes(), b"y"].concat());
        };
        assert_eq!(verdict("async", "power-off", saves), None);
        assert_eq!(sync(|files| files.said[2].what = What::Found(Some("a hole".into()))), Some("files-prefix"));
        let late = |files: &mut Files| {
            files.said[1].at = 3_050_000_000;
            files.said.sort_by_key(|said| said.at);
        };
        assert_eq!(sync(late), Some("files-one-writer"));
        assert_eq!(sync(|files| files.said.clear()), Some("files-go-on"));
        assert_eq!(sync(|files| files.settled = Err("n2 compares".into())), Some("files-equal"));
        let other = |files: &mut Files| {
            let bytes =
                files.trees.get_mut(&2).and_then(|tree| tree.get_mut(&PathBuf::from(ROWS))).expect("it is there");
            bytes[15] = b'x';
        };
        assert_eq!(sync(other), Some("files-equal"));
        let torn = |files: &mut Files| {
            let bytes =
                files.trees.get_mut(&2).and_then(|tree| tree.get_mut(&PathBuf::from(PAGES))).expect("it is there");
            bytes[4_096 * 6] ^= 1;
        };
        assert_eq!(sync(torn), Some("files-prefix"));
    }

    #[test]
    fn a_difference_is_told_with_name_and_block() {
        let one = tree_of(&["n0.1", "n0.1"]);
        let mut other = one.clone();
        other.get_mut(&PathBuf::from(PAGES)).expect("it is there")[9_000] ^= 1;
        let all = BTreeMap::from([(0, one.clone()), (2, other)]);
        assert_eq!(differ(&all).as_deref(), Some("`pages` differs in block 2 between n0 and n2"));
        let all = BTreeMap::from([(0, one), (1, Tree::new())]);
        assert_eq!(differ(&all).as_deref(), Some("`pages` is there on n0 alone, of n0 and n1"));
    }
}
