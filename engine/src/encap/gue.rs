//! GUE version 1 (draft-ietf-intarea-gue-09 section 4): UDP directly followed by the client's packet, whose version
//! nibble is the variant.
//!
//! The UDP checksum comes from the headers alone ("local checksum offload"): a segment with a right checksum sums up to
//! the complement of its pseudo header, whatever is in it. Where that cannot be known (fragments, ICMP, UDP without a
//! checksum) it is 0: none, which RFC 6935 section 5 allows for tunnels over IPv6, too.

use super::Path;
use super::ipip::spread;
use crate::checksum;
use crate::packet::Packet;
use crate::parse::{Flow, Part};
use crate::verdict::Reason::{self, NoHeadroom, NoSource};
use crate::wire::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Header, IPPROTO_TCP, IPPROTO_UDP, Ipv4, Ipv6, Udp, Udp4, Udp6,
};

const OVER_V4: usize = const { Ipv4::LEN + Udp::LEN };
const OVER_V6: usize = const { Ipv6::LEN + Udp::LEN };

#[inline(never)]
pub(super) fn encapsulate<P: Packet>(packet: &mut P, flow: &Flow, path: &Path<'_>) -> Result<(), Reason> {
    let payload = if path.katran && flow.is_v6 && !path.hop.is_v6() {
        // Katran takes an IPv6 packet for one whose header is not in its length.
        flow.len.wrapping_sub(Ipv6::LEN as u32)
    } else {
        flow.len
    };
    let known = is_known(packet, flow, path.katran);
    if !path.katran {
        one_hop(packet, flow.is_v6).ok_or(NoHeadroom)?;
    }
    let inner = inner_sum(packet, flow).ok_or(NoHeadroom)?;
    let udp = Outer { port: source_port(flow, path), payload };
    if path.hop.is_v6() { over_v6(packet, flow, path, &udp, known, inner) } else { over_v4(packet, flow, path, &udp, known, inner) }
}

/// What the UDP header needs.
struct Outer {
    /// As on the wire.
    port: u16,
    payload: u32,
}

#[inline(always)]
fn over_v4<P: Packet>(
    packet: &mut P,
    flow: &Flow,
    path: &Path<'_>,
    udp: &Outer,
    known: bool,
    inner: u64,
) -> Result<(), Reason> {
    let (src, [dst, _]) = (path.root.source_v4.get(), path.addr);
    if src == 0 && !path.katran {
        return Err(NoSource);
    }
    if !packet.grow_head::<OVER_V4>() {
        return Err(NoHeadroom);
    }
    let len = udp.payload.wrapping_add(Udp::LEN as u32);
    let t = Udp4::view_mut(packet, 0).ok_or(NoHeadroom)?;
    path.emit(&mut t.eth, ETHERTYPE_IPV4);
    t.ip.emit(src, dst as u32, flow.tos, len, IPPROTO_UDP, path.fragment());
    let pseudo = (src as u64).wrapping_add(dst);
    emit_udp(&mut t.udp, path, udp.port, len, known.then_some(inner.wrapping_add(pseudo)));
    Ok(())
}

#[inline(always)]
fn over_v6<P: Packet>(
    packet: &mut P,
    flow: &Flow,
    path: &Path<'_>,
    udp: &Outer,
    known: bool,
    inner: u64,
) -> Result<(), Reason> {
    let (src, dst) = (path.root.source_v6(), path.addr);
    if src == [0, 0] && !path.katran {
        return Err(NoSource);
    }
    if !packet.grow_head::<OVER_V6>() {
        return Err(NoHeadroom);
    }
    let len = udp.payload.wrapping_add(Udp::LEN as u32);
    let t = Udp6::view_mut(packet, 0).ok_or(NoHeadroom)?;
    path.emit(&mut t.eth, ETHERTYPE_IPV6);
    t.ip.emit_outer(src, dst, flow.tos, len, IPPROTO_UDP);
    let pseudo = checksum::address_sum(src).wrapping_add(checksum::address_sum(dst));
    emit_udp(&mut t.udp, path, udp.port, len, known.then_some(inner.wrapping_add(pseudo)));
    Ok(())
}

/// Writes the UDP header; `sum` is that of the inner packet and of the outer addresses, if the checksum can be known.
#[inline(always)]
fn emit_udp(udp: &mut Udp, path: &Path<'_>, port: u16, len: u32, sum: Option<u64>) {
    let gue_port = path.root.gue_port.get() as u16;
    let length = (len as u16).to_be();
    let checksum = sum.map(|sum| {
        // length and protocol of the pseudo header, then the header itself
        let words = [length, (IPPROTO_UDP as u16).to_be(), port, gue_port, length];
        checksum::finish(words.iter().fold(sum, |sum, word| sum.wrapping_add(*word as u64)))
    });
    let checksum = match checksum {
        // A computed 0 is sent as all ones (RFC 768); Katran sends it as it is.
        Some(0) if !path.katran => 0xffff,
        Some(checksum) => checksum,
        None => 0,
    };
    let [a, b] = port.to_ne_bytes();
    let [c, d] = gue_port.to_ne_bytes();
    udp.ports = [a, b, c, d];
    udp.len = (len as u16).into();
    udp.checksum = u16::from_be_bytes(checksum.to_ne_bytes()).into();
}

/// Whether the inner checksum says what the segment sums up to. Katran trusts every packet.
#[inline(always)]
fn is_known<P: Packet>(packet: &P, flow: &Flow, katran: bool) -> bool {
    if katran {
        return true;
    }
    // Options and extension headers are not in the sum.
    let usual = if flow.is_v6 { TRANSPORT_V6 } else { TRANSPORT_V4 };
    if flow.quoted || flow.part != Part::Whole || flow.l4 != usual {
        return false;
    }
    flow.protocol == IPPROTO_TCP || Udp::view(packet, flow.l4()).is_some_and(|udp| udp.checksum.get() != 0)
}

/// Takes one hop off the client's packet.
#[inline(always)]
fn one_hop<P: Packet>(packet: &mut P, is_v6: bool) -> Option<()> {
    if is_v6 {
        Ipv6::view_mut(packet, Ethernet::LEN)?.decrement_hop_limit();
    } else {
        Ipv4::view_mut(packet, Ethernet::LEN)?.decrement_ttl();
    }
    Some(())
}

/// What the client's packet sums up to if its transport checksum is right: its IP header, and the complement of the
/// pseudo header. The addresses are in both, and cancel out.
#[inline(always)]
fn inner_sum<P: Packet>(packet: &P, flow: &Flow) -> Option<u64> {
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

/// Where the transport header is behind an IP header without options or extension headers.
const TRANSPORT_V4: u32 = const { (Ethernet::LEN + Ipv4::LEN) as u32 };
const TRANSPORT_V6: u32 = const { (Ethernet::LEN + Ipv6::LEN) as u32 };

/// The source port, as on the wire: it varies with the flow, so that one tunnel fills all queues of a real.
#[inline(always)]
fn source_port(flow: &Flow, path: &Path<'_>) -> u16 {
    if path.katran { katran_port(flow, path) } else { (spread(flow) as u16 | 0xc000).to_be() }
}

/// Katran crosses the port's bytes over two bytes of the client's address, in another order for each family of the real.
#[inline(always)]
fn katran_port(flow: &Flow, path: &Path<'_>) -> u16 {
    let ([first, last], port) = (flow.src, path.port as u16);
    match (path.hop.is_v6(), flow.is_v6) {
        (false, _) => (first as u32 >> 16) as u16 ^ port.swap_bytes(),
        (true, false) => (first as u32 >> 16) as u16 ^ port,
        (true, true) => (last >> 32) as u16 ^ port,
    }
}
