//! What is wrong and where: one [`Finding`] a mistake or warning, and the [`Source`] that turns byte offsets into lines.

use std::fmt;
use std::sync::Arc;

/// What sort of remark a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The text is not TOML.
    Syntax,
    /// No version has this key.
    UnknownKey,
    /// A valid key or value of a later version.
    NotYet,
    /// A required key is absent.
    Missing,
    /// The value has the wrong type, form or range.
    Value,
    /// Two places of the file contradict each other.
    Conflict,
    /// Allowed, but probably not meant.
    Warning,
}

/// One remark about the configuration.
///
/// Its text is ``FILE:LINE:COLUMN: key `vip[2].real[0].address`: what is wrong (found ...); what to do``.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file as the caller named it.
    pub file: Arc<str>,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The key with the indices of its tables, counted from 0; empty if the text is not TOML.
    pub key: String,
    /// What sort of remark it is.
    pub kind: Kind,
    /// What is wrong, with what was found.
    pub problem: String,
    /// The accepted values, or what to do.
    pub cure: String,
}

impl Finding {
    /// Where it is: line and column.
    #[must_use]
    pub fn position(&self) -> (usize, usize) {
        (self.line, self.column)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "key `{}`: ", self.key)?;
        }
        write!(f, "{}; {}", self.problem, self.cure)
    }
}

/// The text of one file, with the start of each line.
pub(super) struct Source<'t> {
    name: Arc<str>,
    text: &'t str,
    /// Byte offsets; the first is 0.
    starts: Vec<usize>,
}

impl<'t> Source<'t> {
    pub(super) fn new(name: &str, text: &'t str) -> Self {
        let after = |(at, _): (usize, &str)| at + 1;
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(after)).collect();
        Self { name: name.into(), text, starts }
    }

    /// Line of the byte at `offset`, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|&start| start <= offset)
    }

    /// A finding about `key` at the byte `offset`.
    pub(super) fn finding(&self, kind: Kind, (key, offset): (&str, usize), problem: String, cure: String) -> Finding {
        let line = self.line(offset);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let before = self.text.get(start..offset).unwrap_or_default();
        Finding {
            file: Arc::clone(&self.name),
            line,
            column: before.chars().count() + 1,
            key: key.to_owned(),
            kind,
            problem,
            cure,
        }
    }

    /// A finding about text that is not TOML; `message` may have several lines.
    pub(super) fn syntax(&self, offset: usize, message: &str) -> Finding {
        let message = message.trim().replace('\n', ", ");
        self.finding(
            Kind::Syntax,
            ("", offset),
            format!("not valid TOML: {message}"),
            "correct the text, its other keys are checked after that".to_owned(),
        )
    }
}
