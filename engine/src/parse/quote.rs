//! What an ICMP error quotes: the IP header of the packet it is about, which one of our reals sent.

use super::ipv4_words;
use crate::memory::Addr;
use crate::packet::Packet;
use crate::wire::{self, Header, ICMP_LEN, Ipv4, Ipv6};

/// The quoted packet.
pub(super) struct Quote {
    pub src: Addr,
    pub dst: Addr,
    pub protocol: u8,
    /// Where its transport header is, in bytes from the start of the frame.
    pub l4: usize,
}

/// The quoted IPv4 header behind the ICMP header at `icmp`, if it has no options (Katran).
#[inline(always)]
pub(super) fn ipv4_fixed<P: Packet>(packet: &P, icmp: usize) -> Option<Quote> {
    let at = icmp.wrapping_add(ICMP_LEN);
    let ip = Ipv4::view(packet, at)?;
    (ip.version_ihl & 0xf == 5).then(|| of_ipv4(ip, at.wrapping_add(Ipv4::LEN)))
}

/// The quoted IPv4 header, with options or without, if it begins its packet: a later fragment has no ports.
#[inline(always)]
pub(super) fn ipv4<P: Packet>(packet: &P, icmp: usize) -> Option<Quote> {
    let at = icmp.wrapping_add(ICMP_LEN);
    let ip = Ipv4::view(packet, at)?;
    let sane = (0x45..0x50).contains(&ip.version_ihl) && ip.fragment_offset() == 0;
    sane.then(|| of_ipv4(ip, at.wrapping_add(ip.header_len())))
}

/// The quoted IPv6 header.
#[inline(always)]
pub(super) fn ipv6_fixed<P: Packet>(packet: &P, icmp: usize) -> Option<Quote> {
    let at = icmp.wrapping_add(ICMP_LEN);
    let ip = Ipv6::view(packet, at)?;
    Some(Quote {
        src: wire::ipv6_words(&ip.src),
        dst: wire::ipv6_words(&ip.dst),
        protocol: ip.next_header,
        l4: at.wrapping_add(Ipv6::LEN),
    })
}

#[inline(always)]
fn of_ipv4(ip: &Ipv4, l4: usize) -> Quote {
    Quote { src: ipv4_words(&ip.src), dst: ipv4_words(&ip.dst), protocol: ip.protocol, l4 }
}
