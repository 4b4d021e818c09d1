//! From the packet of one side to the packet of the other: addresses, ports, checksums, and if need be the IP header.

use super::source;
use crate::checksum;
use crate::encap::source as source_mac;
use crate::memory::{Addr, Memory, Nat, Real, Root};
use crate::packet::Packet;
use crate::parse::{Flow, Part};
use crate::verdict::Reason::{NatUntranslatable, NoHeadroom, NoNextHop, NoReal};
use crate::verdict::{Reason, Stop};
use crate::wire::{
    DONT_FRAGMENT, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, FragmentHeader, Header, IPPROTO_FRAGMENT, IPPROTO_TCP, IPPROTO_UDP,
    Ipv4, Ipv6, Udp,
};

/// Where IPv4's transport header is, without options, and IPv6's.
pub(super) const L4_V4: usize = const { Ethernet::LEN + Ipv4::LEN };
pub(super) const L4_V6: usize = const { Ethernet::LEN + Ipv6::LEN };
/// Where a UDP header has its checksum.
const UDP_CHECKSUM: usize = 6;

/// What a packet becomes.
#[derive(Clone, Copy)]
pub(super) struct New {
    pub src: Addr,
    pub dst: Addr,
    /// Source port (low half) and destination port, as on the wire.
    pub ports: u32,
    pub is_v6: bool,
    /// Next hop's MAC and our own.
    pub to: u64,
    pub from: u64,
}

/// Translates the frame, which is no ICMP error: that of a client towards real `id`, or a reply. `flow.nat` is its place; of
/// a later fragment there is none. Gives a raw [`Stop`], 0: it is done.
#[inline(always)]
pub fn translate<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, flow: &Flow, id: u32) -> u32 {
    let Some(new) = new(packet, memory, root, flow, id) else { return failed(NoReal) };
    if new.to == 0 {
        return failed(NoNextHop);
    }
    let to_v6 = new.is_v6 && !flow.is_v6;
    let no_checksum = to_v6 && has_no_checksum(packet, flow);
    if no_checksum && flow.part == Part::First {
        return FAILED_TRANSLATION;
    }
    done(rewrite(packet, flow, &new, no_checksum))
}

#[inline(always)]
fn rewrite<P: Packet>(packet: &mut P, flow: &Flow, new: &New, no_checksum: bool) -> Option<()> {
    let grown = addresses_grown((flow.src, flow.dst), (new.src, new.dst));
    let l4 = if flow.is_v6 == new.is_v6 {
        in_place(packet, flow, new, grown)?
    } else if new.is_v6 {
        to_v6(packet, flow, new)?
    } else {
        to_v4(packet, flow, new)?
    };
    if flow.part != Part::Later {
        transport(packet, l4, flow.protocol, new.ports, grown)?;
    }
    if no_checksum {
        fill_checksum(packet, new, payload(flow))?;
    }
    link(packet, new)
}

/// What the frame becomes.
#[inline(always)]
pub(super) fn new<P: Packet, M: Memory>(packet: &P, memory: &M, root: &Root, flow: &Flow, id: u32) -> Option<New> {
    let nat = flow.nat.checked_sub(1).and_then(|at| memory.nat(at));
    if let Some(nat) = nat.filter(|_| flow.is_reply) {
        return Some(reply(nat));
    }
    let real = memory.real(nat.map_or(id, Nat::real))?;
    let from = source_mac(packet, memory, root, real, false);
    Some(match nat {
        Some(nat) => forward(packet, root, flow, nat, real, from),
        None => fragment(root, flow, real, from),
    })
}

/// Writes the Ethernet header.
#[inline(always)]
pub(super) fn link<P: Packet>(packet: &mut P, new: &New) -> Option<()> {
    Ethernet::view_mut(packet, 0)?.emit(new.to, new.from, if new.is_v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 });
    Some(())
}

#[inline(always)]
pub(super) const fn failed(reason: Reason) -> u32 {
    Stop::raw(Some(Stop::of(reason)))
}

pub(super) const FAILED_TRANSLATION: u32 = failed(NatUntranslatable);

/// 0, or there was no room.
#[inline(always)]
pub(super) const fn done(what: Option<()>) -> u32 {
    const FAILED: u32 = failed(NoHeadroom);
    if what.is_some() { 0 } else { FAILED }
}

/// A client's packet, on its way to the real.
#[inline(always)]
fn forward<P: Packet>(packet: &P, root: &Root, flow: &Flow, nat: &Nat, real: &Real, from: u64) -> New {
    let found = nat.read();
    // An ICMP error may come from any router.
    if let (false, Some(eth)) = (flow.quoted, Ethernet::view(packet, 0)) {
        nat.set_way_back(eth.source(), eth.destination(), flow.interface, flow.vlan);
    }
    let src = if found.source() == 0 { found.client } else { root.nat.source(found.source().wrapping_sub(1)) };
    let ports = (found.ports >> 32) as u32;
    new_to(from, real, src, ports.rotate_left(16))
}

/// A later fragment of a client's: without ports, from the address that the client always gets.
#[inline(always)]
fn fragment(root: &Root, flow: &Flow, real: &Real, from: u64) -> New {
    let src = match source(root, flow.src, real.hop().is_v6()).checked_sub(1) {
        Some(index) => root.nat.source(index),
        None => flow.src,
    };
    new_to(from, real, src, 0)
}

#[inline(always)]
fn new_to(from: u64, real: &Real, src: Addr, ports: u32) -> New {
    let hop = real.hop();
    New { src, dst: real.addr(), ports, is_v6: hop.is_v6(), to: hop.mac(), from }
}

/// A real's packet, on its way to the client: by the MAC that the client's came from.
#[inline(always)]
fn reply(nat: &Nat) -> New {
    let found = nat.read();
    let ports = (found.ports as u32).rotate_left(16);
    New { src: found.vip, dst: found.client, ports, is_v6: found.client_v6(), to: nat.back(), from: nat.home() }
}

/// What the checksum's sum grows by if `old` becomes `new` (RFC 1624 equation 3).
#[inline(always)]
pub(super) const fn grown(old: u64, new: u64) -> u64 {
    const fn fold(word: u64) -> u64 {
        (word & 0xffff_ffff).wrapping_add(word >> 32)
    }
    fold(!old).wrapping_add(fold(new))
}

#[inline(always)]
pub(super) fn addresses_grown(old: (Addr, Addr), new: (Addr, Addr)) -> u64 {
    let (([a, b], [c, d]), ([e, f], [g, h])) = (old, new);
    grown(a, e).wrapping_add(grown(b, f)).wrapping_add(grown(c, g)).wrapping_add(grown(d, h))
}

/// A checksum after its sum grew.
#[inline(always)]
pub(super) const fn after(checksum: [u8; 2], grown: u64) -> [u8; 2] {
    checksum::finish((!u16::from_ne_bytes(checksum) as u64).wrapping_add(grown)).to_ne_bytes()
}

/// The same family: only what differs is written. Gives where the transport header is.
#[inline(always)]
fn in_place<P: Packet>(packet: &mut P, flow: &Flow, new: &New, grown: u64) -> Option<usize> {
    if new.is_v6 {
        let ip = Ipv6::view_mut(packet, Ethernet::LEN)?;
        ip.decrement_hop_limit();
        ip.set_addresses(new.src, new.dst);
    } else {
        let ip = Ipv4::view_mut(packet, Ethernet::LEN)?;
        ip.decrement_ttl();
        ip.checksum = after(ip.checksum, grown);
        ip.src = (new.src[0] as u32).to_ne_bytes();
        ip.dst = (new.dst[0] as u32).to_ne_bytes();
    }
    Some(flow.l4())
}

/// New ports and checksum for the transport header at `at`; `grown` is what the pseudo header's sum grew by. A header that
/// was cut off behind its ports keeps what there is of its checksum.
#[inline(always)]
pub(super) fn transport<P: Packet>(packet: &mut P, at: usize, protocol: u8, ports: u32, grown: u64) -> Option<()> {
    let window = packet.bytes_anywhere_mut::<4>(at)?;
    let old = u32::from_ne_bytes(*window);
    *window = ports.to_ne_bytes();
    let grown = grown.wrapping_add(self::grown(old as u64, ports as u64));
    if protocol == IPPROTO_TCP {
        const CHECKSUM: usize = 16;
        if let Some(checksum) = packet.bytes_anywhere_mut::<2>(at.wrapping_add(CHECKSUM)) {
            *checksum = after(*checksum, grown);
        }
    } else {
        if let Some(checksum) = packet.bytes_anywhere_mut::<2>(at.wrapping_add(UDP_CHECKSUM))
            && *checksum != [0; 2]
        {
            *checksum = no_zero(after(*checksum, grown));
        }
    }
    Some(())
}

/// A UDP checksum of 0 means none; the other zero is sent instead (RFC 768).
#[inline(always)]
const fn no_zero(checksum: [u8; 2]) -> [u8; 2] {
    match checksum {
        [0, 0] => [0xff, 0xff],
        other => other,
    }
}

/// Moves the frame's start, so that the transport header which is at `l4` comes to be at `wanted`.
#[inline(always)]
pub(super) fn place_l4<P: Packet>(packet: &mut P, l4: usize, wanted: usize) -> Option<()> {
    const MOST: usize = 255;
    if l4 <= wanted {
        return (l4 == wanted || packet.grow_head(wanted.wrapping_sub(l4))).then_some(());
    }
    let mut left = l4.wrapping_sub(wanted);
    for _ in 0..3 {
        let by = if left > MOST { MOST } else { left };
        if by != 0 && !packet.shrink_head(by) {
            return None;
        }
        left = left.wrapping_sub(by);
    }
    (left == 0).then_some(())
}

/// Bytes from the transport header to the packet's end.
#[inline(always)]
fn payload(flow: &Flow) -> u32 {
    flow.len.wrapping_sub(flow.l4.wrapping_sub(Ethernet::LEN as u32))
}

/// A UDP packet without a checksum: IPv6 wants one (RFC 8200 section 8.1).
#[inline(always)]
fn has_no_checksum<P: Packet>(packet: &P, flow: &Flow) -> bool {
    flow.protocol == IPPROTO_UDP
        && flow.part != Part::Later
        && packet.bytes_anywhere::<2>(flow.l4().wrapping_add(UDP_CHECKSUM)).is_none_or(|sum| *sum == [0; 2])
}

/// Gives it one, in IPv6.
#[inline(always)]
fn fill_checksum<P: Packet>(packet: &mut P, new: &New, len: u32) -> Option<()> {
    let sum = packet.sum(L4_V6, len as usize)?.wrapping_add(pseudo_header(new, len, IPPROTO_UDP));
    let checksum = no_zero(checksum::finish(sum).to_ne_bytes());
    Udp::view_mut(packet, L4_V6)?.checksum = u16::from_be_bytes(checksum).into();
    Some(())
}

/// IPv4 to IPv6 (RFC 7915 section 4.1). Options are left out; a fragment gets a fragment header, of the same offset and
/// identification. Gives where the transport header is.
#[inline(always)]
fn to_v6<P: Packet>(packet: &mut P, flow: &Flow, new: &New) -> Option<usize> {
    let whole = flow.part == Part::Whole;
    let (between, next) = if whole { (0, flow.protocol) } else { (FragmentHeader::LEN, IPPROTO_FRAGMENT) };
    let (payload, l4) = (payload(flow).wrapping_add(between as u32), L4_V6.wrapping_add(between));
    place_l4(packet, flow.l4(), l4)?;
    emit_v6(Ipv6::view_mut(packet, Ethernet::LEN)?, flow, new, payload, next);
    if !whole {
        FragmentHeader::view_mut(packet, L4_V6)?.emit(flow.protocol, flow.fragment_at, flow.fragment);
    }
    Some(l4)
}

/// IPv6 to IPv4 (RFC 7915 section 5.1). Extension headers are left out. "Don't fragment" is set in what is no fragment: no
/// identification has to be made up (RFC 6864), and the sender is one that expects to be told. Gives where the transport header
/// is.
#[inline(always)]
fn to_v4<P: Packet>(packet: &mut P, flow: &Flow, new: &New) -> Option<usize> {
    place_l4(packet, flow.l4(), L4_V4)?;
    let ip = Ipv4::view_mut(packet, Ethernet::LEN)?;
    emit_v4(ip, flow, new, payload(flow), flow.protocol);
    if flow.part != Part::Whole {
        ip.set_fragment(flow.fragment as u16, flow.fragment_at);
    }
    Some(L4_V4)
}

#[inline(always)]
pub(super) fn emit_v6(ip: &mut Ipv6, flow: &Flow, new: &New, payload: u32, next_header: u8) {
    ip.emit_outer(new.src, new.dst, flow.tos, payload, next_header);
    ip.hop_limit = flow.ttl.wrapping_sub(1);
}

#[inline(always)]
pub(super) fn emit_v4(ip: &mut Ipv4, flow: &Flow, new: &New, payload: u32, protocol: u8) {
    ip.emit(new.src[0] as u32, new.dst[0] as u32, flow.tos, payload, protocol, DONT_FRAGMENT);
    ip.ttl = flow.ttl.wrapping_sub(1);
    ip.renew_checksum();
}

/// The sum of the pseudo header (RFC 8200 section 8.1; that of IPv4 has the same).
#[inline(always)]
pub(super) fn pseudo_header(new: &New, len: u32, protocol: u8) -> u64 {
    checksum::address_sum(new.src)
        .wrapping_add(checksum::address_sum(new.dst))
        .wrapping_add(len.to_be() as u64)
        .wrapping_add((protocol as u32).to_be() as u64)
}
