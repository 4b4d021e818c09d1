//! From the real to the frame as it leaves: one file a forwarding method.

mod gue;
mod ipip;
mod l2;
mod tunnel;

pub(crate) use tunnel::{GENEVE, GENEVE_ETHERNET, SHORT};

use crate::memory::counters::{Event, count_event};
use crate::memory::reals::{Hop, Method};
use crate::memory::{Addr, Memory, Root, features};
use crate::packet::Packet;
use crate::parse::{Flow, Part};
use crate::verdict::{Reason, Stop};
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

/// The same for a real's entry.
#[inline(always)]
pub fn overhead(hop: Hop) -> u32 {
    let ip = if hop.is_v6() { Ipv6::LEN } else { Ipv4::LEN };
    let all = if hop.is(Method::L2) {
        0
    } else if hop.is(Method::Ipip) {
        ip
    } else {
        ip.wrapping_add(tunnel::between(hop))
    };
    all as u32
}

/// Whether the client's packet and its outer headers are within the MTU of the way to its real. If not, its sender is told as
/// by any router (RFC 1191 section 4, RFC 8201 section 4), but never an ICMP error's or a later fragment's (RFC 1122 section
/// 3.2.2), and never of less than its family always takes.
#[inline(always)]
fn fits_the_way<P: Packet>(packet: &mut P, flow: &Flow, hop: Hop, mtu: u16, answers: bool) -> Result<(), Stop> {
    let fits = (mtu as u32).saturating_sub(overhead(hop));
    if mtu == 0 || flow.len <= fits {
        return Ok(());
    }
    let told = fits.max(if flow.is_v6 { 1280 } else { 68 });
    let answers = answers && !flow.quoted && flow.part != Part::Later && flow.len > told;
    Err(if answers { crate::answer::too_big(packet, flow, told) } else { Stop::of(Reason::PathMtu) })
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
    if memory.has(root, features::PATH_MTU) && !katran && hop.is_narrow() && hop.is_resolved() {
        let answers = memory.has(root, features::TOO_BIG);
        fits_the_way(packet, flow, hop, real.out().mtu, answers)?;
    }
    let done = if hop.is_resolved() {
        // Katran answers with the MAC that it was called by.
        let called = |packet: &P| Ethernet::view(packet, 0).map(Ethernet::destination);
        let from = if katran { called(packet).unwrap_or(0) } else { root.local_mac.get() };
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
    done.map_err(|reason| {
        count_event(memory, if hop.is_v6() { Event::EncapFailedV6 } else { Event::EncapFailedV4 });
        Stop::of(reason)
    })
}
