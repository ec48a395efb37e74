//! What a store needs of a disk, and the disk of a real machine.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A folder of files. One user at a time.
pub trait Disk: 'static {
    /// Names of all files.
    fn list(&self) -> impl Future<Output = io::Result<Vec<String>>>;
    /// The whole content; [`io::ErrorKind::NotFound`] if there is no such file.
    fn read(&self, file: &str) -> impl Future<Output = io::Result<Vec<u8>>>;
    /// Writes behind the end, and makes the file if there is none. Not durable before [`sync`](Self::sync).
    fn append(&mut self, file: &str, bytes: &[u8]) -> impl Future<Output = io::Result<()>>;
    /// Makes content and name of the file durable.
    fn sync(&mut self, file: &str) -> impl Future<Output = io::Result<()>>;
    /// Cuts the file to `length`, durably.
    fn truncate(&mut self, file: &str, length: u64) -> impl Future<Output = io::Result<()>>;
    /// Sets the whole content, durably, and such that a crash leaves the old or the new one.
    fn replace(&mut self, file: &str, bytes: &[u8]) -> impl Future<Output = io::Result<()>>;
    /// Removes the file; it is no error if there is none.
    fn remove(&mut self, file: &str) -> impl Future<Output = io::Result<()>>;
}

/// A folder of the machine's file system. Each call runs on tokio's threads for blocking work.
///
/// The file that is written to stays open: what a sync costs is then the flush alone, and an error that the system meets between two
/// of them is told by the second.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    /// The file that was written to last.
    open: Option<(String, Arc<File>)>,
    /// Files whose names are durable.
    named: BTreeSet<String>,
}

impl Folder {
    /// Takes a folder, and makes it if there is none.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        fs::create_dir_all(&path)?;
        Ok(Self { path, open: None, named: BTreeSet::new() })
    }

    async fn at<T: Send + 'static>(
        &self,
        file: &str,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let path = self.path.join(file);
        tokio::task::spawn_blocking(move || work(&path)).await.map_err(io::Error::other)?
    }

    /// Works on a file opened for appending, which stays open if that went well.
    async fn with(
        &mut self,
        file: &str,
        work: impl FnOnce(&File, &Path) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let known = self.open.take().filter(|(name, _)| name == file).map(|(_, known)| known);
        let work = move |path: &Path| {
            let file = match known {
                Some(file) => file,
                None => Arc::new(OpenOptions::new().create(true).append(true).open(path)?),
            };
            work(&file, path).map(|()| file)
        };
        let known = self.at(file, work).await?;
        self.open = Some((file.into(), known));
        Ok(())
    }

    /// Is about to change a file by other means.
    fn close(&mut self, file: &str) {
        self.open.take_if(|(name, _)| name == file);
    }
}

/// Makes the names in a file's folder durable. Windows does so with the file, and opens no folder.
fn sync_names(file: &Path) -> io::Result<()> {
    if cfg!(unix)
        && let Some(folder) = file.parent()
    {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

impl Disk for Folder {
    async fn list(&self) -> io::Result<Vec<String>> {
        let names = |folder: &Path| {
            let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            names.collect()
        };
        self.at("", names).await
    }
    async fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        self.at(file, |path| fs::read(path)).await
    }
    async fn append(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        let bytes = Vec::from(bytes);
        self.with(file, move |mut file, _| file.write_all(&bytes)).await
    }
    async fn sync(&mut self, file: &str) -> io::Result<()> {
        let named = self.named.contains(file);
        let sync = move |file: &File, path: &Path| {
            file.sync_data()?;
            if named { Ok(()) } else { sync_names(path) }
        };
        self.with(file, sync).await?;
        self.named.insert(file.into());
        Ok(())
    }
    async fn truncate(&mut self, file: &str, length: u64) -> io::Result<()> {
        self.close(file);
        let cut = move |path: &Path| {
            let file = OpenOptions::new().write(true).open(path)?;
            file.set_len(length)?;
            file.sync_all()
        };
        self.at(file, cut).await
    }
    async fn replace(&mut self, file: &str, bytes: &[u8]) -> io::Result<()> {
        self.close(file);
        let bytes = Vec::from(bytes);
        let replace = move |path: &Path| {
            let new = path.with_extension("new");
            let mut file = File::create(&new)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            drop(file);
            fs::rename(&new, path)?;
            sync_names(path)
        };
        self.at(file, replace).await
    }
    async fn remove(&mut self, file: &str) -> io::Result<()> {
        self.close(file);
        self.named.remove(file);
        let remove = |path: &Path| match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        self.at(file, remove).await
    }
}
