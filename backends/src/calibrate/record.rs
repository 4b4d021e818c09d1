//! What was measured, kept until the next boot: for starts that may not measure, or need not wait for it.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Calibration;

/// Whose measurement it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// Of Tandem.
    version: String,
    /// The kernel's release.
    kernel: String,
    /// The boot, by its random number.
    boot: String,
    /// CPUs.
    cpus: u32,
}

impl Origin {
    /// This version on this host, now.
    fn here() -> io::Result<Self> {
        let read = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned());
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: read("/proc/sys/kernel/osrelease")?,
            boot: read("/proc/sys/kernel/random/boot_id")?,
            cpus: aya::util::nr_cpus().map_or(0, |cpus| cpus as u32),
        })
    }

    /// What is not as it was; `None`: all is.
    fn differs(&self, now: &Self) -> Option<&'static str> {
        let parts = [
            ("another version of Tandem", self.version != now.version),
            ("another kernel", self.kernel != now.kernel),
            ("another boot", self.boot != now.boot),
            ("another number of CPUs", self.cpus != now.cpus),
        ];
        parts.into_iter().find(|(_, differs)| *differs).map(|(what, _)| what)
    }
}

/// A measurement with its origin.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Record {
    origin: Origin,
    /// Seconds since 1970.
    taken: u64,
    /// Whether somebody asked for it to be saved; else it goes with the balancer that measured it.
    pub was_asked_for: bool,
    /// What was measured.
    pub calibration: Calibration,
}

/// Why a record is not used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// There is none.
    #[error("nothing is saved")]
    None,
    /// It is not of now.
    #[error("what is saved is of {0}")]
    Stale(&'static str),
    /// It cannot be read or written.
    #[error("{path}: {cause}")]
    File {
        /// The file.
        path: String,
        /// What is wrong.
        cause: String,
    },
}

impl Record {
    /// A record of this moment; see [`Self::was_asked_for`].
    ///
    /// # Errors
    /// procfs does not say which boot this is.
    pub fn new(calibration: Calibration, was_asked_for: bool) -> Result<Self, RecordError> {
        let origin = Origin::here().map_err(|error| file(Path::new("/proc/sys/kernel"), &error))?;
        Ok(Self { origin, taken: now(), was_asked_for, calibration })
    }

    /// Reads one that is of this version, kernel, boot and number of CPUs.
    ///
    /// # Errors
    /// [`RecordError`]: there is none, or it is not.
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(RecordError::None),
            other => other.map_err(|error| file(path, &error))?,
        };
        // One of another version may look otherwise.
        let record: Self = serde_json::from_str(&text).map_err(|error| file(path, &error))?;
        let here = Origin::here().map_err(|error| file(Path::new("/proc/sys/kernel"), &error))?;
        match record.origin.differs(&here) {
            Some(what) => Err(RecordError::Stale(what)),
            None => Ok(record),
        }
    }

    /// Writes it, as a whole or not at all; its directory is made if it is not there.
    ///
    /// # Errors
    /// [`RecordError::File`].
    pub fn write(&self, path: &Path) -> Result<(), RecordError> {
        let text = serde_json::to_string(self).map_err(|error| file(path, &error))?;
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(|error| file(directory, &error))?;
        }
        let beside = path.with_extension("new");
        std::fs::write(&beside, text).map_err(|error| file(&beside, &error))?;
        std::fs::rename(&beside, path).map_err(|error| file(path, &error))
    }

    /// How old it is, in words.
    pub fn age(&self) -> String {
        let age = Duration::from_secs(now().saturating_sub(self.taken)).as_secs();
        match age {
            0..120 => format!("{age} s"),
            120..7200 => format!("{} min", age / 60),
            _ => format!("{} h", age / 3600),
        }
    }
}

fn file(path: &Path, cause: &dyn std::fmt::Display) -> RecordError {
    RecordError::File { path: path.display().to_string(), cause: cause.to_string() }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::super::Measured;
    use super::*;

    fn calibration() -> Calibration {
        let measured = Measured { ns: 100.5, forwarded: 7, rounds: 3, ..Measured::default() };
        Calibration {
            bounce: measured,
            xdp: measured,
            afxdp: measured,
            flows: 1024,
            frame: 60,
            core: 1,
            feed: super::super::Feed::LiveFrames,
        }
    }

    #[test]
    fn a_record_is_used_on_the_host_as_it_was_alone() {
        let path = std::env::temp_dir().join(format!("tandem-record-{}", std::process::id()));
        assert!(matches!(Record::read(&path), Err(RecordError::None)));
        let record = Record::new(calibration(), true).unwrap();
        record.write(&path).unwrap();
        assert_eq!(Record::read(&path).unwrap(), record);
        type Change = fn(&mut Origin);
        let others: [(Change, &str); 4] = [
            (|origin| origin.boot.push('x'), "another boot"),
            (|origin| origin.kernel.push('x'), "another kernel"),
            (|origin| origin.version.push('x'), "another version"),
            (|origin| origin.cpus += 1, "CPUs"),
        ];
        for (change, why) in others {
            let mut other = record.clone();
            change(&mut other.origin);
            other.write(&path).unwrap();
            let error = Record::read(&path).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(Record::read(&path), Err(RecordError::File { .. })));
        std::fs::remove_file(&path).unwrap();
    }
}
