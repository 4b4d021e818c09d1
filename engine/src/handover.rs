//! How the XDP program tells a worker what it did to a frame.
//!
//! In mode afxdp the program classifies the frame, makes room for the VIP's largest outer header in front of it and
//! redirects it, without its VLAN tag. The first bytes of that room hold a [`Handover`]:
//!
//! ```text
//! | Handover, 4 B | unused room | Ethernet | IP ...
//! |<------- room bytes -------->|
//! ```
//!
//! Behind the header of a frame that is captured are the 8 bytes of its mark ([`crate::capture`]).

use crate::memory::vips::SAME_TAG;
use crate::memory::{Memory, features};
use crate::packet::Packet;
use crate::parse::Flow;
use crate::vlan;
use crate::wire::{Header, TAG_LEN, header};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The version that both sides of one build speak.
pub const VERSION: u8 = 2;
/// Sockets of one interface at most, by receive queue: the XSKMAP has as many places for each of the [`INTERFACES`].
pub const QUEUES: u32 = 256;
/// Interfaces of one balancer at most.
pub const INTERFACES: u32 = 16;
/// Beside [`VERSION`], in the same byte: the frame had a VLAN tag.
const TAGGED: u8 = 1 << 7;
/// The same: the frame is captured, and its mark follows.
const MARKED: u8 = 1 << 6;
/// Bytes of a mark.
const MARK_LEN: usize = 8;

/// The header of a frame that was handed over, 4 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Handover {
    /// Bytes from here to the frame's Ethernet header.
    pub room: u8,
    /// [`VERSION`], and in the two top bits whether there was a VLAN tag, and whether the frame is captured.
    pub version: u8,
    /// The tag's control information, the low byte first; zero if there was none.
    pub control: [u8; 2],
}
header!(Handover);

impl Handover {
    /// Reads it from the start of what a worker received; `None` if it is not one of ours.
    #[inline]
    pub fn read(received: &[u8]) -> Option<Self> {
        let (handover, _) = Self::read_from_prefix(received).ok()?;
        let sane = handover.version & !(TAGGED | MARKED) == VERSION
            && usize::from(handover.room) >= handover.len()
            && usize::from(handover.room) <= received.len();
        sane.then_some(handover)
    }

    /// Bytes of the header, with what follows it.
    #[inline(always)]
    const fn len(&self) -> usize {
        if self.version & MARKED != 0 { Self::LEN.wrapping_add(MARK_LEN) } else { Self::LEN }
    }

    /// What the captured frame is known by; 0: it is not captured.
    #[inline]
    pub fn mark(&self, received: &[u8]) -> u64 {
        if self.version & MARKED == 0 {
            return 0;
        }
        let mark = received.get(Self::LEN..).and_then(|rest| rest.first_chunk());
        mark.map_or(0, |mark| u64::from_le_bytes(*mark))
    }

    /// The VLAN tag that was taken off the frame, as [`vlan`] has it; 0: none.
    #[inline(always)]
    pub const fn vlan(&self) -> u32 {
        let control = u16::from_le_bytes(self.control) as u32;
        if self.version & TAGGED != 0 { vlan::PRESENT | control } else { 0 }
    }
}

/// Makes the room and writes the header. `mark`: what a captured frame is known by, or 0. `false`: there is no room in front of
/// the frame.
#[inline(always)]
pub fn make_room<P: Packet, M: Memory>(packet: &mut P, memory: &M, flow: &Flow, mark: u64) -> bool {
    let tag = if memory.can(features::VLANS) { flow.vlan } else { 0 };
    let more = if tag != 0 && flow.vip.flags & SAME_TAG != 0 { TAG_LEN as u32 } else { 0 };
    let version = if tag != 0 { VERSION | TAGGED } else { VERSION };
    let version = if mark != 0 { version | MARKED } else { version };
    let mut header = Handover { room: 0, version, control: (tag as u16).to_le_bytes() };
    let room = flow.vip.room().wrapping_add(more).max(header.len() as u32) as usize;
    header.room = room as u8;
    if !packet.grow_head(room) {
        return false;
    }
    if mark != 0 {
        match packet.bytes_mut::<MARK_LEN>(Handover::LEN) {
            Some(place) => *place = mark.to_le_bytes(),
            None => return false,
        }
    }
    match Handover::view_mut(packet, 0) {
        Some(place) => {
            *place = header;
            true
        }
        None => false,
    }
}
