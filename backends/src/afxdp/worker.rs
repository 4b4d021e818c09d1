//! The loop of one forwarding thread: it moves frames between the port and [`handle`], and decides nothing.
//!
//! No lock, no allocation, no log, and no system call but those that wake the kernel or wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tandem_engine::Flow;
use tandem_engine::memory::counters::count_seat;
use tandem_engine::memory::{Memory, SeatCounter};

use super::epoch::Epoch;
use super::error::{PortError, QueueName};
use super::frame::FrameBuf;
use super::frames::{BATCH, Census};
use super::port::{Bound, Port, Statistics, Token};
use super::tap::Tap;
use super::work::{Flows, Outcome, handle};
use crate::memory::Desk;

/// The tables of one worker, with a clock that stands still during a batch.
pub trait WorkerMemory: Memory {
    /// What [`Memory::now`] answers from here on, in ticks of 64 jiffies.
    fn set_now(&self, tick: u32);
}

impl<const TRACED: bool> WorkerMemory for Desk<TRACED> {
    #[inline]
    fn set_now(&self, tick: u32) {
        Desk::set_now(self, tick);
    }
}

/// The coarse clock that both seats share.
pub trait Clock {
    /// Ticks of 64 jiffies, as the kernel seat would read them now.
    fn tick(&self) -> u32;
}

impl<F: Fn() -> u32> Clock for F {
    fn tick(&self) -> u32 {
        self()
    }
}

/// When a worker rests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// Empty rounds before the worker sleeps until a frame comes.
    pub spins: u32,
    /// The longest sleep; also how late a stop or a vanished interface is noticed.
    pub sleep: Duration,
    /// The longest sleep while the kernel holds frames to be sent, which it gives back silently.
    pub nap: Duration,
    /// How long a stopped worker goes on for frames that are under way.
    pub drain: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { spins: 64, sleep: Duration::from_millis(10), nap: Duration::from_millis(1), drain: Duration::from_millis(200) }
    }
}

/// What a worker shares with the control plane.
#[derive(Debug, Default)]
pub struct Shared {
    /// Where the worker is in its loop.
    pub epoch: Epoch,
    /// Set to end the worker.
    pub stop: AtomicBool,
}

/// What one of a worker's sockets did.
#[derive(Debug)]
pub struct LaneReport {
    /// Interface and queue.
    pub at: QueueName,
    /// Zero-copy or copy.
    pub bound: Bound,
    /// What the kernel dropped; all 0 if the interface is gone.
    pub statistics: Statistics,
    /// Frames received from the kernel.
    pub received: u64,
    /// Frames forwarded: given to the kernel to send, or `queued` in the census.
    pub sent: u64,
}

/// What a worker leaves behind.
#[derive(Debug)]
pub struct WorkerReport {
    /// One for each socket.
    pub lanes: Vec<LaneReport>,
    /// Where all its frames were when it ended.
    pub census: Census,
    /// Frames that had to be dropped because too many were on their way out already.
    pub refused: u64,
    /// Why it ended, if it was not told to.
    pub error: Option<Arc<PortError>>,
}

impl WorkerReport {
    /// Frames received from the kernel, by all sockets.
    pub fn received(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.received).sum()
    }

    /// Frames forwarded, by all sockets.
    pub fn sent(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.sent).sum()
    }
}

/// One forwarding thread's belongings.
pub struct Worker<M, C> {
    port: Port,
    memory: M,
    clock: C,
    pace: Pace,
    tap: Arc<Tap>,
    batch: Vec<Token>,
    flows: Box<Flows>,
    /// Frames received and sent, by lane.
    moved: Vec<[u64; 2]>,
    refused: u64,
}

/// Parks the epoch however the worker ends, so that nobody waits for a thread that is gone.
struct Parked<'a>(&'a Epoch);

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.park();
    }
}

impl<M: WorkerMemory, C: Clock> Worker<M, C> {
    /// A worker for this port, which tells `tap` of captured frames.
    pub fn new(port: Port, memory: M, clock: C, pace: Pace, tap: Arc<Tap>) -> Self {
        let (flows, moved) = (Box::new([Flow::default(); BATCH]), vec![[0; 2]; port.lanes()]);
        Self { port, memory, clock, pace, tap, batch: Vec::with_capacity(BATCH), flows, moved, refused: 0 }
    }

    /// Forwards until it is told to stop or an interface is gone; the sockets stay open.
    ///
    /// # Errors
    /// What ended it, if it was not told to.
    pub fn run(&mut self, shared: &Shared) -> Result<(), PortError> {
        let _parked = Parked(&shared.epoch);
        let mut empty = 0u32;
        while !shared.stop.load(Ordering::Relaxed) {
            shared.epoch.begin();
            if self.round()? > 0 {
                empty = 0;
            } else if empty < self.pace.spins {
                empty += 1;
                std::hint::spin_loop();
            } else {
                shared.epoch.park();
                self.rest()?;
            }
        }
        self.drain(shared)
    }

    /// Receives, handles and sends one batch of each lane; returns the number of frames.
    fn round(&mut self) -> Result<usize, PortError> {
        let mut all = 0;
        for lane in 0..self.port.lanes() {
            let count = self.port.receive(lane, &mut self.batch);
            if count > 0 {
                self.memory.set_now(self.clock.tick());
                self.forward(lane);
                self.note(lane, [count as u64, 0]);
                all += count;
            }
        }
        self.port.advance()?;
        Ok(all)
    }

    fn note(&mut self, lane: usize, [received, sent]: [u64; 2]) {
        if let Some([all_received, all_sent]) = self.moved.get_mut(lane) {
            *all_received += received;
            *all_sent += sent;
        }
    }

    fn forward(&mut self, lane: usize) {
        let mut outcomes = [Outcome::Release; BATCH];
        let mut frames = [const { None }; BATCH];
        let count = self.batch.len().min(BATCH);
        let interface = if self.port.lanes() > 1 { self.port.interface(lane) } else { 0 };
        for (frame, token) in frames.iter_mut().zip(&mut self.batch) {
            let (chunk, length) = self.port.bytes(token);
            *frame = FrameBuf::received(chunk, length).map(|frame| frame.came_by(interface));
        }
        handle(&mut frames[..count], &self.memory, &mut self.flows, &mut outcomes, &self.tap);
        let mut batch = std::mem::take(&mut self.batch);
        for (token, outcome) in batch.drain(..).zip(outcomes) {
            let (length, by) = match outcome {
                Outcome::Release => {
                    self.port.release(token);
                    continue;
                }
                Outcome::Send(length) => (length, Some(lane)),
                Outcome::Leave(length, interface) => (length, self.port.lane_to(interface, lane)),
            };
            let Some(by) = by else {
                count_seat(&self.memory, SeatCounter::NoInterface, 1);
                self.port.release(token);
                continue;
            };
            match self.port.send(by, token, length) {
                Ok(()) => self.note(by, [0, 1]),
                Err(token) => {
                    count_seat(&self.memory, SeatCounter::TxFull, 1);
                    self.refused += 1;
                    self.port.release(token);
                }
            }
        }
        self.batch = batch;
    }

    fn rest(&mut self) -> Result<(), PortError> {
        let census = self.port.census();
        let under_way = census.sending + census.queued > 0;
        self.port.wait(if under_way { self.pace.nap } else { self.pace.sleep })
    }

    /// Goes on until nothing is under way, for a bounded time: the kernel may keep redirecting frames to this socket.
    fn drain(&mut self, shared: &Shared) -> Result<(), PortError> {
        let end = Instant::now() + self.pace.drain;
        while Instant::now() < end {
            shared.epoch.begin();
            let count = self.round()?;
            let census = self.port.census();
            if count == 0 && census.sending + census.queued == 0 {
                break;
            }
            if count == 0 {
                shared.epoch.park();
                self.port.wait(self.pace.nap)?;
            }
        }
        Ok(())
    }

    /// The account of a worker that ended; closes the sockets.
    pub fn finish(self, error: Option<Arc<PortError>>) -> WorkerReport {
        let lanes = self.moved.iter().enumerate().map(|(lane, &[received, sent])| LaneReport {
            at: self.port.at(lane).clone(),
            bound: self.port.bound(lane),
            statistics: self.port.statistics(lane).unwrap_or_default(),
            received,
            sent,
        });
        WorkerReport { lanes: lanes.collect(), census: self.port.census(), refused: self.refused, error }
    }
}
