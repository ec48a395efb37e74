//! Files that are gone before the drainer has seen that they were there.

use std::os::unix::fs::FileExt as _;

use apus_capture::linux::Reasons;

use crate::world::{Draw, What, World, finish};

/// How many bytes a journal has.
const LONG: usize = 90_000;

/// Role: a journal is written, written over, and removed; a file takes the place of another that nobody has read; and a third is written
/// to by who has it open while it has no name.
pub(crate) fn vanish() {
    let new = |name: &str| std::fs::File::create(name).expect("a file");
    let journal = new("a-journal.db");
    journal.write_all_at(&Draw::bytes(1, LONG), 0).expect("written");
    journal.write_all_at(&Draw::bytes(2, 500), 300).expect("written");
    new("a.db").write_all_at(&Draw::bytes(3, 4096), 0).expect("written");
    drop(journal);
    std::fs::remove_file("a-journal.db").expect("removed");
    new("b.db").write_all_at(&Draw::bytes(4, 700), 0).expect("written");
    new("b-new.db").write_all_at(&Draw::bytes(5, 800), 0).expect("written");
    std::fs::rename("b-new.db", "b.db").expect("renamed");
    let open = new("c.db");
    open.write_all_at(&Draw::bytes(6, 900), 0).expect("written");
    std::fs::remove_file("c.db").expect("removed");
    open.write_all_at(&Draw::bytes(7, 900), 0).expect("written");
}

/// The program does all of it while nobody drains.
fn unseen(bug: Option<&str>) -> (World, usize) {
    let mut world = World::new(&["*.db"], |_| {});
    world.drain(0);
    world.stop();
    let start = world.history.lock().expect("kept").len();
    let mut role = world.role("vanish", &[]);
    if let Some(bug) = bug {
        role.env("APUS_CAPTURE_BUG", bug);
    }
    finish(role.spawn().expect("it runs"));
    world.drain(0);
    world.stop();
    (world, start)
}

/// Bytes that nobody had read are copied before the file goes: they come as they were written, and each tree may be shown.
pub(crate) fn a_file_that_is_gone_was_copied() {
    let (world, start) = unseen(None);
    let history = world.history.lock().expect("kept")[start..].to_vec();
    let hidden: Vec<_> = history.iter().filter(|kept| !kept.publish).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
    let written = |seed, len| What::Write(0, Draw::bytes(seed, len));
    let long = history.iter().filter_map(|kept| match &kept.what {
        What::Write(offset, bytes) if bytes.len() > 8192 => Some((*offset, bytes.clone())),
        _ => None,
    });
    let long: Vec<u8> = long.flat_map(|(_, bytes)| bytes).collect();
    assert!(long == Draw::bytes(1, LONG), "{} bytes", long.len());
    for wanted in
        [What::Write(300, Draw::bytes(2, 500)), written(3, 4096), written(4, 700), written(5, 800), written(6, 900)]
    {
        assert_eq!(history.iter().filter(|kept| kept.what == wanted).count(), 1);
    }
    for name in ["a-journal.db", "c.db"] {
        assert!(history.iter().any(|kept| kept.what == What::Unlink(name.into())), "{name}");
    }
    assert_eq!((world.status().lost, world.status().ever.0 & Reasons::DRIFT), (1, 0));
    world.assert_same();
}

/// Planted: without the copies what lies between is told as what may not be shown.
pub(crate) fn a_file_that_is_gone_uncopied_is_told() {
    let (world, start) = unseen(Some("no-copy"));
    let history = world.history.lock().expect("kept")[start..].to_vec();
    assert!(history.iter().any(|kept| !kept.publish), "nothing was told: the test above shows nothing");
    assert!(history.last().is_some_and(|kept| kept.publish), "the end may be shown");
    world.assert_same();
}
