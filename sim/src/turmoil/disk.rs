//! A simulated disk: bytes in memory, of which the unsynced end is lost with the power.

use std::future::pending;
use std::io::{self, ErrorKind};
use std::time::Duration;

use apus_engine::NodeId;
use apus_host::store::Disk;

use super::Shared;

/// The disk of a node, for one life of its process.
pub(super) struct SimDisk {
    pub(super) world: Shared,
    pub(super) node: NodeId,
    pub(super) life: u32,
}

impl SimDisk {
    /// The system finishes what it has begun, but a process that is gone hears of nothing.
    async fn answer<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if self.world.borrow().lives(self.node, self.life) { result } else { pending().await }
    }

    /// Lets the time of a sync pass.
    async fn pass(&self) {
        let time = self.world.borrow_mut().sync_time(self.node);
        tokio::time::sleep(Duration::from_nanos(time)).await;
    }
}

impl Disk for SimDisk {
    async fn list(&self) -> io::Result<Vec<String>> {
        let names = self.world.borrow_mut().files(self.node).all().keys().cloned().collect();
        self.answer(Ok(names)).await
    }

    async fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        let bytes = self.world.borrow_mut().files(self.node).all().get(file).map(|file| file.bytes.clone());
        self.answer(bytes.ok_or_else(|| ErrorKind::NotFound.into())).await
    }

    async fn append(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        let result = {
            let mut world = self.world.borrow_mut();
            let error = world.disk_error(self.node);
            // A write that does not fit is there in part.
            let fits = if error.is_some() { world.part_of(bytes.len()) } else { bytes.len() };
            let files = world.files(self.node).all();
            files.entry(file.into()).or_default().bytes.extend_from_slice(&bytes[..fits]);
            error.map_or(Ok(()), |kind| Err(kind.into()))
        };
        self.answer(result).await
    }

    async fn sync(&mut self, file: &str) -> io::Result<()> {
        let length = self.world.borrow_mut().files(self.node).all().get(file).map_or(0, |file| file.bytes.len());
        self.pass().await;
        if self.world.borrow().lives(self.node, self.life)
            && let Some(file) = self.world.borrow_mut().files(self.node).all().get_mut(file)
        {
            file.synced = file.synced.max(length.min(file.bytes.len()));
        }
        self.answer(Ok(())).await
    }

    async fn truncate(&mut self, file: &str, length: u64) -> io::Result<()> {
        if let Some(file) = self.world.borrow_mut().files(self.node).all().get_mut(file) {
            file.bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
            file.synced = file.synced.min(file.bytes.len());
        }
        self.answer(Ok(())).await
    }

    async fn replace(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        if let Some(kind) = self.world.borrow_mut().disk_error(self.node) {
            return Err(kind.into());
        }
        self.pass().await;
        if self.world.borrow().lives(self.node, self.life) {
            let mut world = self.world.borrow_mut();
            let file = world.files(self.node).all().entry(file.into()).or_default();
            file.bytes = bytes.into();
            file.synced = bytes.len();
        }
        self.answer(Ok(())).await
    }

    async fn remove(&mut self, file: &str) -> io::Result<()> {
        self.world.borrow_mut().files(self.node).all().remove(file);
        self.answer(Ok(())).await
    }
}
