//! Headers as they are on the wire: structs only, no decisions.
//!
//! A header is a view of exactly its own bytes in the frame; `zerocopy` checks the layout at compile time.

mod ethernet;
mod icmp;
mod ipv4;
mod ipv6;
mod transport;

pub use ethernet::{Ethernet, TAG_LEN, TaggedEthernet, mac_bytes, mac_word};
pub use icmp::*;
pub use ipv4::{DONT_FRAGMENT, Ipv4};
pub use ipv6::{Extension, FragmentHeader, Ipv6, words as ipv6_words};
pub use transport::{Tcp, Udp};

use crate::packet::Packet;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of a VLAN tag (IEEE 802.1Q).
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of the outer tag of a provider's network (IEEE 802.1ad).
pub const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;
/// Next header: hop-by-hop options (RFC 8200 section 4.3).
pub const IPPROTO_HOPOPTS: u8 = 0;
/// Protocol number of ICMP.
pub const IPPROTO_ICMP: u8 = 1;
/// Protocol number of IPv4 in IP (RFC 2003).
pub const IPPROTO_IPIP: u8 = 4;
/// Protocol number of TCP.
pub const IPPROTO_TCP: u8 = 6;
/// Protocol number of UDP.
pub const IPPROTO_UDP: u8 = 17;
/// Protocol number of IPv6 in IP (RFC 2473, RFC 4213).
pub const IPPROTO_IPV6: u8 = 41;
/// Next header of an IPv6 fragment (RFC 8200 section 4.5).
pub const IPPROTO_FRAGMENT: u8 = 44;
/// Next header: routing (RFC 8200 section 4.4).
pub const IPPROTO_ROUTING: u8 = 43;
/// Protocol number of GRE (RFC 2784).
pub const IPPROTO_GRE: u8 = 47;
/// Next header: authentication (RFC 4302).
pub const IPPROTO_AH: u8 = 51;
/// Protocol number of ICMPv6.
pub const IPPROTO_ICMPV6: u8 = 58;
/// Next header: destination options (RFC 8200 section 4.6).
pub const IPPROTO_DSTOPTS: u8 = 60;
/// "Transparent Ethernet bridging" (RFC 1701): a frame in a tunnel.
pub const ETHERTYPE_ETHERNET: u16 = 0x6558;
/// TTL or hop limit of outer headers.
pub const OUTER_TTL: u8 = 64;

/// A header of fixed size that can be viewed in a frame.
pub trait Header: Sized {
    /// The header at offset `at`, if the frame holds all of it.
    fn view<P: Packet>(packet: &P, at: usize) -> Option<&Self>;
    /// The same, to change it.
    fn view_mut<P: Packet>(packet: &mut P, at: usize) -> Option<&mut Self>;
}

/// Implements [`Header`] and `LEN` for a struct of wire fields.
macro_rules! header {
    ($name:ident) => {
        impl $name {
            /// Bytes on the wire.
            pub const LEN: usize = size_of::<Self>();
        }
        impl $crate::wire::Header for $name {
            #[inline(always)]
            fn view<P: $crate::packet::Packet>(packet: &P, at: usize) -> Option<&Self> {
                packet.bytes::<{ Self::LEN }>(at).map(|bytes| zerocopy::transmute_ref!(bytes))
            }
            #[inline(always)]
            fn view_mut<P: $crate::packet::Packet>(packet: &mut P, at: usize) -> Option<&mut Self> {
                packet.bytes_mut::<{ Self::LEN }>(at).map(|bytes| zerocopy::transmute_mut!(bytes))
            }
        }
    };
}
pub(crate) use header;

/// An outer header with what it is put in front of: one window for all that encapsulation touches.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Tunnel<O, I> {
    /// The Ethernet header of the new frame.
    pub eth: Ethernet,
    /// The outer IP header.
    pub outer: O,
    /// The client's IP header.
    pub inner: I,
}

/// A whole frame with a transport header that is no matter where it is: Ethernet, IP, ICMP.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Message<I> {
    /// The Ethernet header.
    pub eth: Ethernet,
    /// The IP header.
    pub ip: I,
    /// The ICMP header.
    pub icmp: Icmp,
}

/// ICMP behind IPv4 without options.
pub type Icmp4 = Message<Ipv4>;
/// ICMPv6 behind IPv6.
pub type Icmp6 = Message<Ipv6>;
header!(Icmp4);
header!(Icmp6);

/// A UDP datagram, or a UDP tunnel with the client's packet behind it: Ethernet, IP, UDP.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct UdpTunnel<O> {
    /// The Ethernet header of the new frame.
    pub eth: Ethernet,
    /// The outer IP header.
    pub ip: O,
    /// The UDP header.
    pub udp: Udp,
}

/// A TCP segment: Ethernet, IPv4 without options, TCP.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Tcp4 {
    /// The Ethernet header.
    pub eth: Ethernet,
    /// The IP header.
    pub ip: Ipv4,
    /// The TCP header.
    pub tcp: Tcp,
}
header!(Tcp4);

/// The head of an IPv6 frame: Ethernet, IPv6.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Head6 {
    /// The Ethernet header.
    pub eth: Ethernet,
    /// The IP header.
    pub ip: Ipv6,
}
header!(Head6);

/// Over IPv4.
pub type Udp4 = UdpTunnel<Ipv4>;
/// Over IPv6.
pub type Udp6 = UdpTunnel<Ipv6>;
header!(Udp4);
header!(Udp6);

/// 4in4.
pub type Tunnel4In4 = Tunnel<Ipv4, Ipv4>;
/// 6in4.
pub type Tunnel6In4 = Tunnel<Ipv4, Ipv6>;
/// 4in6.
pub type Tunnel4In6 = Tunnel<Ipv6, Ipv4>;
/// 6in6.
pub type Tunnel6In6 = Tunnel<Ipv6, Ipv6>;
header!(Tunnel4In4);
header!(Tunnel6In4);
header!(Tunnel4In6);
header!(Tunnel6In6);
