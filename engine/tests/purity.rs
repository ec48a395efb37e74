//! The engine links no std, clock, or random source: said by the source, proved by the library that a build makes.

use std::path::Path;
use std::process::Command;

fn sources(dir: &Path, out: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(dir).expect("the engine's sources").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, out);
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            out.push((path.display().to_string(), text));
        }
    }
}

#[test]
fn no_source_names_std() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    assert!(files.len() > 20, "the sources were not found");
    for (name, text) in files {
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for word in ["std::", "extern crate std", "f32", "f64", "HashMap", "unsafe "] {
                assert!(!line.contains(word), "{name}: `{word}` in `{line}`");
            }
        }
    }
}

/// Builds the library on its own and looks at the symbols that it leaves for others to define.
#[test]
fn the_library_asks_for_no_symbol_of_std() {
    if Command::new("nm").arg("--version").output().is_err() {
        println!("SKIPPED: `nm` is missing (package binutils)");
        return;
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("purity");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--offline", "-p", "apus-engine", "--target-dir"])
        .arg(&target)
        // The symbols are all that is wanted of it.
        .envs([("CARGO_PROFILE_DEV_DEBUG", "0"), ("CARGO_PROFILE_DEV_OPT_LEVEL", "0")])
        .status()
        .expect("cargo runs");
    assert!(built.success(), "the engine does not build on its own");
    let library = target.join("debug/libapus_engine.rlib");
    let symbols = Command::new("nm").arg("--undefined-only").arg(&library).output().expect("nm runs");
    let text = String::from_utf8_lossy(&symbols.stdout);
    assert!(text.contains(" U "), "no symbols were read from {}", library.display());
    for line in text.lines() {
        for word in ["3std", "std::", "clock_gettime", "getrandom", "gettimeofday", "pthread"] {
            assert!(!line.contains(word), "the engine asks for `{line}`");
        }
    }
}
