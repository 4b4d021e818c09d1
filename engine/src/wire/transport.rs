//! TCP (RFC 9293) and UDP (RFC 768), as far as a load balancer reads them.

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The fixed part of a TCP header, 20 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Tcp {
    /// Source port, then destination port.
    pub ports: [u8; 4],
    /// Sequence number.
    pub seq: U32,
    /// Acknowledgement number.
    pub ack: U32,
    /// Header length in words of 32 bits (4 bits), reserved.
    pub offset: u8,
    /// CWR, ECE, URG, ACK, PSH, RST, SYN, FIN.
    pub flags: u8,
    /// Window.
    pub window: U16,
    /// Over pseudo header, header and payload.
    pub checksum: U16,
    /// Urgent pointer.
    pub urgent: U16,
}
super::header!(Tcp);

impl Tcp {
    /// Opens a connection.
    pub const SYN: u8 = 1 << 1;
    /// Aborts one.
    pub const RST: u8 = 1 << 2;
}

/// The UDP header, 8 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Udp {
    /// Source port, then destination port.
    pub ports: [u8; 4],
    /// Bytes of header and payload.
    pub len: U16,
    /// Over pseudo header, header and payload; 0 over IPv4: none.
    pub checksum: U16,
}
super::header!(Udp);
