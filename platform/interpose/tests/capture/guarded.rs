//! The guard: programs without the library.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use apus_capture::linux::{Guard, Policy, Reasons, Verdict};

use crate::world::{World, finish};

/// Runs `what` while a guard watches; what it decided.
fn guarded(world: &World, policy: Policy, what: impl FnOnce()) -> Option<Vec<Verdict>> {
    let mut guard = match Guard::new(&world.ring, policy) {
        Ok(guard) => guard,
        Err(why) => {
            println!("  SKIPPED: {why}");
            return None;
        }
    };
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        let mut verdicts = Vec::new();
        while !told.load(SeqCst) {
            verdicts.extend(guard.answer(20).expect("the queue"));
        }
        verdicts
    });
    what();
    stop.store(true, SeqCst);
    Some(thread.join().expect("the guard ends well"))
}

fn stranger(world: &World, script: &str) -> bool {
    Command::new("/bin/sh")
        .current_dir(&world.root)
        .args(["-c", script])
        .stderr(Stdio::null())
        .status()
        .expect("a shell")
        .success()
}

/// Refused: the file stays as it is. Reading is nobody's business, nor is a file outside the group.
pub(crate) fn a_stranger_is_refused() {
    let mut world = World::new(&["*.db"], |_| {});
    std::fs::write(world.root.join("a.db"), "there").expect("written");
    world.drain(0);
    let verdicts = guarded(&world, Policy::Refuse, || {
        assert!(!stranger(&world, "echo over > a.db"), "it was not refused");
        assert!(stranger(&world, "cat a.db >/dev/null && echo x > other.txt"), "more was refused");
        finish(world.program("/bin/sh").args(["-c", "echo captured > b.db"]).spawn().expect("a shell"));
    });
    let Some(verdicts) = verdicts else { return };
    assert!(
        verdicts.iter().all(|verdict| verdict.path == b"a.db" && !verdict.allowed) && !verdicts.is_empty(),
        "{verdicts:?}"
    );
    world.settle();
    world.stop();
    std::fs::remove_file(world.root.join("other.txt")).expect("ours");
    assert_eq!(std::fs::read_to_string(world.copy.join("a.db")).expect("it is there"), "there");
    assert_eq!(std::fs::read_to_string(world.copy.join("b.db")).expect("it is there"), "captured\n");
    world.assert_same();
}

/// Let through: the group says so, and what was changed comes over.
pub(crate) fn a_stranger_is_told() {
    let mut world = World::new(&["*.db"], |_| {});
    std::fs::write(world.root.join("a.db"), "there").expect("written");
    world.drain(0);
    let verdicts = guarded(&world, Policy::Mark, || {
        assert!(stranger(&world, "echo over > a.db; echo new > n.db"), "it was refused");
    });
    let Some(verdicts) = verdicts else { return };
    assert!(verdicts.len() == 2 && verdicts.iter().all(|verdict| verdict.allowed), "{verdicts:?}");
    let status = world.status();
    assert!(status.untracked && status.ever.0 & Reasons::STRANGER != 0, "{status:?}");
    while std::fs::read_to_string(world.copy.join("n.db")).unwrap_or_default() != "new\n"
        || std::fs::read_to_string(world.copy.join("a.db")).unwrap_or_default() != "over\n"
    {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    world.settle();
    world.stop();
    world.assert_same();
}
