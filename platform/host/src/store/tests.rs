//! Every cut, every flip, full disks, and group commit, on a disk in memory.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use apus_engine::consensus::{Entry, Payload, Snapshot};
use apus_engine::{Durable, Incarnation, Index, NodeId, Record, Term};

use super::{Disk, Folder, OpenError, STATE_FILE, Settings, Store, segment};

/// Files in memory; every write is durable at once, so that what is on it after each call is what a crash may leave.
#[derive(Clone, Default)]
struct Memory {
    files: Rc<RefCell<BTreeMap<String, Vec<u8>>>>,
    /// Bytes that still fit.
    room: Rc<RefCell<Option<usize>>>,
    /// Contents after every call.
    history: Rc<RefCell<Vec<BTreeMap<String, Vec<u8>>>>>,
}

impl Memory {
    fn with(files: BTreeMap<String, Vec<u8>>) -> Self {
        Self { files: Rc::new(RefCell::new(files)), ..Self::default() }
    }
    fn note(&self) {
        self.history.borrow_mut().push(self.files.borrow().clone());
    }
}

impl Disk for Memory {
    async fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files.borrow().keys().cloned().collect())
    }
    async fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        self.files.borrow().get(file).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    async fn append(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        // A full disk takes a part of the write.
        let room = self.room.borrow().unwrap_or(usize::MAX);
        let fits = bytes.len().min(room);
        self.files.borrow_mut().entry(file.into()).or_default().extend_from_slice(&bytes[..fits]);
        self.note();
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
    async fn sync(&mut self, _file: &str) -> io::Result<()> {
        Ok(())
    }
    async fn truncate(&mut self, file: &str, length: u64) -> io::Result<()> {
        self.files.borrow_mut().entry(file.into()).or_default().truncate(usize::try_from(length).unwrap());
        self.note();
        Ok(())
    }
    async fn replace(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        self.files.borrow_mut().insert(file.into(), bytes.into());
        self.note();
        Ok(())
    }
    async fn remove(&mut self, file: &str) -> io::Result<()> {
        self.files.borrow_mut().remove(file);
        self.note();
        Ok(())
    }
}

/// Nothing waits on a disk in memory.
fn now<T>(work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a disk in memory waits"),
    }
}

fn open(disk: &Memory) -> Result<(Store<Memory>, Durable), OpenError> {
    now(Store::open(disk.clone(), Settings { segment: 600, batch: 4 }))
}

fn entry(index: u64) -> Entry {
    Entry { index: Index(index), term: Term(1 + index / 7), payload: Payload::Note(vec![7; (index % 5) as usize]) }
}

/// Batches as an engine makes them, with truncations and snapshots.
fn batches() -> Vec<Vec<Record>> {
    let mut out = vec![vec![Record::Born(Incarnation(3))], vec![Record::Admitted]];
    for index in 1..40 {
        out.push(match index % 8 {
            0 => vec![Record::Snapshot(Snapshot { index: Index(index - 4), ..Snapshot::default() }.into())],
            3 => vec![
                Record::Vote { term: Term(index), voted: Some(NodeId(2)) },
                Record::Entries(vec![entry(index), entry(index + 1)]),
            ],
            _ => vec![Record::Entries(vec![entry(index)])],
        });
    }
    out
}

/// What is durable after each number of batches.
fn states() -> Vec<Durable> {
    let mut states = vec![Durable::default()];
    for batch in batches() {
        let mut next = states.last().unwrap().clone();
        batch.into_iter().for_each(|record| next.replay(record));
        states.push(next);
    }
    states
}

#[test]
fn what_was_written_is_read() {
    let disk = Memory::default();
    let states = states();
    for (at, batch) in batches().iter().enumerate() {
        let (mut store, durable) = open(&disk).unwrap();
        assert_eq!(durable, states[at]);
        now(store.append(batch)).unwrap();
        if at % 3 == 0 {
            now(store.mark()).unwrap();
        }
        assert_eq!(*store.durable(), states[at + 1]);
    }
    assert_eq!(open(&disk).unwrap().1, *states.last().unwrap());
    // Segments were replaced on the way, and nothing of the old ones is left.
    let files = disk.files.borrow();
    assert_eq!(files.len(), 2, "{:?}", files.keys());
    assert!(!files.contains_key(&segment(0)));
}

/// After a crash at any instant, the disk holds a prefix of what was written, and all that was synced.
#[test]
fn every_crash_leaves_a_prefix() {
    let disk = Memory::default();
    let states = states();
    let (mut store, _) = open(&disk).unwrap();
    let mut tried = 0;
    for (at, batch) in batches().iter().enumerate() {
        disk.history.borrow_mut().clear();
        let before = disk.files.borrow().clone();
        now(store.append(batch)).unwrap();
        let mut previous = before;
        for after in disk.history.borrow().iter() {
            // Each call may have been cut at any byte.
            for (name, bytes) in after {
                let old = previous.get(name).map_or(0, Vec::len);
                let appended = name != STATE_FILE && bytes.len() > old;
                for cut in (if appended { old } else { bytes.len() })..=bytes.len() {
                    let mut torn = previous.clone();
                    torn.insert(name.clone(), bytes[..cut].into());
                    let (mut again, durable) = open(&Memory::with(torn)).unwrap_or_else(|error| panic!("{error}"));
                    assert!(durable == states[at] || durable == states[at + 1], "batch {at}, {name} cut at {cut}");
                    now(again.append(&[Record::Born(Incarnation(9))])).unwrap();
                    tried += 1;
                }
            }
            previous.clone_from(after);
        }
        if at % 2 == 0 {
            now(store.mark()).unwrap();
        }
    }
    assert!(tried > 1_500, "{tried}");
}

/// A flipped bit is refused with its place, or costs at most the last batch, which has no mark.
#[test]
fn every_flip_is_found_or_costs_the_unmarked_end() {
    for marked in [false, true] {
        let disk = Memory::default();
        let states = states();
        let (mut store, _) = open(&disk).unwrap();
        let many = 6;
        let mut last = 0;
        for batch in &batches()[..many] {
            // The mark of the batch before goes with it.
            last = store.length + 17;
            now(store.append(batch)).unwrap();
        }
        if marked {
            now(store.mark()).unwrap();
        }
        let whole = disk.files.borrow().clone();
        let mut refused = 0;
        for (name, bytes) in &whole {
            for bit in 0..bytes.len() * 8 {
                let mut damaged = whole.clone();
                damaged.get_mut(name).unwrap()[bit / 8] ^= 1 << (bit % 8);
                match open(&Memory::with(damaged)) {
                    Ok((_, durable)) if marked => assert_eq!(durable, states[many], "{name}, bit {bit}"),
                    Ok((_, durable)) => {
                        let kept = if bit / 8 < last { many } else { many - 1 };
                        assert_eq!(durable, states[kept], "{name}, bit {bit}");
                    }
                    Err(OpenError::Damaged { file, offset, .. }) => {
                        assert_eq!(file, *name);
                        assert!(offset <= bit as u64 / 8, "bit {bit} of {name} is refused at {offset}");
                        refused += 1;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
        assert!(refused > 1_000, "{refused}");
    }
}

#[test]
fn a_full_disk_takes_nothing_and_works_again() {
    let disk = Memory::default();
    let states = states();
    let (mut store, _) = open(&disk).unwrap();
    for (at, batch) in batches().iter().enumerate() {
        *disk.room.borrow_mut() = Some(at % 11);
        let error = now(store.append(batch)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(open(&Memory::with(disk.files.borrow().clone())).unwrap().1, states[at]);
        *disk.room.borrow_mut() = None;
        now(store.append(batch)).unwrap();
        assert_eq!(open(&Memory::with(disk.files.borrow().clone())).unwrap().1, states[at + 1]);
    }
}

#[test]
fn lost_files_are_refused() {
    let disk = Memory::default();
    let (mut store, _) = open(&disk).unwrap();
    for batch in &batches()[..30] {
        now(store.append(batch)).unwrap();
    }
    let whole = disk.files.borrow().clone();
    for name in whole.keys() {
        let mut less = whole.clone();
        less.remove(name);
        let error = open(&Memory::with(less)).map(|_| ()).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    }
}

#[test]
fn a_folder_is_a_disk() {
    let path = std::env::temp_dir().join(format!("apus-host-store-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    let local = tokio::task::LocalSet::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(local.run_until(async {
        let settings = Settings { segment: 600, batch: 8 };
        let all = batches();
        let (store, _) = Store::open(Folder::new(&path).unwrap(), settings).await.unwrap();
        let mut writer = store.spawn();
        let records: Vec<Record> = all.iter().flatten().cloned().collect();
        for (at, record) in records.iter().enumerate() {
            writer.write(apus_engine::OpId(at as u64), record.clone());
        }
        for at in 0..records.len() {
            assert_eq!(writer.next().await, (apus_engine::OpId(at as u64), apus_engine::Outcome::Ok));
        }
        let (_, durable) = Store::open(Folder::new(&path).unwrap(), settings).await.unwrap();
        assert_eq!(durable, *states().last().unwrap());
    }));
    std::fs::remove_dir_all(&path).unwrap();
}
