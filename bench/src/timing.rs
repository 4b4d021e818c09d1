//! Time that the thread itself spent, and what is left of many measurements of it.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// CPU time of this thread, in user mode and in the kernel; what others do on the core meanwhile is not in it.
///
/// # Panics
/// Without `CLOCK_THREAD_CPUTIME_ID`, which every Linux has.
pub fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has a clock for each thread").into()
}

/// Nanoseconds per frame, measured again and again.
#[derive(Clone, Debug, Default)]
pub struct Series(Vec<f64>);

impl Series {
    /// Adds `frames` frames that took `time`.
    pub fn add(&mut self, time: Duration, frames: u32) {
        self.0.push(time.as_nanos() as f64 / f64::from(frames.max(1)));
    }

    /// The fastest: what the code costs when nothing disturbs it.
    pub fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::min)
    }

    /// The median: what it costs here, now.
    pub fn median(&self) -> f64 {
        after_part(self.0.clone(), 2)
    }
}

/// A program that was loaded several times, and a series of each time. Where the kernel puts a program makes a difference of some 5 %, to
/// either side: a ratio of two programs that were loaded once is that of two places, too, and so is that of the luckiest places of both.
#[derive(Clone, Debug)]
pub struct Loads(Vec<Series>);

impl Loads {
    /// Loaded once, and not measured yet.
    #[expect(clippy::new_without_default, reason = "nobody's default has been loaded")]
    pub fn new() -> Self {
        Self(vec![Series::default()])
    }

    /// Adds `frames` frames that took `time` since it was loaded.
    pub fn add(&mut self, time: Duration, frames: u32) {
        if let Some(series) = self.0.last_mut() {
            series.add(time, frames);
        }
    }

    /// Adds the other times that it was loaded.
    pub fn join(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// [`Series::min`] at a place as good as the better quarter of them.
    pub fn min(&self) -> f64 {
        self.quartile(Series::min)
    }

    /// [`Series::median`] at such a place.
    pub fn median(&self) -> f64 {
        self.quartile(Series::median)
    }

    fn quartile(&self, of: fn(&Series) -> f64) -> f64 {
        after_part(self.0.iter().map(of).collect(), 4)
    }
}

/// The one that has a `part`th of them before it, in order; `NaN` of none.
fn after_part(mut values: Vec<f64>, part: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / part).copied().unwrap_or(f64::NAN)
}

/// Keeps the thread on the last core, so that its caches and its counters' block stay the same.
pub fn stay_on_one_core() {
    let last = core_affinity::get_core_ids().and_then(|cores| cores.last().copied());
    if !last.is_some_and(core_affinity::set_for_current) {
        eprintln!("note: the thread cannot be pinned to a core; expect more noise");
    }
}

/// Whether this is a measurement (`cargo bench`) or only has to show that it runs (`cargo test --benches`).
pub fn is_measurement() -> bool {
    std::env::args().any(|argument| argument == "--bench") && !std::env::args().any(|argument| argument == "--test")
}

/// A verdict on a measurement.
pub fn verdict(met: bool) -> &'static str {
    if met { "PASS" } else { "FAIL" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_and_middle() {
        let mut series = Series::default();
        for nanos in [500, 100, 300] {
            series.add(Duration::from_nanos(nanos), 10);
        }
        assert_eq!((series.min(), series.median()), (10.0, 30.0));
        assert!(Series::default().median().is_nan());
    }

    #[test]
    fn the_better_quarter_of_the_places() {
        let mut loads = Loads::new();
        assert!(loads.min().is_nan());
        loads.add(Duration::from_nanos(50), 10);
        loads.add(Duration::from_nanos(40), 10);
        assert_eq!((loads.min(), loads.median()), (4.0, 5.0));
        for nanos in [30, 10, 20] {
            let mut again = Loads::new();
            again.add(Duration::from_nanos(nanos), 10);
            loads.join(again);
        }
        assert_eq!((loads.min(), loads.median()), (2.0, 2.0));
    }

    #[test]
    fn sleep_is_not_work() {
        let before = thread_time();
        std::thread::sleep(Duration::from_millis(50));
        assert!(thread_time() - before < Duration::from_millis(25));
    }
}
