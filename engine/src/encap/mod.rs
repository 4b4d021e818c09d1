//! From the real to the frame as it leaves: one file a forwarding method.

mod gue;
mod ipip;
mod l2;
mod tunnel;

pub(crate) use tunnel::{GENEVE, GENEVE_ETHERNET, SHORT};

use crate::memory::counters::{Event, count_event};
use crate::memory::reals::{Hop, Method};
use crate::memory::{Addr, Memory, Real, Root, features};
use crate::packet::Packet;
use crate::parse::Flow;
use crate::verdict::{Reason, Stop};
use crate::vlan;
use crate::wire::{Ethernet, Header, Ipv4, Ipv6, Udp};

/// The most bytes that any method puts in front of the client's packet.
pub const ROOM_MAX: usize = const { Ipv6::LEN + Udp::LEN + tunnel::GENEVE_ETHERNET };

/// Bytes that a method puts in front of the client's packet for a real of this family.
pub const fn room_for(real_is_v6: bool, method: Method) -> u8 {
    if let Method::L2 = method {
        return 0;
    }
    let (has_udp, own) = tunnel::layers(method);
    let ip = if real_is_v6 { Ipv6::LEN } else { Ipv4::LEN };
    let udp = if has_udp { Udp::LEN } else { 0 };
    // 70 at most
    ip.wrapping_add(udp).wrapping_add(own) as u8
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

/// Source MAC of a frame to a real. One that leaves by whichever of several interfaces it came in by has the MAC that it came
/// to, unless the real's way has one.
#[inline(always)]
fn source<P: Packet, M: Memory>(packet: &P, memory: &M, root: &Root, real: &Real, katran: bool) -> u64 {
    // Katran answers with the MAC that it was called by.
    if katran {
        return called(packet);
    }
    if memory.has(root, features::SEVERAL) {
        let own = real.from();
        if own != 0 || real.out().interface == 0 {
            return if own != 0 { own } else { called(packet) };
        }
    }
    root.local_mac.get()
}

/// The MAC that the frame came to.
#[inline(always)]
fn called<P: Packet>(packet: &P) -> u64 {
    Ethernet::view(packet, 0).map_or(0, Ethernet::destination)
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
        let from = source(packet, memory, root, real, katran);
        // Made where it is used: what a function that is not inlined gets is written to the stack first.
        let path = || Path { root, hop, addr: real.addr(), katran, from, port };
        let in_tunnel = memory.has(root, features::TUNNELS) && !hop.is(Method::Ipip) && !hop.is(Method::L2);
        if in_tunnel && katran {
            gue::encapsulate(packet, flow, &path())
        } else if in_tunnel {
            tunnel::encapsulate(packet, flow, &path(), real)
        } else if memory.has(root, features::L2) && hop.is(Method::L2) {
            l2::forward(packet, flow, &path()).ok_or(Reason::NoHeadroom)
        } else {
            ipip::encapsulate(packet, flow, &path()).ok_or(Reason::NoHeadroom)
        }
    } else {
        Err(Reason::NoNextHop)
    };
    let done = done.and_then(|()| {
        let tag = if memory.can(features::VLANS) { vlan::leaving(flow.vlan, real.out().vlan) } else { 0 };
        if tag == 0 || packet.put_tag(tag) { Ok(()) } else { Err(Reason::NoHeadroom) }
    });
    done.map_err(|reason| {
        count_event(memory, if hop.is_v6() { Event::EncapFailedV6 } else { Event::EncapFailedV4 });
        Stop::of(reason)
    })
}
