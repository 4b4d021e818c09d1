//! The VIPs of a plan, and what is known of addresses: their entries in the VIP table.

use std::net::IpAddr;

use hashbrown::{HashMap, HashSet};
use tandem_engine::memory::counters::vip_at;
use tandem_engine::memory::vips::{self as flags, MAX_VIPS};
use tandem_engine::memory::{RingLine, Vip as Entry, VipKey};
use tandem_engine::vlan::{PRESENT, leaving};
use tandem_engine::wire::TAG_LEN;
use tandem_engine::{NO_VIP, room_for};

use super::apply::{Changes, Control};
use super::error::ControlError;
use super::grace::Grace;
use super::host::Hops;
use super::reals::method;
use super::vip_table::{self, Inserted};
use super::{addr_words, fnv, key_name, nat, rings, vip_key};
use crate::config::{Encap, GeneveInner, Plan, Then, Vip, VipFlags};

impl Control {
    pub(super) fn apply_vip<G: Grace>(
        &mut self,
        vip: &Vip,
        plan: &Plan,
        hops: &Hops,
        grace: &G,
        changes: &mut Changes,
    ) -> Result<(), ControlError> {
        let key = vip_key(vip);
        let known = self.vips.get(&key).copied();
        let id = match known {
            Some(id) => id,
            None => self.new_vip_id(plan, &key)?,
        };
        changes.reals_added += self.fill_reals(vip, plan, id, hops);
        let before = vip_table::slot(&self.tables, &key).and_then(|slot| slot.entry()).map(|(_, entry)| entry);
        let (ring, ring_len) = self.place_ring(vip, plan, id, before, grace, changes)?;
        self.put_entry(&key, Entry { id, flags: self.entry_flags(vip, plan, id), ring, ring_len }, before, grace)?;
        if before.is_none() {
            self.vips.insert(key, id);
            changes.vips_added += 1;
        }
        Ok(())
    }

    /// Makes the VIP table say this; `before` is what it says now.
    fn put_entry<G: Grace>(&mut self, key: &VipKey, entry: Entry, before: Option<Entry>, grace: &G) -> Result<(), ControlError> {
        let Some(old) = before else {
            return match vip_table::insert(&self.tables, key, entry) {
                Inserted::InPlace => Ok(()),
                // the half before may be written to only when nobody reads it any more
                Inserted::Rebuilt => self.wait(grace),
                Inserted::Full => Err(ControlError::VipTableFull { vip: key_name(key) }),
            };
        };
        if let Some(slot) = vip_table::slot(&self.tables, key) {
            if old.flags != entry.flags {
                slot.set_what(entry);
            }
            if (old.ring, old.ring_len) != (entry.ring, entry.ring_len) {
                slot.set_ring(entry.ring, entry.ring_len);
                self.unlink(old);
            }
        }
        Ok(())
    }

    /// Writes the VIP's ring beside the one in force, unless that is the same; gives its place.
    fn place_ring<G: Grace>(
        &mut self,
        vip: &Vip,
        plan: &Plan,
        owner: u32,
        before: Option<Entry>,
        grace: &G,
        changes: &mut Changes,
    ) -> Result<(u32, u32), ControlError> {
        let key = vip_key(vip);
        let members = self.members(vip, plan, owner);
        if members.is_empty() {
            self.made.remove(&key);
            return Ok((0, 0));
        }
        let old = before.filter(|old| old.ring_len == vip.ring_size).map(|old| (old.ring, old.ring_len));
        if let Some(old) = old.filter(|_| self.made.get(&key) == Some(&members)) {
            return Ok(old);
        }
        let ring = members.build(plan.profile);
        if let Some(old) = old.filter(|(first, _)| rings::holds(&self.tables, *first, &ring)) {
            self.made.insert(key, members);
            return Ok(old);
        }
        let need = RingLine::lines(vip.ring_size);
        let first = match self.free_lines(need) {
            Some(first) => first,
            None => {
                // what this very plan unlinked may be enough
                self.wait(grace)?;
                self.pending.clear();
                self.free_lines(need).ok_or_else(|| self.rings_full(vip))?
            }
        };
        rings::write(&self.tables, first, &ring);
        self.made.insert(key, members);
        changes.rings += 1;
        Ok((first, vip.ring_size))
    }

    fn members(&self, vip: &Vip, plan: &Plan, owner: u32) -> rings::Members {
        rings::Members::of(vip, plan.profile, |address| self.reals.get(&(Some(owner), address)).copied())
    }

    /// Whether all rings of the plan find a place, one after the other, as [`Control::apply`] will place them.
    pub(super) fn check_rings(&self, plan: &Plan) -> Result<(), ControlError> {
        if self.made.is_empty() && !self.vips.is_empty() {
            // Another process made the rings: which of them stay is known only once they are built.
            return Ok(());
        }
        let entries = vip_table::vips(&self.tables).filter(|(_, entry)| entry.ring_len != 0);
        let mut linked: HashMap<VipKey, rings::Lines> =
            entries.map(|(key, entry)| (key, (entry.ring, RingLine::lines(entry.ring_len)))).collect();
        let (mut pending, total) = (self.pending.clone(), self.tables.sizes().ring_lines);
        for vip in &plan.vips {
            let (key, need) = (vip_key(vip), RingLine::lines(vip.ring_size));
            let is_same = self.vips.get(&key).is_some_and(|id| {
                let members = self.members(vip, plan, *id);
                // One that has no id yet is not among the members.
                plan.in_ring(vip).count() == members.len() && self.made.get(&key) == Some(&members)
            });
            if is_same && linked.contains_key(&key) {
                continue;
            }
            let place = |pending: &[rings::Lines]| {
                let mut taken: Vec<rings::Lines> = linked.values().chain(pending).copied().collect();
                rings::find_free(&mut taken, need, total)
            };
            let first = if plan.in_ring(vip).next().is_none() {
                None
            } else if let Some(first) = place(&pending) {
                Some(first)
            } else {
                pending.clear();
                Some(place(&[]).ok_or_else(|| self.rings_full(vip))?)
            };
            pending.extend(linked.remove(&key));
            linked.extend(first.map(|first| (key, (first, need))));
        }
        Ok(())
    }

    fn free_lines(&self, need: u32) -> Option<u32> {
        rings::find_free(&mut self.taken_lines(), need, self.tables.sizes().ring_lines)
    }

    fn taken_lines(&self) -> Vec<rings::Lines> {
        let linked = vip_table::vips(&self.tables).map(|(_, e)| (e.ring, RingLine::lines(e.ring_len)));
        linked.filter(|(_, lines)| *lines != 0).chain(self.pending.iter().copied()).collect()
    }

    fn rings_full(&self, vip: &Vip) -> ControlError {
        ControlError::RingsFull {
            vip: vip.to_string(),
            slots: vip.ring_size,
            lines: self.tables.sizes().ring_lines,
            taken: self.taken_lines().iter().map(|(_, lines)| lines).sum(),
        }
    }

    fn unlink(&mut self, old: Entry) {
        if old.ring_len != 0 {
            self.pending.push((old.ring, RingLine::lines(old.ring_len)));
        }
    }

    /// What is known of the addresses that have VIPs, or at which tunnels end.
    pub(super) fn apply_addresses<G: Grace>(&mut self, plan: &Plan, grace: &G) -> Result<(), ControlError> {
        let wanted = addresses(plan);
        for (key, known) in &wanted {
            let before = vip_table::slot(&self.tables, key).and_then(|slot| slot.entry()).map(|(_, entry)| entry);
            let entry = Entry { id: NO_VIP, flags: known.flags, ring: known.source, ring_len: 0 };
            self.put_entry(key, entry, before, grace)?;
        }
        for (key, _) in vip_table::addresses(&self.tables) {
            if let (false, Some(slot)) = (wanted.contains_key(&key), vip_table::slot(&self.tables, &key)) {
                slot.remove();
            }
        }
        Ok(())
    }

    pub(super) fn remove_vips(&mut self, plan: &Plan, changes: &mut Changes) {
        let wanted: HashSet<VipKey> = plan.vips.iter().map(vip_key).collect();
        let gone: Vec<VipKey> = self.vips.keys().filter(|key| !wanted.contains(*key)).copied().collect();
        for key in gone {
            if let Some(slot) = vip_table::slot(&self.tables, &key) {
                let old = slot.entry().map(|(_, entry)| entry);
                slot.remove();
                old.into_iter().for_each(|old| self.unlink(old));
            }
            log::debug!("{}: removed", key_name(&key));
            changes.vips_removed += 1;
        }
    }

    /// Frees the ids of the VIPs that [`Control::remove_vips`] took out: no frame is under way that knows them.
    pub(super) fn forget_removed_vips(&mut self) {
        let Self { vips, made, tables, .. } = self;
        vips.retain(|key, _| vip_table::slot(tables, key).is_some());
        made.retain(|key, _| vips.contains_key(key));
    }

    /// The VIP's flags, with the room of the largest real that its packets can go to. The reals are filled.
    fn entry_flags(&self, vip: &Vip, plan: &Plan, id: u32) -> u32 {
        let named = VipFlags::QUIC | VipFlags::UDP_STABLE_ROUTING | VipFlags::SOURCE_ROUTING;
        let others = vip.flags.intersects(named) || plan.tcp_server_id;
        let room = |owner, address: IpAddr, encap: Encap, inner| {
            let header = room_for(address.is_ipv6(), method(encap, inner));
            let real = self.reals.get(&(owner, address)).and_then(|real| self.tables.reals().get(usize::from(*real)));
            let vlan = real.map_or(0, |real| real.out().vlan);
            // Of frames without a tag, and with one.
            [leaving(0, vlan), leaving(PRESENT, vlan)].map(|tag| if tag == 0 { header } else { header + TAG_LEN as u8 })
        };
        let own = plan.kept(vip).map(|real| room(Some(id), real.address, real.encap, vip.geneve_inner));
        let unowned = plan.unowned_reals().filter(|_| others).map(|address| room(None, address, plan.encap, GeneveInner::Ip));
        let [plain, tagged] = own.chain(unowned).fold([0, 0], |[a, b], [plain, tagged]| [a.max(plain), b.max(tagged)]);
        let same = if tagged > plain { flags::SAME_TAG } else { 0 };
        let by_nat = |encap: Encap, address: IpAddr| match (encap, address) {
            (Encap::Nat, IpAddr::V4(_)) => flags::NAT_V4,
            (Encap::Nat, IpAddr::V6(_)) => flags::NAT_V6,
            _ => 0,
        };
        let own = plan.kept(vip).map(|real| by_nat(real.encap, real.address));
        let unowned = plan.unowned_reals().filter(|_| others).map(|address| by_nat(plan.encap, address));
        Entry::flags_with_room(own.chain(unowned).fold(bits(vip.flags) | same, |flags, flag| flags | flag), plain)
    }

    /// The lowest free id; in a group with a key of its own one that follows from the VIP, so that all of the group have the
    /// same as long as two VIPs do not fall together.
    fn new_vip_id(&self, plan: &Plan, key: &VipKey) -> Result<u32, ControlError> {
        let taken: HashSet<u32> = self.vips.values().copied().collect();
        let first = if plan.key_file.is_some() { fnv(key_name(key).into_bytes()) as u32 % MAX_VIPS } else { 0 };
        let free = (0..MAX_VIPS).map(|n| (first + n) % MAX_VIPS).find(|id| !taken.contains(id));
        let most = ControlError::TooManyVips { found: taken.len() + 1, most: MAX_VIPS };
        let id = free.ok_or(most)?;
        // Nobody counts under this id: its last bearer went with a grace period.
        self.clear_counters(vip_at(id), None);
        Ok(id)
    }
}

/// What is known of an address.
#[derive(Default)]
struct Known {
    flags: u32,
    /// Its index among the sources of NAT.
    source: u32,
}

/// The entry of each address that has VIPs, or at which tunnels end.
fn addresses(plan: &Plan) -> HashMap<VipKey, Known> {
    let vips = plan.vips.iter().filter(|vip| vip.prefix_len.is_none()).map(|vip| (vip.address, flags::HAS_VIPS));
    let decaps = plan.decaps.iter().map(|decap| match decap.then {
        Then::Balance => (decap.address, flags::DECAP),
        Then::Egress => (decap.address, flags::DECAP | flags::EGRESS),
    });
    let mut addresses = HashMap::new();
    for (address, flag) in vips.chain(decaps) {
        addresses.entry(VipKey::address(addr_words(address))).or_insert_with(Known::default).flags |= flag;
    }
    for (index, source) in (0..).zip(nat::sources(plan)) {
        let known = addresses.entry(VipKey::address(addr_words(source))).or_insert_with(Known::default);
        known.flags |= flags::NAT_SOURCE;
        known.source = index;
    }
    addresses
}

fn bits(of: VipFlags) -> u32 {
    let bit = |flag| match flag {
        VipFlags::NO_SOURCE_PORT => flags::NO_SOURCE_PORT,
        VipFlags::BYPASS_FLOW_TABLE => flags::BYPASS_FLOW_TABLE,
        VipFlags::QUIC => flags::QUIC,
        VipFlags::HASH_DPORT_ONLY => flags::HASH_DPORT_ONLY,
        VipFlags::SOURCE_ROUTING => flags::SOURCE_ROUTING,
        VipFlags::LOCAL => flags::LOCAL,
        VipFlags::GLOBAL_FLOW_TABLE => flags::GLOBAL_FLOW_TABLE,
        VipFlags::HASH_SRC_DST_PORT => flags::HASH_SRC_DST_PORT,
        VipFlags::UDP_STABLE_ROUTING => flags::UDP_STABLE_ROUTING,
        VipFlags::UDP_FLOW_MIGRATION => flags::UDP_FLOW_MIGRATION,
        _ => 0,
    };
    of.iter().map(bit).fold(0, |bits, bit| bits | bit)
}
