//! IP in IP: 4in4 (RFC 2003), 6in4 (RFC 4213), 4in6 and 6in6 (RFC 2473).
//!
//! The outer header copies TOS or traffic class, ECN bits included (RFC 6040 section 4.1, normal mode). The client's TTL
//! or hop limit is decremented, as any forwarder does.
//!
//! A real's NIC spreads packets over its queues by the outer addresses. If a source prefix is configured, its host bits
//! vary with the flow, so that one tunnel still fills all queues.

use super::Path;
use crate::memory::Addr;
use crate::packet::Packet;
use crate::parse::Flow;
use crate::wire::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, Header, IPPROTO_IPIP, IPPROTO_IPV6, Ipv4, Ipv6, Tunnel4In4, Tunnel4In6, Tunnel6In4,
    Tunnel6In6,
};

#[inline(always)]
pub(super) fn encapsulate<P: Packet>(packet: &mut P, flow: &Flow, path: &Path<'_>) -> Option<()> {
    if path.hop.is_v6() { in_ipv6(packet, flow, path) } else { in_ipv4(packet, flow, path) }
}

#[inline(always)]
fn in_ipv4<P: Packet>(packet: &mut P, flow: &Flow, path: &Path<'_>) -> Option<()> {
    if !packet.grow_head::<{ Ipv4::LEN }>() {
        return None;
    }
    let (root, [dst, _]) = (path.root, path.addr);
    let src = root.craft_v4.get() ^ spread(flow) & root.vary_v4.get();
    if flow.is_v6 {
        let t = Tunnel6In4::view_mut(packet, 0)?;
        t.eth.emit(path.hop.mac(), root.local_mac.get(), ETHERTYPE_IPV4);
        t.outer.emit_outer(src, dst as u32, flow.tos, flow.len, IPPROTO_IPV6);
        t.inner.decrement_hop_limit();
    } else {
        let t = Tunnel4In4::view_mut(packet, 0)?;
        t.eth.emit(path.hop.mac(), root.local_mac.get(), ETHERTYPE_IPV4);
        t.outer.emit_outer(src, dst as u32, flow.tos, flow.len, IPPROTO_IPIP);
        t.inner.decrement_ttl();
    }
    Some(())
}

#[inline(always)]
fn in_ipv6<P: Packet>(packet: &mut P, flow: &Flow, path: &Path<'_>) -> Option<()> {
    if !packet.grow_head::<{ Ipv6::LEN }>() {
        return None;
    }
    let root = path.root;
    let src = source_v6(path, flow);
    if flow.is_v6 {
        let t = Tunnel6In6::view_mut(packet, 0)?;
        t.eth.emit(path.hop.mac(), root.local_mac.get(), ETHERTYPE_IPV6);
        t.outer.emit_outer(src, path.addr, flow.tos, flow.len, IPPROTO_IPV6);
        t.inner.decrement_hop_limit();
    } else {
        let t = Tunnel4In6::view_mut(packet, 0)?;
        t.eth.emit(path.hop.mac(), root.local_mac.get(), ETHERTYPE_IPV6);
        t.outer.emit_outer(src, path.addr, flow.tos, flow.len, IPPROTO_IPIP);
        t.inner.decrement_ttl();
    }
    Some(())
}

/// The last four bytes vary.
#[inline(always)]
fn source_v6(path: &Path<'_>, flow: &Flow) -> Addr {
    let [high, low] = path.root.craft_v6();
    [high, low ^ ((spread(flow) & path.root.vary_v6.get()) as u64) << 32]
}

/// 32 bits that differ between flows, in every byte: the client's address and ports, mixed.
#[inline(always)]
fn spread(flow: &Flow) -> u32 {
    let ([s0, s1], ports) = (flow.src, flow.ports);
    let x = s0 ^ s1.rotate_left(21) ^ (ports as u64) << 16;
    (x.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}
