//! The kernel's coarse clock, read in userspace without a system call.
//!
//! The kernel seat stamps flows with `jiffies >> 6`. The vDSO's `CLOCK_MONOTONIC_COARSE` moves by the same timer
//! interrupt, so their difference, measured by a program that returns jiffies, is enough (within one tick). NTP slews one of
//! them and not the other, so it has to be measured again now and then.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use aya::programs::{TestRun, TestRunOptions, Xdp};

use super::error::XdpError;
use crate::afxdp::Clock;

/// Jiffies of a tick, as a power of two.
const TICK_SHIFT: u32 = 6;

/// Userspace's reading of the kernel's coarse clock; clones share what is measured.
#[derive(Clone, Debug)]
pub struct KernelClock {
    /// Jiffies (32 bits) minus the coarse clock in jiffies.
    offset: Arc<AtomicU32>,
    /// Jiffies in a second.
    hz: u32,
}

/// Jiffies in a second, once they were measured.
static HZ: OnceLock<u32> = OnceLock::new();

impl KernelClock {
    pub(super) fn calibrate(program: &Xdp) -> Result<Self, XdpError> {
        let hz = match HZ.get() {
            Some(hz) => *hz,
            None => *HZ.get_or_init(|| jiffies_per_second(program).unwrap_or(250)),
        };
        let clock = Self { offset: Arc::default(), hz };
        clock.recalibrate(program)?;
        Ok(clock)
    }

    /// Jiffies in a second; a guess, as long as no clock was made.
    pub(super) fn known_hz() -> u32 {
        HZ.get().copied().unwrap_or(250)
    }

    /// Measures again, for all clones.
    pub(super) fn recalibrate(&self, program: &Xdp) -> Result<(), XdpError> {
        let jiffies = jiffies(program)?;
        self.offset.store(jiffies.wrapping_sub(coarse_jiffies(self.hz)), Ordering::Relaxed);
        Ok(())
    }

    /// Milliseconds of a tick.
    pub fn tick_ms(&self) -> u32 {
        (1000 << TICK_SHIFT) / self.hz.max(1)
    }

    /// Ticks that last at least `time`, at least one. (Stamps of the flow table can tell 2^15 apart.)
    pub fn ticks(&self, time: std::time::Duration) -> u32 {
        let ticks = (time.as_millis() * u128::from(self.hz)).div_ceil(1000 << TICK_SHIFT);
        u32::try_from(ticks).unwrap_or(u32::MAX).max(1)
    }
}

impl Clock for KernelClock {
    #[inline]
    fn tick(&self) -> u32 {
        coarse_jiffies(self.hz).wrapping_add(self.offset.load(Ordering::Relaxed)) >> TICK_SHIFT
    }
}

fn coarse_jiffies(hz: u32) -> u32 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec for the call to fill.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    let whole = (now.tv_sec as u64).wrapping_mul(u64::from(hz));
    let part = now.tv_nsec as u64 * u64::from(hz) / 1_000_000_000;
    whole.wrapping_add(part) as u32
}

fn jiffies(program: &Xdp) -> Result<u32, XdpError> {
    let frame = [0_u8; 64];
    let options = TestRunOptions { data_in: Some(&frame), repeat: 1, ..Default::default() };
    let result = program.test_run(options).map_err(|source| XdpError::TestRun {
        program: "clock",
        bytes: 64,
        source: Box::new(source),
    })?;
    Ok(result.return_value)
}

/// Measured over 60 ms and rounded to what kernels are built with; userspace has no other way to learn it.
fn jiffies_per_second(program: &Xdp) -> Option<u32> {
    let start = std::time::Instant::now();
    let first = jiffies(program).ok()?;
    std::thread::sleep(std::time::Duration::from_millis(60));
    let passed = jiffies(program).ok()?.wrapping_sub(first);
    let rate = f64::from(passed) / start.elapsed().as_secs_f64();
    [100_u32, 250, 300, 1000]
        .into_iter()
        .min_by(|a, b| (f64::from(*a) / rate).ln().abs().total_cmp(&(f64::from(*b) / rate).ln().abs()))
}
