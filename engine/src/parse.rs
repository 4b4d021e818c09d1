//! From bytes to a [`Flow`]: reads only, decides nothing but "not for us".

use crate::memory::{Addr, Tag, Vip};
use crate::packet::Packet;
use crate::verdict::Reason::{Fragment, FrameTooShort, Ipv4Options, MalformedIp, NotIp, NotTcpUdp, TruncatedIp, TruncatedL4};
use crate::verdict::Verdict::{self, Drop, Pass};
use crate::wire::{self, Ethernet, Header, Ipv4, Ipv6, Tcp, Udp};

/// What is known of a frame: filled by parsing and classification, read by everything after.
#[derive(Clone, Copy, Default, Debug)]
pub struct Flow {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port (low half) and destination port (high half), each as on the wire. What the VIP's flags or a wildcard
    /// port take out of the flow is 0.
    pub ports: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// TOS byte or traffic class.
    pub tos: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Flags of TCP; 0 for UDP.
    pub tcp_flags: u8,
    /// IPv6.
    pub is_v6: bool,
    /// Bytes of the IP packet, as its header says.
    pub len: u32,
    /// The VIP it is for.
    pub vip: Vip,
    /// Where the flow table would hold it.
    pub tag: Tag,
}

impl Flow {
    /// Opens a connection: the ring decides anew.
    #[inline(always)]
    pub fn is_syn(&self) -> bool {
        self.tcp_flags & Tcp::SYN != 0
    }

    /// Aborts a connection: looked up, never entered.
    #[inline(always)]
    pub fn is_rst(&self) -> bool {
        self.tcp_flags & Tcp::RST != 0
    }

    /// Bytes of the IP header that the parser accepts.
    #[inline(always)]
    pub(crate) fn ip_header_len(&self) -> u32 {
        (if self.is_v6 { Ipv6::LEN } else { Ipv4::LEN }) as u32
    }
}

/// Fills addresses, ports, protocol, TOS, TTL, flags and length.
#[inline(always)]
pub fn parse<P: Packet>(packet: &P, flow: &mut Flow) -> Result<(), Verdict> {
    let eth = Ethernet::view(packet, 0).ok_or(Drop(FrameTooShort))?;
    let l4 = match eth.ethertype.get() {
        wire::ETHERTYPE_IPV4 => ipv4(packet, flow)?,
        wire::ETHERTYPE_IPV6 => ipv6(packet, flow)?,
        _ => return Err(Pass(NotIp)),
    };
    transport(packet, l4, flow)
}

#[inline(always)]
fn ipv4<P: Packet>(packet: &P, flow: &mut Flow) -> Result<usize, Verdict> {
    let ip = Ipv4::view(packet, Ethernet::LEN).ok_or(Pass(TruncatedIp))?;
    if ip.version_ihl != 0x45 {
        let options = ip.version_ihl > 0x45 && ip.version_ihl < 0x50;
        return Err(Pass(if options { Ipv4Options } else { MalformedIp }));
    }
    if ip.is_fragment() {
        return Err(Pass(Fragment));
    }
    flow.src = [u32::from_ne_bytes(ip.src) as u64, 0];
    flow.dst = [u32::from_ne_bytes(ip.dst) as u64, 0];
    flow.protocol = ip.protocol;
    flow.tos = ip.tos;
    flow.ttl = ip.ttl;
    flow.len = ip.total_len.get() as u32;
    Ok(const { Ethernet::LEN + Ipv4::LEN })
}

#[inline(always)]
fn ipv6<P: Packet>(packet: &P, flow: &mut Flow) -> Result<usize, Verdict> {
    let ip = Ipv6::view(packet, Ethernet::LEN).ok_or(Pass(TruncatedIp))?;
    if ip.version_class_label.get() >> 28 != 6 {
        return Err(Pass(MalformedIp));
    }
    if ip.next_header == wire::IPPROTO_FRAGMENT {
        return Err(Pass(Fragment));
    }
    flow.src = wire::ipv6_words(&ip.src);
    flow.dst = wire::ipv6_words(&ip.dst);
    flow.protocol = ip.next_header;
    flow.tos = ip.traffic_class();
    flow.ttl = ip.hop_limit;
    flow.len = (ip.payload_len.get() as u32).wrapping_add(Ipv6::LEN as u32);
    flow.is_v6 = true;
    Ok(const { Ethernet::LEN + Ipv6::LEN })
}

#[inline(always)]
fn transport<P: Packet>(packet: &P, at: usize, flow: &mut Flow) -> Result<(), Verdict> {
    match flow.protocol {
        wire::IPPROTO_TCP => {
            let tcp = Tcp::view(packet, at).ok_or(Pass(TruncatedL4))?;
            flow.ports = u32::from_ne_bytes(tcp.ports);
            flow.tcp_flags = tcp.flags;
        }
        wire::IPPROTO_UDP => {
            let udp = Udp::view(packet, at).ok_or(Pass(TruncatedL4))?;
            flow.ports = u32::from_ne_bytes(udp.ports);
        }
        _ => return Err(Pass(NotTcpUdp)),
    }
    Ok(())
}
