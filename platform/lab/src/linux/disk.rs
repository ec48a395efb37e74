//! A machine's disk: an ext4 of its own in an image file, so that a power failure takes what was not synced.
//!
//! The lab's folder is a shared mount: what is mounted below is seen by all that runs in the lab, whenever it was started, and what is
//! unmounted is gone everywhere.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use apus_os::linux::power;

use super::sh::{sh, until};

/// Room of an image. Only what is written takes any of the machine's.
const SIZE: u64 = 256 << 20;
/// What a disk that is made full keeps free: less than anybody asks for.
const LEFT: u64 = 4_096;

/// Why a machine has no disk of its own here, if so.
pub(crate) fn missing() -> Option<String> {
    if sh(&["sh", "-c", "command -v mkfs.ext4"]).is_err() {
        return Some("`mkfs.ext4` is missing: install e2fsprogs".into());
    }
    let ext4 =
        fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.lines().any(|line| line.ends_with("ext4")));
    let such = ext4 && Path::new("/dev/loop-control").exists();
    (!such).then(|| "loop devices or ext4 are missing: load the modules `loop` and `ext4`".into())
}

/// All that is mounted at a folder or below, as it was mounted.
fn mounts(below: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let places = text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    places.filter(|place| place.starts_with(below)).collect()
}

/// Prepares a lab's folder.
pub(crate) fn share(folder: &Path) -> Result<(), String> {
    let place = folder.display().to_string();
    fs::create_dir_all(folder).map_err(|error| format!("{place}: {error}"))?;
    sh(&["mount", "--bind", &place, &place])?;
    sh(&["mount", "--make-shared", &place]).map(drop)
}

/// Takes away all mounts of a lab; what an interrupted command has left, too.
pub(crate) fn release(folder: &Path) -> Result<(), String> {
    for place in mounts(folder).iter().rev() {
        unmount(place)?;
    }
    Ok(())
}

fn unmount(place: &Path) -> Result<(), String> {
    let name = place.display().to_string();
    // Who was killed a moment ago may not have let go yet.
    until(Duration::from_secs(5), || sh(&["umount", &name]).map(drop))
}

/// One disk: `image` is what it keeps, `place` where it is seen.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) image: PathBuf,
    pub(crate) place: PathBuf,
}

impl Disk {
    /// A disk of this name among a machine's files.
    pub(crate) fn new(files: &Path, name: &str) -> Self {
        Self { image: files.join(format!("{name}.img")), place: files.join(name) }
    }

    /// A new, empty one in its place, seen.
    pub(crate) fn make(&self) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", self.image.display());
        fs::create_dir_all(&self.place).map_err(failed)?;
        File::create(&self.image).and_then(|file| file.set_len(SIZE)).map_err(failed)?;
        sh(&["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1", &self.image.display().to_string()])?;
        self.mount()
    }

    pub(crate) fn is_seen(&self) -> bool {
        !mounts(&self.place).is_empty()
    }

    /// It is seen; what a power failure left of it is put right by its journal.
    pub(crate) fn mount(&self) -> Result<(), String> {
        if !self.is_seen() {
            sh(&["mount", "-o", "loop", &self.image.display().to_string(), &self.place.display().to_string()])?;
        }
        Ok(())
    }

    /// The power is gone: nothing more reaches it.
    pub(crate) fn cut(&self) -> Result<(), String> {
        power::cut(&self.place).map_err(|error| error.to_string())
    }

    /// It is seen no more. Nobody may use it.
    pub(crate) fn unmount(&self) -> Result<(), String> {
        mounts(&self.place).iter().rev().try_for_each(|place| unmount(place))
    }

    fn filler(&self) -> PathBuf {
        self.place.join("filler")
    }

    /// Nothing more fits.
    pub(crate) fn fill(&self) -> Result<(), String> {
        let file = self.filler().display().to_string();
        // The most that fits, by halves.
        let mut step = SIZE;
        let mut size = 0;
        while step >= LEFT {
            if sh(&["fallocate", "-l", &(size + step).to_string(), &file]).is_ok() {
                size += step;
            } else {
                step /= 2;
            }
        }
        if size == 0 { Err(format!("{file}: no room was taken")) } else { Ok(()) }
    }

    /// There is room again.
    pub(crate) fn free(&self) -> Result<(), String> {
        match fs::remove_file(self.filler()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("{}: {error}", self.filler().display()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// What was synced is there after a power failure, and what was not is gone.
    #[test]
    fn a_power_failure_takes_what_was_not_synced() {
        if let Some(why) = super::super::missing().or_else(missing) {
            println!("a disk: SKIPPED: {why}");
            return;
        }
        let folder = PathBuf::from(format!("/run/apus-lab/disk{}", std::process::id()));
        share(&folder).expect("a folder");
        let disk = Disk::new(&folder, "d");
        let tried = (|| -> Result<_, String> {
            disk.make()?;
            let open = |name: &str| File::create(disk.place.join(name)).map_err(|error| error.to_string());
            let (mut kept, mut lost) = (open("kept")?, open("lost")?);
            let told = |error: std::io::Error| error.to_string();
            kept.write_all(b"kept").and_then(|()| kept.sync_all()).map_err(told)?;
            File::open(&disk.place).and_then(|folder| folder.sync_all()).map_err(told)?;
            kept.write_all(b" and lost").map_err(told)?;
            lost.write_all(b"lost").map_err(told)?;
            disk.cut()?;
            if kept.write_all(b"x").is_ok() {
                return Err("a disk without power takes bytes".into());
            }
            drop((kept, lost));
            disk.unmount()?;
            disk.mount()?;
            let left = fs::read(disk.place.join("kept")).map_err(told)?;
            let full = disk.fill().is_ok() && fs::write(disk.place.join("more"), vec![7; 65_536]).is_err();
            disk.free()?;
            let free = fs::write(disk.place.join("more"), vec![7; 65_536]).is_ok();
            Ok((left, full, free))
        })();
        release(&folder).expect("nobody uses it");
        let _ = fs::remove_dir_all(&folder);
        assert_eq!(tried, Ok((b"kept".to_vec(), true, true)));
        assert!(mounts(&folder).is_empty());
    }
}
