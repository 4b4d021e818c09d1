//! IP in IP: 4in4 (RFC 2003), 6in4 (RFC 4213), 4in6 and 6in6 (RFC 2473).
//!
//! The outer header copies TOS or traffic class, ECN bits included (RFC 6040 section 4.1, normal mode). The client's TTL
//! or hop limit is decremented, as any forwarder does, and as Katran does not.
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
pub(crate) fn encapsulate<P: Packet>(packet: &mut P, flow: &Flow, path: &Path<'_>) -> Option<()> {
    if path.hop.is_v6() { in_ipv6(packet, flow, path) } else { in_ipv4(packet, flow, path) }
}

#[inline(always)]
fn in_ipv4<P: Packet>(packet: &mut P, flow: &Flow, path: &Path<'_>) -> Option<()> {
    if !packet.grow_head(Ipv4::LEN) {
        return None;
    }
    let (src, dst) = (source_v4(path, flow), path.real.addr_v4());
    if flow.is_v6 && !path.katran {
        let t = Tunnel6In4::view_mut(packet, 0)?;
        path.emit(&mut t.eth, ETHERTYPE_IPV4);
        t.outer.emit(src, dst, flow.tos, flow.len, IPPROTO_IPV6, path.fragment());
        t.inner.decrement_hop_limit();
    } else {
        let t = Tunnel4In4::view_mut(packet, 0)?;
        path.emit(&mut t.eth, ETHERTYPE_IPV4);
        // Katran takes an IPv6 packet for one whose header is not in its length.
        let len = if flow.is_v6 { flow.len.wrapping_sub(Ipv6::LEN as u32) } else { flow.len };
        t.outer.emit(src, dst, flow.tos, len, IPPROTO_IPIP, path.fragment());
        if !path.katran {
            t.inner.decrement_ttl();
        }
    }
    Some(())
}

#[inline(always)]
fn in_ipv6<P: Packet>(packet: &mut P, flow: &Flow, path: &Path<'_>) -> Option<()> {
    if !packet.grow_head(Ipv6::LEN) {
        return None;
    }
    let src = source_v6(path, flow);
    if flow.is_v6 {
        let t = Tunnel6In6::view_mut(packet, 0)?;
        path.emit(&mut t.eth, ETHERTYPE_IPV6);
        t.outer.emit_outer(src, path.real.addr(), flow.tos, flow.len, IPPROTO_IPV6);
        if !path.katran {
            t.inner.decrement_hop_limit();
        }
    } else {
        let t = Tunnel4In6::view_mut(packet, 0)?;
        path.emit(&mut t.eth, ETHERTYPE_IPV6);
        t.outer.emit_outer(src, path.real.addr(), flow.tos, flow.len, IPPROTO_IPIP);
        if !path.katran {
            t.inner.decrement_ttl();
        }
    }
    Some(())
}

/// Katran crosses the port's bytes over the last two of the client's address.
#[inline(always)]
pub(super) fn source_v4(path: &Path<'_>, flow: &Flow) -> u32 {
    let ([client, _], vary) = (flow.src, path.root.vary_v4.get());
    let mixed = if path.katran { (client as u32 >> 16 ^ (path.port as u16).swap_bytes() as u32) << 16 } else { spread(flow) };
    path.root.craft_v4.get() ^ mixed & vary
}

/// The last four bytes vary. Katran crosses the port's bytes over the first two of the client's last four.
#[inline(always)]
pub(super) fn source_v6(path: &Path<'_>, flow: &Flow) -> Addr {
    let [high, low] = path.root.craft_v6();
    let [first, last] = flow.src;
    let mixed = if path.katran {
        let client = if flow.is_v6 { (last >> 32) as u32 } else { first as u32 };
        client ^ path.port & 0xffff
    } else {
        spread(flow)
    };
    [high, low ^ ((mixed & path.root.vary_v6.get()) as u64) << 32]
}

/// 32 bits that differ between flows, in every byte: the client's address and ports, mixed.
#[inline(always)]
pub(super) fn spread(flow: &Flow) -> u32 {
    let ([s0, s1], ports) = (flow.src, flow.ports);
    let x = s0 ^ s1.rotate_left(21) ^ (ports as u64) << 16;
    (x.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}
