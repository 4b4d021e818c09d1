//! How the control plane learns that no worker still looks at what it took out of the tables.
//!
//! Each worker owns one number: even while it works on a batch, odd while it is parked (asleep, not started, ended) and
//! holds nothing of the tables. A reader that was parked, or whose number changed, has passed: what it reads from now on
//! it looks up anew. This is the quiescent-state scheme of user-space RCU, for readers that never block a writer.

use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;
use tandem_engine::memory::shared::{S64, in_order};

/// A worker's number, alone in its cache lines.
#[derive(Debug)]
pub struct Epoch(CachePadded<S64>);

impl Default for Epoch {
    fn default() -> Self {
        Self::new()
    }
}

impl Epoch {
    /// Of a worker that has not started: parked.
    pub fn new() -> Self {
        let number = S64::default();
        number.set(1);
        Self(CachePadded::new(number))
    }

    /// The worker forgets all it read and starts another batch. Only the worker itself may call it.
    #[inline]
    pub fn begin(&self) {
        // What the last batch read came before.
        self.0.publish((self.0.get() | 1) + 1);
        // A writer that still saw the old number has its stores seen by this batch: pairs with the fence of `grace`.
        fence(Ordering::SeqCst);
    }

    /// The worker forgets all it read and rests. Only the worker itself may call it.
    #[inline]
    pub fn park(&self) {
        self.0.publish(self.0.get() | 1);
    }

    fn now(&self) -> u64 {
        let number = self.0.get();
        in_order();
        number
    }

    fn passed(&self, since: u64) -> bool {
        since & 1 == 1 || self.now() != since
    }
}

/// Readers that have not passed yet.
#[derive(Debug)]
pub struct Waiting<'a>(Vec<(&'a Epoch, u64)>);

impl<'a> Waiting<'a> {
    /// Waits from here on for these.
    pub fn on(readers: impl IntoIterator<Item = &'a Epoch>) -> Self {
        // What was stored before is seen by every batch that starts from here on.
        fence(Ordering::SeqCst);
        Self(readers.into_iter().map(|reader| (reader, reader.now())).collect())
    }

    /// Whether all of them have let go of what they saw before.
    #[must_use = "memory may be used again only if all readers have passed"]
    pub fn is_over(&mut self) -> bool {
        self.0.retain(|(reader, since)| !reader.passed(*since));
        self.0.is_empty()
    }
}

/// Waits until every reader has let go of what it saw before this call; `false` if that took longer than `patience`.
#[must_use = "memory may be used again only if all readers have passed"]
pub fn grace<'a>(readers: impl IntoIterator<Item = &'a Epoch>, patience: Duration) -> bool {
    let mut waiting = Waiting::on(readers);
    let start = Instant::now();
    while !waiting.is_over() {
        if start.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_micros(20));
    }
    true
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize};

    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    #[test]
    fn a_parked_reader_has_passed() {
        let reader = Epoch::new();
        assert!(grace([&reader], SOON));
        reader.begin();
        reader.park();
        assert!(grace([&reader], SOON));
    }

    #[test]
    fn a_reader_in_a_batch_is_waited_for() {
        let reader = Epoch::new();
        reader.begin();
        assert!(!grace([&reader], SOON));
    }

    /// A writer retires one of two slots as soon as `grace` allows it; a reader must never see its slot change under it.
    #[test]
    fn nothing_is_reused_under_a_reader() {
        struct World {
            epoch: Epoch,
            current: AtomicUsize,
            slots: [AtomicUsize; 2],
            batches: AtomicUsize,
            stop: AtomicBool,
        }
        let slots = [AtomicUsize::new(1), AtomicUsize::new(0)];
        let (current, batches, stop) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        let world = World { epoch: Epoch::new(), current, slots, batches, stop };
        let read = || {
            while !world.stop.load(Ordering::Relaxed) {
                world.epoch.begin();
                let slot = &world.slots[world.current.load(Ordering::Acquire)];
                // In the middle of a batch is when the writer must not go on.
                std::thread::yield_now();
                for _ in 0..100 {
                    assert_ne!(slot.load(Ordering::Relaxed), 0, "a retired slot was read");
                    std::hint::spin_loop();
                }
                if world.batches.fetch_add(1, Ordering::Relaxed).is_multiple_of(8) {
                    world.epoch.park();
                }
            }
            world.epoch.park();
        };
        std::thread::scope(|scope| {
            let reader = scope.spawn(read);
            let mut round = 0;
            while (round < 50 || world.batches.load(Ordering::Relaxed) < 50) && !reader.is_finished() {
                let (old, new) = (round % 2, (round + 1) % 2);
                world.slots[new].store(round + 2, Ordering::Relaxed);
                world.current.store(new, Ordering::Release);
                assert!(grace([&world.epoch], Duration::from_secs(10)));
                world.slots[old].store(0, Ordering::Relaxed);
                round += 1;
            }
            world.stop.store(true, Ordering::Relaxed);
        });
    }
}
