//! The configuration file: from the text that a person wrote to a validated [`Plan`].
//!
//! [`parse`] never stops at the first mistake: every one is collected as a [`Finding`] with its file, line, column and key, so
//! that one run of `tandem check` is enough. What a key is called, what it may hold and since when it works is written once, in
//! [`keys`]; the reader and `docs/configuration.md` both use that table.
//!
//! This module never touches the host: no interface, route or neighbour is looked up here, only the file itself is read. It
//! never panics, whatever the text, and never ignores a key: a key is used, or named in a finding.

mod finding;
mod health;
pub mod keys;
mod mac;
mod named;
mod nat;
mod nearest;
mod plan;
mod prefix;
mod reader;
mod reals;
mod reference;
mod sections;
mod served;
mod service;
mod tables;
mod values;
mod vips;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use toml::de::DeTable;

pub use finding::{Finding, Kind};
pub use health::{Announce, Check, FIRST_MARK, Health, HealthTls};
pub use mac::{Mac, MacError};
pub use nat::NatPlan;
pub use plan::{
    Attach, Decap, DecapKinds, HealthEncap, MAX_ALL_REALS, MAX_DECAPS, MAX_INTERFACES, MAX_PREFIX_VIPS, MAX_REALS, MAX_RING_SIZE,
    MAX_VIPS, ModeWish, OnControlLoss, Plan, Profile, Then, TooBig,
};
pub use prefix::Prefix;
pub use reference::reference;
pub use served::{ApiPlan, TlsPlan};
pub use service::{Encap, GeneveInner, OnRemoval, Protocol, Real, RealState, Vip, VipFlags, Weighting};

use finding::Source;
use reader::Reader;

/// Largest accepted configuration file, in bytes: three million source routes of each family fit.
pub const MAX_FILE: u64 = 512 << 20;

/// A configuration without mistakes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Loaded {
    /// What the file asks for.
    pub plan: Plan,
    /// What is allowed but probably not meant, in the order of the file: no VIPs, a VIP that drops everything, an address that
    /// only the host can supply.
    pub warnings: Vec<Finding>,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be opened or read.
    #[error("{file}: cannot read the configuration: {source}; check the path and its permissions")]
    Unreadable {
        /// The path as given.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file is longer than [`MAX_FILE`].
    #[error("{file}: not a configuration: larger than {MAX_FILE} bytes; check the path")]
    TooLarge {
        /// The path as given.
        file: String,
    },
    /// The text has mistakes: all of them, in the order of the file, never none.
    #[error("{}", lines(findings))]
    Invalid {
        /// One entry a mistake.
        findings: Vec<Finding>,
    },
}

impl ConfigError {
    /// The mistakes in the text; empty if the text could not be read at all.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        match self {
            Self::Invalid { findings } => findings,
            Self::Unreadable { .. } | Self::TooLarge { .. } => &[],
        }
    }
}

fn lines(findings: &[Finding]) -> String {
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    lines.join("\n")
}

/// Reads and validates the file at `path`.
///
/// # Errors
/// [`ConfigError`]: the file cannot be read, is too large, or has mistakes (all of them are in the error).
pub fn load(path: impl AsRef<Path>) -> Result<Loaded, ConfigError> {
    let path = path.as_ref();
    parse(&read(path)?, &path.display().to_string())
}

/// The text of the file at `path`.
///
/// # Errors
/// [`ConfigError`]: the file cannot be read, is too large, or is not UTF-8.
pub fn read(path: &Path) -> Result<String, ConfigError> {
    let file = path.display().to_string();
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|open| {
        // What says that it is too large need not be read.
        if open.metadata()?.len() > MAX_FILE {
            return Ok(true);
        }
        // One byte more than allowed, so that an endless file is noticed and not read to its end.
        open.take(MAX_FILE + 1).read_to_end(&mut bytes).map(|read| read as u64 > MAX_FILE)
    });
    match read {
        Ok(false) => {}
        Ok(true) => return Err(ConfigError::TooLarge { file }),
        Err(source) => return Err(ConfigError::Unreadable { file, source }),
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let text = String::from_utf8_lossy(good);
        let finding = Source::new(&file, &text).syntax(text.len(), "not UTF-8 text");
        ConfigError::Invalid { findings: vec![finding] }
    })
}

/// Validates `text`; `name` is what findings call the file.
///
/// # Errors
/// [`ConfigError::Invalid`] with every mistake. If the text is not TOML, only those mistakes are in it: the values of a
/// half-understood file would be guesses.
///
/// ```
/// let loaded = tandem_backends::config::parse(
///     r#"
///     node.interface = "eth0"
///     tunnel.source_v4 = "10.0.13.37"
///     [[vip]]
///     address = "10.200.1.1"
///     port = 80
///     protocol = "udp"
///     real = [{ address = "10.0.0.1" }]
///     "#,
///     "tandem.toml",
/// )?;
/// assert_eq!(loaded.plan.vips[0].to_string(), "10.200.1.1:80/udp");
/// assert!(loaded.warnings.is_empty());
/// # Ok::<(), tandem_backends::config::ConfigError>(())
/// ```
pub fn parse(text: &str, name: &str) -> Result<Loaded, ConfigError> {
    let source = Source::new(name, text);
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(ConfigError::Invalid { findings: syntax(&source, &errors) });
    }
    let mut reader = Reader::new(source);
    let plan = sections::read(&mut reader, document.get_ref());
    let (mistakes, warnings) = reader.finish();
    if mistakes.is_empty() { Ok(Loaded { plan, warnings }) } else { Err(ConfigError::Invalid { findings: mistakes }) }
}

/// The mistakes that the TOML parser found, in the order of the file, each once: it repeats one for every open bracket.
fn syntax(source: &Source<'_>, errors: &[toml::de::Error]) -> Vec<Finding> {
    let at = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
    let mut places: Vec<(usize, &str)> = errors.iter().map(|error| (at(error), error.message())).collect();
    places.sort_unstable();
    places.dedup();
    places.into_iter().map(|(offset, message)| source.syntax(offset, message)).collect()
}
