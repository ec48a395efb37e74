//! The nearest right spelling.

/// What people call things that have another name here.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("kill", "crash"),
    ("sigkill", "crash"),
    ("reboot", "crash"),
    ("restart", "crash"),
    ("pause", "freeze"),
    ("sigstop", "freeze"),
    ("hang", "program-hang"),
    ("netsplit", "partition"),
    ("split", "partition"),
    ("isolate", "partition"),
    ("asymmetric", "one-way"),
    ("delay", "latency"),
    ("lag", "latency"),
    ("drop", "loss"),
    ("packet-loss", "loss"),
    ("reorder", "jitter"),
    ("bandwidth-cap", "bandwidth"),
    ("enospc", "disk-full"),
    ("eio", "disk-error"),
    ("oom", "out-of-memory"),
    ("migrate", "move"),
    ("decommission", "remove-node"),
    ("primary", "dispatcher"),
    ("owner", "dispatcher"),
    ("coordinator", "leader"),
    ("everyone", "all"),
    ("split-brain", "one-holder"),
    ("time", "at"),
    ("start", "at"),
    ("duration", "for"),
    ("lasts", "for"),
    ("node", "target"),
    ("type", "kind"),
    ("probability", "chance"),
    ("description", "about"),
    ("drift_ppm", "drift"),
    ("replicas", "degree"),
    ("depends_on", "requires"),
];

/// The name among `known` that was probably meant.
#[must_use]
pub fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let known: Vec<&str> = known.collect();
    let plain = plain(word);
    let most = plain.chars().count().div_ceil(3).min(4);
    let close = known
        .iter()
        .map(|name| (distance(&plain, &self::plain(name)), *name))
        .filter(|(far, _)| *far <= most)
        .min_by_key(|(far, _)| *far);
    if let Some((0 | 1, name)) = close {
        return Some(name);
    }
    let other = OTHER_NAMES.iter().find(|(wrong, _)| self::plain(wrong) == plain);
    if let Some(name) = other.and_then(|(_, right)| known.iter().find(|name| *name == right)) {
        return Some(name);
    }
    close.map(|(_, name)| name).or_else(|| part_of(&plain, &known))
}

/// The only name that holds the word, or that the word holds.
fn part_of<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    if word.len() < 4 {
        return None;
    }
    let mut hits = known.iter().filter(|name| {
        let name = plain(name);
        name.contains(word) || (name.len() >= 4 && word.contains(&name))
    });
    let first = hits.next().copied();
    if hits.next().is_some() { None } else { first }
}

fn plain(word: &str) -> String {
    word.chars().take(64).flat_map(char::to_lowercase).map(|c| if c == '_' || c == ' ' { '-' } else { c }).collect()
}

/// How many letters must be put in, taken out, changed, or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let change = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = change.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("taregt", "target"), 1);
    }

    #[test]
    fn the_nearest_name_is_found() {
        let known = || ["power-off", "partition", "crash", "target", "freeze", "program-hang"].into_iter();
        assert_eq!(nearest("poweroff", known()), Some("power-off"));
        assert_eq!(nearest("Power_Off", known()), Some("power-off"));
        assert_eq!(nearest("partion", known()), Some("partition"));
        assert_eq!(nearest("tarhet", known()), Some("target"));
        assert_eq!(nearest("SIGSTOP", known()), Some("freeze"));
        assert_eq!(nearest("hang", known()), Some("program-hang"));
        assert_eq!(nearest("zzzzzz", known()), None);
    }
}
