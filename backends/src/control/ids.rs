//! The id table, written: server ids, and the reals that are down for a VIP.

use std::net::IpAddr;

use hashbrown::HashMap;
use tandem_engine::memory::{IdKey, IdLine};

use super::grace::Grace;
use crate::config::{Plan, Profile, Real, RealState, Vip, VipFlags};

/// Fewest lines: room for eight thousand keys at a load where no key has to be moved.
const LEAST: u32 = 4096;

/// Keys that a plan can have, whatever the states of its reals.
pub(super) fn most(plan: &Plan) -> usize {
    let mut owners: HashMap<IpAddr, usize> = HashMap::new();
    for real in plan.vips.iter().flat_map(|vip| &vip.reals) {
        *owners.entry(real.address).or_default() += 1;
    }
    // A real that is down is known by an id of each VIP that it serves, and that of no VIP.
    let ids = |real: &Real| 1 + owners.get(&real.address).copied().unwrap_or(0);
    plan.server_ids.len() + migrating(plan).flat_map(|(_, vip)| &vip.reals).map(ids).sum::<usize>()
}

/// The VIPs whose flows leave reals that are down, with their indices. In the standard profile there are none: the flows of such a real
/// are forgotten, and there is nobody to leave.
fn migrating(plan: &Plan) -> impl Iterator<Item = (usize, &Vip)> {
    let katran = plan.profile == Profile::Katran;
    plan.vips.iter().enumerate().filter(move |(_, vip)| katran && vip.flags.contains(VipFlags::UDP_FLOW_MIGRATION))
}

/// Lines that a plan's keys need, a power of two: at most two keys a line, so that one of two lines nearly always has a place.
pub fn lines(plan: &Plan) -> u32 {
    u32::try_from(most(plan).div_ceil(2).next_power_of_two()).unwrap_or(1 << 31).max(LEAST)
}

/// The keys of a plan. `vip` gives the id of a VIP by its index; `reals` has those of reals, by their VIPs' or of no VIP.
pub(super) fn wanted(
    plan: &Plan,
    vip: impl Fn(usize) -> Option<u32>,
    reals: &HashMap<(Option<u32>, IpAddr), u32>,
) -> HashMap<IdKey, u32> {
    let server = |(id, address): &(u32, _)| Some((IdKey::server(*id), *reals.get(&(None, *address))?));
    let mut wanted: HashMap<IdKey, u32> = plan.server_ids.iter().filter_map(server).collect();
    let mut of_address: HashMap<IpAddr, Vec<u32>> = HashMap::new();
    for (index, of) in migrating(plan) {
        let Some(vip) = vip(index) else { continue };
        for down in of.reals.iter().filter(|real| real.state == RealState::Down) {
            if of_address.is_empty() {
                reals.iter().for_each(|((_, address), id)| of_address.entry(*address).or_default().push(*id));
            }
            // By all its ids: Katran's flows are of no VIP, and one may have been entered when it was to another one.
            let ids = of_address.get(&down.address).into_iter().flatten();
            wanted.extend(ids.map(|id| (IdKey::down(vip, *id), 1)));
        }
    }
    wanted
}

/// What became of keys that were to be put in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Put {
    /// They are there.
    Done,
    /// One of them has no place.
    Full,
    /// Not all readers passed in time.
    NoGrace,
}

/// Puts in what is not there yet, or has another value.
pub(super) fn put<G: Grace>(table: &[IdLine], wanted: &HashMap<IdKey, u32>, grace: &G) -> Put {
    let failed = wanted.iter().map(|(key, value)| put_one(table, *key, *value, grace)).find(|put| *put != Put::Done);
    failed.unwrap_or(Put::Done)
}

fn put_one<G: Grace>(table: &[IdLine], key: IdKey, value: u32, grace: &G) -> Put {
    let [Some(one), Some(two)] = pair(table, key) else { return Put::Full };
    let known = [one, two].into_iter().find(|line| line.get(key).is_some());
    if let Some(line) = known {
        let there = line.get(key) == Some(value) || line.put(key, value);
        return if there { Put::Done } else { Put::Full };
    }
    let emptier = if two.used() < one.used() { two } else { one };
    if emptier.put(key, value) {
        return Put::Done;
    }
    if !make_room(table, one) {
        return Put::Full;
    }
    // Who found the key that has moved may still read its value where it was.
    if !grace.wait() {
        return Put::NoGrace;
    }
    if one.put(key, value) { Put::Done } else { Put::Full }
}

fn pair(table: &[IdLine], key: IdKey) -> [Option<&IdLine>; 2] {
    let mask = (table.len() as u32).wrapping_sub(1);
    key.lines(mask).map(|line| table.get(line as usize))
}

/// Moves a key of a full line to its second line. Readers look at the first one first: they find it in one of them at any time.
fn make_room(table: &[IdLine], line: &IdLine) -> bool {
    line.entries().any(|(key, value)| match pair(table, key) {
        [Some(one), Some(two)] if std::ptr::eq(one, line) && !std::ptr::eq(one, two) => two.put(key, value) && line.remove(key),
        _ => false,
    })
}

/// Takes out every other key. `true`: there were some, and their places may be used again only after a grace period.
pub(super) fn keep_only(table: &[IdLine], wanted: &HashMap<IdKey, u32>) -> bool {
    let mut removed = false;
    for line in table {
        for (key, _) in line.entries().filter(|(key, _)| !wanted.contains_key(key)) {
            removed |= line.remove(key);
        }
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::super::grace::NoGrace;
    use super::*;

    fn put_all(table: &[IdLine], wanted: &HashMap<IdKey, u32>) -> bool {
        put(table, wanted, &NoGrace) == Put::Done
    }

    fn table(lines: usize) -> Vec<IdLine> {
        (0..lines).map(|_| IdLine::default()).collect()
    }

    fn get(table: &[IdLine], key: IdKey) -> Option<u32> {
        pair(table, key).into_iter().flatten().find_map(|line| line.get(key))
    }

    /// Far beyond the load that `lines` plans with: 3.5 keys a line of 5.
    #[test]
    fn every_key_is_found_until_it_goes() {
        let table = table(1024);
        let keys: HashMap<IdKey, u32> = (1..3000).map(|id| (IdKey::server(id), id)).collect();
        let down: HashMap<IdKey, u32> = (0..584).map(|n| (IdKey::down(n % 512, n), 1)).collect();
        let both: HashMap<IdKey, u32> = keys.iter().chain(&down).map(|(key, value)| (*key, *value)).collect();
        assert!(put_all(&table, &both));
        assert!(both.iter().all(|(key, value)| get(&table, *key) == Some(*value)));
        assert_eq!(table.iter().map(IdLine::used).sum::<usize>(), both.len());
        // Other values for the same keys.
        let others: HashMap<IdKey, u32> = keys.iter().map(|(key, value)| (*key, value + 7)).collect();
        assert!(put_all(&table, &others));
        assert!(keep_only(&table, &others) && !keep_only(&table, &others));
        assert!(others.iter().all(|(key, value)| get(&table, *key) == Some(*value)));
        assert!(down.keys().all(|key| get(&table, *key).is_none()));
        assert!(keep_only(&table, &HashMap::new()));
        assert_eq!(table.iter().map(IdLine::used).sum::<usize>(), 0);
    }

    #[test]
    fn a_full_table_says_so() {
        let table = table(2);
        let keys = |count: u32| (1..=count).map(|id| (IdKey::server(id), id)).collect::<HashMap<_, _>>();
        assert!(!put_all(&table, &keys(11)));
    }
}
