//! Mode `auto`: what is known of the host, the decision made of it, and putting it in force.

use super::balancer::Running;
use super::error::RunError;
use super::places::Paths;
use super::protocol::ModeName;
use super::seats::queues;
use crate::afxdp::Ask;
use crate::calibrate::Calibrated;
use crate::config::{Attach, ModeWish, Plan};
use crate::decision::{Host, Numbers, decide};
use crate::facts::{Driver, Interface, Netlink, check_privileges, is_bpffs, may_open_sockets};
use crate::probe::costs;
use crate::xdp::Balancer;

/// What a start with this plan can know of its seats' costs: to be asked before privileges are given up, which a measurement takes.
/// `None`: the mode is not `auto`, or there is nothing to choose, or the start is going to fail.
///
/// Nothing is measured where a balancer of this name forwards already: that would take its cores.
pub fn calibration(plan: &Plan, name: Option<&str>) -> Option<Calibrated> {
    if plan.mode != ModeWish::Auto || check_privileges(true).is_err() || !is_bpffs("/sys/fs/bpf".as_ref()) {
        return None;
    }
    let netlink = Netlink::open().ok()?;
    let interfaces = plan.interfaces.iter().map(|name| netlink.interface(name)).collect::<Result<Vec<_>, _>>().ok()?;
    if interfaces.iter().any(|interface| interface.is_bond) {
        return None;
    }
    let paths = Paths::of(name.or(plan.interfaces.first().map(String::as_str))?);
    if paths.is_running() || Balancer::is_left(&paths.pins) {
        return Some(Calibrated::read(&paths.calibration, plan.attach));
    }
    Some(Calibrated::read_or_measure(&paths.calibration, plan.attach, plan.cores.as_deref()))
}

impl Host {
    /// Asks the host.
    ///
    /// # Errors
    /// [`RunError::NoInterface`], [`RunError::Queues`].
    pub fn look(interfaces: &[Interface], attach: Attach, cores: Option<&[usize]>) -> Result<Self, RunError> {
        let first = interfaces.first().ok_or(RunError::NoInterface)?;
        let driver = Driver::of(&first.name, first.index);
        let (no_zero_copy, no_copy) = obstacles(interfaces, attach, &driver);
        Ok(Self {
            xdp_features: driver.features().map(|names| names.into_iter().map(str::to_owned).collect()),
            driver: driver.name,
            queues: queues(interfaces)?.into_iter().sum(),
            cores: cores.map_or_else(|| core_affinity::get_core_ids().unwrap_or_default().len(), <[usize]>::len),
            attach,
            no_zero_copy,
            no_copy,
        })
    }
}

/// What stands in the way of AF_XDP without copies, and with them.
fn obstacles(interfaces: &[Interface], attach: Attach, driver: &Driver) -> (Option<String>, Option<String>) {
    if let Some(bond) = interfaces.iter().find(|interface| interface.is_bond) {
        let why = format!("{} is a bond, whose frames come in by its members' queues", bond.name);
        return (Some(why.clone()), Some(why));
    }
    if !may_open_sockets() {
        let why = "this process lacks CAP_NET_RAW; give it (`setcap`, or AmbientCapabilities= of systemd)".to_owned();
        return (Some(why.clone()), Some(why));
    }
    if attach == Attach::Generic {
        return (Some("a generic attachment has no zero-copy; set node.attach = \"native\"".to_owned()), None);
    }
    let name = driver.name.as_deref().unwrap_or("this virtual device");
    let zero_copy = match driver.has_zero_copy() {
        Some(false) => Some(format!("{name} has none")),
        Some(true) | None => None,
    };
    (zero_copy, None)
}

impl Numbers {
    /// What was measured, and what memory alone has to add for this host: a second of work, done only where it is of use.
    pub fn of(calibrated: &Calibrated, host: &Host) -> Self {
        let is_of_use = calibrated.found.is_err() || host.no_zero_copy.is_none();
        let memory = is_of_use.then(|| costs().map_err(|error| error.to_string()));
        Self { calibrated: calibrated.found.clone(), when: calibrated.when.clone(), memory }
    }
}

impl Running {
    /// Where this balancer keeps what others may find.
    pub(super) fn paths(&self) -> Paths {
        Paths::of(self.options.name.as_deref().unwrap_or(&self.interface.name))
    }

    /// What is known of the host now.
    pub(super) fn host(&self) -> Result<Host, RunError> {
        Host::look(&self.interfaces, self.plan.attach, self.plan.cores.as_deref())
    }

    /// Chooses, says why, and puts it in force.
    pub(super) fn decide(&mut self) -> Result<(), RunError> {
        let mut host = self.host()?;
        let saved = || Calibrated::read(&self.paths().calibration, self.plan.attach);
        let calibrated = self.options.calibration.clone().unwrap_or_else(saved);
        let numbers = Numbers::of(&calibrated, &host);
        if let Err(why) = &numbers.calibrated {
            log::warn!("{}: the seats are not measured with real frames: {why}", self.interface.name);
        }
        loop {
            let decision = decide(&host, &numbers);
            let ask = match decision.bound.as_str() {
                "zero-copy" => Ask::Require,
                // As it was measured.
                "copy" => Ask::Never,
                _ => Ask::Prefer,
            };
            match self.switch(decision.chosen, ask, &decision.reason) {
                Ok(()) => {
                    self.decision = Some(decision);
                    return Ok(());
                }
                // What the driver says, and what it does.
                Err(error) if ask == Ask::Require => host.no_zero_copy = Some(format!("it cannot be had: {error}")),
                Err(error) if decision.chosen == ModeName::Afxdp => {
                    (host.no_zero_copy, host.no_copy) = (Some(error.to_string()), Some(error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
    }
}
