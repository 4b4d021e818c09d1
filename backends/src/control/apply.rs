//! A plan, applied.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use tandem_engine::memory::counters::{real_at, vip_at};
use tandem_engine::memory::reals::{MAX_REALS, Method};
use tandem_engine::memory::root::LAYOUT;
use tandem_engine::memory::vips::{BYPASS_FLOW_TABLE, MAX_VIPS, NO_SOURCE_PORT};
use tandem_engine::memory::{RingLine, Vip as Entry, VipKey};
use tandem_engine::room_for;
use tandem_engine::wire::mac_word;

use super::host::{Facts, Hops};
use super::vip_table::{self, Inserted};
use super::{addr_words, key_name, rings, vip_key, words_addr};
use crate::config::{Plan, RealState, Vip};
use crate::memory::Tables;

/// Waits until every reader that may still hold what was unlinked has passed.
pub trait Grace {
    /// `false`: not all have passed; nothing may be used again.
    fn wait(&self) -> bool;
}

/// For tables that nobody reads meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct NoGrace;

impl Grace for NoGrace {
    fn wait(&self) -> bool {
        true
    }
}

/// Waits for the kernel seat: XDP programs run inside RCU read-side sections.
#[derive(Clone, Copy, Debug)]
pub struct KernelGrace;

impl Grace for KernelGrace {
    fn wait(&self) -> bool {
        // MEMBARRIER_CMD_GLOBAL waits for an RCU grace period (kernel/sched/membarrier.c).
        // SAFETY: the command takes no pointers.
        let done = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
        if done != 0 {
            // Not there with nohz_full. A program runs for microseconds; this is ten thousand times that.
            std::thread::sleep(Duration::from_millis(100));
        }
        true
    }
}

/// Why a plan was not applied. Too many VIPs or reals are found before anything is written; with the others the VIPs that come
/// before the one that is named are in force already, each of them whole.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ControlError {
    /// More ring lines than the tables have.
    #[error(
        "{vip}: its ring of {slots} slots does not fit into the ring memory ({lines} lines of 32 slots, {taken} taken); \
         restart with `tandem detach` before, so that it is made larger (flows are lost), or make rings smaller"
    )]
    RingsFull {
        /// The VIP.
        vip: String,
        /// Slots of its ring.
        slots: u32,
        /// Lines in all.
        lines: u32,
        /// Lines in use.
        taken: u32,
    },
    /// More pairs of VIP and real than ids.
    #[error("{found} reals over all VIPs, the tables hold {most}")]
    TooManyReals {
        /// Found.
        found: usize,
        /// Limit.
        most: u32,
    },
    /// More VIPs than ids.
    #[error("{found} VIPs, the tables hold {most}")]
    TooManyVips {
        /// Found.
        found: usize,
        /// Limit.
        most: u32,
    },
    /// The VIP table has no place for the key under any seed.
    #[error("{vip}: the VIP table has no place for it")]
    VipTableFull {
        /// The VIP.
        vip: String,
    },
    /// A worker hangs.
    #[error("a worker did not let go of the old tables within its time; what was removed stays reserved")]
    NoGrace,
    /// The tables belong to another version.
    #[error(
        "the tables have layout {found:#x}, this version has {LAYOUT:#x}; `tandem detach` removes them (their flows are lost)"
    )]
    Layout {
        /// Found.
        found: u32,
    },
}

/// What applying a plan did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Changes {
    /// VIPs that are new.
    pub vips_added: u32,
    /// VIPs that are gone.
    pub vips_removed: u32,
    /// Reals (of a VIP) that are new.
    pub reals_added: u32,
    /// Reals (of a VIP) that are gone or down.
    pub reals_removed: u32,
    /// Rings that were published.
    pub rings: u32,
    /// Flows that were forgotten because their real is gone.
    pub flows_forgotten: u64,
}

/// The writer of the tables. One process has one.
#[derive(Debug)]
pub struct Control {
    tables: Arc<Tables>,
    /// Id of each VIP, and of each of its reals.
    vips: HashMap<VipKey, u32>,
    reals: HashMap<(u32, IpAddr), u16>,
    /// Unlinked ring lines that a reader may still hold.
    pending: Vec<rings::Lines>,
}

impl Control {
    /// Takes the tables over as they are: new ones, or what another process left.
    ///
    /// # Errors
    /// [`ControlError::Layout`].
    pub fn adopt(tables: Arc<Tables>) -> Result<Self, ControlError> {
        let found = tables.root().layout.get();
        if found != 0 && found != LAYOUT {
            return Err(ControlError::Layout { found });
        }
        let vips = vip_table::entries(&tables).into_iter().map(|(key, vip)| (key, vip.id)).collect();
        let reals = tables.reals().iter().enumerate().filter_map(|(id, real)| {
            let hop = real.hop();
            let owner = hop.is_present().then(|| real.owner())??;
            Some(((owner, words_addr(real.addr(), hop.is_v6())), id as u16))
        });
        let reals = reals.collect();
        Ok(Self { tables, vips, reals, pending: Vec::new() })
    }

    /// Whether the tables were in use before.
    pub fn is_configured(&self) -> bool {
        self.tables.root().layout.get() == LAYOUT
    }

    /// The tables.
    pub fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    /// The id of a VIP's real.
    pub fn real_id(&self, vip: &Vip, address: IpAddr) -> Option<u16> {
        let owner = *self.vips.get(&vip_key(vip))?;
        self.reals.get(&(owner, address)).copied()
    }

    /// Makes the tables say what the plan says.
    ///
    /// # Errors
    /// [`ControlError`]: the plan does not fit.
    pub fn apply<G: Grace>(&mut self, plan: &Plan, facts: &Facts, grace: &G) -> Result<Changes, ControlError> {
        self.check(plan)?;
        let mut changes = Changes::default();
        let tables = self.tables.clone();
        let root = tables.root();
        if !self.is_configured() {
            for (cell, word) in root.key.iter().zip(facts.key) {
                cell.set(word);
            }
            root.flow_mask.set(tables.sizes().flow_sets - 1);
            vip_table::initialise(root);
        }
        facts.write(plan, root);
        root.any_port.set(u32::from(plan.vips.iter().any(|vip| vip.port == 0)).max(root.any_port.get()));
        for vip in &plan.vips {
            self.apply_vip(vip, &facts.hops, grace, &mut changes)?;
        }
        self.remove_vips(plan, &mut changes);
        root.any_port.set(u32::from(plan.vips.iter().any(|vip| vip.port == 0)));
        self.reclaim(plan, grace, &mut changes)?;
        root.layout.publish(LAYOUT);
        Ok(changes)
    }

    /// What can be known before anything is written.
    fn check(&self, plan: &Plan) -> Result<(), ControlError> {
        if plan.vips.len() > MAX_VIPS as usize {
            return Err(ControlError::TooManyVips { found: plan.vips.len(), most: MAX_VIPS });
        }
        // Ids of reals that go are free again only after this plan is in force.
        let wanted: HashSet<(VipKey, IpAddr)> =
            plan.vips.iter().flat_map(|vip| kept(vip).map(|real| (vip_key(vip), real))).collect();
        let new =
            wanted.iter().filter(|(key, real)| self.vips.get(key).is_none_or(|owner| !self.reals.contains_key(&(*owner, *real))));
        let found = self.reals.len() + new.count();
        if found >= MAX_REALS as usize {
            return Err(ControlError::TooManyReals { found, most: MAX_REALS - 1 });
        }
        Ok(())
    }

    fn apply_vip<G: Grace>(&mut self, vip: &Vip, hops: &Hops, grace: &G, changes: &mut Changes) -> Result<(), ControlError> {
        let key = vip_key(vip);
        let known = self.vips.get(&key).copied();
        let id = match known {
            Some(id) => id,
            None => self.new_vip_id()?,
        };
        changes.reals_added += self.fill_reals(vip, id, hops);
        let before = vip_table::slot(&self.tables, &key).and_then(|slot| slot.entry()).map(|(_, entry)| entry);
        let (ring, ring_len) = self.place_ring(vip, id, before, grace, changes)?;
        let entry = Entry { id, flags: flags(vip), ring, ring_len };
        match before {
            Some(old) => {
                if let Some(slot) = vip_table::slot(&self.tables, &key) {
                    if old.flags != entry.flags {
                        slot.set_what(entry);
                    }
                    if (old.ring, old.ring_len) != (ring, ring_len) {
                        slot.set_ring(ring, ring_len);
                        self.unlink(old);
                    }
                }
            }
            None => {
                match vip_table::insert(&self.tables, &key, entry) {
                    Inserted::InPlace => {}
                    // the half before may be written to only when nobody reads it any more
                    Inserted::Rebuilt => self.wait(grace)?,
                    Inserted::Full => return Err(ControlError::VipTableFull { vip: vip.to_string() }),
                }
                self.vips.insert(key, id);
                changes.vips_added += 1;
            }
        }
        Ok(())
    }

    /// Fills the entries of the VIP's reals that have none yet, and renews the next hops of the others.
    fn fill_reals(&mut self, vip: &Vip, owner: u32, hops: &Hops) -> u32 {
        let mut added = 0;
        for address in kept(vip) {
            let mac = hops.get(&address).copied().flatten().map(|mac| mac_word(mac.0));
            if let Some(id) = self.reals.get(&(owner, address)) {
                if let Some(real) = self.tables.reals().get(usize::from(*id)) {
                    real.set_mac(mac);
                }
                continue;
            }
            let free = self.tables.reals().iter().enumerate().skip(1).find(|(_, real)| !real.hop().is_present());
            if let Some((id, real)) = free {
                self.clear_counters(real_at(id as u32).0, Some(real_at(id as u32).1));
                real.fill(Some(owner), addr_words(address), address.is_ipv6(), (Method::Ipip, false), mac);
                self.reals.insert((owner, address), id as u16);
                added += 1;
            }
        }
        added
    }

    /// Writes the VIP's ring beside the one in force, unless that is the same; gives its place.
    fn place_ring<G: Grace>(
        &mut self,
        vip: &Vip,
        owner: u32,
        before: Option<Entry>,
        grace: &G,
        changes: &mut Changes,
    ) -> Result<(u32, u32), ControlError> {
        let Some(ring) = rings::build(vip, |address| self.reals.get(&(owner, address)).copied()) else { return Ok((0, 0)) };
        if let Some(old) = before
            && old.ring_len == vip.ring_size
            && rings::holds(&self.tables, old.ring, &ring)
        {
            return Ok((old.ring, old.ring_len));
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
        changes.rings += 1;
        Ok((first, vip.ring_size))
    }

    fn free_lines(&self, need: u32) -> Option<u32> {
        rings::find_free(&mut self.taken_lines(), need, self.tables.sizes().ring_lines)
    }

    fn taken_lines(&self) -> Vec<rings::Lines> {
        let linked = vip_table::entries(&self.tables).into_iter().map(|(_, e)| (e.ring, RingLine::lines(e.ring_len)));
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

    fn remove_vips(&mut self, plan: &Plan, changes: &mut Changes) {
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

    /// Frees what nobody names any more, in this order:
    ///
    /// 1. wait: no frame is under way that read an old ring, so no new flow will name a real that is gone;
    /// 2. forget the flows that do;
    /// 3. wait: no frame is under way that found such a flow before;
    /// 4. free the ids.
    fn reclaim<G: Grace>(&mut self, plan: &Plan, grace: &G, changes: &mut Changes) -> Result<(), ControlError> {
        let wanted: HashMap<VipKey, HashSet<IpAddr>> = plan.vips.iter().map(|vip| (vip_key(vip), kept(vip).collect())).collect();
        let gone = self.gone(&wanted);
        if gone.is_empty() && self.pending.is_empty() && changes.vips_removed == 0 {
            return Ok(());
        }
        self.wait(grace)?;
        self.pending.clear();
        if !gone.is_empty() {
            changes.flows_forgotten += self.forget(|id| gone.contains_key(&id));
            self.wait(grace)?;
        }
        for (id, pair) in &gone {
            if let Some(real) = self.tables.reals().get(usize::from(*id)) {
                real.clear();
            }
            self.reals.remove(pair);
        }
        self.vips.retain(|key, _| wanted.contains_key(key));
        changes.reals_removed += gone.len() as u32;
        Ok(())
    }

    /// The reals that no VIP of the plan keeps, by id.
    fn gone(&self, wanted: &HashMap<VipKey, HashSet<IpAddr>>) -> HashMap<u16, (u32, IpAddr)> {
        let owners: HashMap<u32, &HashSet<IpAddr>> =
            self.vips.iter().filter_map(|(key, id)| Some((*id, wanted.get(key)?))).collect();
        let is_gone = |(owner, address): &(u32, IpAddr)| owners.get(owner).is_none_or(|reals| !reals.contains(address));
        self.reals.iter().filter(|(pair, _)| is_gone(pair)).map(|(pair, id)| (*id, *pair)).collect()
    }

    fn forget(&self, gone: impl Fn(u16) -> bool) -> u64 {
        self.tables.flows().iter().map(|set| u64::from(set.forget(&gone))).sum()
    }

    fn wait<G: Grace>(&self, grace: &G) -> Result<(), ControlError> {
        if grace.wait() { Ok(()) } else { Err(ControlError::NoGrace) }
    }

    fn new_vip_id(&self) -> Result<u32, ControlError> {
        let taken: HashSet<u32> = self.vips.values().copied().collect();
        let free = (0..MAX_VIPS).find(|id| !taken.contains(id));
        let most = ControlError::TooManyVips { found: taken.len() + 1, most: MAX_VIPS };
        let id = free.ok_or(most)?;
        // Nobody counts under this id: its last bearer went with a grace period.
        self.clear_counters(vip_at(id), None);
        Ok(id)
    }

    /// Sets a line of counters to 0 in every block; of a real's line only its own pair.
    fn clear_counters(&self, line: u32, pair: Option<usize>) {
        for block in 0..self.tables.blocks() {
            let Some(line) = self.tables.block(block).get(line as usize) else { continue };
            match pair {
                Some(first) => [first, first + 1].into_iter().for_each(|i| line.add(i, line.get(i).wrapping_neg())),
                None => line.clear(),
            }
        }
    }

    /// Renews the next hops of all reals; gives the number of reals whose entry changed.
    pub fn set_hops(&self, hops: &Hops) -> usize {
        let mut changed = 0;
        for ((_, address), id) in &self.reals {
            let (Some(real), Some(mac)) = (self.tables.reals().get(usize::from(*id)), hops.get(address)) else { continue };
            let word = mac.map(|mac| mac_word(mac.0));
            let hop = real.hop();
            if word != hop.is_resolved().then(|| hop.mac()) {
                real.set_mac(word);
                changed += 1;
            }
        }
        changed
    }
}

/// The reals of a VIP that keep or get flows: the others' flows go to other reals.
fn kept(vip: &Vip) -> impl Iterator<Item = IpAddr> + '_ {
    vip.reals.iter().filter(|real| real.state != RealState::Down).map(|real| real.address)
}

/// The VIP's flags, with the room of its largest real.
fn flags(vip: &Vip) -> u32 {
    let room = kept(vip).map(|address| room_for(address.is_ipv6(), false)).max().unwrap_or(room_for(false, false));
    let port = if vip.no_source_port { NO_SOURCE_PORT } else { 0 };
    let table = if vip.bypass_flow_table { BYPASS_FLOW_TABLE } else { 0 };
    Entry::flags_with_room(port | table, room)
}
