//! What is wrong with a scenario file, where, and how to mend it.

use std::fmt;
use std::ops::Range;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file as it was named.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The dotted path of the key, such as `fault[2].target`; empty for the file itself.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What would be right; may be empty.
    pub expected: String,
    /// How to mend it.
    pub help: String,
    /// The line of the file.
    pub excerpt: String,
    /// How many characters of that line are meant.
    pub width: usize,
}

/// Problems of one file that are written out; a file of another kind would have thousands.
const SHOWN: usize = 20;

/// Everything that is wrong with one file, top to bottom. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// At least one.
    pub all: Vec<Problem>,
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.all.iter().take(SHOWN).enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        match self.all.len() - self.all.len().min(SHOWN) {
            0 => Ok(()),
            more => writeln!(f, "\n{more} more in {}", self.all[0].file),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.line.to_string();
        let edge = " ".repeat(line.len());
        writeln!(f, "error: {}", self.message)?;
        write!(f, "{edge}--> {}:{}:{}", self.file, self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "  at `{}`", self.key)?;
        }
        let (excerpt, lead) = self.window();
        writeln!(f, "\n{edge} |\n{line} | {excerpt}")?;
        let room = excerpt.chars().count().saturating_sub(lead).max(1);
        writeln!(f, "{edge} | {}{}", " ".repeat(lead), "^".repeat(self.width.clamp(1, room)))?;
        if !self.expected.is_empty() {
            writeln!(f, "{edge} = expected: {}", self.expected)?;
        }
        writeln!(f, "{edge} = help: {}", self.help)
    }
}

impl Problem {
    /// The part of a long line around the place, and where the place is in it.
    fn window(&self) -> (String, usize) {
        const WIDE: usize = 110;
        let lead = self.column - 1;
        let skip = if lead > WIDE - 30 { lead - 30 } else { 0 };
        let shown: String =
            self.excerpt.chars().skip(skip).take(WIDE).map(|c| if c.is_control() { ' ' } else { c }).collect();
        (shown.trim_end().to_owned(), lead - skip)
    }

    /// The same as data.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "key": self.key,
            "message": self.message,
            "expected": self.expected,
            "help": self.help,
        })
    }
}

impl Problems {
    /// The same as data: a list.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        self.all.iter().map(Problem::to_json).collect()
    }
}

/// Turns places in a text into lines and columns.
pub(super) struct Places<'t> {
    file: &'t str,
    text: &'t str,
}

impl<'t> Places<'t> {
    pub(super) const fn new(file: &'t str, text: &'t str) -> Self {
        Self { file, text }
    }

    /// The text of a span.
    pub(super) fn text(&self, span: &Range<usize>) -> &'t str {
        &self.text[floor(self.text, span.start)..floor(self.text, span.end.max(span.start))]
    }

    /// A problem at a span of bytes.
    pub(super) fn problem(
        &self,
        span: &Range<usize>,
        key: &str,
        message: String,
        expected: String,
        help: String,
    ) -> Problem {
        let start = floor(self.text, span.start);
        let before = &self.text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line_end = self.text[start..].find('\n').map_or(self.text.len(), |at| start + at);
        let end = floor(self.text, span.end).clamp(start, line_end.max(start));
        Problem {
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: self.text[line_start..start].chars().count() + 1,
            key: key.to_owned(),
            message,
            expected,
            help,
            excerpt: self.text[line_start..line_end].trim_end_matches('\r').to_owned(),
            width: self.text[start..end].chars().count(),
        }
    }
}

/// The nearest character boundary at or before a byte.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
