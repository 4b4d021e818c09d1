//! The NAT table: its size, its rules in the root, and what is forgotten.

use std::net::IpAddr;

use tandem_engine::memory::Nat;

use super::addr_words;
use super::apply::Control;
use super::error::ControlError;
use super::grace::Grace;
use super::host::Facts;
use crate::config::{Encap, Plan};
use crate::memory::Tables;

/// The addresses of the reals that are reached by NAT.
fn reals(plan: &Plan) -> impl Iterator<Item = IpAddr> + '_ {
    let of_vips = plan.vips.iter().flat_map(|vip| &vip.reals).filter(|real| real.encap == Encap::Nat).map(|real| real.address);
    of_vips.chain(plan.unowned_reals().filter(|_| plan.encap == Encap::Nat))
}

/// The sources that are used, in the order of their indices.
pub(super) fn sources(plan: &Plan) -> impl Iterator<Item = IpAddr> + '_ {
    let is_used = reals(plan).next().is_some();
    plan.nat.sources().filter(move |_| is_used)
}

/// Places for connections whose client keeps its address.
fn kept(plan: &Plan) -> u32 {
    if reals(plan).any(|real| !plan.nat.replaces(real)) { plan.nat.capacity } else { 0 }
}

/// Places that a plan needs: one for each port of each source and protocol, and those of clients that keep their address.
pub fn places(plan: &Plan) -> u32 {
    (kept(plan) + sources(plan).count() as u32 * 2 * u32::from(plan.nat.ports)).max(1)
}

/// Writes the rules; forgets all connections if another rule gives them other places.
pub(super) fn write(plan: &Plan, facts: &Facts, tables: &Tables) -> Result<(), ControlError> {
    let needed = places(plan);
    if needed as usize > tables.nats().len() {
        return Err(ControlError::NatTableSmall { found: needed, places: tables.nats().len() });
    }
    let rules = &tables.root().nat;
    for (cell, ticks) in rules.idle.iter().zip(facts.nat_idle_ticks) {
        cell.set(ticks);
    }
    let sources: Vec<IpAddr> = sources(plan).collect();
    let v4 = sources.iter().filter(|source| source.is_ipv4()).count() as u32;
    let numbers = [
        (&rules.first_port, u32::from(plan.nat.first_port)),
        (&rules.ports, u32::from(plan.nat.ports)),
        (&rules.kept, kept(plan)),
        (&rules.sources_v4, v4),
        (&rules.sources_v6, sources.len() as u32 - v4),
    ];
    let words = |index: usize| sources.get(index).map_or([0, 0], |source| addr_words(*source));
    let same_sources =
        rules.sources.iter().enumerate().all(|(index, cells)| cells.each_ref().map(|cell| cell.get()) == words(index));
    if same_sources && numbers.iter().all(|(cell, number)| cell.get() == *number) {
        return Ok(());
    }
    tables.nats().iter().for_each(Nat::forget);
    for (cell, number) in numbers {
        cell.set(number);
    }
    for (index, cells) in rules.sources.iter().enumerate() {
        for (cell, word) in cells.iter().zip(words(index)) {
            cell.set(word);
        }
    }
    Ok(())
}

impl Control {
    /// Takes the claims on places of the NAT table off that died with their cores: those that stay the same over two grace
    /// periods, since a claim takes nanoseconds. Gives their number.
    pub fn release_claims<G: Grace>(&self, grace: &G) -> usize {
        let seen: Vec<_> = self.tables.nats().iter().filter_map(|nat| Some((nat, nat.claimed()?))).collect();
        if seen.is_empty() || !grace.wait() {
            return 0;
        }
        // One that was made since, on the same generation, is gone by the next look.
        let still: Vec<_> = seen.into_iter().filter(|(nat, lock)| nat.claimed() == Some(*lock)).collect();
        if still.is_empty() || !grace.wait() {
            return 0;
        }
        still.into_iter().filter(|(nat, lock)| nat.release(*lock)).count()
    }
}

/// Forgets the connections of every real that `gone` names; gives their number.
pub(super) fn forget(tables: &Tables, gone: impl Fn(u32) -> bool) -> u64 {
    let of_gone = tables.nats().iter().filter(|nat| nat.entry().is_some_and(|(found, _)| gone(found.real())));
    of_gone.map(|nat| nat.forget()).count() as u64
}
