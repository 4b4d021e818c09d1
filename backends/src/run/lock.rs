//! One process for each balancer: a locked file with the process's number, and how another process takes its place.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::RunError;

/// How long the process before may take to hand over: its workers send what they have.
const PATIENCE: Duration = Duration::from_secs(30);

/// The lock; its file goes when this is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock. `take_over`: whoever has it is told to leave everything in place and to end.
    ///
    /// # Errors
    /// [`RunError::Running`]: another process has it. [`RunError::Lock`]: no file can be made there.
    pub fn take(path: &Path, take_over: bool) -> Result<Self, RunError> {
        let fail = |source| RunError::Lock { path: path.to_owned(), source };
        let (end, mut told) = (Instant::now() + PATIENCE, None);
        loop {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory).map_err(fail)?;
            }
            let mut file = match OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path) {
                Ok(file) => file,
                // The process before took the directory away meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound && Instant::now() < end => continue,
                Err(error) => return Err(fail(error)),
            };
            match file.try_lock() {
                // The process before removed the file when it ended: one that nobody finds any more locks out nobody.
                Ok(()) if is_there(path, &file) => {
                    file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(fail)?;
                    return Ok(Self { path: path.to_owned(), _file: file });
                }
                Ok(()) => continue,
                Err(TryLockError::Error(source)) => return Err(fail(source)),
                Err(TryLockError::WouldBlock) => {}
            }
            let holder = holder(&mut file).map_err(fail)?;
            if !take_over || Instant::now() >= end {
                return Err(RunError::Running { path: path.to_owned(), process: holder });
            }
            // Its number is written a moment after it has the lock.
            if let Some(process) = holder.filter(|process| told != Some(*process)) {
                log::info!("process {process} is told to hand over");
                kill(Pid::from_raw(process), Signal::SIGUSR1).map_err(|errno| fail(errno.into()))?;
                told = Some(process);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Whether `path` is still this file.
fn is_there(path: &Path, file: &File) -> bool {
    let number = |facts: io::Result<fs::Metadata>| facts.ok().map(|facts| (facts.dev(), facts.ino()));
    number(fs::metadata(path)).is_some_and(|there| number(file.metadata()) == Some(there))
}

fn holder(file: &mut File) -> io::Result<Option<i32>> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text.trim().parse().ok().filter(|process| *process > 0))
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is locked: nobody else can have made another one meanwhile.
        let _ = fs::remove_file(&self.path);
        if let Some(directory) = self.path.parent() {
            // Goes with the last file.
            let _ = fs::remove_dir(directory);
        }
    }
}
