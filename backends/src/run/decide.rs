//! Mode `auto`: which seat forwards on this host, by what its driver has and what the seats cost here.

use serde::{Deserialize, Serialize};

use super::balancer::Running;
use super::error::RunError;
use super::protocol::ModeName;
use crate::afxdp::Ask;
use crate::config::Attach;
use crate::facts::{Driver, may_open_sockets};
use crate::probe::costs;

/// A way to forward that was considered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Candidate {
    /// The seat.
    pub mode: ModeName,
    /// How it would be bound: `native` or `generic`, `zero-copy` or `copy`.
    pub bound: String,
    /// Nanoseconds for a packet of a known flow, measured here without the driver's share; none if it could not be measured.
    pub ns: Option<f64>,
    /// Why it is not possible, with the cure; none if it is.
    pub impossible: Option<String>,
}

/// What mode auto found, and what it made of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Decision {
    /// The interface's driver; none: a virtual device.
    pub driver: Option<String>,
    /// What the driver says of XDP; none: this kernel does not say.
    pub xdp_features: Option<Vec<String>>,
    /// RX queues in use, of all interfaces.
    pub queues: u32,
    /// Cores that workers may run on.
    pub cores: usize,
    /// All that was considered.
    pub candidates: Vec<Candidate>,
    /// The seat that was chosen.
    pub chosen: ModeName,
    /// Why.
    pub reason: String,
}

impl Running {
    /// Chooses, says why, and puts it in force.
    pub(super) fn decide(&mut self) -> Result<(), RunError> {
        let (name, index) = (self.interface.name.clone(), self.interface.index);
        let driver = Driver::of(&name, index);
        let measured = costs();
        if let Err(error) = &measured {
            log::warn!("{name}: the seats could not be measured: {error}");
        }
        let ns = measured.ok();
        let attach = match self.plan.attach {
            Attach::Native => "native",
            Attach::Generic => "generic",
        };
        let (zero_copy, copy) = self.obstacles(&driver);
        let candidate = |mode, bound: &str, ns, impossible| Candidate { mode, bound: bound.to_owned(), ns, impossible };
        let candidates = vec![
            candidate(ModeName::Xdp, attach, ns.map(|ns| ns.xdp_ns), None),
            candidate(ModeName::Afxdp, "zero-copy", ns.map(|ns| ns.afxdp_ns), zero_copy.clone()),
            candidate(ModeName::Afxdp, "copy", ns.map(|ns| ns.afxdp_ns), copy),
        ];
        let is_cheaper = ns.is_none_or(|ns| ns.afxdp_ns < ns.xdp_ns);
        let numbers =
            ns.map_or_else(String::new, |ns| format!(" ({:.0} ns a packet in XDP, {:.0} in AF_XDP)", ns.xdp_ns, ns.afxdp_ns));
        let (mut chosen, reason) = match zero_copy {
            Some(why) => (ModeName::Xdp, format!("AF_XDP pays only with zero-copy: {why}{numbers}")),
            None if !is_cheaper => (ModeName::Xdp, format!("the kernel is the cheaper seat here{numbers}")),
            None => {
                (ModeName::Afxdp, format!("the driver has zero-copy AF_XDP, and userspace is the cheaper seat here{numbers}"))
            }
        };
        let mut why = format!("auto: {reason}");
        if let (ModeName::Afxdp, Err(error)) = (chosen, self.switch(chosen, Ask::Require, &why)) {
            // What the driver says, and what it does.
            chosen = ModeName::Xdp;
            why = format!("auto: AF_XDP pays only with zero-copy, and it cannot be had: {error}{numbers}");
        }
        if chosen == ModeName::Xdp {
            self.switch(ModeName::Xdp, Ask::Prefer, &why)?;
        }
        self.decision = Some(Decision {
            driver: driver.name.clone(),
            xdp_features: driver.features().map(|names| names.into_iter().map(str::to_owned).collect()),
            queues: super::seats::queues(&self.interfaces)?.into_iter().sum(),
            cores: self.plan.cores.as_ref().map_or_else(|| core_affinity::get_core_ids().unwrap_or_default().len(), Vec::len),
            candidates,
            chosen,
            reason: why,
        });
        Ok(())
    }

    /// What stands in the way of AF_XDP without copies, and with them.
    fn obstacles(&self, driver: &Driver) -> (Option<String>, Option<String>) {
        if let Some(bond) = self.interfaces.iter().find(|interface| interface.is_bond) {
            let why = format!("{} is a bond, whose frames come in by its members' queues", bond.name);
            return (Some(why.clone()), Some(why));
        }
        if !may_open_sockets() {
            let why = "this process lacks CAP_NET_RAW; give it (`setcap`, or AmbientCapabilities= of systemd)".to_owned();
            return (Some(why.clone()), Some(why));
        }
        if self.plan.attach == Attach::Generic {
            return (Some("a generic attachment has no zero-copy; set node.attach = \"native\"".to_owned()), None);
        }
        let name = driver.name.as_deref().unwrap_or("this virtual device");
        let zero_copy = match driver.has_zero_copy() {
            Some(false) => Some(format!("{name} has none")),
            Some(true) | None => None,
        };
        (zero_copy, None)
    }
}
