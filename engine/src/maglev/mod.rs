//! The Maglev ring (Eisenbud et al., NSDI 2016, section 3.4), with Katran's two weightings.
//!
//! Frozen: every balancer of a group must build the same ring from the same reals, in whatever order they are listed.
//!
//! * An endpoint's 64-bit hash: with `(h, l)` the big-endian halves of its 16-byte address (IPv4 as `::ffff:a.b.c.d`) and
//!   `fmix` the finaliser of MurmurHash3 x64: `hash = fmix(fmix(h ^ 0x9e3779b97f4a7c15) ^ l)`.
//! * `offset = fmix(hash ^ 0xa0761d6478bd642f) mod M`, `skip = fmix(hash ^ 0xe7037ed1a0b428db) mod (M - 1) + 1`.
//! * Endpoints take turns in the order of `(hash, address)`; those of weight 0 take none.
//!
//! Katran's own recipe has other hashes and another sequence ([`Recipe::Katran`]).

mod katran;

use core::net::IpAddr;

/// Whose hashes and sequences a ring is built with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recipe {
    /// Tandem's.
    Standard,
    /// Katran's, slot for slot.
    Katran,
}

/// How a weight becomes a share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Weighting {
    /// Weights are a head start: in the first round an endpoint takes `weight` slots, in every later one a single slot.
    V1,
    /// Shares are proportional: each visit adds the weight to an account, and a slot costs the largest weight.
    V2,
}

/// One real in the making of a ring. The caller owns the memory; the core allocates nothing.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    id: u16,
    weight: u32,
    hash: u64,
    address: u128,
    recipe: Recipe,
    /// Where its sequence starts, how far it steps, and how many steps it has taken.
    offset: u32,
    skip: u32,
    steps: u32,
    /// The slot of the next step.
    next: u32,
    account: u32,
}

impl Endpoint {
    /// An endpoint of the ring: the id that its slots will hold (not 0), its address, its weight. All endpoints of a ring
    /// have the same recipe.
    pub fn new(recipe: Recipe, id: u16, address: IpAddr, weight: u32) -> Self {
        let wide = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let wide = u128::from(wide);
        let hash = match recipe {
            Recipe::Standard => hash(wide),
            Recipe::Katran => katran::hash(address),
        };
        Self { id, weight, hash, address: wide, recipe, offset: 0, skip: 0, steps: 0, next: 0, account: 0 }
    }

    /// Goes to the start of its sequence in a ring of `len` slots.
    fn start(&mut self, len: u32) {
        (self.offset, self.skip) = match self.recipe {
            Recipe::Standard => {
                let skip = modulo(fmix(self.hash ^ 0xe703_7ed1_a0b4_28db), len.wrapping_sub(1).max(1));
                (modulo(fmix(self.hash ^ 0xa076_1d64_78bd_642f), len), skip.wrapping_add(1))
            }
            Recipe::Katran => katran::sequence(self.hash, u64::from(len)),
        };
        (self.steps, self.next, self.account) = (0, self.offset, 0);
    }

    /// Gives it the next free slot of its sequence; `false`: it has been all around in vain.
    fn take(&mut self, ring: &mut [u16], len: u32) -> bool {
        match self.recipe {
            Recipe::Standard => self.take_standard(ring, len),
            Recipe::Katran => self.take_katran(ring, len),
        }
    }

    fn take_standard(&mut self, ring: &mut [u16], len: u32) -> bool {
        let mut at = self.next;
        // `at + skip` less the slots that this goes too far, without a number that could be too large
        let back = len.wrapping_sub(self.skip);
        for _ in 0..len {
            let Some(slot) = ring.get_mut(at as usize) else { return false };
            at = if at >= back { at.wrapping_sub(back) } else { at.wrapping_add(self.skip) };
            if *slot == 0 {
                *slot = self.id;
                self.next = at;
                return true;
            }
        }
        false
    }

    fn take_katran(&mut self, ring: &mut [u16], len: u32) -> bool {
        // Its sequence repeats itself where it wraps, and is given the time to reach the rest.
        for _ in 0..len.saturating_mul(4) {
            let at = self.next;
            self.steps = self.steps.wrapping_add(1);
            // in 32 bits, which wrap before the remainder is taken
            self.next = self.offset.wrapping_add(self.steps.wrapping_mul(self.skip)).checked_rem(len).unwrap_or(0);
            if let Some(slot) = ring.get_mut(at as usize)
                && *slot == 0
            {
                *slot = self.id;
                return true;
            }
        }
        false
    }
}

fn fmix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ x >> 33
}

fn hash(address: u128) -> u64 {
    fmix(fmix((address >> 64) as u64 ^ 0x9e37_79b9_7f4a_7c15) ^ address as u64)
}

/// Fills every slot of `ring` with an endpoint's id, or all with 0 if none has a weight.
///
/// `ring` should have a prime number of slots: only then does every endpoint's sequence reach all of them. (Otherwise an
/// endpoint that has run once around its sequence in vain is left out of the rest.) `endpoints` is reordered.
pub fn fill(ring: &mut [u16], endpoints: &mut [Endpoint], weighting: Weighting) {
    ring.fill(0);
    endpoints.sort_unstable_by_key(|e| (e.hash, e.address));
    let len = u32::try_from(ring.len()).unwrap_or(u32::MAX);
    if len == 0 {
        return;
    }
    endpoints.iter_mut().for_each(|e| e.start(len));
    let mut first_round = true;
    let mut left = len;
    loop {
        // Anew each round: if the heaviest is left out, the others must not wait for its price to be paid.
        let heaviest = endpoints.iter().map(|e| e.weight).max().unwrap_or(0);
        if heaviest == 0 {
            return;
        }
        for e in endpoints.iter_mut().filter(|e| e.weight != 0) {
            let turns = match weighting {
                Weighting::V1 if first_round => e.weight,
                Weighting::V1 => 1,
                Weighting::V2 => {
                    e.account = e.account.saturating_add(e.weight);
                    let pays = e.account >= heaviest;
                    e.account = e.account.wrapping_sub(if pays { heaviest } else { 0 });
                    u32::from(pays)
                }
            };
            for _ in 0..turns {
                if !e.take(ring, len) {
                    e.weight = 0;
                    break;
                }
                left = left.wrapping_sub(1);
                if left == 0 {
                    return;
                }
            }
        }
        first_round = false;
    }
}

fn modulo(x: u64, by: u32) -> u32 {
    x.checked_rem(u64::from(by)).unwrap_or(0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frozen: every balancer of a group must compute these very numbers.
    #[test]
    fn golden_endpoint_hashes() {
        for (address, golden) in [
            ("10.0.0.1", 0x642c_a076_cfdc_e4fd),
            ("255.255.255.255", 0xc26d_7380_ecc4_831d),
            ("fc00::1", 0x9d62_f974_2617_5032),
            ("2001:db8::7", 0xaef9_ecf8_d202_e04b),
        ] {
            let found = Endpoint::new(Recipe::Standard, 1, address.parse().unwrap(), 1).hash;
            assert_eq!(found, golden, "{address}: found {found:#018x}");
        }
    }
}
