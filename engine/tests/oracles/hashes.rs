//! The packet hash, frozen: its values against another writing of the same algorithm, and as literals.

use proptest::prelude::*;
use tandem_engine::{Flow, hash};

/// MurmurHash3 x86_32 (Appleby) over bytes whose number is a multiple of four, without the length in the finalisation.
fn murmur3(bytes: &[u8], seed: u32) -> u32 {
    let mut h = seed;
    for block in bytes.chunks_exact(4) {
        let mut k = u32::from_le_bytes(block.try_into().unwrap());
        k = k.wrapping_mul(0xcc9e2d51);
        k = k.rotate_left(15);
        h ^= k.wrapping_mul(0x1b873593);
        h = h.rotate_left(13);
        h = h.wrapping_mul(5).wrapping_add(0xe6546b64);
    }
    h ^= h >> 16;
    h = h.wrapping_mul(0x85ebca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2ae35);
    h ^ h >> 16
}

/// A flow from its wire bytes: both addresses, both ports.
fn flow(source: &[u8], destination: &[u8], ports: [u8; 4], protocol: u8) -> Flow {
    let words = |bytes: &[u8]| match bytes.first_chunk::<16>() {
        Some(v6) => tandem_engine::wire::ipv6_words(v6),
        None => [u32::from_ne_bytes(*bytes.first_chunk().unwrap()).into(), 0],
    };
    Flow {
        src: words(source),
        dst: words(destination),
        ports: u32::from_ne_bytes(ports),
        protocol,
        is_v6: source.len() == 16,
        ..Flow::default()
    }
}

proptest! {
    #[test]
    fn the_packet_hash_is_murmur3_of_the_wire_bytes(
        source: [u8; 16], destination: [u8; 16], ports: [u8; 4], protocol: u8, v6: bool
    ) {
        let bytes = if v6 { 16 } else { 4 };
        let (source, destination) = (&source[..bytes], &destination[..bytes]);
        let wire = [source, destination, &ports].concat();
        let expected = murmur3(&wire, 0xdeadbeef ^ u32::from(protocol));
        prop_assert_eq!(hash::packet(&flow(source, destination, ports, protocol)), expected);
    }
}

/// 198.51.100.7:41000 > 10.200.1.1:80 and [2001:db8::7]:41000 > [fc00:1::1]:80.
#[test]
fn golden_packet_hashes() {
    let ports = [0xa0, 0x28, 0x00, 0x50];
    let v4 = |protocol| hash::packet(&flow(&[198, 51, 100, 7], &[10, 200, 1, 1], ports, protocol));
    let source = "2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let destination = "fc00:1::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let v6 = |protocol| hash::packet(&flow(&source, &destination, ports, protocol));
    let found = [v4(6), v4(17), v6(6), v6(17)];
    assert_eq!(found, [0x8359_fee0, 0x60bc_7c61, 0xad3a_1489, 0xe268_f974], "found {found:#010x?}");
}
