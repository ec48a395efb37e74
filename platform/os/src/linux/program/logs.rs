//! A program's output, in files of a bounded size. A thread of its own: a slow disk must not keep the keeper from its clock.

use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Starts the thread; it ends with the last process that has the other end. The writer is for the program.
pub(super) fn start(folder: &Path, most: u64, files: u8) -> io::Result<PipeWriter> {
    let (from, to) = io::pipe()?;
    let path = folder.join("output");
    std::thread::Builder::new().name("output".into()).spawn(move || {
        // What cannot be written is lost: the program shall not wait for it.
        let mut rotated = Rotated { path, most: most.max(4_096), files: files.max(1), file: None, size: 0 };
        copy(from, &mut rotated);
    })?;
    Ok(to)
}

fn copy(mut from: PipeReader, to: &mut Rotated) {
    let mut bytes = vec![0; 65_536];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => return,
            Ok(many) => {
                let _ = to.write(&bytes[..many]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// `output`, and older ones as `output.1` and so on.
struct Rotated {
    path: PathBuf,
    most: u64,
    files: u8,
    file: Option<File>,
    size: u64,
}

impl Rotated {
    fn older(&self, number: u8) -> PathBuf {
        if number == 0 { self.path.clone() } else { self.path.with_extension(number.to_string()) }
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut file = match self.file.take() {
                Some(file) => file,
                None => {
                    let file = File::options().create(true).append(true).open(&self.path)?;
                    self.size = file.metadata()?.len();
                    file
                }
            };
            if self.size >= self.most {
                drop(file);
                for number in (1..self.files).rev() {
                    let _ = fs::rename(self.older(number - 1), self.older(number));
                }
                if self.files == 1 {
                    fs::remove_file(&self.path)?;
                }
                continue;
            }
            let room = usize::try_from(self.most - self.size).unwrap_or(usize::MAX).min(bytes.len());
            // A line is not cut if it need not be.
            let end = if room == bytes.len() {
                room
            } else {
                let line = bytes[..room].iter().rposition(|byte| *byte == b'\n').map(|at| at + 1);
                line.unwrap_or(if self.size > 0 { 0 } else { room })
            };
            file.write_all(&bytes[..end])?;
            self.size = if room < bytes.len() { self.most } else { self.size + end as u64 };
            bytes = &bytes[end..];
            self.file = Some(file);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_bounded_and_the_newest_lines_are_kept_whole() {
        let folder = std::env::temp_dir().join(format!("apus-logs-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let mut log = Rotated { path: folder.join("output"), most: 4_096, files: 3, file: None, size: 0 };
        for number in 0..5_000 {
            log.write(format!("line {number}\n").as_bytes()).expect("it is written");
        }
        let mut lines = Vec::new();
        for number in (0..3).rev() {
            let text = fs::read_to_string(log.older(number)).expect("it is there");
            assert!(text.len() <= 4_096, "{}", text.len());
            lines.extend(text.lines().map(str::to_owned));
        }
        assert!(!log.older(3).exists());
        assert_eq!(lines.last().map(String::as_str), Some("line 4999"));
        let numbers: Vec<u32> = lines.iter().map(|line| line[5..].parse().expect("a whole line")).collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "no line is lost or cut");
        // A line longer than a file, and more than a file at once.
        log.write(&[b'x'; 20_000]).expect("it is written");
        assert!((0..3).all(|number| fs::metadata(log.older(number)).expect("it is there").len() <= 4_096));
        fs::remove_dir_all(folder).expect("it is ours");
    }
}
