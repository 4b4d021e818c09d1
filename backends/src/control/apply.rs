//! A plan, applied.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};
use tandem_engine::memory::VipKey;
use tandem_engine::memory::root::LAYOUT;

use super::error::ControlError;
use super::grace::Grace;
use super::host::{Facts, Hops};
use super::nat;
use super::numbers::Numbers;
use super::reals::{local, wanted};
use super::rings::Rings;
use super::runs::Runs;
use super::vips::Needs;
use super::{features, ids, key_name, prefixes, vip_key, vip_table, words_addr};
use crate::config::{Plan, Vip};
use crate::memory::Tables;

/// What applying a plan did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Changes {
    /// VIPs that are new.
    pub vips_added: u32,
    /// VIPs that are gone.
    pub vips_removed: u32,
    /// Reals (of a VIP, or of none) that are new.
    pub reals_added: u32,
    /// Reals (of a VIP, or of none) that are gone or down.
    pub reals_removed: u32,
    /// Rings that were published.
    pub rings: u32,
    /// Prefix tables that were published: 1 if a source route or a VIP that is a prefix is new, gone or another.
    pub prefix_tables: u32,
    /// Flows that were forgotten because their real is gone.
    pub flows_forgotten: u64,
}

/// The writer of the tables. One process has one.
#[derive(Debug)]
pub struct Control {
    pub(super) tables: Arc<Tables>,
    /// Id of each VIP.
    pub(super) vips: HashMap<VipKey, u32>,
    /// The ids that no VIP has.
    pub(super) vip_ids: Runs,
    /// Id of each real: of a VIP, by the VIP's id, or of none.
    pub(super) reals: HashMap<(Option<u32>, IpAddr), u32>,
    /// The ids that no real has.
    pub(super) numbers: Numbers,
    /// The rings that VIPs have.
    pub(super) rings: Rings,
    /// Removed reals whose flows stay or are dropped.
    pub(super) staying: HashSet<u32>,
    prefixes: prefixes::Last,
}

/// What is applied, and what is found out of it once.
pub(super) struct Scene<'a> {
    pub(super) plan: &'a Plan,
    pub(super) hops: &'a Hops,
    /// The reals that are this host.
    pub(super) local: HashSet<IpAddr>,
    /// What the reals that belong to no VIP ask of VIPs.
    pub(super) unowned: Needs,
}

impl Control {
    /// Takes the tables over as they are: new ones, or what another process left.
    ///
    /// # Errors
    /// [`ControlError::Layout`].
    pub fn adopt(tables: Arc<Tables>) -> Result<Self, ControlError> {
        let found = tables.root().layout();
        if found != 0 && found != LAYOUT {
            return Err(ControlError::Layout { found });
        }
        let vips: HashMap<VipKey, u32> = vip_table::vips(&tables).map(|(key, vip)| (key, vip.id)).collect();
        let mut vip_ids = Runs::of(0..tables.extent().vips);
        for id in vips.values() {
            vip_ids.take_at(*id, 1);
        }
        let reals = (0..).zip(tables.reals()).filter(|(_, real)| real.hop().is_present());
        let reals = reals.map(|(id, real)| ((real.owner(), words_addr(real.addr(), real.hop().is_v6())), id)).collect();
        let (numbers, rings) = (Numbers::left(&tables), Rings::left(&tables));
        let (staying, prefixes) = (HashSet::new(), prefixes::Last::default());
        Ok(Self { tables, vips, vip_ids, reals, numbers, rings, staying, prefixes })
    }

    /// Whether the tables were in use before.
    pub fn is_configured(&self) -> bool {
        self.tables.root().layout() == LAYOUT
    }

    /// The tables.
    pub fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    /// The id and the name of each VIP.
    pub(crate) fn vip_names(&self) -> impl Iterator<Item = (u32, String)> {
        self.vips.iter().map(|(key, id)| (*id, key_name(key)))
    }

    /// The id of a VIP's real.
    pub fn real_id(&self, vip: &Vip, address: IpAddr) -> Option<u32> {
        let owner = *self.vips.get(&vip_key(vip))?;
        self.reals.get(&(Some(owner), address)).copied()
    }

    /// The id of a real that server ids, source routes or probes name.
    pub fn unowned_real_id(&self, address: IpAddr) -> Option<u32> {
        self.reals.get(&(None, address)).copied()
    }

    /// Makes the tables say what the plan says.
    ///
    /// # Errors
    /// [`ControlError`]: the plan does not fit.
    pub fn apply<G: Grace>(&mut self, plan: &Plan, facts: &Facts, grace: &G) -> Result<Changes, ControlError> {
        self.check(plan)?;
        let wanted = wanted(plan);
        let mut changes = Changes::default();
        let tables = self.tables.clone();
        let root = tables.root();
        if !self.is_configured() {
            for (cell, word) in root.key.iter().zip(facts.key) {
                cell.set(word);
            }
            root.flow_mask.set(tables.sizes().flow_sets - 1);
            root.id_mask.set(tables.sizes().id_lines - 1);
            vip_table::initialise(&tables);
        }
        facts.write(plan, root);
        nat::write(plan, facts, &tables)?;
        // What the plan before used is in force until nothing of it is left.
        root.features.publish(root.features.get() | features::features(plan));
        let any_port = u32::from(plan.vips.iter().any(|vip| vip.port == 0));
        root.any_port.set(any_port.max(root.any_port.get()));
        let mut scene = Scene { plan, hops: &facts.hops, local: local(plan), unowned: Needs::default() };
        changes.reals_added += self.fill_unowned(&scene);
        scene.unowned = self.needs_of_unowned(plan);
        for vip in &plan.vips {
            self.apply_vip(vip, &scene, grace, &mut changes)?;
        }
        self.apply_ids(plan, grace)?;
        self.apply_prefixes(plan, grace, &mut changes)?;
        self.apply_addresses(plan, grace)?;
        self.remove_vips(plan, &mut changes);
        root.any_port.set(any_port);
        root.features.publish(features::features(plan));
        self.reclaim(&wanted, plan, grace, &mut changes)?;
        root.set_layout(LAYOUT);
        Ok(changes)
    }

    /// What can be known before anything is written: whether the tables hold the plan.
    ///
    /// # Errors
    /// [`ControlError`]: they do not.
    pub fn check(&self, plan: &Plan) -> Result<(), ControlError> {
        let most = self.tables.extent().vips;
        // Ids of VIPs that go are free again only after this plan is in force, as those of reals.
        let found = self.vips.len() + plan.vips.iter().filter(|vip| !self.vips.contains_key(&vip_key(vip))).count();
        if found > most as usize {
            return Err(ControlError::TooManyVips { found, most });
        }
        vip_table::check(&self.tables, plan).map_err(|found| ControlError::VipTableSmall { found })?;
        let members = self.planned_members(plan)?;
        let (needed, places) = (nat::places(plan), self.tables.nats().len());
        if needed as usize > places {
            return Err(ControlError::NatTableSmall { found: needed, places });
        }
        let (keys, lines) = (ids::most(plan), self.tables.ids().len());
        // Fuller than that, and a key might find no place.
        if keys > lines * 7 / 2 {
            return Err(ControlError::IdsFull { found: keys, lines });
        }
        let slots = self.tables.prefixes().len() / 2;
        if prefixes::slots(plan) as usize > slots {
            let found = plan.source_routes.len() + plan.vips.iter().filter(|vip| vip.prefix_len.is_some()).count();
            return Err(ControlError::PrefixesFull { found, slots });
        }
        self.check_rings(plan, &members)
    }

    /// Server ids, and the reals that are down for a VIP.
    fn apply_ids<G: Grace>(&self, plan: &Plan, grace: &G) -> Result<(), ControlError> {
        let vip = |index: usize| self.vips.get(&vip_key(plan.vips.get(index)?)).copied();
        let wanted = ids::wanted(plan, vip, &self.reals);
        let table = self.tables.ids();
        let removed = ids::keep_only(table, &wanted);
        if removed {
            self.wait(grace)?;
        }
        match ids::put(table, &wanted, grace) {
            ids::Put::Done => Ok(()),
            ids::Put::Full => Err(ControlError::IdsFull { found: wanted.len(), lines: table.len() }),
            ids::Put::NoGrace => Err(ControlError::NoGrace),
        }
    }

    /// Source routes, and the way to VIPs that are prefixes.
    fn apply_prefixes<G: Grace>(&mut self, plan: &Plan, grace: &G, changes: &mut Changes) -> Result<(), ControlError> {
        let spaces = prefixes::spaces(plan, |address| self.reals.get(&(None, address)).copied());
        match self.prefixes.write(&self.tables, spaces) {
            prefixes::Written::Same => Ok(()),
            prefixes::Written::Published => {
                changes.prefix_tables += 1;
                self.wait(grace)
            }
            prefixes::Written::Full(found) => Err(ControlError::PrefixesFull { found, slots: self.tables.prefixes().len() / 2 }),
        }
    }

    pub(super) fn wait<G: Grace>(&self, grace: &G) -> Result<(), ControlError> {
        if grace.wait() { Ok(()) } else { Err(ControlError::NoGrace) }
    }
}
