//! The standard profile's tunnels but IPIP: an outer IP header, for most of them UDP, and a short header of their own.
//!
//! | method | IP protocol | behind it |
//! |---|---|---|
//! | GRE (RFC 2784) | 47 | 4 bytes: no flags, version 0, the EtherType |
//! | FOU | 17 | UDP; the port tells the inner family |
//! | GUE version 1 (draft-ietf-intarea-gue-09 section 4) | 17 | UDP; the version nibble of the inner packet is the variant |
//! | GUE version 0 (section 3) | 17 | UDP, 4 bytes: version and flags 0, the inner packet's IP protocol |
//! | Geneve (RFC 8926 section 3.4) | 17 | UDP, 8 bytes: no options, the EtherType, the virtual network; then perhaps Ethernet |
//!
//! The outer header copies TOS or traffic class, ECN bits included (RFC 6040 section 4.1, normal mode); the client's TTL or
//! hop limit is decremented, as any forwarder does. A real's NIC spreads UDP tunnels over its queues by the source port, and
//! GRE by the outer source, which is crafted as that of IPIP.
//!
//! The UDP checksum comes from the headers alone ("local checksum offload"): a segment with a right checksum sums up to the
//! complement of its pseudo header, whatever is in it. Where that cannot be known (fragments, ICMP, UDP without a checksum,
//! options and extension headers) the packet is summed up, or, if the configuration says so, there is none: 0, which RFC
//! 6935 section 5 allows for tunnels over IPv6, too. A computed 0 is sent as all ones.

use super::Path;
use super::ipip::{source_v4, source_v6, spread};
use crate::checksum;
use crate::memory::Real;
use crate::memory::reals::{Hop, Method};
use crate::packet::Packet;
use crate::parse::{Flow, Part};
use crate::verdict::Reason::{self, NoHeadroom, NoSource};
use crate::wire::{
    DONT_FRAGMENT, ETHERTYPE_ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Header, IPPROTO_GRE, IPPROTO_IPIP, IPPROTO_IPV6,
    IPPROTO_TCP, IPPROTO_UDP, Ipv4, Ipv6, Udp,
};

/// Bytes of the header of GRE and of GUE version 0.
pub(crate) const SHORT: usize = 4;
/// Bytes of Geneve's.
pub(crate) const GENEVE: usize = 8;
/// With the Ethernet header inside.
pub(crate) const GENEVE_ETHERNET: usize = const { GENEVE + Ethernet::LEN };

/// Bytes between the outer IP header and the client's packet.
pub(super) const fn behind_ip(method: Method) -> usize {
    match method {
        Method::Ipip | Method::L2 | Method::Nat => 0,
        Method::Gre => SHORT,
        Method::Gue | Method::Fou => Udp::LEN,
        Method::Gue0 => const { Udp::LEN + SHORT },
        Method::Geneve => const { Udp::LEN + GENEVE },
        Method::GeneveEthernet => const { Udp::LEN + GENEVE_ETHERNET },
    }
}

#[inline(always)]
pub(super) fn encapsulate<P: Packet>(packet: &mut P, flow: &Flow, path: &Path<'_>) -> Result<(), Reason> {
    let has_udp = !path.hop.is(Method::Gre);
    one_hop(packet, flow.is_v6).ok_or(NoHeadroom)?;
    let inner = if has_udp { inner_sum(packet, flow, path) } else { 0 };
    if path.hop.is_v6() { over_v6(packet, flow, path, has_udp, inner) } else { over_v4(packet, flow, path, has_udp, inner) }
}

/// What is said of the packet inside if there is to be no checksum.
pub(crate) const NO_CHECKSUM: u64 = u64::MAX;

/// What the client's packet sums up to; [`NO_CHECKSUM`]: there is to be none.
#[inline(always)]
fn inner_sum<P: Packet>(packet: &P, flow: &Flow, path: &Path<'_>) -> u64 {
    if is_known(packet, flow) {
        return from_headers(packet, flow).unwrap_or(NO_CHECKSUM);
    }
    if path.root.zero_checksums.get() != 0 {
        return NO_CHECKSUM;
    }
    packet.sum(Ethernet::LEN, flow.len as usize).unwrap_or(NO_CHECKSUM)
}

/// Whether the inner checksum says what the segment sums up to. Options and extension headers are not in the sum.
#[inline(always)]
fn is_known<P: Packet>(packet: &P, flow: &Flow) -> bool {
    let usual = if flow.is_v6 { const { Ethernet::LEN + Ipv6::LEN } } else { const { Ethernet::LEN + Ipv4::LEN } };
    if flow.quoted || flow.part != Part::Whole || flow.l4 as usize != usual {
        return false;
    }
    flow.protocol == IPPROTO_TCP || Udp::view(packet, flow.l4()).is_some_and(|udp| udp.checksum.get() != 0)
}

/// What the client's packet sums up to if its transport checksum is right: its IP header, and the complement of the
/// pseudo header. The addresses are in both, and cancel out.
#[inline(always)]
pub(super) fn from_headers<P: Packet>(packet: &P, flow: &Flow) -> Option<u64> {
    let (header, length, protocol) = if flow.is_v6 {
        let &Ipv6 { payload_len, next_header, .. } = Ipv6::view(packet, Ethernet::LEN)?;
        (checksum::sum(packet.bytes::<8>(Ethernet::LEN)?), payload_len.get(), next_header)
    } else {
        let &Ipv4 { total_len, protocol, .. } = Ipv4::view(packet, Ethernet::LEN)?;
        (checksum::sum(packet.bytes::<12>(Ethernet::LEN)?), total_len.get().wrapping_sub(Ipv4::LEN as u16), protocol)
    };
    let pseudo = (length.to_be() as u64).wrapping_add((protocol as u16).to_be() as u64);
    Some(header.wrapping_add(checksum::finish(pseudo) as u64).wrapping_add(0xffff))
}

/// Takes one hop off the client's packet.
#[inline(always)]
pub(super) fn one_hop<P: Packet>(packet: &mut P, is_v6: bool) -> Option<()> {
    if is_v6 {
        Ipv6::view_mut(packet, Ethernet::LEN)?.decrement_hop_limit();
    } else {
        Ipv4::view_mut(packet, Ethernet::LEN)?.decrement_ttl();
    }
    Some(())
}

/// [`behind_ip`] of a real's way that is a tunnel other than IPIP.
#[inline(always)]
pub(crate) fn between(hop: Hop) -> usize {
    if hop.is(Method::Gre) {
        const { behind_ip(Method::Gre) }
    } else if hop.is(Method::Gue0) {
        const { behind_ip(Method::Gue0) }
    } else if hop.is(Method::Geneve) {
        const { behind_ip(Method::Geneve) }
    } else if hop.is(Method::GeneveEthernet) {
        const { behind_ip(Method::GeneveEthernet) }
    } else {
        const { behind_ip(Method::Gue) }
    }
}

#[inline(always)]
fn over_v4<P: Packet>(packet: &mut P, flow: &Flow, path: &Path<'_>, has_udp: bool, inner: u64) -> Result<(), Reason> {
    const AT: usize = const { Ethernet::LEN + Ipv4::LEN };
    let (dst, between) = (path.real.addr_v4(), between(path.hop));
    let src = if has_udp { path.root.source_v4.get() } else { source_v4(path, flow) };
    if src == 0 {
        return Err(NoSource);
    }
    if !packet.grow_head(const { Ipv4::LEN }.wrapping_add(between)) {
        return Err(NoHeadroom);
    }
    let len = flow.len.wrapping_add(between as u32);
    let protocol = if has_udp { IPPROTO_UDP } else { IPPROTO_GRE };
    Ethernet::view_mut(packet, 0).map(|eth| path.emit(eth, ETHERTYPE_IPV4)).ok_or(NoHeadroom)?;
    Ipv4::view_mut(packet, Ethernet::LEN)
        .map(|ip| ip.emit(src, dst, flow.tos, len, protocol, DONT_FRAGMENT))
        .ok_or(NoHeadroom)?;
    let pseudo = (src as u64).wrapping_add(dst as u64);
    behind::<P, AT>(packet, flow, path, len, [inner, pseudo]).ok_or(NoHeadroom)
}

#[inline(always)]
fn over_v6<P: Packet>(packet: &mut P, flow: &Flow, path: &Path<'_>, has_udp: bool, inner: u64) -> Result<(), Reason> {
    const AT: usize = const { Ethernet::LEN + Ipv6::LEN };
    let (dst, between) = (path.real.addr(), between(path.hop));
    let src = if has_udp { path.root.source_v6() } else { source_v6(path, flow) };
    if src == [0, 0] {
        return Err(NoSource);
    }
    if !packet.grow_head(const { Ipv6::LEN }.wrapping_add(between)) {
        return Err(NoHeadroom);
    }
    let len = flow.len.wrapping_add(between as u32);
    let protocol = if has_udp { IPPROTO_UDP } else { IPPROTO_GRE };
    Ethernet::view_mut(packet, 0).map(|eth| path.emit(eth, ETHERTYPE_IPV6)).ok_or(NoHeadroom)?;
    Ipv6::view_mut(packet, Ethernet::LEN).map(|ip| ip.emit_outer(src, dst, flow.tos, len, protocol)).ok_or(NoHeadroom)?;
    let pseudo = checksum::address_sum(src).wrapping_add(checksum::address_sum(dst));
    behind::<P, AT>(packet, flow, path, len, [inner, pseudo]).ok_or(NoHeadroom)
}

/// Writes what is behind the outer IP header, `len` bytes of payload to it; `sums`: of the client's packet, and of the outer
/// addresses.
#[inline(always)]
fn behind<P: Packet, const AT: usize>(
    packet: &mut P,
    flow: &Flow,
    path: &Path<'_>,
    len: u32,
    [inner, pseudo]: [u64; 2],
) -> Option<()> {
    if path.hop.is(Method::Gre) {
        return gre(packet, AT, flow.is_v6);
    }
    let own = own_header(packet, path.real, path.hop, flow.is_v6, path.from, const { AT + Udp::LEN })?;
    let ports = [(spread(flow) as u16 | 0xc000).to_be(), path.real.port(flow.is_v6)];
    udp(packet, ports, AT, len, [inner, pseudo, own])
}

#[inline(always)]
pub(crate) const fn ethertype(inner_v6: bool) -> u16 {
    if inner_v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 }
}

/// Writes the header of GRE.
#[inline(always)]
pub(crate) fn gre<P: Packet>(packet: &mut P, at: usize, inner_v6: bool) -> Option<()> {
    let [a, b] = ethertype(inner_v6).to_be_bytes();
    short(packet, at, [0, 0, a, b])
}

#[inline(always)]
fn short<P: Packet>(packet: &mut P, at: usize, header: [u8; SHORT]) -> Option<()> {
    *packet.bytes_mut::<SHORT>(at)? = header;
    Some(())
}

/// Writes what is between UDP and the packet inside; gives its sum. `from`: the source MAC of a frame inside.
#[inline(always)]
pub(crate) fn own_header<P: Packet>(packet: &mut P, real: &Real, hop: Hop, inner_v6: bool, from: u64, at: usize) -> Option<u64> {
    if hop.is(Method::Gue0) {
        let header = [0, if inner_v6 { IPPROTO_IPV6 } else { IPPROTO_IPIP }, 0, 0];
        short(packet, at, header)?;
        return Some(checksum::sum(&header));
    }
    let with_ethernet = hop.is(Method::GeneveEthernet);
    if !with_ethernet && !hop.is(Method::Geneve) {
        return Some(0);
    }
    let [a, b] = (if with_ethernet { ETHERTYPE_ETHERNET } else { ethertype(inner_v6) }).to_be_bytes();
    let [c, d, e, f] = (real.vni() << 8).to_be_bytes();
    let header = [0, 0, a, b, c, d, e, f];
    *packet.bytes_mut::<GENEVE>(at)? = header;
    let mut sum = checksum::sum(&header);
    if with_ethernet {
        let at = at.wrapping_add(GENEVE);
        Ethernet::view_mut(packet, at)?.emit(real.inner_mac(), from, ethertype(inner_v6));
        sum = sum.wrapping_add(checksum::sum(packet.bytes::<{ Ethernet::LEN }>(at)?));
    }
    Some(sum)
}

/// Writes the UDP header, ports as on the wire; `sums`: of the packet inside ([`NO_CHECKSUM`]: none at all), of the outer
/// addresses, of the tunnel's own header.
#[inline(always)]
pub(crate) fn udp<P: Packet>(packet: &mut P, ports: [u16; 2], at: usize, len: u32, sums: [u64; 3]) -> Option<()> {
    let ([from, to], length) = (ports, (len as u16).to_be());
    let [inner, pseudo, own] = sums;
    let checksum = if inner == NO_CHECKSUM {
        0
    } else {
        // length and protocol of the pseudo header, then the header itself
        let words = [length, (IPPROTO_UDP as u16).to_be(), from, to, length];
        let sum = inner.wrapping_add(pseudo).wrapping_add(own);
        match checksum::finish(words.iter().fold(sum, |sum, word| sum.wrapping_add(*word as u64))) {
            // A computed 0 is sent as all ones (RFC 768).
            0 => 0xffff,
            checksum => checksum,
        }
    };
    let ([a, b], [c, d]) = (from.to_ne_bytes(), to.to_ne_bytes());
    let udp = Udp::view_mut(packet, at)?;
    udp.ports = [a, b, c, d];
    udp.len = (len as u16).into();
    udp.checksum = u16::from_be_bytes(checksum.to_ne_bytes()).into();
    Some(())
}
