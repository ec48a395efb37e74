//! Numbers with units, read exactly: durations, shares, sizes. Integers only.

use crate::fault::Ns;

/// Durations, longest unit first where one ends like another.
const TIMES: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];
/// Shares, in parts per million.
const SHARES: &[(&str, u64)] = &[("%", 10_000), ("ppm", 1)];
const BYTES: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];
const RATES: &[(&str, u64)] = &[
    ("B/s", 1),
    ("kB/s", 1_000),
    ("KB/s", 1_000),
    ("MB/s", 1_000_000),
    ("GB/s", 1_000_000_000),
    ("KiB/s", 1 << 10),
    ("MiB/s", 1 << 20),
    ("GiB/s", 1 << 30),
];

/// Why a number with a unit was refused; text for people.
pub(super) type Refusal = &'static str;

/// `"1.5s"` in nanoseconds.
pub fn time(text: &str) -> Result<Ns, Refusal> {
    quantity(text, TIMES)
}

/// `"2.5%"` or `"200ppm"` in parts per million.
pub(super) fn share(text: &str) -> Result<u64, Refusal> {
    quantity(text, SHARES)
}

/// `"64KiB"` in bytes.
pub(super) fn bytes(text: &str) -> Result<u64, Refusal> {
    quantity(text, BYTES)
}

/// `"64kB/s"` in bytes a second.
pub(super) fn bandwidth(text: &str) -> Result<u64, Refusal> {
    quantity(text, RATES)
}

/// Digits, at most one point, one unit; the value must be a whole number of the smallest unit.
fn quantity(text: &str, units: &[(&str, u64)]) -> Result<u64, Refusal> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(if unit.starts_with('-') { "it is negative" } else { "it does not start with a number" });
    }
    if unit.is_empty() {
        return Err("the unit is missing");
    }
    let Some((_, scale)) = units.iter().find(|(name, _)| *name == unit.trim_start()) else {
        return Err("the unit is unknown");
    };
    decimal(number, *scale)
}

/// `number · scale`, exactly.
fn decimal(number: &str, scale: u64) -> Result<u64, Refusal> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if part.contains('.') || (part.is_empty() && number.contains('.')) || whole.is_empty() {
        return Err("the number is malformed");
    }
    let large = "the number is too large";
    let whole: u64 = whole.parse().map_err(|_| large)?;
    let mut value = u128::from(whole) * u128::from(scale);
    if !part.is_empty() {
        let part = part.trim_end_matches('0');
        let places = u32::try_from(part.len()).ok().filter(|places| *places <= 15).ok_or("it has too many digits")?;
        let parts: u128 = if part.is_empty() { 0 } else { part.parse().map_err(|_| large)? };
        let scaled = parts * u128::from(scale);
        let unit = 10_u128.pow(places);
        if !scaled.is_multiple_of(unit) {
            return Err("it is finer than the smallest unit");
        }
        value += scaled / unit;
    }
    u64::try_from(value).map_err(|_| large)
}

/// The shortest exact spelling of a duration.
#[must_use]
pub fn show_time(ns: Ns) -> String {
    show(
        ns,
        &[("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)],
        "ns",
    )
}

/// The shortest exact spelling of a share.
pub(super) fn show_share(ppm: u64) -> String {
    show(ppm, &[("%", 10_000)], "ppm")
}

/// The shortest exact spelling of a number of bytes.
pub(super) fn show_bytes(bytes: u64) -> String {
    show(bytes, &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("kB", 1_000)], "B")
}

fn show(value: u64, units: &[(&str, u64)], smallest: &str) -> String {
    let unit = units.iter().find(|(_, scale)| value >= *scale && value.is_multiple_of(*scale));
    unit.map_or_else(|| format!("{value}{smallest}"), |(name, scale)| format!("{}{name}", value / scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_exact() {
        for (text, ns) in [
            ("0s", 0),
            ("5us", 5_000),
            ("5µs", 5_000),
            ("200ms", 200_000_000),
            ("1.5s", 1_500_000_000),
            ("1.50 s", 1_500_000_000),
            ("2m", 120_000_000_000),
            ("0.000000001s", 1),
            ("1h", 3_600_000_000_000),
        ] {
            assert_eq!(time(text), Ok(ns), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "s",
            "5",
            "-5s",
            "5 sec",
            "1.2.3s",
            "1.s",
            ".5s",
            "0.1ns",
            "99999999999999999999s",
            "9999999999h",
            "1e3s",
        ] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shares_and_sizes() {
        assert_eq!(share("0.1%"), Ok(1_000));
        assert_eq!(share("200ppm"), Ok(200));
        assert_eq!(share("100%"), Ok(1_000_000));
        assert!(share("0.00001%").is_err());
        assert_eq!(bytes("1400B"), Ok(1_400));
        assert_eq!(bytes("64KiB"), Ok(65_536));
        assert_eq!(bandwidth("64kB/s"), Ok(64_000));
        assert!(bandwidth("64kB").is_err());
    }

    #[test]
    fn what_is_shown_reads_back() {
        for value in [0, 1, 999, 1_000, 1_500_000, 90_000_000_000, 7_200_000_000_000, 10_000, 65_536, 4_096_000] {
            assert_eq!(time(&show_time(value)), Ok(value));
            assert_eq!(share(&show_share(value)), Ok(value));
            assert_eq!(bytes(&show_bytes(value)), Ok(value));
        }
    }
}
