//! The reals of a plan, each with an id of its own: one for every VIP that has it, and one for all that has no VIP.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hashbrown::{HashMap, HashSet};
use tandem_engine::memory::Real as Entry;
use tandem_engine::memory::reals::{Method, Way};
use tandem_engine::memory::shared::S64;
use tandem_engine::memory::{FlowSet, VipKey, flows};
use tandem_engine::overhead;
use tandem_engine::wire::{Ethernet, mac_word};

use super::apply::{Changes, Control, Scene};
use super::error::ControlError;
use super::grace::Grace;
use super::host::{Hops, Reached};
use super::{addr_words, nat, vip_key};
use crate::config::{Encap, GeneveInner, OnRemoval, Plan, Real, Vip};

/// A real of a VIP, or of none.
pub(super) type Owned = (Option<VipKey>, IpAddr);

/// The reals that keep or get flows: the flows of others go to other reals.
pub(super) fn wanted(plan: &Plan) -> HashSet<Owned> {
    let of = |vip| plan.kept(vip).map(move |real| (Some(vip_key(vip)), real.address));
    plan.vips.iter().flat_map(of).chain(plan.unowned_reals().map(|address| (None, address))).collect()
}

/// The reals that belong to no VIP, in the order that they are given ids in: so that the same plan gives the same everywhere.
pub(super) fn unowned(plan: &Plan) -> BTreeSet<IpAddr> {
    plan.unowned_reals().collect()
}

/// The reals of a VIP that keep or get flows, in the order that they are given ids in, however they are listed.
pub(super) fn in_order<'p>(plan: &'p Plan, vip: &'p Vip) -> Vec<&'p Real> {
    let mut reals: Vec<&Real> = plan.kept(vip).collect();
    reals.sort_unstable_by_key(|real| real.address);
    reals
}

pub(super) fn method(encap: Encap, inner: GeneveInner) -> Method {
    match (encap, inner) {
        (Encap::Ipip, _) => Method::Ipip,
        (Encap::Gue, _) => Method::Gue,
        (Encap::Gue0, _) => Method::Gue0,
        (Encap::Gre, _) => Method::Gre,
        (Encap::Fou, _) => Method::Fou,
        (Encap::Geneve, GeneveInner::Ip) => Method::Geneve,
        (Encap::Geneve, GeneveInner::Ethernet) => Method::GeneveEthernet,
        (Encap::L2, _) => Method::L2,
        (Encap::Nat, _) => Method::Nat,
    }
}

/// UDP destination ports for an IPv4 packet inside, and for an IPv6 packet.
fn ports(plan: &Plan, method: Method) -> [u16; 2] {
    match method {
        Method::Ipip | Method::Gre | Method::L2 | Method::Nat => [0, 0],
        Method::Gue | Method::Gue0 => [plan.gue_port; 2],
        Method::Fou => plan.fou_ports,
        Method::Geneve | Method::GeneveEthernet => [plan.geneve_port; 2],
    }
}

fn way_to(plan: &Plan, vip: &Vip, real: &Real, local: bool) -> Way {
    let method = method(real.encap, vip.geneve_inner);
    let inner_mac = real.inner_mac.map_or(0, |mac| mac_word(mac.0));
    let ports = real.port.map_or_else(|| ports(plan, method), |port| [port, 0]);
    Way { method, local, vni: vip.vni, ports, inner_mac }
}

/// The addresses of this host: which real that is does not depend on who names it.
pub(super) fn local(plan: &Plan) -> HashSet<IpAddr> {
    let reals = plan.vips.iter().flat_map(|vip| &vip.reals);
    reals.filter(|real| real.local).map(|real| real.address).collect()
}

/// Makes the entry say this, the MAC last; `true`: it said something else. `accepted`: the largest packet of a client's.
fn reach(real: &Entry, reached: Option<Reached>, accepted: u32) -> bool {
    let (before, hop) = ((real.out(), real.from()), real.hop());
    let Some(Reached { mac, out, from }) = reached else {
        real.set_mac(None);
        return hop.is_resolved();
    };
    let word = mac_word(mac.0);
    let narrow = out.mtu != 0 && u32::from(out.mtu) < accepted + overhead(hop, false);
    if hop.is_resolved() && hop.mac() == word && before == (out, from) && hop.is_narrow() == narrow {
        return false;
    }
    real.set_out(out, from);
    real.set_narrow(narrow);
    real.set_mac(Some(word));
    true
}

impl Control {
    /// Fills the entries of the VIP's reals that have none yet, and renews ways and next hops of the others.
    pub(super) fn fill_reals(&mut self, vip: &Vip, scene: &Scene<'_>, owner: u32) -> u32 {
        let way = |real: &Real| way_to(scene.plan, vip, real, scene.local.contains(&real.address));
        let reals = in_order(scene.plan, vip).into_iter();
        reals.map(|real| self.fill(Some(owner), real.address, &way(real), scene.hops)).sum()
    }

    /// The same for the reals that belong to no VIP.
    pub(super) fn fill_unowned(&mut self, scene: &Scene<'_>) -> u32 {
        let plan = scene.plan;
        let encaps = plan.encaps_of_unowned();
        let way = |address| {
            let method = method(encaps.get(&address).copied().unwrap_or(plan.encap), GeneveInner::Ip);
            Way { local: scene.local.contains(&address), ports: ports(plan, method), ..Way::by(method) }
        };
        unowned(plan).into_iter().map(|address| self.fill(None, address, &way(address), scene.hops)).sum()
    }

    /// `1`: it is new.
    fn fill(&mut self, owner: Option<u32>, address: IpAddr, way: &Way, hops: &Hops) -> u32 {
        let (reached, accepted) = (hops.get(&address).copied().flatten(), self.accepted());
        if let Some(id) = self.reals.get(&(owner, address)) {
            if let Some(real) = self.tables.reals().get(*id as usize) {
                real.set_way(way);
                reach(real, reached, accepted);
            }
            return 0;
        }
        // There is one: `check` has tried.
        let Some(id) = self.numbers.take(owner) else { return 0 };
        let Some(real) = self.tables.reals().get(id as usize) else { return 0 };
        // Nobody counts under this id: its last bearer went with a grace period.
        let lines = (0..self.tables.blocks()).filter_map(|block| self.tables.real_count(block, id));
        lines.flatten().for_each(|counter: &S64| counter.set(0));
        real.fill(owner, addr_words(address), address.is_ipv6(), way, None);
        reach(real, reached, accepted);
        self.reals.insert((owner, address), id);
        1
    }

    /// The largest packet of a client's.
    fn accepted(&self) -> u32 {
        self.tables.root().max_frame.get().saturating_sub(Ethernet::LEN as u32)
    }

    /// Renews the next hops of all reals; gives the number of reals whose entry changed.
    pub fn set_hops(&self, hops: &Hops) -> usize {
        let mut changed = 0;
        for ((_, address), id) in &self.reals {
            let (Some(real), Some(reached)) = (self.tables.reals().get(*id as usize), hops.get(address)) else { continue };
            if real.hop().is_gone() {
                continue;
            }
            changed += usize::from(reach(real, *reached, self.accepted()));
        }
        changed
    }

    /// Frees what nobody names any more, in this order:
    ///
    /// 1. wait: no frame is under way that read an old ring, so no new flow will name a real that is gone;
    /// 2. forget the flows that do;
    /// 3. wait: no frame is under way that found such a flow before;
    /// 4. look again: such a frame may have entered its packet's fragments, or a connection of NAT; if so, from 2 on once more;
    /// 5. free the ids.
    pub(super) fn reclaim<G: Grace>(
        &mut self,
        wanted: &HashSet<Owned>,
        plan: &Plan,
        grace: &G,
        changes: &mut Changes,
    ) -> Result<(), ControlError> {
        let mut gone = self.gone(wanted);
        let staying = self.stay(&mut gone, plan);
        changes.reals_removed += staying;
        if gone.is_empty() && !self.rings.is_pending() && changes.vips_removed == 0 {
            return Ok(());
        }
        self.wait(grace)?;
        self.rings.reuse();
        if !gone.is_empty() {
            changes.flows_forgotten += self.free(&gone, grace)?;
        }
        changes.reals_removed += gone.len() as u32;
        self.forget_removed_vips();
        Ok(())
    }

    /// Forgets the flows of reals that no new flow will name, and frees their ids; gives the number of flows.
    fn free<G: Grace>(&mut self, gone: &HashMap<u32, (Option<u32>, IpAddr)>, grace: &G) -> Result<u64, ControlError> {
        let (mut forgotten, mut rounds) = (0, 0);
        loop {
            let flows = self.forget(|id| gone.contains_key(&id));
            let connections = nat::forget(&self.tables, |id| gone.contains_key(&id));
            if rounds > 0 && flows + connections == 0 {
                break;
            }
            (forgotten, rounds) = (forgotten + flows, rounds + 1);
            self.wait(grace)?;
        }
        for (id, pair) in gone {
            if let Some(real) = self.tables.reals().get(*id as usize) {
                real.clear();
            }
            self.reals.remove(pair);
            self.staying.remove(id);
            self.numbers.give(pair.0, *id);
        }
        Ok(forgotten)
    }

    /// Takes out of `gone` the reals whose flows stay, or are dropped, because their VIP says so; gives the number of those for
    /// which that is new.
    fn stay(&mut self, gone: &mut HashMap<u32, (Option<u32>, IpAddr)>, plan: &Plan) -> u32 {
        let policies: HashMap<u32, OnRemoval> =
            plan.vips.iter().filter_map(|vip| Some((*self.vips.get(&vip_key(vip))?, vip.on_removal))).collect();
        let policy = |owner: Option<u32>| owner.and_then(|id| policies.get(&id)).copied().unwrap_or(OnRemoval::Reselect);
        let before = std::mem::take(&mut self.staying);
        let mut new = 0;
        gone.retain(|id, (owner, _)| {
            let policy = policy(*owner);
            if policy == OnRemoval::Reselect {
                return true;
            }
            if let Some(real) = self.tables.reals().get(*id as usize).filter(|_| policy == OnRemoval::Drop) {
                real.set_gone();
            }
            new += u32::from(!before.contains(id));
            self.staying.insert(*id);
            false
        });
        new
    }

    /// Frees the removed reals whose flows stayed, once none of them was seen for `idle` ticks; gives their number. Connections
    /// of NAT keep theirs for as long as they have a place.
    ///
    /// # Errors
    /// [`ControlError::NoGrace`].
    pub fn free_idle<G: Grace>(&mut self, now: u32, idle: u32, grace: &G) -> Result<usize, ControlError> {
        if self.staying.is_empty() {
            return Ok(0);
        }
        let mut busy: HashSet<u32> = self.tables.nats().iter().filter_map(|nat| Some(nat.entry()?.0.real())).collect();
        for (_, _, real, _, stamp) in self.tables.flows().iter().flat_map(FlowSet::entries) {
            let age = flows::silence(now, stamp);
            if self.staying.contains(&real) && u32::from(age) <= idle {
                busy.insert(real);
            }
        }
        let idle = self.reals.iter().filter(|(_, id)| self.staying.contains(*id) && !busy.contains(*id));
        let idle: HashMap<u32, (Option<u32>, IpAddr)> = idle.map(|(pair, id)| (*id, *pair)).collect();
        if !idle.is_empty() {
            self.free(&idle, grace)?;
        }
        Ok(idle.len())
    }

    /// The addresses of all reals that frames may go to: those of the plan, and removed ones whose flows stay.
    pub fn addresses_in_use(&self) -> Vec<IpAddr> {
        let addresses: BTreeSet<IpAddr> = self.reals.keys().map(|(_, address)| *address).collect();
        addresses.into_iter().collect()
    }

    /// The reals that the plan does not keep, by id.
    fn gone(&self, wanted: &HashSet<Owned>) -> HashMap<u32, (Option<u32>, IpAddr)> {
        let keys: HashMap<u32, VipKey> = self.vips.iter().map(|(key, id)| (*id, *key)).collect();
        let is_kept = |(owner, address): &(Option<u32>, IpAddr)| match owner {
            Some(id) => keys.get(id).is_some_and(|key| wanted.contains(&(Some(*key), *address))),
            None => wanted.contains(&(None, *address)),
        };
        self.reals.iter().filter(|(pair, _)| !is_kept(pair)).map(|(pair, id)| (*id, *pair)).collect()
    }

    fn forget(&self, gone: impl Fn(u32) -> bool) -> u64 {
        self.tables.flows().iter().map(|set| u64::from(set.forget(&gone))).sum()
    }
}
