//! What a program does with its files: a log that grows, files written at random, files replaced by a rename, and one that points to another.

use apus_engine::shipping::{Attributes, BLOCK, Change, Entry};
use apus_engine::{FileId, Rng};

use super::tree::FIRST;
use super::vault::Vault;

/// Names that the program uses.
const NAMES: u64 = 10;

fn entry(dir: FileId, name: String) -> Entry {
    Entry { dir, name: name.into_bytes() }
}

/// A number that no file of the group had before: which life of the copy made it, and its how-manieth change.
fn fresh(node: u16, vault: &Vault) -> FileId {
    let era = vault.open.map_or(0, |era| era.0);
    FileId((era << 20) ^ (u64::from(node) << 56) ^ (vault.captured + 1))
}

fn named(vault: &Vault, name: &str) -> Option<FileId> {
    vault.tree.names.get(&(FileId::ROOT, name.as_bytes().to_vec())).copied()
}

fn bytes(rng: &mut Rng, many: u64) -> Vec<u8> {
    (0..many).map(|_| rng.next() as u8).collect()
}

/// The changes of one step, in order; the last one is a barrier if the program then waits.
pub(super) fn step((node, side): (u16, u64), vault: &Vault, rng: &mut Rng) -> Vec<Change> {
    if let Some((blocks, files)) = vault.tree.large_blocks()
        && rng.below(4) > 0
    {
        // A few blocks side by side, anywhere, made durable now and then.
        let file = FileId(FIRST + rng.below(files));
        let first = rng.below(blocks.div_ceil(side)) * side;
        let writes = (first..blocks.min(first + side)).map(|block| Change::Write {
            file,
            offset: block * BLOCK,
            bytes: bytes(rng, BLOCK),
        });
        let mut out: Vec<Change> = writes.collect();
        if rng.below(8) == 0 {
            out.push(Change::Barrier { file });
        }
        return out;
    }
    let root = FileId::ROOT;
    let new = fresh(node, vault);
    let name = format!("f{}", rng.below(NAMES));
    let some = named(vault, &name);
    match rng.below(20) {
        // A log: appended to, and made durable now and then.
        0..=6 => match named(vault, "log") {
            None => vec![Change::Create { file: new, at: entry(root, "log".into()), mode: 0o640 }],
            Some(file) => {
                let offset = vault.tree.files.get(&file).map_or(0, |file| file.len() as u64);
                if offset > 40_000 {
                    return vec![Change::Truncate { file, length: 0 }, Change::Barrier { file }];
                }
                let many = rng.between(20, 400);
                let mut out = vec![Change::Append { file, offset, bytes: bytes(rng, many) }];
                if rng.below(3) == 0 {
                    out.push(Change::Barrier { file });
                }
                out
            }
        },
        // A page is written.
        7..=11 => match some {
            None => vec![Change::Create { file: new, at: entry(root, name), mode: 0o600 }],
            Some(file) => {
                let (offset, many) = (rng.below(6) * 4096, rng.between(100, 4096));
                let mut out = vec![Change::Write { file, offset, bytes: bytes(rng, many) }];
                if rng.below(2) == 0 {
                    out.push(Change::Barrier { file });
                }
                out
            }
        },
        // A file is replaced: written beside, made durable, renamed.
        12 | 13 => {
            let many = rng.between(100, 3_000);
            let old = entry(root, format!("{name}.tmp"));
            // One that a crash has left goes first.
            let left = named(vault, &format!("{name}.tmp")).map(|_| Change::Unlink { at: old.clone() });
            let all = [
                Change::Create { file: new, at: old.clone(), mode: 0o644 },
                Change::Write { file: new, offset: 0, bytes: bytes(rng, many) },
                Change::Barrier { file: new },
                Change::Rename { file: new, from: old, to: entry(root, name) },
            ];
            left.into_iter().chain(all).collect()
        }
        14 => some.map_or_else(Vec::new, |_| vec![Change::Unlink { at: entry(root, name) }]),
        15 => {
            let other = format!("l{}", rng.below(NAMES));
            // A name that is taken cannot be given again.
            let some = some.filter(|_| named(vault, &other).is_none());
            some.map_or_else(Vec::new, |file| vec![Change::Link { file, at: entry(root, other) }])
        }
        16 => match named(vault, "dir") {
            None => vec![Change::Mkdir { file: new, at: entry(root, "dir".into()), mode: 0o755 }],
            Some(dir) if vault.tree.names.contains_key(&(dir, name.clone().into_bytes())) => {
                vec![Change::Unlink { at: entry(dir, name) }]
            }
            Some(dir) => vec![Change::Symlink { file: new, at: entry(dir, name.clone()), target: name.into_bytes() }],
        },
        17 => some.map_or_else(Vec::new, |file| match rng.below(3) {
            0 => vec![Change::Truncate { file, length: rng.below(20_000) }],
            1 => vec![Change::Punch { file, offset: 4096, length: 8192 }],
            _ => vec![Change::SetXattr { file, name: b"user.mark".to_vec(), value: bytes(rng, 8) }],
        }),
        18 => some.map_or_else(Vec::new, |file| {
            let attributes = Attributes { mode: rng.below(512) as u32, uid: 1, gid: 2, mtime: rng.next() };
            vec![Change::Attributes { file, attributes }]
        }),
        // Two files in order: the second one tells how far the first one is.
        _ => match (named(vault, "log"), named(vault, "mark")) {
            (Some(log), Some(mark)) => {
                let offset = vault.tree.files.get(&log).map_or(0, |file| file.len() as u64);
                let end = (offset + 16).to_le_bytes().to_vec();
                vec![
                    Change::Append { file: log, offset, bytes: bytes(rng, 16) },
                    Change::Write { file: mark, offset: 0, bytes: end },
                    Change::Barrier { file: mark },
                ]
            }
            (Some(_), None) => vec![Change::Create { file: new, at: entry(root, "mark".into()), mode: 0o600 }],
            _ => Vec::new(),
        },
    }
}
