//! Work that stays the same from one revision to the next, timed beside whatever is measured: how fast the machine was just then.
//!
//! A shared machine is faster in one hour than in another, by more than the changes that one looks for. What is measured beside the
//! yardstick, as a ratio to it, tells a change of the program from one of the machine.

use anyhow::{Result, anyhow, ensure};
use core_affinity::CoreId;

use crate::scenario::Rng;
use crate::timing::thread_time;

/// Turns of one measurement.
const TURNS: u32 = 20_000;
/// Measurements, of which the median counts.
const TIMES: usize = 5;
/// Turns of the calculation behind each line that is read: about as much work as a packet is.
const MIXES: u32 = 24;

/// A table of which a turn reads one line, calculates with what it found, and writes it back: what forwarding a packet does, without
/// any of its code. Changing it makes results before and after incomparable.
pub struct Yardstick {
    lines: Vec<[u64; 8]>,
    rng: Rng,
}

impl Yardstick {
    /// With a table of so many bytes: as much as the work that is measured touches, so that it feels the same caches.
    pub fn new(bytes: usize) -> Self {
        let lines = (bytes / 64).clamp(64, 1 << 22);
        Self { lines: vec![[1; 8]; lines], rng: Rng(1) }
    }

    /// Nanoseconds of thread CPU time that a turn takes now; about 10 ms.
    pub fn nanos(&mut self) -> f64 {
        let times: Vec<f64> = (0..TIMES).map(|_| self.once()).collect();
        crate::statistics::median(&times)
    }

    /// The same, on another core than the caller's.
    ///
    /// # Errors
    /// No such core.
    pub fn nanos_on(&mut self, core: usize) -> Result<f64> {
        let work = || {
            ensure!(core_affinity::set_for_current(CoreId { id: core }), "cannot pin the yardstick to core {core}");
            Ok(self.nanos())
        };
        std::thread::scope(|scope| scope.spawn(work).join()).map_err(|_| anyhow!("the yardstick panicked"))?
    }

    fn once(&mut self) -> f64 {
        let before = thread_time();
        let mut carried = 0_u64;
        for _ in 0..TURNS {
            let at = self.rng.below(self.lines.len() as u32) as usize;
            let Some(line) = self.lines.get_mut(at) else { continue };
            let mut word = line[0] ^ carried;
            for _ in 0..MIXES {
                word = std::hint::black_box((word ^ word >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15)).rotate_left(17);
            }
            line[0] = line[0].wrapping_add(1);
            carried = word;
        }
        std::hint::black_box(carried);
        (thread_time() - before).as_nanos() as f64 / f64::from(TURNS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_time_whatever_its_size() {
        for bytes in [0, 64 << 10, 64 << 20] {
            assert!(Yardstick::new(bytes).nanos() > 1.0, "{bytes} bytes");
        }
    }
}
