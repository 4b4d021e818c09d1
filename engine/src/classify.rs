//! From the frame to its flow and VIP: everything that can be decided without the flow table, and every frame that goes to
//! the host.

use crate::answer;
use crate::hash::{self, Kind};
use crate::memory::counters::{Event, VipCounter, add_event, count_event, count_vip};
use crate::memory::prefixes::{Space, mask};
use crate::memory::vips::{
    self, BYPASS_FLOW_TABLE, DECAP, EGRESS, HAS_VIPS, HASH_DPORT_ONLY, HASH_SRC_DST_PORT, NO_SOURCE_PORT, QUIC, Vip, VipKey,
};
use crate::memory::{Memory, Root, features, root};
use crate::nat::{self, Ask};
use crate::packet::Packet;
use crate::parse::{Flow, Part, ethertype, is_ip, parse, parse_behind, parse_katran};
use crate::relay;
use crate::strip::{self, Looks, Tunnel, Tunnels};
use crate::verdict::Reason::{
    BadLength, ControlLost, ControlLostDropped, DecapTtlExpired, Decapsulated, EgressDecap, Fragment, FrameTooBig, FrameTooShort,
    Icmp, IcmpRelayed, IcmpUnrelayed, NoHeadroom, NotAVip, NotConfigured, NotIp, NotOurTunnel, TruncatedDropped, TruncatedIp,
    TtlExpired, VlanStacked,
};
use crate::verdict::Stop;
use crate::verdict::{Action, NO_VIP};
use crate::vlan;
use crate::wire::{self, Ethernet, Header, IPPROTO_TCP, Ipv4, Ipv6, TAG_LEN, Tcp, Udp};

/// The destination port, in a flow's ports.
pub(crate) const DESTINATION_PORT: u32 = 0xffff_0000;

/// Fills `flow`, or says why the frame is not forwarded; a frame that is answered has become the answer. Every frame that
/// is passed to the host is decided here.
///
/// A batch can classify all its frames first and [`crate::finish`] them after their flow sets were asked for.
#[inline(always)]
pub fn classify<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, flow: &mut Flow) -> Result<(), Stop> {
    match find_vip(packet, memory, root, flow) {
        // What is passed, answered or looked at again has its tag; what is dropped needs none.
        Err(stop) if memory.can(features::VLANS) && flow.vlan != 0 && stop.action() != Action::Drop => {
            as_it_came(packet, flow)?;
            Err(stop)
        }
        other => other,
    }
}

/// Puts the tag back that a frame came with.
#[inline(always)]
pub(crate) fn as_it_came<P: Packet>(packet: &mut P, flow: &Flow) -> Result<(), Stop> {
    if flow.vlan != 0 && !packet.put_tag(flow.vlan) {
        return Err(Stop::of(NoHeadroom));
    }
    Ok(())
}

/// Takes the tag off a frame that is no IP packet without one.
#[inline(always)]
fn untag<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, flow: &mut Flow) -> Result<(), Stop> {
    if !memory.has(root, features::VLANS) {
        return Err(Stop::of(NotIp));
    }
    match packet.take_tag() {
        0 => return Err(Stop::of(NotIp)),
        vlan::SHORT => return Err(Stop::of(TruncatedIp)),
        vlan::STACKED => return Err(Stop::of(VlanStacked)),
        tag => flow.vlan = tag,
    }
    flow.frame = flow.frame.wrapping_sub(TAG_LEN as u32);
    if let Some(trace) = memory.trace() {
        trace.vlan.set(flow.vlan);
    }
    Ok(())
}

#[inline(always)]
fn find_vip<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, flow: &mut Flow) -> Result<(), Stop> {
    let len = packet.len();
    flow.frame = len as u32;
    if len < Ethernet::LEN {
        return Err(Stop::of(FrameTooShort));
    }
    if root.layout() != root::LAYOUT {
        return Err(Stop::of(NotConfigured));
    }
    let katran = memory.has(root, features::KATRAN);
    let opens = memory.has(root, features::DECAP_IPIP | features::DECAP_GUE);
    if opens {
        // Asked before the call, which costs more than the answer.
        let mut looks = strip::looks(packet, root.gue_port.get() as u16);
        if !katran && looks == Looks::NotIp {
            untag(packet, memory, root, flow)?;
            looks = strip::looks(packet, root.gue_port.get() as u16);
        }
        if looks == Looks::Tunnel {
            decap(packet, memory, root, katran, flow)?;
        }
    }
    if katran {
        parse_katran(packet, flow)?;
    } else {
        let mut found = ethertype(packet)?;
        // Asked here, where an IP packet without a tag does not come by.
        if !is_ip(found) {
            untag(packet, memory, root, flow)?;
            found = ethertype(packet)?;
        }
        if let Err(stop) = parse_behind(packet, flow, found) {
            return Err(relayed(packet, memory, root, stop));
        }
        if flow.part == Part::Later && memory.has(root, features::NAT) && reply(memory, root, flow) {
            return reply_fits(packet, memory, root, flow);
        }
        // Asked here, not there: a BPF call costs as much as the rest of a frame's classification.
        if flow.is_ping() || flow.part == Part::Later {
            unusual(packet, memory, root, flow)?;
        }
    }
    if flow.part == Part::Later {
        // The real that got the first fragment says which VIP it is.
        let flags = Vip::flags_with_room(vips::SAME_TAG, crate::ROOM_MAX as u8);
        flow.vip = Vip { id: NO_VIP, flags, ..Vip::default() };
        return fits(root, flow);
    }
    let nat = memory.has(root, features::NAT);
    if nat {
        flow.wire_ports = flow.ports;
    }
    let Some(exact) = vip(memory, root, katran, flow) else {
        if nat && reply(memory, root, flow) {
            return reply_fits(packet, memory, root, flow);
        }
        let stop = Stop::of(NotAVip);
        return Err(if flow.quoted && !katran { relayed(packet, memory, root, stop) } else { stop });
    };
    if let Some(trace) = memory.trace() {
        trace.vip.set(flow.vip.id.wrapping_add(1));
    }
    if memory.has(root, features::CONTROL_LOSS) {
        is_controlled(memory, root)?;
    }
    if katran {
        is_small(packet, memory, root, flow)?;
    } else {
        fits_or_answer(packet, memory, root, flow, root.max_frame.get())?;
    }
    let whole = memory.has(root, features::HASH_FLAGS) && flow.vip.flags & (HASH_DPORT_ONLY | HASH_SRC_DST_PORT) != 0;
    if !exact && !whole {
        flow.ports &= !DESTINATION_PORT;
    }
    if flow.vip.flags & NO_SOURCE_PORT != 0 {
        flow.ports &= DESTINATION_PORT;
    }
    if flow.vip.flags & BYPASS_FLOW_TABLE == 0 || katran && flow.vip.flags & QUIC != 0 {
        flow.tag = hash::tag(root, katran, flow, Kind::Flow);
    }
    Ok(())
}

/// Somebody controls the tables, or it does not matter.
#[inline(always)]
fn is_controlled<M: Memory>(memory: &M, root: &Root) -> Result<(), Stop> {
    match root.loss(memory.now()) {
        0 => Ok(()),
        1 => Err(Stop::of(ControlLost)),
        _ => Err(Stop::of(ControlLostDropped)),
    }
}

/// What becomes of ICMP that is about no flow of a VIP: it may be about a tunnel to one of the reals.
#[inline(always)]
fn relayed<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, stop: Stop) -> Stop {
    if !memory.has(root, features::RELAY) || stop != Stop::of(Icmp) && stop != Stop::of(NotAVip) {
        return stop;
    }
    match packet.relay(memory) {
        relay::RELAYED => Stop::of(IcmpRelayed),
        relay::TOO_SHORT => Stop::of(IcmpUnrelayed),
        relay::NO_ROOM => Stop::of(NoHeadroom),
        _ => stop,
    }
}

/// Asks for both flow sets of a classified flow to be near soon.
#[inline(always)]
pub fn soon<M: Memory>(memory: &M, flow: &Flow) {
    memory.soon(flow.tag.first());
    memory.soon(flow.tag.second());
}

/// Pings and later fragments have no port: they are ours if their address has VIPs.
#[inline(never)]
fn unusual<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, flow: &Flow) -> Result<(), Stop> {
    let fragment = flow.part == Part::Later;
    let about = vips::find(memory, root, &VipKey::address(flow.dst));
    if about.is_none_or(|about| about.flags & HAS_VIPS == 0) {
        return Err(Stop::of(if fragment { Fragment } else { Icmp }));
    }
    if fragment {
        return Ok(());
    }
    // Not a whole message in the usual place: the host may know better.
    let usual = Ethernet::LEN.wrapping_add(if flow.is_v6 { Ipv6::LEN } else { Ipv4::LEN });
    if flow.part != Part::Whole || flow.l4 as usize != usual || flow.len.wrapping_add(Ethernet::LEN as u32) > flow.frame {
        return Err(Stop::of(Icmp));
    }
    let answered = if flow.is_v6 { answer::echo_v6(packet) } else { answer::echo_v4(packet) };
    Err(answered.unwrap_or(Stop::of(Icmp)))
}

/// What is for no VIP may be the answer of a real behind NAT.
#[inline(always)]
fn reply<M: Memory>(memory: &M, root: &Root, flow: &mut Flow) -> bool {
    flow.nat = memory.nat_place(root, flow, Ask::Reply, 0);
    if flow.nat == 0 {
        return false;
    }
    flow.is_reply = true;
    let flags = Vip::flags_with_room(vips::SAME_TAG, crate::ROOM_MAX as u8);
    flow.vip = Vip { id: NO_VIP, flags, ..Vip::default() };
    true
}

/// Finds the VIP by address and port, else by address and any port. `true`: as the exact address and port.
#[inline(always)]
fn vip<M: Memory>(memory: &M, root: &Root, katran: bool, flow: &mut Flow) -> Option<bool> {
    let port = (flow.ports >> 16) as u16;
    if let Some(vip) = vips::find(memory, root, &VipKey::new(flow.dst, port, flow.protocol)) {
        flow.vip = vip;
        return Some(true);
    }
    let prefixes = memory.has(root, features::PREFIX_VIPS);
    if prefixes && let Some(vip) = prefix_vip(memory, root, flow, port) {
        flow.vip = vip;
        // Katran forgets that the port was right.
        return Some(!katran);
    }
    if root.any_port.get() == 0 {
        return None;
    }
    let mut any = vips::find(memory, root, &VipKey::new(flow.dst, 0, flow.protocol));
    if any.is_none() && prefixes {
        any = prefix_vip(memory, root, flow, 0);
    }
    flow.vip = any?;
    Some(false)
}

#[inline(always)]
fn prefix_vip<M: Memory>(memory: &M, root: &Root, flow: &Flow, port: u16) -> Option<Vip> {
    let space = if flow.is_v6 { Space::VipV6 } else { Space::VipV4 };
    let tag = (flow.protocol as u32) << 16 | port as u32;
    let len = memory.longest(root, space, tag, flow.dst).checked_sub(1)?;
    vips::find(memory, root, &VipKey::prefix(mask(flow.dst, len), len, port, flow.protocol))
}

/// The frame can be forwarded as it is: the lengths agree, it is not too large, it may take another hop.
#[inline(always)]
pub(crate) fn fits(root: &Root, flow: &Flow) -> Result<(), Stop> {
    within(flow, root.max_frame.get())
}

/// The same, with at most `most` bytes.
#[inline(always)]
fn within(flow: &Flow, most: u32) -> Result<(), Stop> {
    let frame = flow.frame;
    let header = if flow.part == Part::Later {
        0
    } else if flow.protocol == IPPROTO_TCP && !flow.quoted {
        Tcp::LEN as u32
    } else {
        // Of a quoted packet there are 8 bytes (RFC 792).
        Udp::LEN as u32
    };
    // The flow's transport header, and all that the IP header promises, are in the frame.
    let end = flow.len.wrapping_add(Ethernet::LEN as u32);
    if end > frame || end < flow.l4.wrapping_add(header) {
        return Err(Stop::of(BadLength));
    }
    if frame > most {
        return Err(Stop::of(FrameTooBig));
    }
    if flow.ttl <= 1 {
        return Err(Stop::of(TtlExpired));
    }
    Ok(())
}

/// The same, with an answer to who sent a frame that is too large; never to an ICMP error or a later fragment (RFC 1122
/// section 3.2.2).
#[inline(always)]
fn fits_or_answer<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, flow: &Flow, most: u32) -> Result<(), Stop> {
    match within(flow, most) {
        Err(stop) if stop == Stop::of(FrameTooBig) => too_big(packet, memory, root, flow, most),
        other => other,
    }
}

/// What a real behind NAT answers: it may grow, and its client's way takes no more than the client sends.
#[inline(always)]
fn reply_fits<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, flow: &Flow) -> Result<(), Stop> {
    let to_v6 = !flow.is_v6 && memory.nat(flow.nat.wrapping_sub(1)).is_some_and(|nat| nat.read().client_v6());
    let grows = if to_v6 { nat::grows(flow) } else { 0 };
    fits_or_answer(packet, memory, root, flow, root.max_frame.get().saturating_sub(grows))
}

/// Off the usual way.
#[inline(never)]
fn too_big<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, flow: &Flow, most: u32) -> Result<(), Stop> {
    count_too_big(memory, flow);
    let answers = memory.has(root, features::TOO_BIG) && !flow.quoted && flow.part != Part::Later;
    Err(if answers { answer::too_big(packet, flow, most.saturating_sub(Ethernet::LEN as u32)) } else { Stop::of(FrameTooBig) })
}

/// Katran's only check.
#[inline(always)]
fn is_small<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, flow: &Flow) -> Result<(), Stop> {
    if flow.frame <= root.max_frame.get() {
        return Ok(());
    }
    if !memory.has(root, features::TOO_BIG) {
        return Err(Stop::of(FrameTooBig));
    }
    count_too_big(memory, flow);
    Err(answer::too_big(packet, flow, answer::accepted(root)))
}

#[inline(always)]
fn count_too_big<M: Memory>(memory: &M, flow: &Flow) {
    count_event(memory, if flow.is_v6 { Event::TooBigV6 } else { Event::TooBigV4 });
}

/// Strips a tunnel to this host: what was in it is given to the host, sent on, or looked at again.
#[inline(never)]
fn decap<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, katran: bool, flow: &mut Flow) -> Result<(), Stop> {
    let gue = memory.has(root, features::DECAP_GUE);
    let tunnels = Tunnels {
        ipip: memory.has(root, features::DECAP_IPIP),
        gre: false,
        fou_ports: [0, 0],
        geneve_port: 0,
        gue_port: if gue { u16::from_be(root.gue_port.get() as u16) } else { 0 },
        katran,
    };
    let Ok(tunnel) = strip::find(packet, &tunnels) else { return Ok(()) };
    let is_gue = tunnel.kind == strip::Kind::Gue;
    let dst = destination(packet, &tunnel).unwrap_or([0, 0]);
    let about = vips::find(memory, root, &VipKey::address(dst)).map_or(0, |about| about.flags);
    let ours = about & DECAP != 0;
    if ours {
        count_event(memory, Event::DecapDestination);
    } else if memory.has(root, features::DECAP_STRICT) && !is_this_host(root, &tunnel, dst) {
        return Err(Stop::of(NotOurTunnel));
    }
    if !tunnel.is_whole(packet) {
        return Err(Stop::of(TruncatedDropped));
    }
    count_event(memory, if tunnel.outer_v6 || katran && !is_gue { Event::DecapV6 } else { Event::DecapV4 });
    let alive = strip_one_hop(packet, &tunnel, katran).ok_or(Stop::of(NoHeadroom))?;
    if !alive {
        return Err(Stop::of(DecapTtlExpired));
    }
    if !ours {
        if is_gue {
            count_decapsulated(packet, memory, root, katran, flow);
        }
        return Err(Stop::of(Decapsulated));
    }
    if is_gue && about & EGRESS != 0 {
        if let Some(eth) = Ethernet::view_mut(packet, 0) {
            eth.turn();
        }
        count_event(memory, if tunnel.inner_v6 { Event::EgressDecapV6 } else { Event::EgressDecapV4 });
        return Err(Stop::of(EgressDecap));
    }
    count_event(memory, if tunnel.inner_v6 { Event::DecapBalancedV6 } else { Event::DecapBalancedV4 });
    count_event(memory, Event::AgainFrames);
    add_event(memory, Event::AgainBytes, flow.frame as u64);
    Err(Stop::AGAIN)
}

#[inline(always)]
fn destination<P: Packet>(packet: &P, tunnel: &Tunnel) -> Option<[u64; 2]> {
    Some(if tunnel.outer_v6 {
        wire::ipv6_words(&Ipv6::view(packet, Ethernet::LEN)?.dst)
    } else {
        [u32::from_ne_bytes(Ipv4::view(packet, Ethernet::LEN)?.dst) as u64, 0]
    })
}

#[inline(always)]
fn is_this_host(root: &Root, tunnel: &Tunnel, dst: [u64; 2]) -> bool {
    if tunnel.outer_v6 { dst == root.source_v6() } else { dst == [root.source_v4.get() as u64, 0] }
}

/// Strips the tunnel and takes one hop off the inner packet; `false`: it had none left.
#[inline(always)]
fn strip_one_hop<P: Packet>(packet: &mut P, tunnel: &Tunnel, katran: bool) -> Option<bool> {
    if !tunnel.strip(packet) {
        return None;
    }
    let before = if tunnel.inner_v6 {
        let ip = Ipv6::view_mut(packet, Ethernet::LEN)?;
        let before = ip.hop_limit;
        ip.decrement_hop_limit();
        before
    } else {
        let ip = Ipv4::view_mut(packet, Ethernet::LEN)?;
        let before = ip.ttl;
        if katran {
            ip.decrement_ttl_katran();
        } else {
            ip.decrement_ttl();
        }
        before
    };
    Some(before > 1 || katran && before == 0)
}

/// Counts a packet that the host gets for one of the VIPs. Katran's look at it answers pings, and forgets that it did.
#[inline(always)]
fn count_decapsulated<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, katran: bool, flow: &mut Flow) {
    let known = if katran { parse_katran(packet, flow) } else { parse(packet, flow) };
    if known.is_err() {
        return;
    }
    let port = (flow.ports >> 16) as u16;
    if let Some(vip) = vips::find(memory, root, &VipKey::new(flow.dst, port, flow.protocol)) {
        count_vip(memory, vip.id, VipCounter::Decap);
    }
}
