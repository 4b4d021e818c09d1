//! Typed access to a parsed file that notes every mistake and goes on.

use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

use super::finding::{Finding, Kind, Source};
use super::keys::Key;
use super::nearest::nearest;
use super::plan::Profile;
use super::tables::Table;
use super::values::Wrong;

/// A place in the file: a key with the indices of its tables, and the bytes of its value.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) key: String,
    pub(super) span: Range<usize>,
}

/// A value and its place.
pub(super) struct Item<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// The reader of one file: gives values out and collects findings.
pub(super) struct Reader<'s> {
    source: Source<'s>,
    mistakes: Vec<Finding>,
    warnings: Vec<Finding>,
}

impl<'s> Reader<'s> {
    pub(super) fn new(source: Source<'s>) -> Self {
        Self { source, mistakes: Vec::new(), warnings: Vec::new() }
    }

    /// The mistakes and the warnings, each in the order of the file.
    pub(super) fn finish(mut self) -> (Vec<Finding>, Vec<Finding>) {
        self.mistakes.sort_by_key(Finding::position);
        self.warnings.sort_by_key(Finding::position);
        (self.mistakes, self.warnings)
    }

    /// Line of a place, from 1.
    pub(super) fn line(&self, place: &Place) -> usize {
        self.source.line(place.span.start)
    }

    pub(super) fn mistake(&mut self, kind: Kind, place: &Place, problem: String, cure: String) {
        let at = (place.key.as_str(), place.span.start);
        self.mistakes.push(self.source.finding(kind, at, problem, cure));
    }

    pub(super) fn warn(&mut self, place: &Place, problem: String, cure: String) {
        let at = (place.key.as_str(), place.span.start);
        self.warnings.push(self.source.finding(Kind::Warning, at, problem, cure));
    }

    /// Notes what Katran accepts: a mistake, but a warning in profile katran.
    pub(super) fn unless_katran(&mut self, profile: Profile, place: &Place, problem: String, cure: String) {
        match profile {
            Profile::Standard => self.mistake(Kind::Conflict, place, problem, cure),
            Profile::Katran => self.warn(place, format!("{problem}; Katran accepts it, so does profile katran"), cure),
        }
    }

    pub(super) fn wrong(&mut self, place: &Place, problem: &str, found: &str, accepted: &str) {
        self.mistake(Kind::Value, place, format!("{problem} (found {found})"), format!("accepted: {accepted}"));
    }

    /// The value of a key of any type, if the key is there.
    pub(super) fn any<'t>(&mut self, table: &Table<'t>, name: &str) -> Option<Item<&'t DeValue<'t>>> {
        let key = table.section.key(name)?;
        let item = table.value(name);
        if item.is_none() && key.default.is_empty() {
            let place = Place { key: format!("{}.{name}", table.place.key), span: table.place.span.clone() };
            let cure = format!("add it, for example `{name} = {}`", key.example);
            self.mistake(Kind::Missing, &place, "missing".to_owned(), cure);
        }
        item
    }

    /// Notes that `item` is not what its key takes.
    pub(super) fn wrong_type<T>(&mut self, table: &Table<'_>, name: &str, item: &Item<&DeValue<'_>>) -> Option<T> {
        if let Some(key) = table.section.key(name) {
            self.wrong(&item.place, "wrong type", &describe(item.value), &accepts(key));
        }
        None
    }

    /// A text, understood by `parse`.
    pub(super) fn text<T>(&mut self, table: &Table<'_>, name: &str, parse: impl FnOnce(&str) -> Result<T, Wrong>) -> Option<T> {
        let item = self.any(table, name)?;
        self.text_of(table, name, &item, parse)
    }

    /// A text that is the value, or part of the value, of a key.
    pub(super) fn text_of<T>(
        &mut self,
        table: &Table<'_>,
        name: &str,
        item: &Item<&DeValue<'_>>,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let key = table.section.key(name)?;
        let DeValue::String(text) = item.value else {
            return self.wrong_type(table, name, item);
        };
        match parse(text) {
            Ok(value) => Some(value),
            Err(Wrong { kind, problem }) => {
                let problem = format!("{problem} (found {})", describe(item.value));
                let now = if kind == Kind::NotYet { " now" } else { "" };
                let cure = format!("accepted{now}: {}", accepts(key));
                self.mistake(kind, &item.place, problem, cure);
                None
            }
        }
    }

    /// A whole number in `range`.
    pub(super) fn number(&mut self, table: &Table<'_>, name: &str, range: Range<u64>) -> Option<u64> {
        let item = self.any(table, name)?;
        self.number_of(table, name, range, &item)
    }

    /// A whole number in `range` that is the value, or part of the value, of a key.
    pub(super) fn number_of(
        &mut self,
        table: &Table<'_>,
        name: &str,
        range: Range<u64>,
        item: &Item<&DeValue<'_>>,
    ) -> Option<u64> {
        let DeValue::Integer(integer) = item.value else {
            return self.wrong_type(table, name, item);
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.filter(|number| range.contains(number));
        if let (None, Some(key)) = (number, table.section.key(name)) {
            self.wrong(&item.place, "out of range", &describe(item.value), &accepts(key));
        }
        number
    }

    /// One of the values that the reference lists for the key; `meanings` has those that work now.
    pub(super) fn choice<T: Copy>(&mut self, table: &Table<'_>, name: &str, meanings: &[(&str, T)]) -> Option<T> {
        let item = self.any(table, name)?;
        self.choice_of(table, name, meanings, &item)
    }

    /// One of the values of a key, in an array of them.
    pub(super) fn choice_of<T: Copy>(
        &mut self,
        table: &Table<'_>,
        name: &str,
        meanings: &[(&str, T)],
        item: &Item<&DeValue<'_>>,
    ) -> Option<T> {
        let key = table.section.key(name)?;
        let DeValue::String(text) = item.value else {
            return self.wrong_type(table, name, item);
        };
        let found = describe(item.value);
        let meaning = meanings.iter().find(|(known, _)| known == text);
        match key.values.iter().find(|value| value.name == text.as_ref()) {
            Some(value) if value.since.is_now() && meaning.is_some() => meaning.map(|(_, meaning)| *meaning),
            Some(_) => {
                let problem = format!("a value of a later version, not available yet (found {found})");
                let cure = format!("accepted now: {}", key.accepted());
                self.mistake(Kind::NotYet, &item.place, problem, cure);
                None
            }
            None => {
                let meant = nearest(text, key.values.iter().map(|value| value.name));
                let meant = meant.map(|meant| format!(", perhaps \"{meant}\" is meant"));
                let problem = format!("unknown value{}", meant.unwrap_or_default());
                self.wrong(&item.place, &problem, &found, &key.accepted());
                None
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn truth(&mut self, table: &Table<'_>, name: &str) -> Option<bool> {
        let item = self.any(table, name)?;
        match item.value {
            DeValue::Boolean(truth) => Some(*truth),
            _ => self.wrong_type(table, name, &item),
        }
    }

    /// The distinct values of an array of choices; none if the key is not there.
    pub(super) fn set<T: Copy + PartialEq>(&mut self, table: &Table<'_>, name: &str, meanings: &[(&str, T)]) -> Vec<T> {
        let mut set = Vec::new();
        let items = self.array(table, name).map(|array| array.value).unwrap_or_default();
        for item in &items {
            match self.choice_of(table, name, meanings, item) {
                Some(value) if set.contains(&value) => {
                    let problem = format!("the same value twice (found {})", describe(item.value));
                    self.mistake(Kind::Conflict, &item.place, problem, "remove one of them".to_owned());
                }
                Some(value) => set.push(value),
                None => {}
            }
        }
        set
    }

    /// The elements of an array; `None` if the key is not there or is no array.
    pub(super) fn array<'t>(&mut self, table: &Table<'t>, name: &str) -> Option<Item<Vec<Item<&'t DeValue<'t>>>>> {
        let item = self.any(table, name)?;
        let DeValue::Array(array) = item.value else {
            return self.wrong_type(table, name, &item);
        };
        let element = |(index, value): (usize, &'t Spanned<DeValue<'t>>)| Item {
            value: value.get_ref(),
            place: Place { key: format!("{}[{index}]", item.place.key), span: value.span() },
        };
        Some(Item { value: (0..).zip(array.iter()).map(element).collect(), place: item.place.clone() })
    }
}

/// What a key takes, in words.
fn accepts(key: &Key) -> String {
    if key.values.is_empty() {
        format!("{}, for example {}", key.kind, key.example)
    } else {
        format!("{} {}", key.kind, key.accepted())
    }
}

/// A value as it stands in the file, on one line and not too long.
pub(super) fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("\"{}\"", shorten(text)),
        DeValue::Integer(integer) => shorten(&integer.to_string()),
        DeValue::Float(float) => shorten(float.as_str()),
        DeValue::Boolean(boolean) => boolean.to_string(),
        DeValue::Datetime(_) => "a date or time".to_owned(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// Text of the file that is safe on a terminal and not too long.
pub(super) fn shorten(text: &str) -> String {
    const LONGEST: usize = 64;
    let mut short: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        short.push_str("...");
    }
    short
}
