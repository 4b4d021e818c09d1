//! Batches of frames as a worker gets them, without sockets: the userspace seat's work on memory alone.
//!
//! 512 chunks of 2 KiB; before each batch 32 of them are rewritten for random flows, as if they had just arrived.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use tandem_backends::afxdp::Tap;
use tandem_backends::afxdp::frame::FrameBuf;
use tandem_backends::afxdp::frames::BATCH;
use tandem_backends::afxdp::work::{Flows, Outcome, handle};
use tandem_backends::memory::{Plain, Tables};
use tandem_engine::memory::VipSlot;
use tandem_engine::memory::reals::Method;
use tandem_engine::{Flow, room_for};

use crate::rival::Rival;
use crate::scenario::Rng;
use crate::scene::{self, vip};
use crate::timing::{Series, thread_time};

/// Chunks of the UMEM, and their size.
const CHUNKS: usize = 512;
const CHUNK: usize = 2048;
/// Frames of one measurement. Those of who is compared come in turns, and each turn begins with what the other one left in the caches
/// and the TLB: at ten million flows the first 30,000 frames after a hash map's turn take a third longer than those that follow. This
/// many, and that is none of the number.
pub const FRAMES: u32 = 512 * CHUNKS as u32;
const ROOM: usize = room_for(false, Method::Ipip) as usize;

/// The memory that frames arrive in.
pub struct Umem {
    bytes: Vec<u8>,
    frame: Vec<u8>,
}

impl Umem {
    /// Room for all chunks, and the frame that arrives in them.
    #[expect(clippy::new_without_default, reason = "a megabyte is nobody's default")]
    pub fn new() -> Self {
        Self { bytes: vec![0; CHUNKS * CHUNK], frame: scene::udp_v4(vip::PLAIN) }
    }

    /// The frame of a flow arrives in a chunk, behind the room that the kernel seat made.
    #[inline]
    fn arrive(&mut self, chunk: usize, flow: u32) {
        let at = chunk * CHUNK;
        let Some(bytes) = self.bytes.get_mut(at..at + ROOM + 64) else { return };
        let (room, packet) = bytes.split_at_mut(ROOM);
        room[..4].copy_from_slice(&[ROOM as u8, tandem_engine::handover::VERSION, 0, 0]);
        packet[..self.frame.len().min(64)].copy_from_slice(&self.frame[..self.frame.len().min(64)]);
        packet[28..30].copy_from_slice(&((flow >> 14) as u16).to_be_bytes());
        packet[34..36].copy_from_slice(&(1024 + (flow & 0x3fff) as u16).to_be_bytes());
    }

    fn received(&mut self, from: usize) -> [Option<FrameBuf<'_>>; BATCH] {
        let length = ROOM + self.frame.len();
        let start = from * CHUNK;
        let mut chunks = self.bytes.get_mut(start..start + BATCH * CHUNK).unwrap_or_default().chunks_exact_mut(CHUNK);
        std::array::from_fn(|_| FrameBuf::received(chunks.next()?, length))
    }
}

/// Something that works on batches.
pub trait Worker {
    /// Handles the 32 frames that arrived from chunk `from` on; gives the number of those that are to be sent.
    fn batch(&mut self, umem: &mut Umem, from: usize) -> u32;
}

/// The seat's own work.
pub struct Seat {
    memory: Plain,
    flows: Box<Flows>,
    tap: Tap,
    delay: u32,
}

impl Seat {
    /// A worker that counts in `block`; `delay` turns of nothing for each frame, to see whether a comparison finds them.
    pub fn new(tables: Arc<Tables>, block: u32, delay: u32) -> Self {
        Self { memory: Plain::new(tables, block), flows: Box::new([Flow::default(); BATCH]), tap: Tap::default(), delay }
    }
}

impl Worker for Seat {
    #[inline]
    fn batch(&mut self, umem: &mut Umem, from: usize) -> u32 {
        let mut outcomes = [Outcome::Release; BATCH];
        handle(&mut umem.received(from), &self.memory, &mut self.flows, &mut outcomes, &self.tap);
        if self.delay > 0 {
            turn(self.delay * BATCH as u32);
        }
        outcomes.iter().map(|outcome| u32::from(*outcome != Outcome::Release)).sum()
    }
}

/// The same with a hash map and a list.
pub struct Hashed {
    memory: Plain,
    /// Its flows.
    pub rival: Rival,
}

impl Hashed {
    /// Room for `flows` flows; counts in `block`.
    pub fn new(tables: &Arc<Tables>, block: u32, flows: u32) -> Self {
        let vips = tables.vips().iter().filter_map(VipSlot::entry);
        Self { memory: Plain::new(tables.clone(), block), rival: Rival::new(vips, flows as usize) }
    }
}

impl Worker for Hashed {
    #[inline]
    fn batch(&mut self, umem: &mut Umem, from: usize) -> u32 {
        let mut sent = 0;
        for frame in umem.received(from).iter_mut().flatten() {
            if self.rival.process(frame, &self.memory).is_forwarded() {
                sent += u32::from(frame.settle() != 0);
            }
        }
        sent
    }
}

/// Sends every flow once, twice over, so that all are known and protected.
pub fn warm_up(worker: &mut dyn Worker, flows: u32) {
    let mut umem = Umem::new();
    for first in (0..2 * flows).step_by(BATCH) {
        for i in 0..BATCH as u32 {
            umem.arrive(i as usize, (first + i) % flows);
        }
        worker.batch(&mut umem, 0);
    }
}

/// Handles random frames of so many flows, and adds what each took.
///
/// # Errors
/// Not all of them were forwarded.
pub fn measure_once(worker: &mut dyn Worker, umem: &mut Umem, rng: &mut Rng, flows: u32, series: &mut Series) -> Result<()> {
    let (before, mut sent) = (thread_time(), 0);
    for batch in 0..FRAMES as usize / BATCH {
        let from = batch * BATCH % CHUNKS;
        for i in 0..BATCH {
            umem.arrive(from + i, rng.below(flows));
        }
        sent += worker.batch(umem, from);
    }
    series.add(thread_time() - before, FRAMES);
    ensure!(sent == FRAMES, "{sent} of {FRAMES} frames were forwarded");
    Ok(())
}

/// Turns of a calculation that waits for itself.
fn turn(turns: u32) {
    let mut number = 1_u64;
    for _ in 0..turns {
        number = std::hint::black_box(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    std::hint::black_box(number);
}

/// How many turns take so many nanoseconds on this machine, now.
pub fn turns_for(nanos: f64) -> u32 {
    const TURNS: u32 = 1_000_000;
    let mut least = Duration::MAX;
    for _ in 0..5 {
        let before = thread_time();
        turn(TURNS);
        least = least.min(thread_time() - before);
    }
    (nanos / (least.as_nanos() as f64 / f64::from(TURNS))).round() as u32
}
