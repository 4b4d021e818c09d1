//! The next hops of a running balancer: looked at again when the kernel tells of a change, and now and then without.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, never};

use super::error::RunError;
use super::protocol::UnreachableRow;
use crate::config::Plan;
use crate::control::Control;
use crate::facts::{Found, Netlink, NextHop, NoHop, Ways, watch};

/// How often the host is looked at if it tells of no change.
const LOOK: Duration = Duration::from_secs(1);
/// A look that took long is followed by a rest of this many times as long: a host whose routes never stop to change shall
/// not spend its time here.
const REST: u32 = 4;

/// Who keeps them current.
pub(super) struct NextHops {
    ways: Ways,
    reals: Vec<IpAddr>,
    most: Option<u16>,
    changes: Receiver<()>,
    is_due: bool,
    looked: Instant,
    rest: Duration,
}

impl NextHops {
    /// Takes over what the start found. It is looked at once more very soon: the kernel tells of changes only from now on.
    pub fn new(plan: &Plan, control: &Control, ways: Ways) -> Result<Self, RunError> {
        let (reals, looked) = (control.addresses_in_use(), Instant::now());
        Ok(Self { ways, reals, most: plan.path_mtu, changes: watch()?, is_due: true, looked, rest: Duration::ZERO })
    }

    /// The same for another plan, whose next hops were found meanwhile.
    pub fn follow(self, plan: &Plan, control: &Control, ways: Ways) -> Self {
        Self { ways, reals: control.addresses_in_use(), most: plan.path_mtu, is_due: true, ..self }
    }

    /// What is known of the ways.
    pub fn ways(&self) -> &Ways {
        &self.ways
    }

    /// Something is said here when the kernel's tables changed.
    pub fn changes(&self) -> Receiver<()> {
        self.changes.clone()
    }

    /// Notes that it was; `false`: nothing will ever be said again.
    pub fn note(&mut self, is_there: bool) {
        self.is_due = true;
        if !is_there {
            log::warn!("the kernel tells of no more changes; next hops are looked at each second");
            self.changes = never();
        }
    }

    /// Looks if it is time to, and writes what changed.
    pub fn look(&mut self, netlink: &Netlink, control: &Control) -> Result<(), RunError> {
        let since = self.looked.elapsed();
        if since < self.rest || !self.is_due && since < LOOK {
            return Ok(());
        }
        let began = Instant::now();
        let before = self.ways.look(netlink, &self.reals)?;
        control.set_hops(&self.ways.hops(self.most));
        self.is_due = false;
        self.looked = Instant::now();
        self.rest = began.elapsed() * REST;
        for real in &self.reals {
            if let Some(now) = self.ways.found().get(real) {
                tell(*real, before.get(real), now);
            }
        }
        Ok(())
    }

    /// The reals that cannot be reached, and why.
    pub fn unreachable(&self) -> Vec<UnreachableRow> {
        unreachable(self.ways.found())
    }
}

/// The reals that have no next hop, in order.
fn unreachable(found: &Found) -> Vec<UnreachableRow> {
    let without = found.iter().filter_map(|(real, hop)| Some((real, hop.as_ref().err()?)));
    let mut rows: Vec<_> = without.map(|(real, no)| UnreachableRow { real: real.to_string(), why: no.to_string() }).collect();
    rows.sort_unstable_by(|a, b| a.real.cmp(&b.real));
    rows
}

/// Says what became of a real's next hop, once.
pub(super) fn tell(real: IpAddr, before: Option<&Result<NextHop, NoHop>>, now: &Result<NextHop, NoHop>) {
    match (before, now) {
        (Some(before), now) if before == now => {}
        (_, Err(no)) => log::warn!("real {real}: {no}; until then its frames are dropped and counted as no-next-hop"),
        (before, Ok(hop)) => {
            let NextHop { via, mac, .. } = hop;
            let last = before.and_then(|before| before.as_ref().ok());
            match (hop.instead_of, last.and_then(|last| last.instead_of)) {
                (Some(silent), other) if Some(silent) != other || last.is_none_or(|last| last.via != *via) => {
                    log::warn!("real {real}: its gateway {silent} does not answer; its frames go by {via} ({mac}) until it does");
                }
                (None, Some(silent)) => {
                    log::info!("real {real}: its frames go by {via} ({mac}) again (not by {silent} any more)");
                }
                _ if before.is_some() => log::info!("real {real}: its next hop is {via} ({mac})"),
                _ => {}
            }
        }
    }
}
