//! Where mode auto has its numbers from: what was saved, or a measurement now.

use std::path::Path;

use super::{Calibration, Record, RecordError, calibrate};
use crate::config::Attach;

/// A calibration, and where it is from.
#[derive(Clone, PartialEq, Debug)]
pub struct Calibrated {
    /// What was measured, or why not, with the cure.
    pub found: Result<Calibration, String>,
    /// `now`, or how old it is.
    pub when: String,
    /// Whether its record is to go with the balancer: nobody asked for it to be saved.
    pub goes: bool,
}

impl Calibrated {
    /// What a measurement now has found; it is not saved.
    pub fn now(found: Result<Calibration, String>) -> Self {
        Self { found, when: "now".to_owned(), goes: false }
    }

    fn saved(record: &Record) -> Self {
        Self { found: Ok(record.calibration), when: format!("saved {} ago", record.age()), goes: !record.was_asked_for }
    }

    /// What is saved at `path`.
    pub fn read(path: &Path, attach: Attach) -> Self {
        if attach == Attach::Generic {
            return Self::now(Err(super::CalibrateError::Generic.to_string()));
        }
        match Record::read(path) {
            Ok(record) => Self::saved(&record),
            Err(error) => Self::now(Err(format!(
                "{error}; `tandem mode probe --save --name NAME` as root measures for all starts until the next boot"
            ))),
        }
    }

    /// What is saved at `path`, or else a measurement, which is saved there.
    pub fn read_or_measure(path: &Path, attach: Attach, cores: Option<&[usize]>) -> Self {
        match Record::read(path) {
            Ok(record) if attach == Attach::Native => return Self::saved(&record),
            Err(error @ (RecordError::Stale(_) | RecordError::File { .. })) => {
                log::info!("{}: {error}; measuring anew", path.display());
            }
            Ok(_) | Err(RecordError::None) => {}
        }
        match calibrate(attach, cores) {
            Ok(calibration) => {
                // A start after a crash would only have to measure again.
                let saved = Record::new(calibration, false).and_then(|record| record.write(path));
                if let Err(error) = &saved {
                    log::warn!("what was measured cannot be saved: {error}");
                }
                Self { goes: saved.is_ok(), ..Self::now(Ok(calibration)) }
            }
            Err(error) => Self::now(Err(error.to_string())),
        }
    }
}
