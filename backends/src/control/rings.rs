//! Where rings lie: a first-fit allocator whose state is the VIP entries themselves.

use tandem_engine::maglev::{Endpoint, Recipe, fill};
use tandem_engine::memory::RingLine;
use tandem_engine::memory::rings::SLOTS_PER_LINE;

use crate::config::{Profile, Vip};
use crate::memory::Tables;

/// A run of ring lines: first and number.
pub(super) type Lines = (u32, u32);

/// The lowest run of `need` lines that is free, line 0 apart; `taken` in any order.
pub(super) fn find_free(taken: &mut [Lines], need: u32, total: u32) -> Option<u32> {
    taken.sort_unstable();
    let mut at = 1;
    for (first, lines) in taken.iter().copied() {
        if first.saturating_sub(at) >= need {
            return Some(at);
        }
        at = at.max(first + lines);
    }
    (total.saturating_sub(at) >= need).then_some(at)
}

/// The ring of a VIP, slot by slot; `None` if none of its reals takes new flows. `id` names a real.
pub(super) fn build(vip: &Vip, profile: Profile, id: impl Fn(std::net::IpAddr) -> Option<u16>) -> Option<Vec<u16>> {
    let mut endpoints: Vec<Endpoint> = vip
        .reals
        .iter()
        .filter(|real| profile.is_in_ring(real))
        .filter_map(|real| Some(Endpoint::new(recipe(profile), id(real.address)?, real.address, real.weight)))
        .collect();
    if endpoints.is_empty() {
        return None;
    }
    let mut ring = vec![0; vip.ring_size as usize];
    fill(&mut ring, &mut endpoints, vip.weighting.into());
    Some(ring)
}

fn recipe(profile: Profile) -> Recipe {
    match profile {
        Profile::Standard => Recipe::Standard,
        Profile::Katran => Recipe::Katran,
    }
}

/// Writes a ring into lines that nobody reads.
pub(super) fn write(tables: &Tables, first: u32, ring: &[u16]) {
    let lines = tables.rings().iter().skip(first as usize);
    for (line, ids) in lines.zip(ring.chunks(SLOTS_PER_LINE as usize)) {
        line.fill(ids);
    }
}

/// Whether these lines hold exactly this ring.
pub(super) fn holds(tables: &Tables, first: u32, ring: &[u16]) -> bool {
    let lines = RingLine::lines(ring.len() as u32);
    let line = |slot: usize| tables.rings().get(first as usize + slot / SLOTS_PER_LINE as usize);
    (first + lines) as usize <= tables.rings().len()
        && ring.iter().enumerate().all(|(slot, id)| line(slot).is_some_and(|l| l.get(slot as u32) == u32::from(*id)))
}

impl From<crate::config::Weighting> for tandem_engine::maglev::Weighting {
    fn from(weighting: crate::config::Weighting) -> Self {
        match weighting {
            crate::config::Weighting::V1 => Self::V1,
            crate::config::Weighting::V2 => Self::V2,
        }
    }
}
