//! Processes inside a lab's namespaces.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use procfs::process::{ProcState, Process as Proc, all_processes};
use serde::{Deserialize, Serialize};

use crate::{LabError, state::ProcessRecord};

/// In the environment of every process that the lab starts: the lab's prefix.
pub const MARKER: &str = "TANDEM_LAB";

/// How long a process may take to end after SIGTERM before it gets SIGKILL, and after that.
const GRACE: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(10);

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub started: u64,
}

impl ProcessId {
    /// Of a process that exists; `None` if there is none.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = Proc::new(i32::try_from(pid).ok()?).and_then(|process| process.stat()).ok()?;
        Some(Self { pid, started: stat.starttime })
    }

    /// Does this very process still run? One that ended and was not waited for does not.
    #[must_use]
    pub fn alive(self) -> bool {
        let Some(pid) = i32::try_from(self.pid).ok() else {
            return false;
        };
        let Ok(stat) = Proc::new(pid).and_then(|process| process.stat()) else {
            return false;
        };
        let ended = matches!(stat.state(), Ok(ProcState::Zombie | ProcState::Dead) | Err(_));
        stat.starttime == self.started && !ended
    }

    /// The name of its program; `?` if it does not run.
    #[must_use]
    pub fn command(self) -> String {
        let name = i32::try_from(self.pid).ok().and_then(|pid| Proc::new(pid).ok()?.stat().ok());
        name.filter(|stat| stat.starttime == self.started).map_or_else(|| "?".to_owned(), |stat| stat.comm)
    }

    /// For messages: who made a lab.
    pub(crate) fn describe(self) -> String {
        if self.alive() {
            format!("made by process {} ({})", self.pid, self.command())
        } else {
            format!("left by process {}, which has ended", self.pid)
        }
    }

    fn raw(self) -> Pid {
        Pid::from_raw(i32::try_from(self.pid).unwrap_or(0))
    }
}

/// A process of the lab, the first of a process group of its own. Ends with the value: SIGTERM, then SIGKILL.
#[derive(Debug)]
pub struct Process {
    child: Child,
    record: ProcessRecord,
    file: PathBuf,
    namespace: String,
}

impl Process {
    pub(crate) fn new(child: Child, record: ProcessRecord, file: PathBuf, namespace: String) -> Self {
        Self { child, record, file, namespace }
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.record.id.pid
    }

    /// Its name in the lab, e.g. `real1-nginx`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// The namespace it runs in.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The file with its output and errors.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.record.log
    }

    /// The last kilobyte of the log; empty if there is none.
    #[must_use]
    pub fn last_words(&self) -> String {
        let text = fs::read(&self.record.log).unwrap_or_default();
        let tail = &text[text.len().saturating_sub(1024)..];
        String::from_utf8_lossy(tail).trim().to_owned()
    }

    /// Does it run?
    #[must_use]
    pub fn alive(&self) -> bool {
        self.record.id.alive()
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// [`LabError::File`] if the process cannot be waited for.
    pub fn wait(&mut self) -> Result<ExitStatus, LabError> {
        self.child.wait().map_err(LabError::file("wait for", format!("/proc/{}", self.pid())))
    }

    /// Its exit status if it has ended.
    ///
    /// # Errors
    /// [`LabError::File`] if the process cannot be waited for.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, LabError> {
        self.child.try_wait().map_err(LabError::file("wait for", format!("/proc/{}", self.pid())))
    }

    /// Sends SIGTERM to the process alone and returns at once. One that has ended is fine.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Sends SIGKILL to the process alone and returns at once. One that has ended is fine.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    fn signal(&self, signal: Signal) {
        if self.alive() {
            // It may end between the two lines; its number stays taken until `child` waits for it.
            let _ = kill(self.record.id.raw(), signal);
        }
    }

    /// Ends it and its group: SIGTERM, and SIGKILL for what is left after three seconds.
    ///
    /// # Errors
    /// [`LabError::Immortal`] if it outlives both.
    pub fn stop(&mut self) -> Result<ExitStatus, LabError> {
        end_groups(std::slice::from_ref(&self.record))?;
        let status = self.wait()?;
        // Removed already if the lab went first.
        let _ = fs::remove_file(&self.file);
        Ok(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            log::error!("{error}");
        }
    }
}

/// Ends processes with their groups, all at once. Those that ended before are fine.
pub(crate) fn end_groups(processes: &[ProcessRecord]) -> Result<(), LabError> {
    let alive = || processes.iter().filter(|process| process.id.alive());
    for (signal, wait) in [(Signal::SIGTERM, GRACE), (Signal::SIGKILL, GRACE)] {
        for process in alive() {
            let _ = killpg(process.id.raw(), signal);
        }
        let until = Instant::now() + wait;
        while alive().next().is_some() && Instant::now() < until {
            thread::sleep(POLL);
        }
    }
    // A leader that ended and was not waited for still holds the number of its group, so these are its own workers.
    for process in processes.iter().filter(|process| ProcessId::of(process.id.pid) == Some(process.id)) {
        let _ = killpg(process.id.raw(), Signal::SIGKILL);
    }
    match alive().next() {
        Some(left) => Err(LabError::Immortal { pid: left.id.pid, name: left.name.clone() }),
        None => Ok(()),
    }
}

/// Ends what carries the lab's mark or runs in one of its namespaces in the group of a noted process: children whose
/// parent was killed before it could note them or end them. Returns how many.
pub(crate) fn end_stragglers(prefix: &str, namespaces: &[u64], noted: &[ProcessRecord]) -> usize {
    let own = std::process::id();
    let straggler = |process: &Proc| -> Option<()> {
        let stat = process.stat().ok().filter(|stat| stat.pid.cast_unsigned() != own)?;
        let marked = || process.environ().ok()?.get(std::ffi::OsStr::new(MARKER)).map(|value| value == prefix);
        let inside = || process.namespaces().ok()?.0.get(std::ffi::OsStr::new("net")).map(|ns| ns.identifier);
        let grouped = || noted.iter().any(|leader| leader.id.pid == stat.pgrp.cast_unsigned());
        let ours = marked() == Some(true) || grouped() && inside().is_some_and(|ns| namespaces.contains(&ns));
        ours.then_some(())
    };
    let mut ended = 0;
    for process in all_processes().into_iter().flatten().flatten() {
        if straggler(&process).is_some() && kill(Pid::from_raw(process.pid), Signal::SIGKILL).is_ok() {
            ended += 1;
        }
    }
    ended
}

/// A log file of a name that is not taken: `name.log`, `name-2.log`, … Returns the name, the path and the file.
pub(crate) fn open_log(directory: &Path, name: &str) -> Result<(String, PathBuf, File), LabError> {
    let mut number = 1;
    loop {
        let name = if number == 1 { name.to_owned() } else { format!("{name}-{number}") };
        let path = directory.join(format!("{name}.log"));
        match File::create_new(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            other => {
                return other.map(|file| (name, path.clone(), file)).map_err(LabError::file("make", path));
            }
        }
    }
}
