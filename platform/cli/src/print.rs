//! What goes to standard output and standard error. A reader that has seen enough is no error; a full disk is one.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::sync::OnceLock;

use anstyle::{AnsiColor, Style};
use apus_sim::report::Verdict;
use serde_json::Value;

/// The first error of standard output that was no closed pipe.
static FAILED: OnceLock<String> = OnceLock::new();

pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(crate) const ODD: Style = AnsiColor::Yellow.on_default().bold();

/// Writes one line. Colours are left out unless it is a terminal that wants them.
pub(crate) fn line(text: impl Display) {
    let mut out = anstream::stdout().lock();
    let result = writeln!(out, "{text}").and_then(|()| out.flush());
    if let Err(error) = result
        && error.kind() != ErrorKind::BrokenPipe
    {
        let _ = FAILED.set(error.to_string());
    }
}

/// Writes one line to standard output.
macro_rules! say {
    ($($text:tt)*) => { $crate::print::line(format_args!($($text)*)) };
}
pub(crate) use say;

/// Writes a document.
pub(crate) fn json(value: &Value) {
    line(serde_json::to_string_pretty(value).unwrap_or_default());
}

/// Tells what went wrong.
pub(crate) fn error(text: &str) {
    let mut err = anstream::stderr().lock();
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let _ = writeln!(err, "{BAD}error:{BAD:#} {}", text.trim_end());
}

/// Why standard output could not be written, if so.
pub(crate) fn failed() -> Option<&'static str> {
    FAILED.get().map(String::as_str)
}

/// Columns of the terminal behind standard error; `None`: it is no terminal.
pub(crate) fn columns() -> Option<usize> {
    let err = std::io::stderr();
    if !err.is_terminal() || std::env::var_os("TERM").is_some_and(|term| term == "dumb") {
        return None;
    }
    Some(terminal_size::terminal_size_of(err).map_or(100, |(width, _)| usize::from(width.0)))
}

/// Puts a text in the place of the line that was put there before, on a terminal behind standard error; nothing elsewhere.
pub(crate) fn over(text: &str) {
    if let Some(columns) = columns() {
        let text: String = text.chars().take(columns.saturating_sub(1)).collect();
        let mut err = std::io::stderr().lock();
        let _ = write!(err, "\r\x1b[K{text}").and_then(|()| err.flush());
    }
}

/// A verdict in a word, as reports have it.
pub(crate) const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Safety => "SAFETY",
        Verdict::Liveness => "LIVENESS",
        Verdict::Vacuous => "VACUOUS",
        Verdict::NoSeed => "NO SEED",
        Verdict::NotDeterministic => "NOT DETERMINISTIC",
    }
}

/// Its colour.
pub(crate) const fn style(verdict: Verdict) -> Style {
    match verdict {
        Verdict::Pass => GOOD,
        Verdict::Vacuous | Verdict::NoSeed => ODD,
        Verdict::Safety | Verdict::Liveness | Verdict::NotDeterministic => BAD,
    }
}

/// `1 seed`, `2 seeds`.
pub(crate) fn count(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// 950, 12.3 k, 4.56 M, 7.89 G.
pub(crate) fn short(n: u64) -> String {
    let scaled = |unit: f64, name| {
        let value = n as f64 / unit;
        if value < 10.0 { format!("{value:.2} {name}") } else { format!("{value:.1} {name}") }
    };
    match n {
        0..10_000 => n.to_string(),
        10_000..1_000_000 => scaled(1e3, "k"),
        1_000_000..1_000_000_000 => scaled(1e6, "M"),
        _ => scaled(1e9, "G"),
    }
}

/// Nanoseconds as milliseconds, to the microsecond.
pub(crate) fn ms(ns: u64) -> String {
    format!("{}.{:03}", ns / 1_000_000, ns / 1_000 % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(short(950), "950");
        assert_eq!(short(12_345), "12.3 k");
        assert_eq!(short(4_561_000), "4.56 M");
        assert_eq!(count(1, "seed"), "1 seed");
        assert_eq!(count(0, "seed"), "0 seeds");
        assert_eq!(ms(15_034_712_167), "15034.712");
    }
}
