//! Lines to words, with their places; and everything that can be wrong with a file.

use std::path::PathBuf;

use super::Traffic;
use super::commands::Reader;

/// Pktgen's line buffer holds this many characters.
const LONGEST_LINE: usize = 1023;

/// What is wrong at a place.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Mistake {
    /// The completion key.
    #[error("a tab is Pktgen's completion key; use spaces")]
    Tab,
    /// Neither text nor space.
    #[error("the character {0:?} is no part of a command")]
    Character(char),
    /// Pktgen takes a comment only as a line of its own.
    #[error("a comment behind a command makes Pktgen refuse the command; give it a line of its own")]
    TrailingComment,
    /// Longer than the buffer.
    #[error("the line has {0} characters, and Pktgen reads at most {LONGEST_LINE}")]
    LongLine(usize),
    /// No such command.
    #[error("unknown command `{found}`; expected {expected}")]
    Unknown {
        /// The word.
        found: String,
        /// Those that are known.
        expected: &'static str,
    },
    /// A command of Pktgen's that is no part of a scenario here.
    #[error("`{found}`: {why}")]
    Unsupported {
        /// The words.
        found: String,
        /// Why not, and what to do.
        why: &'static str,
    },
    /// A word is missing.
    #[error("the command ends here; expected {0}")]
    Missing(&'static str),
    /// One word too many.
    #[error("`{0}` is one word too many")]
    Surplus(String),
    /// Not a value of this kind.
    #[error("`{found}` is no {expected}")]
    Value {
        /// The word.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
    /// Settings that contradict each other.
    #[error("{0}")]
    Contradiction(String),
}

/// Why a command file is refused.
#[derive(Debug, thiserror::Error)]
pub enum PktError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// It is not what Pktgen would understand, or not a scenario.
    #[error("{file}:{line}:{column}: {mistake}")]
    At {
        /// Its name.
        file: String,
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in characters.
        column: usize,
        /// What is wrong.
        mistake: Mistake,
    },
}

/// A mistake and the column where it is.
pub(super) type Found = (usize, Mistake);

/// The words of one line with their columns, taken one by one.
#[derive(Clone, Debug)]
pub(super) struct Words<'a> {
    words: Vec<(usize, &'a str)>,
    next: usize,
    end: usize,
}

impl<'a> Words<'a> {
    /// Splits a line; `None`: it is empty or a comment.
    pub fn of(line: &'a str) -> Result<Option<Self>, Found> {
        let length = line.chars().count();
        if length > LONGEST_LINE {
            return Err((LONGEST_LINE + 1, Mistake::LongLine(length)));
        }
        if line.trim_start_matches(' ').starts_with('#') {
            return Ok(None);
        }
        for (at, character) in line.chars().enumerate() {
            match character {
                '\t' => return Err((at + 1, Mistake::Tab)),
                '#' => return Err((at + 1, Mistake::TrailingComment)),
                ' '..='~' if !matches!(character, '!' | '$') => {}
                other => return Err((at + 1, Mistake::Character(other))),
            }
        }
        // All of it is ASCII from here on: bytes are columns.
        let words = line.split(' ').scan(1, |at, word| {
            let column = *at;
            *at += word.len() + 1;
            Some((column, word))
        });
        let words: Vec<_> = words.filter(|(_, word)| !word.is_empty()).collect();
        let end = words.last().map_or(1, |(column, word)| column + word.len());
        Ok((!words.is_empty()).then_some(Self { words, next: 0, end }))
    }

    /// The next word; `expected` names it in case there is none.
    pub fn take(&mut self, expected: &'static str) -> Result<(usize, &'a str), Found> {
        let word = self.words.get(self.next).copied().ok_or((self.end, Mistake::Missing(expected)))?;
        self.next += 1;
        Ok(word)
    }

    /// Fails if there is another word.
    pub fn finish(&self) -> Result<(), Found> {
        match self.words.get(self.next) {
            Some((column, word)) => Err((*column, Mistake::Surplus((*word).to_owned()))),
            None => Ok(()),
        }
    }
}

/// Reads all lines, then looks at the whole.
pub(super) fn parse(text: &str, name: &str) -> Result<Traffic, PktError> {
    let at = |line: usize, (column, mistake): Found| PktError::At { file: name.to_owned(), line, column, mistake };
    let mut reader = Reader::default();
    let mut last = 1;
    for (number, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        last = number + 1;
        if let Some(words) = Words::of(line).map_err(|found| at(last, found))? {
            reader.command(words).map_err(|found| at(last, found))?;
        }
    }
    reader.finish().map_err(|mistake| at(last, (1, mistake)))
}
