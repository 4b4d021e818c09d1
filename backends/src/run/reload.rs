//! Another plan for a running balancer: all of it or nothing, as a difference, without losing a packet.
//!
//! ```text
//! what needs a restart > what the tables hold > next hops | all of this before anything changes
//! a program with more features, if it takes one > tables, everything a VIP points at before the VIP > next hops, probes, mode
//! ```

use std::sync::Arc;

use super::balancer::{Life, Running};
use super::error::RunError;
use super::protocol::Refusal;
use super::supplied::facts;
use crate::afxdp::Seat;
use crate::config::{self, Plan};
use crate::control::{Changes, Control, Grace, KernelGrace, features};

/// What only a start can change, by the names of its keys.
fn fixed(old: &Plan, new: &Plan) -> Vec<&'static str> {
    let keys = [
        ("node.interface", old.interfaces != new.interfaces),
        ("node.profile", old.profile != new.profile),
        ("node.attach", old.attach != new.attach),
        ("node.cores", old.cores != new.cores),
        ("flows.key_file", old.key_file != new.key_file),
        ("flows.capacity", old.flow_capacity != new.flow_capacity),
        ("api", old.api != new.api),
        ("metrics.listen", old.metrics != new.metrics),
    ];
    keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

/// Says what came into force.
pub(super) fn tell_of(interface: &str, plan: &Plan, control: &Control, changes: &Changes) {
    tracing::info!(
        interface,
        vips = plan.vips.len(),
        vips_added = changes.vips_added,
        vips_removed = changes.vips_removed,
        reals_added = changes.reals_added,
        reals_removed = changes.reals_removed,
        rings = changes.rings,
        rings_in_force = control.rings_shared().0,
        flows_forgotten = changes.flows_forgotten,
        "configuration in force"
    );
}

/// Both seats' readers.
pub(super) struct Readers<'a>(pub Option<&'a Seat>);

impl Grace for Readers<'_> {
    fn wait(&self) -> bool {
        KernelGrace.wait() && self.0.is_none_or(Seat::grace)
    }
}

impl Running {
    /// Reads the configuration file again and applies it.
    pub(super) fn reload(&mut self, tell: &mut dyn FnMut(Life)) -> Result<Changes, Refusal> {
        let none = || Refusal::Failed("this balancer was not started from a configuration file".to_owned());
        let file = self.file.as_mut().ok_or_else(none)?;
        file.note();
        let path = file.path.clone();
        tell(Life::Reloading);
        let result = config::load(&path).map_err(Refusal::from).and_then(|loaded| {
            loaded.warnings.iter().for_each(|warning| log::warn!("{warning}"));
            self.apply(loaded.plan)
        });
        tell(Life::Ready);
        result
    }

    /// Whether the file is another one than that which was read last; `is_there`: its watch goes on.
    pub(super) fn file_changed(&mut self, is_there: bool) -> bool {
        let Some(file) = &mut self.file else { return false };
        if !is_there {
            log::warn!("{}: is not watched any more; after changes use SIGHUP or `tandem reload`", file.path.display());
            file.forget();
            return false;
        }
        file.note()
    }

    /// Puts another plan in force.
    pub(super) fn apply(&mut self, plan: Plan) -> Result<Changes, Refusal> {
        let fixed = fixed(&self.plan, &plan);
        if !fixed.is_empty() {
            return Err(Refusal::Restart(fixed));
        }
        self.put_in_force(plan).map_err(|error| Refusal::Failed(error.to_string()))
    }

    fn put_in_force(&mut self, plan: Plan) -> Result<Changes, RunError> {
        self.control.check(&plan)?;
        let interfaces =
            self.interfaces.iter().map(|before| self.netlink.interface(&before.name)).collect::<Result<Vec<_>, _>>()?;
        let known = self.next_hops.as_ref().map(|hops| hops.ways().clone());
        let (facts, ways) = facts(&plan, &interfaces, &self.netlink, &self.balancer, known)?;
        self.renew(&plan)?;
        let changes = self.control.apply(&plan, &facts, &Readers(self.seat.as_ref()))?;
        let (other_mode, probes) = (self.plan.mode != plan.mode, !plan.health_encaps.is_empty());
        let had_probes = !self.plan.health_encaps.is_empty();
        self.plan = Arc::new(plan);
        self.follow(ways)?;
        if probes || had_probes {
            self.start_probes()?;
        }
        tell_of(&self.interface.name, &self.plan, &self.control, &changes);
        if other_mode {
            self.choose_mode()?;
        }
        Ok(changes)
    }

    /// Loads a program for what the plan uses beyond what the running one was loaded for, and puts it into its place in one
    /// step. One that knows more than is used forwards alike.
    fn renew(&mut self, plan: &Plan) -> Result<(), RunError> {
        let needed = features(plan);
        if needed & !self.balancer.features() == 0 {
            return Ok(());
        }
        self.put_another_program(needed)?;
        log::info!("{}: another program, for what the new configuration uses, is in force", self.interface.name);
        Ok(())
    }

    /// Loads the program anew, and puts it into the place of the running one in one step.
    pub(super) fn put_another_program(&mut self, features: u32) -> Result<(), RunError> {
        self.balancer.renew(features)?;
        self.put_in_place()
    }

    /// Puts the program that was just loaded into the place of the running one.
    pub(super) fn put_in_place(&mut self) -> Result<(), RunError> {
        for interface in &mut self.interfaces {
            // Which program is on it now is how the attachment is recognised.
            *interface = self.netlink.interface(&interface.name)?;
        }
        self.attach()?;
        if !self.plan.health_encaps.is_empty() {
            self.start_probes()?;
        }
        Ok(())
    }

    fn follow(&mut self, ways: Option<crate::facts::Ways>) -> Result<(), RunError> {
        self.next_hops = match (self.next_hops.take(), ways) {
            (_, None) => None,
            (Some(hops), Some(ways)) => Some(hops.follow(&self.plan, &self.control, ways)),
            (None, Some(ways)) => Some(super::hops::NextHops::new(&self.plan, &self.control, ways)?),
        };
        Ok(())
    }
}
