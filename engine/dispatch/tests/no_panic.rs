//! The core as a driver links it: alone, optimised, without a symbol that it would need to panic, to allocate, or of std.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What a kernel driver does with the core.
const USER: &str = r#"
#![no_std]
use apus_dispatch::{Block, Here, NoHooks, announcement, Announcement, Table, dispatch};

#[unsafe(no_mangle)]
pub extern "C" fn apus_dispatch_frame(here: &Here, table: &Block<'_>, frame: &mut &mut [u8]) -> bool {
    dispatch(here, table, &NoHooks, &mut **frame) == apus_dispatch::Verdict::Transmit
}

#[unsafe(no_mangle)]
pub extern "C" fn apus_dispatch_check(bytes: &&[u8]) -> bool {
    Block::newer(bytes, 1).is_ok()
}

#[unsafe(no_mangle)]
pub extern "C" fn apus_dispatch_announce(here: &Here, table: &Block<'_>, into: &mut [u8; 104]) -> usize {
    announcement(into, Announcement::Neighbour, here, &table.head()).unwrap_or(0)
}
"#;

fn run(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn compile(rustc: &str, out: &Path, name: &str, kind: &str, source: &Path, more: &[&str]) {
    let mut command = Command::new(rustc);
    command.args([
        "--edition=2024",
        "--crate-type=rlib",
        "-Copt-level=3",
        "-Cpanic=abort",
        "-Coverflow-checks=off",
        "-Cembed-bitcode=no",
    ]);
    command.args(["--crate-name", name, "--emit", kind, "--out-dir"]).arg(out).args(more).arg(source);
    run(&mut command);
}

#[test]
fn the_core_cannot_panic_or_allocate() {
    if Command::new("nm").arg("--version").output().is_err() {
        println!("SKIPPED: `nm` is missing (package binutils)");
        return;
    }
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no_panic");
    std::fs::create_dir_all(&out).expect("a folder for the object");
    let core = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    compile(&rustc, &out, "apus_dispatch", "link", &core, &[]);
    let user: PathBuf = out.join("user.rs");
    std::fs::write(&user, USER).expect("a source can be written");
    let library = out.join("libapus_dispatch.rlib");
    let with = format!("apus_dispatch={}", library.display());
    compile(&rustc, &out, "user", "obj", &user, &["--extern", &with]);
    let own = run(Command::new("nm").arg("--defined-only").arg(&library));
    // To print an error is the caller's wish, not the core's.
    let allowed = |symbol: &str| {
        ["memcpy", "memset", "memcmp", "bcmp", "memmove"].contains(&symbol)
            || own.contains(symbol)
            || symbol.contains("4core3fmt")
    };
    for file in [out.join("user.o"), library.clone()] {
        let undefined = run(Command::new("nm").arg("--undefined-only").arg(file));
        let symbols =
            undefined.lines().filter(|line| line.contains(" U ")).filter_map(|line| line.split_whitespace().last());
        for symbol in symbols {
            assert!(allowed(symbol), "the core asks for `{symbol}`");
            assert!(!symbol.contains("panic"), "the core asks for `{symbol}`");
        }
    }
    let defined = run(Command::new("nm").arg("--defined-only").arg(out.join("user.o")));
    assert!(defined.contains("apus_dispatch_frame"), "nothing was compiled: {defined}");
}
