//! Programs that know nothing of it: the drainer is stopped at random moments, and the program itself looks at the copy.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::world::{Draw, World, finish};

/// Whether all of them are there.
fn installed(test: &str, programs: &[&str]) -> bool {
    let there = |program: &&str| {
        Command::new("/bin/sh")
            .args(["-c", "command -v \"$0\" >/dev/null", program])
            .status()
            .is_ok_and(|status| status.success())
    };
    match programs.iter().find(|program| !there(program)) {
        Some(program) => {
            println!("  {test}: SKIPPED: {program} is not installed");
            false
        }
        None => true,
    }
}

fn output(command: &mut Command) -> (bool, String) {
    let output = command.output().expect("it runs");
    (
        output.status.success(),
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
    )
}

/// Has the program take so many steps, each only once the one before was looked at, and stops the drainer at a random moment of each,
/// whose copy is judged.
fn frozen(
    world: &World,
    seed: u64,
    moments: usize,
    step: &mut dyn FnMut(usize),
    judge: &dyn Fn(&Path) -> Result<(), String>,
) {
    let mut draw = Draw(seed);
    let moment = world.dir.join("moment");
    for number in 0..moments {
        step(number);
        std::thread::sleep(Duration::from_micros(draw.below(15_000)));
        while !world.freeze(&moment) {
            std::thread::sleep(Duration::from_millis(1));
        }
        judge(&moment).unwrap_or_else(|why| panic!("moment {number}: {why}"));
        std::fs::remove_dir_all(&moment).expect("ours");
    }
}

fn database(mode: &str) {
    let mut world = World::new(&["*.db", "*.db-*", "!*-shm"], |_| {});
    world.drain(0);
    let mut sql = format!(
        "PRAGMA journal_mode={mode}; PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=40; CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB);\n"
    );
    let mut child =
        world.program("sqlite3").arg("a.db").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it runs");
    let mut input = child.stdin.take().expect("a pipe");
    let judge = |copy: &Path| {
        let text = "PRAGMA integrity_check; SELECT count(*) - coalesce(max(id), 0) FROM t;";
        let (well, told) = output(Command::new("sqlite3").arg(copy.join("a.db")).arg(text));
        if (well && told == "ok\n0\n") || told.contains("no such table") { Ok(()) } else { Err(told) }
    };
    let (moments, each) = (40, if mode == "WAL" { 100 } else { 37 });
    let mut step = |moment: usize| {
        for number in moment * each..(moment + 1) * each {
            let other = if number % 7 == 3 {
                format!("UPDATE t SET v=randomblob(900) WHERE id={};", number / 2)
            } else {
                String::new()
            };
            let size = 50 + number % 400;
            sql += &format!("BEGIN; INSERT INTO t(v) VALUES(randomblob({size})); {other} COMMIT;\n");
        }
        input.write_all(std::mem::take(&mut sql).as_bytes()).expect("it reads");
    };
    frozen(&world, 5, moments, &mut step, &judge);
    drop(input);
    finish(child);
    world.settle();
    world.stop();
    judge(&world.copy).unwrap_or_else(|why| panic!("in the end: {why}"));
    println!("  sqlite3, {mode}: {moments} moments, all whole; {:?}", world.status().ever.words());
    world.assert_same();
    assert_eq!(world.status().lost, 1);
}

/// A database with its log or journal is whole at any moment.
pub(crate) fn databases_are_whole_at_any_moment() {
    if installed("databases", &["sqlite3"]) {
        database("WAL");
        database("DELETE");
    }
}

/// Ends with the test, however that ends.
struct Server(std::process::Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An append-only file, also while it is rewritten.
pub(crate) fn an_append_only_file_is_whole_at_any_moment() {
    if !installed("redis", &["redis-server", "redis-cli", "redis-check-aof"]) {
        return;
    }
    let mut world = World::new(&["appendonlydir/**"], |_| {});
    world.drain(0);
    let socket = world.dir.join("socket");
    let mut server = world.program("redis-server");
    server
        .args(["--port", "0", "--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--dir", "."])
        .arg("--unixsocket")
        .arg(&socket);
    let mut server = Server(server.stdout(Stdio::null()).spawn().expect("it runs"));
    while !output(Command::new("redis-cli").arg("-s").arg(&socket).arg("ping")).0 {
        assert!(server.0.try_wait().expect("ours").is_none(), "the server ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut client = Command::new("redis-cli")
        .arg("-s")
        .arg(&socket)
        .arg("--pipe")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("it runs");
    let mut input = client.stdin.take().expect("a pipe");
    let judge = |copy: &Path| {
        let (well, told) =
            output(Command::new("redis-check-aof").arg(copy.join("appendonlydir/appendonly.aof.manifest")));
        if well { Ok(()) } else { Err(told) }
    };
    world.settle();
    let moments = 15;
    let mut step = |moment: usize| {
        let mut commands = String::new();
        for number in moment * 2000..(moment + 1) * 2000 {
            commands += &format!("SET key:{} {}\r\n", number % 500, "v".repeat(20 + number % 180));
        }
        if moment % 6 == 3 {
            commands += "BGREWRITEAOF\r\n";
        }
        input.write_all(commands.as_bytes()).expect("it reads");
    };
    frozen(&world, 6, moments, &mut step, &judge);
    drop(input);
    // It may have asked for a rewriting while one went on, and ends with an error then.
    client.wait().expect("ours");
    let (well, told) = output(Command::new("redis-cli").arg("-s").arg(&socket).args(["shutdown", "nosave"]));
    assert!(well, "{told}");
    assert!(server.0.wait().expect("ours").success());
    world.settle();
    world.stop();
    println!("  redis: {moments} moments, all whole; {:?}", world.status().ever.words());
    let (own, copy) =
        (crate::world::tree(&world.root.join("appendonlydir")), crate::world::tree(&world.copy.join("appendonlydir")));
    assert!(own == copy, "the copy's files: {:?}, the server's: {:?}", copy.keys(), own.keys());
    assert_eq!(world.status().lost, 1);
}

/// A repository: no name leads to what is not there.
pub(crate) fn a_repository_is_whole_at_any_moment() {
    if !installed("git", &["git"]) {
        return;
    }
    let mut world = World::new(&["**"], |_| {});
    world.drain(0);
    let git = |world: &World, args: &[&str]| {
        let mut git = world.program("git");
        git.args(["-c", "user.name=n", "-c", "user.email=e@e", "-c", "gc.auto=0"])
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        finish(git.spawn().expect("it runs"));
    };
    git(&world, &["init", "-q", "."]);
    git(&world, &["commit", "-q", "--allow-empty", "-m", "first"]);
    world.settle();
    let judge = |copy: &Path| {
        let (well, told) = output(Command::new("git").arg("-C").arg(copy).args([
            "-c",
            "safe.directory=*",
            "fsck",
            "--full",
            "--no-dangling",
        ]));
        if well { Ok(()) } else { Err(told) }
    };
    let moments = 12;
    std::thread::scope(|scope| {
        let (go, wait) = std::sync::mpsc::channel();
        let (world, git) = (&world, &git);
        scope.spawn(move || {
            for number in wait {
                for file in 0..6 {
                    let bytes = Draw::bytes(number as u64 * 10 + file, 4000);
                    std::fs::write(world.dir.join("next"), bytes).expect("written");
                    let mut cp = world.program("cp");
                    finish(cp.arg(world.dir.join("next")).arg(format!("file-{file}")).spawn().expect("it runs"));
                }
                git(world, &["add", "-A"]);
                git(world, &["commit", "-q", "-m", "more"]);
                if number == 8 {
                    git(world, &["gc", "-q", "--prune=now"]);
                }
            }
        });
        frozen(world, 7, moments, &mut |number| go.send(number).expect("it waits"), &judge);
    });
    world.settle();
    world.stop();
    judge(&world.copy).unwrap_or_else(|why| panic!("in the end: {why}"));
    println!("  git: {moments} moments, all whole; {:?}", world.status().ever.words());
    world.assert_same();
    assert_eq!(world.status().lost, 1);
}

/// An editor's save: at any moment the text is there whole, as it was or as it is, under its name or that of the editor's backup.
pub(crate) fn an_editors_save_is_whole_at_any_moment() {
    if !installed("vim", &["vim"]) {
        return;
    }
    let mut world = World::new(&["text*"], |_| {});
    let text = |version: usize| format!("version {version:04}\n").repeat(3000);
    std::fs::write(world.root.join("text"), text(0)).expect("written");
    world.drain(0);
    let mut editor = world.program("vim");
    editor.args(["-u", "NONE", "-n", "-es", "text"]).stdin(Stdio::piped());
    let mut editor = editor.spawn().expect("it runs");
    let mut input = editor.stdin.take().expect("a pipe");
    let settings = "set nocompatible writebackup backupcopy=no backupskip= viminfo=\n";
    input.write_all(settings.as_bytes()).expect("it reads");
    let judge = |copy: &Path| {
        let whole = |name: &str| {
            let read = std::fs::read_to_string(copy.join(name)).unwrap_or_default();
            let version = read.get(8..12).and_then(|digits| digits.parse().ok());
            version.is_some_and(|version| read == text(version))
        };
        if whole("text") || whole("text~") {
            Ok(())
        } else {
            Err("neither the text nor its backup is whole".to_string())
        }
    };
    let moments = 39;
    let mut step = |moment: usize| {
        let commands = format!("%s/version \\d*/version {:04}/\nw\n", moment + 1);
        input.write_all(commands.as_bytes()).expect("it reads");
    };
    frozen(&world, 8, moments, &mut step, &judge);
    input.write_all(b"q\n").expect("it reads");
    drop(input);
    finish(editor);
    world.settle();
    world.stop();
    println!("  vim: {moments} moments, all whole; {:?}", world.status().ever.words());
    world.assert_same();
    assert_eq!(std::fs::read_to_string(world.copy.join("text")).expect("it is there"), text(39));
    assert_eq!(world.status().lost, 1);
}
