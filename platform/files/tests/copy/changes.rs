//! Changes, restarts, and changes made again.

use apus_engine::shipping::Work;
use apus_engine::{Lsn, OpId, Seed};

use crate::world::{Model, Writer, append, apply, begin, done, open, place, same};

/// A copy whose files are changed one by one is what the model says after each, also over restarts.
#[test]
fn files_are_what_the_changes_say() {
    let place = place("changes");
    for seed in 0..12 {
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
    for seed in 0..6 {
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
