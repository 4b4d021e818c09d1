//! What a check says.

use serde::{Deserialize, Serialize};

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Pass,
    /// Not looked at, and why is said.
    Skip,
    /// It works, or may: slower, or not always.
    Warn,
    /// It cannot work.
    Fail,
}

impl Status {
    /// `PASS`, `SKIP`, `WARN` or `FAIL`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Skip => "SKIP",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// One result of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[must_use]
pub struct Finding {
    /// How it stands.
    pub status: Status,
    /// What was seen, with its values; for [`Status::Skip`] the reason.
    pub observed: String,
    /// Commands that cure it, in their order, for a shell on this host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cures: Vec<String>,
}

impl Finding {
    fn new(status: Status, observed: impl Into<String>) -> Self {
        Self { status, observed: observed.into(), cures: Vec::new() }
    }

    /// As it should be.
    pub fn pass(observed: impl Into<String>) -> Self {
        Self::new(Status::Pass, observed)
    }

    /// Not looked at.
    pub fn skip(reason: impl Into<String>) -> Self {
        Self::new(Status::Skip, reason)
    }

    /// It may fail.
    pub fn warn(observed: impl Into<String>) -> Self {
        Self::new(Status::Warn, observed)
    }

    /// It fails.
    pub fn fail(observed: impl Into<String>) -> Self {
        Self::new(Status::Fail, observed)
    }

    /// With one more command that cures it.
    pub fn cure(mut self, command: impl Into<String>) -> Self {
        self.cures.push(command.into());
        self
    }

    /// With these commands that cure it.
    pub fn cures(mut self, commands: impl IntoIterator<Item = String>) -> Self {
        self.cures.extend(commands);
        self
    }
}

/// Findings, or that all is well.
pub fn or_pass(findings: Vec<Finding>, observed: impl Into<String>) -> Vec<Finding> {
    if findings.is_empty() { vec![Finding::pass(observed)] } else { findings }
}
