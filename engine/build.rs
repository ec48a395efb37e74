//! Names the engine's sources, for `BUILD`.

use std::path::{Path, PathBuf};

fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the engine's sources").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, out);
        } else {
            out.push(path);
        }
    }
}

fn main() {
    println!("cargo:rerun-if-changed=src");
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    // The same on every system: order by name with one kind of slash, without what line ends differ in.
    let mut files: Vec<(String, PathBuf)> =
        files.into_iter().map(|path| (path.to_string_lossy().replace('\\', "/"), path)).collect();
    files.sort();
    // FNV-1a.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut take = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    for (name, path) in files {
        name.bytes().for_each(&mut take);
        let text = std::fs::read(path).expect("a source");
        text.into_iter().filter(|byte| *byte != b'\r').for_each(&mut take);
    }
    println!("cargo:rustc-env=APUS_ENGINE_SOURCES={hash:016x}");
}
