//! Files compared with another copy's, and the switch, ended at any place.

use std::os::unix::fs::symlink;
use std::path::Path;

use apus_engine::shipping::{
    Answer, Attributes, Change, Entry, Item, Mend, Mends, Page, Place as At, Sort, Stretch, TOP, Told, What, Work,
};
use apus_engine::wire::Wire as _;
use apus_engine::{Epoch, FileId, Lsn, OpId, Rng, Seed};
use apus_files::Store;
use apus_files::linux::Fail;

use crate::world::{Writer, append, apply, begin, done, equal, open, place, same, seen, settings};

/// What of a walk is still to be told: how fine, and which; files just made have no depth.
pub(crate) type Todo = Vec<(Option<u8>, Stretch)>;

pub(crate) fn all() -> Todo {
    vec![(Some(TOP), Stretch { from: At::START, to: At::End })]
}

pub(crate) fn digest(store: &mut Store, shadow: bool, (depth, stretch): &(Option<u8>, Stretch)) -> Page {
    let Some(depth) = *depth else {
        let told = Told { from: stretch.from.clone(), to: stretch.to.clone(), what: What::Zeros };
        return Page { salt: 7, told: vec![told] };
    };
    let order = Work::Digest { op: OpId(5), shadow, salt: 7, depth, stretches: vec![stretch.clone()] };
    match store.perform(&order) {
        Some((_, Answer::Page(page))) => page,
        other => panic!("{other:?}, {:?}", store.alarms()),
    }
}

/// What an answer leaves and asks for is next.
pub(crate) fn after(todo: &mut Todo, (depth, stretch): (Option<u8>, Stretch), page: &Page, mends: &Mends) {
    let end = page.end().expect("something is told");
    assert!(*end > stretch.from && *end <= stretch.to, "{stretch:?}");
    assert!(mends.to > stretch.from && mends.to <= *end, "{stretch:?}");
    if mends.to < stretch.to {
        todo.push((depth, Stretch { from: mends.to.clone(), to: stretch.to }));
    }
    todo.extend(mends.finer.iter().map(|finer| (Some(depth.expect("not of zeros") - 1), finer.clone())));
    todo.extend(mends.zeros.iter().map(|made| (None, made.clone())));
}

fn compare(store: &mut Store, page: Page) -> Mends {
    assert_eq!(store.perform(&Work::Compare { op: OpId(6), page, from: At::START }), None);
    match store.happened().pop() {
        Some(apus_engine::shipping::Happening::Done { answer: Answer::Mends { mends, .. }, .. }) => mends,
        other => panic!("{other:?}, {:?}", store.alarms()),
    }
}

/// Both must fit a packet; how many bytes they are, and what comes back is what was put.
fn fit(page: &Page, mends: &Mends) -> usize {
    let mut writer = apus_engine::wire::Writer::new(apus_engine::wire::VERSION);
    page.put(&mut writer);
    let told = writer.into_vec();
    let mut writer = apus_engine::wire::Writer::new(apus_engine::wire::VERSION);
    mends.put(&mut writer);
    let mended = writer.into_vec();
    assert!(told.len() < 60_000 && mended.len() < 60_000, "a page of {} bytes, mends of {}", told.len(), mended.len());
    let mut reader = apus_engine::wire::Reader::new(apus_engine::wire::VERSION, &told);
    assert_eq!(Page::get(&mut reader).as_ref(), Ok(page));
    let mut reader = apus_engine::wire::Reader::new(apus_engine::wire::VERSION, &mended);
    assert_eq!(Mends::get(&mut reader).as_ref(), Ok(mends));
    told.len() + mended.len()
}

/// Compares all of `from`'s files with `to`'s, while `between` goes on; how many blocks were sent, and bytes of pages and mends.
fn walk(from: &mut Store, to: &mut Store, mut between: impl FnMut(&mut Store, &mut Store)) -> (usize, usize) {
    let (mut todo, mut blocks, mut bytes) = (all(), 0, 0);
    while let Some(next) = todo.pop() {
        let page = digest(to, true, &next);
        between(from, to);
        let mends = compare(from, page.clone());
        bytes += fit(&page, &mends);
        blocks += mends.mends.iter().filter(|mend| matches!(mend, Mend::Block { .. })).count();
        after(&mut todo, next, &page, &mends);
        done(to, &Work::Mend { op: OpId(7), mends });
    }
    (blocks, bytes)
}

fn shadow(store: &mut Store, writer: &Writer) {
    done(store, &Work::Shadow { op: OpId(8), base: writer.base() });
}

fn switch(store: &mut Store, writer: &Writer) {
    done(store, &Work::Switch { op: OpId(9), upto: writer.history.end });
}

fn some(store: &mut Store, writer: &mut Writer, rng: &mut Rng, many: u64) {
    for _ in 0..many {
        let change = writer.any(rng);
        append(store, writer.write(change));
    }
    apply(store, writer.history.end);
}

/// A copy that diverged becomes the other one, while that one goes on.
#[test]
fn a_copy_that_diverged_becomes_the_other_one() {
    let place = place("compare");
    for seed in 0..16 {
        let (one, two) = (place.0.join(format!("{seed}-1")), place.0.join(format!("{seed}-2")));
        let mut rng = Seed(seed).stream("compare");
        let (mut writer, mut other) = (Writer::new(), Writer::new());
        let (mut first, mut second) = (open(&one), open(&two));
        begin(&mut first, &mut writer);
        begin(&mut second, &mut other);
        some(&mut first, &mut writer, &mut rng, 80);
        let many = rng.below(80);
        some(&mut second, &mut other, &mut rng, many);
        shadow(&mut second, &writer);
        walk(&mut first, &mut second, |first, second| {
            for _ in 0..rng.below(4) {
                let change = writer.any(&mut rng);
                let bytes = writer.write(change);
                append(first, bytes.clone());
                apply(first, writer.history.end);
                done(second, &Work::Append { op: OpId(1), staged: true, records: bytes, captured: 0 });
            }
        });
        same(&two.join("root"), &other.model, &format!("seed {seed}: published before the switch"));
        switch(&mut second, &writer);
        same(&two.join("root"), &writer.model, &format!("seed {seed}: switched"));
        assert_eq!(second.status().end, writer.history.end);
        // It goes on by records, also after a restart.
        drop(second);
        let mut second = open(&two);
        assert_eq!(second.found().expect("it is found").log.end, writer.history.end);
        for _ in 0..30 {
            let change = writer.any(&mut rng);
            let bytes = writer.write(change);
            append(&mut first, bytes.clone());
            append(&mut second, bytes);
        }
        apply(&mut first, writer.history.end);
        apply(&mut second, writer.history.end);
        same(&two.join("root"), &writer.model, &format!("seed {seed}: gone on"));
        equal(&seen(&two.join("root")), &seen(&one.join("root")), "both");
        assert_eq!(second.alarms(), Vec::<String>::new());
        // A scrub finds no difference.
        for depth in [TOP, 1, 0] {
            let mut todo = vec![(Some(depth), Stretch { from: At::START, to: At::End })];
            while let Some(next) = todo.pop() {
                let page = digest(&mut second, false, &next);
                let mends = compare(&mut first, page.clone());
                assert!(mends.mends.is_empty() && mends.finer.is_empty(), "seed {seed}, depth {depth}: {mends:?}");
                after(&mut todo, next, &page, &mends);
            }
        }
    }
}

/// Only blocks that differ are sent, and holes are not.
#[test]
fn few_blocks_are_sent_where_few_differ() {
    let place = place("blocks");
    let (mut writer, mut other) = (Writer::new(), Writer::new());
    let (mut first, mut second) = (open(&place.0.join("1")), open(&place.0.join("2")));
    begin(&mut first, &mut writer);
    begin(&mut second, &mut other);
    let file = FileId(9);
    let at = |name: &str| Entry { dir: FileId::ROOT, name: name.into() };
    let fill = |store: &mut Store, writer: &mut Writer, seed: u64| {
        append(store, writer.write(Change::Create { file, at: at("big"), mode: 0o600 }));
        for block in 0..3000u64 {
            let byte = 1 + ((block * 7 + seed * u64::from(block % 100 == 5)) % 250) as u8;
            append(store, writer.write(Change::Write { file, offset: block * 4096, bytes: vec![byte; 4096] }));
        }
        append(store, writer.write(Change::Truncate { file, length: 1 << 30 }));
        apply(store, writer.history.end);
    };
    fill(&mut first, &mut writer, 0);
    fill(&mut second, &mut other, 1);
    shadow(&mut second, &writer);
    let (blocks, bytes) = walk(&mut first, &mut second, |_, _| {});
    assert_eq!(blocks, 30);
    // Each hundredth block is another one; of the hole behind them each MiB has one sum.
    let (changed, hole) = (30 * 4096, 1024 * 8);
    println!("{bytes} bytes of pages and mends for {changed} bytes changed and a hole of 1 GiB");
    assert!(bytes * 100 < changed * 110 + hole * 100, "{bytes} bytes for {changed}");
    switch(&mut second, &writer);
    use std::os::unix::fs::MetadataExt as _;
    let is = std::fs::metadata(place.0.join("2/root/big")).expect("it is there");
    assert_eq!(is.len(), 1 << 30);
    assert!(is.blocks() * 512 < 20 << 20, "holes are holes: {} bytes", is.blocks() * 512);
    drop(second);
    // An empty copy takes all of it, and the holes too.
    let mut third = open(&place.0.join("3"));
    third.found().expect("it is found");
    shadow(&mut third, &writer);
    assert_eq!(walk(&mut first, &mut third, |_, _| {}).0, 3000);
    switch(&mut third, &writer);
    assert!(!third.status().blank);
    let is = std::fs::metadata(place.0.join("3/root/big")).expect("it is there");
    assert!(is.len() == 1 << 30 && is.blocks() * 512 < 20 << 20, "{} bytes", is.blocks() * 512);
}

/// Ended at any step of a switch, the copy is the old one or the new one, whole, and no name of another's is lost.
#[test]
fn a_switch_that_is_ended_anywhere_is_done_or_not() {
    let place = place("switch");
    let fails = [Fail::SwitchBuilt, Fail::SwitchMarked, Fail::SwitchExchanged, Fail::SwitchDone];
    for (seed, fail) in
        fails.into_iter().enumerate().flat_map(|(nth, fail)| [(nth as u64, fail), (nth as u64 + 9, fail)])
    {
        let (one, two) = (place.0.join(format!("{seed}-1")), place.0.join(format!("{seed}-2")));
        let mut rng = Seed(seed).stream("switch");
        let (mut writer, mut other) = (Writer::new(), Writer::new());
        let (mut first, mut second) = (open(&one), open(&two));
        begin(&mut first, &mut writer);
        begin(&mut second, &mut other);
        some(&mut first, &mut writer, &mut rng, 60);
        some(&mut second, &mut other, &mut rng, 60);
        std::fs::write(two.join("root/mine.foreign"), "not the group's").expect("a file");
        shadow(&mut second, &writer);
        walk(&mut first, &mut second, |_, _| {});
        second.fail_at(Some(fail));
        let answer = second.perform(&Work::Switch { op: OpId(9), upto: writer.history.end });
        assert!(matches!(answer, Some((_, Answer::Failed))), "{fail:?}: {answer:?}");
        // Half of them go on in the same process, as after an error; the others are restarted.
        let restarts = seed < 9;
        if restarts {
            drop(second);
            second = open(&two);
            let found = second.found().expect("it is found");
            let new = fail != Fail::SwitchBuilt;
            assert_eq!(found.log.end, if new { writer.history.end } else { other.history.end }, "{fail:?}");
            let should = if new { &writer.model } else { &other.model };
            apply(&mut second, found.log.end);
            let foreign = std::fs::read_to_string(two.join("root/mine.foreign")).expect("it is there");
            assert_eq!(foreign, "not the group's");
            std::fs::remove_file(two.join("root/mine.foreign")).expect("ours");
            same(&two.join("root"), should, &format!("{fail:?}"));
        } else {
            second.fail_at(None);
        }
        shadow(&mut second, &writer);
        walk(&mut first, &mut second, |_, _| {});
        switch(&mut second, &writer);
        if !restarts {
            std::fs::remove_file(two.join("root/mine.foreign")).expect("it is there");
        }
        same(&two.join("root"), &writer.model, &format!("{fail:?}, again"));
        assert_eq!(std::fs::read_dir(two.join("state/shadow")).map_or(0, Iterator::count), 0);
        let logs = std::fs::read_dir(two.join("state")).expect("a folder");
        let logs = logs
            .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("log-")));
        assert_eq!(logs.count(), 1, "{fail:?}");
    }
}

/// An error in the middle of a switch is not taken for its end: nothing is thrown away, nothing added, and it is ended later.
#[test]
fn a_switch_that_meets_an_error_is_tried_again() {
    let place = place("retried");
    let (one, two) = (place.0.join("1"), place.0.join("2"));
    let mut rng = Seed(7).stream("retried");
    let (mut writer, mut other) = (Writer::new(), Writer::new());
    let (mut first, mut second) = (open(&one), open(&two));
    begin(&mut first, &mut writer);
    begin(&mut second, &mut other);
    some(&mut first, &mut writer, &mut rng, 60);
    some(&mut second, &mut other, &mut rng, 60);
    shadow(&mut second, &writer);
    walk(&mut first, &mut second, |_, _| {});
    second.fail_at(Some(Fail::SwitchMarked));
    let order = Work::Switch { op: OpId(9), upto: writer.history.end };
    assert!(matches!(second.perform(&order), Some((_, Answer::Failed))));
    second.fail_at(None);
    // The folder cannot be opened for a while.
    let (new, away) = (two.join("state/shadow/new"), two.join("away"));
    std::fs::rename(&new, &away).expect("it is there");
    symlink(&new, &new).expect("a link to itself");
    let before = other.history.end;
    let records = other.write(Change::Barrier { file: FileId(1) });
    for order in [
        &order,
        &Work::Append { op: OpId(1), staged: false, records, captured: 0 },
        &Work::Apply { op: OpId(2), upto: before },
        &Work::Open { op: OpId(3), era: Epoch(9 << 20) },
    ] {
        assert!(matches!(second.perform(order), Some((_, Answer::Failed))), "{order:?}");
    }
    drop(second);
    for _ in 0..2 {
        assert!(Store::open(settings(&two)).is_err(), "it is not known which files count");
    }
    std::fs::remove_file(&new).expect("the link");
    std::fs::rename(&away, &new).expect("it goes back");
    let mut second = open(&two);
    assert_eq!(second.found().expect("it is found").log.end, writer.history.end);
    same(&two.join("root"), &writer.model, "ended by a start");
    // Within one life too.
    shadow(&mut second, &writer);
    walk(&mut first, &mut second, |_, _| {});
    second.fail_at(Some(Fail::SwitchExchanged));
    assert!(matches!(second.perform(&order), Some((_, Answer::Failed))));
    second.fail_at(None);
    done(&mut second, &order);
    same(&two.join("root"), &writer.model, "ended by the next order");
}

/// Names that are not the group's stay where they are; those that would be, and that nobody knows, are put aside and told.
#[test]
fn names_of_others_outlive_a_switch() {
    let place = place("foreign");
    let mut writer = Writer::new();
    let mut first = open(&place.0.join("1"));
    begin(&mut first, &mut writer);
    let at = |dir, name: &str| Entry { dir, name: name.into() };
    append(&mut first, writer.write(Change::Mkdir { file: FileId(5), at: at(FileId::ROOT, "data"), mode: 0o755 }));
    append(&mut first, writer.write(Change::Create { file: FileId(6), at: at(FileId(5), "a.db"), mode: 0o600 }));
    apply(&mut first, writer.history.end);
    let root = place.0.join("2/root");
    std::fs::create_dir_all(root.join("data")).expect("a folder");
    std::fs::write(root.join("notes.foreign"), "notes").expect("a file");
    std::fs::write(root.join("data/b.foreign"), "below").expect("a file");
    std::fs::write(root.join("a.db"), "a stranger's").expect("a file");
    symlink("/etc", root.join("way")).expect("a link");
    let mut second = open(&place.0.join("2"));
    second.found().expect("it is found");
    shadow(&mut second, &writer);
    walk(&mut first, &mut second, |_, _| {});
    switch(&mut second, &writer);
    assert_eq!(std::fs::read_to_string(root.join("notes.foreign")).expect("it is there"), "notes");
    assert!(
        root.join("data/a.db").exists() && !root.join("a.db").exists() && root.join("way").symlink_metadata().is_err()
    );
    let alarms = second.alarms().join("\n");
    for name in ["a.db", "way", "data"] {
        assert!(alarms.contains(&format!("{name} was in the way")), "{alarms}");
    }
    let aside = place.0.join("2/state/orphans/aside");
    assert_eq!(std::fs::read_to_string(aside.join("1-a.db")).expect("kept"), "a stranger's");
    assert_eq!(std::fs::read_to_string(aside.join("1-data/b.foreign")).expect("kept"), "below");
}

/// What a primary that lies says of its files changes nothing outside, and does not end the process.
#[test]
fn mends_that_lie_lead_nowhere() {
    let place = place("lies");
    let outside = place.0.join("outside");
    std::fs::write(&outside, "untouched").expect("a file");
    let mut store = open(&place.0.join("1"));
    store.found().expect("it is found");
    let writer = Writer::new();
    for seed in 0..40 {
        let mut rng = Seed(seed).stream("lies");
        shadow(&mut store, &writer);
        for _ in 0..60 {
            let file = FileId(*[0, 1, 2, 3, u64::MAX].get(rng.below(5) as usize).expect("one"));
            let dir = FileId(rng.below(4));
            let names: [&[u8]; 8] = [b"a", b"..", b".", b"a/../../x", b"", b"z\0z", &[b'x'; 4096], b"b"];
            let name = names[rng.below(8) as usize].to_vec();
            let sorts = [
                Sort::Regular(u64::MAX),
                Sort::Regular(10),
                Sort::Directory,
                Sort::Symlink(outside.as_os_str().as_encoded_bytes().to_vec()),
                Sort::Symlink(vec![b'/'; 9000]),
                Sort::Symlink(Vec::new()),
            ];
            let mend = match rng.below(5) {
                0 | 1 => Mend::File {
                    file,
                    sort: sorts[rng.below(6) as usize].clone(),
                    attributes: Attributes { mode: 0o6777, uid: 0, gid: 0, mtime: u64::MAX },
                    xattrs: vec![(b"security.capability".to_vec(), vec![1; 20]), (b"trusted.x".to_vec(), vec![1])],
                },
                2 => Mend::Block { file, block: rng.next() >> rng.below(64), bytes: vec![1; rng.below(9000) as usize] },
                3 => Mend::Name { dir, name, file: Some(file) },
                _ => Mend::Gone(file),
            };
            let mends = Mends { from: At::START, to: At::End, mends: vec![mend], finer: Vec::new(), zeros: Vec::new() };
            let _ = store.perform(&Work::Mend { op: OpId(1), mends });
            let what = match rng.below(3) {
                0 => What::Items(vec![
                    Item::Name { dir, name: vec![0; 9], file },
                    Item::File { file, block: u64::MAX, about: None, blocks: vec![[0; 6]; 3] },
                ]),
                1 => What::Sums(vec![(At::End, [1; 6]), (At::File(file, 3), [2; 6])]),
                _ => What::Zeros,
            };
            let told = Told { from: At::File(file, rng.next()), to: At::Name(dir, vec![0]), what };
            let from = if rng.below(2) == 0 { At::START } else { At::File(file, 1 << 63) };
            let page = Page { salt: 1, told: vec![told; rng.below(3) as usize] };
            let _ = store.perform(&Work::Compare { op: OpId(2), page, from });
            let stretch = Stretch { from: At::File(file, u64::MAX - 1), to: At::Name(dir, vec![b'a']) };
            let stretches = vec![stretch; rng.below(3) as usize];
            let depth = rng.below(250) as u8;
            let _ = store.perform(&Work::Digest { op: OpId(2), shadow: true, salt: 3, depth, stretches });
        }
        let answer = store.perform(&Work::Switch { op: OpId(3), upto: Lsn(0) });
        assert!(answer.is_some());
        assert_eq!(std::fs::read_to_string(&outside).expect("it is there"), "untouched");
        assert_eq!(names(&place.0), ["1", "outside", "root"]);
        for (path, seen) in seen(&place.0.join("1/root")) {
            assert!(!format!("{seen:?}").contains("capability"), "{path:?}");
        }
        for file in walk_files(&place.0.join("1/root")) {
            use std::os::unix::fs::PermissionsExt as _;
            let is = file.symlink_metadata().expect("it is there");
            assert!(!is.is_file() || is.permissions().mode() & 0o6000 == 0, "{}", file.display());
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut out: Vec<String> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("a name").file_name().to_string_lossy().into_owned())
        .collect();
    out.sort();
    out
}

fn walk_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("a name").path();
        if path.symlink_metadata().is_ok_and(|is| is.is_dir()) {
            out.extend(walk_files(&path));
        }
        out.push(path);
    }
    out
}
