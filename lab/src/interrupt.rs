//! SIGINT, SIGTERM and SIGHUP as a flag, so that values are dropped, and with them labs, before the process ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

use crate::LabError;

/// Whether the user wants the program to end. From [`Interrupt::catch`] on, the signals no longer end it.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// Catches the signals, for the rest of the process' life.
    ///
    /// # Errors
    /// [`LabError::Signal`] if the kernel refuses the handler.
    pub fn catch() -> Result<Self, LabError> {
        let raised = Arc::new(AtomicUsize::new(0));
        for (signal, name) in [(SIGINT, "SIGINT"), (SIGTERM, "SIGTERM"), (SIGHUP, "SIGHUP")] {
            flag::register_usize(signal, Arc::clone(&raised), signal.unsigned_abs() as usize)
                .map_err(|source| LabError::Signal { signal: name, source })?;
        }
        Ok(Self(raised))
    }

    /// The number of the last signal that came, if any. The customary exit status is 128 more.
    #[must_use]
    pub fn raised(&self) -> Option<usize> {
        Some(self.0.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
    }

    /// Waits for a signal, at most this long. `true`: one came.
    #[must_use]
    pub fn wait(&self, most: Duration) -> bool {
        let until = Instant::now() + most;
        while self.raised().is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            thread::sleep(left.min(Duration::from_millis(20)));
        }
        true
    }
}
