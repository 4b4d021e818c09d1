//! Where rings lie: a first-fit allocator whose state is the VIP entries themselves.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use tandem_engine::maglev::{Endpoint, Recipe, fill};
use tandem_engine::memory::rings::SLOTS_PER_LINE;
use tandem_engine::memory::{RingLine, Vip as Entry, VipKey};

use super::apply::Control;
use super::{fnv, key_name, vip_table};
use crate::config::{Profile, Vip, Weighting};
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

/// What a ring is made of: the same gives the same ring, slot by slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Members {
    size: u32,
    weighting: Weighting,
    /// Id, address and weight, in the order of the plan.
    reals: Vec<(u16, IpAddr, u32)>,
}

impl Members {
    /// The reals of a VIP that take new flows; `id` names a real.
    pub fn of(vip: &Vip, profile: Profile, id: impl Fn(IpAddr) -> Option<u16>) -> Self {
        let reals = vip.reals.iter().filter(|real| profile.is_in_ring(real));
        let reals = reals.filter_map(|real| Some((id(real.address)?, real.address, real.weight)));
        Self { size: vip.ring_size, weighting: vip.weighting, reals: reals.collect() }
    }

    /// Reals in it.
    pub fn len(&self) -> usize {
        self.reals.len()
    }

    /// Nobody takes new flows.
    pub fn is_empty(&self) -> bool {
        self.reals.is_empty()
    }

    /// The ring, slot by slot.
    pub fn build(&self, profile: Profile) -> Vec<u16> {
        let endpoint = |(id, address, weight): &(u16, IpAddr, u32)| Endpoint::new(recipe(profile), *id, *address, *weight);
        let mut endpoints: Vec<Endpoint> = self.reals.iter().map(endpoint).collect();
        let mut ring = vec![0; self.size as usize];
        fill(&mut ring, &mut endpoints, self.weighting.into());
        ring
    }
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

/// What a VIP's ring says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RingRow {
    /// The VIP.
    pub vip: String,
    /// Its slots; 0: it has no ring.
    pub slots: u32,
    /// Equal in two balancers if and only if (but for one chance in 2^64) every slot names the same address.
    pub digest: u64,
}

impl Control {
    /// What the rings of all VIPs say, in the order of the VIPs' names.
    pub fn ring_rows(&self) -> Vec<RingRow> {
        let tables = &self.tables;
        let address = |id: u32| {
            let real = tables.reals().get(id as usize).filter(|real| real.hop().is_present());
            real.map_or([0, 0], |real| real.addr())
        };
        let row = |(key, entry): (VipKey, Entry)| {
            let bytes = (0..entry.ring_len).flat_map(|slot| {
                let line = tables.rings().get((entry.ring + slot / SLOTS_PER_LINE) as usize);
                address(line.map_or(0, |line| line.get(slot))).map(u64::to_le_bytes).concat()
            });
            let digest = fnv(bytes);
            RingRow { vip: key_name(&key), slots: entry.ring_len, digest }
        };
        let mut rows: Vec<RingRow> = vip_table::vips(tables).map(row).collect();
        rows.sort_unstable_by(|a, b| a.vip.cmp(&b.vip));
        rows
    }
}

impl From<Weighting> for tandem_engine::maglev::Weighting {
    fn from(weighting: Weighting) -> Self {
        match weighting {
            Weighting::V1 => Self::V1,
            Weighting::V2 => Self::V2,
        }
    }
}
