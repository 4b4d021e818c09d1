//! The ids of reals. A VIP's lie together, behind its [`first`](tandem_engine::memory::Vip::first), so that VIPs that were given the
//! same reals have the same numbers for them, and one ring; with room to grow, so that this stays so.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use tandem_engine::memory::counters::Extent;
use tandem_engine::memory::reals::MAX_REALS;
use tandem_engine::memory::rings::MOST;
use tandem_engine::memory::vips::MAX_VIPS;

use super::runs::Runs;
use super::vip_table;
use crate::config::Plan;
use crate::memory::Tables;

/// Fewest VIPs and reals that tables are made for.
const LEAST: Extent = Extent { vips: 512, reals: 1 << 14 };
/// Fewest VIPs in a group with a key of its own: a VIP has the same id in two balancers only if their tables are made for as many, and
/// the more those are, the fewer VIPs fall together. A quarter of a megabyte for each CPU and worker.
const LEAST_OF_GROUP: u32 = 1 << 12;

/// Ids that a VIP with so many reals is given: a quarter of them to grow.
fn room(reals: usize) -> u32 {
    let reals = u32::try_from(reals).unwrap_or(MOST);
    reals.saturating_add((reals / 4).max(1)).min(MOST)
}

/// VIPs and reals that a plan needs room for: its own, and a quarter of them to grow.
pub fn extent(plan: &Plan) -> Extent {
    let vips = plan.vips.len() as u64;
    let of_vips: u64 = plan.vips.iter().map(|vip| u64::from(room(plan.kept(vip).count()))).sum();
    let reals = 1 + super::reals::unowned(plan).len() as u64 + of_vips;
    let size = |needed: u64, least: u32, most: u32| needed.next_power_of_two().clamp(least.into(), most.into()) as u32;
    // The least is room enough.
    let vips = if vips <= u64::from(LEAST.vips) { vips } else { vips + vips / 4 };
    let least = if plan.key_file.is_some() { LEAST_OF_GROUP } else { LEAST.vips };
    Extent { vips: size(vips, least, MAX_VIPS), reals: size(reals, LEAST.reals, MAX_REALS) }
}

/// The ids that no real has.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    free: Runs,
    /// By the VIP's id.
    own: BTreeMap<u32, Own>,
}

/// Of a VIP.
#[derive(Clone, Debug)]
struct Own {
    first: u32,
    /// Kept for it.
    spare: Runs,
}

impl Numbers {
    /// What the tables leave.
    pub fn left(tables: &Tables) -> Self {
        let mut free = Runs::of(1..tables.extent().reals);
        let mut owned: HashMap<u32, usize> = HashMap::new();
        for (id, real) in (0..).zip(tables.reals()).filter(|(_, real)| real.hop().is_present()) {
            free.take_at(id, 1);
            if let Some(vip) = real.owner() {
                *owned.entry(vip).or_default() += 1;
            }
        }
        // How much room each had is not in the tables: what is free behind it, as if it were new.
        let own = vip_table::vips(tables).map(|(_, vip)| {
            let mut spare = Runs::default();
            let room = room(owned.get(&vip.id).copied().unwrap_or(0));
            (vip.first + 1..=vip.first + room).filter(|id| free.take_at(*id, 1)).for_each(|id| spare.give(id, 1));
            (vip.id, Own { first: vip.first, spare })
        });
        let own = own.collect();
        Self { free, own }
    }

    /// What a VIP's ids are counted from.
    pub fn first(&self, vip: u32) -> u32 {
        self.own.get(&vip).map_or(0, |own| own.first)
    }

    /// The number of a real with this id among its VIP's.
    pub fn number(&self, vip: u32, id: u32) -> Option<u16> {
        u16::try_from(id.checked_sub(self.first(vip))?).ok().filter(|number| *number != 0)
    }

    /// Room for a new VIP with so many reals; where it all is taken, it is left what the others have to grow.
    pub fn open(&mut self, vip: u32, reals: usize) {
        let whole = [room(reals), reals as u32].into_iter().find_map(|len| Some((self.free.take(len)?, len)));
        let own = match whole {
            Some((at, len)) => Own { first: at - 1, spare: Runs::of(at..at + len) },
            None => {
                let spare = self.own.values().map(|own| &own.spare).chain([&self.free]);
                let first = spare.filter_map(Runs::lowest).min().map_or(0, |lowest| lowest - 1);
                Own { first, spare: Runs::default() }
            }
        };
        self.own.insert(vip, own);
    }

    /// An id for a real of a VIP, or of none: one that is kept for it, else one that is free, else what another VIP has to grow.
    pub fn take(&mut self, owner: Option<u32>) -> Option<u32> {
        let (mut behind, mut spare) = (1..MAX_REALS, None);
        if let Some(own) = owner.and_then(|vip| self.own.get_mut(&vip)) {
            behind = own.first + 1..own.first.saturating_add(1 + MOST);
            spare = own.spare.take(1);
        }
        let free = spare.or_else(|| self.free.take_within(behind.clone()));
        free.or_else(|| self.own.values_mut().find_map(|own| own.spare.take_within(behind.clone())))
    }

    /// An id that is nobody's any more; its VIP keeps it.
    pub fn give(&mut self, owner: Option<u32>, id: u32) {
        match owner.and_then(|vip| self.own.get_mut(&vip)) {
            Some(own) => own.spare.give(id, 1),
            None => self.free.give(id, 1),
        }
    }

    /// All that is kept for a VIP that is gone.
    pub fn close(&mut self, vip: u32) {
        if let Some(own) = self.own.remove(&vip) {
            self.free.give_all(own.spare);
        }
    }
}
