//! The tables of a file, and the names in them: which are known, which are of a later version, which are mistyped.

use std::fmt::Write as _;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::finding::Kind;
use super::keys::{SECTIONS, Section};
use super::nearest::nearest;
use super::reader::{Item, Place, Reader, describe, shorten};

/// One table of the file.
pub(super) struct Table<'t> {
    pub(super) section: &'static Section,
    /// `vip[2]`
    pub(super) place: Place,
    entries: &'t DeTable<'t>,
}

impl<'t> Table<'t> {
    pub(super) fn value(&self, name: &str) -> Option<Item<&'t DeValue<'t>>> {
        let value = self.entries.get(name)?;
        Some(Item { value: value.get_ref(), place: Place { key: format!("{}.{name}", self.place.key), span: value.span() } })
    }

    /// Its keys, with their places in the file.
    pub(super) fn names(&self) -> impl Iterator<Item = (&'t str, Range<usize>)> {
        self.entries.keys().map(|key| (key.get_ref().as_ref(), key.span()))
    }
}

impl Reader<'_> {
    fn not_yet(&mut self, place: &Place, what: &str, cure: String) {
        let problem = format!("{what} of a later version, not available yet");
        self.mistake(Kind::NotYet, place, problem, cure);
    }

    /// The tables of `section` in `parent` (the whole document, or a table above it), each with its keys checked against the
    /// reference. `prefix` is the place of the parent, empty for the document.
    pub(super) fn tables<'t>(&mut self, section: &'static Section, parent: &'t DeTable<'t>, prefix: &str) -> Vec<Table<'t>> {
        let name = last(section.name);
        let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        let Some(value) = parent.get(name) else {
            return Vec::new();
        };
        match (value.get_ref(), section.repeated) {
            (DeValue::Table(_), false) => self.table(section, path, value).into_iter().collect(),
            (DeValue::Array(array), true) => (0..)
                .zip(array.iter())
                .filter_map(|(index, value): (usize, _)| self.table(section, format!("{path}[{index}]"), value))
                .collect(),
            (other, _) => {
                self.wrong_shape(section, path, value.span(), other);
                Vec::new()
            }
        }
    }

    /// The tables of `section` below `table`.
    pub(super) fn inner<'t>(&mut self, section: &'static Section, table: &Table<'t>) -> Vec<Table<'t>> {
        self.tables(section, table.entries, &table.place.key)
    }

    fn table<'t>(&mut self, section: &'static Section, key: String, value: &'t Spanned<DeValue<'t>>) -> Option<Table<'t>> {
        let span = value.span();
        let DeValue::Table(entries) = value.get_ref() else {
            self.wrong_shape(section, key, span, value.get_ref());
            return None;
        };
        let place = Place { key, span };
        if section.since.is_now() {
            self.check_keys(section, &place, entries);
        } else {
            let cure = format!("remove this `{}`", section.header());
            self.not_yet(&place, "a section", cure);
        }
        Some(Table { section, place, entries })
    }

    fn wrong_shape(&mut self, section: &Section, key: String, span: Range<usize>, value: &DeValue<'_>) {
        let accepted = format!("tables that start with `{}`", section.header());
        self.wrong(&Place { key, span }, "wrong type", &describe(value), &accepted);
    }

    /// Notes the sections of the document that do not exist.
    pub(super) fn check_sections(&mut self, document: &DeTable<'_>) {
        let known = |name: &str| SECTIONS.iter().any(|section| section.name == name);
        let tops = SECTIONS.iter().map(|section| section.name);
        let tops: Vec<&str> = tops.filter(|name| !name.contains('.')).collect();
        for key in document.keys() {
            let name = key.get_ref().as_ref();
            if known(name) && !name.contains('.') {
                continue;
            }
            let accepted = tops.iter().filter_map(|name| section(name)).map(Section::header);
            let accepted = accepted.collect::<Vec<_>>().join(", ");
            let meant = nearest(name, tops.iter().copied()).map(str::to_owned).or_else(|| elsewhere(name));
            self.unknown("", name, key.span(), meant, &accepted);
        }
    }

    /// Notes the keys of one table that do not exist, or not yet.
    fn check_keys(&mut self, section: &'static Section, place: &Place, entries: &DeTable<'_>) {
        for key in entries.keys() {
            let name = key.get_ref().as_ref();
            match section.key(name) {
                Some(known) if known.since.is_now() => {}
                Some(_) => {
                    let place = Place { key: format!("{}.{name}", place.key), span: key.span() };
                    self.not_yet(&place, "a key", "remove it".to_owned());
                }
                None if children(section).any(|child| child == name) => {}
                None => {
                    let above = format!("{}.", place.key);
                    let now = section.keys.iter().filter(|key| key.since.is_now());
                    let now = now.map(|key| key.name).chain(children(section));
                    let accepted = now.collect::<Vec<_>>().join(", ");
                    let names = section.keys.iter().map(|key| key.name);
                    let meant = nearest(name, names.chain(children(section))).map(str::to_owned).or_else(|| elsewhere(name));
                    self.unknown(&above, name, key.span(), meant, &accepted);
                }
            }
        }
    }

    fn unknown(&mut self, above: &str, name: &str, span: Range<usize>, meant: Option<String>, accepted: &str) {
        let mut problem = "unknown key".to_owned();
        if let Some(meant) = meant {
            // Writing to a string cannot fail.
            let _ = write!(problem, ", perhaps `{meant}` is meant");
        }
        let key = format!("{above}{}", shorten(name));
        self.mistake(Kind::UnknownKey, &Place { key, span }, problem, format!("accepted: {accepted}"));
    }
}

/// `real` of `vip.real`.
fn last(name: &'static str) -> &'static str {
    name.rsplit_once('.').map_or(name, |(_, last)| last)
}

/// The names of the sections directly below one.
fn children(section: &'static Section) -> impl Iterator<Item = &'static str> {
    SECTIONS.iter().filter_map(move |other| other.name.strip_prefix(section.name)?.strip_prefix('.'))
}

fn section(name: &str) -> Option<&'static Section> {
    SECTIONS.iter().copied().find(|section| section.name == name)
}

/// The full name of a key that exists in another section.
fn elsewhere(name: &str) -> Option<String> {
    SECTIONS.iter().find(|section| section.key(name).is_some()).map(|section| format!("{}.{name}", section.name))
}
