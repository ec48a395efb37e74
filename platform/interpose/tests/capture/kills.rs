//! Drainers and programs that are killed anywhere, and drainers that are not there.

use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use apus_capture::linux::{Drainer, Reasons, Replay};

use crate::world::{Draw, What, World, finish, setting};

/// Role: the drainer, until it is killed.
pub(crate) fn drain() {
    let place = |name: &str| PathBuf::from(std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set")));
    let mut drainer = Drainer::open(&place("APUS_RING")).expect("the one before is dead");
    let mut replay = Replay::new(place("APUS_COPY")).expect("a copy");
    drainer.run(&mut replay, &AtomicBool::new(false)).expect("the copy takes all");
}

/// Role: files come, grow, are overwritten, cut, renamed over each other and go.
pub(crate) fn churn() {
    let seed = setting("APUS_SEED");
    let mut draw = Draw(seed);
    for number in 0..setting("APUS_OPERATIONS") {
        let path = format!("file-{}.db", draw.below(8));
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .expect("a file");
        match draw.below(12) {
            0 => file.set_len(draw.below(40_000)).expect("cut"),
            1 => {
                let (new, over) = (format!("new-{seed}-{number}.db"), format!("file-{}.db", draw.below(8)));
                std::fs::write(&new, Draw::bytes(number, 3000)).expect("written");
                std::fs::rename(new, over).expect("renamed");
            }
            2 => {
                let _ = std::fs::remove_file(&path);
            }
            3 => (&file).write_all(&Draw::bytes(number, 700)).expect("written"),
            _ => file
                .write_all_at(&Draw::bytes(number, draw.below(6000) as usize + 1), draw.below(40_000))
                .expect("written"),
        }
    }
}

fn churning(world: &World, seed: u64, operations: u64) -> Child {
    world
        .role("churn", &[("APUS_SEED", seed.to_string()), ("APUS_OPERATIONS", operations.to_string())])
        .spawn()
        .expect("it runs")
}

fn draining(world: &World) -> Child {
    let own = std::env::current_exe().expect("we run");
    let mut command = std::process::Command::new(own);
    command
        .env("APUS_ROLE", "drain")
        .env("APUS_RING", &world.ring)
        .env("APUS_COPY", &world.copy)
        .spawn()
        .expect("it runs")
}

fn kill(mut child: Child) {
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
}

/// A hundred times, while a program writes: the order is kept, nothing is read anew, the copy is the tree.
pub(crate) fn a_killed_drainer_goes_on() {
    let mut world = World::new(&["*.db"], |_| {});
    world.drain(0);
    world.stop();
    let mut draw = Draw(7);
    let mut kills = 0;
    let mut round = 0;
    while kills < 100 {
        round += 1;
        let mut program = churning(&world, round, 3000);
        while program.try_wait().expect("it is ours").is_none() && kills < 100 {
            let drainer = draining(&world);
            std::thread::sleep(Duration::from_micros(2000 + draw.below(25_000)));
            kill(drainer);
            kills += 1;
        }
        if kills == 100 {
            // What nobody reads is copied before it goes: a ring holds only so much of that.
            world.drain(0);
        }
        finish(program);
    }
    world.settle();
    world.stop();
    let status = world.status();
    println!("  {kills} kills, {} records, {} bytes copied", status.next, status.copied);
    assert_eq!(status.lost, 1, "the order was lost: {:?}", status.ever.words());
    world.assert_same();
}

/// Programs are killed in the middle of an operation: what they began is as the files show it, and others go on.
pub(crate) fn a_killed_program_leaves_no_hole() {
    let mut world = World::new(&["*.db"], |_| {});
    world.drain(9);
    let mut draw = Draw(11);
    for round in 0..40 {
        let program = churning(&world, 100 + round, 1_000_000);
        let beside = churning(&world, 200 + round, 150);
        std::thread::sleep(Duration::from_micros(1500 + draw.below(20_000)));
        kill(program);
        finish(beside);
    }
    world.settle();
    world.stop();
    let status = world.status();
    println!(
        "  40 kills, {} records, the order lost {} times ({:?})",
        status.next,
        status.lost - 1,
        status.ever.words()
    );
    world.assert_same();
    let seqs: Vec<u64> = world.history.lock().expect("kept").iter().map(|kept| kept.seq).collect();
    assert!(seqs.is_sorted(), "the numbers of operations only grow");
}

/// Without a drainer a program is held up once, for the limit, and then goes on; what it did is read when there is a drainer again.
pub(crate) fn without_a_drainer_programs_go_on() {
    let mut world = World::new(&["*.db"], |group| (group.ring_bytes, group.stall_ms) = (1 << 16, 20));
    world.drain(0);
    world.stop();
    finish(churning(&world, 1, 2000));
    let status = world.status();
    assert_eq!(status.reasons.0 & Reasons::RING_FULL, Reasons::RING_FULL, "{status:?}");
    world.drain(0);
    world.stop();
    assert_eq!(world.status().lost, 2, "{:?}", world.status());
    world.assert_same();
}

/// Role-less: after a full ring only the ranges that changed are read.
pub(crate) fn a_full_ring_ships_ranges_alone() {
    let mut world = World::new(&["*.db"], |group| (group.ring_bytes, group.stall_ms) = (1 << 16, 20));
    std::fs::write(world.root.join("large.db"), Draw::bytes(3, 8 << 20)).expect("written");
    world.drain(0);
    world.stop();
    let before = world.history.lock().expect("kept").len();
    let script = "open(my $h, '+<', 'large.db'); sysseek($h, 65536, 0); syswrite($h, \"number $_\") for 1 .. 2000;";
    finish(world.program("perl").args(["-e", script]).spawn().expect("perl is in every Debian"));
    assert_ne!(world.status().reasons.0 & Reasons::RING_FULL, 0, "{:?}", world.status());
    world.drain(0);
    world.stop();
    let sent: usize = world.history.lock().expect("kept")[before..]
        .iter()
        .map(|kept| if let What::Write(_, bytes) = &kept.what { bytes.len() } else { 0 })
        .sum();
    println!("  {sent} bytes of {} were read anew", 8 << 20);
    assert!(sent < 64 << 10, "{sent} bytes");
    world.assert_same();
}

/// More files than the table holds, one after the other, and many that are left.
pub(crate) fn the_table_of_files_is_cleared() {
    let mut world = World::new(&["*.db"], |_| {});
    world.drain(0);
    let script = "for (my $i = 0; $i < 20000; $i++) { my $f = 'f' . ($i % 700) . '.db'; open(my $h, '>', $f); syswrite($h, $i); close($h); unlink($f) if $i % 3; } ";
    finish(world.program("perl").args(["-e", script]).spawn().expect("perl is in every Debian"));
    world.settle();
    world.stop();
    let status = world.status();
    assert_eq!(status.lost, 1, "the order was lost: {:?}", status.ever.words());
    world.assert_same();
}
