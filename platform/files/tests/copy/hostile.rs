//! Primaries that lie, strangers beneath the root, full disks, and damaged files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::FileType;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use apus_engine::shipping::{Answer, Attributes, Change, Entry, Head, Place as At, Record, Stretch, Work};
use apus_engine::{Epoch, FileId, Lsn, OpId, Seed};
use apus_files::{Globs, Settings, Store, StoreError};

use crate::world::{GROUP, Writer, append, apply, begin, done, open, place, same, seen, settings};

fn at(dir: FileId, name: &[u8]) -> Entry {
    Entry { dir, name: name.to_vec() }
}

/// Random sound records: of a primary that says anything that a record can hold.
#[test]
fn records_that_lie_change_nothing_outside() {
    let place = place("hostile");
    let outside = place.0.join("outside");
    std::fs::create_dir(&outside).expect("a folder");
    std::fs::write(outside.join("secret"), "untouched").expect("a file");
    for seed in 0..30 {
        let mut rng = Seed(seed).stream("hostile");
        let home = place.0.join(seed.to_string());
        let mut writer = Writer::new();
        let mut store = open(&home);
        begin(&mut store, &mut writer);
        let mut history = writer.history.clone();
        for _ in 0..300 {
            let number = |rng: &mut apus_engine::Rng| {
                FileId(*[0, 1, 2, 3, 4, 5, u64::MAX].get(rng.below(7) as usize).expect("one"))
            };
            let names: [&[u8]; 6] = [b"a", b"b", b"c", &[b'n'; 255], b"\xff\xfe", b"...."];
            let entry = |rng: &mut apus_engine::Rng| at(FileId(rng.below(6)), names[rng.below(6) as usize]);
            let file = number(&mut rng);
            let change = match rng.below(14) {
                0 | 1 => Change::Create { file, at: entry(&mut rng), mode: 0o6777 },
                2 | 3 => Change::Mkdir { file, at: entry(&mut rng), mode: 0o7777 },
                4 => Change::Symlink {
                    file,
                    at: entry(&mut rng),
                    target: outside.as_os_str().as_encoded_bytes().to_vec(),
                },
                5 => Change::Rename { file, from: entry(&mut rng), to: entry(&mut rng) },
                6 => Change::Link { file, at: entry(&mut rng) },
                7 => Change::Unlink { at: entry(&mut rng) },
                8 => Change::Rmdir { at: entry(&mut rng) },
                9 => Change::Write { file, offset: rng.next() >> rng.between(1, 60), bytes: vec![1; 100] },
                10 => Change::Truncate { file, length: rng.next() >> rng.between(1, 60) },
                11 => Change::Punch {
                    file,
                    offset: rng.next() >> rng.between(2, 60),
                    length: rng.next() >> rng.between(2, 60),
                },
                12 => Change::SetXattr { file, name: b"security.capability".to_vec(), value: vec![1; 20] },
                _ => Change::Attributes {
                    file,
                    attributes: Attributes { mode: u32::MAX, uid: u32::MAX, gid: u32::MAX, mtime: rng.next() },
                },
            };
            if !change.is_sound() {
                continue;
            }
            let record = Record { group: GROUP, era: writer.era, lsn: history.end.next(), prev: history.check, change };
            let bytes = record.encode().0;
            history.push(&Head::read(&bytes).expect("whole"));
            append(&mut store, bytes);
            let answer = store.perform(&Work::Apply { op: OpId(2), upto: history.end });
            assert!(matches!(answer, Some((_, Answer::Done))), "{:?}: {:?}", record.change, store.alarms());
        }
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::read_to_string(outside.join("secret")).expect("it is there"), "untouched");
        assert_eq!(std::fs::read_dir(&outside).expect("a folder").count(), 1);
        assert_eq!(std::fs::metadata(&outside).expect("it is there").permissions().mode() & 0o7777, 0o755);
        let before = names(&home.join("root"));
        drop(store);
        let mut store = open(&home);
        store.found().expect("it is found");
        // Nonsense that is made again comes to the same end.
        let answer = store.perform(&Work::Apply { op: OpId(2), upto: history.end });
        assert!(matches!(answer, Some((_, Answer::Done))), "seed {seed}: {answer:?}: {:?}", store.alarms());
        assert_eq!(names(&home.join("root")), before, "seed {seed}");
    }
}

/// What is in a folder, by path: what sort of file each is, and which are the same.
fn names(root: &Path) -> BTreeMap<PathBuf, (FileType, PathBuf)> {
    let mut out = BTreeMap::new();
    let mut first = BTreeMap::new();
    let mut folders = BTreeSet::from([root.to_path_buf()]);
    while let Some(folder) = folders.pop_first() {
        let mut paths: Vec<_> =
            std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("a name").path()).collect();
        paths.sort();
        for path in paths {
            let is = path.symlink_metadata().expect("it is there");
            let below = path.strip_prefix(root).expect("below").to_path_buf();
            let same = first.entry(is.ino()).or_insert_with(|| below.clone()).clone();
            if is.is_dir() {
                folders.insert(path);
            }
            out.insert(below, (is.file_type(), same));
        }
    }
    out
}

/// A link that a stranger puts in the way of a directory or a file is no way out, whatever comes after it.
#[test]
fn links_that_strangers_plant_lead_nowhere() {
    let place = place("links");
    let outside = place.0.join("outside");
    std::fs::create_dir(&outside).expect("a folder");
    std::fs::write(outside.join("a"), "untouched").expect("a file");
    let mut writer = Writer::new();
    let mut store = open(&place.0);
    begin(&mut store, &mut writer);
    let root = place.0.join("root");
    let (dir, file) = (FileId(5), FileId(6));
    append(&mut store, writer.write(Change::Mkdir { file: dir, at: at(FileId::ROOT, b"d"), mode: 0o755 }));
    append(&mut store, writer.write(Change::Create { file, at: at(dir, b"a"), mode: 0o600 }));
    apply(&mut store, writer.history.end);
    // A stranger moves the directory away and puts a link to another one in its place, and a link in the place of the file.
    std::fs::rename(root.join("d"), root.join("moved")).expect("it moves");
    symlink(&outside, root.join("d")).expect("a link");
    std::fs::rename(root.join("moved/a"), root.join("moved/b")).expect("it moves");
    symlink(outside.join("a"), root.join("moved/a")).expect("a link");
    for restart in [false, true] {
        if restart {
            done(&mut store, &Work::Checkpoint { op: OpId(1), at: writer.history.end });
            drop(store);
            store = open(&place.0);
            store.found().expect("it is found");
        }
        append(&mut store, writer.write(Change::Write { file, offset: 0, bytes: b"written".to_vec() }));
        let new = FileId(20 + u64::from(restart));
        append(&mut store, writer.write(Change::Create { file: new, at: at(dir, b"new"), mode: 0o644 }));
        append(
            &mut store,
            writer.write(Change::Attributes {
                file: dir,
                attributes: Attributes { mode: 0o700, ..Attributes::default() },
            }),
        );
        append(&mut store, writer.write(Change::Unlink { at: at(dir, b"new") }));
        append(&mut store, writer.write(Change::Rename { file, from: at(dir, b"a"), to: at(dir, b"c") }));
        append(&mut store, writer.write(Change::Rename { file, from: at(dir, b"c"), to: at(dir, b"a") }));
        apply(&mut store, writer.history.end);
    }
    assert_eq!(std::fs::read_to_string(outside.join("a")).expect("it is there"), "untouched");
    assert_eq!(std::fs::read_dir(&outside).expect("a folder").count(), 1);
    assert_eq!(std::fs::read_to_string(root.join("moved/a")).expect("the group's file"), "written");
}

/// Directories that change into links while the store works beneath them.
#[test]
fn a_race_with_links_is_lost_by_who_plants_them() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let place = place("race");
    let outside = place.0.join("outside");
    std::fs::create_dir(&outside).expect("a folder");
    let mut writer = Writer::new();
    let mut store = open(&place.0);
    begin(&mut store, &mut writer);
    let dir = FileId(5);
    append(&mut store, writer.write(Change::Mkdir { file: dir, at: at(FileId::ROOT, b"d"), mode: 0o755 }));
    apply(&mut store, writer.history.end);
    let root = place.0.join("root");
    let stop = AtomicBool::new(false);
    let swapped = std::thread::scope(|scope| {
        let planter = scope.spawn(|| {
            let mut swapped = 0u64;
            let (d, link, away) = (root.join("d"), root.join("link"), root.join("away"));
            while !stop.load(Ordering::Relaxed) {
                let _ = symlink(&outside, &link);
                if std::fs::rename(&d, &away).is_ok() && std::fs::rename(&link, &d).is_ok() {
                    swapped += 1;
                    let _ = std::fs::remove_file(&d);
                    let _ = std::fs::rename(&away, &d);
                }
            }
            swapped
        });
        for nth in 0..400u64 {
            let file = FileId(100 + nth);
            append(&mut store, writer.write(Change::Create { file, at: at(dir, b"x"), mode: 0o666 }));
            append(&mut store, writer.write(Change::Write { file, offset: 0, bytes: vec![1; 10] }));
            append(&mut store, writer.write(Change::Unlink { at: at(dir, b"x") }));
            apply(&mut store, writer.history.end);
        }
        stop.store(true, Ordering::Relaxed);
        planter.join().expect("it ends")
    });
    assert!(swapped > 0, "nobody was in the way");
    assert_eq!(std::fs::read_dir(&outside).expect("a folder").count(), 0);
}

/// Folders that cannot be used are told, with their mend.
#[test]
fn folders_that_do_not_fit_are_refused() {
    let place = place("unfit");
    let says = |settings: Settings| match Store::open(settings) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it is taken"),
    };
    let fine = settings(&place.0);
    let store = Store::open(fine.clone()).expect("it fits");
    assert!(matches!(Store::open(fine.clone()), Err(StoreError::Busy(_))));
    drop(store);
    let inside = Settings { state: fine.root.join("state"), ..fine.clone() };
    assert!(says(inside).contains("name a folder beside them"));
    let none = Settings { root: place.0.join("none"), ..fine.clone() };
    assert!(says(none).contains("none: No such file"));
    let file = Settings { root: place.0.join("file"), ..fine.clone() };
    std::fs::write(&file.root, "").expect("a file");
    assert!(says(file).contains("name the folder that holds"));
    let link = Settings { root: place.0.join("link"), ..fine.clone() };
    symlink(&fine.root, &link.root).expect("a link");
    assert!(says(link).contains("name the folder itself"));
    if Path::new("/dev/shm").is_dir() && !place.0.starts_with("/dev/shm") {
        let state = Path::new("/dev/shm").join(format!("apus-unfit-{}", std::process::id()));
        let other = Settings { state: state.clone(), ..fine.clone() };
        assert!(says(other).contains("not on the file system"));
        let _ = std::fs::remove_dir_all(state);
    }
    let other = Settings { group: apus_engine::GroupId(9), ..fine };
    assert!(says(other).contains("is of g7, not of g9"), "group");
    assert!(!Globs::new(&["*.db"]).holds(b"a.txt"));
}

/// Damage is no error: the copy is blank or torn, what is damaged is kept aside, and where it is is told.
#[test]
fn damage_is_told_and_kept_aside() {
    let place = place("damage");
    for what in ["log", "index", "marks"] {
        let home = place.0.join(what);
        let mut rng = Seed(3).stream(what);
        let mut writer = Writer::new();
        let mut store = open(&home);
        begin(&mut store, &mut writer);
        for _ in 0..50 {
            let change = writer.any(&mut rng);
            append(&mut store, writer.write(change));
        }
        apply(&mut store, writer.history.end);
        done(&mut store, &Work::Promise { op: OpId(1), era: Epoch(77) });
        done(&mut store, &Work::Checkpoint { op: OpId(1), at: writer.history.end });
        drop(store);
        let state = home.join("state");
        let file = std::fs::read_dir(&state)
            .expect("a folder")
            .map(|entry| entry.expect("a name").path())
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(what)))
            .map(|path| if path.is_dir() { path.join("0000000000000001.seg") } else { path })
            .expect("it is there");
        let bytes = std::fs::read(&file).expect("a file");
        let open_file = std::fs::OpenOptions::new().write(true).open(&file).expect("a file");
        // In the middle of the log; in both halves of the marks.
        for place in if what == "marks" {
            vec![40, 4096 + 41]
        } else if what == "log" {
            vec![9000]
        } else {
            vec![50]
        } {
            open_file.write_all_at(&[bytes[place] ^ 4], place as u64).expect("it is written");
        }
        let mut store = open(&home);
        let found = store.found().expect("it is found");
        let alarms = store.alarms().join("\n");
        match what {
            "log" => {
                assert!(found.blank && found.promised == Epoch(77) && found.log.end == Lsn(0), "{found:?}");
                assert!(alarms.contains(".seg is damaged at byte ") && alarms.contains("records up to"), "{alarms}");
            }
            "index" => {
                assert!(found.torn && !found.blank && found.log.end == writer.history.end, "{found:?}");
                assert!(alarms.contains("index-") && alarms.contains("is damaged"), "{alarms}");
            }
            _ => {
                assert!(found.blank && found.promised == Epoch(0), "{found:?}");
                assert!(alarms.contains("marks: both halves are damaged"), "{alarms}");
            }
        }
        assert!(std::fs::read_dir(state.join("damaged")).expect("a folder").count() > 0, "{what}");
        // Nobody's files were touched.
        same(&home.join("root"), &writer.model, what);
        drop(store);
        // The second start has no alarm to tell.
        let mut store = open(&home);
        store.found().expect("it is found");
        assert_eq!(store.alarms(), Vec::<String>::new(), "{what}");
    }
}

/// What only this copy has is saved whole, and can be read.
#[test]
fn orphans_are_saved_and_listed() {
    let place = place("orphans");
    let mut rng = Seed(4).stream("orphans");
    let mut writer = Writer::new();
    let mut store = open(&place.0);
    begin(&mut store, &mut writer);
    for _ in 0..40 {
        let change = writer.any(&mut rng);
        append(&mut store, writer.write(change));
    }
    let file = FileId(3);
    append(&mut store, writer.write(Change::Create { file, at: at(FileId::ROOT, b"orphan.txt"), mode: 0o600 }));
    let from = writer.history.end.next();
    append(&mut store, writer.write(Change::Write { file, offset: 0, bytes: b"only here".to_vec() }));
    append(&mut store, writer.write(Change::Unlink { at: at(FileId::ROOT, b"nobody") }));
    apply(&mut store, writer.history.end);
    for _ in 0..2 {
        done(&mut store, &Work::Orphans { op: OpId(1), from });
    }
    let saved = store.orphans().expect("they are listed");
    assert_eq!(saved.len(), 1, "the same is saved once");
    let first = &saved[0];
    assert_eq!(
        (first.era, first.from, first.upto, first.files, first.bytes),
        (writer.era, from, writer.history.end, 1, 9)
    );
    let text = std::fs::read_to_string(first.path.join("manifest.txt")).expect("a manifest");
    assert!(text.contains("write of 9 bytes at 0 of f3") && text.contains("orphan.txt"), "{text}");
    assert_eq!(std::fs::read(first.path.join("files/0000000000000003")).expect("a file"), b"only here");
    let records = std::fs::read(first.path.join("records.bin")).expect("records");
    assert_eq!(Record::read(&records).expect("whole").0.lsn, from);
    assert_eq!(store.status().orphans, saved);
    drop(store);
    let mut store = open(&place.0);
    store.found().expect("it is found");
    done(&mut store, &Work::Orphans { op: OpId(1), from });
    assert_eq!(store.orphans().expect("they are listed"), saved, "and once after a restart");
    // Not for want of the mark.
    std::fs::remove_dir_all(&first.path).expect("it is there");
    done(&mut store, &Work::Orphans { op: OpId(1), from });
    done(&mut store, &Work::Orphans { op: OpId(1), from: from.next() });
    assert_eq!(store.orphans().expect("they are listed").len(), 2, "again, and another");
}

/// A full disk is told as such, nothing is half done, and all goes on once there is room.
#[test]
fn a_full_disk_is_told_and_got_over() {
    let place = place("full");
    let disk = place.0.join("disk");
    std::fs::create_dir(&disk).expect("a folder");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"])
        .arg(&disk)
        .output()
        .is_ok_and(|run| run.status.success());
    if !mounted {
        println!("SKIPPED: no tmpfs can be mounted here");
        return;
    }
    struct Mounted<'a>(&'a Path);
    impl Drop for Mounted<'_> {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg("-l").arg(self.0).output();
        }
    }
    let _mounted = Mounted(&disk);
    let mut writer = Writer::new();
    let mut store = open(&disk);
    begin(&mut store, &mut writer);
    let file = FileId(5);
    append(&mut store, writer.write(Change::Create { file, at: at(FileId::ROOT, b"big"), mode: 0o600 }));
    apply(&mut store, writer.history.end);
    let filler = disk.join("root/filler.foreign");
    let room = rustix::fs::statvfs(&disk).expect("it says");
    std::fs::write(&filler, vec![1; (room.f_bavail * room.f_frsize) as usize - (64 << 10)]).expect("room");
    let mut fulls = 0;
    let mut pending: Option<Vec<u8>> = None;
    for nth in 0..60u64 {
        let bytes = pending.take().unwrap_or_else(|| {
            writer.write(Change::Write { file, offset: nth * 16_384, bytes: vec![nth as u8 + 1; 16_384] })
        });
        let answer = store.perform(&Work::Append { op: OpId(1), staged: false, records: bytes.clone(), captured: 0 });
        let appended = matches!(answer, Some((_, Answer::Done)));
        assert!(appended || matches!(answer, Some((_, Answer::Full))), "{answer:?}");
        let applied = store.perform(&Work::Apply { op: OpId(2), upto: store.status().end });
        assert!(matches!(applied, Some((_, Answer::Done | Answer::Full))), "{applied:?}");
        if !appended || !matches!(applied, Some((_, Answer::Done))) {
            fulls += 1;
            for work in [
                Work::Checkpoint { op: OpId(3), at: store.status().end },
                Work::Orphans { op: OpId(4), from: Lsn(1) },
                Work::Shadow { op: OpId(5), base: writer.base() },
            ] {
                let answer = store.perform(&work);
                assert!(matches!(answer, Some((_, Answer::Done | Answer::Full))), "{work:?}: {answer:?}");
            }
            if fulls == 3 {
                assert!(store.alarms().iter().any(|alarm| alarm.contains("No space left")));
                std::fs::remove_file(&filler).expect("ours");
            }
        }
        if !appended {
            pending = Some(bytes);
        }
    }
    assert!(fulls >= 3, "the disk was never full");
    if let Some(bytes) = pending {
        append(&mut store, bytes);
    }
    apply(&mut store, writer.history.end);
    same(&disk.join("root"), &writer.model, "there is room again");
    drop(store);
    let mut store = open(&disk);
    assert_eq!(store.found().expect("it is found").log.end, writer.history.end);
    apply(&mut store, writer.history.end);
    same(&disk.join("root"), &writer.model, "restarted");
    let stretches = vec![Stretch { from: At::START, to: At::End }];
    let page = store.perform(&Work::Digest { op: OpId(1), shadow: false, salt: 1, depth: 0, stretches });
    assert!(matches!(page, Some((_, Answer::Page(_)))));
    assert!(seen(&disk.join("root")).len() == 1);
}
