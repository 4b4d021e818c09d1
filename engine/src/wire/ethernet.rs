//! Ethernet II (IEEE 802.3 clause 3), and VLAN tags (IEEE 802.1Q clause 9.6).

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute_mut};

/// The Ethernet header without a tag, 14 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ethernet {
    /// Destination MAC, then source MAC.
    pub macs: [u8; 12],
    /// What follows.
    pub ethertype: U16,
}
super::header!(Ethernet);

/// The Ethernet header with one tag, 18 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TaggedEthernet {
    /// Destination MAC, then source MAC.
    pub macs: [u8; 12],
    /// EtherType of the tag.
    pub tag: U16,
    /// Priority (3 bits), drop eligibility (1 bit), VLAN id (12 bits).
    pub control: U16,
    /// What follows.
    pub ethertype: U16,
}
super::header!(TaggedEthernet);

/// Bytes of a tag.
pub const TAG_LEN: usize = const { TaggedEthernet::LEN - Ethernet::LEN };

/// Both MACs, as they are written.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Macs {
    first: [u8; 8],
    rest: [u8; 4],
}

/// The bits of a MAC in a word.
const MAC: u64 = (1 << 48) - 1;

impl Ethernet {
    /// Whether this is what follows. Compared as on the wire: the swap costs BPF three instructions.
    #[inline(always)]
    pub fn is(&self, ethertype: u16) -> bool {
        self.ethertype == U16::new(ethertype)
    }

    /// Back to where the frame came from.
    #[inline(always)]
    pub fn turn(&mut self) {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = self.macs;
        self.macs = [g, h, i, j, k, l, a, b, c, d, e, f];
    }

    /// The destination, as [`Ethernet::emit`] takes it.
    #[inline(always)]
    pub fn destination(&self) -> u64 {
        let [a, b, c, d, e, f, ..] = self.macs;
        mac_word([a, b, c, d, e, f])
    }

    /// The source, as [`Ethernet::emit`] takes it.
    #[inline(always)]
    pub fn source(&self) -> u64 {
        let [.., a, b, c, d, e, f] = self.macs;
        mac_word([a, b, c, d, e, f])
    }

    /// Writes the header: MACs are the low 48 bits of a word, the first byte lowest ([`mac_word`]).
    ///
    /// Two stores: byte stores cost the BPF backend one instruction each.
    #[inline(always)]
    pub fn emit(&mut self, destination: u64, source: u64, ethertype: u16) {
        let macs: &mut Macs = transmute_mut!(&mut self.macs);
        macs.first = (destination & MAC | source << 48).to_le_bytes();
        macs.rest = ((source >> 16) as u32).to_le_bytes();
        self.ethertype = U16::new(ethertype);
    }
}

/// The six bytes of a MAC as the low 48 bits of a word, as [`Ethernet::emit`] takes them.
pub const fn mac_word(mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

/// The MAC in the low 48 bits of a word.
pub const fn mac_bytes(word: u64) -> [u8; 6] {
    let [a, b, c, d, e, f, _, _] = word.to_le_bytes();
    [a, b, c, d, e, f]
}
