//! GUE as Katran sends it: version 1, UDP directly followed by the client's packet, whose version nibble is the variant.
//!
//! The UDP checksum comes from the headers alone, and every packet is trusted to have a right one.

use super::Path;
use super::tunnel::from_headers;
use crate::checksum;
use crate::packet::Packet;
use crate::parse::Flow;
use crate::verdict::Reason::{self, NoHeadroom};
use crate::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Header, IPPROTO_UDP, Ipv4, Ipv6, Udp, Udp4, Udp6};

const OVER_V4: usize = const { Ipv4::LEN + Udp::LEN };
const OVER_V6: usize = const { Ipv6::LEN + Udp::LEN };

#[inline(always)]
pub(super) fn encapsulate<P: Packet>(packet: &mut P, flow: &Flow, path: &Path<'_>) -> Result<(), Reason> {
    let is_v6 = path.hop.is_v6();
    // An IPv6 packet is taken for one whose header is not in its length.
    let payload = if flow.is_v6 && !is_v6 { flow.len.wrapping_sub(Ipv6::LEN as u32) } else { flow.len };
    let len = payload.wrapping_add(Udp::LEN as u32);
    let inner = from_headers(packet, flow).ok_or(NoHeadroom)?;
    let port = source_port(flow, path);
    if is_v6 { over_v6(packet, flow, path, port, len, inner) } else { over_v4(packet, flow, path, port, len, inner) }
        .ok_or(NoHeadroom)
}

#[inline(always)]
fn over_v4<P: Packet>(packet: &mut P, flow: &Flow, path: &Path<'_>, port: u16, len: u32, inner: u64) -> Option<()> {
    let (src, dst) = (path.root.source_v4.get(), path.real.addr_v4());
    if !packet.grow_head(OVER_V4) {
        return None;
    }
    let t = Udp4::view_mut(packet, 0)?;
    path.emit(&mut t.eth, ETHERTYPE_IPV4);
    t.ip.emit(src, dst, flow.tos, len, IPPROTO_UDP, path.fragment());
    emit_udp(&mut t.udp, path, port, len, inner.wrapping_add(src as u64).wrapping_add(dst as u64));
    Some(())
}

#[inline(always)]
fn over_v6<P: Packet>(packet: &mut P, flow: &Flow, path: &Path<'_>, port: u16, len: u32, inner: u64) -> Option<()> {
    let (src, dst) = (path.root.source_v6(), path.real.addr());
    if !packet.grow_head(OVER_V6) {
        return None;
    }
    let t = Udp6::view_mut(packet, 0)?;
    path.emit(&mut t.eth, ETHERTYPE_IPV6);
    t.ip.emit_outer(src, dst, flow.tos, len, IPPROTO_UDP);
    let pseudo = checksum::address_sum(src).wrapping_add(checksum::address_sum(dst));
    emit_udp(&mut t.udp, path, port, len, inner.wrapping_add(pseudo));
    Some(())
}

/// Writes the UDP header; `sum` is that of the inner packet and of the outer addresses. A computed 0 is sent as it is.
#[inline(always)]
fn emit_udp(udp: &mut Udp, path: &Path<'_>, port: u16, len: u32, sum: u64) {
    let gue_port = path.root.gue_port.get() as u16;
    let length = (len as u16).to_be();
    // length and protocol of the pseudo header, then the header itself
    let words = [length, (IPPROTO_UDP as u16).to_be(), port, gue_port, length];
    let checksum = checksum::finish(words.iter().fold(sum, |sum, word| sum.wrapping_add(*word as u64)));
    let ([a, b], [c, d]) = (port.to_ne_bytes(), gue_port.to_ne_bytes());
    udp.ports = [a, b, c, d];
    udp.len = (len as u16).into();
    udp.checksum = u16::from_be_bytes(checksum.to_ne_bytes()).into();
}

/// The source port, as on the wire: the port's bytes crossed over two bytes of the client's address, in another order for each
/// family of the real.
#[inline(always)]
fn source_port(flow: &Flow, path: &Path<'_>) -> u16 {
    let ([first, last], port) = (flow.src, path.port as u16);
    match (path.hop.is_v6(), flow.is_v6) {
        (false, _) => (first as u32 >> 16) as u16 ^ port.swap_bytes(),
        (true, false) => (first as u32 >> 16) as u16 ^ port,
        (true, true) => (last >> 32) as u16 ^ port,
    }
}
