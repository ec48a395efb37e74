//! From the bytes of a scenario file to the scenario, or to everything that is wrong with it.

use std::ops::Range;

use toml::de::DeTable;

use super::model::Scenario;
use super::problem::Problems;
use super::reader::Reader;
use super::{check, parse};

/// The longest scenario file. Far more than anybody writes; a file that is no scenario is not read for minutes.
const LONGEST: usize = 1 << 20;

impl Scenario {
    /// Reads the bytes of a scenario file; also gives its text, without a byte order mark.
    ///
    /// # Errors
    /// As [`Scenario::parse`]; also a file that is too long, empty, or not UTF-8.
    pub fn parse_bytes<'b>(file: &str, bytes: &'b [u8]) -> Result<(Self, &'b str), Problems> {
        let wrong = |text: &str, at: usize, width: usize, message: String, expected: &str, help: &str| {
            let mut reader = Reader::new(file, text);
            reader.wrong(at..at + width, "", message, expected, help);
            Err(Problems { all: reader.finish() })
        };
        if bytes.len() > LONGEST {
            let message = format!("the file has {} bytes", bytes.len());
            let help = "this is probably another file; name a scenario";
            return wrong("", 0, 0, message, "at most 1 MiB", help);
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let at = error.valid_up_to();
                let lossy = String::from_utf8_lossy(bytes);
                let message = format!("this is not UTF-8: byte {at} is 0x{:02x}", bytes[at]);
                let wide = bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff");
                let help = if wide { "this looks like UTF-16: save it as UTF-8" } else { "save the file as UTF-8" };
                return wrong(&lossy, at, '\u{fffd}'.len_utf8(), message, "text in UTF-8", help);
            }
        };
        if text.trim().is_empty() {
            let help = "see docs/scenarios.md for the keys, and `apus list scenarios` for examples";
            return wrong(text, 0, 0, "the file is empty".into(), "a scenario", help);
        }
        Self::parse(file, text).map(|scenario| (scenario, text))
    }

    /// Reads a scenario file. `file` is its path for messages; the scenario must be named like it.
    ///
    /// # Errors
    /// Everything that is wrong with the text, each with its place and how to mend it.
    pub fn parse(file: &str, text: &str) -> Result<Self, Problems> {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut reader = Reader::new(file, text);
        for error in &errors {
            let span = error.span().unwrap_or_else(|| deepest(text));
            let message = format!("this is not TOML: {}", error.message().lines().next().unwrap_or("malformed"));
            reader.wrong(span.clone(), "", message, "", mend_syntax(error.message(), line_at(text, span.start)));
        }
        if !errors.is_empty() {
            // What was recovered may be half of what was meant: no more is said about it, and no more than once a line.
            let mut all = reader.finish();
            all.dedup_by_key(|problem| problem.line);
            if all[0].help.contains("TOML, not") {
                all.truncate(1);
            }
            return Err(Problems { all });
        }
        let mut parts = parse::read(&mut reader, table.get_ref(), file);
        check::check(&mut reader, &mut parts);
        let all = reader.finish();
        if all.is_empty() { Ok(parts.scenario) } else { Err(Problems { all }) }
    }
}

/// The line around a place.
fn line_at(text: &str, at: usize) -> &str {
    let bytes = text.as_bytes();
    let at = at.min(bytes.len());
    let start = bytes[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let end = bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |more| at + more);
    text.get(start..end).unwrap_or_default()
}

/// The line with the most brackets and points: the one that nests too deep, where the error has no place.
fn deepest(text: &str) -> Range<usize> {
    let mut start = 0;
    let mut worst = (0, 0..0);
    for line in text.split('\n') {
        let deep = line.bytes().filter(|byte| b"[{.".contains(byte)).count();
        if deep > worst.0 {
            worst = (deep, start..start + line.trim_end().len());
        }
        start += line.len() + 1;
    }
    worst.1
}

fn mend_syntax(message: &str, line: &str) -> &'static str {
    let line = line.trim();
    if message.contains("recursion") || message.contains("recurse") {
        "nothing in a scenario nests more than four deep"
    } else if line.starts_with('{') {
        "a scenario is TOML, not JSON: `nodes = 5`, one key a line"
    } else if line.contains(['\u{201c}', '\u{201d}', '\u{2018}', '\u{2019}']) {
        "write straight quotes: `\"`"
    } else if !line.contains('=') && line.contains(':') {
        "a scenario is TOML, not YAML: `nodes = 5`, not `nodes: 5`"
    } else if message.contains("duplicate") {
        "keep one of the two; several faults or services are written as `[[fault]]`, `[[service]]`"
    } else if message.contains("unclosed") {
        "close it: a header is `[table]` or `[[table]]`, a list `[\"a\", \"b\"]`, a table on one line `{ key = 1 }`"
    } else if message.contains("string") || message.contains("quote") || message.contains("invalid unquoted") {
        "texts, durations and shares stand in quotes: `\"5s\"`"
    } else if message.contains("key") {
        "a line is `key = value`, `[table]` or `[[table]]`"
    } else {
        "see https://toml.io for the format, and docs/scenarios.md for examples"
    }
}
