//! What the generators in userspace share: frames made beforehand, a pace, counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use core_affinity::CoreId;
use nix::time::{ClockId, clock_gettime};
use tandem_lab::{Host, Lab};

use super::{Load, Running};
use crate::frames::{frame, frame_of, payload_at};
use crate::pkt::{Step, Traffic};
use crate::scenario::{Item, Scenario};
use crate::timing::thread_time;

/// The longest time that is caught up with after a pause, in nanoseconds.
const LATE: u64 = 2_000_000;

/// A scenario's frames.
pub struct Packets {
    traffic: Traffic,
    items: Vec<Item>,
    frames: Vec<Vec<u8>>,
    payload_at: usize,
}

impl Packets {
    /// Makes them.
    pub fn of(scenario: &Scenario) -> Self {
        let frames = scenario.sequence.iter().map(|item| frame_of(scenario, item)).collect();
        let payload_at = payload_at(&scenario.traffic);
        Self { traffic: scenario.traffic.clone(), items: scenario.sequence.clone(), frames, payload_at }
    }
}

/// Frames that were sent, and times that the sequence was gone through.
#[derive(Default)]
struct Counters {
    sent: AtomicU64,
    rounds: AtomicU64,
}

/// Goes through the frames at the load's pace.
pub struct Pacer {
    packets: Arc<Packets>,
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
    gap: u64,
    due: u64,
    is_stamped: bool,
    next: usize,
    round: u16,
}

/// Nanoseconds of the clock that `bpf_ktime_get_ns` reads.
fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| Duration::from(time).as_nanos() as u64)
}

impl Pacer {
    /// Whether to go on.
    pub fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// How many frames may be sent now, at most `most`.
    pub fn due(&mut self, most: usize) -> usize {
        if self.gap == 0 {
            return most;
        }
        let now = now();
        if self.due == 0 || now.saturating_sub(self.due) > LATE {
            self.due = now;
        }
        ((now.saturating_sub(self.due) / self.gap) as usize).min(most)
    }

    /// Writes the next frame; gives its length, or `None` if `into` is too small.
    pub fn write(&mut self, into: &mut [u8]) -> Option<usize> {
        let packets = self.packets.clone();
        let (item, made) = (packets.items.get(self.next)?, packets.frames.get(self.next)?);
        let to = into.get_mut(..made.len())?;
        if item.churn && self.round > 0 {
            let client = (item.step.src_ip as u16).wrapping_add(self.round);
            let src_ip = item.step.src_ip & !0xffff | u128::from(client);
            to.copy_from_slice(frame(&packets.traffic, &Step { src_ip, ..item.step }, item.syn).get(..made.len())?);
        } else {
            to.copy_from_slice(made);
        }
        if self.is_stamped
            && let Some(stamp) = to.get_mut(packets.payload_at..packets.payload_at + 16)
        {
            let now = now();
            let (time, complement) = stamp.split_at_mut(8);
            time.copy_from_slice(&now.to_le_bytes());
            complement.copy_from_slice(&(!now).to_le_bytes());
        }
        self.next += 1;
        if self.next == packets.items.len() {
            self.next = 0;
            self.round = self.round.wrapping_add(1);
            self.counters.rounds.fetch_add(1, Ordering::Relaxed);
        }
        Some(made.len())
    }

    /// So many frames were sent.
    pub fn sent(&mut self, frames: usize) {
        self.due += self.gap * frames as u64;
        self.counters.sent.fetch_add(frames as u64, Ordering::Relaxed);
    }
}

/// Starts `send` on a thread in the router's namespace, pinned.
pub fn start(
    packets: &Arc<Packets>,
    lab: &Lab,
    load: &Load,
    send: impl FnOnce(Pacer) -> Result<()> + Send + 'static,
) -> Result<Running> {
    let (counters, stop) = (Arc::new(Counters::default()), Arc::new(AtomicBool::new(false)));
    let pacer = Pacer {
        packets: packets.clone(),
        counters: counters.clone(),
        stop: stop.clone(),
        gap: load.rate.map_or(0, |rate| (1e9 / rate.max(1.0)) as u64),
        due: 0,
        is_stamped: load.stamped,
        next: 0,
        round: 0,
    };
    let core = load.core;
    let work = move || {
        if !core_affinity::set_for_current(CoreId { id: core }) {
            bail!("cannot pin the generator to core {core}; `taskset -pc $$` lists the cores that are allowed");
        }
        let before = thread_time();
        send(pacer)?;
        Ok(thread_time() - before)
    };
    let thread = lab.enter(Host::Router, || std::thread::Builder::new().name("generator".to_owned()).spawn(work))?;
    let thread = thread.context("cannot start the generator's thread")?;
    let progress = move || (counters.sent.load(Ordering::Relaxed), counters.rounds.load(Ordering::Relaxed));
    Ok(Running::new(thread, stop, false, progress))
}
