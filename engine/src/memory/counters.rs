//! Counters: plain additions, so each core (a CPU's kernel seat, a worker) has a block of its own.
//!
//! ```text
//! block:  reasons, 4 lines | seat, 1 line | VIPs, 1 line each | reals, 4 to a line
//! ```

use super::Memory;
use super::reals::MAX_REALS;
use super::shared::S64;
use super::vips::MAX_VIPS;
use crate::verdict::Reason;

/// Eight counters, 64 bytes.
#[repr(C, align(64))]
#[cfg_attr(not(target_arch = "bpf"), derive(Default, Debug))]
pub struct Line {
    c: [S64; PER_LINE],
}

const _: () = assert!(size_of::<Line>() == 64);

const PER_LINE: usize = 8;
/// Lines of a block that count [`Reason`]s.
const REASON_LINES: u32 = 4;
/// The line of [`SeatCounter`]s.
pub const SEAT_LINE: u32 = REASON_LINES;
const VIP_LINES: u32 = SEAT_LINE + 1;
const REAL_LINES: u32 = VIP_LINES + MAX_VIPS;
const REALS_PER_LINE: u32 = 4;
/// Lines of one core's block.
pub const BLOCK: u32 = REAL_LINES + MAX_REALS / REALS_PER_LINE;

const _: () = assert!(Reason::ALL.len() <= REASON_LINES as usize * PER_LINE);

impl Line {
    /// Adds `n` to counter `i` (modulo 8). Only the block's own core may.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "the mask bounds it")]
    pub fn add(&self, i: usize, n: u64) {
        let c = &self.c[i & (PER_LINE - 1)];
        c.set(c.get().wrapping_add(n));
    }

    /// Counter `i` (modulo 8).
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "the mask bounds it")]
    pub fn get(&self, i: usize) -> u64 {
        self.c[i & (PER_LINE - 1)].get()
    }

    /// Sets all to 0; for one that nobody counts in.
    #[cfg(not(target_arch = "bpf"))]
    pub fn clear(&self) {
        for c in &self.c {
            c.set(0);
        }
    }
}

/// What is counted for each VIP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum VipCounter {
    /// Frames forwarded.
    Packets = 0,
    /// Bytes of their IP packets, before encapsulation.
    Bytes = 1,
    /// Of these frames: those whose real the ring chose.
    Ring = 2,
    /// Flows entered into the flow table (or written anew by a SYN).
    Entered = 3,
    /// Of these: those that took the place of another flow.
    Evicted = 4,
}

impl VipCounter {
    /// All, with the names that listings use.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Packets, "packets"),
        (Self::Bytes, "bytes"),
        (Self::Ring, "ring"),
        (Self::Entered, "entered"),
        (Self::Evicted, "evicted"),
    ];
}

/// What a seat counts of its own work: not part of the verdict, and not equal in both seats.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum SeatCounter {
    /// Kernel: frames handed to a worker.
    HandedOver = 0,
    /// Kernel: mode afxdp, but the queue has no socket; the frame was forwarded here.
    NoSocket = 1,
    /// Worker: a frame was moved inside its UMEM chunk, because its real needed another room than was made.
    RoomMoved = 2,
    /// Worker: the frame's VIP was removed while it was under way.
    VipGone = 3,
    /// Worker: a frame that must not come here (the core passes it), or a bad hand-over header. Always 0.
    Defect = 4,
    /// Worker: a frame was dropped because the TX ring stayed full.
    TxFull = 5,
}

impl SeatCounter {
    /// All, with the names that listings use.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::HandedOver, "handed-over"),
        (Self::NoSocket, "no-socket"),
        (Self::RoomMoved, "room-moved"),
        (Self::VipGone, "vip-gone"),
        (Self::Defect, "defect"),
        (Self::TxFull, "tx-full"),
    ];
}

/// Line and index of a reason's counter.
#[inline(always)]
pub fn reason_at(reason: Reason) -> (u32, usize) {
    let i = reason as u32;
    (i >> PER_LINE.trailing_zeros(), i as usize & (PER_LINE - 1))
}

/// Line of a VIP's counters.
#[inline(always)]
pub fn vip_at(vip: u32) -> u32 {
    VIP_LINES.wrapping_add(vip & (MAX_VIPS - 1))
}

/// Line of a real's counters, and the index of its packets; its bytes (of IP packet) come next.
#[inline(always)]
pub fn real_at(real: u32) -> (u32, usize) {
    let real = real & (MAX_REALS - 1);
    (REAL_LINES.wrapping_add(real / REALS_PER_LINE), ((real & (REALS_PER_LINE - 1)) << 1) as usize)
}

/// Adds `n` to one of this core's seat counters.
#[inline(always)]
pub fn count_seat<M: Memory>(memory: &M, counter: SeatCounter, n: u64) {
    if let Some(line) = memory.seat() {
        line.add(counter as usize, n);
    }
}
