//! Where rings lie, and what they are made of: VIPs with the same reals under the same numbers share one.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};
use tandem_engine::maglev::{Endpoint, Recipe, fill};
use tandem_engine::memory::rings::SLOTS_PER_LINE;
use tandem_engine::memory::{RingLine, Vip as Entry, VipKey};

use super::apply::Control;
use super::runs::Runs;
use super::{fnv, key_name, vip_table};
use crate::config::{Plan, Profile, Vip, Weighting};
use crate::memory::Tables;

/// A run of ring lines: first and number.
type Lines = (u32, u32);

/// What a ring is made of: the same gives the same ring, slot by slot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Members {
    size: u32,
    weighting: Weighting,
    /// Number among the VIP's, address and weight, in the order of the numbers.
    reals: Vec<(u16, IpAddr, u32)>,
}

impl Members {
    /// The reals of a VIP that take new flows; `number` gives a real's.
    pub fn of(vip: &Vip, profile: Profile, number: impl Fn(IpAddr) -> Option<u16>) -> Self {
        let reals = vip.reals.iter().filter(|real| profile.is_in_ring(real));
        let mut reals: Vec<_> = reals.filter_map(|real| Some((number(real.address)?, real.address, real.weight))).collect();
        reals.sort_unstable();
        Self { size: vip.ring_size, weighting: vip.weighting, reals }
    }

    /// Nobody takes new flows.
    pub fn is_empty(&self) -> bool {
        self.reals.is_empty()
    }

    /// Lines of the ring.
    pub fn lines(&self) -> u32 {
        RingLine::lines(self.size)
    }

    /// The ring, slot by slot.
    pub fn build(&self, profile: Profile) -> Vec<u16> {
        let endpoint =
            |(number, address, weight): &(u16, IpAddr, u32)| Endpoint::new(recipe(profile), *number, *address, *weight);
        let mut endpoints: Vec<Endpoint> = self.reals.iter().map(endpoint).collect();
        let mut ring = vec![0; self.size as usize];
        fill(&mut ring, &mut endpoints, self.weighting.into());
        ring
    }
}

/// Lines that the rings of a plan need, those that are alike once.
pub fn ring_lines(plan: &Plan) -> u64 {
    let of = |vip: &Vip| {
        let mut reals: Vec<_> = plan.in_ring(vip).map(|real| (real.address, real.weight)).collect();
        reals.sort_unstable();
        (vip.ring_size, vip.weighting, reals)
    };
    let distinct: HashSet<_> = plan.vips.iter().map(of).collect();
    distinct.into_iter().map(|(size, ..)| u64::from(RingLine::lines(size))).sum()
}

/// The rings that VIPs have, and the lines that are free for others.
#[derive(Clone, Debug)]
pub(super) struct Rings {
    free: Runs,
    /// By first line.
    held: HashMap<u32, Held>,
    /// By what they are made of; those of a process before are not known by that until they are built.
    made: HashMap<Arc<Members>, u32>,
    /// Unlinked lines that a reader may still hold.
    pending: Vec<Lines>,
}

#[derive(Clone, Debug)]
struct Held {
    lines: u32,
    /// VIPs that have it.
    users: u32,
    members: Option<Arc<Members>>,
}

impl Rings {
    /// Those that are in force.
    pub fn left(tables: &Tables) -> Self {
        let free = Runs::of(1..tables.sizes().ring_lines);
        let mut rings = Self { free, held: HashMap::new(), made: HashMap::new(), pending: Vec::new() };
        for (_, vip) in vip_table::vips(tables).filter(|(_, vip)| vip.ring_len != 0) {
            let lines = RingLine::lines(vip.ring_len);
            let held = rings.held.entry(vip.ring).or_insert_with(|| {
                rings.free.take_at(vip.ring, lines);
                Held { lines, users: 0, members: None }
            });
            held.users += 1;
        }
        rings
    }

    /// What all of them are made of is known.
    pub fn is_known(&self) -> bool {
        self.held.values().all(|held| held.members.is_some())
    }

    /// The ring that is made of this.
    pub fn find(&self, members: &Members) -> Option<u32> {
        self.made.get(members).copied()
    }

    /// This is what a ring that was there is made of.
    pub fn learn(&mut self, first: u32, members: Members) {
        if let Some(held) = self.held.get_mut(&first).filter(|held| held.members.is_none()) {
            let members = Arc::new(members);
            held.members = Some(members.clone());
            self.made.insert(members, first);
        }
    }

    /// Lines for a new ring; nobody has it yet.
    pub fn take(&mut self, members: &Members) -> Option<u32> {
        let (lines, members) = (members.lines(), Arc::new(members.clone()));
        let first = self.free.take(lines)?;
        self.held.insert(first, Held { lines, users: 0, members: Some(members.clone()) });
        self.made.insert(members, first);
        Some(first)
    }

    /// One more VIP has it; 0 is none.
    pub fn link(&mut self, first: u32) {
        if let Some(held) = self.held.get_mut(&first) {
            held.users += 1;
        }
    }

    /// A VIP has it no more. Its lines are free once every reader has passed, if it was the last.
    pub fn unlink(&mut self, first: u32) {
        let Some(held) = self.held.get_mut(&first) else { return };
        held.users = held.users.saturating_sub(1);
        if held.users != 0 {
            return;
        }
        if let Some(held) = self.held.remove(&first) {
            if let Some(members) = held.members {
                self.made.remove(&members);
            }
            self.pending.push((first, held.lines));
        }
    }

    /// Lines wait for their readers.
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// All readers have passed.
    pub fn reuse(&mut self) {
        for (first, lines) in self.pending.drain(..) {
            self.free.give(first, lines);
        }
    }

    /// Lines in use, or not free yet.
    pub fn taken(&self) -> u32 {
        self.held.values().map(|held| held.lines).sum::<u32>() + self.pending.iter().map(|(_, lines)| lines).sum::<u32>()
    }

    /// Rings, and the VIPs that have them.
    pub fn shares(&self) -> (usize, u32) {
        (self.held.len(), self.held.values().map(|held| held.users).sum())
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
    /// Rings, and the VIPs that have them: the fewer rings, the more is shared.
    pub fn rings_shared(&self) -> (usize, u32) {
        self.rings.shares()
    }

    /// What the rings of all VIPs say, in the order of the VIPs' names.
    pub fn ring_rows(&self) -> Vec<RingRow> {
        let tables = &self.tables;
        let address = |id: u32| {
            let real = tables.reals().get(id as usize).filter(|real| real.hop().is_present());
            real.map_or([0, 0], |real| real.addr())
        };
        let digest = |entry: &Entry| {
            let bytes = (0..entry.ring_len).flat_map(|slot| {
                let line = tables.rings().get((entry.ring + slot / SLOTS_PER_LINE) as usize);
                let number = line.map_or(0, |line| line.get(slot));
                address(if number == 0 { 0 } else { entry.first + number }).map(u64::to_le_bytes).concat()
            });
            fnv(bytes)
        };
        // Who shares a ring has the same addresses under its numbers.
        let mut digests: HashMap<u32, u64> = HashMap::new();
        let row = |(key, entry): (VipKey, Entry)| {
            let digest = *digests.entry(entry.ring).or_insert_with(|| digest(&entry));
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
