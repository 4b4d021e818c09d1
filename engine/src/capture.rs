//! What both seats tell of a captured frame, in front of its bytes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a frame that are told at most; a mask, which the verifier takes for a bound.
pub const MOST: usize = 0x7ff;

/// One sight of a frame, 48 bytes: as it came in, or as it left and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Sight {
    /// What the frame is known by, not 0; the same as it came in and as it left.
    pub mark: u64,
    /// Nanoseconds of the monotonic clock.
    pub time: u64,
    /// Bytes of the frame.
    pub len: u32,
    /// How many of them follow.
    pub caught: u32,
    /// Index of the interface; 0: that which it came in by.
    pub interface: u32,
    /// The RX queue that it came from.
    pub queue: u32,
    /// [`Reason`](crate::Reason) plus one; 0: it came in.
    pub reason: u32,
    /// The real's id; 0: none was chosen.
    pub real: u32,
    /// Who chose the real: a [`From`](crate::From).
    pub from: u32,
    /// Nothing: an odd number of words would leave undefined bytes at the end.
    pub rest: u32,
}

const _: () = assert!(size_of::<Sight>() == 48);

impl Sight {
    /// Reads it from the start of what a program told; and the rest, which is filled up to whole words.
    #[inline]
    pub fn read(told: &[u8]) -> Option<(Self, &[u8])> {
        let (sight, rest) = Self::read_from_prefix(told).ok()?;
        Some((sight, rest.get(..sight.caught as usize).unwrap_or(rest)))
    }
}
