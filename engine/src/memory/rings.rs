//! The Maglev rings: lines of 32 slots, a VIP's ring in consecutive lines. Line 0 stays zero: the ring of those who have none.
//!
//! A slot does not hold a real's id but its number among the VIP's, which [`Vip::first`](super::Vip::first) makes the id of: VIPs that
//! have the same reals, under ids of their own, share one ring.

use super::shared::S16;

/// Slots of one line.
pub const SLOTS_PER_LINE: u32 = 32;

/// Numbers of a VIP's reals at most, from 1 on.
pub const MOST: u32 = u16::MAX as u32;

/// 32 slots, each a real's number among its VIP's; 64 bytes.
#[repr(C, align(64))]
#[cfg_attr(not(target_arch = "bpf"), derive(Default, Debug))]
pub struct RingLine {
    slot: [S16; SLOTS_PER_LINE as usize],
}

const _: () = assert!(size_of::<RingLine>() == 64);

impl RingLine {
    /// The number of the real in `slot` (modulo 32); 0: nobody.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "the mask bounds it")]
    pub fn get(&self, slot: u32) -> u32 {
        self.slot[(slot & (SLOTS_PER_LINE - 1)) as usize].get() as u32
    }
}

/// The slot of a ring of `len` slots that a 32-bit hash falls into, by multiplication instead of a division (Lemire, 2019).
#[inline(always)]
pub fn slot_of(hash: u32, len: u32) -> u32 {
    ((hash as u64).wrapping_mul(len as u64) >> 32) as u32
}

#[cfg(not(target_arch = "bpf"))]
impl RingLine {
    /// Writes up to 32 numbers from the line's start; what is left over becomes 0.
    pub fn fill(&self, numbers: &[u16]) {
        for (i, slot) in self.slot.iter().enumerate() {
            slot.set(numbers.get(i).copied().unwrap_or(0));
        }
    }

    /// Lines that a ring of `len` slots takes.
    pub fn lines(len: u32) -> u32 {
        len.div_ceil(SLOTS_PER_LINE)
    }
}
