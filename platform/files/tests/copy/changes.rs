//! Changes, restarts, and changes made again.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;

use apus_engine::shipping::{Change, Entry, Work};
use apus_engine::{FileId, Lsn, OpId, Seed};

use crate::world::{Model, Sort, Writer, append, apply, begin, done, open, place, same};

/// A copy whose files are changed one by one is what the model says after each, also over restarts.
#[test]
fn files_are_what_the_changes_say() {
    let place = place("changes");
    for seed in 0..6 {
        let place = place.0.join(seed.to_string());
        let mut rng = Seed(seed).stream("changes");
        let mut writer = Writer::new();
        let mut store = open(&place);
        begin(&mut store, &mut writer);
        for step in 0..250 {
            let mut records = Vec::new();
            for _ in 0..rng.between(1, 6) {
                let change = writer.any(&mut rng);
                records.extend(writer.write(change));
            }
            append(&mut store, records);
            if rng.below(3) == 0 {
                continue;
            }
            apply(&mut store, writer.history.end);
            if step % 5 == 0 {
                same(&place.join("root"), &writer.model, &format!("seed {seed}, step {step}"));
            }
            match rng.below(30) {
                0 => done(&mut store, &Work::Checkpoint { op: OpId(9), at: writer.history.end }),
                1 | 2 => {
                    drop(store);
                    store = open(&place);
                    let found = store.found().expect("it is found");
                    assert_eq!((found.log.end, found.torn, found.blank), (writer.history.end, false, false));
                    apply(&mut store, writer.history.end);
                    same(&place.join("root"), &writer.model, &format!("seed {seed}, step {step}, restarted"));
                }
                _ => {}
            }
            assert_eq!(store.alarms(), Vec::<String>::new(), "seed {seed}, step {step}");
        }
    }
}

/// From any earlier checkpoint, changes that are in the files already are made again: the end is the same.
#[test]
fn changes_made_again_from_any_earlier_place_come_to_the_same_end() {
    let place = place("again");
    for seed in 0..4 {
        let place = place.0.join(seed.to_string());
        let state = place.join("state");
        let mut rng = Seed(seed).stream("again");
        let mut writer = Writer::new();
        let mut store = open(&place);
        begin(&mut store, &mut writer);
        let keep = |at: Lsn| {
            let to = place.join(format!("kept-{}", at.0));
            std::fs::create_dir_all(&to).expect("a folder");
            for entry in std::fs::read_dir(&state).expect("a folder") {
                let entry = entry.expect("a name");
                let name = entry.file_name();
                if name == "marks" || name.to_string_lossy().starts_with("index-") {
                    std::fs::copy(entry.path(), to.join(name)).expect("a copy");
                }
            }
            to
        };
        let mut kept = Vec::new();
        for _ in 0..60 {
            for _ in 0..4 {
                let change = writer.any(&mut rng);
                append(&mut store, writer.write(change));
            }
            apply(&mut store, writer.history.end);
            done(&mut store, &Work::Checkpoint { op: OpId(9), at: writer.history.end });
            kept.push((writer.history.end, keep(writer.history.end)));
        }
        drop(store);
        for (at, from) in kept.iter().rev() {
            for entry in std::fs::read_dir(&state).expect("a folder") {
                let path = entry.expect("a name").path();
                if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("index-")) {
                    std::fs::remove_file(path).expect("ours");
                }
            }
            for entry in std::fs::read_dir(from).expect("a folder") {
                let entry = entry.expect("a name");
                std::fs::copy(entry.path(), state.join(entry.file_name())).expect("a copy");
            }
            let mut store = open(&place);
            assert_eq!(store.found().expect("it is found").applied, *at);
            // Ended in the middle once, too.
            let middle = Lsn(at.0 + (writer.history.end.0 - at.0) / 2);
            apply(&mut store, middle);
            drop(store);
            let mut store = open(&place);
            store.found().expect("it is found");
            apply(&mut store, writer.history.end);
            assert_eq!(store.alarms(), Vec::<String>::new(), "seed {seed} from {at}");
            same(&place.join("root"), &writer.model, &format!("seed {seed} from {at}"));
            let left = std::fs::read_dir(state.join("limbo")).expect("a folder").count();
            assert_eq!(left, 0, "seed {seed} from {at}: the limbo is not empty");
        }
        assert_ne!(writer.model, Model::default());
    }
}

/// As after a power failure: of what was written since the checkpoint a part is lost, and files that were made since have no name, or no
/// content. Made again, the changes bring all of it back.
#[test]
fn what_a_power_failure_loses_is_brought_back() {
    let place = place("power");
    for seed in 0..40 {
        let place = place.0.join(seed.to_string());
        let mut rng = Seed(seed).stream("power");
        let mut writer = Writer::new();
        let mut store = open(&place);
        begin(&mut store, &mut writer);
        for _ in 0..120 {
            let change = writer.any(&mut rng);
            append(&mut store, writer.write(change));
        }
        apply(&mut store, writer.history.end);
        done(&mut store, &Work::Checkpoint { op: OpId(9), at: writer.history.end });
        let old: Vec<FileId> = writer.model.files.keys().copied().collect();
        let mut written: BTreeMap<FileId, Vec<(u64, u64)>> = BTreeMap::new();
        for _ in 0..120 {
            let change = writer.any(&mut rng);
            if let Change::Write { file, offset, bytes } | Change::Append { file, offset, bytes } = &change {
                written.entry(*file).or_default().push((*offset, bytes.len() as u64));
            }
            append(&mut store, writer.write(change));
        }
        apply(&mut store, writer.history.end);
        drop(store);
        let root = place.join("root");
        let mut lost = 0;
        for (file, ranges) in &written {
            let Some(Sort::File(bytes)) = writer.model.files.get(file).map(|file| &file.sort) else { continue };
            let path = writer.model.paths(*file).into_iter().next().expect("it has a name");
            let disk = std::fs::OpenOptions::new().write(true).open(root.join(&path)).expect("it is there");
            for (offset, many) in ranges.iter().filter(|_| rng.below(2) == 0) {
                let end = (offset + many).min(bytes.len() as u64);
                disk.write_all_at(&vec![0; end.saturating_sub(*offset) as usize], *offset).expect("it is written");
                lost += 1;
            }
        }
        for (file, is) in &writer.model.files {
            if !old.contains(file) && is.sort != Sort::Dir && rng.below(2) == 0 {
                for path in writer.model.paths(*file) {
                    std::fs::remove_file(root.join(path)).expect("it is there");
                    lost += 1;
                }
            }
        }
        assert!(lost > 10, "seed {seed}: {lost}");
        let mut store = open(&place);
        assert!(store.found().expect("it is found").applied < writer.history.end);
        apply(&mut store, writer.history.end);
        assert_eq!(store.alarms(), Vec::<String>::new(), "seed {seed}");
        same(&root, &writer.model, &format!("seed {seed}"));
    }
}

/// A file that the checkpoint knew and that is gone cannot be brought back: the copy says so, now and after a restart.
#[test]
fn a_file_that_is_gone_is_told() {
    let place = place("gone");
    let mut writer = Writer::new();
    let mut store = open(&place.0);
    begin(&mut store, &mut writer);
    let at = Entry { dir: FileId::ROOT, name: b"old".to_vec() };
    append(&mut store, writer.write(Change::Create { file: FileId(5), at, mode: 0o600 }));
    apply(&mut store, writer.history.end);
    done(&mut store, &Work::Checkpoint { op: OpId(9), at: writer.history.end });
    append(&mut store, writer.write(Change::Write { file: FileId(5), offset: 0, bytes: vec![1; 9] }));
    drop(store);
    std::fs::remove_file(place.0.join("root/old")).expect("it is there");
    let mut store = open(&place.0);
    store.found().expect("it is found");
    let answer = store.perform(&Work::Apply { op: OpId(1), upto: writer.history.end });
    assert_eq!(answer, Some((OpId(1), apus_engine::shipping::Answer::Failed)));
    assert!(store.alarms().join("").contains("1 files are gone that the log leads to (old)"));
    drop(store);
    let found = open(&place.0).found().expect("it is found");
    assert!(found.torn && found.log.end == writer.history.end && found.applied == found.log.end, "{found:?}");
}

fn entry(dir: FileId, name: &str) -> Entry {
    Entry { dir, name: name.as_bytes().to_vec() }
}

/// A file of the checkpoint took another one's name and is gone by the end: the other one is made again, and loses its name again.
#[test]
fn what_a_file_replaced_that_is_gone_is_gone() {
    let place = place("replaced");
    let [a, b, c] = ["a", "b", "c"].map(|name| entry(FileId::ROOT, name));
    let (old, new) = (FileId(5), FileId(6));
    let rename = |from: &Entry, to: &Entry| Change::Rename { file: old, from: from.clone(), to: to.clone() };
    let link = Change::Link { file: old, at: b.clone() };
    for (case, by) in [vec![rename(&a, &b)], vec![link, Change::Unlink { at: a.clone() }]].into_iter().enumerate() {
        let place = place.0.join(case.to_string());
        let mut writer = Writer::new();
        let mut store = open(&place);
        begin(&mut store, &mut writer);
        append(&mut store, writer.write(Change::Create { file: old, at: a.clone(), mode: 0o600 }));
        apply(&mut store, writer.history.end);
        done(&mut store, &Work::Checkpoint { op: OpId(9), at: writer.history.end });
        append(&mut store, writer.write(Change::Create { file: new, at: b.clone(), mode: 0o654 }));
        for change in by.into_iter().chain([rename(&b, &c), Change::Unlink { at: c.clone() }]) {
            append(&mut store, writer.write(change));
        }
        apply(&mut store, writer.history.end);
        drop(store);
        let mut store = open(&place);
        assert!(store.found().expect("it is found").applied < writer.history.end);
        apply(&mut store, writer.history.end);
        assert_eq!(store.alarms(), Vec::<String>::new(), "case {case}");
        same(&place.join("root"), &writer.model, &format!("case {case}"));
    }
}

/// A directory was removed and another one has its name by now, with files in it or without: made again, the removal is not of that one.
#[test]
fn a_directory_that_came_after_a_removed_one_stays() {
    let place = place("after");
    let [a, b] = ["a", "b"].map(|name| entry(FileId::ROOT, name));
    let (first, second) = (FileId(5), FileId(6));
    let mkdir = |file, at: &Entry| Change::Mkdir { file, at: at.clone(), mode: 0o755 };
    let inner = Change::Create { file: FileId(7), at: entry(second, "inner"), mode: 0o600 };
    let moved = Change::Rename { file: second, from: b.clone(), to: a.clone() };
    let cases = [
        (vec![mkdir(second, &b)], vec![moved.clone()]),
        (vec![mkdir(second, &b), inner.clone()], vec![moved]),
        (vec![], vec![mkdir(second, &a), inner]),
    ];
    for (case, (before, after)) in cases.into_iter().enumerate() {
        let place = place.0.join(case.to_string());
        let mut writer = Writer::new();
        let mut store = open(&place);
        begin(&mut store, &mut writer);
        for change in [mkdir(first, &a)].into_iter().chain(before) {
            append(&mut store, writer.write(change));
        }
        apply(&mut store, writer.history.end);
        done(&mut store, &Work::Checkpoint { op: OpId(9), at: writer.history.end });
        for change in [Change::Rmdir { at: a.clone() }].into_iter().chain(after) {
            append(&mut store, writer.write(change));
        }
        apply(&mut store, writer.history.end);
        drop(store);
        let mut store = open(&place);
        assert!(store.found().expect("it is found").applied < writer.history.end);
        apply(&mut store, writer.history.end);
        assert_eq!(store.alarms(), Vec::<String>::new(), "case {case}");
        same(&place.join("root"), &writer.model, &format!("case {case}"));
    }
}
