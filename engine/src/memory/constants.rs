//! What is known when a kernel program is loaded, and is an immediate of its instructions: a load from memory would be two
//! instructions more, and the verifier knows an immediate as well.
//!
//! The object has a [`Constant`]'s own number where the loader puts its value.

/// The first of their numbers. Nothing else has an immediate from here on.
const FIRST: u32 = 0x7a7d_0000;
/// Numbers that are kept for them.
const NUMBERS: u32 = 0x100;

// The kernel extends an immediate's sign.
const _: () = assert!(FIRST + NUMBERS < 1 << 31);

/// A number that the loader puts into the programs, below 2^31.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Constant {
    /// Not 0 for replays and tests: the clock is the root's `tick`, and all is counted in block 0.
    Replay = FIRST,
    /// Not 0 where every decision is written to the trace cell.
    Traced,
    /// The [`features`](super::features) that the program is loaded for.
    Features,
    /// 0 where usual frames have a way of their own.
    Unusual,
    /// Slots of both halves of the VIP table, less one (a power of two less one, as all masks).
    SlotMask,
    /// Reals less one.
    RealMask,
    /// VIPs that a core's counters have room for, less one.
    VipMask,
    /// Sets of the flow table, less one.
    FlowMask,
    /// Lines that keep what their flows asked the ring by, less one.
    HashMask,
    /// Lines of the rings.
    RingLines,
    /// What is taken of a CPU's number: nothing of it for replays.
    CpuMask,
    /// Blocks of counters.
    Blocks,
    /// Bytes of one of them.
    BlockBytes,
    /// Bytes of one in front of the counters of reals.
    RealCounts,
    /// 0 where the VIP table is one value, whose address is in the program; else its slots are looked up.
    LookUpVips,
    /// The same of the rings' lines.
    LookUpRings,
    /// The same of the flow table's sets.
    LookUpFlows,
    /// The same of the lines beside them.
    LookUpHashes,
    /// The same of the blocks of counters.
    LookUpCounts,
    /// Not 0 where the program is loaded for this feature, as all from here on: the way of the usual frames asks for them one by one.
    Guard,
    /// [`features::TCP_ID`](super::features::TCP_ID).
    TcpId,
    /// [`features::DECAP_GUE`](super::features::DECAP_GUE).
    DecapGue,
    /// [`features::PREFIX_VIPS`](super::features::PREFIX_VIPS).
    PrefixVips,
    /// [`features::NAT`](super::features::NAT).
    Nat,
}

impl Constant {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 24] = [
        Self::Replay,
        Self::Traced,
        Self::Features,
        Self::Unusual,
        Self::SlotMask,
        Self::RealMask,
        Self::VipMask,
        Self::FlowMask,
        Self::HashMask,
        Self::RingLines,
        Self::CpuMask,
        Self::Blocks,
        Self::BlockBytes,
        Self::RealCounts,
        Self::LookUpVips,
        Self::LookUpRings,
        Self::LookUpFlows,
        Self::LookUpHashes,
        Self::LookUpCounts,
        Self::Guard,
        Self::TcpId,
        Self::DecapGue,
        Self::PrefixVips,
        Self::Nat,
    ];

    /// Whether this immediate is the number of a constant, be it one of another version.
    pub const fn is_one(immediate: u32) -> bool {
        immediate.wrapping_sub(FIRST) < NUMBERS
    }

    /// The constant with this number.
    pub fn of(number: u32) -> Option<Self> {
        Self::ALL.get(number.wrapping_sub(FIRST) as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::{Constant, FIRST, NUMBERS};

    #[test]
    fn numbers_are_those_of_the_list() {
        for (constant, number) in Constant::ALL.into_iter().zip(FIRST..) {
            assert_eq!((constant as u32, Constant::of(number)), (number, Some(constant)));
            assert!(Constant::is_one(number));
        }
        assert_eq!(Constant::of(FIRST + Constant::ALL.len() as u32), None);
        assert!(!Constant::is_one(FIRST - 1) && Constant::is_one(FIRST + NUMBERS - 1) && !Constant::is_one(FIRST + NUMBERS));
    }
}
