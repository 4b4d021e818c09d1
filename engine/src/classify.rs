//! From the frame to its flow and VIP. Reads only the frame, the root and the VIP table.

use crate::hash;
use crate::memory::vips::{self, BYPASS_FLOW_TABLE, NO_SOURCE_PORT, VipKey};
use crate::memory::{Memory, Root, Vip, root};
use crate::packet::Packet;
use crate::parse::{Flow, parse};
use crate::verdict::Reason::{BadLength, FrameTooBig, NotAVip, NotConfigured, TtlExpired};
use crate::verdict::Verdict::{self, Drop, Pass};
use crate::wire::{Ethernet, IPPROTO_TCP, Tcp, Udp};

/// The destination port, in a flow's ports.
const DESTINATION_PORT: u32 = 0xffff_0000;

/// Fills `flow`, or says why the frame is not forwarded. Every frame that is passed to the host is decided here.
///
/// A batch can classify all its frames first and [`crate::finish`] them after their flow sets were asked for.
#[inline(always)]
pub fn classify<P: Packet, M: Memory>(packet: &P, memory: &M, flow: &mut Flow) -> Result<(), Verdict> {
    parse(packet, flow)?;
    let root = memory.root().ok_or(Pass(NotConfigured))?;
    if root.layout.get() != root::LAYOUT {
        return Err(Pass(NotConfigured));
    }
    flow.vip = vip(memory, root, flow).ok_or(Pass(NotAVip))?;
    if let Some(trace) = memory.trace() {
        trace.vip.set(flow.vip.id.wrapping_add(1));
    }
    fits(packet, root, flow)?;
    if flow.vip.flags & NO_SOURCE_PORT != 0 {
        flow.ports &= DESTINATION_PORT;
    }
    if flow.vip.flags & BYPASS_FLOW_TABLE == 0 {
        flow.tag = hash::tag(root, flow);
    }
    Ok(())
}

/// Asks for both flow sets of a classified flow to be near soon.
#[inline(always)]
pub fn soon<M: Memory>(memory: &M, flow: &Flow) {
    memory.soon(flow.tag.one);
    memory.soon(flow.tag.two);
}

/// By address and port, else by address and any port; that takes the port out of the flow.
#[inline(always)]
fn vip<M: Memory>(memory: &M, root: &Root, flow: &mut Flow) -> Option<Vip> {
    let port = (flow.ports >> 16) as u16;
    if let Some(vip) = vips::find(memory, root, &VipKey::new(flow.dst, port, flow.protocol)) {
        return Some(vip);
    }
    if root.any_port.get() == 0 {
        return None;
    }
    let vip = vips::find(memory, root, &VipKey::new(flow.dst, 0, flow.protocol))?;
    flow.ports &= !DESTINATION_PORT;
    Some(vip)
}

/// The frame can be forwarded as it is: the lengths agree, it is not too large, it may take another hop.
#[inline(always)]
pub fn fits<P: Packet>(packet: &P, root: &Root, flow: &Flow) -> Result<(), Verdict> {
    let frame = packet.len() as u32;
    let transport = (if flow.protocol == IPPROTO_TCP { Tcp::LEN } else { Udp::LEN }) as u32;
    if flow.len.wrapping_add(Ethernet::LEN as u32) > frame || flow.len < flow.ip_header_len().wrapping_add(transport) {
        return Err(Drop(BadLength));
    }
    if frame > root.max_frame.get() {
        return Err(Drop(FrameTooBig));
    }
    if flow.ttl <= 1 {
        return Err(Drop(TtlExpired));
    }
    Ok(())
}
