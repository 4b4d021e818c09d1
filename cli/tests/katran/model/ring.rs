//! Section 3.7: the ring, from its endpoints.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::hash::{address, murmur};

/// `RING_SIZE`.
pub const SLOTS: u64 = 65_537;

/// Reals and their weights, in the order of the configuration.
type Endpoints = Vec<(IpAddr, u32)>;

/// Rings that were asked for before: a ring takes longer than a thousand frames.
static KNOWN: Mutex<Option<Rings>> = Mutex::new(None);

/// By endpoints, and whether V1.
type Rings = HashMap<(Endpoints, bool), Arc<Ring>>;

/// A ring.
#[derive(PartialEq, Debug)]
pub struct Ring {
    reals: Vec<IpAddr>,
    /// For each slot, whose it is among `reals`; empty if no endpoint has a weight.
    slots: Vec<u16>,
}

impl Ring {
    /// The real of a packet hash.
    pub fn real(&self, hash: u32) -> Option<IpAddr> {
        let n = self.slots.get((u64::from(hash) % SLOTS) as usize)?;
        Some(self.reals[usize::from(*n)])
    }
}

/// The ring of these endpoints, by V1 or V2.
pub fn ring(endpoints: &[(IpAddr, u32)], v1: bool) -> Arc<Ring> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    if known.len() > 2000 {
        known.clear();
    }
    known.entry((endpoints.to_vec(), v1)).or_insert_with(|| Arc::new(made(endpoints, v1))).clone()
}

/// An endpoint that takes its turns.
struct Turns {
    weight: u32,
    offset: u64,
    skip: u64,
    tries: u64,
    account: u32,
}

fn made(endpoints: &[(IpAddr, u32)], v1: bool) -> Ring {
    // Zero weight is left out; ascending by hash.
    let mut order: Vec<(u64, IpAddr, u32)> =
        endpoints.iter().filter(|(_, weight)| *weight != 0).map(|(real, weight)| (address(*real), *real, *weight)).collect();
    order.sort_unstable();
    let reals = order.iter().map(|(_, real, _)| *real).collect();
    let mut turns: Vec<Turns> = order
        .iter()
        .map(|(hash, _, weight)| {
            let (offset, skip) = offset_and_skip(*hash);
            Turns { weight: *weight, offset, skip, tries: 0, account: 0 }
        })
        .collect();
    let slots = match turns.len() {
        0 => Vec::new(),
        1 => vec![0; SLOTS as usize],
        _ => filled(&mut turns, v1),
    };
    Ring { reals, slots }
}

fn filled(endpoints: &mut [Turns], v1: bool) -> Vec<u16> {
    const FREE: u16 = u16::MAX;
    let heaviest = endpoints.iter().map(|e| e.weight).max().unwrap_or(0);
    let mut slots = vec![FREE; SLOTS as usize];
    let mut free = SLOTS;
    for round in 0_u64.. {
        for (number, e) in (0..).zip(endpoints.iter_mut()) {
            let turns = if v1 {
                if round == 0 { e.weight } else { 1 }
            } else {
                e.account += e.weight;
                let pays = e.account >= heaviest;
                e.account -= if pays { heaviest } else { 0 };
                u32::from(pays)
            };
            for _ in 0..turns {
                while slots[slot_of_try(e)] != FREE {
                    e.tries += 1;
                }
                slots[slot_of_try(e)] = number;
                e.tries += 1;
                free -= 1;
                if free == 0 {
                    return slots;
                }
            }
        }
    }
    unreachable!("rounds have no end")
}

/// `offset = murmur(hash, 42, 0) mod M`, `skip = murmur(hash, 2718281828, 2307) mod (M - 1) + 1`.
pub fn offset_and_skip(hash: u64) -> (u64, u64) {
    (murmur(hash, 42, 0) % SLOTS, murmur(hash, 2_718_281_828, 2307) % (SLOTS - 1) + 1)
}

/// The sum wraps at 32 bits before the modulus.
fn slot_of_try(e: &Turns) -> usize {
    ((e.offset + e.tries * e.skip) % (1 << 32) % SLOTS) as usize
}
