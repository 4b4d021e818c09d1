//! The standard profile's parsing: what is not for a VIP is none of our business, and passes.
//!
//! The usual frame, TCP or UDP behind an IP header of constant length, takes the short way. IPv4 options, fragments, IPv6
//! extension headers and ICMP errors take the long one, which looks for the same things in other places.

use super::{Flow, Part, Seen, quote, transport};
use crate::packet::Packet;
use crate::verdict::Reason::{ExtensionHeaders, FrameTooShort, Icmp, MalformedIp, NotIp, NotTcpUdp, TruncatedIp, TruncatedL4};
use crate::verdict::Stop;
use crate::wire::{self, Ethernet, Extension, FragmentHeader, Header, Icmp as IcmpHeader, Ipv4, Ipv6};

/// Extension headers that are walked at most.
const EXTENSIONS: u32 = 6;
/// Bytes of extension headers that are walked at most.
const EXTENSIONS_LEN: usize = 512;

/// Fills addresses, ports, protocol, TOS, TTL, flags and length. Reads only, decides nothing but "not for us".
#[inline(always)]
pub fn parse<P: Packet>(packet: &P, flow: &mut Flow) -> Result<(), Stop> {
    let ethertype = ethertype(packet)?;
    parse_behind(packet, flow, ethertype)
}

/// What follows the Ethernet header.
#[inline(always)]
pub(crate) fn ethertype<P: Packet>(packet: &P) -> Result<u16, Stop> {
    let eth = Ethernet::view(packet, 0).ok_or(Stop::of(FrameTooShort))?;
    Ok(eth.ethertype.get())
}

/// Whether an IP packet does.
#[inline(always)]
pub(crate) const fn is_ip(ethertype: u16) -> bool {
    matches!(ethertype, wire::ETHERTYPE_IPV4 | wire::ETHERTYPE_IPV6)
}

/// As [`parse`], where the EtherType is known.
#[inline(always)]
pub(crate) fn parse_behind<P: Packet>(packet: &P, flow: &mut Flow, ethertype: u16) -> Result<(), Stop> {
    let l4 = match ethertype {
        wire::ETHERTYPE_IPV4 => ipv4(packet, flow)?,
        wire::ETHERTYPE_IPV6 => ipv6(packet, flow)?,
        _ => return Err(Stop::of(NotIp)),
    };
    if let Part::Later = flow.part {
        flow.l4 = l4 as u32;
        return Ok(());
    }
    match flow.protocol {
        wire::IPPROTO_ICMP if !flow.is_v6 => icmp(packet, flow, l4),
        wire::IPPROTO_ICMPV6 if flow.is_v6 => icmpv6(packet, flow, l4),
        _ => transport(packet, l4, flow, TruncatedL4, NotTcpUdp),
    }
}

#[inline(always)]
fn ipv4<P: Packet>(packet: &P, flow: &mut Flow) -> Result<usize, Stop> {
    let ip = Ipv4::view(packet, Ethernet::LEN).ok_or(Stop::of(TruncatedIp))?;
    if !(0x45..0x50).contains(&ip.version_ihl) {
        return Err(Stop::of(MalformedIp));
    }
    flow.set_ipv4(ip);
    if ip.is_fragment() {
        let id = ip.id.get() as u32;
        set_fragment(flow, id, ip.fragment_offset() << 3 | ip.more_fragments());
    }
    Ok(const { Ethernet::LEN }.wrapping_add(ip.header_len()))
}

/// `at` as in [`FragmentHeader::offset`].
#[inline(always)]
fn set_fragment(flow: &mut Flow, id: u32, at: u16) {
    let first = at >> 3 == 0;
    flow.fragment = id;
    flow.fragment_at = at;
    flow.part = if first { Part::First } else { Part::Later };
    if !first {
        flow.ports = id;
    }
}

#[inline(always)]
fn ipv6<P: Packet>(packet: &P, flow: &mut Flow) -> Result<usize, Stop> {
    let ip = Ipv6::view(packet, Ethernet::LEN).ok_or(Stop::of(TruncatedIp))?;
    if ip.version_class_label.get() >> 28 != 6 {
        return Err(Stop::of(MalformedIp));
    }
    flow.set_ipv6(ip);
    const AT: usize = const { Ethernet::LEN + Ipv6::LEN };
    if !is_extension(flow.protocol) {
        return Ok(AT);
    }
    extensions(packet, flow, AT)?;
    Ok(flow.l4())
}

#[inline(always)]
fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        wire::IPPROTO_HOPOPTS | wire::IPPROTO_ROUTING | wire::IPPROTO_DSTOPTS | wire::IPPROTO_FRAGMENT | wire::IPPROTO_AH
    )
}

/// Walks extension headers (RFC 8200 section 4); `flow.protocol` is what comes after them, `flow.l4` is where.
#[inline(never)]
fn extensions<P: Packet>(packet: &P, flow: &mut Flow, at: usize) -> Result<(), Stop> {
    let mut walked = 0_usize;
    for _ in 0..EXTENSIONS {
        let here = at.wrapping_add(walked);
        if flow.protocol == wire::IPPROTO_FRAGMENT {
            let header = FragmentHeader::view(packet, here).ok_or(Stop::of(TruncatedL4))?;
            // An atomic fragment (RFC 6946) is a whole packet.
            if header.is_fragment() {
                set_fragment(flow, header.id.get(), header.offset.get());
            }
            flow.protocol = header.next_header;
            walked = walked.wrapping_add(FragmentHeader::LEN);
            if let Part::Later = flow.part {
                flow.l4 = at.wrapping_add(walked) as u32;
                return Ok(());
            }
        } else {
            let header = Extension::view(packet, here).ok_or(Stop::of(TruncatedL4))?;
            // RFC 4302 section 2.2 counts in words of 4 bytes, the others in words of 8.
            let len = if flow.protocol == wire::IPPROTO_AH {
                (header.len as usize).wrapping_add(2).wrapping_mul(4)
            } else {
                (header.len as usize).wrapping_add(1).wrapping_mul(8)
            };
            flow.protocol = header.next_header;
            walked = walked.wrapping_add(len);
        }
        if walked > EXTENSIONS_LEN {
            return Err(Stop::of(ExtensionHeaders));
        }
        if !is_extension(flow.protocol) {
            flow.l4 = at.wrapping_add(walked) as u32;
            return Ok(());
        }
    }
    Err(Stop::of(ExtensionHeaders))
}

/// Errors lead to the flow that they are about; everything else is not a flow, and stays ICMP.
#[inline(never)]
fn icmp<P: Packet>(packet: &P, flow: &mut Flow, l4: usize) -> Result<(), Stop> {
    flow.l4 = l4 as u32;
    let header = IcmpHeader::view(packet, l4).ok_or(Stop::of(TruncatedL4))?;
    flow.icmp_code = header.code;
    match header.kind {
        wire::ICMP_ECHO => return Ok(()),
        wire::ICMP_UNREACHABLE => {
            if header.code == wire::ICMP_FRAGMENTATION_NEEDED {
                flow.seen = if header.mtu.get() & 0xffff < 1280 { Seen::TooBigV4Low } else { Seen::TooBigV4 };
            }
        }
        wire::ICMP_TIME_EXCEEDED | wire::ICMP_PARAMETER_PROBLEM => {}
        _ => return Err(Stop::of(Icmp)),
    }
    let quoted = quote::ipv4(packet, l4, flow);
    about(packet, flow, quoted)
}

#[inline(never)]
fn icmpv6<P: Packet>(packet: &P, flow: &mut Flow, l4: usize) -> Result<(), Stop> {
    flow.l4 = l4 as u32;
    let header = IcmpHeader::view(packet, l4).ok_or(Stop::of(TruncatedL4))?;
    flow.icmp_code = header.code;
    match header.kind {
        wire::ICMPV6_ECHO => return Ok(()),
        wire::ICMPV6_TOO_BIG => flow.seen = if header.mtu.get() < 1280 { Seen::TooBigV6Low } else { Seen::TooBigV6 },
        wire::ICMPV6_UNREACHABLE | wire::ICMPV6_TIME_EXCEEDED | wire::ICMPV6_PARAMETER_PROBLEM => {}
        _ => return Err(Stop::of(Icmp)),
    }
    let quoted = quote::ipv6_fixed(packet, l4, flow);
    about(packet, flow, quoted)
}

/// The quoted packet went from a real to the client; its flow is the other way round. RFC 792 promises 8 bytes of its
/// transport header: the ports, and no flags of TCP.
#[inline(always)]
fn about<P: Packet>(packet: &P, flow: &mut Flow, quoted: Option<usize>) -> Result<(), Stop> {
    let l4 = quoted.ok_or(Stop::of(Icmp))?;
    if flow.protocol != wire::IPPROTO_TCP && flow.protocol != wire::IPPROTO_UDP {
        return Err(Stop::of(Icmp));
    }
    let [a, b, c, d, ..] = packet.bytes::<8>(l4).ok_or(Stop::of(Icmp))?;
    flow.ports = u32::from_ne_bytes([*c, *d, *a, *b]);
    flow.quoted = true;
    flow.l4 = l4 as u32;
    Ok(())
}
