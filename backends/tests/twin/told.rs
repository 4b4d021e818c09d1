//! What rounds of frames have shown, in numbers that add up.

use std::collections::BTreeMap;
use std::fmt;

use tandem_backends::control::Changes;
use tandem_engine::Reason;

use crate::{Differ, Twins};

/// Of one round, or of many.
#[derive(Default, Debug)]
pub struct Told {
    pub frames: u64,
    /// Entries of the flow table that another flow took.
    pub evictions: u64,
    /// Frames whose real the flow table alone named, and the oracle knew.
    pub by_flow: u64,
    /// Later fragments that were translated: clients', and answers.
    pub later: [u64; 2],
    /// By the names of what changed.
    changes: BTreeMap<&'static str, u64>,
    reasons: BTreeMap<&'static str, u64>,
    events: BTreeMap<&'static str, u64>,
}

fn add(to: &mut BTreeMap<&'static str, u64>, what: impl IntoIterator<Item = (&'static str, u64)>) {
    what.into_iter().for_each(|(name, n)| *to.entry(name).or_default() += n);
}

impl Told {
    pub fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.evictions += other.evictions;
        self.by_flow += other.by_flow;
        self.later.iter_mut().zip(other.later).for_each(|(mine, theirs)| *mine += theirs);
        for (mine, theirs) in
            [(&mut self.changes, &other.changes), (&mut self.reasons, &other.reasons), (&mut self.events, &other.events)]
        {
            add(mine, theirs.iter().map(|(name, n)| (*name, *n)));
        }
    }

    /// Another plan is in force.
    pub fn changed(&mut self, changes: &Changes) {
        let n = u64::from;
        add(
            &mut self.changes,
            [
                ("VIPs added", n(changes.vips_added)),
                ("VIPs removed", n(changes.vips_removed)),
                ("reals added", n(changes.reals_added)),
                ("reals removed", n(changes.reals_removed)),
                ("rings changed", n(changes.rings)),
                ("flows forgotten", changes.flows_forgotten),
            ],
        );
    }

    /// Everything that these two have counted, after a last look at their tables.
    pub fn twins(&mut self, twins: &mut Twins) -> Result<(), Differ> {
        let counters = twins.check()?;
        self.frames += twins.sent;
        self.evictions += twins.evictions;
        add(&mut self.events, counters.events);
        add(&mut self.reasons, twins.reasons());
        Ok(())
    }

    /// By name, all that there can be.
    pub fn changes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.changes.iter().map(|(what, n)| (*what, *n))
    }

    pub fn reason(&self, reason: Reason) -> u64 {
        self.reasons.get(reason.name()).copied().unwrap_or(0)
    }

    pub fn event(&self, name: &str) -> u64 {
        self.events.get(name).copied().unwrap_or(0)
    }

    pub fn events_missed(&self) -> Vec<&'static str> {
        self.events.iter().filter(|(_, n)| **n == 0).map(|(name, _)| *name).collect()
    }

    /// Reasons with their counts.
    pub fn reasons_reached(&self) -> String {
        let reached: Vec<String> = self.reasons.iter().map(|(name, n)| format!("{name} {n}")).collect();
        reached.join(", ")
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} frames, {} of {} reasons reached", self.frames, self.reasons.len(), Reason::ALL.len())?;
        write!(f, ", {} evictions, {} found by the flow table", self.evictions, self.by_flow)?;
        self.changes().try_for_each(|(what, n)| write!(f, ", {n} {what}"))?;
        let nat = [Reason::NatReply, Reason::NatUnknown].map(|reason| self.reason(reason));
        write!(f, ", NAT: {} opened, {} answers, {} to no connection", self.event("nat-opened"), nat[0], nat[1])
    }
}
