//! The two hashes of a flow: a public, frozen one for the ring, and a keyed one for the flow table.

mod katran;

use crate::memory::vips::{MAX_VIPS, PREFIX};
use crate::memory::{Addr, Root, Tag};
use crate::parse::Flow;

/// The profile's packet hash.
#[inline(always)]
pub(crate) fn of_packet(katran: bool, flow: &Flow) -> u32 {
    if katran { katran::packet(flow) } else { packet(flow) }
}

/// The standard profile's packet hash, frozen: every balancer of a group must compute the same.
///
/// MurmurHash3 x86_32 over the 32-bit little-endian words of the wire bytes: source address (1 or 4 words), destination
/// address, ports (source in the low half); seed `0xdeadbeef ^ protocol`; the final length is left out.
#[inline(always)]
pub fn packet(flow: &Flow) -> u32 {
    let mut h = 0xdead_beef_u32 ^ flow.protocol as u32;
    let ([s0, s1], [d0, d1]) = (flow.src, flow.dst);
    if flow.is_v6 {
        for word in [s0, s1, d0, d1] {
            h = mix(mix(h, word as u32), (word >> 32) as u32);
        }
    } else {
        h = mix(mix(h, s0 as u32), d0 as u32);
    }
    h = mix(h, flow.ports);
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

#[inline(always)]
fn mix(h: u32, word: u32) -> u32 {
    let word = word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    (h ^ word).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
}

/// Whose flow it is, in the tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A VIP's.
    Flow,
    /// A VIP's, in the global table, which others fill.
    Global,
    /// A fragmented packet's: its identification takes the ports' place.
    Fragment,
}

/// The flow's places and print in the flow table.
///
/// NH (UMAC, RFC 4418 section 5.2) twice over the flow's 32-bit words with shifted keys, then mixed. The key is the
/// instance's own, so nobody outside can aim at a set or at another flow's print. The VIP's id is part of the input; so an IPv6
/// destination is only where the VIP does not say which it is: of a VIP that is a prefix ([`PREFIX`]), and of fragments.
#[inline(always)]
pub(crate) fn tag(root: &Root, katran: bool, flow: &Flow, kind: Kind) -> Tag {
    // Katran's key does not know the VIP.
    tag_of(root, katran, flow, kind, katran || kind == Kind::Fragment || flow.vip.flags & PREFIX != 0)
}

/// The same for a flow of a VIP that is one address.
#[inline(always)]
pub(crate) fn tag_of_usual(root: &Root, flow: &Flow) -> Tag {
    tag_of(root, false, flow, Kind::Flow, false)
}

#[inline(always)]
fn tag_of(root: &Root, katran: bool, flow: &Flow, kind: Kind, with_destination: bool) -> Tag {
    let vip = if katran { 0 } else { flow.vip.id };
    let (ports, owner) = match kind {
        Kind::Flow => (flow.ports, vip),
        Kind::Global => (flow.ports, vip.wrapping_add(MAX_VIPS)),
        Kind::Fragment => (flow.fragment, const { 2 * MAX_VIPS }),
    };
    let last = flow.protocol as u32 | owner << 8;
    let ([s0, s1], [d0, d1]) = (flow.src, flow.dst);
    let halves = |word: u64| (word as u32, (word >> 32) as u32);
    let first = (ports, last);
    let (a, b) = if !flow.is_v6 {
        twice(root, [first, (s0 as u32, d0 as u32)])
    } else if with_destination {
        twice(root, [first, halves(s0), halves(s1), halves(d0), halves(d1)])
    } else {
        twice(root, [first, halves(s0), halves(s1)])
    };
    let mut print = b ^ a.rotate_left(32);
    print = (print ^ print >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    print ^= print >> 29;
    Tag { print: print | 1 << 63 }
}

/// NH of these words by the keys from the first on, and by those from the third on: all keys but the first and the last two are
/// needed twice, and loaded once.
#[inline(always)]
fn twice<const N: usize>(root: &Root, words: [(u32, u32); N]) -> (u64, u64) {
    let (mut a, mut b, mut before) = (0_u64, 0_u64, None);
    let mut at = 0;
    for (x, y) in words {
        let (k, l) = keys(root, at);
        a = a.wrapping_add(product(x, y, k, l));
        if let Some((x, y)) = before {
            b = b.wrapping_add(product(x, y, k, l));
        }
        before = Some((x, y));
        at = at.wrapping_add(2);
    }
    let (k, l) = keys(root, at);
    (a, before.map_or(b, |(x, y)| b.wrapping_add(product(x, y, k, l))))
}

/// Where the NAT table may have a client's connections: the first place and the step to the next, to be scaled.
#[inline(always)]
pub(crate) fn client(root: &Root, [a, b]: Addr, port: u16, protocol: u8) -> (u32, u32) {
    let last = (protocol as u32) << 16 | port as u32;
    let nh = |shift: usize| {
        pair(root, shift, last, !last).wrapping_add(halves(root, shift.wrapping_add(2), a)).wrapping_add(halves(
            root,
            shift.wrapping_add(4),
            b,
        ))
    };
    let mix = |x: u64| {
        let x = (x ^ x >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((x ^ x >> 29).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as u32
    };
    (mix(nh(0)), mix(nh(5)) | 1)
}

#[inline(always)]
fn halves(root: &Root, key: usize, word: u64) -> u64 {
    pair(root, key, word as u32, (word >> 32) as u32)
}

#[inline(always)]
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "the callers' constants end at 11; masked all the same"
)]
fn keys(root: &Root, at: usize) -> (u32, u32) {
    (root.key[at & 15].get(), root.key[(at + 1) & 15].get())
}

#[inline(always)]
fn product(x: u32, y: u32, k: u32, l: u32) -> u64 {
    (x.wrapping_add(k) as u64).wrapping_mul(y.wrapping_add(l) as u64)
}

#[inline(always)]
fn pair(root: &Root, key: usize, x: u32, y: u32) -> u64 {
    let (k, l) = keys(root, key);
    product(x, y, k, l)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Vip;

    fn root() -> Root {
        let root = Root::default();
        root.key.iter().zip(1_u32..).for_each(|(cell, n)| cell.set(n.wrapping_mul(0x9e37_79b9)));
        root.flow_mask.set(u32::MAX);
        root
    }

    /// NH as RFC 4418 section 5.2.2 has it: the sum of the products of pairs of words, to each of which its key was added.
    fn nh(root: &Root, shift: usize, words: &[u32]) -> u64 {
        let key = |at: usize| root.key[at + shift].get();
        let product = |(i, pair): (usize, &[u32])| {
            u64::from(pair[0].wrapping_add(key(2 * i))).wrapping_mul(u64::from(pair[1].wrapping_add(key(2 * i + 1))))
        };
        words.chunks(2).enumerate().map(product).fold(0, u64::wrapping_add)
    }

    #[test]
    fn both_sums_are_nh_with_shifted_keys() {
        let root = root();
        let words = [(1, 2), (0xffff_ffff, 3), (0x1234_5678, 0x9abc_def0), (5, 6), (7, 8)];
        let flat = words.map(|(x, y)| [x, y]).concat();
        assert_eq!(twice(&root, words), (nh(&root, 0, &flat), nh(&root, 2, &flat)));
        let [first, second, ..] = words;
        assert_eq!(twice(&root, [first, second]), (nh(&root, 0, &flat[..4]), nh(&root, 2, &flat[..4])));
    }

    #[test]
    fn the_destination_is_hashed_where_the_vip_does_not_say_it() {
        let root = root();
        let flow = |dst: u64, flags: u32| Flow {
            is_v6: true,
            src: [1, 2],
            dst: [3, dst],
            ports: 4,
            vip: Vip { id: 5, flags, ..Vip::default() },
            ..Flow::default()
        };
        let same = |katran, flags, kind| tag(&root, katran, &flow(1, flags), kind) == tag(&root, katran, &flow(2, flags), kind);
        assert!(same(false, 0, Kind::Flow) && same(false, 0, Kind::Global));
        assert!(!same(false, PREFIX, Kind::Flow) && !same(false, PREFIX, Kind::Global));
        assert!(!same(false, 0, Kind::Fragment) && !same(true, 0, Kind::Flow));
        assert_eq!(tag_of_usual(&root, &flow(1, 0)), tag(&root, false, &flow(1, 0), Kind::Flow));
    }
}
