//! ICMP errors about translated connections (RFC 5508 section 4, RFC 7915 sections 4.2 and 5.2): the packet that they quote
//! becomes the one that its sender sent, and the error comes from the other end of the connection, as the sender knows it.
//!
//! All headers up to the quoted transport header are written anew, whatever the families: options are left out.

use super::rewrite::{
    FAILED_TRANSLATION, L4_V4, L4_V6, New, addresses_grown, done, emit_v4, emit_v6, failed, link, new, place_l4, pseudo_header,
    transport,
};
use crate::checksum;
use crate::memory::counters::{Event, count_event};
use crate::memory::{Memory, Root};
use crate::packet::Packet;
use crate::parse::Flow;
use crate::verdict::Reason::{NoNextHop, NoReal};
use crate::wire::{
    Ethernet, Header, ICMP_FRAGMENTATION_NEEDED, ICMP_LEN, ICMP_TIME_EXCEEDED, ICMP_UNREACHABLE, ICMPV6_PARAMETER_PROBLEM,
    ICMPV6_TIME_EXCEEDED, ICMPV6_TOO_BIG, ICMPV6_UNREACHABLE, IPPROTO_ICMP, IPPROTO_ICMPV6, Icmp, Ipv4, Ipv6,
};
use zerocopy::network_endian::{U16, U32};

/// Where the quoted IP header and the quoted transport header come to be.
const QUOTE_V4: usize = const { L4_V4 + ICMP_LEN };
const QUOTE_V6: usize = const { L4_V6 + ICMP_LEN };
const QUOTED_V4: usize = const { QUOTE_V4 + Ipv4::LEN };
const QUOTED_V6: usize = const { QUOTE_V6 + Ipv6::LEN };
/// What IPv6's header has more than IPv4's.
const MORE: u32 = const { (Ipv6::LEN - Ipv4::LEN) as u32 };
/// Least MTU of IPv6 (RFC 8200 section 5).
const LEAST_V6: u32 = 1280;

/// What is kept of the quoted IP header.
struct Quoted {
    class: u8,
    ttl: u8,
    payload: u32,
    /// Identification, flags and offset of IPv4.
    id: u16,
    fragment: u16,
}

/// Type and code in the upper half, and the word behind the checksum.
struct Message {
    kind: u8,
    code: u8,
    word: u32,
}

/// Translates an ICMP error about the connection of `flow`. Gives a raw [`crate::Stop`], 0: it is done.
#[inline(always)]
pub fn error<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, flow: &Flow, id: u32) -> u32 {
    let Some(new) = new(packet, memory, root, flow, id) else { return failed(NoReal) };
    if new.to == 0 {
        return failed(NoNextHop);
    }
    count_event(memory, Event::NatErrors);
    let l4 = flow.l4();
    let Some((message, quoted)) = read(packet, flow, l4) else { return done(None) };
    let message = if flow.is_v6 == new.is_v6 { Some(message) } else { other_family(&message, new.is_v6) };
    let Some(message) = message else { return FAILED_TRANSLATION };
    // Bytes from the quoted transport header on.
    let rest = flow.len.wrapping_add(Ethernet::LEN as u32).wrapping_sub(flow.l4);
    let written = if new.is_v6 {
        write_v6(packet, flow, &new, &message, &quoted, rest)
    } else {
        write_v4(packet, flow, &new, &message, &quoted, rest)
    };
    done(written.and_then(|()| link(packet, &new)))
}

#[inline(always)]
fn read<P: Packet>(packet: &P, flow: &Flow, l4: usize) -> Option<(Message, Quoted)> {
    if flow.is_v6 {
        let quote = within(l4.wrapping_sub(Ipv6::LEN));
        let [a, b, c, _, d, e, _, ttl] = *packet.bytes_anywhere::<8>(quote)?;
        let class = (u32::from_be_bytes([a, b, c, 0]) >> 20) as u8;
        let payload = u16::from_be_bytes([d, e]) as u32;
        return Some((message(packet, quote)?, Quoted { class, ttl, payload, id: 0, fragment: 0 }));
    }
    let quote = Ipv4::view(packet, Ethernet::LEN)?.header_len().wrapping_add(const { Ethernet::LEN + ICMP_LEN });
    let [ihl, class, len, len_low, id, id_low, fragment, fragment_low, ttl] = *packet.bytes_anywhere::<9>(quote)?;
    let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    let payload = (word(len, len_low) as u32).wrapping_sub(((ihl & 0xf) as u32) << 2);
    let quoted = Quoted { class, ttl, payload, id: word(id, id_low), fragment: word(fragment, fragment_low) };
    Some((message(packet, quote)?, quoted))
}

/// An offset in a range that the verifier sees.
#[inline(always)]
const fn within(at: usize) -> usize {
    at & 0x3ff
}

#[inline(always)]
fn message<P: Packet>(packet: &P, quote: usize) -> Option<Message> {
    let [kind, code, _, _, a, b, c, d] = *packet.bytes_anywhere::<ICMP_LEN>(within(quote.wrapping_sub(ICMP_LEN)))?;
    Some(Message { kind, code, word: u32::from_be_bytes([a, b, c, d]) })
}

/// The same error in the other version of ICMP; `None`: it has none.
#[inline(always)]
fn other_family(message: &Message, to_v6: bool) -> Option<Message> {
    let of = |kind, code, word| Some(Message { kind, code, word });
    if to_v6 {
        return match (message.kind, message.code) {
            (ICMP_UNREACHABLE, ICMP_FRAGMENTATION_NEEDED) => {
                let mtu = (message.word & 0xffff).wrapping_add(MORE);
                of(ICMPV6_TOO_BIG, 0, if mtu < LEAST_V6 { LEAST_V6 } else { mtu })
            }
            // the protocol: the next header field is at 6
            (ICMP_UNREACHABLE, 2) => of(ICMPV6_PARAMETER_PROBLEM, 1, 6),
            (ICMP_UNREACHABLE, 3) => of(ICMPV6_UNREACHABLE, 4, 0),
            (ICMP_UNREACHABLE, 9 | 10 | 13 | 15) => of(ICMPV6_UNREACHABLE, 1, 0),
            (ICMP_UNREACHABLE, 0 | 1 | 5 | 6 | 7 | 8 | 11 | 12) => of(ICMPV6_UNREACHABLE, 0, 0),
            (ICMP_TIME_EXCEEDED, code) => of(ICMPV6_TIME_EXCEEDED, code, 0),
            _ => None,
        };
    }
    match (message.kind, message.code) {
        (ICMPV6_TOO_BIG, _) => {
            let mtu = message.word.wrapping_sub(MORE);
            of(ICMP_UNREACHABLE, ICMP_FRAGMENTATION_NEEDED, if mtu > 0xffff { 0xffff } else { mtu })
        }
        (ICMPV6_UNREACHABLE, 1) => of(ICMP_UNREACHABLE, 10, 0),
        (ICMPV6_UNREACHABLE, 4) => of(ICMP_UNREACHABLE, 3, 0),
        (ICMPV6_UNREACHABLE, 0 | 2 | 3) => of(ICMP_UNREACHABLE, 1, 0),
        (ICMPV6_PARAMETER_PROBLEM, 1) => of(ICMP_UNREACHABLE, 2, 0),
        (ICMPV6_TIME_EXCEEDED, code) => of(ICMP_TIME_EXCEEDED, code, 0),
        _ => None,
    }
}

/// The packet that the other side sent: the other way round.
#[inline(always)]
fn turned(new: &New) -> New {
    New { src: new.dst, dst: new.src, ports: new.ports.rotate_left(16), ..*new }
}

#[inline(always)]
fn write_v4<P: Packet>(packet: &mut P, flow: &Flow, new: &New, message: &Message, quoted: &Quoted, rest: u32) -> Option<()> {
    const HEADERS: u32 = const { (ICMP_LEN + Ipv4::LEN) as u32 };
    let len = rest.wrapping_add(HEADERS);
    let quote = turned(new);
    place_l4(packet, flow.l4(), QUOTED_V4)?;
    emit_v4(Ipv4::view_mut(packet, Ethernet::LEN)?, flow, new, len, IPPROTO_ICMP);
    emit(Icmp::view_mut(packet, L4_V4)?, message);
    let ip = Ipv4::view_mut(packet, QUOTE_V4)?;
    emit_v4(ip, flow, &quote, quoted.payload, flow.protocol);
    (ip.tos, ip.ttl) = (quoted.class, quoted.ttl);
    if !flow.is_v6 {
        (ip.id, ip.fragment) = (U16::new(quoted.id), U16::new(quoted.fragment));
    }
    ip.renew_checksum();
    transport(packet, QUOTED_V4, flow.protocol, quote.ports, addresses_grown((flow.src, flow.dst), (new.src, new.dst)))?;
    let sum = packet.sum(L4_V4, len as usize)?;
    Icmp::view_mut(packet, L4_V4)?.checksum = checksum::finish(sum).to_ne_bytes();
    Some(())
}

#[inline(always)]
fn write_v6<P: Packet>(packet: &mut P, flow: &Flow, new: &New, message: &Message, quoted: &Quoted, rest: u32) -> Option<()> {
    const HEADERS: u32 = const { (ICMP_LEN + Ipv6::LEN) as u32 };
    let len = rest.wrapping_add(HEADERS);
    let quote = turned(new);
    place_l4(packet, flow.l4(), QUOTED_V6)?;
    emit_v6(Ipv6::view_mut(packet, Ethernet::LEN)?, flow, new, len, IPPROTO_ICMPV6);
    emit(Icmp::view_mut(packet, L4_V6)?, message);
    let ip = Ipv6::view_mut(packet, QUOTE_V6)?;
    ip.emit_outer(quote.src, quote.dst, quoted.class, quoted.payload, flow.protocol);
    ip.hop_limit = quoted.ttl;
    transport(packet, QUOTED_V6, flow.protocol, quote.ports, addresses_grown((flow.src, flow.dst), (new.src, new.dst)))?;
    let sum = packet.sum(L4_V6, len as usize)?.wrapping_add(pseudo_header(new, len, IPPROTO_ICMPV6));
    Icmp::view_mut(packet, L4_V6)?.checksum = checksum::finish(sum).to_ne_bytes();
    Some(())
}

#[inline(always)]
fn emit(icmp: &mut Icmp, message: &Message) {
    *icmp = Icmp { kind: message.kind, code: message.code, checksum: [0; 2], mtu: U32::new(message.word) };
}
