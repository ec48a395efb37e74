//! A folder of checkpoints: a full one and those that go on from it, and the one before that.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::system::{self, Mapping};
use super::{Error, PAGE, Refusal, Run};
use crate::image::{self, Flaw, Head, SEAL};

/// Files that go on from a full one, before the next full one is made.
const LINKS: usize = 16;
/// Whole chains that are kept.
const CHAINS: usize = 2;
const ENDING: &str = "apusft";

/// A folder in use.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    /// One writer at a time.
    _lock: File,
    /// What the next one goes on from, and how many go on from the last full one.
    last: Option<([u8; SEAL], usize)>,
    /// Of every file that was ever found here.
    epoch: u64,
    number: u64,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The last usable checkpoint: its life, its number.
    pub(super) last: Option<(u64, u64)>,
    /// Its files, the full one first.
    chain: Vec<PathBuf>,
    /// Files that are not used, and why.
    pub(super) flaws: Vec<Refusal>,
}

fn of_flaw(file: &Path, flaw: Flaw) -> Refusal {
    let file = Some(file.to_owned());
    match flaw {
        Flaw::Later(version) => Refusal::Later { file, version },
        Flaw::Damaged { offset, what } => Refusal::Damaged { file, offset, what: what.into() },
        Flaw::Foreign => Refusal::Damaged { file, offset: 0, what: "it is no checkpoint".into() },
    }
}

/// Looks at a file as a whole, without reading what is not asked for.
fn with<T>(file: &Path, look: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
    let opened = File::open(file)?;
    let bytes = usize::try_from(opened.metadata()?.len()).unwrap_or(usize::MAX);
    if bytes == 0 {
        return Ok(look(&[]));
    }
    let image = Mapping::of(&opened, bytes)?;
    // SAFETY: the mapping is that long. Files here are written once, under another name, and never changed.
    Ok(look(unsafe { std::slice::from_raw_parts(image.base().cast_const(), bytes) }))
}

impl Store {
    /// Opens a folder, which is made if it is not there; tells what is in it.
    ///
    /// # Errors
    /// What the system refuses, or if another process has it.
    pub(super) fn open(folder: &Path) -> Result<(Self, Found), Error> {
        let what = || format!("the folder {}", folder.display());
        fs::create_dir_all(folder).map_err(Error::of(what()))?;
        let lock = File::options().create(true).truncate(false).write(true).open(folder.join("lock"));
        let lock = lock.map_err(Error::of(what()))?;
        if let Some(pid) = system::lock(&lock).map_err(Error::of(what()))? {
            return Err(Refusal::InUse { pid }.into());
        }
        let mut store = Self { folder: folder.into(), _lock: lock, last: None, epoch: 0, number: 0 };
        let found = store.look()?;
        Ok((store, found))
    }

    /// Finds the last chain that is whole.
    fn look(&mut self) -> Result<Found, Error> {
        let what = || format!("the folder {}", self.folder.display());
        let mut found = Found::default();
        let mut files: Vec<(Head, [u8; SEAL], PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(Error::of(what()))? {
            let path = entry.map_err(Error::of(what()))?.path();
            if path.extension().is_some_and(|ending| ending == "part") {
                // A life ended while it wrote that.
                fs::remove_file(&path).map_err(Error::of(path.display().to_string()))?;
                continue;
            }
            if path.extension().is_none_or(|ending| ending != ENDING) {
                continue;
            }
            let read = with(&path, |bytes| {
                // Numbers are not given twice, whatever state a file is in.
                let told = image::head(bytes).ok().map(|head| (head.epoch, head.number));
                (told, image::read(bytes).map(|image| (image.head, image.seal)))
            });
            let (told, image) = read.map_err(Error::of(path.display().to_string()))?;
            if let Some((epoch, number)) = told {
                self.epoch = self.epoch.max(epoch);
                self.number = self.number.max(number);
            }
            match image {
                Ok((head, seal)) => files.push((head, seal, path)),
                Err(flaw) => found.flaws.push(of_flaw(&path, flaw)),
            }
        }
        files.sort_by_key(|(head, ..)| (head.epoch, head.number));
        for at in (0..files.len()).rev() {
            let mut chain = vec![at];
            let mut wanted = files[at].0.before;
            while let Some(seal) = wanted {
                let Some(before) = files[..at].iter().position(|(_, known, _)| *known == seal) else { break };
                chain.push(before);
                wanted = files[before].0.before;
            }
            if wanted.is_some() {
                let (file, what) = (Some(files[at].2.clone()), "what it goes on from is missing or damaged".into());
                found.flaws.push(Refusal::Damaged { file, offset: 64, what });
                continue;
            }
            let (head, seal, _) = &files[at];
            found.last = Some((head.epoch, head.number));
            self.last = Some((*seal, chain.len() - 1));
            found.chain = chain.iter().rev().map(|at| files[*at].2.clone()).collect();
            break;
        }
        Ok(found)
    }

    /// The highest life and number of any file here.
    pub(super) const fn highest(&self) -> (u64, u64) {
        (self.epoch, self.number)
    }

    /// Whether the next file has to be a full one.
    pub(super) fn wants_full(&self) -> bool {
        self.last.is_none_or(|(_, links)| links >= LINKS)
    }

    /// The next file goes on from nothing.
    pub(super) const fn begin_anew(&mut self) {
        self.last = None;
    }

    /// Gives what the chain of a find holds, the oldest first, and its last head. Every file is looked at again before the first
    /// page is given.
    pub(super) fn load(found: &Found, mut give: impl FnMut(Run, &[u8])) -> Result<Option<Head>, Error> {
        let mut last = None;
        for file in &found.chain {
            let head = with(file, |bytes| image::read(bytes).map(|image| image.head));
            let head = head.map_err(Error::of(file.display().to_string()))?;
            last = Some(head.map_err(|flaw| of_flaw(file, flaw))?);
        }
        for file in &found.chain {
            let done = with(file, |bytes| {
                let image = image::read(bytes)?;
                for (first, pages) in image.runs() {
                    let count = u32::try_from(pages.len() / PAGE).unwrap_or(u32::MAX);
                    give(Run { first, count }, pages);
                }
                Ok(())
            });
            let done = done.map_err(Error::of(file.display().to_string()))?;
            done.map_err(|flaw| of_flaw(file, flaw))?;
        }
        Ok(last)
    }

    /// Writes a checkpoint: durable, and under its name, once this returns. `head.before` is filled in here.
    ///
    /// # Errors
    /// What the system refuses; the ones before are as they were.
    pub(super) fn write(&mut self, mut head: Head, runs: &[(u32, &[u8])], full: bool) -> Result<(PathBuf, u64), Error> {
        head.before = self.last.filter(|_| !full).map(|(seal, _)| seal);
        let start = image::encode(&head, runs);
        let seal = image::seal(&start, runs);
        let kind = if full { "full" } else { "more" };
        let name = format!("{:08}-{:012}.{kind}.{ENDING}", head.epoch, head.number);
        let path = self.folder.join(name);
        let part = path.with_extension("part");
        let bytes = Self::put(&part, &start, runs, &seal).and_then(|bytes| {
            fs::rename(&part, &path)?;
            File::open(&self.folder)?.sync_all()?;
            Ok(bytes)
        });
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) => {
                let _ = fs::remove_file(&part);
                return Err(Error::System { what: path.display().to_string(), error });
            }
        };
        let links = if full { 0 } else { self.last.map_or(0, |(_, links)| links + 1) };
        self.last = Some((seal, links));
        (self.epoch, self.number) = (self.epoch.max(head.epoch), self.number.max(head.number));
        if full {
            self.forget();
        }
        Ok((path, bytes))
    }

    fn put(part: &Path, start: &[u8], runs: &[(u32, &[u8])], seal: &[u8]) -> io::Result<u64> {
        let mut file = File::create(part)?;
        file.write_all(start)?;
        let mut bytes = start.len() + seal.len();
        for (_, pages) in runs {
            file.write_all(pages)?;
            bytes += pages.len();
        }
        file.write_all(seal)?;
        file.sync_all()?;
        Ok(bytes as u64)
    }

    /// Takes away what is older than the chains that are kept. What cannot be removed stays.
    fn forget(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.ends_with(ENDING))
            .collect();
        names.sort();
        let full = format!(".full.{ENDING}");
        let Some(oldest) = names.iter().rev().filter(|name| name.ends_with(&full)).nth(CHAINS - 1).cloned() else {
            return;
        };
        for name in names.iter().filter(|name| **name < oldest) {
            let _ = fs::remove_file(self.folder.join(name));
        }
    }
}
