//! The way of the usual frames: whole TCP and UDP packets without a tag, to a VIP without unusual flags and a real whose next hop
//! is known.
//!
//! The steps are those of any frame (`classify`, `select`, `encap`), in one straight line that asks nothing which such a frame
//! cannot be, and with what is known of it in registers. Whatever is unusual stops with [`Stop::ASIDE`]: the frame has then
//! neither been changed nor counted, and takes the other way, which is for all. So what is rare, or fails, is not here at all.

use crate::encap::{self, Path};
use crate::hash;
use crate::memory::counters::{Event, count_event};
use crate::memory::reals::Method;
use crate::memory::vips::{self, NO_SOURCE_PORT, SPECIAL, VipKey, VipSlot};
use crate::memory::{Memory, Mode, Root, features};
use crate::packet::Packet;
use crate::parse::Flow;
use crate::select;
use crate::server_id;
use crate::verdict::{Action, From, Reason, Stop, Verdict};
use crate::wire::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Head6, Header, IPPROTO_TCP, IPPROTO_UDP, Ipv4, Ipv6, Tcp, Tcp4, Udp,
};
use crate::{account, classify};
use zerocopy::transmute_ref;

/// What is looked at of every frame. Nothing shorter comes off a wire (IEEE 802.3 clause 3.2.8); it ends where TCP's header without
/// options behind IPv4 does, and where the IPv6 header does.
const HEAD: usize = const {
    assert!(Tcp4::LEN == Head6::LEN);
    Tcp4::LEN
};

/// Decides on a frame in mode xdp and counts it. `None`: nothing was done, and the frame has to take the other way.
#[inline(always)]
pub fn plain<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root) -> Option<Action> {
    if !root.is_in_force(Mode::Xdp) {
        return None;
    }
    // Compiled for each family apart: all that depends on it is known then.
    let (head, frame) = packet.head::<HEAD>()?;
    let mut flow = Flow::default();
    match family(head)? {
        Family::V4(head) => {
            read_v4(head, frame, memory, root, &mut flow)?;
            decided(packet, memory, root, flow)
        }
        Family::V6(head) => {
            read_v6(packet, head, frame, memory, root, &mut flow)?;
            decided(packet, memory, root, flow)
        }
    }
}

/// A frame's head, as its EtherType says.
pub enum Family<'a> {
    /// IPv4, and TCP if it has no options.
    V4(&'a Tcp4),
    /// IPv6.
    V6(&'a Head6),
}

/// Which it is; `None`: neither.
#[inline(always)]
pub fn family(head: &[u8; HEAD]) -> Option<Family<'_>> {
    let (v4, v6): (&Tcp4, &Head6) = (transmute_ref!(head), transmute_ref!(head));
    if v4.eth.is(ETHERTYPE_IPV4) {
        Some(Family::V4(v4))
    } else if v6.eth.is(ETHERTYPE_IPV6) {
        Some(Family::V6(v6))
    } else {
        None
    }
}

/// Fills what is known of a usual IPv4 frame of `frame` bytes, which the next steps take; `flow` is the default one.
#[inline(always)]
pub fn read_v4<M: Memory>(head: &Tcp4, frame: usize, memory: &M, root: &Root, flow: &mut Flow) -> Option<()> {
    (flow.frame, flow.l4) = (frame as u32, const { (Ethernet::LEN + Ipv4::LEN) as u32 });
    // Without options.
    if head.ip.version_ihl != 0x45 || head.ip.is_fragment() {
        return None;
    }
    flow.set_ipv4(&head.ip);
    flow.ports = u32::from_ne_bytes(head.tcp.ports);
    let least = match flow.protocol {
        IPPROTO_TCP => set_tcp(flow, &head.tcp, memory, root, Ipv4::LEN)?,
        IPPROTO_UDP => of_udp(flow, memory, root, Ipv4::LEN)?,
        _ => return None,
    };
    fits(root, flow, least).then_some(())
}

/// The same of IPv6, without extension headers.
#[inline(always)]
pub fn read_v6<P: Packet, M: Memory>(
    packet: &P,
    head: &Head6,
    frame: usize,
    memory: &M,
    root: &Root,
    flow: &mut Flow,
) -> Option<()> {
    (flow.frame, flow.l4) = (frame as u32, HEAD as u32);
    if head.ip.version_class_label.get() >> 28 != 6 {
        return None;
    }
    flow.set_ipv6(&head.ip);
    let least = match flow.protocol {
        IPPROTO_TCP => {
            let tcp = Tcp::view(packet, HEAD)?;
            flow.ports = u32::from_ne_bytes(tcp.ports);
            set_tcp(flow, tcp, memory, root, Ipv6::LEN)?
        }
        IPPROTO_UDP => {
            flow.ports = u32::from_ne_bytes(Udp::view(packet, HEAD)?.ports);
            of_udp(flow, memory, root, Ipv6::LEN)?
        }
        _ => return None,
    };
    fits(root, flow, least).then_some(())
}

/// Bytes of an IP packet with a TCP header, if the one here has no server id among its options.
#[inline(always)]
fn set_tcp<M: Memory>(flow: &mut Flow, tcp: &Tcp, memory: &M, root: &Root, ip: usize) -> Option<u32> {
    flow.set_tcp(tcp);
    let named = memory.has(root, features::TCP_ID) && !server_id::has_no_option(flow);
    if named { None } else { Some(ip.wrapping_add(Tcp::LEN) as u32) }
}

/// The same of UDP, if it is no tunnel to this host.
#[inline(always)]
fn of_udp<M: Memory>(flow: &Flow, memory: &M, root: &Root, ip: usize) -> Option<u32> {
    let tunnel = memory.has(root, features::DECAP_GUE) && flow.ports >> 16 == root.gue_port.get() & 0xffff;
    if tunnel { None } else { Some(ip.wrapping_add(Udp::LEN) as u32) }
}

/// Whether the frame may be forwarded as it is: see [`classify::fits`].
#[inline(always)]
fn fits(root: &Root, flow: &Flow, least: u32) -> bool {
    let has_all = flow.len >= least && flow.len.wrapping_add(Ethernet::LEN as u32) <= flow.frame;
    has_all && flow.ttl > 1 && flow.frame <= root.max_frame.get()
}

#[inline(always)]
fn decided<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, mut flow: Flow) -> Option<Action> {
    let sent = find_vip(memory, root, &mut flow).and_then(|vip| forward(packet, memory, root, Some(vip), &mut flow));
    match sent {
        Ok(_) => Some(Action::Tx),
        Err(stop) if stop.is_aside() => None,
        Err(stop) => {
            let verdict = Verdict::stopped(stop);
            account(&verdict, &flow, memory);
            Some(verdict.action())
        }
    }
}

/// The first half for a batch: whether the frame is a usual one to a VIP, and what is known of it then. The caller has made sure that
/// there are such frames ([`features::has_usual`]).
#[inline]
pub fn look<P: Packet, M: Memory>(packet: &P, memory: &M, root: &Root, flow: &mut Flow) -> bool {
    // In its place: made elsewhere and moved, it would be loaded before its parts were stored.
    *flow = Flow::default();
    if read(packet, memory, root, flow).is_none() {
        return false;
    }
    match find_vip(memory, root, flow) {
        Ok(vip) => flow.vip = vip.read(),
        Err(_) => return false,
    }
    true
}

/// Fills what is known of a usual frame of either family.
#[inline(always)]
pub fn read<P: Packet, M: Memory>(packet: &P, memory: &M, root: &Root, flow: &mut Flow) -> Option<()> {
    let (head, frame) = packet.head::<HEAD>()?;
    match family(head)? {
        Family::V4(head) => read_v4(head, frame, memory, root, flow),
        Family::V6(head) => read_v6(packet, head, frame, memory, root, flow),
    }
}

/// The second half: the frame on its way, and counted; [`Stop::ASIDE`]: nothing was done.
#[inline]
pub fn go<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, flow: &mut Flow) -> Result<Verdict, Stop> {
    forward(packet, memory, root, None, flow)
}

/// A hit and a new flow each have a branch of their own to the end, with its counters. `vip`: what `flow` knows only the half of yet.
#[inline(always)]
fn forward<P: Packet, M: Memory>(
    packet: &mut P,
    memory: &M,
    root: &Root,
    vip: Option<&VipSlot>,
    flow: &mut Flow,
) -> Result<Verdict, Stop> {
    let now = memory.now();
    let real = if flow.is_syn() { 0 } else { select::in_table(memory, root, flow, now) };
    if real != 0 {
        if let Err(stop) = send(packet, memory, root, flow, real) {
            if !stop.is_aside() {
                select::count_without_id(memory, root, flow);
            }
            return Err(stop);
        }
        select::count_without_id(memory, root, flow);
        let verdict = Verdict::forward(flow.vip.id, real, flow.len, From::Flow);
        account(&verdict, flow, memory);
        return Ok(verdict);
    }
    if let Some(vip) = vip {
        flow.vip = vip.read();
    }
    let real = select::ring(memory, root, false, flow).map_err(|_| Stop::ASIDE)?;
    let sent = send(packet, memory, root, flow, real);
    if sent == Err(Stop::ASIDE) {
        return Err(Stop::ASIDE);
    }
    select::count_without_id(memory, root, flow);
    let enter = select::arrive(memory, root, false, flow).enter;
    count_event(memory, Event::RingDecisions);
    sent?;
    if enter {
        select::remember(memory, root, flow, real, now);
    }
    let verdict = Verdict::forward(flow.vip.id, real, flow.len, From::Ring);
    account(&verdict, flow, memory);
    Ok(verdict)
}

/// The VIP's entry; `flow` then knows what a hit asks for.
#[inline(always)]
fn find_vip<'m, M: Memory>(memory: &'m M, root: &Root, flow: &mut Flow) -> Result<&'m VipSlot, Stop> {
    let port = (flow.ports >> 16) as u16;
    let found = vips::slot(memory, root, &VipKey::new(flow.dst, port, flow.protocol));
    let vip = match found {
        Some(vip) => vip,
        None => any_port(memory, root, flow)?,
    };
    flow.vip = vip.what();
    // One question for almost all.
    if flow.vip.flags & (SPECIAL | NO_SOURCE_PORT) != 0 {
        if flow.vip.flags & SPECIAL != 0 {
            return Err(Stop::ASIDE);
        }
        flow.ports &= classify::DESTINATION_PORT;
    }
    flow.tag = hash::tag_of_usual(root, flow);
    Ok(vip)
}

/// The VIP of every port at this address. What is for none may still be for a prefix, or from a real behind NAT.
#[inline(always)]
fn any_port<'m, M: Memory>(memory: &'m M, root: &Root, flow: &mut Flow) -> Result<&'m VipSlot, Stop> {
    if memory.has(root, features::PREFIX_VIPS) {
        return Err(Stop::ASIDE);
    }
    let key = VipKey::new(flow.dst, 0, flow.protocol);
    let found = if root.any_port.get() == 0 { None } else { vips::slot(memory, root, &key) };
    flow.ports &= !classify::DESTINATION_PORT;
    found.ok_or(if memory.has(root, features::NAT) { Stop::ASIDE } else { Stop::of(Reason::NotAVip) })
}

/// The frame on its way to the real with this id.
#[inline(always)]
pub fn send<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, flow: &Flow, id: u32) -> Result<(), Stop> {
    let real = memory.real(id).ok_or(Stop::ASIDE)?;
    let hop = real.hop();
    if !hop.is_usual() {
        if !hop.is_ready() || hop.is(Method::Nat) || hop.is_narrow() && !encap::fits_mtu(flow, hop, real.out().mtu) {
            return Err(Stop::ASIDE);
        }
        if hop.is(Method::L2) {
            return encap::in_frame(packet, flow, &Path::plain(root, real, hop)).ok_or(Stop::ASIDE);
        }
        if !hop.is(Method::Ipip) {
            let done = encap::done(packet.tunnel(memory, root, flow, id, flow.ports & 0xffff));
            return done.inspect_err(|_| encap::count_failed(memory, hop));
        }
    }
    encap::in_ip(packet, flow, &Path::plain(root, real, hop)).ok_or(Stop::ASIDE)
}
