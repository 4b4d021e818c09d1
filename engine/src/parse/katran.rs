//! Katran's parsing: constant header lengths, everything else is dropped, pings are answered whoever they are for.

use super::{Flow, Seen, quote, transport};
use crate::answer;
use crate::packet::Packet;
use crate::verdict::Reason::{FragmentDropped, FrameTooShort, Icmp, Ipv4OptionsDropped, NotIp, NotTcpUdp, TruncatedDropped};
use crate::verdict::Stop;
use crate::wire::{self, Ethernet, Header, Icmp as IcmpHeader, Ipv4, Ipv6};

const L4_V4: usize = const { Ethernet::LEN + Ipv4::LEN };
const L4_V6: usize = const { Ethernet::LEN + Ipv6::LEN };
/// Where the transport header of a quoted packet is.
const QUOTED_V4: usize = const { L4_V4 + IcmpHeader::LEN + Ipv4::LEN };
const QUOTED_V6: usize = const { L4_V6 + IcmpHeader::LEN + Ipv6::LEN };

/// Fills the flow, or answers a ping.
#[inline(always)]
pub(crate) fn parse<P: Packet>(packet: &mut P, flow: &mut Flow) -> Result<(), Stop> {
    let eth = Ethernet::view(packet, 0).ok_or(Stop::of(FrameTooShort))?;
    let l4 = match eth.ethertype.get() {
        wire::ETHERTYPE_IPV4 => {
            let ip = Ipv4::view(packet, Ethernet::LEN).ok_or(Stop::of(TruncatedDropped))?;
            if ip.version_ihl & 0xf != 5 {
                return Err(Stop::of(Ipv4OptionsDropped));
            }
            if ip.is_fragment() {
                return Err(Stop::of(FragmentDropped));
            }
            flow.set_ipv4(ip);
            L4_V4
        }
        wire::ETHERTYPE_IPV6 => {
            let ip = Ipv6::view(packet, Ethernet::LEN).ok_or(Stop::of(TruncatedDropped))?;
            if ip.next_header == wire::IPPROTO_FRAGMENT {
                return Err(Stop::of(FragmentDropped));
            }
            flow.set_ipv6(ip);
            L4_V6
        }
        _ => return Err(Stop::of(NotIp)),
    };
    // By the protocol number alone, whatever the version of IP.
    match flow.protocol {
        wire::IPPROTO_ICMP => icmp(packet, flow, l4, Family::V4),
        wire::IPPROTO_ICMPV6 => icmp(packet, flow, l4, Family::V6),
        _ => transport(packet, l4, flow, TruncatedDropped, NotTcpUdp),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

#[inline(never)]
fn icmp<P: Packet>(packet: &mut P, flow: &mut Flow, l4: usize, family: Family) -> Result<(), Stop> {
    let header = IcmpHeader::view(packet, l4).ok_or(Stop::of(TruncatedDropped))?;
    let (kind, code, mtu) = (header.kind, header.code, header.mtu.get());
    let quoted = match family {
        Family::V4 => match kind {
            wire::ICMP_ECHO => return Err(answer::echo_v4_katran(packet)),
            wire::ICMP_UNREACHABLE => {
                if code == wire::ICMP_FRAGMENTATION_NEEDED {
                    flow.seen = if mtu & 0xffff < 1280 { Seen::TooBigV4Low } else { Seen::TooBigV4 };
                }
                quote::ipv4_fixed(packet, l4, flow)
            }
            _ => return Err(Stop::of(Icmp)),
        },
        Family::V6 => match kind {
            wire::ICMPV6_ECHO => return Err(answer::echo_v6_katran(packet)),
            wire::ICMPV6_TOO_BIG => {
                flow.seen = if mtu < 1280 { Seen::TooBigV6Low } else { Seen::TooBigV6 };
                quote::ipv6_fixed(packet, l4, flow)
            }
            wire::ICMPV6_UNREACHABLE => quote::ipv6_fixed(packet, l4, flow),
            _ => return Err(Stop::of(Icmp)),
        },
    };
    quoted.ok_or(Stop::of(TruncatedDropped))?;
    // By the version of the packet, whatever it quotes.
    let l4 = if flow.is_v6 { QUOTED_V6 } else { QUOTED_V4 };
    flow.quoted = true;
    flow.icmp_code = code;
    transport(packet, l4, flow, TruncatedDropped, NotTcpUdp)?;
    flow.ports = flow.ports.rotate_left(16);
    Ok(())
}
