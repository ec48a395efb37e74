//! What a system costs the programs: they do all they can, in turns with the same programs in a folder at which no system looks.

use std::io;
use std::time::{Duration, Instant};

use super::network::until;
use super::programs::Programs;
use super::systems::Site;
use crate::stats::Interval;

/// How long one turn lasts.
const SLOT: Duration = Duration::from_millis(500);
/// How long the copy has for what the turn before has left.
const LEVEL: Duration = Duration::from_secs(10);

/// Time of an operation against that of one where no system looks. `None`: no rounds are wanted.
pub(super) fn cost(rounds: usize, programs: &Programs, site: &Site) -> io::Result<Option<Interval>> {
    if rounds == 0 {
        return Ok(None);
    }
    let (root, room) = (site.room.join("plain"), site.room.join("plain.room"));
    std::fs::create_dir_all(&root)?;
    std::fs::create_dir_all(&room)?;
    let plain = Programs::plain(&root, &room, site)?;
    if !until(LEVEL, || plain.done() > 0) {
        return Err(io::Error::other("the programs do nothing where no system looks"));
    }
    let both = [programs, &plain];
    both.iter().try_for_each(|programs| programs.pace(false, true))?;
    let mut ratios = Vec::new();
    for round in 0..rounds {
        let mut each = [0.0; 2];
        // There and back, so that what comes before which changes with the rounds.
        for at in if round % 2 == 0 { [0, 1, 1, 0] } else { [1, 0, 0, 1] } {
            level(site);
            each[at] += turn(both[at])?;
        }
        ratios.push(each[0] / each[1]);
    }
    programs.pace(false, false)?;
    Ok(Some(Interval::of(&ratios)))
}

/// Seconds of an operation.
fn turn(programs: &Programs) -> io::Result<f64> {
    programs.pace(true, false)?;
    // Until all threads know.
    std::thread::sleep(Duration::from_millis(60));
    let (before, began) = (programs.done(), Instant::now());
    std::thread::sleep(SLOT);
    let (done, took) = (programs.done().saturating_sub(before), began.elapsed());
    programs.pace(false, true)?;
    std::thread::sleep(Duration::from_millis(60));
    Ok(took.as_secs_f64() / done.max(1) as f64)
}

/// Waits until the copy has what was written, or for as long as it may take.
fn level(site: &Site) {
    let marks = |root: &std::path::Path| std::fs::metadata(root.join("marks")).map_or(0, |meta| meta.len());
    let wanted = marks(&site.root);
    until(LEVEL, || marks(&site.copy) >= wanted);
}
