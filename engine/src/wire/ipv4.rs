//! IPv4 (RFC 791).

use super::OUTER_TTL;
use crate::checksum;
use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute_mut};

/// Don't fragment, in [`Ipv4::fragment`].
pub const DONT_FRAGMENT: u16 = 0x4000;
/// More fragments and the fragment offset, in [`Ipv4::fragment`].
const IS_FRAGMENT: u16 = 0x3fff;
/// The fragment offset, in [`Ipv4::fragment`].
const OFFSET: u16 = 0x1fff;
/// Where the bit "more fragments" is in it.
const MORE_SHIFT: u16 = 13;

/// The IPv4 header without options, 20 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv4 {
    /// Version (4 bits) and header length in words of 32 bits.
    pub version_ihl: u8,
    /// DSCP (6 bits) and ECN.
    pub tos: u8,
    /// Bytes of header and payload.
    pub total_len: U16,
    /// Identification.
    pub id: U16,
    /// Flags (3 bits) and offset.
    pub fragment: U16,
    /// Time to live.
    pub ttl: u8,
    /// What follows.
    pub protocol: u8,
    /// Of the header.
    pub checksum: [u8; 2],
    /// Source.
    pub src: [u8; 4],
    /// Destination.
    pub dst: [u8; 4],
}
super::header!(Ipv4);

/// The same, as it is written: byte stores cost the BPF backend one instruction each.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Words {
    first: [u8; 4],
    second: [u8; 4],
    ttl_protocol: [u8; 2],
    checksum: [u8; 2],
    addresses: [[u8; 4]; 2],
}

impl Ipv4 {
    /// A fragment, first or later.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.fragment.get() & IS_FRAGMENT != 0
    }

    /// Bytes of the header with its options, as it says.
    #[inline(always)]
    pub fn header_len(&self) -> usize {
        ((self.version_ihl & 0xf) as usize) << 2
    }

    /// Where its payload belongs in the whole packet's, in words of 8 bytes.
    #[inline(always)]
    pub fn fragment_offset(&self) -> u16 {
        self.fragment.get() & OFFSET
    }

    /// 1: others follow it in its packet; else 0.
    #[inline(always)]
    pub fn more_fragments(&self) -> u16 {
        self.fragment.get() >> MORE_SHIFT & 1
    }

    /// A fragment of packet `id`, `at` as in [`FragmentHeader::offset`](super::FragmentHeader::offset).
    #[inline(always)]
    pub fn set_fragment(&mut self, id: u16, at: u16) {
        self.id = U16::new(id);
        self.fragment = U16::new(at >> 3 | (at & 1) << MORE_SHIFT);
        self.renew_checksum();
    }

    /// As a router forwards (RFC 1812 section 5.3.1). The TTL must be above 0.
    #[inline(always)]
    pub fn decrement_ttl(&mut self) {
        self.ttl = self.ttl.wrapping_sub(1);
        self.checksum = checksum::after_ttl_decrement(self.checksum);
    }

    /// Makes the checksum right.
    #[inline(always)]
    pub fn renew_checksum(&mut self) {
        self.checksum = [0; 2];
        let bytes: &[u8; Self::LEN] = zerocopy::transmute_ref!(self);
        self.checksum = checksum::finish(checksum::sum(bytes)).to_ne_bytes();
    }

    /// As Katran takes a hop off: a checksum of all ones stays as it is.
    #[inline(always)]
    pub fn decrement_ttl_katran(&mut self) {
        self.ttl = self.ttl.wrapping_sub(1);
        let sum = (u16::from_le_bytes(self.checksum) as u32).wrapping_add(1);
        self.checksum = (sum.wrapping_add(sum >> 16) as u16).to_le_bytes();
    }

    /// Writes an outer header for `payload` bytes. Addresses are words as on the wire.
    ///
    /// Identification 0 with "don't fragment": an atomic datagram (RFC 6864 section 4.1).
    #[inline(always)]
    pub fn emit_outer(&mut self, src: u32, dst: u32, tos: u8, payload: u32, protocol: u8) {
        self.emit(src, dst, tos, payload, protocol, DONT_FRAGMENT);
    }

    /// The same with these flags and this offset.
    #[inline(always)]
    pub fn emit(&mut self, src: u32, dst: u32, tos: u8, payload: u32, protocol: u8, fragment: u16) {
        let len = payload.wrapping_add(Self::LEN as u32) & 0xffff;
        let words = [
            (0x4500_0000 | (tos as u32) << 16 | len).to_be(),
            (fragment as u32).to_be(),
            ((OUTER_TTL as u32) << 24 | (protocol as u32) << 16).to_be(),
        ];
        let sum = words.iter().fold((src as u64).wrapping_add(dst as u64), |sum, word| sum.wrapping_add(*word as u64));
        let [first, second, _] = words;
        let whole: &mut Words = transmute_mut!(self);
        whole.first = first.to_ne_bytes();
        whole.second = second.to_ne_bytes();
        whole.ttl_protocol = [OUTER_TTL, protocol];
        whole.checksum = checksum::finish_few(sum).to_ne_bytes();
        whole.addresses = [src.to_ne_bytes(), dst.to_ne_bytes()];
    }
}
