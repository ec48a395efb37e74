//! Programs that wait for the copies.

use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::time::Duration;

use crate::world::{Kept, What, World, finish, setting};

/// Role: what waits, and what does not, each with its name on a line before it and the error number, or 0, behind.
pub(crate) fn waits() {
    let mut log = std::fs::File::create("waits.log").expect("outside the group");
    let mut tell = |what: &str, done: std::io::Result<()>| {
        let number = done.err().map_or(0, |error| error.raw_os_error().unwrap_or(-1));
        writeln!(log, "{what} {number}").expect("written");
    };
    let file = std::fs::File::create("plain.db").expect("a file");
    tell("write", file.write_all_at(b"one", 0));
    tell("fsync", file.sync_all());
    tell("fdatasync", file.sync_data());
    let durable = std::fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .custom_flags(libc::O_DSYNC)
        .open("durable.db")
        .expect("a file");
    tell("durable", durable.write_all_at(b"two", 0));
    let part = libc::iovec { iov_base: b"six".as_ptr().cast_mut().cast(), iov_len: 3 };
    // SAFETY: one part, of bytes that stay.
    let wrote =
        unsafe { libc::pwritev2(std::os::fd::AsRawFd::as_raw_fd(&file), &raw const part, 1, 0, libc::RWF_DSYNC) };
    tell("flagged", if wrote == 3 { Ok(()) } else { Err(std::io::Error::last_os_error()) });
    let aside = std::fs::File::create("aside.txt").expect("a file");
    tell("aside", aside.sync_all());
    std::fs::create_dir_all("below").expect("a directory");
    std::fs::write("below/new.db", "three").expect("a file");
    std::fs::rename("below/new.db", "below/named.db").expect("it is there");
    for (what, path) in [("root", "."), ("outside", ".."), ("below", "below")] {
        tell(what, std::fs::File::open(path).expect("a directory").sync_all());
    }
    // The same number each time.
    for (what, path) in [("listed-outside", c".."), ("listed", c"below")] {
        // SAFETY: the name ends with a zero.
        let stream = unsafe { libc::opendir(path.as_ptr()) };
        // SAFETY: a stream that was just opened.
        let fd = unsafe { libc::dirfd(stream) };
        // SAFETY: a descriptor, no memory.
        let done = unsafe { libc::fsync(fd) };
        tell(what, if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) });
        // SAFETY: opened above.
        unsafe { libc::closedir(stream) };
    }
    std::fs::remove_file("plain.db").expect("it is there");
    tell("unlinked", file.sync_all());
}

fn told(world: &World) -> String {
    std::fs::read_to_string(world.root.join("waits.log")).expect("it was written").replace('\n', ", ")
}

/// Whoever asks for durable bytes waits, and nobody else does; when the lease is over it is told of an error.
pub(crate) fn who_waits_is_let_go_or_told() {
    let mut world = World::new(&["*.db"], |_| {});
    world.drain(0);
    world.capture.wait_for_release(true);
    // No lease: who waits is told at once.
    finish(world.role("waits", &[]).spawn().expect("it runs"));
    let error = libc::EIO;
    let want = |error: i32| {
        format!(
            "write 0, fsync {error}, fdatasync {error}, durable {error}, flagged {error}, aside 0, root {error}, outside 0, below {error}, \
             listed-outside 0, listed {error}, unlinked 0, "
        )
    };
    assert_eq!(told(&world), want(error));
    world.capture.lease(u64::MAX);
    let mut child = world.role("waits", &[]).spawn().expect("it runs");
    while child.try_wait().expect("ours").is_none() {
        // What was handed over is kept: it may go on.
        world.capture.release(world.status().shipped);
        std::thread::sleep(Duration::from_millis(1));
    }
    finish(child);
    assert_eq!(told(&world), want(0));
    world.settle();
    world.stop();
}

/// Ends a wait of `child` once it is seen to wait: a record asks for it, and nothing is released before.
fn let_go(world: &World, mut child: std::process::Child) {
    let asked = || {
        let history = world.history.lock().expect("no thread ends while it holds it");
        history.iter().any(|kept| kept.what == What::Other("Sync".into()))
    };
    while !asked() {
        assert!(child.try_wait().expect("ours").is_none(), "it did not wait");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(child.try_wait().expect("ours").is_none(), "nothing was released");
    while child.try_wait().expect("ours").is_none() {
        world.capture.release(world.status().shipped);
        std::thread::sleep(Duration::from_millis(1));
    }
    finish(child);
}

/// More files than are kept in the table once they are written and handed over.
const CROWD: usize = 12_400;

/// Role: writes a file, and has it put on the disk once its place in the table is another's.
pub(crate) fn crowd() {
    let file = std::fs::File::create("swept.db").expect("a file");
    file.write_all_at(b"one", 0).expect("written");
    for number in 0..CROWD {
        std::fs::File::create(format!("{number}.db")).expect("a file");
    }
    while !std::fs::exists("swept.txt").expect("a look") {
        std::thread::sleep(Duration::from_millis(1));
    }
    file.sync_all().expect("in time");
}

/// A file that lost its place in the table is waited for as any other.
pub(crate) fn a_file_that_was_swept_is_waited_for() {
    let mut world = World::new(&["*.db"], |_| {});
    world.drain(0);
    world.capture.wait_for_release(true);
    world.capture.lease(u64::MAX);
    let mut child = world.role("crowd", &[]).spawn().expect("it runs");
    let created = |kept: &Kept| (kept.what == What::Create("swept.db".into())).then_some(kept.seq);
    let sits = || {
        let number = world.history.lock().expect("no thread ends while it holds it").iter().find_map(created);
        number.is_none_or(|number| world.capture.known().iter().any(|(file, ..)| file.0 == number))
    };
    while sits() {
        assert!(child.try_wait().expect("ours").is_none(), "it ended early");
        // A look goes over the whole table.
        std::thread::sleep(Duration::from_millis(50));
    }
    std::fs::write(world.root.join("swept.txt"), "").expect("outside the group");
    let_go(&world, child);
    world.settle();
    assert_eq!(world.status().lost, 1, "the order was lost: {:?}", world.status().ever.words());
    world.stop();
}

/// Role: renames, and has all put on the disk.
pub(crate) fn all() {
    std::fs::write("new.db", "one").expect("a file");
    std::fs::rename("new.db", "named.db").expect("it is there");
    if setting("APUS_DISK") == 0 {
        // SAFETY: no arguments.
        unsafe { libc::sync() };
    } else {
        let any = std::fs::File::create("any.txt").expect("a file");
        // SAFETY: a descriptor, no memory.
        let done = unsafe { libc::syncfs(std::os::fd::AsRawFd::as_raw_fd(&any)) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }
}

/// `sync` and `syncfs` wait for all of the group.
pub(crate) fn who_puts_all_on_the_disk_waits() {
    for disk in 0..2 {
        let mut world = World::new(&["*.db"], |_| {});
        world.drain(0);
        world.capture.wait_for_release(true);
        world.capture.lease(u64::MAX);
        let_go(&world, world.role("all", &[("APUS_DISK", disk.to_string())]).spawn().expect("it runs"));
        world.settle();
        world.stop();
    }
}
