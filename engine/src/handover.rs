//! How the XDP program tells a worker what it did to a frame.
//!
//! In mode afxdp the program classifies the frame, makes room for the VIP's largest outer header in front of it and
//! redirects it. The first bytes of that room hold a [`Handover`]:
//!
//! ```text
//! | Handover, 4 B | unused room | Ethernet | IP ...
//! |<------- room bytes -------->|
//! ```

use crate::memory::Vip;
use crate::packet::Packet;
use crate::wire::{Header, header};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The version that both sides of one build speak.
pub const VERSION: u8 = 1;

/// The header of a frame that was handed over, 4 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Handover {
    /// Bytes from here to the frame's Ethernet header.
    pub room: u8,
    /// [`VERSION`].
    pub version: u8,
    /// Zero.
    pub zero: [u8; 2],
}
header!(Handover);

impl Handover {
    /// Reads it from the start of what a worker received; `None` if it is not one of ours.
    #[inline]
    pub fn read(received: &[u8]) -> Option<Self> {
        let (handover, _) = Self::read_from_prefix(received).ok()?;
        let sane = handover.version == VERSION
            && usize::from(handover.room) >= Self::LEN
            && usize::from(handover.room) <= received.len();
        sane.then_some(handover)
    }
}

/// Makes the room and writes the header. `false`: there is no room in front of the frame.
#[inline(always)]
pub fn make_room<P: Packet>(packet: &mut P, vip: &Vip) -> bool {
    let room = vip.room().max(Handover::LEN as u32) as usize;
    if !packet.grow_head(room) {
        return false;
    }
    match Handover::view_mut(packet, 0) {
        Some(header) => {
            *header = Handover { room: room as u8, version: VERSION, zero: [0; 2] };
            true
        }
        None => false,
    }
}
