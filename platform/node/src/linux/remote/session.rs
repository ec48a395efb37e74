//! What was granted is done, in a thread of its own: a program runs, or a file is given or taken. The other end is whoever asked.

use std::io::{self, ErrorKind, Read, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
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
const SILENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 30 });
/// Outputs are read for so long after the program has ended: what it left behind may hold them open.
const AFTER: Duration = Duration::from_millis(200);
/// Between two looks whether a program whose outputs are read, and which is given bytes, is over.
const LOOK: Duration = Duration::from_millis(50);
/// What a pipe holds of a program that is over.
const PIPE: usize = 64 << 10;
/// A pipe that can be written takes so many bytes at once (pipe(7), `PIPE_BUF`).
const ONCE: usize = 4_096;
const SLOW: &str = "the asker took nothing of what it said for too long";

/// Does it, and tells the other end, and the caller, what came of it. `gone`: the asker went away; `notes`: what runs is noted there.
pub(super) fn run(stream: UnixStream, grant: &Grant, gone: &AtomicBool, notes: &Path) -> Value {
    let mut stream = stream;
    let _ = stream.set_write_timeout(Some(SILENCE));
    let end = match grant {
        Grant::Exec { words, rule } => exec(&stream, words, rule, gone, notes)
            .unwrap_or_else(|error| json!({ "error": format!("{}: {error}", words[0]) })),
        Grant::Pull { path, rule } => {
            let _ = stream.set_read_timeout(Some(SILENCE));
            let copied = pull(&mut stream, path, &rule.folder, rule.most);
            told(&stream, &rule.folder.join(path), copied)
        }
        Grant::Push { path, rule } => {
            let _ = stream.set_read_timeout(Some(SILENCE));
            let taken = Beneath::open(&rule.folder).and_then(|folder| folder.place(path));
            let taken = taken.and_then(|place| copy::take(place, rule.most, &mut stream));
            told(&stream, &rule.folder.join(path), taken)
        }
    };
    let _ = frame::end(&mut stream, &end);
    // Whoever has another name of it hears no more by it.
    let _ = stream.shutdown(Shutdown::Both);
    end
}

fn told(stream: &UnixStream, place: &Path, copied: io::Result<Copied>) -> Value {
    match copied {
        Ok(copied) => copy::told(copied),
        Err(error) => {
            // Half a frame may be written: no end may follow it.
            if error.kind() == ErrorKind::TimedOut {
                let _ = stream.shutdown(Shutdown::Both);
            }
            json!({ "error": format!("{}: {error}", place.display()) })
        }
    }
}

fn pull(stream: &mut UnixStream, path: &str, folder: &Path, most: u64) -> io::Result<Copied> {
    let mut file = Beneath::open(folder)?.read(path)?;
    let given = copy::give(&mut file, most, stream);
    if given.as_ref().is_err_and(|error| error.kind() != ErrorKind::BrokenPipe) {
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
    Slow,
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
    /// A frame was not written whole: nothing may follow it.
    broken: AtomicBool,
    /// The program has ended. What it left behind may hold its pipes: only what lies in them is read still, and nothing is written.
    over: AtomicBool,
}

impl Shared {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn cut(&self, why: Cut) {
        let _ = self.cut.lock().unwrap_or_else(PoisonError::into_inner).send(why);
    }

    /// What a program says goes to the asker, up to the limit.
    fn say(&self, kind: Kind, mut from: impl Read + AsFd) {
        let (mut bytes, mut rest) = ([0; BLOCK], PIPE);
        loop {
            let is_over = self.is_over();
            match exec::ready(&from, false, LOOK) {
                Ok(true) if !is_over || rest > 0 => {}
                Ok(false) if !is_over => continue,
                _ => return,
            }
            let many = match from.read(&mut bytes) {
                Ok(0) => return,
                Ok(many) => many,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            rest = if is_over { rest.saturating_sub(many) } else { rest };
            let before = self.said.fetch_add(many as u64, Ordering::Relaxed);
            let fits = usize::try_from(self.most.saturating_sub(before)).unwrap_or(usize::MAX).min(many);
            let sent = if fits == 0 {
                Ok(())
            } else {
                let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
                let put = match self.broken.load(Ordering::Relaxed) {
                    true => Err(ErrorKind::BrokenPipe.into()),
                    false => frame::put(&mut *to, kind, &[&bytes[..fits]]),
                };
                self.broken.store(put.is_err(), Ordering::Relaxed);
                put
            };
            if let Err(error) = sent {
                return self.cut(if error.kind() == ErrorKind::TimedOut { Cut::Slow } else { Cut::Gone });
            }
            if fits < many {
                self.full.store(true, Ordering::Relaxed);
                return self.cut(Cut::Output);
            }
        }
    }

    /// Gives the program bytes as it takes them; whether it takes more.
    fn give(&self, to: &mut ChildStdin, bytes: &[u8]) -> bool {
        bytes.chunks(ONCE).all(|piece| {
            loop {
                match exec::ready(&*to, true, LOOK) {
                    Ok(true) => return to.write_all(piece).is_ok(),
                    Ok(false) if !self.is_over() => {}
                    _ => return false,
                }
            }
        })
    }

    /// What the asker says goes to the program; the asker's end is the program's.
    fn hear(&self, mut from: UnixStream, mut to: Option<ChildStdin>) {
        let mut body = Vec::new();
        loop {
            match frame::get(&mut from, &mut body) {
                Ok(Some(Kind::In)) => {
                    self.heard.fetch_add(body.len() as u64, Ordering::Relaxed);
                    // A program that listens no more is no fault.
                    if to.as_mut().is_some_and(|to| !self.give(to, &body)) {
                        to = None;
                    }
                }
                Ok(Some(Kind::InEnd)) => to = None,
                Ok(None) => return self.cut(Cut::Gone),
                Err(error) if error.kind() == ErrorKind::InvalidData => return self.cut(Cut::Odd),
                Ok(Some(_)) => return self.cut(Cut::Odd),
                Err(_) => return self.cut(Cut::Gone),
            }
        }
    }
}

fn exec(stream: &UnixStream, words: &[String], rule: &Run, gone: &AtomicBool, notes: &Path) -> io::Result<Value> {
    let began = Instant::now();
    let mut command = exec::command(words, rule.user.as_deref())?;
    command
        .stdin(if rule.input { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // Until nothing is left of it.
    let _note = exec::Note::of(&mut command, notes).ok();
    // What may fail does so before it runs.
    let (to, from) = (stream.try_clone()?, stream.try_clone()?);
    let mut running = exec::Running::start(&mut command)?;
    let (cut, cuts) = channel();
    let (input, out, err) = (running.child.stdin.take(), running.child.stdout.take(), running.child.stderr.take());
    let shared = Arc::new(Shared {
        to: Mutex::new(to),
        cut: Mutex::new(cut),
        said: AtomicU64::new(0),
        heard: AtomicU64::new(0),
        most: rule.output,
        full: AtomicBool::new(false),
        broken: AtomicBool::new(false),
        over: AtomicBool::new(false),
    });
    let (ended, ends) = channel::<()>();
    let thread = || std::thread::Builder::new().name("remote-pipe".into());
    if let Some(out) = out {
        let (shared, ended) = (shared.clone(), ended.clone());
        thread().spawn(move || {
            shared.say(Kind::Out, out);
            drop(ended);
        })?;
    }
    if let Some(err) = err {
        let shared = shared.clone();
        thread().spawn(move || {
            shared.say(Kind::Err, err);
            drop(ended);
        })?;
    }
    {
        let shared = shared.clone();
        thread().spawn(move || shared.hear(from, input))?;
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
    // What it left behind ends too, unless it has left its session.
    running.kill();
    shared.over.store(true, Ordering::Relaxed);
    // All that it said goes out before its end is told, as slowly as the asker takes it.
    let late = gone.load(Ordering::Relaxed) || ends.recv_timeout(SILENCE) == Err(RecvTimeoutError::Timeout);
    let broken = shared.broken.load(Ordering::Relaxed);
    // Who hears on does so no more; who is still in the midst of a frame will not end it.
    let _ = stream.shutdown(if late || broken { Shutdown::Both } else { Shutdown::Read });
    let cut = cut.or_else(|| shared.full.load(Ordering::Relaxed).then(|| limit(rule)));
    let cut = cut.or_else(|| (late || broken).then(|| SLOW.to_owned()));
    Ok(json!({
        "code": status.code(),
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
            Ok(Cut::Slow) => return Ok(Some(SLOW.into())),
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

    fn does(doer: UnixStream, words: Vec<String>, rule: Run) -> Value {
        let notes = std::env::temp_dir().join(format!("apus-session-{}", std::process::id()));
        let end = run(doer, &Grant::Exec { words, rule }, &AtomicBool::new(false), &notes);
        // Another test may have one there.
        let _ = std::fs::remove_dir(notes);
        end
    }

    /// What a script says on both outputs, and what came of it; `act` does what an asker does meanwhile.
    fn ran(script: &str, rule: Run, act: impl FnOnce(&mut UnixStream)) -> (Vec<u8>, Vec<u8>, Value) {
        let words = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let (mut asker, doer) = UnixStream::pair().expect("a pair");
        let does = std::thread::spawn(move || does(doer, words, rule));
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
        let end = does(doer, vec!["/no/such".into()], rule());
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
    fn who_leaves_its_session_with_its_pipes_does_not_hold_it_up() {
        let began = Instant::now();
        let script = "echo a; setsid sleep 5 & head -c 100000 /dev/zero; exit 3";
        let (out, _, end) = ran(script, rule(), |asker| {
            // More than its input holds, which nobody reads.
            for _ in 0..20 {
                let _ = frame::put(asker, Kind::In, &[&[7; BLOCK]]);
            }
        });
        assert_eq!((&end["code"], &end["cut"], out.len()), (&json!(3), &Value::Null, 100_002), "{end}");
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }

    #[test]
    fn an_asker_that_takes_nothing_is_told_from_one_that_went_away() {
        let words = ["/bin/sh", "-c", "while :; do echo 0123456789; done"].map(str::to_owned).to_vec();
        let (mut asker, doer) = UnixStream::pair().expect("a pair");
        let rule = Run { output: 1 << 30, time: 20_000_000, ..rule() };
        let end = does(doer, words, rule);
        assert!(end["cut"].as_str().is_some_and(|cut| cut == SLOW), "{end}");
        // What was not written whole has no end after it.
        let (mut body, mut last) = (Vec::new(), Kind::Out);
        let broke = loop {
            match frame::get(&mut asker, &mut body) {
                Ok(Some(kind)) => last = kind,
                other => break other,
            }
        };
        assert!(last == Kind::Out && !matches!(broke, Err(error) if error.kind() == ErrorKind::InvalidData));
    }

    #[test]
    fn it_ends_with_the_asker_and_with_an_asker_that_raves() {
        let marker = std::env::temp_dir().join(format!("apus-exec-{}", std::process::id()));
        let _ = std::fs::remove_file(&marker);
        let began = Instant::now();
        let (.., end) = ran(&format!("sleep 3; touch {}", marker.display()), rule(), |asker| {
            std::thread::sleep(Duration::from_millis(50));
            let _ = asker.shutdown(Shutdown::Both);
        });
        assert!(end["cut"].as_str().is_some_and(|cut| cut.contains("went away")), "{end}");
        let (.., end) = ran("sleep 3", rule(), |asker| asker.write_all(&[0xff; 64]).expect("it takes bytes"));
        assert!(end["cut"].as_str().is_some_and(|cut| cut.contains("no frame")), "{end}");
        assert!(began.elapsed() < Duration::from_secs(2) && !marker.exists());
    }
}
