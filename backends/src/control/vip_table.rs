//! The VIP table, written: in place where a probe has a free slot, else the whole other half and one store.

use tandem_engine::memory::vips::{PROBES, SLOTS};
use tandem_engine::memory::{Root, Vip, VipKey, VipSlot};

use crate::memory::Tables;

/// Seeds tried before giving up; at a quarter full even two in a row never failed.
const SEEDS: u32 = 1000;

/// All entries in force: VIPs, and what is known of addresses.
fn entries(tables: &Tables) -> Vec<(VipKey, Vip)> {
    half(tables, tables.root().vips_in_force().0).iter().filter_map(VipSlot::entry).collect()
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
    let first = first as usize;
    tables.vips().get(first..first + SLOTS as usize).unwrap_or_default()
}

/// The slots that hold `key`, or could.
fn chain<'a>(tables: &'a Tables, key: &'a VipKey, first: u32, seed: u32) -> impl Iterator<Item = &'a VipSlot> {
    (0..PROBES).filter_map(move |probe| tables.vips().get(key.slot(first, seed, SLOTS - 1, probe) as usize))
}

/// The slot of a VIP in force.
pub(super) fn slot<'a>(tables: &'a Tables, key: &'a VipKey) -> Option<&'a VipSlot> {
    let (first, seed) = tables.root().vips_in_force();
    chain(tables, key, first, seed).find(|slot| slot.entry().is_some_and(|(k, _)| k == *key))
}

/// Makes an empty table ready.
pub(super) fn initialise(root: &Root) {
    root.vip_mask.set(SLOTS - 1);
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
    let (first, seed) = tables.root().vips_in_force();
    let found = put(tables, key, vip, first, seed);
    if found {
        return Inserted::InPlace;
    }
    let mut all = entries(tables);
    all.push((*key, vip));
    let other = if first == 0 { SLOTS } else { 0 };
    for next in 1..SEEDS {
        let seed = seed.wrapping_add(next);
        half(tables, other).iter().for_each(VipSlot::clear);
        if all.iter().all(|(key, vip)| put(tables, key, *vip, other, seed)) {
            tables.root().publish_vips(other, seed);
            return Inserted::Rebuilt;
        }
    }
    Inserted::Full
}

fn put(tables: &Tables, key: &VipKey, vip: Vip, first: u32, seed: u32) -> bool {
    let free = chain(tables, key, first, seed).find(|slot| slot.entry().is_none());
    if let Some(slot) = free {
        slot.fill(key, vip);
    }
    free.is_some()
}
