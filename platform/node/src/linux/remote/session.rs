//! What was granted is done, in a thread of its own: a program runs, or a file is given or taken. The other end is whoever asked.

use std::io::{self, Read, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{ChildStdin, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use apus_os::linux::{Beneath, exec};
use serde_json::{Value, json};

use super::copy;
use super::frame::{self, BLOCK, Kind};
use crate::remote::{Copied, Grant, Run};

/// An asker, or a disk, that does nothing for so long ends a copy.
const SILENCE: Duration = Duration::from_secs(30);
/// Outputs are read for so long after the program has ended: what it left behind may hold them open.
const AFTER: Duration = Duration::from_millis(200);

/// Does it, and tells the other end, and the caller, what came of it. `gone`: the asker went away.
pub(super) fn run(stream: UnixStream, grant: &Grant, gone: &AtomicBool) -> Value {
    let mut stream = stream;
    let _ = stream.set_write_timeout(Some(SILENCE));
    let end = match grant {
        Grant::Exec { words, rule } => exec(&stream, words, rule, gone)
            .unwrap_or_else(|error| json!({ "error": format!("{}: {error}", words[0]) })),
        Grant::Pull { path, rule } => {
            let _ = stream.set_read_timeout(Some(SILENCE));
            let place = rule.folder.join(path);
            told(&place, pull(&mut stream, path, &rule.folder, rule.most))
        }
        Grant::Push { path, rule } => {
            let _ = stream.set_read_timeout(Some(SILENCE));
            let place = rule.folder.join(path);
            let taken = Beneath::open(&rule.folder).and_then(|folder| folder.place(path));
            let taken = taken.and_then(|place| copy::take(place, rule.most, &mut stream));
            told(&place, taken)
        }
    };
    let _ = frame::end(&mut stream, &end);
    end
}

fn told(place: &std::path::Path, copied: io::Result<Copied>) -> Value {
    match copied {
        Ok(copied) => copy::told(copied),
        Err(error) => json!({ "error": format!("{}: {error}", place.display()) }),
    }
}

fn pull(stream: &mut UnixStream, path: &str, folder: &std::path::Path, most: u64) -> io::Result<Copied> {
    let mut file = Beneath::open(folder)?.read(path)?;
    let given = copy::give(&mut file, most, stream);
    if given.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::BrokenPipe) {
        return given;
    }
    // Only who takes it knows whether it is at its place.
    let mut body = Vec::new();
    match frame::get(stream, &mut body) {
        Ok(Some(Kind::End)) => {
            let end: Value = serde_json::from_slice(&body).unwrap_or_default();
            if end["done"] == true { given } else { Err(io::Error::other(copy::said(&body))) }
        }
        _ => Err(io::Error::other("the asker went away before it was done")),
    }
}

/// Why a program is ended before it ends.
enum Cut {
    Gone,
    Odd,
    Output,
}

struct Shared {
    to: Mutex<UnixStream>,
    cut: Mutex<Sender<Cut>>,
    said: AtomicU64,
    heard: AtomicU64,
    most: u64,
    full: AtomicBool,
}

impl Shared {
    fn cut(&self, why: Cut) {
        let _ = self.cut.lock().unwrap_or_else(PoisonError::into_inner).send(why);
    }

    /// What a program says goes to the asker, up to the limit.
    fn say(&self, kind: Kind, mut from: impl Read) {
        let mut bytes = [0; BLOCK];
        loop {
            let many = match from.read(&mut bytes) {
                Ok(0) => return,
                Ok(many) => many,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            let before = self.said.fetch_add(many as u64, Ordering::Relaxed);
            let fits = usize::try_from(self.most.saturating_sub(before)).unwrap_or(usize::MAX).min(many);
            let sent = if fits == 0 {
                Ok(())
            } else {
                let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
                frame::put(&mut *to, kind, &[&bytes[..fits]])
            };
            if sent.is_err() {
                return self.cut(Cut::Gone);
            }
            if fits < many {
                self.full.store(true, Ordering::Relaxed);
                return self.cut(Cut::Output);
            }
        }
    }

    /// What the asker says goes to the program; the asker's end is the program's.
    fn hear(&self, mut from: UnixStream, mut to: Option<ChildStdin>) {
        let mut body = Vec::new();
        loop {
            match frame::get(&mut from, &mut body) {
                Ok(Some(Kind::In)) => {
                    self.heard.fetch_add(body.len() as u64, Ordering::Relaxed);
                    // A program that listens no more is no fault.
                    if to.as_mut().is_some_and(|to| to.write_all(&body).is_err()) {
                        to = None;
                    }
                }
                Ok(Some(Kind::InEnd)) => to = None,
                Ok(None) => return self.cut(Cut::Gone),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return self.cut(Cut::Odd),
                Ok(Some(_)) => return self.cut(Cut::Odd),
                Err(_) => return self.cut(Cut::Gone),
            }
        }
    }
}

fn exec(stream: &UnixStream, words: &[String], rule: &Run, gone: &AtomicBool) -> io::Result<Value> {
    let began = Instant::now();
    let mut command = exec::command(words, rule.user.as_deref())?;
    command
        .stdin(if rule.input { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut running = exec::Running::start(&mut command)?;
    let (cut, cuts) = channel();
    let (input, out, err) = (running.child.stdin.take(), running.child.stdout.take(), running.child.stderr.take());
    let shared = Arc::new(Shared {
        to: Mutex::new(stream.try_clone()?),
        cut: Mutex::new(cut),
        said: AtomicU64::new(0),
        heard: AtomicU64::new(0),
        most: rule.output,
        full: AtomicBool::new(false),
    });
    let (ended, ends) = channel();
    if let Some(out) = out {
        let (shared, ended) = (shared.clone(), ended.clone());
        std::thread::spawn(move || {
            shared.say(Kind::Out, out);
            drop(ended);
        });
    }
    if let Some(err) = err {
        let shared = shared.clone();
        std::thread::spawn(move || {
            shared.say(Kind::Err, err);
            drop(ended);
        });
    }
    let from = stream.try_clone()?;
    {
        let shared = shared.clone();
        std::thread::spawn(move || shared.hear(from, input));
    }
    let deadline = began + Duration::from_micros(rule.time);
    let waited = wait(&mut running, &cuts, deadline, gone);
    if !matches!(waited, Ok(None)) {
        running.kill();
    }
    let status = running.child.wait()?;
    let cut = waited?;
    if cut.is_none() {
        let _: Result<(), RecvTimeoutError> = ends.recv_timeout(AFTER);
    }
    // What it left behind ends too, and with it what holds its outputs open.
    running.kill();
    // All that it said goes out before its end is told, as slowly as the asker takes it.
    let ended = || -> Result<(), RecvTimeoutError> { ends.recv_timeout(SILENCE) };
    let left = if gone.load(Ordering::Relaxed) { Err(RecvTimeoutError::Timeout) } else { ended() };
    // Who hears on does so no more.
    let how = if left == Err(RecvTimeoutError::Timeout) { std::net::Shutdown::Both } else { std::net::Shutdown::Read };
    let _ = stream.shutdown(how);
    let cut = cut.or_else(|| shared.full.load(Ordering::Relaxed).then(|| limit(rule)));
    Ok(json!({
        "code": std::os::unix::process::ExitStatusExt::signal(&status).is_none().then(|| status.code()).flatten(),
        "signal": std::os::unix::process::ExitStatusExt::signal(&status),
        "cut": cut,
        "out": shared.said.load(Ordering::Relaxed).min(rule.output),
        "in": shared.heard.load(Ordering::Relaxed),
        "ms": u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    }))
}

fn limit(rule: &Run) -> String {
    format!("it said more than {} bytes, the `output` of its rule", rule.output)
}

/// Waits for the end of the program; why it must be ended before, if it must.
fn wait(
    running: &mut exec::Running,
    cuts: &Receiver<Cut>,
    deadline: Instant,
    gone: &AtomicBool,
) -> io::Result<Option<String>> {
    let mut step = Duration::from_millis(1);
    loop {
        if running.child.try_wait()?.is_some() {
            return Ok(None);
        }
        if gone.load(Ordering::Relaxed) {
            return Ok(Some("the asker went away".into()));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Some("it took longer than the `time` of its rule".into()));
        }
        match cuts.recv_timeout(step.min(left)) {
            Ok(Cut::Gone) => return Ok(Some("the asker went away".into())),
            Ok(Cut::Odd) => return Ok(Some("the asker sent what is no frame".into())),
            Ok(Cut::Output) => return Ok(Some("it said more than the `output` of its rule".into())),
            Err(_) => step = (step * 2).min(Duration::from_millis(20)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> Run {
        Run {
            command: "/bin/sh".into(),
            args: Vec::new(),
            more: true,
            user: None,
            time: 5_000_000,
            output: 1 << 20,
            input: true,
        }
    }

    /// What a script says on both outputs, and what came of it; `act` does what an asker does meanwhile.
    fn ran(script: &str, rule: Run, act: impl FnOnce(&mut UnixStream)) -> (Vec<u8>, Vec<u8>, Value) {
        let words = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let (mut asker, doer) = UnixStream::pair().expect("a pair");
        let does = std::thread::spawn(move || run(doer, &Grant::Exec { words, rule }, &AtomicBool::new(false)));
        act(&mut asker);
        let (mut out, mut err, mut body) = (Vec::new(), Vec::new(), Vec::new());
        let mut told = None;
        while let Ok(Some(kind)) = frame::get(&mut asker, &mut body) {
            match kind {
                Kind::Out => out.extend_from_slice(&body),
                Kind::Err => err.extend_from_slice(&body),
                Kind::End => told = serde_json::from_slice::<Value>(&body).ok(),
                other => panic!("{other:?}"),
            }
        }
        let end = does.join().expect("it ends");
        if let Some(told) = told {
            assert_eq!(told, end);
        }
        (out, err, end)
    }

    #[test]
    fn a_program_says_hears_and_ends_as_it_does() {
        let (out, err, end) = ran("cat; echo odd >&2; exit 7", rule(), |asker| {
            frame::put(asker, Kind::In, &[b"a line\n"]).expect("it hears");
            frame::put(asker, Kind::InEnd, &[]).expect("it hears");
        });
        assert_eq!((&out[..], &err[..]), (&b"a line\n"[..], &b"odd\n"[..]));
        assert_eq!((&end["code"], &end["signal"], &end["cut"]), (&json!(7), &Value::Null, &Value::Null), "{end}");
        assert_eq!((&end["out"], &end["in"]), (&json!(11), &json!(7)));
        let (.., end) = ran("kill -9 $$", rule(), |_| {});
        assert_eq!((&end["code"], &end["signal"]), (&Value::Null, &json!(9)), "{end}");
        // Without leave to hear it hears nothing.
        let (out, ..) = ran("cat; echo done", Run { input: false, ..rule() }, |asker| {
            frame::put(asker, Kind::In, &[b"a line\n"]).expect("it hears");
        });
        assert_eq!(out, b"done\n");
        let (mut asker, doer) = UnixStream::pair().expect("a pair");
        let end = run(doer, &Grant::Exec { words: vec!["/no/such".into()], rule: rule() }, &AtomicBool::new(false));
        assert!(end["error"].as_str().is_some_and(|error| error.starts_with("/no/such: ")), "{end}");
        let mut text = String::new();
        asker.read_to_string(&mut text).expect("it tells");
        assert!(text.contains("/no/such"));
    }

    #[test]
    fn it_is_bounded_in_time_and_in_what_it_says() {
        let began = Instant::now();
        let (.., end) = ran("sleep 100 & sleep 100", Run { time: 100_000, ..rule() }, |_| {});
        assert!(end["cut"].as_str().is_some_and(|cut| cut.contains("`time`")), "{end}");
        let (out, _, end) = ran("while :; do echo 0123456789; done", Run { output: 100_000, ..rule() }, |_| {});
        assert!(end["cut"].as_str().is_some_and(|cut| cut.contains("`output`")), "{end}");
        assert_eq!(out.len(), 100_000);
        // What it leaves behind with its outputs does not hold up its end.
        let (.., end) = ran("sleep 100 & exit 3", rule(), |_| {});
        assert_eq!(end["code"], 3);
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    }

    #[test]
    fn it_ends_with_the_asker_and_with_an_asker_that_raves() {
        let marker = std::env::temp_dir().join(format!("apus-exec-{}", std::process::id()));
        let _ = std::fs::remove_file(&marker);
        let began = Instant::now();
        let (.., end) = ran(&format!("sleep 3; touch {}", marker.display()), rule(), |asker| {
            std::thread::sleep(Duration::from_millis(50));
            let _ = asker.shutdown(std::net::Shutdown::Both);
        });
        assert!(end["cut"].as_str().is_some_and(|cut| cut.contains("went away")), "{end}");
        let (.., end) = ran("sleep 3", rule(), |asker| asker.write_all(&[0xff; 64]).expect("it takes bytes"));
        assert!(end["cut"].as_str().is_some_and(|cut| cut.contains("no frame")), "{end}");
        assert!(began.elapsed() < Duration::from_secs(2) && !marker.exists());
    }
}
