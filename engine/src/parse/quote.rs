//! What an ICMP error quotes: the IP header of the packet it is about, which one of our reals sent. Its flow is the other
//! way round: the packet's destination is the client.
//!
//! Each function fills addresses and protocol of the flow and gives the place of the quoted transport header.

use super::{Flow, ipv4_words};
use crate::packet::Packet;
use crate::wire::{Header, ICMP_LEN, Ipv4, Ipv6};

/// The quoted IPv4 header behind the ICMP header at `icmp`, if it has no options (Katran).
#[inline(always)]
pub(super) fn ipv4_fixed<P: Packet>(packet: &P, icmp: usize, flow: &mut Flow) -> Option<usize> {
    let at = icmp.wrapping_add(ICMP_LEN);
    let ip = Ipv4::view(packet, at)?;
    turn_ipv4(ip, flow);
    (ip.version_ihl & 0xf == 5).then_some(at.wrapping_add(Ipv4::LEN))
}

/// The quoted IPv4 header, with options or without, if it begins its packet: a later fragment has no ports.
#[inline(always)]
pub(super) fn ipv4<P: Packet>(packet: &P, icmp: usize, flow: &mut Flow) -> Option<usize> {
    let at = icmp.wrapping_add(ICMP_LEN);
    let ip = Ipv4::view(packet, at)?;
    turn_ipv4(ip, flow);
    let sane = (0x45..0x50).contains(&ip.version_ihl) && ip.fragment_offset() == 0;
    sane.then(|| at.wrapping_add(ip.header_len()))
}

/// The quoted IPv6 header. Read word by word: all at once it would not fit on a BPF program's stack.
#[inline(always)]
pub(super) fn ipv6_fixed<P: Packet>(packet: &P, icmp: usize, flow: &mut Flow) -> Option<usize> {
    let at = icmp.wrapping_add(ICMP_LEN);
    let Flow { src: [client, client_low], dst: [vip, vip_low], .. } = flow;
    for (word, offset) in [(vip, 8), (vip_low, 16), (client, 24), (client_low, 32)] {
        *word = u64::from_ne_bytes(*packet.bytes::<8>(at.wrapping_add(offset))?);
    }
    let [protocol] = *packet.bytes::<1>(at.wrapping_add(6))?;
    flow.protocol = protocol;
    Some(at.wrapping_add(Ipv6::LEN))
}

#[inline(always)]
fn turn_ipv4(ip: &Ipv4, flow: &mut Flow) {
    flow.src = ipv4_words(&ip.dst);
    flow.dst = ipv4_words(&ip.src);
    flow.protocol = ip.protocol;
}
