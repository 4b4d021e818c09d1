//! The ring against a naive port of the paper's pseudo-code (Eisenbud et al., NSDI 2016, section 3.4, "Populate").

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use tandem_engine::maglev::{Endpoint, Recipe, Weighting, fill};

use crate::bed::Rng;

/// The finaliser of MurmurHash3 x64 (Appleby).
fn fmix(mut k: u64) -> u64 {
    k ^= k >> 33;
    k = k.wrapping_mul(0xff51afd7ed558ccd);
    k ^= k >> 33;
    k = k.wrapping_mul(0xc4ceb9fe1a85ec53);
    k ^= k >> 33;
    k
}

/// The endpoint hash as it is documented, from the sixteen bytes of the address.
fn hash(address: IpAddr) -> u64 {
    let bytes = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let high = u64::from_be_bytes(bytes[..8].try_into().unwrap());
    let low = u64::from_be_bytes(bytes[8..].try_into().unwrap());
    fmix(fmix(high ^ 0x9e3779b97f4a7c15) ^ low)
}

/// The paper's `permutation[i]`.
fn permutation(address: IpAddr, m: u64) -> Vec<usize> {
    let offset = fmix(hash(address) ^ 0xa0761d6478bd642f) % m;
    let skip = fmix(hash(address) ^ 0xe7037ed1a0b428db) % (m - 1) + 1;
    (0..m).map(|j| ((offset + j * skip) % m) as usize).collect()
}

/// How many slots each endpoint of `weights` takes when its turn comes, round by round.
type Turns = fn(round: u64, weight: u64, heaviest: u64) -> u64;

/// Weights as a head start.
fn v1(round: u64, weight: u64, _: u64) -> u64 {
    if round == 0 { weight } else { 1 }
}

/// Weights as shares: after `r` rounds an endpoint has had `r * weight / heaviest` turns.
fn v2(round: u64, weight: u64, heaviest: u64) -> u64 {
    (round + 1) * weight / heaviest - round * weight / heaviest
}

/// "Populate", with `turns` slots per visit where the paper has one. `M` must be a prime.
fn populate(m: usize, reals: &[(u16, IpAddr, u32)], turns: Turns) -> Vec<u16> {
    let mut reals: Vec<_> = reals.iter().filter(|(.., weight)| *weight > 0).collect();
    reals.sort_by_key(|(_, address, _)| (hash(*address), *address));
    let heaviest = reals.iter().map(|(.., weight)| *weight).max().unwrap();
    let permutation: Vec<_> = reals.iter().map(|r| permutation(r.1, m as u64)).collect();
    let mut next = vec![0; reals.len()];
    let mut entry: Vec<Option<u16>> = vec![None; m];
    let mut n = 0;
    for round in 0.. {
        for i in 0..reals.len() {
            for _ in 0..turns(round, reals[i].2.into(), heaviest.into()) {
                let mut c = permutation[i][next[i]];
                while entry[c].is_some() {
                    next[i] += 1;
                    c = permutation[i][next[i]];
                }
                entry[c] = Some(reals[i].0);
                next[i] += 1;
                n += 1;
                if n == m {
                    return entry.into_iter().flatten().collect();
                }
            }
        }
    }
    unreachable!("a round without end")
}

fn ring(m: usize, reals: &[(u16, IpAddr, u32)], weighting: Weighting) -> Vec<u16> {
    let mut ring = vec![u16::MAX; m];
    let mut endpoints: Vec<_> = reals.iter().map(|(id, address, weight)| Endpoint::new(Recipe::Standard, *id, *address, *weight)).collect();
    fill(&mut ring, &mut endpoints, weighting);
    ring
}

/// `n` reals of weight 1, ids from 1.
fn equal(n: u16) -> Vec<(u16, IpAddr, u32)> {
    let address = |id: u16| Ipv4Addr::from(0x0a00_0000 | u32::from(id)).into();
    (1..=n).map(|id| (id, address(id), 1)).collect()
}

fn shares(ring: &[u16]) -> BTreeMap<u16, u32> {
    ring.iter().fold(BTreeMap::new(), |mut shares, id| {
        *shares.entry(*id).or_default() += 1;
        shares
    })
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

/// Distinct reals with weights of 0 to 9, at least one of them above 0.
fn reals() -> impl Strategy<Value = Vec<(u16, IpAddr, u32)>> {
    proptest::collection::btree_map(address(), 0_u32..10, 1..20).prop_map(|map| {
        let mut reals: Vec<_> = (1..).zip(map).map(|(id, (a, w))| (id, a, w)).collect();
        reals[0].2 = reals[0].2.max(1);
        reals
    })
}

proptest! {
    #[test]
    fn equals_the_papers_pseudo_code(reals in reals(), m in prop::sample::select(vec![2, 3, 5, 7, 31, 127, 1021])) {
        let ones: Vec<_> = reals.iter().map(|(id, address, _)| (*id, *address, 1)).collect();
        let paper = populate(m, &ones, |_, _, _| 1);
        prop_assert_eq!(&ring(m, &ones, Weighting::V1), &paper);
        prop_assert_eq!(&ring(m, &ones, Weighting::V2), &paper);
        prop_assert_eq!(ring(m, &reals, Weighting::V1), populate(m, &reals, v1));
        prop_assert_eq!(ring(m, &reals, Weighting::V2), populate(m, &reals, v2));
    }

    #[test]
    fn does_not_depend_on_the_order_of_listing(reals in reals(), seed: u64) {
        let mut rng = Rng(seed);
        let mut other = reals.clone();
        other.sort_by_key(|_| rng.next());
        for weighting in [Weighting::V1, Weighting::V2] {
            prop_assert_eq!(ring(127, &reals, weighting), ring(127, &other, weighting));
        }
    }

    /// By the pseudo-code each real is visited as often as every other, plus or minus once: that bounds its share.
    #[test]
    fn shares_are_in_proportion(reals in reals(), m in prop::sample::select(vec![1021, 4093])) {
        let total: u32 = reals.iter().map(|(.., weight)| weight).sum();
        let n = reals.iter().filter(|(.., weight)| *weight > 0).count() as f64;
        let (by_v1, by_v2) = (shares(&ring(m, &reals, Weighting::V1)), shares(&ring(m, &reals, Weighting::V2)));
        let rounds = (m as u32 - total) / n as u32;
        for (id, _, weight) in &reals {
            let (v1, v2) = (by_v1.get(id).copied().unwrap_or(0), by_v2.get(id).copied().unwrap_or(0));
            let exact = m as f64 * f64::from(*weight) / f64::from(total);
            let more = n * f64::from(*weight) / f64::from(total) + 1.0;
            prop_assert!(f64::from(v2) >= exact - 2.0 && f64::from(v2) <= exact + more, "{v2} slots of {exact}");
            if *weight == 0 {
                prop_assert_eq!(v1, 0);
            } else {
                prop_assert!((weight + rounds - 1..=weight + rounds + 1).contains(&v1), "{v1} slots, weight {weight}");
            }
        }
    }

    /// Not prime, tiny, or smaller than the reals, with any weight: it ends, and a prime ring has no gaps.
    #[test]
    fn odd_sizes_end(reals in reals(), m in 1_usize..40, heavy: u32, weighting in prop::bool::ANY) {
        let mut reals = reals;
        reals[0].2 = heavy.max(1);
        let weighting = if weighting { Weighting::V1 } else { Weighting::V2 };
        let ring = ring(m, &reals, weighting);
        let known = |id: &u16| reals.iter().any(|(i, _, w)| i == id && *w > 0);
        // an endpoint alone may step over slots of a ring whose size is not prime
        prop_assert!(ring.iter().all(|id| *id == 0 || known(id)));
        let prime = (2..m).all(|d| m % d != 0);
        prop_assert!(!prime || ring.iter().all(known));
    }
}

#[test]
fn nobody_and_nothing() {
    fill(&mut [], &mut [], Weighting::V2);
    fill(&mut [], &mut [Endpoint::new(Recipe::Standard, 1, [10, 0, 0, 1].into(), 1)], Weighting::V1);
    assert_eq!(ring(7, &[], Weighting::V2), [0; 7]);
    let idle = [(1, [10, 0, 0, 1].into(), 0)];
    assert_eq!(ring(7, &idle, Weighting::V1), [0; 7]);
    assert_eq!(ring(1, &equal(3), Weighting::V2).len(), 1);
    assert_ne!(ring(1, &equal(3), Weighting::V2), [0]);
}

/// Equal weights: no two reals differ by more than a slot (section 5.3 of the paper measures the same on 65,537).
#[test]
fn equal_weights_share_equally() {
    for n in [1, 3, 100, 1000] {
        let shares = shares(&ring(65_537, &equal(n), Weighting::V2));
        let (least, most) = (shares.values().min().unwrap(), shares.values().max().unwrap());
        assert!(shares.len() == usize::from(n) && most - least <= 1, "{n} reals: {least} to {most}");
    }
}

/// One real of N leaves: its own slots move, and few of the others' (section 5.4 of the paper).
#[test]
fn few_slots_change_when_a_real_leaves() {
    for (n, m, most) in [(3, 1021, 0.02), (10, 1021, 0.03), (100, 10_007, 0.03), (1000, 65_537, 0.02)] {
        let before = ring(m, &equal(n), Weighting::V2);
        let mut worst = 0.0_f64;
        for gone in [1, n / 2 + 1, n] {
            let stay: Vec<_> = equal(n).into_iter().filter(|(id, ..)| *id != gone).collect();
            let after = ring(m, &stay, Weighting::V2);
            assert!(!after.contains(&gone));
            let moved = before.iter().zip(&after).filter(|(b, a)| a != b).count();
            worst = worst.max(moved as f64 / m as f64 - 1.0 / f64::from(n));
        }
        println!("{n} reals, {m} slots: {:.2} % of the others' slots move", 100.0 * worst);
        assert!(worst <= most, "{n} reals, {m} slots: {:.2} % of the others' slots move", 100.0 * worst);
    }
}

/// FNV-1a, 64 bits, over the ids as little-endian pairs of bytes.
fn fingerprint(ring: &[u16]) -> u64 {
    ring.iter()
        .flat_map(|id| id.to_le_bytes())
        .fold(0xcbf29ce484222325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100000001b3))
}

/// The reals of the golden rings: ids 1 to 3.
fn golden_set(v6: bool, weights: [u32; 3]) -> Vec<(u16, IpAddr, u32)> {
    let address = |id: u16| -> IpAddr {
        let text = if v6 { format!("fc00::{id}") } else { format!("10.0.0.{id}") };
        text.parse().unwrap()
    };
    (1..).zip(weights).map(|(id, weight)| (id, address(id), weight)).collect()
}

/// Frozen: a balancer of another version in the same group must build these very rings.
#[test]
fn golden_rings() {
    assert_eq!(ring(31, &golden_set(false, [1, 1, 1]), Weighting::V2), GOLDEN_31);
    for (v6, weights, weighting, m, golden) in GOLDEN {
        let found = fingerprint(&ring(m, &golden_set(v6, weights), weighting));
        assert_eq!(found, golden, "v6 {v6}, weights {weights:?}, {weighting:?}, {m} slots: found {found:#018x}");
    }
}

const GOLDEN_31: [u16; 31] = [1, 1, 2, 3, 2, 1, 2, 3, 1, 2, 3, 2, 1, 2, 2, 2, 3, 3, 3, 3, 3, 2, 3, 2, 3, 1, 1, 1, 2, 1, 1];

const GOLDEN: [(bool, [u32; 3], Weighting, usize, u64); 9] = [
    (false, [1, 1, 1], Weighting::V2, 65_537, 0xc867b02a5916313c),
    (false, [1, 2, 3], Weighting::V1, 65_537, 0xf08425f9da2e7c96),
    (false, [1, 2, 3], Weighting::V2, 65_537, 0x46c731012ad1a2de),
    (true, [1, 1, 1], Weighting::V2, 65_537, 0x64f157a133a2dbe6),
    (true, [1, 2, 3], Weighting::V1, 65_537, 0xf90ed5deacd20ff4),
    (true, [1, 2, 3], Weighting::V2, 65_537, 0xe11e76502ffd6a54),
    (false, [1, 1, 1], Weighting::V1, 1021, 0x243d4129728c3b8f),
    (true, [1, 2, 3], Weighting::V2, 1021, 0xf9567f0b7ce50716),
    (false, [0, 5, 7], Weighting::V2, 1021, 0x93eddc55023e0077),
];
