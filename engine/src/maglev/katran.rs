//! Katran's recipe: the address hash of `folly::IPAddress`, and offset and skip by MurmurHash3.
//!
//! The address hash folds each byte of an IPv4 address in as a signed character, as folly does today ("broken" FNV); if it
//! ever changes there, rings with an octet above 127 change with it.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The hash that endpoints are sorted by.
pub(super) fn hash(address: IpAddr) -> u64 {
    const V4: u64 = 2;
    const V6: u64 = 10;
    match address {
        IpAddr::V4(v4) => combine(V4, u64::from(fnv(v4))),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => combine(V4, u64::from(fnv(v4))),
            None => {
                let [one, two] = spooky(v6);
                combine(V6, combine(one, two))
            }
        },
    }
}

/// First slot and step of an endpoint in a ring of `len` slots.
pub(super) fn sequence(hash: u64, len: u64) -> (u32, u32) {
    let offset = murmur(hash, 42, 0).checked_rem(len).unwrap_or(0);
    let skip = murmur(hash, 2_718_281_828, 2307).checked_rem(len.saturating_sub(1)).unwrap_or(0);
    (offset as u32, (skip as u32).wrapping_add(1))
}

/// CityHash's `Hash128to64`, as folly combines.
fn combine(high: u64, low: u64) -> u64 {
    const K: u64 = 0x9ddf_ea08_eb38_2d69;
    let a = (low ^ high).wrapping_mul(K);
    let a = a ^ a >> 47;
    let b = (high ^ a).wrapping_mul(K);
    (b ^ b >> 47).wrapping_mul(K)
}

/// FNV-1 with shifts for the multiplication, over signed bytes.
fn fnv(address: Ipv4Addr) -> u32 {
    address.octets().iter().fold(2_166_136_261, |hash: u32, byte| hash.wrapping_mul(0x0100_0193) ^ *byte as i8 as u32)
}

/// SpookyHash V2 (Bob Jenkins, public domain) of 16 bytes, both seeds 0.
fn spooky(address: Ipv6Addr) -> [u64; 2] {
    const CONST: u64 = 0xdead_beef_dead_beef;
    let bytes = u128::from(address).swap_bytes();
    let mut h = [0, 0, CONST.wrapping_add(bytes as u64), CONST.wrapping_add((bytes >> 64) as u64)];
    for turns in [[50, 52, 30, 41], [54, 48, 38, 37], [62, 34, 5, 36]] {
        mix(&mut h, turns);
    }
    let [a, b, c, d] = h;
    let mut h = [a, b, c.wrapping_add(CONST), d.wrapping_add(16 << 56).wrapping_add(CONST)];
    for turns in [[15, 52, 26, 51], [28, 9, 47, 54], [32, 25, 63, 0]] {
        end(&mut h, turns);
    }
    let [a, b, _, _] = h;
    [a, b]
}

/// A third of `ShortMix`.
fn mix(h: &mut [u64; 4], [r2, r3, r0, r1]: [u32; 4]) {
    let [mut h0, mut h1, mut h2, mut h3] = *h;
    h2 = h2.rotate_left(r2).wrapping_add(h3);
    h0 ^= h2;
    h3 = h3.rotate_left(r3).wrapping_add(h0);
    h1 ^= h3;
    h0 = h0.rotate_left(r0).wrapping_add(h1);
    h2 ^= h0;
    h1 = h1.rotate_left(r1).wrapping_add(h2);
    h3 ^= h1;
    *h = [h0, h1, h2, h3];
}

/// A third of `ShortEnd`; the last one leaves its last step out (turn 0).
fn end(h: &mut [u64; 4], [r2, r3, r0, r1]: [u32; 4]) {
    let [mut h0, mut h1, mut h2, mut h3] = *h;
    h3 ^= h2;
    h2 = h2.rotate_left(r2);
    h3 = h3.wrapping_add(h2);
    h0 ^= h3;
    h3 = h3.rotate_left(r3);
    h0 = h0.wrapping_add(h3);
    h1 ^= h0;
    h0 = h0.rotate_left(r0);
    h1 = h1.wrapping_add(h0);
    if r1 != 0 {
        h2 ^= h1;
        h1 = h1.rotate_left(r1);
        h2 = h2.wrapping_add(h1);
    }
    *h = [h0, h1, h2, h3];
}

/// MurmurHash3 x64 128 (Austin Appleby, public domain) of one block of 16 bytes; its first word.
fn murmur(a: u64, b: u64, seed: u64) -> u64 {
    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;
    const LEN: u64 = 16;
    let k1 = a.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
    let h1 = (seed ^ k1).rotate_left(27).wrapping_add(seed).wrapping_mul(5).wrapping_add(0x52dc_e729);
    let k2 = b.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);
    let h2 = (seed ^ k2).rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    let h1 = (h1 ^ LEN).wrapping_add(h2 ^ LEN);
    let h2 = (h2 ^ LEN).wrapping_add(h1);
    super::fmix(h1).wrapping_add(super::fmix(h2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_hashes_and_sequences() {
        for (address, golden, offset, skip) in [
            ("10.0.0.1", 0xd671_359d_baa1_5954, 4577, 18_292),
            ("10.0.0.2", 0x2cd4_26d0_08b9_0279, 42_248, 16_076),
            ("10.0.0.3", 0x6eb4_a298_9236_785d, 65_365, 24_158),
            ("fc00::1", 0x64e7_4a25_b986_d744, 7827, 60_497),
            ("fc00::2", 0x87d2_4783_5b02_295b, 12_132, 1761),
            ("fc00::3", 0x0b2e_5ea9_8827_f017, 61_702, 64_040),
            ("192.168.200.201", 0xb384_3d64_6a8c_e785, 55_015, 777),
        ] {
            let found = hash(address.parse().unwrap());
            assert_eq!(found, golden, "{address}: {found:#018x}");
            assert_eq!(sequence(found, 65_537), (offset, skip), "{address}");
        }
    }
}
