//! Section 3.6, the packet hash, and the hashes of section 3.7 that a ring is made of.

use std::net::IpAddr;

/// `SEED` of section 3.6: 512 VIPs times a ring of 65537.
const SEED: u32 = 512 * 65537;
/// `SEED6`.
const SEED6: u32 = 512;
const START: u32 = 0xdead_beef;

fn fin([mut a, mut b, mut c]: [u32; 3]) -> u32 {
    c ^= b;
    c = c.wrapping_sub(b.rotate_left(14));
    a ^= c;
    a = a.wrapping_sub(c.rotate_left(11));
    b ^= a;
    b = b.wrapping_sub(a.rotate_left(25));
    c ^= b;
    c = c.wrapping_sub(b.rotate_left(16));
    a ^= c;
    a = a.wrapping_sub(c.rotate_left(4));
    b ^= a;
    b = b.wrapping_sub(a.rotate_left(14));
    c ^= b;
    c.wrapping_sub(b.rotate_left(24))
}

/// One row for each step: the word that changes, the word before it, the word after it, and the rotation.
fn mix(words: &mut [u32; 3]) {
    // a-=c; a^=rol(c,4); c+=b   then the same with (b, a, c) and so on
    let steps = [(0, 2, 1, 4), (1, 0, 2, 6), (2, 1, 0, 8), (0, 2, 1, 16), (1, 0, 2, 19), (2, 1, 0, 4)];
    for (x, by, other, turn) in steps {
        words[x] = words[x].wrapping_sub(words[by]) ^ words[by].rotate_left(turn);
        words[by] = words[by].wrapping_add(words[other]);
    }
}

fn two(x: u32, y: u32, seed: u32) -> u32 {
    let i = seed.wrapping_add(START).wrapping_add(8);
    fin([x.wrapping_add(i), y.wrapping_add(i), i])
}

/// The inner hash of an IPv6 source.
pub fn h16(source: &[u8; 16]) -> u32 {
    let [w0, w1, w2, w3] = [0, 4, 8, 12].map(|at| le32(&source[at..]));
    let start = START.wrapping_add(16).wrapping_add(SEED6);
    let mut abc = [start.wrapping_add(w0), start.wrapping_add(w1), start.wrapping_add(w2)];
    mix(&mut abc);
    abc[0] = abc[0].wrapping_add(w3);
    fin(abc)
}

fn le32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// The packet hash; `v6` is that of the packet. `ports` in wire order, source first.
pub fn packet(v6: bool, source: &[u8; 16], ports: [u8; 4]) -> u32 {
    let ports = u32::from_le_bytes(ports);
    if v6 { two(h16(source), ports, SEED) } else { two(le32(source), ports, SEED) }
}

/// MurmurHash3 x64 128 of one block of 16 bytes, first word.
pub fn murmur(a: u64, b: u64, seed: u64) -> u64 {
    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;
    let k1 = a.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
    let k2 = b.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);
    let h1 = (seed ^ k1).rotate_left(27).wrapping_add(seed).wrapping_mul(5).wrapping_add(0x52dc_e729);
    let h2 = (seed ^ k2).rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    let (h1, h2) = (h1 ^ 16, h2 ^ 16);
    let h1 = h1.wrapping_add(h2);
    let h2 = h2.wrapping_add(h1);
    fmix(h1).wrapping_add(fmix(h2))
}

fn fmix(mut x: u64) -> u64 {
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        x = (x ^ x >> 33).wrapping_mul(factor);
    }
    x ^ x >> 33
}

/// `c(hi, lo)` of section 3.7.
fn combine(hi: u64, lo: u64) -> u64 {
    const K: u64 = 0x9ddf_ea08_eb38_2d69;
    let a = (lo ^ hi).wrapping_mul(K);
    let a = a ^ a >> 47;
    let b = (hi ^ a).wrapping_mul(K);
    (b ^ b >> 47).wrapping_mul(K)
}

/// FNV with the byte taken as signed, which the text marks as a quirk.
fn fnv(bytes: [u8; 4]) -> u32 {
    bytes.into_iter().fold(2_166_136_261_u32, |h, byte| {
        let h = [1, 4, 7, 8, 24].iter().fold(h, |sum, shift| sum.wrapping_add(h << shift));
        h ^ i32::from(byte.cast_signed()).cast_unsigned()
    })
}

/// Section 3.7, "Address hash".
pub fn address(of: IpAddr) -> u64 {
    match of.to_canonical() {
        IpAddr::V4(v4) => combine(2, u64::from(fnv(v4.octets()))),
        IpAddr::V6(v6) => {
            let [s1, s2] = spooky(v6.octets());
            combine(10, combine(s1, s2))
        }
    }
}

/// SpookyHash V2 (Jenkins, 2012), 128 bits, of 16 bytes and with both seeds 0: one round of its short mix, then its end.
fn spooky(bytes: [u8; 16]) -> [u64; 2] {
    const MAGIC: u64 = 0xdead_beef_dead_beef;
    let [x, y] = [0, 8].map(|at| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")));
    let mut h = [0, 0, MAGIC.wrapping_add(x), MAGIC.wrapping_add(y)];
    for (n, turn) in [50, 52, 30, 41, 54, 48, 38, 37, 62, 34, 5, 36].into_iter().enumerate() {
        let (at, add, xor) = ((n + 2) % 4, (n + 3) % 4, n % 4);
        h[at] = u64::rotate_left(h[at], turn).wrapping_add(h[add]);
        h[xor] ^= h[at];
    }
    h[3] = h[3].wrapping_add(16 << 56).wrapping_add(MAGIC);
    h[2] = h[2].wrapping_add(MAGIC);
    for (n, turn) in [15, 52, 26, 51, 28, 9, 47, 54, 32, 25, 63].into_iter().enumerate() {
        let (to, from) = ((n + 3) % 4, (n + 2) % 4);
        h[to] ^= h[from];
        h[from] = u64::rotate_left(h[from], turn);
        h[to] = h[to].wrapping_add(h[from]);
    }
    [h[0], h[1]]
}
