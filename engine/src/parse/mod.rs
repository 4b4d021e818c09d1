//! From bytes to a [`Flow`]: who sent it to whom, and where its transport header is.

mod katran;
mod quote;
mod standard;

pub(crate) use katran::parse as parse_katran;
pub use standard::parse;
pub(crate) use standard::{ethertype, is_ip, parse_behind};

use crate::memory::{Addr, Tag, Vip};
use crate::packet::Packet;
use crate::verdict::{Reason, Stop};
use crate::wire::{self, Header, Ipv4, Ipv6, Tcp, Udp};

/// What is known of a frame: filled by parsing and classification, read by everything after.
#[derive(Clone, Copy, Default, Debug)]
pub struct Flow {
    /// Source address: the client's.
    pub src: Addr,
    /// Destination address: the VIP's.
    pub dst: Addr,
    /// Source port (low half) and destination port (high half), each as on the wire. What the VIP's flags or a wildcard
    /// port take out of the flow is 0. Of a later fragment: its identification.
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
    /// The flow is the one that an ICMP error quotes, turned round.
    pub quoted: bool,
    /// Whether it is a whole packet.
    pub part: Part,
    /// Code of the ICMP error.
    pub icmp_code: u8,
    /// Words of 32 bits in the TCP header, options included, in the upper half; 0 for UDP.
    pub tcp_words: u8,
    /// Where the flow's transport header is, in bytes from the start of the frame.
    pub l4: u32,
    /// Identification of a first fragment.
    pub fragment: u32,
    /// Where a fragment is in its packet, and whether others follow, as in [`FragmentHeader::offset`](crate::wire::FragmentHeader::offset).
    pub fragment_at: u16,
    /// Bytes of the frame when it came, without the tag that was taken off.
    pub frame: u32,
    /// Bytes of the IP packet, as its header says.
    pub len: u32,
    /// Source and destination port as on the wire, whatever the VIP's flags take out of the flow; only if NAT is used.
    pub wire_ports: u32,
    /// Its place in the NAT table plus one; 0: none (yet).
    pub nat: u32,
    /// Index of the interface that it came in by; 0: there is only one.
    pub interface: u32,
    /// It comes from a real behind NAT.
    pub is_reply: bool,
    /// The VLAN tag that was taken off, as [`crate::vlan`] has it; 0: none.
    pub vlan: u32,
    /// What parsing found that has a counter of its own: bits by [`crate::memory::counters::Event`].
    pub seen: Seen,
    /// What the VIP's ring was asked by; [`HashLine::NONE`](crate::memory::HashLine::NONE): it was not asked (yet).
    pub asked: u32,
    /// The VIP it is for.
    pub vip: Vip,
    /// Where the flow table would hold it.
    pub tag: Tag,
}

/// Whether a packet is whole.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(u8)]
pub enum Part {
    /// It is.
    #[default]
    Whole,
    /// Its first fragment, with the ports.
    First,
    /// A later one, without.
    Later,
}

/// An ICMP "packet too big" that was seen, to be counted by the seat that decides on the frame.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(u8)]
pub enum Seen {
    /// None.
    #[default]
    Nothing,
    /// IPv4, type 3 code 4.
    TooBigV4,
    /// With a next-hop MTU below 1280.
    TooBigV4Low,
    /// IPv6, type 2.
    TooBigV6,
    /// With an MTU below 1280.
    TooBigV6Low,
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

    /// A ping: the ICMP messages that parsing leaves as they are. (An ICMP error has become the flow that it quotes.)
    #[inline(always)]
    pub(crate) fn is_ping(&self) -> bool {
        self.protocol == wire::IPPROTO_ICMP || self.protocol == wire::IPPROTO_ICMPV6
    }

    /// Where its transport header is, in a range that the verifier sees.
    #[inline(always)]
    pub(crate) fn l4(&self) -> usize {
        const MOST: u32 = 1023;
        (self.l4 & MOST) as usize
    }

    #[inline(always)]
    pub(crate) fn set_ipv4(&mut self, ip: &Ipv4) {
        self.src = ipv4_words(&ip.src);
        self.dst = ipv4_words(&ip.dst);
        self.protocol = ip.protocol;
        self.tos = ip.tos;
        self.ttl = ip.ttl;
        self.len = ip.total_len.get() as u32;
    }

    #[inline(always)]
    pub(crate) fn set_ipv6(&mut self, ip: &Ipv6) {
        self.src = wire::ipv6_words(&ip.src);
        self.dst = wire::ipv6_words(&ip.dst);
        self.protocol = ip.next_header;
        self.tos = ip.traffic_class();
        self.ttl = ip.hop_limit;
        self.len = (ip.payload_len.get() as u32).wrapping_add(Ipv6::LEN as u32);
        self.is_v6 = true;
    }

    /// What only TCP has.
    #[inline(always)]
    pub(crate) fn set_tcp(&mut self, tcp: &Tcp) {
        self.tcp_flags = tcp.flags;
        self.tcp_words = tcp.offset;
    }
}

#[inline(always)]
fn ipv4_words(bytes: &[u8; 4]) -> Addr {
    [u32::from_ne_bytes(*bytes) as u64, 0]
}

/// Fills ports and flags from a TCP or UDP header at `at`; `short` is what becomes of a frame that ends inside it, and
/// `other` of one with another protocol.
#[inline(always)]
fn transport<P: Packet>(packet: &P, at: usize, flow: &mut Flow, short: Reason, other: Reason) -> Result<(), Stop> {
    flow.l4 = at as u32;
    match flow.protocol {
        wire::IPPROTO_TCP => {
            let tcp = Tcp::view(packet, at).ok_or(Stop::of(short))?;
            flow.ports = u32::from_ne_bytes(tcp.ports);
            flow.set_tcp(tcp);
        }
        wire::IPPROTO_UDP => {
            let udp = Udp::view(packet, at).ok_or(Stop::of(short))?;
            flow.ports = u32::from_ne_bytes(udp.ports);
        }
        _ => return Err(Stop::of(other)),
    }
    Ok(())
}
