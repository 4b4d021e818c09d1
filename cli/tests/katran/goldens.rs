//! The golden values of the text, against the model: it is anchored before anything is compared with it.

use std::net::IpAddr;

use sha2::{Digest, Sha256};

use crate::model::hash::{address, h16, packet};
use crate::model::ring::{SLOTS, offset_and_skip, ring};

const REALS: [&str; 6] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fc00::1", "fc00::2", "fc00::3"];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Section 3.6.
#[test]
fn packet_hashes() {
    let ports = [31337_u16.to_be_bytes(), 80_u16.to_be_bytes()].concat().try_into().expect("four bytes");
    let mut v4 = [0; 16];
    v4[..4].copy_from_slice(&[192, 168, 1, 1]);
    let found = packet(false, &v4, ports);
    assert_eq!((found, u64::from(found) % SLOTS), (0xc7e6_8632, 48717));
    let v6 = "fc00:2::1".parse::<std::net::Ipv6Addr>().expect("an address").octets();
    assert_eq!(h16(&v6), 0xbf17_9e70);
    let found = packet(true, &v6, ports);
    assert_eq!((found, u64::from(found) % SLOTS), (0x9c5a_2eda, 37505));
}

/// Section 3.7: hash, offset and skip of an address.
#[test]
fn endpoint_hashes() {
    for (real, hash, offset, skip) in [
        ("10.0.0.1", 0xd671_359d_baa1_5954, 4577, 18292),
        ("10.0.0.2", 0x2cd4_26d0_08b9_0279, 42248, 16076),
        ("10.0.0.3", 0x6eb4_a298_9236_785d, 65365, 24158),
        ("fc00::1", 0x64e7_4a25_b986_d744, 7827, 60497),
        ("fc00::2", 0x87d2_4783_5b02_295b, 12132, 1761),
        ("fc00::3", 0x0b2e_5ea9_8827_f017, 61702, 64040),
        ("192.168.200.201", 0xb384_3d64_6a8c_e785, 55015, 777),
    ] {
        let found = address(ip(real));
        assert_eq!((found, offset_and_skip(found)), (hash, (offset, skip)), "{real}: {found:#018x}");
    }
    assert_eq!(address(ip("::ffff:10.0.0.1")), address(ip("10.0.0.1")));
}

/// Section 3.7: first slots, counts and digests of the six rings.
#[test]
fn rings() {
    let v4_first = [2, 1, 3, 2, 1, 3, 3, 1, 1, 2, 1, 2, 2, 1, 2, 3];
    let even = "2790e8c3fe9ecc1f97570386e3fc15608aa00dbcd19b2186bfc78b9105af3959";
    let all = "73c6fdbbfa53623def44e12967c0409f993296e229f613f4e8f3a7d7f4f3447d";
    let all_first = [5, 6, 3, 2, 1, 3, 3, 1, 4, 6, 5, 2, 5, 1, 2, 6];
    let sixth = [10922, 10923, 10923, 10923, 10923, 10923];
    check(&[1, 1, 1], true, v4_first, &[21845, 21846, 21846], even);
    check(&[1, 1, 1], false, v4_first, &[21845, 21846, 21846], even);
    check(&[1; 6], true, all_first, &sixth, all);
    check(&[1; 6], false, all_first, &sixth, all);
    let digest = "71d03bf6d146b976535d901f630dd9f02330e9fb8d555d1ee12989ad1073ebf7";
    check(&[1, 2, 3], true, v4_first, &[21844, 21846, 21847], digest);
    let digest = "134807bb0864c1b3ac29fb22583156715d17b8ccf8ab23951cbe035db46579bf";
    check(&[1, 2, 3], false, [2, 3, 3, 2, 1, 3, 3, 1, 3, 2, 3, 3, 2, 1, 2, 3], &[10922, 21846, 32769], digest);
    let digest = "d40e67311d71ffa53721f8bd24e161e3226d55da39d45a204546b5eee2877372";
    check(&[10, 15, 20], true, v4_first, &[21840, 21846, 21851], digest);
    let digest = "0010f45fe28ff326ceefdb4eaa0159411b7fc0a9363404b994ffc0bafc57cb70";
    check(&[10, 15, 20], false, [2, 3, 3, 2, 1, 3, 3, 1, 3, 2, 3, 2, 2, 1, 2, 3], &[14563, 21846, 29128], digest);
}

#[track_caller]
fn check(weights: &[u32], v1: bool, first: [u32; 16], counts: &[usize], digest: &str) {
    let endpoints: Vec<(IpAddr, u32)> = REALS.iter().map(|real| ip(real)).zip(weights.iter().copied()).collect();
    let ring = ring(&endpoints, v1);
    let number = |real: &IpAddr| endpoints.iter().zip(1..).find(|((e, _), _)| e == real).map_or(0, |(_, n)| n);
    let slots: Vec<u32> = (0..SLOTS as u32).map(|slot| ring.real(slot).as_ref().map_or(0, number)).collect();
    assert_eq!(&slots[..16], &first);
    let counted: Vec<usize> = (1..).take(weights.len()).map(|n| slots.iter().filter(|slot| **slot == n).count()).collect();
    assert_eq!(counted, counts);
    let bytes: Vec<u8> = slots.iter().flat_map(|slot| slot.to_le_bytes()).collect();
    let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(found, digest);
}

/// An unlisted weight of 0 takes no slot; none at all makes no ring.
#[test]
fn weights_of_zero() {
    let [one, two, three] = [0, 1, 2].map(|n| ip(REALS[n]));
    assert_eq!(ring(&[(one, 0), (two, 0)], true).real(0), None);
    let only = ring(&[(one, 0), (two, 7)], false);
    assert!((0..SLOTS as u32).all(|slot| only.real(slot) == Some(two)));
    assert_eq!(ring(&[(one, 1), (two, 0), (three, 1)], false), ring(&[(one, 1), (three, 1)], false));
}
