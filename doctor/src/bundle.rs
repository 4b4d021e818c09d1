//! Setting, facts and report of a host in one file: for bug reports, and to judge them elsewhere.
//!
//! Addresses, MACs, rules of the packet filter and the kernel's command line are in it. No environment, no file's content, no
//! key is: nothing of that kind is ever read.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::facts::HostFacts;
use crate::report::Report;
use crate::setting::Setting;

/// What is in the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bundle {
    /// Of the program that wrote it.
    pub version: String,
    /// The host's part.
    pub setting: Setting,
    /// The host.
    pub facts: HostFacts,
    /// What was found then; a later version may find more.
    #[serde(default)]
    pub report: Option<Report>,
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no bundle.
    #[error("{}: not a bundle of `tandem doctor --bundle`: {source}", path.display())]
    Content {
        /// The path.
        path: PathBuf,
        /// Where it stops making sense.
        source: serde_json::Error,
    },
}

impl Bundle {
    /// Reads one.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn read(path: &Path) -> Result<Self, BundleError> {
        let text = fs::read(path).map_err(|source| BundleError::File { path: path.to_owned(), source })?;
        serde_json::from_slice(&text).map_err(|source| BundleError::Content { path: path.to_owned(), source })
    }

    /// Writes it.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn write(&self, path: &Path) -> Result<(), BundleError> {
        let text = serde_json::to_vec_pretty(self).map_err(|source| BundleError::Content { path: path.to_owned(), source })?;
        fs::write(path, text).map_err(|source| BundleError::File { path: path.to_owned(), source })
    }
}
