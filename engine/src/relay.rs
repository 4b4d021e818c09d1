//! ICMP errors about our tunnels: taken out of them, and sent on to the client whose packet was in one.
//!
//! A router on the way to a real answers to the outer source, which is the balancer. It quotes the outer headers and as much of
//! the client's packet as it likes; what the client needs is an error about its own packet, from where it sent it to: the VIP.
//!
//! | the router says | the client gets |
//! |---|---|
//! | fragmentation needed, packet too big | the same in its own family, with the MTU less the outer headers |
//! | any other "unreachable", time exceeded | host unreachable, or address unreachable: what happens inside of a tunnel is nobody's business (RFC 2003 section 4, RFC 2473 section 8.3) |
//!
//! Only errors with a right checksum are looked at, whose quote came from one of our sources and has a packet to a VIP in it.

use crate::checksum;
use crate::encap::{GENEVE, GENEVE_ETHERNET, SHORT};
use crate::memory::prefixes::Space;
use crate::memory::vips::{self, HAS_VIPS, VipKey};
use crate::memory::{Addr, Memory, Root, features};
use crate::packet::Packet;
use crate::wire::{
    self, ETHERTYPE_ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Header, IPPROTO_GRE, IPPROTO_ICMP, IPPROTO_ICMPV6,
    IPPROTO_IPIP, IPPROTO_IPV6, IPPROTO_UDP, Icmp, Icmp4, Icmp6, Ipv4, Ipv6, Udp,
};
use zerocopy::network_endian::U32;

/// It is no error about one of our tunnels: nothing was changed.
pub const NOT_OURS: u32 = 0;
/// It has become the error to the client.
pub const RELAYED: u32 = 1;
/// It is one, but quotes too little: nothing was changed.
pub const TOO_SHORT: u32 = 2;
/// There is no room for its headers.
pub const NO_ROOM: u32 = 3;

/// Bytes of the client's packet that are quoted at most: the message is within the least MTU of its family.
const MOST_V4: usize = const { 576 - Ipv4::LEN - Icmp::LEN };
const MOST_V6: usize = const { 1280 - Ipv6::LEN - Icmp::LEN };
/// Bytes behind the client's IP header that an error needs: the ports.
const LEAST: usize = 8;
/// Where the quote is.
const QUOTE_V4: usize = const { Ethernet::LEN + Ipv4::LEN + Icmp::LEN };
const QUOTE_V6: usize = const { Ethernet::LEN + Ipv6::LEN + Icmp::LEN };
/// Where what is behind the quoted outer IP header is.
const BEHIND_V4: usize = const { QUOTE_V4 + Ipv4::LEN };
const BEHIND_V6: usize = const { QUOTE_V6 + Ipv6::LEN };
/// The quoted packet was too large; in a number with its protocol.
const TOO_BIG: u32 = 1 << 8;
/// It is an error about one of our packets.
const ABOUT: u32 = 1 << 9;
/// The inner packet is IPv6; in a number with its place.
const INNER_V6: u32 = 1 << 16;
/// It is one of our tunnels, but the quote ends before what is inside: RFC 792 asks for no more than eight bytes.
const CUT: u32 = 0xff;

/// Turns an ICMP error about one of our tunnels into one for the client.
#[inline(always)]
pub fn relay<P: Packet, M: Memory>(packet: &mut P, memory: &M) -> u32 {
    let Some(root) = memory.root() else { return NOT_OURS };
    let Some(eth) = Ethernet::view(packet, 0) else { return NOT_OURS };
    match eth.ethertype.get() {
        ETHERTYPE_IPV4 => {
            let about = about_v4(packet, root);
            let inner = inside::<P, BEHIND_V4>(packet, root, about);
            let Some(frame) = Icmp4::view(packet, 0) else { return NOT_OURS };
            let end = (frame.ip.total_len.get() as usize).wrapping_add(Ethernet::LEN);
            let mtu = frame.icmp.mtu.get() & 0xffff;
            unwrap(packet, memory, root, [about, inner, mtu, QUOTE_V4 as u32, end as u32])
        }
        ETHERTYPE_IPV6 => {
            let about = about_v6(packet, root);
            let inner = inside::<P, BEHIND_V6>(packet, root, about);
            let Some(frame) = Icmp6::view(packet, 0) else { return NOT_OURS };
            let end = (frame.ip.payload_len.get() as usize).wrapping_add(const { Ethernet::LEN + Ipv6::LEN });
            let mtu = frame.icmp.mtu.get();
            unwrap(packet, memory, root, [about, inner, mtu, QUOTE_V6 as u32, end as u32])
        }
        _ => NOT_OURS,
    }
}

/// The protocol that is quoted, with [`ABOUT`] and perhaps [`TOO_BIG`]; 0: no error about something that we sent.
#[inline(always)]
fn about_v4<P: Packet>(packet: &P, root: &Root) -> u32 {
    let Some(&Icmp4 { ip, icmp, .. }) = Icmp4::view(packet, 0) else { return 0 };
    if ip.version_ihl != 0x45 || ip.is_fragment() || ip.protocol != IPPROTO_ICMP {
        return 0;
    }
    let kind = match (icmp.kind, icmp.code) {
        (wire::ICMP_UNREACHABLE, wire::ICMP_FRAGMENTATION_NEEDED) => TOO_BIG,
        (wire::ICMP_UNREACHABLE | wire::ICMP_TIME_EXCEEDED, _) => 0,
        _ => return 0,
    };
    let Some(quoted) = Ipv4::view(packet, QUOTE_V4) else { return 0 };
    let source = u32::from_ne_bytes(quoted.src);
    let crafted = (source ^ root.craft_v4.get()) & !root.vary_v4.get() == 0;
    if quoted.version_ihl != 0x45 || quoted.src != ip.dst || !crafted && source != root.source_v4.get() {
        return 0;
    }
    let protocol = quoted.protocol;
    let message = (ip.total_len.get() as usize).wrapping_sub(Ipv4::LEN);
    match packet.sum(const { Ethernet::LEN + Ipv4::LEN }, message) {
        Some(sum) if checksum::finish(sum) == 0 => ABOUT | kind | protocol as u32,
        _ => 0,
    }
}

#[inline(always)]
fn about_v6<P: Packet>(packet: &P, root: &Root) -> u32 {
    let Some(frame) = Icmp6::view(packet, 0) else { return 0 };
    if frame.ip.next_header != IPPROTO_ICMPV6 {
        return 0;
    }
    let kind = match frame.icmp.kind {
        wire::ICMPV6_TOO_BIG => TOO_BIG,
        wire::ICMPV6_UNREACHABLE | wire::ICMPV6_TIME_EXCEEDED => 0,
        _ => return 0,
    };
    let (to, message) = (wire::ipv6_words(&frame.ip.dst), frame.ip.payload_len.get() as usize);
    let Some(quoted) = Ipv6::view(packet, QUOTE_V6) else { return 0 };
    let ([high, low], protocol) = (wire::ipv6_words(&quoted.src), quoted.next_header);
    let ([craft_high, craft_low], vary) = (root.craft_v6(), (root.vary_v6.get() as u64) << 32);
    let crafted = high == craft_high && (low ^ craft_low) & !vary == 0;
    if quoted.version_class_label.get() >> 28 != 6 || [high, low] != to || !crafted && [high, low] != root.source_v6() {
        return 0;
    }
    // RFC 8200 section 8.1: the addresses, the length and the next header are summed, too
    let pseudo = (message as u32).to_be() as u64;
    let pseudo = pseudo.wrapping_add((IPPROTO_ICMPV6 as u32).to_be() as u64);
    match packet.sum(const { Ethernet::LEN + 8 }, message.wrapping_add(32)) {
        Some(sum) if checksum::finish(sum.wrapping_add(pseudo)) == 0 => ABOUT | kind | protocol as u32,
        _ => 0,
    }
}

/// The place of the packet inside the tunnel whose IP header ends at `AT`, perhaps with [`INNER_V6`]; [`CUT`]; 0: no tunnel of
/// ours.
#[inline(always)]
fn inside<P: Packet, const AT: usize>(packet: &P, root: &Root, about: u32) -> u32 {
    let at = AT as u32;
    if about & ABOUT == 0 {
        return 0;
    }
    match about as u8 {
        IPPROTO_IPIP => at,
        IPPROTO_IPV6 => at | INNER_V6,
        IPPROTO_GRE => match packet.bytes::<SHORT>(AT) {
            Some(&[0, 0, a, b]) => family(u16::from_be_bytes([a, b]), at.wrapping_add(SHORT as u32)),
            Some(_) => 0,
            None => CUT,
        },
        IPPROTO_UDP => in_udp::<P, AT>(packet, root),
        _ => 0,
    }
}

#[inline(always)]
fn family(ethertype: u16, at: u32) -> u32 {
    match ethertype {
        ETHERTYPE_IPV4 => at,
        ETHERTYPE_IPV6 => at | INNER_V6,
        _ => 0,
    }
}

#[inline(always)]
fn in_udp<P: Packet, const AT: usize>(packet: &P, root: &Root) -> u32 {
    let Some(&Udp { ports: [_, _, a, b], .. }) = Udp::view(packet, AT) else { return 0 };
    let (port, behind) = (u16::from_ne_bytes([a, b]), AT.wrapping_add(Udp::LEN));
    let at = behind as u32;
    let others = root.tunnel_ports.get();
    let (fou_v4, fou_v6, geneve) = (others as u16, (others >> 16) as u16, (others >> 32) as u16);
    if port == root.gue_port.get() as u16 {
        return match packet.bytes::<SHORT>(behind) {
            Some(&[0, IPPROTO_IPIP, 0, 0]) => at.wrapping_add(SHORT as u32),
            Some(&[0, IPPROTO_IPV6, 0, 0]) => at.wrapping_add(SHORT as u32) | INNER_V6,
            Some([first, ..]) if first >> 4 == 4 => at,
            Some([first, ..]) if first >> 4 == 6 => at | INNER_V6,
            Some(_) => 0,
            None => CUT,
        };
    }
    if port == fou_v4 {
        return at;
    }
    if port == fou_v6 {
        return at | INNER_V6;
    }
    if port != geneve {
        return 0;
    }
    let Some(&[0, 0, a, b, ..]) = packet.bytes::<GENEVE>(behind) else {
        return if packet.bytes::<GENEVE>(behind).is_none() { CUT } else { 0 };
    };
    let ethertype = u16::from_be_bytes([a, b]);
    if ethertype != ETHERTYPE_ETHERNET {
        return family(ethertype, at.wrapping_add(GENEVE as u32));
    }
    match Ethernet::view(packet, behind.wrapping_add(GENEVE)) {
        Some(eth) => family(eth.ethertype.get(), at.wrapping_add(GENEVE_ETHERNET as u32)),
        None => CUT,
    }
}

/// Replaces everything in front of the client's packet; `known`: what [`about_v4`] and [`inside`] say, the MTU that the router
/// names, where its quote begins and where its message ends.
#[inline(always)]
fn unwrap<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, known: [u32; 5]) -> u32 {
    let [about, inner, mtu, quote, end] = known;
    // Bounded for the verifier, to what outer headers come to.
    let at = (inner & 0xff) as usize;
    if at == 0 {
        return NOT_OURS;
    }
    if inner == CUT {
        return TOO_SHORT;
    }
    let v6 = inner & INNER_V6 != 0;
    let found = if v6 { client_v6(packet, at) } else { client_v4(packet, at) };
    if found == 0 {
        return TOO_SHORT;
    }
    let (len, end) = (found as usize, (end as usize).min(packet.len()));
    let to = destination(packet, at, v6);
    if !is_vip(packet, memory, root, at, v6, to) {
        return NOT_OURS;
    }
    let most = if v6 { MOST_V6 } else { MOST_V4 };
    let len = end.wrapping_sub(at).min(len).min(most);
    let headers = if v6 { Ipv6::LEN } else { ipv4_header(packet, at) };
    if end < at || len < headers.wrapping_add(LEAST) {
        return TOO_SHORT;
    }
    let Some(&Ethernet { macs, .. }) = Ethernet::view(packet, 0) else { return NOT_OURS };
    let less = at.wrapping_sub(quote as usize) as u32;
    // 0: an old router's, which does not say (RFC 1191 section 4).
    let mtu = match (about & TOO_BIG != 0, v6) {
        (false, _) => 0,
        (true, true) => mtu.saturating_sub(less).max(1280),
        (true, false) if mtu == 0 => 0,
        (true, false) => mtu.saturating_sub(less).max(68) & 0xffff,
    };
    let end = len.wrapping_add(Ethernet::LEN);
    if !packet.shrink_head(at.wrapping_sub(Ethernet::LEN)) || !packet.truncate(end) {
        return NO_ROOM;
    }
    let (made, too_big) = (len as u32, about & TOO_BIG != 0);
    let made = if v6 { error_v6(packet, too_big, mtu, made) } else { error_v4(packet, too_big, mtu, made) };
    let (Some(()), Some(eth)) = (made, Ethernet::view_mut(packet, 0)) else { return NO_ROOM };
    eth.macs = macs;
    eth.turn();
    eth.ethertype = (if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 }).into();
    RELAYED
}

/// Bytes of the client's packet, as its header says; 0: there is no whole IP header.
#[inline(always)]
fn client_v4<P: Packet>(packet: &P, at: usize) -> u32 {
    match packet.bytes_anywhere::<4>(at) {
        Some(&[version_ihl, _, a, b])
            if (0x45..0x50).contains(&version_ihl) && packet.bytes_anywhere::<{ Ipv4::LEN }>(at).is_some() =>
        {
            u16::from_be_bytes([a, b]) as u32
        }
        _ => 0,
    }
}

#[inline(always)]
fn client_v6<P: Packet>(packet: &P, at: usize) -> u32 {
    match packet.bytes_anywhere::<{ Ipv6::LEN }>(at) {
        Some(&[version, _, _, _, a, b, ..]) if version >> 4 == 6 => {
            (u16::from_be_bytes([a, b]) as u32).wrapping_add(Ipv6::LEN as u32)
        }
        _ => 0,
    }
}

#[inline(always)]
fn ipv4_header<P: Packet>(packet: &P, at: usize) -> usize {
    packet.bytes_anywhere::<1>(at).map_or(0, |[version_ihl]| ((version_ihl & 0xf) as usize) << 2)
}

#[inline(always)]
fn destination<P: Packet>(packet: &P, at: usize, v6: bool) -> Addr {
    if v6 {
        packet.bytes_anywhere::<16>(at.wrapping_add(24)).map_or([0, 0], wire::ipv6_words)
    } else {
        packet.bytes_anywhere::<4>(at.wrapping_add(16)).map_or([0, 0], |dst| [u32::from_ne_bytes(*dst) as u64, 0])
    }
}

/// Whether the client's packet is to a VIP.
#[inline(always)]
fn is_vip<P: Packet, M: Memory>(packet: &P, memory: &M, root: &Root, at: usize, v6: bool, to: Addr) -> bool {
    if vips::find(memory, root, &VipKey::address(to)).is_some_and(|about| about.flags & HAS_VIPS != 0) {
        return true;
    }
    if !memory.has(root, features::PREFIX_VIPS) {
        return false;
    }
    let (protocol, l4) = if v6 { (at.wrapping_add(6), Ipv6::LEN) } else { (at.wrapping_add(9), ipv4_header(packet, at)) };
    let protocol = packet.bytes_anywhere::<1>(protocol).map_or(0, |[protocol]| *protocol);
    let ports = packet.bytes_anywhere::<4>(at.wrapping_add(l4)).map_or(0, |[_, _, a, b]| u16::from_ne_bytes([*a, *b]));
    let (space, tag) = (if v6 { Space::VipV6 } else { Space::VipV4 }, (protocol as u32) << 16);
    memory.longest(root, space, tag | ports as u32, to) != 0 || memory.longest(root, space, tag, to) != 0
}

#[inline(always)]
fn error_v4<P: Packet>(packet: &mut P, too_big: bool, mtu: u32, quote: u32) -> Option<()> {
    const ICMP: usize = const { Ethernet::LEN + Ipv4::LEN };
    if !packet.grow_head(const { Ipv4::LEN + Icmp::LEN }) {
        return None;
    }
    let &Ipv4 { src: client, dst: vip, .. } = Ipv4::view(packet, QUOTE_V4)?;
    let payload = quote.wrapping_add(Icmp::LEN as u32);
    let code = if too_big { wire::ICMP_FRAGMENTATION_NEEDED } else { wire::ICMP_HOST_UNREACHABLE };
    let frame = Icmp4::view_mut(packet, 0)?;
    frame.ip.emit(u32::from_ne_bytes(vip), u32::from_ne_bytes(client), 0, payload, IPPROTO_ICMP, 0);
    frame.icmp = Icmp { kind: wire::ICMP_UNREACHABLE, code, checksum: [0; 2], mtu: U32::new(mtu) };
    let sum = packet.sum(ICMP, payload as usize)?;
    Icmp4::view_mut(packet, 0)?.icmp.checksum = checksum::finish(sum).to_ne_bytes();
    Some(())
}

#[inline(always)]
fn error_v6<P: Packet>(packet: &mut P, too_big: bool, mtu: u32, quote: u32) -> Option<()> {
    const ADDRESSES: usize = const { Ethernet::LEN + 8 };
    if !packet.grow_head(const { Ipv6::LEN + Icmp::LEN }) {
        return None;
    }
    let inner = Ipv6::view(packet, QUOTE_V6)?;
    let (client, vip) = (wire::ipv6_words(&inner.src), wire::ipv6_words(&inner.dst));
    let payload = quote.wrapping_add(Icmp::LEN as u32);
    let (kind, code) =
        if too_big { (wire::ICMPV6_TOO_BIG, 0) } else { (wire::ICMPV6_UNREACHABLE, wire::ICMPV6_ADDRESS_UNREACHABLE) };
    let frame = Icmp6::view_mut(packet, 0)?;
    frame.ip.emit_outer(vip, client, 0, payload, IPPROTO_ICMPV6);
    frame.icmp = Icmp { kind, code, checksum: [0; 2], mtu: U32::new(mtu) };
    let pseudo = (payload.to_be() as u64).wrapping_add((IPPROTO_ICMPV6 as u32).to_be() as u64);
    let sum = packet.sum(ADDRESSES, (payload as usize).wrapping_add(32))?;
    Icmp6::view_mut(packet, 0)?.icmp.checksum = checksum::finish(sum.wrapping_add(pseudo)).to_ne_bytes();
    Some(())
}
