//! From the real to the frame as it leaves: one file a forwarding method.

mod gue;
mod ipip;

use crate::memory::counters::{Event, count_event};
use crate::memory::reals::Hop;
use crate::memory::{Addr, Memory, Root, features};
use crate::packet::Packet;
use crate::parse::Flow;
use crate::verdict::{Reason, Stop};
use crate::wire::{Ethernet, Header, Ipv6, Udp};

/// The most bytes that any method puts in front of the client's packet.
pub const ROOM_MAX: usize = const { Ipv6::LEN + Udp::LEN };

/// Bytes that a method puts in front of the client's packet for a real of this family.
pub const fn room_for(real_is_v6: bool, gue: bool) -> u8 {
    match (real_is_v6, gue) {
        (false, false) => 20,
        (false, true) => 28,
        (true, false) => 40,
        (true, true) => 48,
    }
}

/// Where an outer header leads.
pub(crate) struct Path<'a> {
    pub root: &'a Root,
    pub hop: Hop,
    pub addr: Addr,
    pub katran: bool,
    /// Source MAC of the frame.
    pub from: u64,
    /// The client's port, as sources are crafted from it.
    pub port: u32,
}

impl Path<'_> {
    /// Writes the Ethernet header of the new frame.
    #[inline(always)]
    fn emit(&self, eth: &mut Ethernet, ethertype: u16) {
        eth.emit(self.hop.mac(), self.from, ethertype);
    }

    /// Flags of outer IPv4 headers: "don't fragment", which Katran leaves out.
    #[inline(always)]
    fn fragment(&self) -> u16 {
        if self.katran { 0 } else { crate::wire::DONT_FRAGMENT }
    }
}

/// Encapsulates the frame towards a real. `port`: the client's source port as the VIP's flags leave it, as on the wire.
#[inline(always)]
pub fn deliver<P: Packet, M: Memory>(
    packet: &mut P,
    memory: &M,
    root: &Root,
    flow: &Flow,
    real: u32,
    port: u32,
) -> Result<(), Stop> {
    let real = memory.real(real).ok_or(Stop::of(Reason::NoReal))?;
    let hop = real.hop();
    if !hop.is_present() {
        return Err(Stop::of(Reason::NoReal));
    }
    let katran = memory.has(root, features::KATRAN);
    let done = if hop.is_resolved() {
        // Katran answers with the MAC that it was called by.
        let called = |packet: &P| Ethernet::view(packet, 0).map(Ethernet::destination);
        let from = if katran { called(packet).unwrap_or(0) } else { root.local_mac.get() };
        // Made where it is used: what a function that is not inlined gets is written to the stack first.
        let path = || Path { root, hop, addr: real.addr(), katran, from, port };
        if memory.has(root, features::GUE) && hop.is_gue() {
            gue::encapsulate(packet, flow, &path())
        } else {
            ipip::encapsulate(packet, flow, &path()).ok_or(Reason::NoHeadroom)
        }
    } else {
        Err(Reason::NoNextHop)
    };
    done.map_err(|reason| {
        count_event(memory, if hop.is_v6() { Event::EncapFailedV6 } else { Event::EncapFailedV4 });
        Stop::of(reason)
    })
}
