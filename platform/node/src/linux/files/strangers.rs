//! Programs that open files of a group for writing and are not captured: each is told, to whoever reads and to whoever asks later.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use apus_capture::linux::{Guard, Verdict};
use apus_engine::Micros;

use super::super::now;
use super::queue::{State, Stranger};
use super::worker::Settings;
use crate::view::Entry;

/// Between two looks of the guard at directories that came.
const LOOK: i32 = 200;
/// Who does the same again within this time is counted, and not told once more.
const AGAIN: Micros = Micros::from_secs(10);

/// Lets the guard answer until `stop`, in a thread of its own.
pub(super) fn watch(mut guard: Guard, settings: &Settings, stop: Arc<AtomicBool>) -> io::Result<JoinHandle<()>> {
    let (queue, say, note) = (settings.queue.clone(), settings.say.clone(), settings.note.clone());
    let (name, resource) = (settings.group.name.clone(), settings.group.engine.resource);
    let work = move || {
        let mut told = String::new();
        while !stop.load(Ordering::SeqCst) {
            match guard.answer(LOOK) {
                Ok(verdicts) => {
                    for verdict in verdicts {
                        let mut line = None;
                        queue.change(|state| line = count(state, &verdict));
                        if let Some(line) = line {
                            let entry = Entry::new("files", "stranger", format!("files `{name}`: {line}"));
                            note(Entry { resource: Some(resource.0), ..entry });
                        }
                    }
                    let _ = guard.refresh();
                }
                Err(error) => {
                    let error = error.to_string();
                    if error != told {
                        say(&format!("files `{name}`: the guard: {error}"));
                        told = error;
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    };
    std::thread::Builder::new().name("guard".into()).spawn(work)
}

/// Counts it; what there is to say, if it is not what was said just now.
fn count(state: &mut State, verdict: &Verdict) -> Option<String> {
    let (refused, allowed) = &mut state.strangers;
    *(if verdict.allowed { allowed } else { refused }) += 1;
    let path = String::from_utf8_lossy(&verdict.path);
    let (program, at) = (&verdict.program, now());
    if let Some(last) = &mut state.stranger
        && (&last.program, &*last.path, last.allowed) == (program, &*path, verdict.allowed)
    {
        last.times += 1;
        (last.process, last.at) = (verdict.process, at);
        if at.since(last.told) < AGAIN {
            return None;
        }
        last.told = at;
    } else {
        state.stranger = Some(Stranger {
            process: verdict.process,
            program: program.clone(),
            path: path.clone().into_owned(),
            allowed: verdict.allowed,
            at,
            told: at,
            times: 1,
        });
    }
    let done = if verdict.allowed { "may, and all copies compare the file" } else { "is refused" };
    Some(format!("process {} ({program}) is not captured and opens {path} for writing: it {done}", verdict.process))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_and_the_same_again_is_counted() {
        let verdict =
            |program: &str, allowed| Verdict { process: 7, program: program.into(), path: b"a.db".to_vec(), allowed };
        let mut state = State::default();
        let line = count(&mut state, &verdict("/bin/cp", false)).expect("it is told");
        assert_eq!(line, "process 7 (/bin/cp) is not captured and opens a.db for writing: it is refused");
        assert_eq!(count(&mut state, &verdict("/bin/cp", false)), None);
        let line = count(&mut state, &verdict("/bin/cp", true)).expect("another verdict");
        assert!(line.ends_with("it may, and all copies compare the file"), "{line}");
        assert!(count(&mut state, &verdict("/bin/mv", true)).is_some(), "another program");
        assert_eq!(state.strangers, (2, 2));
        assert_eq!(state.stranger.map(|last| (last.program, last.times)), Some(("/bin/mv".into(), 1)));
    }
}
