//! Frames that the balancer itself sends: echo replies, and ICMP "too big" to who sent a frame too large.

use crate::checksum;
use crate::memory::Root;
use crate::packet::Packet;
use crate::parse::Flow;
use crate::verdict::Reason::{EchoReply, NoHeadroom, TooBigReply, TruncatedDropped};
use crate::verdict::Stop;
use crate::wire::{self, Ethernet, Header, Icmp, Icmp4, Icmp6, Ipv4, Ipv6, OUTER_TTL};
use zerocopy::network_endian::U32;

/// Bytes of the packet that an ICMP error quotes: as Katran does, both within the least MTU of their family.
const QUOTE_V4: usize = 84;
const QUOTE_V6: usize = 248;
/// Where the ICMP header of an answer is.
const ICMP_V4: usize = const { Ethernet::LEN + Ipv4::LEN };

/// Answers a ping to an IPv4 address without options, as RFC 1122 section 3.2.2.6 wants; `None` if it cannot.
#[inline(always)]
pub(crate) fn echo_v4<P: Packet>(packet: &mut P) -> Option<Stop> {
    let frame = Icmp4::view_mut(packet, 0)?;
    frame.icmp.kind = wire::ICMP_ECHO_REPLY;
    frame.icmp.checksum = checksum::after_less(frame.icmp.checksum, (wire::ICMP_ECHO as u16) << 8);
    turn_v4(frame);
    Some(Stop::of(EchoReply))
}

/// Answers a ping to an IPv6 address (RFC 4443 section 4.2); `None` if it cannot.
#[inline(always)]
pub(crate) fn echo_v6<P: Packet>(packet: &mut P) -> Option<Stop> {
    let frame = Icmp6::view_mut(packet, 0)?;
    frame.icmp.kind = wire::ICMPV6_ECHO_REPLY;
    frame.icmp.checksum = checksum::after_more(frame.icmp.checksum, 1 << 8);
    turn_v6(frame);
    Some(Stop::of(EchoReply))
}

/// As Katran answers: the checksum without the end-around carry.
#[inline(always)]
pub(crate) fn echo_v4_katran<P: Packet>(packet: &mut P) -> Stop {
    let Some(frame) = Icmp4::view_mut(packet, 0) else { return Stop::of(TruncatedDropped) };
    frame.icmp.kind = wire::ICMP_ECHO_REPLY;
    frame.icmp.checksum = u16::from_le_bytes(frame.icmp.checksum).wrapping_add(8).to_le_bytes();
    turn_v4(frame);
    Stop::of(EchoReply)
}

/// As Katran answers: the checksum without the end-around carry.
#[inline(always)]
pub(crate) fn echo_v6_katran<P: Packet>(packet: &mut P) -> Stop {
    let Some(frame) = Icmp6::view_mut(packet, 0) else { return Stop::of(TruncatedDropped) };
    frame.icmp.kind = wire::ICMPV6_ECHO_REPLY;
    frame.icmp.checksum = u16::from_le_bytes(frame.icmp.checksum).wrapping_sub(1).to_le_bytes();
    turn_v6(frame);
    Stop::of(EchoReply)
}

#[inline(always)]
fn turn_v4(frame: &mut Icmp4) {
    frame.eth.turn();
    let ip = &mut frame.ip;
    (ip.src, ip.dst) = (ip.dst, ip.src);
    ip.ttl = OUTER_TTL;
    ip.renew_checksum();
}

#[inline(always)]
fn turn_v6(frame: &mut Icmp6) {
    frame.eth.turn();
    let ip = &mut frame.ip;
    (ip.src, ip.dst) = (ip.dst, ip.src);
    ip.hop_limit = OUTER_TTL;
}

/// The largest packet that is taken here.
#[inline(always)]
pub(crate) fn accepted(root: &Root) -> u32 {
    root.max_frame.get().wrapping_sub(Ethernet::LEN as u32)
}

/// Turns a frame that is too large into an ICMP error to its sender, which quotes its start and names the largest packet
/// that is taken (RFC 1191 section 4, RFC 4443 section 3.2).
#[inline(always)]
pub(crate) fn too_big<P: Packet>(packet: &mut P, flow: &Flow, mtu: u32) -> Stop {
    if packet.answer_too_big(flow.is_v6, mtu) { Stop::of(TooBigReply) } else { Stop::of(NoHeadroom) }
}

/// The same; `false`: there is no room for it.
#[inline(always)]
pub fn answer_too_big<P: Packet>(packet: &mut P, is_v6: bool, mtu: u32) -> bool {
    let made = if is_v6 { too_big_v6(packet, mtu) } else { too_big_v4(packet, mtu) };
    made.is_some()
}

#[inline(always)]
fn too_big_v4<P: Packet>(packet: &mut P, mtu: u32) -> Option<()> {
    const GROWN: usize = const { Ipv4::LEN + Icmp::LEN };
    const SOURCE: usize = const { Ethernet::LEN + 12 };
    const DESTINATION: usize = const { Ethernet::LEN + 16 };
    if !packet.truncate(const { Ethernet::LEN + QUOTE_V4 }) || !packet.grow_head(GROWN) {
        return None;
    }
    turn_macs(packet, GROWN, wire::ETHERTYPE_IPV4)?;
    let frame = Icmp4::view_mut(packet, 0)?;
    frame.ip.emit(0, 0, 0, const { (Icmp::LEN + QUOTE_V4) as u32 }, wire::IPPROTO_ICMP, 0);
    let mtu = U32::new(mtu & 0xffff);
    frame.icmp = Icmp { kind: wire::ICMP_UNREACHABLE, code: wire::ICMP_FRAGMENTATION_NEEDED, checksum: [0; 2], mtu };
    copy(packet, const { GROWN + DESTINATION }, SOURCE, 4);
    copy(packet, const { GROWN + SOURCE }, DESTINATION, 4);
    let sum = message_sum(packet, ICMP_V4, const { Icmp::LEN + QUOTE_V4 });
    let frame = Icmp4::view_mut(packet, 0)?;
    frame.icmp.checksum = checksum::finish(sum).to_ne_bytes();
    frame.ip.renew_checksum();
    Some(())
}

#[inline(always)]
fn too_big_v6<P: Packet>(packet: &mut P, mtu: u32) -> Option<()> {
    const GROWN: usize = const { Ipv6::LEN + Icmp::LEN };
    const SOURCE: usize = const { Ethernet::LEN + 8 };
    const DESTINATION: usize = const { Ethernet::LEN + 24 };
    const PAYLOAD: u32 = const { (Icmp::LEN + QUOTE_V6) as u32 };
    const ADDRESSES: usize = 32;
    if !packet.truncate(const { Ethernet::LEN + QUOTE_V6 }) || !packet.grow_head(GROWN) {
        return None;
    }
    turn_macs(packet, GROWN, wire::ETHERTYPE_IPV6)?;
    let frame = Icmp6::view_mut(packet, 0)?;
    frame.ip.emit_outer([0, 0], [0, 0], 0, PAYLOAD, wire::IPPROTO_ICMPV6);
    frame.icmp = Icmp { kind: wire::ICMPV6_TOO_BIG, code: 0, checksum: [0; 2], mtu: U32::new(mtu) };
    copy(packet, const { GROWN + DESTINATION }, SOURCE, 16);
    copy(packet, const { GROWN + SOURCE }, DESTINATION, 16);
    // RFC 8200 section 8.1: the addresses, the length and the next header are summed, too
    let sum = message_sum(packet, SOURCE, const { ADDRESSES + PAYLOAD as usize })
        .wrapping_add(PAYLOAD.to_be() as u64)
        .wrapping_add((wire::IPPROTO_ICMPV6 as u32).to_be() as u64);
    Icmp6::view_mut(packet, 0)?.icmp.checksum = checksum::finish(sum).to_ne_bytes();
    Some(())
}

/// Writes the Ethernet header of the answer to a frame whose start is now at `grown`.
#[inline(always)]
fn turn_macs<P: Packet>(packet: &mut P, grown: usize, ethertype: u16) -> Option<()> {
    const MAC: usize = 6;
    copy(packet, grown.wrapping_add(MAC), 0, MAC);
    copy(packet, grown, MAC, MAC);
    Ethernet::view_mut(packet, 0)?.ethertype = ethertype.into();
    Some(())
}

/// Copies `len` bytes (an even number) within the frame, two by two; what a frame does not have stays. Not inlined, for the
/// same reason as `message_sum`.
#[inline(never)]
fn copy<P: Packet>(packet: &mut P, from: usize, to: usize, len: usize) {
    for pair in 0..len / 2 {
        let at = pair.wrapping_mul(2);
        let Some(&bytes) = packet.bytes::<2>(from.wrapping_add(at)) else { return };
        if let Some(place) = packet.bytes_mut::<2>(to.wrapping_add(at)) {
            *place = bytes;
        }
    }
}

/// The sum of `len` bytes from `at`; 0 (which no message has) if the frame ends before. Not inlined, so that the loop stays one: unrolled, its words would not fit on a BPF
/// program's stack.
#[inline(never)]
fn message_sum<P: Packet>(packet: &P, at: usize, len: usize) -> u64 {
    let mut sum = 0_u64;
    for word in 0..len / 4 {
        let Some(bytes) = packet.bytes::<4>(at.wrapping_add(word.wrapping_mul(4))) else { return 0 };
        sum = sum.wrapping_add(u32::from_ne_bytes(*bytes) as u64);
    }
    sum
}
