//! Each call that is stood before, once.

use std::ffi::{CStr, CString};
use std::time::Duration;

use apus_capture::linux::Reasons;
use libc::{AT_FDCWD, c_int};

use crate::world::{World, finish, setting};

fn name(name: &str) -> CString {
    CString::new(name).expect("no zero")
}

fn check(done: i64, what: &str) -> i64 {
    assert!(done >= 0, "{what}: {}", std::io::Error::last_os_error());
    done
}

/// Runs a C call that may not fail.
macro_rules! c {
    ($name:ident($($arg:expr),* $(,)?)) => {
        // SAFETY: texts end with a zero, lengths are those of what is passed.
        check(unsafe { libc::$name($($arg),*) } as i64, stringify!($name)) as c_int
    };
}

fn new(path: &str) -> c_int {
    c!(open(name(path).as_ptr(), libc::O_CREAT | libc::O_RDWR, 0o640))
}

fn put(fd: c_int, text: &[u8]) {
    c!(write(fd, text.as_ptr().cast(), text.len()));
}

fn filled(path: &str, text: &[u8]) -> c_int {
    let fd = new(path);
    put(fd, text);
    fd
}

/// Role: makes each call.
pub(crate) fn calls() {
    bytes();
    opens();
    names();
    attributes();
    streams();
    processes();
}

fn parts(one: &[u8], two: &[u8]) -> [libc::iovec; 2] {
    [one, two].map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() })
}

fn bytes() {
    let fd = filled("bytes.db", b"0123456789");
    c!(pwrite(fd, b"ab".as_ptr().cast(), 2, 4));
    let two = parts(b"one ", b"two ");
    c!(writev(fd, two.as_ptr(), 2));
    c!(pwritev(fd, two.as_ptr(), 2, 30));
    c!(pwritev2(fd, two.as_ptr(), 2, 50, 0));
    c!(pwritev2(fd, two.as_ptr(), 2, -1, libc::RWF_APPEND));
    c!(fsync(fd));
    c!(fdatasync(fd));
    let cut = filled("cut.db", &[7; 9000]);
    c!(ftruncate(cut, 5000));
    c!(truncate(name("cut.db").as_ptr(), 4500));
    c!(fallocate(cut, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 100, 300));
    c!(fallocate(cut, 0, 0, 7000));
    c!(posix_fallocate(cut, 0, 7777));
    // File systems may refuse these; what they did is seen all the same.
    for how in [libc::FALLOC_FL_ZERO_RANGE, libc::FALLOC_FL_COLLAPSE_RANGE, libc::FALLOC_FL_INSERT_RANGE] {
        let moved = filled(&format!("moved-{how}.db"), &[9; 16384]);
        // SAFETY: no memory is passed.
        unsafe { libc::fallocate(moved, how, 4096, 4096) };
        put(moved, b"after");
    }
    let (from, to) = (filled("from.txt", &[3; 6000]), new("sent.db"));
    let mut at = 0;
    c!(sendfile(to, from, &raw mut at, 3000));
    let (mut here, mut there) = (100, 9000);
    c!(copy_file_range(from, &raw mut here, to, &raw mut there, 2000, 0));
    let mut pipe = [0; 2];
    c!(pipe(pipe.as_mut_ptr()));
    put(pipe[1], b"through a pipe");
    c!(splice(pipe[0], std::ptr::null_mut(), to, std::ptr::null_mut(), 14, 0));
    // Not by the C library's own functions.
    let raw = new("raw.db");
    c!(syscall(libc::SYS_write, raw, b"raw bytes".as_ptr(), 9usize));
    c!(syscall(libc::SYS_pwrite64, raw, b"RAW".as_ptr(), 3usize, 20usize));
    c!(syscall(libc::SYS_ftruncate, raw, 21usize));
    // Written by one that is opened for appending: an offset is of no use there.
    let append = c!(open(name("raw.db").as_ptr(), libc::O_WRONLY | libc::O_APPEND));
    c!(pwrite(append, b"end".as_ptr().cast(), 3, 0));
    put(append, b"more");
    let late = c!(open(name("raw.db").as_ptr(), libc::O_WRONLY));
    c!(fcntl(late, libc::F_SETFL, libc::O_APPEND));
    put(late, b"last");
    // SAFETY: the structure is not read: the call is refused.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, std::ptr::null_mut::<u8>()) };
    assert_eq!((ring, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::ENOSYS)));
    // What fails leaves nothing behind.
    let only = c!(open(name("raw.db").as_ptr(), libc::O_RDONLY));
    // SAFETY: the bytes are there.
    assert_eq!(unsafe { libc::write(only, b"x".as_ptr().cast(), 1) }, -1);
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EBADF));
}

fn opens() {
    put(c!(creat(name("creat.db").as_ptr(), 0o600)), b"creat");
    put(c!(open(name("creat.db").as_ptr(), libc::O_WRONLY | libc::O_TRUNC)), b"cut");
    c!(mkdir(name("dir").as_ptr(), 0o750));
    let dir = c!(open(name("dir").as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY));
    put(c!(openat(dir, name("at.db").as_ptr(), libc::O_CREAT | libc::O_WRONLY, 0o644)), b"at");
    c!(mkdirat(dir, name("deeper").as_ptr(), 0o755));
    c!(symlink(name("dir/deeper").as_ptr(), name("way").as_ptr()));
    put(new("way/../through.db"), b"through a link");
    put(new("way/deep.db"), b"deep");
    c!(symlink(name("dangling-target.db").as_ptr(), name("dangling").as_ptr()));
    put(new("dangling"), b"made through a link");
    let how: [u64; 3] = [(libc::O_CREAT | libc::O_WRONLY) as u64, 0o644, 0];
    put(c!(syscall(libc::SYS_openat2, AT_FDCWD, name("openat2.db").as_ptr(), how.as_ptr(), 24usize)), b"openat2");
    for template in ["tmp-XXXXXX", "XXXXXX.db"] {
        let text = name(template);
        let end = if template.ends_with(".db") { 3 } else { 0 };
        put(c!(mkstemps(text.as_ptr().cast_mut(), end)), b"temporary");
    }
    let text = name("folder-XXXXXX");
    // SAFETY: the template is ours, and ends with a zero.
    let made = unsafe { libc::mkdtemp(text.as_ptr().cast_mut()) };
    assert!(!made.is_null(), "mkdtemp: {}", std::io::Error::last_os_error());
    put(new(&format!("{}/within.db", text.to_str().expect("letters"))), b"in a temporary folder");
    // A file without a name gets one.
    let nameless = c!(open(name(".").as_ptr(), libc::O_TMPFILE | libc::O_RDWR, 0o600));
    put(nameless, b"before it had a name, ");
    let by = format!("/proc/self/fd/{nameless}");
    c!(linkat(AT_FDCWD, name(&by).as_ptr(), AT_FDCWD, name("named.db").as_ptr(), libc::AT_SYMLINK_FOLLOW));
    put(nameless, b"and after");
    let moved = c!(dup(nameless));
    put(moved, b", and by another descriptor");
    c!(dup2(moved, 97));
    c!(close(moved));
    put(97, b", and by a third");
    put(c!(fcntl(97, libc::F_DUPFD, 98)), b", and a fourth");
    // The number is another file's now.
    let other = filled("unmatched.txt", b"not for the copy");
    c!(dup2(other, 97));
    put(97, b"not either");
}

fn names() {
    put(filled("old.db", b"old"), b", written after");
    c!(rename(name("old.db").as_ptr(), name("new.db").as_ptr()));
    // In, with what is written afterwards by the same descriptor, and over a name that is there.
    let inward = filled("inward.tmp", b"content before");
    filled("in.db", b"replaced");
    c!(rename(name("inward.tmp").as_ptr(), name("in.db").as_ptr()));
    put(inward, b" and after");
    let outward = filled("outward.db", b"goes");
    c!(rename(name("outward.db").as_ptr(), name("outward.tmp").as_ptr()));
    put(outward, b" unseen");
    for (path, text) in [("left.db", "left"), ("right.db", "right")] {
        put(new(path), text.as_bytes());
    }
    c!(renameat2(AT_FDCWD, name("left.db").as_ptr(), AT_FDCWD, name("right.db").as_ptr(), libc::RENAME_EXCHANGE));
    c!(link(name("new.db").as_ptr(), name("also.db").as_ptr()));
    put(c!(open(name("also.db").as_ptr(), libc::O_WRONLY | libc::O_APPEND)), b", by another name");
    // A name outside leads to a file inside.
    c!(link(name("new.db").as_ptr(), name("outside.txt").as_ptr()));
    put(c!(open(name("outside.txt").as_ptr(), libc::O_WRONLY | libc::O_APPEND)), b", by a name outside");
    c!(symlink(name("new.db").as_ptr(), name("link.db").as_ptr()));
    for path in ["gone.db", "gone-too.db"] {
        put(new(path), b"x");
    }
    c!(unlink(name("gone.db").as_ptr()));
    c!(remove(name("gone-too.db").as_ptr()));
    c!(mkdir(name("empty").as_ptr(), 0o700));
    c!(rmdir(name("empty").as_ptr()));
    c!(mkdir(name("moving").as_ptr(), 0o700));
    let inside = filled("moving/inside.db", b"inside");
    c!(rename(name("moving").as_ptr(), name("moved").as_ptr()));
    put(inside, b" a directory that moved");
    // What is open and has no name is nobody's.
    let nameless = filled("nameless.db", b"x");
    c!(unlink(name("nameless.db").as_ptr()));
    put(nameless, b"y");
}

fn attributes() {
    let fd = filled("attributes.db", b"x");
    c!(chmod(name("attributes.db").as_ptr(), 0o600));
    c!(fchmod(fd, 0o640));
    c!(fchmodat(AT_FDCWD, name("dir").as_ptr(), 0o711, 0));
    c!(chown(name("attributes.db").as_ptr(), u32::MAX, u32::MAX));
    let times = [libc::timespec { tv_sec: 1000, tv_nsec: 5 }, libc::timespec { tv_sec: 2000, tv_nsec: 7 }];
    c!(utimensat(AT_FDCWD, name("attributes.db").as_ptr(), times.as_ptr(), 0));
    // Of a descriptor, by a path without a name.
    let itself = c!(open(name("attributes.db").as_ptr(), libc::O_PATH));
    c!(fchownat(itself, c"".as_ptr(), 12, 13, libc::AT_EMPTY_PATH));
    c!(utimensat(itself, c"".as_ptr(), times.as_ptr(), libc::AT_EMPTY_PATH));
    c!(fsetxattr(fd, name("user.one").as_ptr(), b"1".as_ptr().cast(), 1, 0));
    c!(setxattr(name("attributes.db").as_ptr(), name("user.two").as_ptr(), b"22".as_ptr().cast(), 2, 0));
    c!(removexattr(name("attributes.db").as_ptr(), name("user.one").as_ptr()));
}

fn streams() {
    let text = |path: &str, mode: &CStr| {
        // SAFETY: texts end with a zero.
        let stream = unsafe { libc::fopen(name(path).as_ptr(), mode.as_ptr()) };
        assert!(!stream.is_null(), "fopen: {}", std::io::Error::last_os_error());
        stream
    };
    let stream = text("stream.db", c"w");
    for number in 0..3000 {
        c!(fprintf(stream, c"line %d\n".as_ptr(), number as c_int));
    }
    c!(fseek(stream, 10, libc::SEEK_SET));
    c!(fputs(c"OVER".as_ptr(), stream));
    c!(fflush(stream));
    let fd = c!(fileno(stream));
    c!(fsync(fd));
    c!(fclose(stream));
    let stream = text("stream.db", c"a+");
    c!(fputs(c"appended\n".as_ptr(), stream));
    c!(fclose(stream));
    let fd = new("fdopen.db");
    // SAFETY: the descriptor is open.
    let stream = unsafe { libc::fdopen(fd, c"w".as_ptr()) };
    c!(fputs(c"by a descriptor".as_ptr(), stream));
    c!(fclose(stream));
    let stream = text("unmatched-stream.txt", c"w");
    c!(fputs(c"not for the copy".as_ptr(), stream));
    c!(fclose(stream));
    // Once it is closed, its number may be another's.
    let stream = text("stream.db", c"r");
    let fd = c!(fileno(stream));
    c!(fclose(stream));
    let mut pair = [0; 2];
    c!(socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr()));
    assert!(pair.contains(&fd), "the lowest number is given again");
    put(fd, &[1; 100_000]);
}

fn processes() {
    // The child's environment is empty: the library goes along all the same.
    let status = std::process::Command::new("/bin/sh")
        .env_clear()
        .args(["-c", "echo shell > shell.db; /bin/cat shell.db > cat.db"])
        .status();
    assert!(status.expect("a shell").success());
    let fd = new("forked.db");
    // SAFETY: the child makes calls that may be made after a fork.
    match unsafe { libc::fork() } {
        0 => {
            put(fd, b"by the child");
            // SAFETY: ends at once.
            unsafe { libc::_exit(0) }
        }
        child => {
            let mut status = 0;
            c!(waitpid(child, &raw mut status, 0));
            put(fd, b", by the parent");
        }
    }
}

/// Whatever is called, the copy is the tree, without that the order was ever lost.
pub(crate) fn every_call_is_seen() {
    for pause in [0, 3] {
        let mut world = World::new(&["*.db"], |_| {});
        world.drain(pause);
        finish(world.role("calls", &[]).spawn().expect("it runs"));
        world.settle();
        let status = world.status();
        world.stop();
        assert_eq!(status.lost, 1, "the order was lost: {:?}", status.ever.words());
        // Names outside the group stay outside.
        for (path, (mode, _)) in crate::world::tree(&world.root) {
            if mode & libc::S_IFMT != libc::S_IFDIR && !path.ends_with(".db") {
                std::fs::remove_file(world.root.join(path)).expect("ours");
            }
        }
        world.assert_same();
        let copy = world.copy.join("attributes.db");
        let meta = copy.metadata().expect("it is there");
        assert_eq!(std::os::unix::fs::MetadataExt::mtime_nsec(&meta), 7);
        assert!(world.root.join("cat.db").metadata().expect("the shell ran").len() == 6);
    }
}

/// Role: stores through a mapping.
pub(crate) fn mapping() {
    let fd = filled("mapped.db", &vec![1; 200_000]);
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, as long as the file.
    let place = unsafe { libc::mmap(std::ptr::null_mut(), 200_000, protection, libc::MAP_SHARED, fd, 0) };
    assert_ne!(place, libc::MAP_FAILED);
    for at in [5usize, 70_000, 199_999] {
        // SAFETY: within the mapping.
        let byte = unsafe { place.cast::<u8>().add(at) };
        // SAFETY: as above.
        unsafe { byte.write(setting("APUS_BYTE") as u8) };
    }
    // SAFETY: the mapping of above.
    check(i64::from(unsafe { libc::msync(place, 200_000, libc::MS_SYNC) }), "msync");
}

/// Stores leave no call: the group says so, and the file is read anew.
pub(crate) fn a_shared_mapping_is_told() {
    let mut world = World::new(&["*.db"], |_| {});
    world.drain(0);
    assert!(!world.status().untracked);
    finish(world.role("mapping", &[("APUS_BYTE", "42".into())]).spawn().expect("it runs"));
    assert!(world.status().untracked);
    let wanted = std::fs::read(world.root.join("mapped.db")).expect("it is there");
    // It is there once the drainer has looked again, whenever that is.
    while std::fs::read(world.copy.join("mapped.db")).is_ok_and(|copy| copy != wanted) {
        std::thread::sleep(Duration::from_millis(10));
    }
    world.settle();
    world.assert_same();
    assert_eq!(world.status().lost, 1);
}

/// Role: what a new process opens, told to the C library.
pub(crate) fn spawns() {
    let fd = filled("kept.db", b"kept");
    filled("spawned.db", b"longer than what comes");
    // SAFETY: zeros are what `init` fills in.
    let mut lists: [libc::posix_spawn_file_actions_t; 2] = unsafe { std::mem::zeroed() };
    let how = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC;
    for (list, path) in lists.iter_mut().zip(["kept.db", "spawned.db"]) {
        c!(posix_spawn_file_actions_init(list));
        c!(posix_spawn_file_actions_addopen(list, 1, name(path).as_ptr(), how, 0o644));
    }
    // A list that is used for nothing does nothing.
    let mut kept = [0u8; 8];
    assert_eq!(c!(pread(fd, kept.as_mut_ptr().cast(), 8, 0)), 4);
    let (shell, dash, line) = (name("/bin/sh"), name("-c"), name("echo spawned"));
    let args = [shell.as_ptr().cast_mut(), dash.as_ptr().cast_mut(), line.as_ptr().cast_mut(), std::ptr::null_mut()];
    let mut pid = 0;
    let env = [std::ptr::null_mut()];
    assert_eq!(
        c!(posix_spawn(
            &raw mut pid,
            shell.as_ptr(),
            &raw const lists[1],
            std::ptr::null(),
            args.as_ptr(),
            env.as_ptr()
        )),
        0
    );
    c!(waitpid(pid, std::ptr::null_mut(), 0));
    for list in &mut lists {
        c!(posix_spawn_file_actions_destroy(list));
    }
}

/// What a spawn opens is unseen, and told; a list alone changes nothing; a descriptor that a stream closed is forgotten.
pub(crate) fn what_a_spawn_opens_is_told() {
    let mut world = World::new(&["*.db"], |_| {});
    world.drain(0);
    finish(world.role("spawns", &[]).spawn().expect("it runs"));
    world.settle();
    let status = world.status();
    world.stop();
    assert_eq!(status.ever.0 & Reasons::CALL, Reasons::CALL);
    assert_eq!(std::fs::read(world.root.join("kept.db")).expect("it is there"), b"kept");
    assert_eq!(std::fs::read(world.root.join("spawned.db")).expect("it is there"), b"spawned\n");
    world.assert_same();
}
