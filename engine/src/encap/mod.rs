//! From the real to the frame as it leaves: one file a forwarding method.

mod ipip;

use crate::memory::reals::Hop;
use crate::memory::{Addr, Memory, Root};
use crate::packet::Packet;
use crate::parse::Flow;
use crate::verdict::{Reason, Verdict};
use crate::wire::{Ipv4, Ipv6};

/// The most bytes that any method puts in front of the client's packet.
pub const ROOM_MAX: usize = Ipv6::LEN;

/// Bytes that IPIP puts in front of the client's packet for a real of this family.
pub const fn room_for(real_is_v6: bool) -> u8 {
    (if real_is_v6 { Ipv6::LEN } else { Ipv4::LEN }) as u8
}

/// Where an outer header leads.
pub(crate) struct Path<'a> {
    pub root: &'a Root,
    pub hop: Hop,
    pub addr: Addr,
}

/// Encapsulates the frame towards a real.
#[inline(always)]
pub fn deliver<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, flow: &Flow, real: u32) -> Result<(), Verdict> {
    let real = memory.real(real).ok_or(Verdict::Drop(Reason::NoReal))?;
    let hop = real.hop();
    if !hop.is_present() {
        return Err(Verdict::Drop(Reason::NoReal));
    }
    if !hop.is_resolved() {
        return Err(Verdict::Drop(Reason::NoNextHop));
    }
    let path = Path { root, hop, addr: real.addr() };
    ipip::encapsulate(packet, flow, &path).ok_or(Verdict::Drop(Reason::NoHeadroom))
}
