//! Where a balancer keeps what others may find: by its name.

use std::path::{Path, PathBuf};

/// Where the pins and sockets of all balancers are.
const PINS: &str = "/sys/fs/bpf/tandem";
const SOCKETS: &str = "/run/tandem";

/// Where one balancer keeps what others may find.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Paths {
    /// Its directory of pins.
    pub pins: PathBuf,
    /// Its control socket.
    pub socket: PathBuf,
    /// Locked by its process.
    pub lock: PathBuf,
    /// What the seats cost on this host, as it was measured last ([`crate::calibrate::Record`]).
    pub calibration: PathBuf,
}

impl Paths {
    /// The paths of the balancer called `name` (by default its interface).
    pub fn of(name: &str) -> Self {
        let of = |kind: &str| Path::new(SOCKETS).join(format!("{name}.{kind}"));
        Self { pins: Path::new(PINS).join(name), socket: of("sock"), lock: of("lock"), calibration: of("calibration") }
    }

    /// Where the balancer whose control socket is at `socket` serves Katran's API, if it does: who looks for balancers does not
    /// see it.
    #[must_use]
    pub fn katran(socket: &Path) -> PathBuf {
        socket.with_extension("katran")
    }

    /// Removes the files of a balancer that does not run, and the directory with the last of them; one that is not there is fine.
    ///
    /// # Errors
    /// What `unlink(2)` says.
    pub fn remove_files(&self) -> std::io::Result<()> {
        for file in [&self.socket, &self.lock, &self.calibration, &Self::katran(&self.socket)] {
            match std::fs::remove_file(file) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        if let Some(directory) = self.socket.parent() {
            // Not empty, or not there.
            let _ = std::fs::remove_dir(directory);
        }
        Ok(())
    }

    /// Whether a balancer of this name runs.
    pub fn is_running(&self) -> bool {
        let locked = std::fs::File::open(&self.lock).map(|file| file.try_lock());
        matches!(locked, Ok(Err(std::fs::TryLockError::WouldBlock)))
    }

    /// Names of the balancers that have a control socket.
    pub fn names() -> Vec<String> {
        let entries = std::fs::read_dir(SOCKETS).into_iter().flatten().filter_map(Result::ok);
        let mut names: Vec<String> =
            entries.filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".sock")?.to_owned())).collect();
        names.sort_unstable();
        names
    }
}
