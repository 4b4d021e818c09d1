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
//! A [`Frame`] is the right to use one chunk: it cannot be copied, only a [`Pool`] makes one, and giving it to a ring
//! consumes it. The kernel hands back bare addresses; the [`Ledger`] turns one into a token only if the kernel owned that
//! very chunk, so a wrong address is counted as a defect and never becomes a second owner.
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

/// Where a chunk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Place {
    Free,
    Filling,
    Held,
    Queued,
    Sending,
}

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

/// One byte per chunk: where it is.
#[derive(Debug)]
struct Ledger {
    places: Box<[Place]>,
    /// `log2` of a chunk's bytes.
    chunk_bits: u32,
    counts: [usize; 5],
    defects: u64,
}

impl Ledger {
    fn new(total: usize, chunk: usize) -> Self {
        let chunk_bits = chunk.trailing_zeros();
        Self { places: vec![Place::Free; total].into(), chunk_bits, counts: [total, 0, 0, 0, 0], defects: 0 }
    }

    /// How many more frames may be on their way out.
    fn may_send(&self) -> usize {
        (self.places.len() / 2).max(1).saturating_sub(self.counts[Place::Sending as usize])
    }

    /// Moves the chunk at `addr`; false, and a defect, if it is not in `from` or there is no such chunk.
    #[inline]
    fn shift(&mut self, addr: usize, from: Place, to: Place) -> bool {
        match self.places.get_mut(addr >> self.chunk_bits) {
            Some(place) if *place == from => {
                *place = to;
                self.counts[from as usize] -= 1;
                self.counts[to as usize] += 1;
                true
            }
            _ => {
                self.defects += 1;
                false
            }
        }
    }
}

/// The frames of one UMEM and the rings they travel through.
#[derive(Debug)]
pub struct Pool<R: Rings> {
    rings: R,
    id: u32,
    ledger: Ledger,
    free: Vec<Frame<R::Entry>>,
    queued: Vec<Frame<R::Entry>>,
}

impl<R: Rings> Pool<R> {
    /// A pool over all frames of a UMEM whose chunks are `chunk` bytes, a power of two; `entries` names each chunk once.
    pub fn new(rings: R, entries: &[R::Entry], chunk: usize) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let free = entries.iter().map(|&entry| Frame { entry, pool: id }).collect();
        Self { rings, id, ledger: Ledger::new(entries.len(), chunk), free, queued: Vec::with_capacity(QUEUED) }
    }

    /// The rings.
    pub(super) fn rings(&self) -> &R {
        &self.rings
    }

    /// The rings, to be asked what is in them.
    pub(super) fn rings_mut(&mut self) -> &mut R {
        &mut self.rings
    }

    /// Whether this token is the right to a chunk of this pool's UMEM.
    pub(super) fn owns(&self, frame: &Frame<R::Entry>) -> bool {
        frame.pool == self.id
    }

    /// Gives free frames to the kernel to receive into, a batch at most; returns how many.
    pub fn refill(&mut self) -> usize {
        let want = self.free.len().min(BATCH);
        if want == 0 {
            return 0;
        }
        let count = self.rings.fill_room(want).min(want);
        // The frames used last are nearest to the CPU.
        let start = self.free.len() - count;
        let ledger = &mut self.ledger;
        let gone = self.free.drain(start..).inspect(|f| {
            ledger.shift(f.entry.addr(), Place::Free, Place::Filling);
        });
        self.rings.fill(gone);
        count
    }

    /// Adds what was received to `batch`, a batch at most and no more than fits without allocating; returns how many.
    pub fn receive(&mut self, batch: &mut Vec<Frame<R::Entry>>) -> usize {
        if batch.capacity() - batch.len() < BATCH {
            return 0;
        }
        let mut entries = [R::Entry::default(); BATCH];
        let count = self.rings.receive(&mut entries);
        let before = batch.len();
        for &entry in entries.iter().take(count) {
            if self.ledger.shift(entry.addr(), Place::Filling, Place::Held) {
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

    /// Queues a frame to be sent by the next [`Self::flush`].
    ///
    /// # Errors
    /// Gives the frame back if [`QUEUED`] frames wait already.
    pub fn send(&mut self, frame: Frame<R::Entry>) -> Result<(), Frame<R::Entry>> {
        if self.queued.len() == QUEUED {
            return Err(frame);
        }
        if self.admit(&frame, Place::Queued) {
            self.queued.push(frame);
        }
        Ok(())
    }

    /// Puts a received frame back among the free ones.
    pub fn release(&mut self, frame: Frame<R::Entry>) {
        if self.admit(&frame, Place::Free) {
            self.free.push(frame);
        }
    }

    /// Moves queued frames to the TX ring as far as there is room; returns how many.
    ///
    /// No more than half of all frames are ever on their way out, so a slow sender never starves the receive side.
    pub fn flush(&mut self) -> usize {
        let want = self.queued.len();
        if want == 0 {
            return 0;
        }
        let count = self.rings.send_room(want).min(want).min(self.ledger.may_send());
        let ledger = &mut self.ledger;
        let gone = self.queued.drain(..count).inspect(|f| {
            ledger.shift(f.entry.addr(), Place::Queued, Place::Sending);
        });
        self.rings.send(gone);
        count
    }

    /// Takes back what the kernel has sent, a batch at most; returns how many.
    pub fn reclaim(&mut self) -> usize {
        if self.ledger.counts[Place::Sending as usize] == 0 {
            return 0;
        }
        let mut entries = [R::Entry::default(); BATCH];
        let count = self.rings.complete(&mut entries);
        for &entry in entries.iter().take(count) {
            if self.ledger.shift(entry.addr(), Place::Sending, Place::Free) {
                self.free.push(Frame { entry, pool: self.id });
            }
        }
        count
    }

    /// How many frames are where.
    pub fn census(&self) -> Census {
        let [free, filling, held, queued, sending] = self.ledger.counts;
        Census { free, filling, held, queued, sending, total: self.ledger.places.len(), defects: self.ledger.defects }
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
