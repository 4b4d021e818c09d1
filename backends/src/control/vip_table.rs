//! The VIP table, written: in place where a probe has a free slot, else the whole other half and one store.

use tandem_engine::memory::vips::{PROBES, table};
use tandem_engine::memory::{Vip, VipKey, VipSlot};

use super::vips::addresses_of;
use crate::config::Plan;
use crate::memory::Tables;

/// Seeds tried before giving up. At a fifth full about every second one fits.
const SEEDS: u32 = 1000;
/// Fewest slots of a half.
const LEAST: usize = 8192;
/// Slots of a half for each entry.
const SPARSE: usize = 5;

/// Slots of one half that a plan needs: a power of two.
pub fn vip_slots(plan: &Plan) -> u32 {
    u32::try_from((SPARSE * needed(plan)).next_power_of_two().max(LEAST)).unwrap_or(1 << 31)
}

/// Entries of a plan: its VIPs, and the addresses that something is known of.
fn needed(plan: &Plan) -> usize {
    plan.vips.len() + addresses_of(plan).len()
}

/// Whether a plan fits; how many entries it has, if not.
pub(super) fn check(tables: &Tables, plan: &Plan) -> Result<(), usize> {
    let needed = needed(plan);
    if SPARSE * needed <= slots(tables) as usize { Ok(()) } else { Err(needed) }
}

fn slots(tables: &Tables) -> u32 {
    tables.vips().len() as u32 / 2
}

/// All entries in force: VIPs, and what is known of addresses.
fn entries(tables: &Tables) -> Vec<(VipKey, Vip)> {
    half(tables, tables.root().first_vip()).iter().filter_map(VipSlot::entry).collect()
}

/// All VIPs in force.
pub(super) fn vips(tables: &Tables) -> impl Iterator<Item = (VipKey, Vip)> {
    entries(tables).into_iter().filter(|(key, _)| key.protocol() != 0)
}

/// What is known of addresses.
pub(super) fn addresses(tables: &Tables) -> impl Iterator<Item = (VipKey, Vip)> {
    entries(tables).into_iter().filter(|(key, _)| key.protocol() == 0)
}

fn half(tables: &Tables, first: u32) -> &[VipSlot] {
    let (first, slots) = (first as usize, slots(tables) as usize);
    tables.vips().get(first..first + slots).unwrap_or_default()
}

/// The slots that hold `key`, or could.
fn chain<'a>(tables: &'a Tables, key: &'a VipKey, table: u64) -> impl Iterator<Item = &'a VipSlot> {
    let mask = slots(tables) - 1;
    (0..PROBES).filter_map(move |probe| tables.vips().get(key.slot(table, mask, probe) as usize))
}

/// The slot of a VIP in force.
pub(super) fn slot<'a>(tables: &'a Tables, key: &'a VipKey) -> Option<&'a VipSlot> {
    chain(tables, key, tables.root().vips.get()).find(|slot| slot.entry().is_some_and(|(k, _)| k == *key))
}

/// Makes an empty table ready.
pub(super) fn initialise(tables: &Tables) {
    let root = tables.root();
    root.vip_mask.set(slots(tables) - 1);
    root.publish_vips(0, 1);
}

/// What became of an insertion.
pub(super) enum Inserted {
    /// Written into a free slot.
    InPlace,
    /// The table was rebuilt in the other half; the half before may be written to after a grace period.
    Rebuilt,
    /// No seed of many fits.
    Full,
}

/// Puts a new VIP into the table.
pub(super) fn insert(tables: &Tables, key: &VipKey, vip: Vip) -> Inserted {
    let now = tables.root().vips.get();
    if put(tables, key, vip, now) {
        return Inserted::InPlace;
    }
    let mut all = entries(tables);
    all.push((*key, vip));
    let other = if tables.root().first_vip() == 0 { slots(tables) } else { 0 };
    for next in 1..SEEDS {
        let seed = (now as u32).wrapping_add(next);
        let table = table(other, seed);
        // In the order of their first slots nobody is displaced further than need be.
        all.sort_unstable_by_key(|(key, _)| key.slot(table, slots(tables) - 1, 0));
        half(tables, other).iter().for_each(VipSlot::clear);
        if all.iter().all(|(key, vip)| put(tables, key, *vip, table)) {
            tables.root().publish_vips(other, seed);
            return Inserted::Rebuilt;
        }
    }
    Inserted::Full
}

fn put(tables: &Tables, key: &VipKey, vip: Vip, table: u64) -> bool {
    let free = chain(tables, key, table).find(|slot| slot.entry().is_none());
    if let Some(slot) = free {
        slot.fill(key, vip);
    }
    free.is_some()
}
