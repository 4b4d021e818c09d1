//! Katran's packet hash: Jenkins' lookup3 (Bob Jenkins, 2006), as Linux has it in `jhash`, over source address and ports.

use crate::parse::Flow;

/// For two words, and for an IPv6 address.
const SEED: u32 = 512 * 65_537;
const SEED_V6: u32 = 512;
/// Jenkins' initial value.
const GOLDEN: u32 = 0xdead_beef;

/// The hash that chooses the ring's slot.
#[inline(always)]
pub(super) fn packet(flow: &Flow) -> u32 {
    let [s0, s1] = flow.src;
    let source = if flow.is_v6 { four([s0 as u32, (s0 >> 32) as u32, s1 as u32, (s1 >> 32) as u32]) } else { s0 as u32 };
    let start = const { SEED.wrapping_add(GOLDEN).wrapping_add(8) };
    last([source.wrapping_add(start), flow.ports.wrapping_add(start), start])
}

#[inline(always)]
fn four(words: [u32; 4]) -> u32 {
    let start = const { SEED_V6.wrapping_add(GOLDEN).wrapping_add(16) };
    let [w0, w1, w2, w3] = words;
    let [mut a, mut b, mut c] = [start.wrapping_add(w0), start.wrapping_add(w1), start.wrapping_add(w2)];
    a = a.wrapping_sub(c) ^ c.rotate_left(4);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(6);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(8);
    b = b.wrapping_add(a);
    a = a.wrapping_sub(c) ^ c.rotate_left(16);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(19);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(4);
    b = b.wrapping_add(a);
    last([a.wrapping_add(w3), b, c])
}

#[inline(always)]
fn last([mut a, mut b, mut c]: [u32; 3]) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_hashes() {
        let ports = u32::from_le_bytes([0x7a, 0x69, 0, 80]);
        let v4 = Flow { src: [u64::from(u32::from_ne_bytes([192, 168, 1, 1])), 0], ports, ..Flow::default() };
        assert_eq!((packet(&v4), packet(&v4) % 65_537), (0xc7e6_8632, 48_717));
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[0xfc, 0, 0, 2]);
        address[15] = 1;
        let v6 = Flow { src: crate::wire::ipv6_words(&address), ports, is_v6: true, ..Flow::default() };
        let [s0, s1] = v6.src;
        assert_eq!(four([s0 as u32, (s0 >> 32) as u32, s1 as u32, (s1 >> 32) as u32]), 0xbf17_9e70);
        assert_eq!((packet(&v6), packet(&v6) % 65_537), (0x9c5a_2eda, 37_505));
    }
}
