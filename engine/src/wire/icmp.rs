//! ICMP (RFC 792) and ICMPv6 (RFC 4443), as far as a load balancer reads and writes them.

use zerocopy::network_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// ICMP: echo request.
pub const ICMP_ECHO: u8 = 8;
/// ICMP: echo reply.
pub const ICMP_ECHO_REPLY: u8 = 0;
/// ICMP: destination unreachable.
pub const ICMP_UNREACHABLE: u8 = 3;
/// ICMP: time exceeded.
pub const ICMP_TIME_EXCEEDED: u8 = 11;
/// ICMP: parameter problem.
pub const ICMP_PARAMETER_PROBLEM: u8 = 12;
/// Code of [`ICMP_UNREACHABLE`]: fragmentation needed (RFC 1191 section 4).
pub const ICMP_FRAGMENTATION_NEEDED: u8 = 4;
/// Code of [`ICMP_UNREACHABLE`]: host unreachable.
pub const ICMP_HOST_UNREACHABLE: u8 = 1;
/// ICMPv6: destination unreachable.
pub const ICMPV6_UNREACHABLE: u8 = 1;
/// Code of [`ICMPV6_UNREACHABLE`]: address unreachable.
pub const ICMPV6_ADDRESS_UNREACHABLE: u8 = 3;
/// ICMPv6: packet too big.
pub const ICMPV6_TOO_BIG: u8 = 2;
/// ICMPv6: time exceeded.
pub const ICMPV6_TIME_EXCEEDED: u8 = 3;
/// ICMPv6: parameter problem.
pub const ICMPV6_PARAMETER_PROBLEM: u8 = 4;
/// ICMPv6: echo request.
pub const ICMPV6_ECHO: u8 = 128;
/// ICMPv6: echo reply.
pub const ICMPV6_ECHO_REPLY: u8 = 129;
/// Bytes of the header.
pub const ICMP_LEN: usize = Icmp::LEN;

/// The header that all messages share, 8 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Over the message, for ICMPv6 with a pseudo header.
    pub checksum: [u8; 2],
    /// Of "too big": the MTU, in bytes (its low half for IPv4).
    pub mtu: U32,
}
super::header!(Icmp);
