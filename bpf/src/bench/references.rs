//! The floor: programs that do less than any balancer.

use crate::frame::Frame;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_TX};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use tandem_engine::Packet;
use tandem_engine::wire::{ETHERTYPE_IPV4, Header, IPPROTO_IPIP, Ipv4, Tunnel4In4};

/// Nothing: what the loop and the wrapper cost.
#[xdp]
pub fn null(_ctx: XdpContext) -> u32 {
    XDP_TX
}

/// Makes room and leaves it empty.
#[xdp]
pub fn room(ctx: XdpContext) -> u32 {
    if Frame::new(ctx.ctx).grow_head(Ipv4::LEN) { XDP_TX } else { XDP_ABORTED }
}

/// IPIP towards one address that is known beforehand: the engine's writing of headers, without any parsing or lookup.
#[xdp]
pub fn fixed(ctx: XdpContext) -> u32 {
    if encapsulate(&mut Frame::new(ctx.ctx)).is_some() { XDP_TX } else { XDP_ABORTED }
}

#[inline(always)]
fn encapsulate(frame: &mut Frame) -> Option<()> {
    const MAC: u64 = 0x0900_0000_0002;
    const LOCAL_MAC: u64 = 0x0100_0000_0002;
    const SOURCE: u32 = u32::from_ne_bytes([10, 0, 13, 37]);
    const REAL: u32 = u32::from_ne_bytes([10, 0, 0, 1]);
    if !frame.grow_head(Ipv4::LEN) {
        return None;
    }
    let tunnel = Tunnel4In4::view_mut(frame, 0)?;
    tunnel.eth.emit(MAC, LOCAL_MAC, ETHERTYPE_IPV4);
    let payload = tunnel.inner.total_len.get() as u32;
    tunnel.outer.emit_outer(SOURCE, REAL, tunnel.inner.tos, payload, IPPROTO_IPIP);
    tunnel.inner.decrement_ttl();
    Some(())
}
