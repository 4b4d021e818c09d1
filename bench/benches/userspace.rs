//! The userspace seat: batches of 32 frames on the kernel's own memory, mapped, against a hash map with a list in order of
//! use, for a thousand, a million and ten million flows.
//!
//! 512 chunks of 2 KiB; before each batch 32 of them are rewritten for random flows, as if they had just arrived (that is
//! in the numbers of both). `cargo bench -p tandem-bench --bench userspace`; as root on mapped memory, else on plain.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use tandem_backends::afxdp::frame::FrameBuf;
use tandem_backends::afxdp::frames::BATCH;
use tandem_backends::afxdp::work::{Flows, Outcome, handle};
use tandem_backends::control::{Counters, NoGrace};
use tandem_backends::memory::{Plain, Sizes, Tables};
use tandem_backends::xdp::{Balancer, Role};
use tandem_bench::rival::Rival;
use tandem_bench::scene::{self, vip};
use tandem_bench::timing::{Series, is_measurement, stay_on_one_core, thread_time, verdict};
use tandem_engine::memory::VipSlot;
use tandem_engine::memory::reals::Method;
use tandem_engine::{Flow, From, Reason, room_for};

use std::sync::Arc;

/// Chunks of the UMEM, and their size.
const CHUNKS: usize = 512;
const CHUNK: usize = 2048;
/// Frames of one measurement.
const FRAMES: u32 = 64 * CHUNKS as u32;
const ROOM: usize = room_for(false, Method::Ipip) as usize;

/// Flows, sets of the table, ns at most (least value), or so many times the rival's.
const SIZES: [(u32, u32, f64, f64); 3] =
    [(1000, 1 << 18, 34.0, 1.1), (1_000_000, 1 << 18, 58.0, 0.10), (10_000_000, 1 << 22, 72.0, 0.09)];

/// The same flow numbers for everyone (SplitMix64).
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z >> 32) * u64::from(n)) >> 32) as u32
    }
}

/// The memory that frames arrive in.
struct Umem {
    bytes: Vec<u8>,
    frame: Vec<u8>,
}

impl Umem {
    fn new() -> Self {
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
trait Worker {
    /// Handles the 32 frames that arrived from chunk `from` on; gives the number of those that are to be sent.
    fn batch(&mut self, umem: &mut Umem, from: usize) -> u32;
}

/// The seat's own work.
struct Seat {
    memory: Plain,
    flows: Box<Flows>,
}

impl Worker for Seat {
    #[inline]
    fn batch(&mut self, umem: &mut Umem, from: usize) -> u32 {
        let mut outcomes = [Outcome::Release; BATCH];
        handle(&mut umem.received(from), &self.memory, &mut self.flows, &mut outcomes);
        outcomes.iter().map(|outcome| u32::from(*outcome != Outcome::Release)).sum()
    }
}

struct Hashed {
    memory: Plain,
    rival: Rival,
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
fn warm_up(worker: &mut dyn Worker, flows: u32) {
    let mut umem = Umem::new();
    for first in (0..2 * flows).step_by(BATCH) {
        for i in 0..BATCH as u32 {
            umem.arrive(i as usize, (first + i) % flows);
        }
        worker.batch(&mut umem, 0);
    }
}

fn measure_once(worker: &mut dyn Worker, umem: &mut Umem, rng: &mut Rng, flows: u32, series: &mut Series) -> Result<()> {
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

/// Tables that are the kernel's, if this process may have them; what keeps them alive, and what they are.
fn tables(sizes: Sizes) -> Result<(Arc<Tables>, Option<Balancer>, &'static str)> {
    match Balancer::load(&Role::Unpinned, sizes) {
        Ok(balancer) => Ok((balancer.tables().clone(), Some(balancer), "mapped")),
        Err(error) => {
            eprintln!("note: plain memory instead of mapped: {error}");
            let tables = Tables::plain(sizes)?;
            tables.flow_area().advise_huge_pages();
            Ok((tables, None, "plain"))
        }
    }
}

fn compare(flows: u32, sets: u32, repeats: u32, limit: (f64, f64)) -> Result<()> {
    let plan = scene::plan()?;
    let (tables, _kernel, kind) = tables(Sizes { flow_sets: sets, ..Sizes::for_plan(&plan, 2) })?;
    scene::apply(&plan, &tables, &NoGrace)?;
    let mut seat = Seat { memory: Plain::new(tables.clone(), 0), flows: Box::new([Flow::default(); BATCH]) };
    let vips = tables.vips().iter().filter_map(VipSlot::entry);
    let mut hashed = Hashed { memory: Plain::new(tables.clone(), 1), rival: Rival::new(vips, flows as usize) };
    warm_up(&mut seat, flows);
    warm_up(&mut hashed, flows);
    let before = (counted(&tables, 0), hashed.rival.hits);
    let (mut ours, mut theirs) = (Series::default(), Series::default());
    let (mut umem, mut rng) = (Umem::new(), Rng(1));
    for _ in 0..repeats {
        measure_once(&mut seat, &mut umem, &mut rng, flows, &mut ours)?;
        measure_once(&mut hashed, &mut umem, &mut rng, flows, &mut theirs)?;
    }
    let frames = u64::from(repeats * FRAMES);
    let (forwarded, by_ring) = counted(&tables, 0);
    let (forwarded, by_ring) = (forwarded - before.0.0, by_ring - before.0.1);
    // A table that forgot flows, or a rival that did, would be measured on other work. At a load of 0.76 some pairs of sets
    // overflow: fewer than one flow in a hundred.
    ensure!(forwarded == frames && by_ring * 100 <= frames, "{forwarded} of {frames} forwarded, {by_ring} of them by the ring");
    ensure!(hashed.rival.hits - before.1 == frames, "the rival forgot flows");
    let ratio = ours.min() / theirs.min();
    println!(
        "{flows:>10} {kind:>7} {:>6.1} / {:<6.1} {:>8.1} / {:<6.1} {ratio:>6.3}  at most {} ns or {} x: {}",
        ours.min(),
        ours.median(),
        theirs.min(),
        theirs.median(),
        limit.0,
        limit.1,
        verdict(ours.min() <= limit.0 || ratio <= limit.1),
    );
    Ok(())
}

/// Frames that a block counted as forwarded, and those of them that asked the ring.
fn counted(tables: &Tables, block: u32) -> (u64, u64) {
    let counters = Counters::read(tables, block..block + 1);
    let by_ring = counters.vips.values().filter_map(|row| row.get(From::Ring.name())).sum();
    (counters.reason(Reason::Forwarded), by_ring)
}

fn main() -> ExitCode {
    stay_on_one_core();
    println!("{FRAMES} frames a measurement, ns of thread CPU time per frame, least / median");
    println!("{:>10} {:>7} {:>15} {:>17} {:>6}", "flows", "memory", "seat", "hash map + list", "ratio");
    let (sizes, repeats) = if is_measurement() { (&SIZES[..], 41) } else { (&SIZES[..1], 2) };
    for (flows, sets, nanos, ratio) in sizes {
        if let Err(error) = compare(*flows, *sets, repeats, (*nanos, *ratio)) {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
