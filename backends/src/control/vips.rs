//! The VIPs of a plan, and what is known of addresses: their entries in the VIP table.

use std::net::IpAddr;

use hashbrown::{HashMap, HashSet};
use tandem_engine::memory::vips as flags;
use tandem_engine::memory::{Line, Vip as Entry, VipKey};
use tandem_engine::vlan::{PRESENT, leaving};
use tandem_engine::wire::TAG_LEN;
use tandem_engine::{NO_VIP, room_for};

use super::apply::{Changes, Control, Scene};
use super::error::ControlError;
use super::grace::Grace;
use super::numbers::Numbers;
use super::reals::{in_order, method, unowned};
use super::rings::{self, Members};
use super::vip_table::{self, Inserted};
use super::{addr_words, fnv, key_name, nat, vip_key};
use crate::config::{Encap, GeneveInner, Plan, Then, Vip, VipFlags};

/// What the reals that belong to no VIP ask of the VIPs whose packets may go to them.
#[derive(Clone, Copy, Default)]
pub(super) struct Needs {
    /// Bytes of the largest outer header: of frames without a tag, and with one.
    room: [u8; 2],
    /// What flags the VIP has for their methods.
    flags: u32,
}

impl Needs {
    fn and(self, other: Self) -> Self {
        let [a, b] = self.room;
        let [c, d] = other.room;
        Self { room: [a.max(c), b.max(d)], flags: self.flags | other.flags }
    }
}

impl Control {
    pub(super) fn apply_vip<G: Grace>(
        &mut self,
        vip: &Vip,
        scene: &Scene<'_>,
        grace: &G,
        changes: &mut Changes,
    ) -> Result<(), ControlError> {
        let key = vip_key(vip);
        let known = self.vips.get(&key).copied();
        let id = match known {
            Some(id) => id,
            None => self.new_vip(vip, scene.plan, &key)?,
        };
        changes.reals_added += self.fill_reals(vip, scene, id);
        let before = vip_table::slot(&self.tables, &key).and_then(|slot| slot.entry()).map(|(_, entry)| entry);
        let (ring, ring_len) = self.place_ring(vip, scene.plan, id, before, grace, changes)?;
        let first = self.numbers.first(id);
        self.put_entry(&key, Entry { id, flags: self.entry_flags(vip, scene, id), ring, ring_len, first }, before, grace)?;
        changes.vips_added += u32::from(before.is_none());
        Ok(())
    }

    /// Makes the VIP table say this; `before` is what it says now.
    fn put_entry<G: Grace>(&mut self, key: &VipKey, entry: Entry, before: Option<Entry>, grace: &G) -> Result<(), ControlError> {
        let Some(old) = before else {
            self.link(entry);
            return match vip_table::insert(&self.tables, key, entry) {
                Inserted::InPlace => Ok(()),
                // the half before may be written to only when nobody reads it any more
                Inserted::Rebuilt => self.wait(grace),
                Inserted::Full => {
                    self.unlink(entry);
                    Err(ControlError::VipTableFull { vip: key_name(key) })
                }
            };
        };
        if let Some(slot) = vip_table::slot(&self.tables, key) {
            if old.flags != entry.flags {
                slot.set_what(entry);
            }
            if (old.ring, old.ring_len) != (entry.ring, entry.ring_len) {
                slot.set_ring(entry.ring, entry.ring_len);
                self.link(entry);
                self.unlink(old);
            }
        }
        Ok(())
    }

    /// Writes the VIP's ring beside the one in force, unless that is the same or another VIP has such a one; gives its place.
    fn place_ring<G: Grace>(
        &mut self,
        vip: &Vip,
        plan: &Plan,
        owner: u32,
        before: Option<Entry>,
        grace: &G,
        changes: &mut Changes,
    ) -> Result<(u32, u32), ControlError> {
        let members = self.members(vip, plan, owner);
        if members.is_empty() {
            return Ok((0, 0));
        }
        let size = vip.ring_size;
        let old = before.filter(|old| old.ring_len == size).map(|old| old.ring);
        if let Some(first) = self.rings.find(&members) {
            changes.rings += u32::from(old != Some(first));
            return Ok((first, size));
        }
        let ring = members.build(plan.profile);
        // Of a process before this one.
        if let Some(first) = old.filter(|first| rings::holds(&self.tables, *first, &ring)) {
            self.rings.learn(first, members);
            return Ok((first, size));
        }
        let first = match self.rings.take(&members) {
            Some(first) => first,
            None => {
                // what this very plan unlinked may be enough
                self.wait(grace)?;
                self.rings.reuse();
                self.rings.take(&members).ok_or_else(|| self.rings_full(vip))?
            }
        };
        rings::write(&self.tables, first, &ring);
        changes.rings += 1;
        Ok((first, size))
    }

    fn members(&self, vip: &Vip, plan: &Plan, owner: u32) -> Members {
        let number = |address| self.numbers.number(owner, *self.reals.get(&(Some(owner), address))?);
        Members::of(vip, plan.profile, number)
    }

    /// What the rings of a plan are made of, with the ids that [`Control::apply`] will give to what is new.
    ///
    /// # Errors
    /// [`ControlError::TooManyReals`].
    pub(super) fn planned_members(&self, plan: &Plan) -> Result<Vec<Members>, ControlError> {
        let mut numbers: Numbers = self.numbers.clone();
        let mut found = self.reals.len();
        let mut take = |numbers: &mut Numbers, owner| {
            found += 1;
            let most = self.tables.extent().reals - 1;
            numbers.take(owner).ok_or(ControlError::TooManyReals { found, most })
        };
        for address in unowned(plan) {
            if !self.reals.contains_key(&(None, address)) {
                take(&mut numbers, None)?;
            }
        }
        let (mut members, mut new_vip) = (Vec::with_capacity(plan.vips.len()), u32::MAX);
        for vip in &plan.vips {
            let known = self.vips.get(&vip_key(vip)).copied();
            let id = known.unwrap_or_else(|| {
                // Nobody has such an id.
                new_vip -= 1;
                numbers.open(new_vip, plan.kept(vip).count());
                new_vip
            });
            let mut given = HashMap::new();
            for real in in_order(plan, vip) {
                let known = self.reals.get(&(known, real.address)).filter(|_| known.is_some()).copied();
                let at = match known {
                    Some(at) => at,
                    None => take(&mut numbers, Some(id))?,
                };
                given.insert(real.address, numbers.number(id, at));
            }
            members.push(Members::of(vip, plan.profile, |address| given.get(&address).copied().flatten()));
        }
        Ok(members)
    }

    /// Whether all rings of the plan find a place, one after the other, as [`Control::apply`] will place them.
    pub(super) fn check_rings(&self, plan: &Plan, members: &[Members]) -> Result<(), ControlError> {
        if !self.rings.is_known() {
            // Another process made the rings: which of them stay is known only once they are built.
            return Ok(());
        }
        let linked: HashMap<VipKey, u32> = vip_table::vips(&self.tables).map(|(key, entry)| (key, entry.ring)).collect();
        let mut rings = self.rings.clone();
        for (vip, members) in plan.vips.iter().zip(members) {
            let before = linked.get(&vip_key(vip)).copied();
            let first = if members.is_empty() {
                0
            } else if let Some(first) = rings.find(members) {
                first
            } else if let Some(first) = rings.take(members) {
                first
            } else {
                rings.reuse();
                rings.take(members).ok_or_else(|| self.rings_full(vip))?
            };
            if before != Some(first) {
                rings.link(first);
                before.into_iter().for_each(|before| rings.unlink(before));
            }
        }
        Ok(())
    }

    fn rings_full(&self, vip: &Vip) -> ControlError {
        ControlError::RingsFull {
            vip: vip.to_string(),
            slots: vip.ring_size,
            lines: self.tables.sizes().ring_lines,
            taken: self.rings.taken(),
        }
    }

    fn link(&mut self, entry: Entry) {
        // What an address has in the place of a ring has no length.
        if entry.ring_len != 0 {
            self.rings.link(entry.ring);
        }
    }

    fn unlink(&mut self, old: Entry) {
        if old.ring_len != 0 {
            self.rings.unlink(old.ring);
        }
    }

    /// What is known of the addresses that have VIPs, or at which tunnels end.
    pub(super) fn apply_addresses<G: Grace>(&mut self, plan: &Plan, grace: &G) -> Result<(), ControlError> {
        let wanted = addresses_of(plan);
        for (key, known) in &wanted {
            let before = vip_table::slot(&self.tables, key).and_then(|slot| slot.entry()).map(|(_, entry)| entry);
            let entry = Entry { id: NO_VIP, flags: known.flags, ring: known.source, ..Entry::default() };
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
        let Self { vips, vip_ids, numbers, tables, .. } = self;
        vips.retain(|key, id| {
            let stays = vip_table::slot(tables, key).is_some();
            if !stays {
                numbers.close(*id);
                vip_ids.give(*id, 1);
            }
            stays
        });
    }

    /// What reals ask of a VIP: `owner` names them, with their addresses, methods and what is inside.
    fn needs(&self, owner: Option<u32>, address: IpAddr, encap: Encap, inner: GeneveInner) -> Needs {
        let header = room_for(address.is_ipv6(), method(encap, inner));
        let real = self.reals.get(&(owner, address)).and_then(|real| self.tables.reals().get(*real as usize));
        let vlan = real.map_or(0, |real| real.out().vlan);
        // Of frames without a tag, and with one.
        let room = [leaving(0, vlan), leaving(PRESENT, vlan)].map(|tag| if tag == 0 { header } else { header + TAG_LEN as u8 });
        let flags = match (encap, address) {
            (Encap::Nat, IpAddr::V4(_)) => flags::NAT_V4,
            (Encap::Nat, IpAddr::V6(_)) => flags::NAT_V6,
            _ => 0,
        };
        Needs { room, flags }
    }

    /// The same of all that belong to no VIP. They are filled.
    pub(super) fn needs_of_unowned(&self, plan: &Plan) -> Needs {
        let each = unowned(plan).into_iter().map(|address| self.needs(None, address, plan.encap, GeneveInner::Ip));
        each.fold(Needs::default(), Needs::and)
    }

    /// The VIP's flags, with the room of the largest real that its packets can go to. The reals are filled.
    fn entry_flags(&self, vip: &Vip, scene: &Scene<'_>, id: u32) -> u32 {
        let named = VipFlags::QUIC | VipFlags::UDP_STABLE_ROUTING | VipFlags::SOURCE_ROUTING;
        let others = vip.flags.intersects(named) || scene.plan.tcp_server_id;
        let own = scene.plan.kept(vip).map(|real| self.needs(Some(id), real.address, real.encap, vip.geneve_inner));
        let needs = own.fold(if others { scene.unowned } else { Needs::default() }, Needs::and);
        let [plain, tagged] = needs.room;
        let same = if tagged > plain { flags::SAME_TAG } else { 0 };
        let prefix = if vip.prefix_len.is_some() { flags::PREFIX } else { 0 };
        Entry::flags_with_room(bits(vip.flags) | same | prefix | needs.flags, plain)
    }

    /// An id for a new VIP, and ids for its reals. The VIP's is the lowest free one; in a group with a key of its own one that
    /// follows from the VIP, so that all of the group have the same as long as two VIPs do not fall together.
    fn new_vip(&mut self, vip: &Vip, plan: &Plan, key: &VipKey) -> Result<u32, ControlError> {
        let most = self.tables.extent().vips;
        let first = if plan.key_file.is_some() { fnv(key_name(key).into_bytes()) as u32 % most } else { 0 };
        let id = self.vip_ids.take_within(first..most).or_else(|| self.vip_ids.take_within(0..first));
        let id = id.ok_or(ControlError::TooManyVips { found: self.vips.len() + 1, most })?;
        self.numbers.open(id, plan.kept(vip).count());
        self.vips.insert(*key, id);
        // Nobody counts under this id: its last bearer went with a grace period.
        for block in 0..self.tables.blocks() {
            self.tables.vip_count(block, id).into_iter().for_each(Line::clear);
        }
        Ok(id)
    }
}

/// What is known of an address.
#[derive(Default)]
pub(super) struct Known {
    flags: u32,
    /// Its index among the sources of NAT.
    source: u32,
}

/// The entry of each address that has VIPs, or at which tunnels end.
pub(super) fn addresses_of(plan: &Plan) -> HashMap<VipKey, Known> {
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

/// The flags of a configured VIP, as its entry has them.
pub(super) fn bits(of: VipFlags) -> u32 {
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
