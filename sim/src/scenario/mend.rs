//! What is expected, and how a value is mended, for people.

use toml::de::DeValue;

use super::keys::{Key, Shape, Words};
use super::reader::list;
use super::units;

/// The words of a set, or where to find them if they are many.
pub(super) fn one_of(words: Words) -> String {
    let all = words.all();
    let list_of = |what| format!("a {}; `apus list {what}` names them all", words.noun());
    match words {
        Words::These(_) if all.len() == 1 => format!("`{}`", all[0]),
        Words::These(_) => format!("one of {}", list(&all)),
        Words::Kinds => list_of("faults"),
        Words::Checkers => list_of("checkers"),
        Words::Goals => list_of("goals"),
        Words::Mutants => list_of("mutants"),
    }
}

/// What a shape expects, for people.
pub(super) fn expected(shape: Shape) -> String {
    let time = units::show_time;
    match shape {
        Shape::Text => "a text".into(),
        Shape::Name => "lower-case words joined by hyphens, such as `slow-disk`".into(),
        Shape::Word(words) => one_of(words),
        Shape::WordList(words) => format!("a list of names, such as [{:?}]", words.all()[0]),
        Shape::NameList => "a list of service names".into(),
        Shape::Count(least, most) => format!("a whole number from {least} to {most}"),
        Shape::Counts(least, most) => format!("a whole number from {least} to {most}, or a range `[least, most]`"),
        Shape::Flag => "`true` or `false`".into(),
        Shape::Time(least, most) => {
            format!("a duration from {} to {}, such as `\"1.5s\"` or `\"200ms\"`", time(least), time(most))
        }
        Shape::Times(least, most) => {
            format!(
                "a duration from {} to {}, such as `\"2s\"`, or a range `[\"1s\", \"3s\"]`",
                time(least),
                time(most)
            )
        }
        Shape::TimeList(..) => "a list of durations, such as `[\"500ms\"]`".into(),
        Shape::Share(most) => format!("a share up to {}, such as `\"5%\"` or `\"200ppm\"`", units::show_share(most)),
        Shape::Shares(most) => {
            format!("a share up to {}, such as `\"5%\"`, or a range `[\"1%\", \"5%\"]`", units::show_share(most))
        }
        Shape::Sizes => "a size in the unit of the kind".into(),
        Shape::Target => {
            format!(
                "one of {}, a node such as `n2`, a list of nodes, `{{ holder = 1 }}`, or `{{ some = 2 }}`",
                list(super::keys::TARGETS)
            )
        }
        Shape::Reasons => {
            "a table of checkers with reasons, such as `{ converges = \"a majority is lost for good\" }`".into()
        }
        Shape::Table(table) => format!("a table `{}`", table.name),
        Shape::Tables(table) => format!("a list of tables `{}`", table.name),
        Shape::ByKind(_) => "a table by kind of fault, such as `loss = { rate = \"1%\" }`".into(),
    }
}

/// A value that would do for a key that must be there.
pub(super) fn example(key: &Key) -> String {
    match (key.name, key.shape) {
        ("about", _) => "\"\"\"what happens\\nwhat must hold\"\"\"".into(),
        ("duration", _) => "\"20s\"".into(),
        ("nodes", _) => "5".into(),
        ("at", _) => "\"5s\"".into(),
        (_, Shape::Word(Words::Kinds)) => "\"crash\"".into(),
        (_, Shape::Word(words)) => format!("{:?}", words.all().last().copied().unwrap_or_default()),
        (_, Shape::Count(least, _)) => least.to_string(),
        _ => "\"a-name\"".into(),
    }
}

/// How a value of the wrong type is made right.
pub(super) fn mend_type(value: &DeValue<'_>, key: &str, shape: Shape) -> String {
    match (value, shape) {
        (DeValue::Integer(number), Shape::Time(..) | Shape::Times(..)) => {
            format!("write the unit and quotes: `\"{0}s\"` or `\"{0}ms\"`", number.as_str())
        }
        (DeValue::Float(number), Shape::Time(..) | Shape::Times(..))
            if number.as_str().parse::<f64>().is_ok_and(f64::is_finite) =>
        {
            format!("write the unit and quotes: `\"{}s\"`", number.as_str())
        }
        (DeValue::Integer(number), Shape::Share(_) | Shape::Shares(_)) => {
            format!("write the unit and quotes: `\"{}%\"`", number.as_str())
        }
        (DeValue::Float(number), Shape::Share(_) | Shape::Shares(_)) => {
            format!("write it as a percentage in quotes, not as `{}`", number.as_str())
        }
        (DeValue::String(text), Shape::Count(..) | Shape::Counts(..)) if text.parse::<u64>().is_ok() => {
            format!("take the quotes away: `{text}`")
        }
        (DeValue::String(text), Shape::Flag) if matches!(text.as_ref(), "true" | "false") => {
            format!("take the quotes away: `{text}`")
        }
        (DeValue::String(text), Shape::WordList(_) | Shape::NameList | Shape::TimeList(..)) => {
            format!("put it into brackets: `[{:?}]`", text.chars().take(40).collect::<String>())
        }
        (DeValue::Table(_), Shape::Tables(table)) => format!("write the header with two brackets: `{}`", table.name),
        (DeValue::Array(_), Shape::Table(table)) => format!("write the header with one bracket: `{}`", table.name),
        (DeValue::Float(number), Shape::Count(..) | Shape::Counts(..)) => {
            format!("write `{}`", number.as_str().split('.').next().unwrap_or("1"))
        }
        _ => {
            let name = key.rsplit('.').next().unwrap_or(key);
            match name.split_once('[') {
                Some(_) => format!("write for example `{}`", sample(shape)),
                None => format!("write for example `{name} = {}`", sample(shape)),
            }
        }
    }
}

/// A value of a shape.
fn sample(shape: Shape) -> String {
    match shape {
        Shape::Word(words) => format!("{:?}", words.all()[0]),
        Shape::WordList(words) => format!("[{:?}]", words.all()[0]),
        Shape::NameList => "[\"database\"]".into(),
        Shape::Count(least, _) | Shape::Counts(least, _) => least.max(1).to_string(),
        Shape::Flag => "true".into(),
        Shape::Time(..) | Shape::Times(..) => "\"2s\"".into(),
        Shape::TimeList(..) => "[\"500ms\"]".into(),
        Shape::Share(_) | Shape::Shares(_) => "\"1%\"".into(),
        Shape::Sizes => "\"64kB/s\"".into(),
        Shape::Target => "\"leader\"".into(),
        Shape::Text => "\"\"\"what happens\\nwhat must hold\"\"\"".into(),
        Shape::Name => "\"slow-disk\"".into(),
        Shape::Reasons | Shape::Table(_) | Shape::Tables(_) | Shape::ByKind(_) => "{ }".into(),
    }
}

/// How a number with a unit that cannot be read is made right; it may be from `least` to `most`.
pub(super) fn mend_unit(text: &str, shape: Shape, (least, most): (String, String)) -> String {
    let text = text.trim();
    if let Some(whole) = several_units(text).filter(|_| matches!(shape, Shape::Time(..))) {
        return format!("write one number and one unit: `\"{whole}\"`");
    }
    let negative = text.starts_with('-');
    let plain = text.trim_start_matches(['-', '+']).replace(',', ".");
    let number: String = plain.chars().take_while(|c| c.is_ascii_digit() || *c == '.').take(20).collect();
    let number = number.trim_matches('.');
    let number = if number.is_empty() { "5" } else { number };
    if number.split('.').next().is_some_and(|whole| whole.len() > 15) {
        return format!("the most that is allowed is `\"{most}\"`");
    }
    if negative {
        return format!("the least that is allowed is `\"{least}\"`");
    }
    match shape {
        Shape::Share(_) | Shape::Shares(_) => format!("write it like `\"{number}%\"`; units are % and ppm"),
        Shape::Time(..) | Shape::Times(..) => {
            let unit: String = plain.chars().skip_while(|c| c.is_ascii_digit() || *c == '.').collect();
            let unit = unit.trim().to_lowercase();
            let unit = match unit.as_str() {
                "ms" | "msec" | "msecs" | "millis" | "milliseconds" => "ms",
                "m" | "min" | "mins" | "minute" | "minutes" => "m",
                "h" | "hr" | "hour" | "hours" => "h",
                "us" | "usec" | "micros" | "microseconds" => "us",
                _ => "s",
            };
            format!("write it like `\"{number}{unit}\"`; units are ns, us, ms, s, m, h")
        }
        Shape::Sizes if most.ends_with("/s") => {
            format!("write it like `\"{number}kB/s\"`; units are B/s, kB/s, MB/s, GB/s, KiB/s, MiB/s, GiB/s")
        }
        _ => format!("write it like `\"{number}B\"`; units are B, kB, MB, GB, KiB, MiB, GiB"),
    }
}

/// `1m30s` as one number and unit.
fn several_units(text: &str) -> Option<String> {
    let mut sum = 0_u64;
    let mut parts = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0)?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        sum = sum.checked_add(units::time(&rest[..unit]).ok()?)?;
        rest = &rest[unit..];
        parts += 1;
    }
    (parts > 1).then(|| {
        let seconds = sum / 1_000_000_000;
        if sum.is_multiple_of(1_000_000_000) { format!("{seconds}s") } else { units::show_time(sum) }
    })
}

pub(super) fn is_name(text: &str) -> bool {
    text.len() <= 64
        && !text.split('-').any(str::is_empty)
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

pub(super) fn as_name(text: &str) -> String {
    let plain: String =
        text.chars().take(64).map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let words: Vec<&str> = plain.split('-').filter(|word| !word.is_empty()).collect();
    if words.is_empty() { "a-name".into() } else { words.join("-") }
}
