//! Commands of the operator's that are asked something: fed a line, held to a time, and ended with all that they started.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Weak;
use std::time::{Duration, Instant};

use super::exec::{self, Note, Running};

/// Of what a command says, the last bytes are kept.
const SAID: usize = 2_048;
/// Between two looks whether it has ended.
const LOOK: Duration = Duration::from_millis(5);
/// In each look, as many bytes are read as a pipe holds, in pieces.
const PIECES: usize = 16;
const PIECE: usize = 4_096;

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code; `None`: by a signal.
    pub code: Option<i32>,
    /// It was killed, for its time was over.
    pub late: bool,
    /// The end of what it wrote.
    pub said: String,
}

/// Runs a command in a session of its own, in `/`, with a small environment and `input` on its standard input. Once nobody has `wanted`
/// any more, its time is over. It ends at the latest with the thread that asks; `notes` tells of it until then.
///
/// # Errors
/// If it cannot be started.
pub fn ask(
    words: &[String],
    more: &[String],
    environment: &[(&str, String)],
    input: &str,
    within: Duration,
    wanted: &Weak<()>,
    notes: &Path,
) -> io::Result<Ended> {
    let words: Vec<String> = words.iter().chain(more).cloned().collect();
    let (mut output, to) = io::pipe()?;
    unblock(&output)?;
    let mut asked = exec::command(&words, None)?;
    asked.envs(["PATH", "LANG", "LC_ALL", "TZ"].iter().filter_map(|key| Some((*key, std::env::var_os(key)?))));
    asked.envs(environment.iter().map(|(key, value)| (*key, value)));
    asked.stdin(Stdio::piped()).stdout(to.try_clone()?).stderr(to);
    let _note = Note::of(&mut asked, notes).ok();
    let mut running =
        Running::start(&mut asked).map_err(|error| io::Error::new(error.kind(), format!("`{}`: {error}", words[0])))?;
    // It has the only writing ends left.
    drop(asked);
    if let Some(mut to) = running.child.stdin.take() {
        // Who does not read it has ended, or does not care.
        let _ = to.write_all(input.as_bytes());
    }
    let (until, mut said) = (Instant::now() + within, Vec::new());
    let (status, late) = loop {
        read(&mut output, &mut said);
        if let Some(status) = running.child.try_wait()? {
            break (status, false);
        }
        if Instant::now() >= until || wanted.strong_count() == 0 {
            running.kill();
            break (running.child.wait()?, true);
        }
        std::thread::sleep(LOOK);
    };
    // What it wrote last; something that it left may write for ever.
    read(&mut output, &mut said);
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    Ok(Ended { code: if late { None } else { status.code() }, late, said })
}

/// Reads what is there, and keeps the end of it.
fn read(output: &mut io::PipeReader, said: &mut Vec<u8>) {
    let mut bytes = [0; PIECE];
    for _ in 0..PIECES {
        let Ok(many @ 1..) = output.read(&mut bytes) else { return };
        said.extend_from_slice(&bytes[..many]);
        let _ = said.drain(..said.len().saturating_sub(SAID));
    }
}

/// Has reading give what is there.
fn unblock(pipe: &io::PipeReader) -> io::Result<()> {
    // SAFETY: no memory is passed.
    let set = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn shell(script: &str, within: Duration, wanted: &Weak<()>) -> Ended {
        let words = ["/bin/sh", "-c", script].map(str::to_owned);
        let notes = std::env::temp_dir().join(format!("apus-plugin-{}", std::process::id()));
        let ended = ask(&words, &[], &[("APUS_NODE", "2".into())], "{}\n", within, wanted, &notes).expect("it runs");
        // Another test may have one there.
        let _ = std::fs::remove_dir(&notes);
        ended
    }

    /// Memory of this process that is its own, in KiB.
    fn memory() -> u64 {
        let text = std::fs::read_to_string("/proc/self/status").expect("a text");
        let line = text.lines().find(|line| line.starts_with("RssAnon:")).expect("a line");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }

    #[test]
    fn one_that_says_much_is_heard_to_its_end_and_not_kept() {
        let (waits, before) = (Arc::new(()), memory());
        let ended = shell("yes", Duration::from_millis(500), &Arc::downgrade(&waits));
        assert!(ended.late && ended.code.is_none() && ended.said.len() <= SAID, "{ended:?}");
        let more = memory().saturating_sub(before);
        assert!(more < 64 << 10, "{more} KiB");
        let ended = shell(
            "seq 100000; read line; echo $APUS_NODE$line; exit 7",
            Duration::from_secs(30),
            &Arc::downgrade(&waits),
        );
        assert_eq!((ended.code, ended.late), (Some(7), false));
        assert!(ended.said.ends_with("100000\n2{}"), "{}", ended.said);
    }

    #[test]
    fn what_it_left_is_not_waited_for_and_who_is_not_wanted_is_killed() {
        let waits = Arc::new(());
        let asked = Instant::now();
        let ended = shell("sleep 5 & echo left", Duration::from_secs(30), &Arc::downgrade(&waits));
        assert_eq!((ended.code, ended.said.as_str()), (Some(0), "left"));
        let ended = shell("sleep 5 & wait", Duration::from_secs(30), &Weak::new());
        assert!(ended.late && asked.elapsed() < Duration::from_secs(4), "{ended:?}");
    }
}
