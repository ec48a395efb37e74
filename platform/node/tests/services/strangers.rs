//! Programs that no library can be loaded into: what the guard does about them, and a mount that captures them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use apus_engine::Seed;
use apus_node::Config;
use serde_json::json;

use crate::cluster::{Cluster, Row};
use crate::shipped::{Rings, acks, alike, books, copy, found, power_off, root, skipped, tree, writes};
use crate::tests::{pid, signal};

/// Opens a file by a system call of its own, writes, maps, and makes it durable.
const STATIC: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int many, char **words) {
    char block[8192];
    int fd = syscall(SYS_openat, AT_FDCWD, words[1], O_RDWR | O_CREAT, 0644);
    if (fd < 0) return 9;
    memset(block, words[2][0], sizeof block);
    if (syscall(SYS_pwrite64, fd, block, sizeof block, 0L) != sizeof block) return 1;
    char *map = mmap(0, sizeof block, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) return 2;
    memset(map + 1000, 'm', 5000);
    if (msync(map, sizeof block, MS_SYNC)) return 3;
    if (syscall(SYS_fsync, fd)) return 4;
    return 0;
}
"#;
/// It was refused.
const REFUSED: i32 = 9;

/// The program, or why there is none.
fn program(folder: &Path) -> Option<PathBuf> {
    let (source, program) = (folder.join("static.c"), folder.join("static"));
    fs::write(&source, STATIC).expect("a file");
    let mut command = Command::new("cc");
    let made = command.args(["-static", "-o"]).arg(&program).arg(&source).stderr(Stdio::null()).status();
    if made.is_ok_and(|status| status.success()) {
        return Some(program);
    }
    println!("  SKIPPED: cc makes no static programs here");
    None
}

/// How it ends, in the folder of a node.
fn run(program: &Path, at: &Path, file: &str, letter: &str) -> Option<i32> {
    let status = Command::new(program).args([file, letter]).current_dir(at).status();
    status.expect("it starts").code()
}

fn written(letter: u8) -> Vec<u8> {
    let mut bytes = vec![letter; 8192];
    bytes[1000..6000].fill(b'm');
    bytes
}

/// What the cluster says of a group: its alarms, and the story of its service.
fn told(cluster: &Cluster, node: usize) -> (String, String) {
    let status = cluster.ask(node, &json!({ "do": "files", "group": "books" }));
    (status["alarms"].to_string(), cluster.ask(node, &json!({ "do": "why", "of": "db" })).to_string())
}

/// Refused, or let through and compared; never in silence. All copies are alike afterwards.
pub(crate) fn guarded() {
    if skipped() {
        return;
    }
    for policy in ["refuse", "mark"] {
        let _rings = Rings;
        let (top, services) = books("sync", "lines", "20s", &format!("guard = \"{policy}\""));
        let cluster = Cluster::new(&format!("guarded-{policy}"), 3, &top, &services);
        let (first, _) = cluster.ready("db", 0, |node, row: &Row| row["node"] == node);
        let Some(program) = program(cluster.folder()) else { return };
        writes(&cluster, 20);
        alike(&cluster, first);
        let at = root(&cluster, first);
        fs::write(cluster.folder().join("quiet"), "").expect("a file");
        let (end, kind) = if policy == "refuse" { (REFUSED, "refused") } else { (0, "let-through") };
        assert_eq!(run(&program, &at, "raw.db", "a"), Some(end), "{policy}");
        cluster.wait("the guard's word", || copy(&cluster, first)["strangers"][kind].as_u64() > Some(0));
        let (alarms, why) = told(&cluster, first);
        let path = program.canonicalize().expect("it is there").display().to_string();
        let did = if policy == "refuse" { "was refused raw.db" } else { "changes raw.db" };
        assert!(alarms.contains(&format!("({path}) is not captured and {did}, 1 times")), "{alarms}");
        assert!(why.contains(&format!("({path}) is not captured and opens raw.db for writing")), "{why}");
        if policy == "mark" {
            let other = (first + 1) % 3;
            let there = || tree(&root(&cluster, other)).get(Path::new("raw.db")) == Some(&written(b'a'));
            cluster.wait("what was let through", there);
        }
        fs::remove_file(cluster.folder().join("quiet")).expect("ours");
        writes(&cluster, 20);
        alike(&cluster, first);
    }
}

/// Whether something of ours is mounted at a node's folder.
fn mounted(cluster: &Cluster, node: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    return apus_fuse::there(&root(cluster, node)) == apus_fuse::There::Lives;
    #[cfg(not(target_arch = "x86_64"))]
    return root(cluster, node).starts_with("/nowhere");
}

fn server(cluster: &Cluster, node: usize) -> u32 {
    copy(cluster, node)["mount"]["process"].as_u64().and_then(|process| u32::try_from(process).ok()).unwrap_or_default()
}

/// Static programs are captured and wait as all others do; daemons, the mount's process and the machine may end at any moment.
pub(crate) fn mounted_group() {
    if skipped() {
        return;
    }
    if !Path::new("/dev/fuse").exists() {
        println!("files by a mount: SKIPPED: /dev/fuse is not there");
        return;
    }
    let _rings = Rings;
    let (top, services) = books("sync", "lines", "3s", "capture = \"fuse\"");
    let mut cluster = Cluster::new("mounted", 3, &top, &services);
    let (first, row) = cluster.ready("db", 0, |node, row: &Row| row["node"] == node);
    assert!(mounted(&cluster, first) && server(&cluster, first) > 1, "{}", cluster.story());
    writes(&cluster, 50);
    alike(&cluster, first);

    // What it made durable is in the other copies once it ends.
    if let Some(program) = program(cluster.folder()) {
        assert_eq!(run(&program, &root(&cluster, first), "raw.db", "a"), Some(0));
        let other = (first + 1) % 3;
        let there = || tree(&root(&cluster, other)).get(Path::new("raw.db")) == Some(&written(b'a'));
        cluster.wait("the other's file", there);
        assert_eq!(copy(&cluster, first)["strangers"]["refused"], 0, "who goes through the mount is no stranger");
    }
    alike(&cluster, first);

    // The same program, by the same mount, whoever ends the daemon.
    let mut rng = Seed(5).stream("kills");
    let process = server(&cluster, first);
    for _ in 0..4 {
        cluster.kill(first);
        std::thread::sleep(std::time::Duration::from_micros(rng.below(60_000)));
        cluster.start(first);
        cluster.ready("db", 0, |node, now: &Row| node == first && now["pid"] == row["pid"]);
        writes(&cluster, 5);
    }
    assert_eq!(server(&cluster, first), process, "the mount was gone on with");
    alike(&cluster, first);

    // Its process killed: programs start anew, on a new mount.
    signal("KILL", &[process]);
    cluster.wait("a new mount", || server(&cluster, first) > 1 && server(&cluster, first) != process);
    cluster.ready("db", 0, |node, now: &Row| node == first && now["pid"] != row["pid"]);
    writes(&cluster, 20);
    alike(&cluster, first);
    found(&cluster, &acks(&cluster).into_iter().take(50).collect());
    assert_eq!(copy(&cluster, first)["mount"]["again"], 1);

    // Both at once: the next daemon puts a mount over the dead one.
    let (_, row) = cluster.ready("db", 0, |node, _| node == first);
    let process = server(&cluster, first);
    signal("KILL", &[process]);
    cluster.kill(first);
    cluster.start(first);
    cluster.ready("db", 0, |node, now: &Row| node == first && pid(now) != pid(&row));
    assert!(mounted(&cluster, first), "{}", cluster.story());
    writes(&cluster, 20);
    alike(&cluster, first);

    power_off(&mut cluster, first);
    let (off, acknowledged) = (Instant::now(), acks(&cluster));
    let (second, _) = cluster.ready("db", 0, |node, row: &Row| node != first && row["node"] == node);
    println!("  {} rows acknowledged; up on node {second} after {} ms", acknowledged.len(), off.elapsed().as_millis());
    found(&cluster, &acknowledged);
    assert!(mounted(&cluster, second), "{}", cluster.story());
    writes(&cluster, 20);
    // A mount whose process died with its machine is taken away.
    cluster.start(first);
    cluster.wait("the old writer's copy", || copy(&cluster, first)["doing"] == "follows");
    assert!(!mounted(&cluster, first) && fs::read_dir(root(&cluster, first)).is_ok(), "the folder itself is there");
    alike(&cluster, second);

    // Moved in order: mounted there, and no more here, with whatever pages held.
    let acknowledged = acks(&cluster);
    assert_eq!(cluster.ask(second, &json!({ "do": "move", "what": "db", "node": first }))["done"], true);
    cluster.ready("db", 0, |node, row: &Row| node == first && row["node"] == first);
    found(&cluster, &acknowledged);
    assert!(mounted(&cluster, first) && !mounted(&cluster, second), "{}", cluster.story());
    writes(&cluster, 20);
    alike(&cluster, first);

    // Daemon and mount killed, and no daemon comes again: the operator's command makes the folder one again.
    let process = server(&cluster, first);
    cluster.kill(first);
    signal("KILL", &[process]);
    cluster.wait("the end of the mount", || fs::read_dir(root(&cluster, first)).is_err());
    let (name, text) = (cluster.file(first), fs::read_to_string(cluster.file(first)).expect("it is there"));
    let config = Config::read(&name.display().to_string(), &text).expect("it is good");
    apus_node::clear(&config).expect("no daemon runs");
    assert!(fs::read_dir(root(&cluster, first)).is_ok());
}
