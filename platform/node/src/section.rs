//! Tables of a file. What is wrong in one is put down with its place, and reading goes on with a stand-in, so that one look tells
//! every mistake. Who reads asks at the end whether there was any.

use std::cell::RefCell;
use std::ops::Range;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What is wrong, with the mend, and in which bytes.
pub(crate) type Wrong = (Range<usize>, String);
pub(crate) type Value<'t> = Spanned<DeValue<'t>>;

/// All that was wrong so far.
#[derive(Debug, Default)]
pub(crate) struct Wrongs(RefCell<Vec<Wrong>>);

impl Wrongs {
    pub(crate) fn put(&self, wrong: Wrong) {
        self.0.borrow_mut().push(wrong);
    }

    /// How many there are: what is derived from something that is wrong is not looked at.
    pub(crate) fn many(&self) -> usize {
        self.0.borrow().len()
    }

    pub(crate) fn all(self) -> Vec<Wrong> {
        self.0.into_inner()
    }
}

/// A table.
pub(crate) struct Section<'t> {
    table: &'t DeTable<'t>,
    pub(crate) span: Range<usize>,
    name: &'static str,
    wrongs: &'t Wrongs,
}

impl<'t> Section<'t> {
    /// A whole file.
    pub(crate) const fn file(table: &'t DeTable<'t>, wrongs: &'t Wrongs) -> Self {
        Self { table, span: 0..0, name: "the file", wrongs }
    }

    /// A table in this one.
    pub(crate) fn below(&self, value: &'t Value<'t>, name: &'static str, such: &str) -> Result<Self, Wrong> {
        let Some(table) = value.get_ref().as_table() else {
            return Err((value.span(), format!("{name} must be a table, such as `{such}`")));
        };
        Ok(Self { table, span: value.span(), name, wrongs: self.wrongs })
    }

    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) const fn wrongs(&self) -> &'t Wrongs {
        self.wrongs
    }

    pub(crate) const fn entries(&self) -> &'t DeTable<'t> {
        self.table
    }

    /// Puts down keys that are not among these.
    pub(crate) fn known(&self, keys: &[&str]) {
        for (key, _) in self.table.iter().filter(|(key, _)| !keys.contains(&key.get_ref().as_ref())) {
            let what = format!("`{}` is not known in {}; known are {}", key.get_ref(), self.name, keys.join(", "));
            self.wrongs.put((key.span(), what));
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'t Value<'t>> {
        self.table.get(key)
    }

    /// Where a key's value is, or else the table.
    pub(crate) fn place(&self, key: &str) -> Range<usize> {
        self.get(key).map_or(self.span.clone(), Spanned::span)
    }

    pub(crate) fn need(&self, key: &str, such: &str) -> Result<&'t Value<'t>, Wrong> {
        self.get(key)
            .ok_or_else(|| (self.span.clone(), format!("{} lacks `{key}`; write such as `{key} = {such}`", self.name)))
    }

    /// What was read, or, with the mistake put down, nothing.
    pub(crate) fn ok<T>(&self, read: Result<T, Wrong>) -> Option<T> {
        read.map_err(|wrong| self.wrongs.put(wrong)).ok()
    }

    /// A key's value, if it is there and right.
    pub(crate) fn opt<T>(&self, key: &str, read: impl FnOnce(&'t Value<'t>, &str) -> Result<T, Wrong>) -> Option<T> {
        self.ok(read(self.get(key)?, key))
    }

    /// A key's value, which must be there.
    pub(crate) fn must<T>(
        &self,
        key: &str,
        such: &str,
        read: impl FnOnce(&'t Value<'t>, &str) -> Result<T, Wrong>,
    ) -> Option<T> {
        self.ok(self.need(key, such).and_then(|value| read(value, key)))
    }

    pub(crate) fn flag(&self, key: &str, or: bool) -> bool {
        let read = |value: &Value<'_>, key: &str| {
            value.get_ref().as_bool().ok_or_else(|| (value.span(), format!("`{key}` must be true or false")))
        };
        self.opt(key, read).unwrap_or(or)
    }
}

pub(crate) fn number<T: TryFrom<u64>>(value: &Value<'_>, key: &str, range: &str) -> Result<T, Wrong> {
    let integer =
        value.get_ref().as_integer().and_then(|i| u64::from_str_radix(&i.as_str().replace('_', ""), i.radix()).ok());
    integer
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| (value.span(), format!("`{key}` must be {range}")))
}

pub(crate) fn text<'t>(value: &'t Value<'t>, key: &str) -> Result<&'t str, Wrong> {
    value.get_ref().as_str().ok_or_else(|| (value.span(), format!("`{key}` must be a text, in quotation marks")))
}

pub(crate) fn parsed<T: FromStr>(value: &Value<'_>, key: &str, such: &str) -> Result<T, Wrong> {
    let word = text(value, key)?;
    word.parse().map_err(|_| (value.span(), format!("`{key}` is `{word}`, and must be such as `{such}`")))
}

/// In a file that is good each first text is replaced by the second, one mistake at a time, and something is said of each: from, to, said.
#[cfg(test)]
pub(crate) fn each_mistake_is_told(good: &str, mistakes: &[(&str, &str, &str)]) {
    for (from, to, said) in mistakes {
        let error = crate::Config::read("x", &good.replacen(from, to, 1)).expect_err(to).to_string();
        assert!(error.contains(said), "{to}: {error}");
    }
}
