//! Commands of the operator's that are asked something: fed a line, held to a time, and ended with all that they started.

use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Of what a command says, the last bytes are kept.
const SAID: usize = 2_048;
/// Between two looks whether it has ended.
const LOOK: Duration = Duration::from_millis(5);
/// After its end, what it said is waited for so long: something that it left may have its output open.
const REST: Duration = Duration::from_millis(200);

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

/// Runs a command in a process group of its own, with a small environment and `input` on its standard input.
///
/// # Errors
/// If it cannot be started.
pub fn ask(
    command: &[String],
    more: &[String],
    environment: &[(&str, String)],
    input: &str,
    within: Duration,
) -> io::Result<Ended> {
    let (name, args) = command.split_first().ok_or_else(|| io::Error::other("no command"))?;
    let (mut output, to) = io::pipe()?;
    let mut asked = Command::new(name);
    asked.args(args).args(more).env_clear().process_group(0);
    asked.envs(["PATH", "LANG", "LC_ALL", "TZ"].iter().filter_map(|key| Some((*key, std::env::var_os(key)?))));
    asked.envs(environment.iter().map(|(key, value)| (*key, value)));
    asked.stdin(Stdio::piped()).stdout(to.try_clone()?).stderr(to);
    let mut child = asked.spawn().map_err(|error| io::Error::new(error.kind(), format!("`{name}`: {error}")))?;
    // It has the only writing ends left.
    drop(asked);
    if let Some(mut to) = child.stdin.take() {
        // Who does not read it has ended, or does not care.
        let _ = to.write_all(input.as_bytes());
    }
    let (heard, all) = channel();
    std::thread::spawn(move || {
        let (mut said, mut bytes) = (Vec::new(), [0; 4_096]);
        while let Ok(many @ 1..) = output.read(&mut bytes) {
            said.extend_from_slice(&bytes[..many]);
            let _ = said.drain(..said.len().saturating_sub(SAID));
            let _ = heard.send(said.clone());
        }
    });
    let until = Instant::now() + within;
    let mut late = false;
    let status: ExitStatus = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= until {
            late = true;
            kill_group(child.id());
            break child.wait()?;
        }
        std::thread::sleep(LOOK);
    };
    let rest = Instant::now() + REST;
    let mut said = Vec::new();
    // Until it closes, or long enough.
    while let Ok(newer) = all.recv_timeout(rest.saturating_duration_since(Instant::now())) {
        said = newer;
    }
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    Ok(Ended { code: if late { None } else { status.code() }, late, said })
}

/// Kills a process, which this one has not waited for yet, and all of its group.
fn kill_group(leader: u32) {
    if let Ok(group) = libc::pid_t::try_from(leader) {
        // SAFETY: no memory is passed.
        unsafe { libc::killpg(group, libc::SIGKILL) };
    }
}
