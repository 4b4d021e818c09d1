//! Who owns which UMEM frame: linear tokens, and the ledger that proves that none is lost or used twice.
//!
//! ```text
//!            refill              receive             send               flush             reclaim
//!   free ------------> filling ----------> held ------------> queued ----------> sending ---------> free
//!    ^                (kernel's)         (a token)        (waits for room)      (kernel's)            |
//!    |                                      | release                                                 |
//!    +--------------------------------------+---------------------------------------------------------+
//! ```
//!
//! A worker with several sockets has one UMEM under all of them: each socket is a *lane* with rings of its own, and what comes in by
//! one lane leaves by any. Each lane has its share of the chunks to receive into, so that a busy one cannot starve the others.
//!
//! A [`Frame`] is the right to use one chunk: it cannot be copied, only a [`Pool`] makes one, and giving it to a ring
//! consumes it. The kernel hands back bare addresses; the [`Ledger`] turns one into a token only if the kernel owned that
//! very chunk in that very lane, so a wrong address is counted as a defect and never becomes a second owner.
//! This file knows no socket and has no `unsafe`: the rings are a trait, and the tests drive it over rings in memory.

use std::sync::atomic::{AtomicU32, Ordering};

#[cfg(test)]
mod tests;

/// Frames moved at a time: what is classified before the first of them is finished.
pub const BATCH: usize = 32;
/// Frames that may wait for room in the TX ring. The next one is refused.
pub const QUEUED: usize = 2 * BATCH;

/// What a ring entry says. `Default` is only a place to be overwritten.
pub trait Descriptor: Copy + Default {
    /// Offset of the first byte of the packet from the start of the UMEM.
    fn addr(&self) -> usize;
}

/// The four rings of one socket, seen from userspace.
///
/// Tokens go in, bare descriptors come out.
pub trait Rings {
    /// An entry of a ring.
    type Entry: Descriptor;
    /// Entries the fill ring takes now, at least `want` if it can.
    fn fill_room(&mut self, want: usize) -> usize;
    /// Gives at most [`BATCH`] frames to the kernel to receive into. They fit: [`Self::fill_room`] said so.
    fn fill(&mut self, frames: impl Iterator<Item = Frame<Self::Entry>>);
    /// Takes what the kernel received; returns how many entries of `into` are valid.
    fn receive(&mut self, into: &mut [Self::Entry; BATCH]) -> usize;
    /// Entries the TX ring takes now, at least `want` if it can.
    fn send_room(&mut self, want: usize) -> usize;
    /// Gives at most [`QUEUED`] frames to the kernel to send, in this order. They fit: [`Self::send_room`] said so.
    fn send(&mut self, frames: impl Iterator<Item = Frame<Self::Entry>>);
    /// Takes what the kernel has sent; returns how many entries of `into` are valid.
    fn complete(&mut self, into: &mut [Self::Entry; BATCH]) -> usize;
}

/// The ownership of one UMEM chunk. Consumed by [`Pool::send`] or [`Pool::release`]; one that is dropped instead stays
/// `held` in the [`Census`] for ever, which the tests look at.
#[must_use = "a frame that is neither sent nor released is lost to the port"]
#[derive(Debug)]
pub struct Frame<D> {
    entry: D,
    pool: u32,
}

impl<D: Descriptor> Frame<D> {
    /// The ring entry this token stands for.
    pub(super) fn entry(&self) -> &D {
        &self.entry
    }

    /// The same, to set the length of what will be sent.
    pub(super) fn entry_mut(&mut self) -> &mut D {
        &mut self.entry
    }
}

/// Where a chunk is: which lane's, if it is in one of its rings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Free,
    Filling(u8),
    Held,
    Queued,
    Sending(u8),
}

/// Lanes of a [`Pool`] at most.
pub const MOST_LANES: usize = 1 + u8::MAX as usize;

/// How many frames are where. `free + filling + held + queued + sending == total`, always.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Census {
    /// Owned by nobody, ready for the fill ring.
    pub free: usize,
    /// The kernel's, to receive into.
    pub filling: usize,
    /// Received, their token in the hands of the worker.
    pub held: usize,
    /// To be sent, waiting for room in the TX ring.
    pub queued: usize,
    /// The kernel's, to be sent.
    pub sending: usize,
    /// Chunks of the UMEM.
    pub total: usize,
    /// Descriptors from the kernel, or tokens from elsewhere, that named a frame of another state; 0 on a healthy system.
    pub defects: u64,
}

impl Census {
    /// Whether each frame is in exactly one place, and none is stuck in the worker.
    pub fn is_whole(&self) -> bool {
        self.held == 0 && self.defects == 0 && self.free + self.filling + self.held + self.queued + self.sending == self.total
    }
}

/// Where each chunk is.
#[derive(Debug)]
struct Ledger {
    places: Box<[Place]>,
    /// `log2` of a chunk's bytes.
    chunk_bits: u32,
    free: usize,
    held: usize,
    queued: usize,
    /// By lane.
    filling: Box<[usize]>,
    sending: Box<[usize]>,
    defects: u64,
}

impl Ledger {
    fn new(total: usize, chunk: usize, lanes: usize) -> Self {
        Self {
            places: vec![Place::Free; total].into(),
            chunk_bits: chunk.trailing_zeros(),
            free: total,
            held: 0,
            queued: 0,
            filling: vec![0; lanes].into(),
            sending: vec![0; lanes].into(),
            defects: 0,
        }
    }

    /// Chunks of each lane.
    fn share(&self) -> usize {
        self.places.len() / self.filling.len().max(1)
    }

    /// How many more frames a lane may have to receive into.
    #[inline]
    fn may_fill(&self, lane: usize) -> usize {
        self.share().saturating_sub(self.filling.get(lane).copied().unwrap_or(usize::MAX))
    }

    /// How many more frames of a lane may be on their way out.
    #[inline]
    fn may_send(&self, lane: usize) -> usize {
        (self.share() / 2).max(1).saturating_sub(self.sending.get(lane).copied().unwrap_or(usize::MAX))
    }

    #[inline]
    fn count(&mut self, place: Place) -> Option<&mut usize> {
        match place {
            Place::Free => Some(&mut self.free),
            Place::Filling(lane) => self.filling.get_mut(usize::from(lane)),
            Place::Held => Some(&mut self.held),
            Place::Queued => Some(&mut self.queued),
            Place::Sending(lane) => self.sending.get_mut(usize::from(lane)),
        }
    }

    /// Moves the chunk at `addr`; false, and a defect, if it is not in `from` or there is no such chunk.
    #[inline]
    fn shift(&mut self, addr: usize, from: Place, to: Place) -> bool {
        match self.places.get_mut(addr >> self.chunk_bits) {
            Some(place) if *place == from => {
                *place = to;
                if let Some(count) = self.count(from) {
                    *count -= 1;
                }
                if let Some(count) = self.count(to) {
                    *count += 1;
                }
                true
            }
            _ => {
                self.defects += 1;
                false
            }
        }
    }
}

/// One socket's rings, and what waits for room in its TX ring.
#[derive(Debug)]
struct Lane<R: Rings> {
    rings: R,
    queued: Vec<Frame<R::Entry>>,
}

/// The frames of one UMEM and the rings they travel through.
#[derive(Debug)]
pub struct Pool<R: Rings> {
    lanes: Box<[Lane<R>]>,
    id: u32,
    ledger: Ledger,
    free: Vec<Frame<R::Entry>>,
}

impl<R: Rings> Pool<R> {
    /// A pool over all frames of a UMEM whose chunks are `chunk` bytes, a power of two; `entries` names each chunk once. At most
    /// [`MOST_LANES`] `rings`: those after are left out.
    pub fn new(rings: Vec<R>, entries: &[R::Entry], chunk: usize) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let free = entries.iter().map(|&entry| Frame { entry, pool: id }).collect();
        let lanes: Box<[_]> =
            rings.into_iter().take(MOST_LANES).map(|rings| Lane { rings, queued: Vec::with_capacity(QUEUED) }).collect();
        let ledger = Ledger::new(entries.len(), chunk, lanes.len());
        Self { lanes, id, ledger, free }
    }

    /// The rings of a lane.
    pub(super) fn rings(&self, lane: usize) -> Option<&R> {
        self.lanes.get(lane).map(|lane| &lane.rings)
    }

    /// The rings of a lane, to be asked what is in them.
    pub(super) fn rings_mut(&mut self, lane: usize) -> Option<&mut R> {
        self.lanes.get_mut(lane).map(|lane| &mut lane.rings)
    }

    /// Whether this token is the right to a chunk of this pool's UMEM.
    pub(super) fn owns(&self, frame: &Frame<R::Entry>) -> bool {
        frame.pool == self.id
    }

    /// Frames of a lane that are on their way out.
    pub(super) fn sending(&self, lane: usize) -> usize {
        self.ledger.sending.get(lane).copied().unwrap_or(0)
    }

    /// Gives free frames to the kernel to receive into by this lane, a batch at most; returns how many.
    pub fn refill(&mut self, lane: usize) -> usize {
        let want = self.free.len().min(self.ledger.may_fill(lane)).min(BATCH);
        let Some(Lane { rings, .. }) = self.lanes.get_mut(lane).filter(|_| want > 0) else { return 0 };
        let count = rings.fill_room(want).min(want);
        // The frames used last are nearest to the CPU.
        let start = self.free.len() - count;
        let ledger = &mut self.ledger;
        let gone = self.free.drain(start..).inspect(|f| {
            ledger.shift(f.entry.addr(), Place::Free, Place::Filling(lane as u8));
        });
        rings.fill(gone);
        count
    }

    /// Adds what was received by this lane to `batch`, a batch at most and no more than fits without allocating; returns how
    /// many.
    pub fn receive(&mut self, lane: usize, batch: &mut Vec<Frame<R::Entry>>) -> usize {
        let room = batch.capacity() - batch.len() >= BATCH;
        let Some(Lane { rings, .. }) = self.lanes.get_mut(lane).filter(|_| room) else { return 0 };
        let mut entries = [R::Entry::default(); BATCH];
        let count = rings.receive(&mut entries);
        let before = batch.len();
        for &entry in entries.iter().take(count) {
            if self.ledger.shift(entry.addr(), Place::Filling(lane as u8), Place::Held) {
                batch.push(Frame { entry, pool: self.id });
            }
        }
        batch.len() - before
    }

    /// Takes a free frame, for the caller to write and send: for who sends what he did not receive. `None`: none is free.
    pub fn take(&mut self) -> Option<Frame<R::Entry>> {
        let frame = self.free.pop()?;
        self.ledger.shift(frame.entry.addr(), Place::Free, Place::Held);
        Some(frame)
    }

    /// Queues a frame to be sent by this lane with the next [`Self::flush`].
    ///
    /// # Errors
    /// Gives the frame back if [`QUEUED`] frames wait already, or if there is no such lane.
    pub fn send(&mut self, lane: usize, frame: Frame<R::Entry>) -> Result<(), Frame<R::Entry>> {
        if self.lanes.get(lane).is_none_or(|lane| lane.queued.len() == QUEUED) {
            return Err(frame);
        }
        if self.admit(&frame, Place::Queued)
            && let Some(lane) = self.lanes.get_mut(lane)
        {
            lane.queued.push(frame);
        }
        Ok(())
    }

    /// Puts a received frame back among the free ones.
    pub fn release(&mut self, frame: Frame<R::Entry>) {
        if self.admit(&frame, Place::Free) {
            self.free.push(frame);
        }
    }

    /// Moves queued frames of a lane to its TX ring as far as there is room; returns how many.
    ///
    /// No more than half of its share of frames are ever on their way out, so a slow sender never starves the receive side.
    pub fn flush(&mut self, lane: usize) -> usize {
        let may_send = self.ledger.may_send(lane);
        let Some(Lane { rings, queued }) = self.lanes.get_mut(lane) else { return 0 };
        let want = queued.len();
        if want == 0 {
            return 0;
        }
        let count = rings.send_room(want).min(want).min(may_send);
        let ledger = &mut self.ledger;
        let gone = queued.drain(..count).inspect(|f| {
            ledger.shift(f.entry.addr(), Place::Queued, Place::Sending(lane as u8));
        });
        rings.send(gone);
        count
    }

    /// Takes back what the kernel has sent by this lane, a batch at most; returns how many.
    pub fn reclaim(&mut self, lane: usize) -> usize {
        let some = self.sending(lane) > 0;
        let Some(Lane { rings, .. }) = self.lanes.get_mut(lane).filter(|_| some) else { return 0 };
        let mut entries = [R::Entry::default(); BATCH];
        let count = rings.complete(&mut entries);
        for &entry in entries.iter().take(count) {
            if self.ledger.shift(entry.addr(), Place::Sending(lane as u8), Place::Free) {
                self.free.push(Frame { entry, pool: self.id });
            }
        }
        count
    }

    /// How many frames are where, over all lanes.
    pub fn census(&self) -> Census {
        let Ledger { places, free, held, queued, filling, sending, defects, .. } = &self.ledger;
        Census {
            free: *free,
            filling: filling.iter().sum(),
            held: *held,
            queued: *queued,
            sending: sending.iter().sum(),
            total: places.len(),
            defects: *defects,
        }
    }

    /// A token comes back: it must be of this pool, and its chunk held.
    fn admit(&mut self, frame: &Frame<R::Entry>, to: Place) -> bool {
        if !self.owns(frame) {
            self.ledger.defects += 1;
            return false;
        }
        self.ledger.shift(frame.entry.addr(), Place::Held, to)
    }
}
