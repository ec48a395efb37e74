//! Programs as they are.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::world::{Way, World, good, until};

/// Whether a program is there; if not, the test says so.
fn there(test: &str, program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if !found {
        println!("{test}: SKIPPED: {program} is not installed");
    }
    found
}

fn sqlite(dir: &Path, text: &str) -> String {
    let mut command = Command::new("sqlite3");
    command.current_dir(dir).arg("t.db").arg(text).stdin(Stdio::null());
    good(command)
}

/// A database with its log, and with its journal.
pub(crate) fn a_database_is_whole_in_the_copy(way: Way) {
    if !there("a_database_is_whole_in_the_copy", "sqlite3") {
        return;
    }
    for mode in ["WAL", "DELETE"] {
        let world = World::new(way, &["*.db", "*.db-wal", "*.db-journal"]);
        let mut text = format!("PRAGMA journal_mode={mode}; CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT);");
        for number in 0..60 {
            text += &format!("INSERT INTO t(v) VALUES(hex(randomblob({})));", number * 7 % 900);
        }
        sqlite(&world.root, &text);
        // While one reads, the log stays; another process writes beside it through the shared file of the log's index.
        sqlite(&world.root, "PRAGMA wal_autocheckpoint=20; UPDATE t SET v = v || 'x'; DELETE FROM t WHERE id % 3 = 0;");
        world.equal();
        assert_eq!(sqlite(&world.copy, "PRAGMA integrity_check; SELECT count(*) FROM t;"), "ok\n40\n");
        world.end();
    }
}

pub(crate) fn an_append_only_file_is_whole_in_the_copy(way: Way) {
    let test = "an_append_only_file_is_whole_in_the_copy";
    if !there(test, "redis-server") || !there(test, "redis-cli") {
        return;
    }
    let world = World::new(way, &["*.aof", "*.manifest", "*.rdb"]);
    let socket = world.dir.join("socket");
    let mut command = Command::new("redis-server");
    command.args(["--port", "0", "--appendonly", "yes", "--save", "", "--unixsocket"]).arg(&socket);
    let mut server = command.arg("--dir").arg(&world.root).stdout(Stdio::null()).spawn().expect("it starts");
    let ask = |words: &[&str]| {
        let mut command = Command::new("redis-cli");
        command.arg("-s").arg(&socket).args(words).stderr(Stdio::null());
        command.output().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string()).unwrap_or_default()
    };
    until("a server", || ask(&["ping"]) == "PONG");
    ask(&["eval", "for i=1,3000 do redis.call('set', 'k'..i, string.rep('v', i % 400)) end", "0"]);
    ask(&["bgrewriteaof"]);
    ask(&["eval", "for i=1,3000 do redis.call('append', 'k'..i, 'more') end", "0"]);
    until("a rewritten file", || {
        let told = ask(&["info", "persistence"]);
        told.contains("aof_rewrite_in_progress:0") && told.contains("aof_rewrite_scheduled:0")
    });
    ask(&["set", "last", "one"]);
    ask(&["shutdown", "nosave"]);
    server.wait().expect("it is ours");
    world.equal();
    let manifest = std::fs::read_dir(world.copy.join("appendonlydir")).expect("a folder");
    let mut files = manifest.map(|entry| entry.expect("an entry").path());
    let manifest = files.find(|path| path.extension().is_some_and(|end| end == "manifest"));
    if there(test, "redis-check-aof") {
        let mut command = Command::new("redis-check-aof");
        assert!(
            good({
                command.arg(manifest.expect("it has one"));
                command
            })
            .contains("valid")
        );
    }
    world.end();
}

pub(crate) fn a_repository_is_whole_in_the_copy(way: Way) {
    if !there("a_repository_is_whole_in_the_copy", "git") {
        return;
    }
    let world = World::new(way, &["**"]);
    let git = |dir: &Path, words: &[&str]| {
        let mut command = Command::new("git");
        command
            .current_dir(dir)
            .args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "safe.directory=*"])
            .args(words);
        good({
            command.stderr(Stdio::null());
            command
        })
    };
    let work = world.root.join("work");
    git(&world.root, &["init", "-q", "work"]);
    for round in 0..8 {
        for file in 0..10 {
            let text = format!("{round} {file}\n").repeat(file * 40 + 1);
            good({
                let mut command = Command::new("sh");
                command.current_dir(&work).args(["-c", "printf %s \"$1\" > \"$2\"", "sh", &text, &format!("f{file}")]);
                command
            });
        }
        git(&work, &["add", "-A"]);
        git(&work, &["commit", "-q", "-m", "round"]);
    }
    git(&work, &["gc", "-q", "--prune=now"]);
    git(&work, &["checkout", "-q", "-b", "other", "HEAD~3"]);
    world.equal();
    let copy = world.copy.join("work");
    git(&copy, &["fsck", "--strict"]);
    assert_eq!(git(&copy, &["rev-list", "--count", "--all"]).trim(), "8");
    world.end();
}

const STATIC: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <string.h>
int main(void) {
    int fd = syscall(SYS_openat, AT_FDCWD, "raw.db", O_RDWR | O_CREAT, 0644);
    char block[8192];
    memset(block, 'a', sizeof block);
    if (syscall(SYS_pwrite64, fd, block, sizeof block, 0L) != sizeof block) return 1;
    char *map = mmap(0, sizeof block, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) return 2;
    memset(map + 1000, 'm', 5000);
    if (msync(map, sizeof block, MS_SYNC)) return 3;
    if (syscall(SYS_ftruncate, fd, 7000L)) return 4;
    if (syscall(SYS_renameat2, AT_FDCWD, "raw.db", AT_FDCWD, "new.db", 0)) return 5;
    int out = syscall(SYS_openat, AT_FDCWD, "copy.db", O_RDWR | O_CREAT, 0644);
    if (syscall(SYS_copy_file_range, fd, &(long){10}, out, &(long){100}, 6000L, 0) != 6000) return 6;
    return 0;
}
"#;

/// A program that no library can be preloaded into, and that makes its system calls itself.
pub(crate) fn a_static_program_is_seen(way: Way) {
    if !there("a_static_program_is_seen", "cc") {
        return;
    }
    let world = World::new(way, &["*.db"]);
    let (source, program) = (world.dir.join("raw.c"), world.dir.join("raw"));
    std::fs::write(&source, STATIC).expect("it has room");
    let mut command = Command::new("cc");
    command.args(["-static", "-o"]).arg(&program).arg(&source);
    if !command.status().expect("it starts").success() {
        println!("a_static_program_is_seen: SKIPPED: cc makes no static programs");
        return world.end();
    }
    let mut command = Command::new(&program);
    command.current_dir(&world.root);
    good(command);
    world.equal();
    let bytes = std::fs::read(world.copy.join("new.db")).expect("it came in");
    assert_eq!((bytes.len(), bytes[999], bytes[1000], bytes[5999], bytes[6000]), (7000, b'a', b'm', b'm', b'a'));
    assert_eq!(std::fs::read(world.copy.join("copy.db")).expect("it came in").len(), 6100);
    world.end();
}
