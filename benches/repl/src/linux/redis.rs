//! Redis, with its own client: a slot is one run of `redis-benchmark`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::compare::Runner;
use super::processes::{Ended, beside};

/// Whether all that is needed is there.
pub(crate) fn installed() -> bool {
    ["redis-server", "redis-benchmark", "redis-cli"].iter().all(|program| which(program).is_some())
}

/// Where a program of the search path is.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// A server.
pub(crate) struct Redis {
    server: Ended,
    socket: PathBuf,
}

impl Redis {
    /// The command of a server whose files are in `root`.
    pub(crate) fn command(root: &Path, socket: &Path) -> Command {
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--unixsocket"]);
        command.arg(socket).arg("--dir").arg(root);
        command
    }

    /// Once it answers.
    pub(crate) fn started(server: Child, socket: PathBuf) -> io::Result<Self> {
        let mut redis = Self { server: Ended(server), socket };
        let began = Instant::now();
        loop {
            let asked = Command::new("redis-cli").arg("-s").arg(&redis.socket).arg("ping").output()?;
            if asked.stdout.starts_with(b"PONG") {
                return Ok(redis);
            }
            if redis.server.0.try_wait()?.is_some() || began.elapsed() > Duration::from_secs(10) {
                return Err(io::Error::other("redis-server does not answer"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Runner for Redis {
    fn slot(&mut self, count: u64) -> io::Result<(f64, f64)> {
        let used = beside(self.server.0.id());
        let mut client = Command::new("redis-benchmark");
        client.arg("-s").arg(&self.socket).args(["-t", "set", "-d", "200", "-c", "20", "-r", "10000", "--csv", "-n"]);
        let output = client.arg(count.to_string()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let rate = text.lines().last().and_then(|line| line.split(',').nth(1)).map(|rate| rate.trim_matches('"'));
        let rate: f64 = rate
            .and_then(|rate| rate.parse().ok())
            .filter(|rate| *rate > 0.0)
            .ok_or_else(|| io::Error::other(format!("redis-benchmark said: {text}")))?;
        Ok((1e9 / rate, (beside(self.server.0.id()) - used) as f64 / count as f64))
    }
}
