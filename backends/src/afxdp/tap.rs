//! What workers tell of captured frames: those that the kernel seat marked. All others cost them one comparison.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use nix::time::{ClockId, clock_gettime};
use tandem_engine::capture::{MOST, Sight};
use tandem_engine::{Action, Verdict};

use super::frame::FrameBuf;

/// Places for frames that nobody has read yet.
const PLACES: usize = 1024;

/// A frame, told of.
#[derive(Debug, Default)]
struct Told {
    sight: Sight,
    bytes: Vec<u8>,
}

/// The places: whoever tells takes a free one, fills it and puts it to the others; whoever reads does the opposite. Nobody waits,
/// and nobody allocates.
#[derive(Debug)]
struct Places {
    free: ArrayQueue<Box<Told>>,
    full: ArrayQueue<Box<Told>>,
    /// Frames without a free place.
    lost: AtomicU64,
    /// Bytes of a frame that are wanted.
    snap: AtomicU32,
}

/// From all workers to who captures.
#[derive(Debug, Default)]
pub struct Tap(OnceLock<Box<Places>>);

/// Nanoseconds of the monotonic clock, as the kernel seat has them (`bpf_ktime_get_ns`).
pub fn monotonic() -> u64 {
    // A clock that every kernel has.
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else { return 0 };
    Duration::from(now).as_nanos() as u64
}

impl Tap {
    /// Makes the places, if they are not there yet, and empties them. `snap`: bytes of each frame at most.
    pub fn open(&self, snap: u32) {
        let places = self.0.get_or_init(|| {
            let (free, full) = (ArrayQueue::new(PLACES), ArrayQueue::new(PLACES));
            for _ in 0..PLACES {
                // There are as many.
                let _ = free.push(Box::new(Told { sight: Sight::default(), bytes: Vec::with_capacity(MOST) }));
            }
            Box::new(Places { free, full, lost: AtomicU64::new(0), snap: AtomicU32::new(0) })
        });
        places.snap.store(snap, Ordering::Relaxed);
        self.read(|_, _| {});
    }

    /// Tells what became of a captured frame; `interface`: that which it leaves by if it is another one.
    #[cold]
    pub(super) fn tell(&self, frame: &FrameBuf<'_>, verdict: &Verdict, interface: u32) {
        let Some(places) = self.0.get() else { return };
        let Some(mut told) = places.free.pop() else {
            places.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let contents = frame.contents();
        let leaves = verdict.action() == Action::Tx;
        let most = if leaves { (places.snap.load(Ordering::Relaxed) as usize).min(MOST) } else { 0 };
        told.bytes.clear();
        told.bytes.extend_from_slice(contents.get(..most).unwrap_or(contents));
        told.sight = Sight {
            mark: frame.mark(),
            time: monotonic(),
            len: contents.len() as u32,
            caught: told.bytes.len() as u32,
            interface,
            queue: 0,
            reason: verdict.index() + 1,
            real: verdict.real,
            from: verdict.from as u32,
            rest: 0,
        };
        // There are as many places as boxes.
        let _ = places.full.push(told);
    }

    /// Everything that was told; gives how many frames had no place since the last time.
    pub fn read(&self, mut each: impl FnMut(&Sight, &[u8])) -> u64 {
        let Some(places) = self.0.get() else { return 0 };
        for _ in 0..PLACES {
            let Some(told) = places.full.pop() else { break };
            each(&told.sight, &told.bytes);
            let _ = places.free.push(told);
        }
        places.lost.swap(0, Ordering::Relaxed)
    }
}
