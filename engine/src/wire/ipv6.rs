//! IPv6 (RFC 8200).

use super::OUTER_TTL;
use crate::memory::Addr;
use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute, transmute_ref};

/// The IPv6 header, 40 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv6 {
    /// Version (4 bits), traffic class (8), flow label (20).
    pub version_class_label: U32,
    /// Bytes after this header.
    pub payload_len: U16,
    /// What follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source.
    pub src: [u8; 16],
    /// Destination.
    pub dst: [u8; 16],
}
super::header!(Ipv6);

/// The start of an extension header (RFC 6564), 8 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Extension {
    /// What follows.
    pub next_header: u8,
    /// Its length without the first 8 bytes, in words of 8 bytes (of an authentication header: of 4).
    pub len: u8,
    /// Its own affair.
    pub rest: [u8; 6],
}
super::header!(Extension);

/// The fragment header (RFC 8200 section 4.5), 8 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FragmentHeader {
    /// What follows, in the first fragment.
    pub next_header: u8,
    /// Zero.
    pub reserved: u8,
    /// Offset in words of 8 bytes (13 bits), 2 bits reserved, more fragments.
    pub offset: U16,
    /// Identification.
    pub id: U32,
}
super::header!(FragmentHeader);

impl FragmentHeader {
    /// Writes it.
    #[inline(always)]
    pub fn emit(&mut self, next_header: u8, offset: u16, id: u32) {
        (self.next_header, self.reserved) = (next_header, 0);
        (self.offset, self.id) = (U16::new(offset), U32::new(id));
    }

    /// Whether there are other fragments of the packet.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.offset.get() & 0xfff9 != 0
    }
}

impl Ipv6 {
    /// DSCP and ECN.
    #[inline(always)]
    pub fn traffic_class(&self) -> u8 {
        (self.version_class_label.get() >> 20) as u8
    }

    /// As a router forwards (RFC 8200 section 3). The hop limit must be above 0.
    #[inline(always)]
    pub fn decrement_hop_limit(&mut self) {
        self.hop_limit = self.hop_limit.wrapping_sub(1);
    }

    /// Other addresses.
    #[inline(always)]
    pub fn set_addresses(&mut self, src: Addr, dst: Addr) {
        self.src = bytes(src);
        self.dst = bytes(dst);
    }

    /// Writes an outer header for `payload` bytes; the flow label is 0.
    #[inline(always)]
    pub fn emit_outer(&mut self, src: Addr, dst: Addr, class: u8, payload: u32, next_header: u8) {
        self.version_class_label = U32::new(0x6000_0000 | (class as u32) << 20);
        self.payload_len = U16::new(payload as u16);
        self.next_header = next_header;
        self.hop_limit = OUTER_TTL;
        self.set_addresses(src, dst);
    }
}

/// An address as two words, read eight bytes at a time.
#[inline(always)]
pub fn words(bytes: &[u8; 16]) -> Addr {
    let halves: &[[u8; 8]; 2] = transmute_ref!(bytes);
    let [a, b] = *halves;
    [u64::from_ne_bytes(a), u64::from_ne_bytes(b)]
}

#[inline(always)]
fn bytes(addr: Addr) -> [u8; 16] {
    let [a, b] = addr;
    transmute!([a.to_ne_bytes(), b.to_ne_bytes()])
}
