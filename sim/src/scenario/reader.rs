//! Reads values out of a TOML table by the shapes in [`super::keys`], and collects all that is wrong.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{Shape, Table, Words};
use super::mend::{as_name, example, expected, is_name, mend_type, mend_unit, one_of};
use super::problem::{Places, Problem};
use super::suggest::nearest;
use super::units;
use crate::fault::Ns;

pub(super) type Value<'t> = Spanned<DeValue<'t>>;

/// Collects problems.
pub(super) struct Reader<'t> {
    places: Places<'t>,
    problems: Vec<(usize, Problem)>,
}

/// One table of the file, with its keys known.
#[derive(Clone)]
pub(super) struct View<'t> {
    pub(super) spec: &'static Table,
    pub(super) path: String,
    pub(super) span: Range<usize>,
    table: &'t DeTable<'t>,
}

impl<'t> View<'t> {
    pub(super) fn get(&self, key: &str) -> Option<&'t Value<'t>> {
        self.table.get(key)
    }

    /// Where the value of a key stands, or the table if it is not there.
    pub(super) fn at(&self, key: &str) -> Range<usize> {
        self.get(key).map_or_else(|| self.span.clone(), Spanned::span)
    }

    pub(super) fn key(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// The limits of a key.
    fn shape(&self, key: &str) -> Shape {
        let found = self.spec.key(key);
        assert!(found.is_some(), "the key `{key}` is in the table of `{}`", self.spec.name);
        found.map_or(Shape::Text, |key| key.shape)
    }
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// What a value is, for people.
fn what(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "`true` or `false`",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// `a`, `b`, `c`; long lists are cut.
pub(super) fn list(words: &[&str]) -> String {
    const MOST: usize = 16;
    let mut out: Vec<String> = words.iter().take(MOST).map(|word| format!("`{word}`")).collect();
    if words.len() > MOST {
        out.push(format!("… ({} in all)", words.len()));
    }
    out.join(", ")
}

/// Quotes a word of the file, cut to a bearable length.
pub(super) fn quote(word: &str) -> String {
    let short: String = word.chars().take(40).map(|c| if c.is_control() { '?' } else { c }).collect();
    if short.chars().count() < word.chars().count() { format!("`{short}…`") } else { format!("`{short}`") }
}

impl<'t> Reader<'t> {
    pub(super) const fn new(file: &'t str, text: &'t str) -> Self {
        Self { places: Places::new(file, text), problems: Vec::new() }
    }

    /// Notes a problem.
    pub(super) fn wrong(
        &mut self,
        span: Range<usize>,
        key: impl Into<String>,
        message: impl Into<String>,
        expected: impl Into<String>,
        help: impl Into<String>,
    ) {
        let problem = self.places.problem(&span, &key.into(), message.into(), expected.into(), help.into());
        self.problems.push((span.start, problem));
    }

    pub(super) fn count(&self) -> usize {
        self.problems.len()
    }

    /// All problems, top to bottom.
    pub(super) fn finish(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|(at, _)| *at);
        self.problems.dedup();
        self.problems.into_iter().map(|(_, problem)| problem).collect()
    }

    /// Opens a table: unknown keys and missing ones are problems.
    pub(super) fn open(
        &mut self,
        spec: &'static Table,
        table: &'t DeTable<'t>,
        span: Range<usize>,
        path: String,
    ) -> View<'t> {
        for name in table.keys().filter(|name| spec.key(name.get_ref()).is_none()) {
            self.unknown_key(spec, name.get_ref(), name.span(), &path);
        }
        for key in spec.keys.iter().filter(|key| key.default.is_none() && !table.contains_key(key.name)) {
            let home = if spec.name.is_empty() { "the top of the file".to_owned() } else { format!("`{}`", spec.name) };
            let help = format!("add `{} = {}` to {home}", key.name, example(key));
            let first = span.start..span.start;
            let span = if spec.name.is_empty() { first } else { span.clone() };
            self.wrong(span, join(&path, key.name), format!("`{}` is missing", key.name), expected(key.shape), help);
        }
        View { spec, path, span, table }
    }

    fn unknown_key(&mut self, spec: &'static Table, name: &str, span: Range<usize>, path: &str) {
        let known: Vec<&str> = spec.keys.iter().map(|key| key.name).collect();
        let elsewhere = super::keys::TABLES.iter().find(|other| **other != spec && other.key(name).is_some());
        let help = match (nearest(name, known.iter().copied()), elsewhere) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, Some(other)) if other.name.is_empty() => {
                format!("`{name}` stands at the top of the file, before the first `[table]`")
            }
            (None, Some(other)) => format!("`{name}` belongs to `{}`", other.name),
            (None, None) => "take it out, or see docs/scenarios.md for what there is".to_owned(),
        };
        let home = if spec.name.is_empty() { "a scenario".to_owned() } else { format!("`{}`", spec.name) };
        self.wrong(
            span,
            join(path, name),
            format!("{home} has no key {}", quote(name)),
            format!("one of {}", list(&known)),
            help,
        );
    }

    fn bad_type(&mut self, value: &Value<'_>, key: String, shape: Shape) {
        let found = what(value.get_ref());
        let help = mend_type(value.get_ref(), &key, shape);
        self.wrong(value.span(), key, format!("this is {found}"), expected(shape), help);
    }

    /// A text.
    pub(super) fn text(&mut self, view: &View<'t>, key: &str) -> Option<String> {
        let value = view.get(key)?;
        let shape = view.shape(key);
        let DeValue::String(text) = value.get_ref() else {
            self.bad_type(value, view.key(key), shape);
            return None;
        };
        if text.trim().is_empty() {
            self.wrong(value.span(), view.key(key), "this is empty", expected(shape), format!("write what `{key}` is"));
            return None;
        }
        if shape == Shape::Name && !is_name(text) {
            let help = format!("write `{}`", as_name(text));
            self.wrong(value.span(), view.key(key), format!("{} is no name", quote(text)), expected(shape), help);
            return None;
        }
        Some(text.as_ref().to_owned())
    }

    /// One word of a set.
    pub(super) fn word(&mut self, view: &View<'t>, key: &str) -> Option<&'static str> {
        let value = view.get(key)?;
        let shape = view.shape(key);
        let Shape::Word(words) = shape else { return None };
        self.one_word(value, &view.key(key), words, shape)
    }

    pub(super) fn one_word(
        &mut self,
        value: &Value<'_>,
        key: &str,
        words: Words,
        shape: Shape,
    ) -> Option<&'static str> {
        let DeValue::String(text) = value.get_ref() else {
            self.bad_type(value, key.to_owned(), shape);
            return None;
        };
        self.known_word(text, value.span(), key, words)
    }

    /// The word, if it is one of the set.
    pub(super) fn known_word(
        &mut self,
        text: &str,
        span: Range<usize>,
        key: &str,
        words: Words,
    ) -> Option<&'static str> {
        let all = words.all();
        if let Some(word) = all.iter().find(|word| **word == text) {
            return Some(word);
        }
        let help = nearest(text, all.iter().copied()).map_or_else(
            || match words {
                Words::Kinds => "docs/scenarios.md says what each kind does".to_owned(),
                _ => "take one of the expected names, or leave the key out".to_owned(),
            },
            |near| format!("did you mean `{near}`?"),
        );
        let message = match words {
            Words::These(_) => format!("{} is not known here", quote(text)),
            _ => format!("there is no {} {}", words.noun(), quote(text)),
        };
        self.wrong(span, key, message, one_of(words), help);
        None
    }

    /// The elements of a list, each with its path.
    fn elements(&mut self, view: &View<'t>, key: &str) -> Vec<(&'t Value<'t>, String)> {
        let Some(value) = view.get(key) else { return Vec::new() };
        let DeValue::Array(array) = value.get_ref() else {
            self.bad_type(value, view.key(key), view.shape(key));
            return Vec::new();
        };
        array.iter().enumerate().map(|(at, value)| (value, format!("{}[{at}]", view.key(key)))).collect()
    }

    /// Words of a set.
    pub(super) fn words(&mut self, view: &View<'t>, key: &str) -> Vec<(&'static str, Range<usize>)> {
        let Shape::WordList(words) = view.shape(key) else { return Vec::new() };
        let mut out: Vec<(&'static str, Range<usize>)> = Vec::new();
        for (value, path) in self.elements(view, key) {
            let Some(word) = self.one_word(value, &path, words, Shape::Word(words)) else { continue };
            if out.iter().any(|(other, _)| *other == word) {
                self.wrong(
                    value.span(),
                    path,
                    format!("`{word}` is here twice"),
                    "each name once",
                    "take one of them out",
                );
            }
            out.push((word, value.span()));
        }
        out
    }

    /// Names that are checked later.
    pub(super) fn names(&mut self, view: &View<'t>, key: &str) -> Vec<(String, Range<usize>)> {
        let mut out = Vec::new();
        for (value, path) in self.elements(view, key) {
            match value.get_ref() {
                DeValue::String(text) => out.push((text.as_ref().to_owned(), value.span())),
                _ => self.bad_type(value, path, Shape::Name),
            }
        }
        out
    }

    /// True or false.
    pub(super) fn flag(&mut self, view: &View<'t>, key: &str) -> Option<bool> {
        let value = view.get(key)?;
        let DeValue::Boolean(flag) = value.get_ref() else {
            self.bad_type(value, view.key(key), Shape::Flag);
            return None;
        };
        Some(*flag)
    }

    /// A whole number.
    pub(super) fn number(&mut self, view: &View<'t>, key: &str) -> Option<u64> {
        let value = view.get(key)?;
        let shape = view.shape(key);
        let Shape::Count(least, most) = shape else { return None };
        self.one_number(value, view.key(key), shape, (least, most))
    }

    pub(super) fn one_number(
        &mut self,
        value: &Value<'_>,
        key: String,
        shape: Shape,
        limits: (u64, u64),
    ) -> Option<u64> {
        let DeValue::Integer(number) = value.get_ref() else {
            self.bad_type(value, key, shape);
            return None;
        };
        let read = u64::from_str_radix(number.as_str(), number.radix()).ok();
        let within = read.filter(|n| (limits.0..=limits.1).contains(n));
        if within.is_none() {
            let negative = number.as_str().starts_with('-');
            let nearest =
                if read.is_some_and(|n| n > limits.1) || (read.is_none() && !negative) { limits.1 } else { limits.0 };
            let message = format!("{} is out of range", quote(self.places.text(&value.span())));
            self.wrong(
                value.span(),
                key,
                message,
                expected(shape),
                format!("the nearest that is allowed is {nearest}"),
            );
        }
        within
    }

    /// One duration.
    pub(super) fn time(&mut self, view: &View<'t>, key: &str) -> Option<Ns> {
        let value = view.get(key)?;
        self.one(value, &view.key(key), view.shape(key))
    }

    /// One share.
    pub(super) fn share(&mut self, view: &View<'t>, key: &str) -> Option<u32> {
        let value = view.get(key)?;
        self.one(value, &view.key(key), view.shape(key)).and_then(|ppm| u32::try_from(ppm).ok())
    }

    /// Durations.
    pub(super) fn times(&mut self, view: &View<'t>, key: &str) -> Vec<Ns> {
        let Shape::TimeList(least, most) = view.shape(key) else { return Vec::new() };
        let elements = self.elements(view, key);
        elements.into_iter().filter_map(|(value, path)| self.one(value, &path, Shape::Time(least, most))).collect()
    }

    /// One value or a range of two, by the shape of the key.
    pub(super) fn range(&mut self, view: &View<'t>, key: &str) -> Option<(u64, u64)> {
        let value = view.get(key)?;
        let shape = match view.shape(key) {
            Shape::Times(least, most) => Shape::Time(least, most),
            Shape::Shares(most) => Shape::Share(most),
            Shape::Counts(least, most) => Shape::Count(least, most),
            other => other,
        };
        self.pair(value, &view.key(key), |reader, value, key| reader.one(value, key, shape))
    }

    /// One value, `[low, high]`, or `{ from = low, to = high }`.
    pub(super) fn pair(
        &mut self,
        value: &'t Value<'t>,
        key: &str,
        mut one: impl FnMut(&mut Self, &'t Value<'t>, &str) -> Option<u64>,
    ) -> Option<(u64, u64)> {
        let (low, high) = match value.get_ref() {
            DeValue::Array(array) => match array.iter().collect::<Vec<_>>()[..] {
                [low, high] => (low, high),
                _ => {
                    let message = format!("a range has two values, this has {}", array.iter().count());
                    self.wrong(value.span(), key, message, "`[least, most]`", "write the least and the most");
                    return None;
                }
            },
            DeValue::Table(table) => {
                let (low, high) = (table.get("from"), table.get("to"));
                for name in table.keys().filter(|name| !matches!(name.get_ref().as_ref(), "from" | "to")) {
                    let help = "write `{ from = …, to = … }`";
                    let message = format!("a range has no key {}", quote(name.get_ref()));
                    self.wrong(name.span(), join(key, name.get_ref()), message, "`from` and `to`", help);
                }
                let (Some(low), Some(high)) = (low, high) else {
                    let help = "write `{ from = …, to = … }`";
                    self.wrong(value.span(), key, "a range needs both ends", "`from` and `to`", help);
                    return None;
                };
                (low, high)
            }
            _ => return one(self, value, key).map(|value| (value, value)),
        };
        let (low, high) = (one(self, low, key), one(self, high, key));
        let (low, high) = (low?, high?);
        if low > high {
            let help = "swap the two values";
            self.wrong(value.span(), key, "the range ends before it starts", "the least value first", help);
            return None;
        }
        Some((low, high))
    }

    /// One value of a shape with limits.
    fn one(&mut self, value: &Value<'_>, key: &str, shape: Shape) -> Option<u64> {
        let (least, most) = match shape {
            Shape::Time(least, most) => (least, most),
            Shape::Share(most) => (0, most),
            Shape::Count(least, most) => return self.one_number(value, key.to_owned(), shape, (least, most)),
            _ => return None,
        };
        let read = if matches!(shape, Shape::Time(..)) { units::time } else { units::share };
        let show = if matches!(shape, Shape::Time(..)) { units::show_time } else { units::show_share };
        self.quantity(value, key, shape, &expected(shape), (least, most), (read, show))
    }

    /// A number with a unit.
    pub(super) fn quantity(
        &mut self,
        value: &Value<'_>,
        key: &str,
        shape: Shape,
        expected: &str,
        (least, most): (u64, u64),
        (read, show): (fn(&str) -> Result<u64, units::Refusal>, fn(u64) -> String),
    ) -> Option<u64> {
        let DeValue::String(text) = value.get_ref() else {
            self.bad_type(value, key.to_owned(), shape);
            return None;
        };
        match read(text) {
            Ok(amount) if (least..=most).contains(&amount) => Some(amount),
            Ok(amount) => {
                let nearest = show(if amount < least { least } else { most });
                let help = format!("the nearest that is allowed is `\"{nearest}\"`");
                self.wrong(value.span(), key, format!("{} is out of range", quote(text)), expected, help);
                None
            }
            Err(why) => {
                let help = mend_unit(text, shape, (show(least), show(most)));
                self.wrong(value.span(), key, format!("{} cannot be read: {why}", quote(text)), expected, help);
                None
            }
        }
    }
}
