/// Which names of a tree belong to a group: patterns, each ended by a zero byte, the last that fits decides.
///
/// `*` and `?` stop at a slash, `**` does not, `[a-z]` and `[!a-z]` are sets. A pattern without a slash is held against the last part
/// of a name, one with a slash against the whole name below the root. `!` before a pattern takes names out again. As in `.gitignore`,
/// except that names are taken in rather than left out.
///
/// The type borrows and allocates nothing: it is used where a program was interrupted anywhere.
#[derive(Clone, Copy, Debug)]
pub struct Globs<'a> {
    text: &'a [u8],
}

impl<'a> Globs<'a> {
    /// Patterns, each ended by a zero byte.
    pub const fn new(text: &'a [u8]) -> Self {
        Self { text }
    }

    /// Whether `name`, relative to the root and without a slash before it, belongs to the group.
    pub fn holds(&self, name: &[u8]) -> bool {
        let last = name.rsplit(|&byte| byte == b'/').next().unwrap_or(name);
        let mut held = false;
        for pattern in self.text.split(|&byte| byte == 0).filter(|pattern| !pattern.is_empty()) {
            let (takes_in, pattern) = match pattern {
                [b'!', rest @ ..] => (false, rest),
                _ => (true, pattern),
            };
            let fits = if pattern.contains(&b'/') {
                fits(pattern.strip_prefix(b"/").unwrap_or(pattern), name)
            } else {
                fits(pattern, last)
            };
            if fits {
                held = takes_in;
            }
        }
        held
    }

    /// Whether a directory may be moved without that a name below it joins or leaves the group.
    pub fn ignore_directories(&self) -> bool {
        !self.text.contains(&b'/')
    }
}

/// Whether `name` fits `pattern`. Steps back to the last star of each kind only, so the time is the product of both lengths at most,
/// times the parts of the name.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    let (mut star, mut stars): (Option<(usize, usize)>, Option<(usize, usize)>) = (None, None);
    loop {
        if pattern[at..].starts_with(b"**") {
            at += 2;
            // "**/" fits no directory at all too.
            stars = Some((at, read));
            star = None;
            let slash = pattern[at..].starts_with(b"/") && (read == 0 || name[read - 1] == b'/');
            if slash && fits(&pattern[at + 1..], &name[read..]) {
                return true;
            }
            continue;
        }
        let ok = match (pattern.get(at), name.get(read)) {
            (None, None) => return true,
            (Some(b'*'), _) => {
                at += 1;
                star = Some((at, read));
                continue;
            }
            (Some(b'?'), Some(&byte)) => (byte != b'/').then_some(1),
            (Some(b'['), Some(&byte)) => set(&pattern[at..], byte),
            (Some(&want), Some(&byte)) => (want == byte).then_some(1),
            _ => None,
        };
        if let Some(step) = ok {
            at += step;
            read += 1;
            continue;
        }
        if let Some((after, from)) = star
            && from < name.len()
            && name[from] != b'/'
        {
            star = Some((after, from + 1));
            (at, read) = (after, from + 1);
        } else if let Some((after, from)) = stars
            && from < name.len()
        {
            stars = Some((after, from + 1));
            star = None;
            (at, read) = (after, from + 1);
        } else {
            return false;
        }
    }
}

/// How long the set at the start of `pattern` is, if `byte` is in it. A set without its end is a plain bracket.
fn set(pattern: &[u8], byte: u8) -> Option<usize> {
    let inverted = pattern.get(1) == Some(&b'!');
    let first = if inverted { 2 } else { 1 };
    let Some(end) = pattern.iter().skip(first + 1).position(|&at| at == b']').map(|at| at + first + 1) else {
        return (byte == b'[').then_some(1);
    };
    let (mut at, mut found) = (first, false);
    while at < end {
        if at + 2 < end && pattern[at + 1] == b'-' {
            found |= (pattern[at]..=pattern[at + 2]).contains(&byte);
            at += 3;
        } else {
            found |= pattern[at] == byte;
            at += 1;
        }
    }
    (found != inverted && byte != b'/').then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::Globs;

    fn holds(patterns: &str, name: &str) -> bool {
        Globs::new(patterns.as_bytes()).holds(name.as_bytes())
    }

    #[test]
    fn the_last_pattern_that_fits_decides() {
        assert!(holds("*.db\0", "a.db"));
        assert!(holds("*.db\0", "deep/down/a.db"));
        assert!(!holds("*.db\0", "a.db-wal"));
        assert!(holds("*.db*\0!*-shm\0", "a.db-wal"));
        assert!(!holds("*.db*\0!*-shm\0", "a.db-shm"));
        assert!(holds("!*\0*.db\0", "a.db"));
        assert!(!holds("", "a.db"));
    }

    #[test]
    fn stars_and_slashes() {
        assert!(holds("**\0", "a/b/c"));
        assert!(holds("data/**\0", "data/b/c"));
        assert!(!holds("data/**\0", "other/b/c"));
        assert!(holds("data/*/c\0", "data/b/c"));
        assert!(!holds("data/*/c\0", "data/b/b/c"));
        assert!(holds("data/**/c\0", "data/b/b/c"));
        assert!(holds("data/**/c\0", "data/c"));
        assert!(holds("**/c\0", "c"));
        assert!(holds("a?c[0-9]\0", "abc7"));
        assert!(!holds("a?c[!0-9]\0", "abc7"));
        assert!(holds("[\0", "["));
        assert!(holds("*a*b\0", "xxaxxaxb"));
        assert!(!holds("*a*b\0", "xxaxxaxc"));
    }
}
