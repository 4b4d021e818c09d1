//! The running balancer: both seats over one memory, and the loop that looks after them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, never, select, tick};
use tandem_engine::memory::Mode;
use tandem_engine::memory::reals::Out;
use tandem_engine::wire::mac_word;

use super::error::RunError;
use super::hops::{NextHops, tell};
use super::paths::{warn_of_narrow_ways, warn_of_strange_sources};
use super::protocol::{ModeName, ModeReport, Paths, Request, WorkerRow};
use super::server::{Asked, Server};
use crate::afxdp::{Ask, Bound, Event, QueueName, Seat, SeatConfig, SocketInfo, receive_queues};
use crate::config::{Attach, Encap, ModeWish, Plan, Profile};
use crate::control::{Control, Counters, Facts, Grace, KernelGrace, Reached, marks};
use crate::facts::{Found, Interface, Netlink, Ways, check_privileges, is_bpffs};
use crate::memory::{Plain, Sizes};
use crate::xdp::{Balancer, Role, SlotWish};

/// How long the start waits for next hops that do not answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the host is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often the clock is measured again.
const CALIBRATE: Duration = Duration::from_secs(60);

/// What a run needs beside the plan.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Name of this balancer, for its pins and its socket; `None`: the interface's.
    pub name: Option<String>,
    /// Leaves the program attached and the tables pinned at the end, for the next run to take over.
    pub leave_attached: bool,
    /// A slot of a root's program array to enter; `None`: the interface itself.
    pub slot: Option<SlotWish>,
}

/// Runs the balancer until `stop` is set. `ready` is called when it forwards.
///
/// # Errors
/// [`RunError`]; the host is as it was then.
pub fn run(plan: &Plan, options: &Options, stop: &AtomicBool, ready: impl FnOnce()) -> Result<(), RunError> {
    check_privileges()?;
    let interface = plan.interfaces.first().ok_or(RunError::NoInterface)?;
    let paths = Paths::of(options.name.as_deref().unwrap_or(interface));
    let bpffs = PathBuf::from("/sys/fs/bpf");
    if !is_bpffs(&bpffs) {
        return Err(RunError::NoBpffs(bpffs));
    }
    let server = Server::listen(&paths.socket)?;
    let was_there = Balancer::is_left(&paths.pins);
    let mut running = match Running::start(plan, &paths, options.slot.as_ref()) {
        Ok(running) => running,
        Err(error) => {
            // Nothing of a failed start stays, but what a balancer before left stays as it was.
            if !was_there {
                let _ = Balancer::remove_left(&paths.pins);
            }
            return Err(error);
        }
    };
    ready();
    let end = running.look_after(&server, stop);
    running.stop(options.leave_attached && end.is_ok())?;
    end
}

struct Running {
    plan: Plan,
    /// The first of the interfaces, which supplies what is not configured.
    interface: Interface,
    /// All of them.
    interfaces: Vec<Interface>,
    netlink: Netlink,
    balancer: Balancer,
    control: Control,
    /// `None`: the configuration says where every frame goes.
    next_hops: Option<NextHops>,
    seat: Option<Seat>,
    /// Blocks of counters before the workers': one for each CPU.
    cpus: u32,
    why: String,
    calibrated: Instant,
}

impl Running {
    fn start(plan: &Plan, paths: &Paths, slot: Option<&SlotWish>) -> Result<Self, RunError> {
        let netlink = Netlink::open()?;
        let interfaces = plan.interfaces.iter().map(|name| netlink.interface(name)).collect::<Result<Vec<_>, _>>()?;
        let interface = interfaces.first().ok_or(RunError::NoInterface)?.clone();
        match slot {
            Some(_) if interfaces.len() > 1 => return Err(RunError::SlotOfSeveral),
            Some(slot) => Balancer::check_slot(&paths.pins, slot, &interface)?,
            None => Balancer::check_left(&paths.pins, &interfaces)?,
        }
        let cpus = aya::util::nr_cpus().map_or(1, |n| n as u32);
        let needed = cpus + SeatConfig::workers(queues(&interfaces)?.into_iter());
        let balancer = Balancer::load(&Role::Forward(paths.pins.clone()), Sizes::for_plan(plan, needed))?;
        let found = balancer.tables().blocks();
        if found < needed {
            return Err(RunError::Blocks { found, needed });
        }
        let mut control = Control::adopt(balancer.tables().clone())?;
        if control.is_configured() {
            log::info!("taking over the tables that are pinned in {}", paths.pins.display());
            // Those of the workers that ended with their process.
            control.release_claims(&KernelGrace);
        }
        let (facts, ways) = facts(plan, &interfaces, &netlink, &balancer)?;
        // A process that was killed in mode afxdp left no workers.
        balancer.tables().root().switch(Mode::Xdp);
        let changes = control.apply(plan, &facts, &KernelGrace)?;
        log::info!("{}: {} VIPs, {changes:?}", interface.name, plan.vips.len());
        interfaces.iter().for_each(|interface| warn_of_narrow_ways(plan, interface, balancer.tables()));
        if plan.profile == Profile::Standard {
            warn_of_strange_sources(plan, [facts.source_v4.map(Into::into), facts.source_v6.map(Into::into)], &netlink);
        }
        let mut running = Self {
            plan: plan.clone(),
            interface,
            interfaces,
            netlink,
            balancer,
            control,
            next_hops: ways.map(|ways| NextHops::new(plan, ways)).transpose()?,
            seat: None,
            cpus,
            why: String::new(),
            calibrated: Instant::now(),
        };
        match slot {
            Some(slot) => running.balancer.enter(slot, &running.interface)?,
            None => running.attach()?,
        }
        running.start_probes()?;
        if let Err(error) = running.choose_mode() {
            running.stop(false)?;
            return Err(error);
        }
        Ok(running)
    }

    fn attach(&mut self) -> Result<(), RunError> {
        if self.interfaces.len() > 1 {
            self.balancer.set_devices(&self.interfaces)?;
        }
        Ok(self.balancer.attach(&self.interfaces, self.plan.attach)?)
    }

    /// Sends the probes of health checks to the reals of their marks, if the configuration names any.
    fn start_probes(&mut self) -> Result<(), RunError> {
        let name = &self.interface.name;
        if self.plan.health_encaps.is_empty() {
            return Ok(self.balancer.detach_probes(&self.interfaces)?);
        }
        self.balancer.set_marks(&marks(&self.plan, self.control.tables()))?;
        self.balancer.attach_probes(&self.interfaces)?;
        log::info!("{name}: probes with {} socket marks go to their reals", self.plan.health_encaps.len());
        Ok(())
    }

    /// Puts the configured mode in force.
    fn choose_mode(&mut self) -> Result<(), RunError> {
        match self.plan.mode {
            ModeWish::Xdp => "the configuration says so".clone_into(&mut self.why),
            ModeWish::Afxdp => self.switch(ModeName::Afxdp, Ask::Prefer, "the configuration says so")?,
            ModeWish::Auto => match self.switch(ModeName::Afxdp, Ask::Require, "auto: the driver has zero-copy AF_XDP") {
                Ok(()) => {}
                Err(error) => self.why = format!("auto: AF_XDP pays only with zero-copy, and there is none here ({error})"),
            },
        }
        log::info!("{}: mode {:?}: {}", self.interface.name, self.mode(), self.why);
        Ok(())
    }

    fn mode(&self) -> ModeName {
        match self.control.tables().root().mode() {
            Mode::Xdp => ModeName::Xdp,
            Mode::Afxdp => ModeName::Afxdp,
        }
    }

    /// The live switch: one store. The first one to afxdp starts the workers.
    fn switch(&mut self, to: ModeName, ask: Ask, why: &str) -> Result<(), RunError> {
        if to == ModeName::Afxdp {
            self.start_workers(ask)?;
        }
        let mode = match to {
            ModeName::Xdp => Mode::Xdp,
            ModeName::Afxdp => Mode::Afxdp,
        };
        self.control.tables().root().switch(mode);
        why.clone_into(&mut self.why);
        Ok(())
    }

    fn start_workers(&mut self, ask: Ask) -> Result<(), RunError> {
        if self.seat.as_ref().is_some_and(|seat| !seat.sockets().is_empty()) {
            return Ok(());
        }
        if let Some(bond) = self.interfaces.iter().find(|interface| interface.is_bond) {
            return Err(RunError::WorkersOfBond(bond.name.clone()));
        }
        // Workers that all ended are replaced.
        drop(self.seat.take());
        let interfaces: Vec<_> =
            self.interfaces.iter().map(|interface| interface.name.as_str()).zip(queues(&self.interfaces)?).collect();
        let cores = match &self.plan.cores {
            Some(cores) => cores.clone(),
            None => core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect(),
        };
        let config = SeatConfig { zero_copy: ask, ..SeatConfig::new(&interfaces, cores) };
        let memories = (self.cpus..).take(config.workers.len());
        let memories = memories.map(|block| (Plain::new(self.balancer.tables().clone(), block), self.balancer.clock()));
        let seat = Seat::start(&config, memories.collect())?;
        for (at, socket) in seat.sockets() {
            self.balancer.set_socket(place_of(&self.interfaces, &at), &at, socket)?;
        }
        for socket in seat.info() {
            log::info!("{}: worker {} on core {}, {}", socket.at, socket.worker, socket.core, bound_name(socket.bound));
        }
        self.seat = Some(seat);
        Ok(())
    }

    fn look_after(&mut self, server: &Server, stop: &AtomicBool) -> Result<(), RunError> {
        let ticks = tick(Duration::from_millis(100));
        let mut looked = Instant::now();
        loop {
            let events: Receiver<Event> = self.seat.as_ref().map_or_else(never, |seat| seat.events().clone());
            let changes: Receiver<()> = self.next_hops.as_ref().map_or_else(never, NextHops::changes);
            select! {
                recv(server.requests) -> asked => if let Ok(asked) = asked { self.answer(asked) },
                recv(events) -> event => if let Ok(event) = event { self.worker_ended(&event) },
                recv(changes) -> told => if let Some(hops) = &mut self.next_hops { hops.note(told.is_ok()) },
                recv(ticks) -> _ => {}
            }
            if stop.load(Ordering::Relaxed) {
                log::info!("{}: stopping", self.interface.name);
                return Ok(());
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.look()?;
            }
            if let Some(hops) = &mut self.next_hops {
                hops.look(&self.netlink, &self.control)?;
            }
        }
    }

    /// What has to be seen to now and then.
    fn look(&mut self) -> Result<(), RunError> {
        for interface in &self.interfaces {
            match self.netlink.interface(&interface.name) {
                Ok(now) if now.index == interface.index => {}
                _ => return Err(RunError::Vanished(interface.name.clone())),
            }
        }
        if self.calibrated.elapsed() >= CALIBRATE {
            self.calibrated = Instant::now();
            self.balancer.recalibrate()?;
        }
        Ok(())
    }

    fn worker_ended(&mut self, event: &Event) {
        for at in &event.at {
            log::error!("{at}: its worker ended: {}; the kernel forwards this queue's frames", event.error);
            // The socket left the map when it was closed; this is for a kernel that is slower.
            let _ = self.balancer.unset_socket(place_of(&self.interfaces, at), at.queue);
        }
        self.control.release_claims(&Everybody(self.seat.as_ref()));
    }

    fn answer(&mut self, asked: Asked) {
        let json = |value: Result<serde_json::Value, serde_json::Error>| value.map_err(|e| e.to_string());
        let answer = match asked.request {
            Request::Mode => json(serde_json::to_value(self.report())),
            Request::SetMode(mode) => match self.switch(mode, Ask::Prefer, "set by hand") {
                Ok(()) => {
                    log::info!("{}: mode {mode:?}: set by hand", self.interface.name);
                    json(serde_json::to_value(self.report()))
                }
                Err(error) => Err(format!("the mode stays {:?}: {error}", self.mode())),
            },
            Request::Counters => {
                let (tables, cpus) = (self.control.tables(), self.cpus);
                json(serde_json::to_value(serde_json::json!({
                    "xdp": Counters::read(tables, 0..cpus),
                    "afxdp": Counters::read(tables, cpus..tables.blocks()),
                })))
            }
        };
        // A client that did not wait does not get it.
        let _ = asked.answer.send(answer);
    }

    fn report(&self) -> ModeReport {
        let attach = match self.plan.attach {
            Attach::Native => "native",
            Attach::Generic => "generic",
        };
        let workers = self.seat.iter().flat_map(Seat::info).map(|SocketInfo { at, core, bound, statistics, .. }| {
            let bound = if statistics.is_some() { bound_name(bound) } else { "ended" };
            WorkerRow { interface: at.interface, queue: at.queue, core, bound: bound.to_owned() }
        });
        ModeReport {
            mode: self.mode(),
            why: self.why.clone(),
            interface: self.plan.interfaces.join(", "),
            attach: attach.to_owned(),
            workers: workers.collect(),
            unreachable: self.next_hops.iter().flat_map(NextHops::unreachable).collect(),
        }
    }

    /// Ends the workers, and takes away the program and the pins unless they shall stay.
    fn stop(mut self, leave: bool) -> Result<(), RunError> {
        self.control.tables().root().switch(Mode::Xdp);
        if let Some(seat) = self.seat.take() {
            for (at, _) in seat.sockets() {
                self.balancer.unset_socket(place_of(&self.interfaces, &at), at.queue)?;
            }
            let report = seat.stop();
            for (number, worker) in report.workers.iter().enumerate().filter(|(_, worker)| worker.refused > 0) {
                log::warn!("worker {number}: {} frames were dropped because a TX ring stayed full", worker.refused);
            }
        }
        if leave {
            log::info!("{}: left attached; the next run takes over", self.interface.name);
            return Ok(());
        }
        self.balancer.detach_probes(&self.interfaces)?;
        Ok(self.balancer.remove()?)
    }
}

/// What the host supplies: addresses, MACs, next hops, a key.
fn facts(
    plan: &Plan,
    interfaces: &[Interface],
    netlink: &Netlink,
    balancer: &Balancer,
) -> Result<(Facts, Option<Ways>), RunError> {
    let interface = interfaces.first().ok_or(RunError::NoInterface)?;
    let name = &interface.name;
    let lacks = |what: &str, key: &str| {
        RunError::Lacks(format!("{name} has no {what}, and the configuration does not say one; set {key}"))
    };
    let local_mac = plan.local_mac.or(interface.mac).ok_or_else(|| lacks("MAC", "node.local_mac"))?;
    let source_v4 = plan.source_v4.or(interface.v4);
    let source_v6 = plan.source_v6.or(interface.v6);
    if plan.needs_source_v4() && source_v4.is_none() {
        return Err(lacks("IPv4 address", "tunnel.source_v4"));
    }
    if plan.needs_source_v6() && source_v6.is_none() {
        return Err(lacks("IPv6 address", "tunnel.source_v6"));
    }
    let reals = plan.reals();
    let (hops, ways) = match plan.next_hop_mac {
        Some(mac) => {
            // Without a MAC of its own, a frame leaves with that of the interface it came in by.
            let from = plan.local_mac.filter(|_| interfaces.len() > 1).map_or(0, |mac| mac_word(mac.0));
            let out = Out { mtu: plan.path_mtu.unwrap_or(0), ..Reached::from(mac).out };
            (reals.iter().map(|real| (*real, Some(Reached { from, out, ..Reached::from(mac) }))).collect(), None)
        }
        None => {
            let mut ways = Ways::new(interfaces.iter().map(|interface| interface.index).collect(), local_mac);
            ways.look_within(netlink, &reals, PATIENCE)?;
            for (real, hop) in ways.found() {
                tell(*real, None, hop);
            }
            no_gateway_to_l2(plan, ways.found())?;
            (ways.hops(plan.path_mtu), Some(ways))
        }
    };
    let udp_idle_ticks = balancer.clock().ticks(plan.udp_idle);
    let nat_idle_ticks = plan.nat.idle.map(|idle| balancer.clock().ticks(idle));
    let second_ticks = balancer.clock().ticks(Duration::from_secs(1));
    let facts = Facts { local_mac, source_v4, source_v6, udp_idle_ticks, nat_idle_ticks, second_ticks, key: random_key()?, hops };
    Ok((facts, ways))
}

/// A frame without a tunnel has to go to the real itself: a gateway would route it by its destination, back to us.
fn no_gateway_to_l2(plan: &Plan, hops: &Found) -> Result<(), RunError> {
    let reals = plan.vips.iter().flat_map(|vip| &vip.reals).filter(|real| real.encap == Encap::L2);
    let behind = reals.filter_map(|real| Some((real.address, hops.get(&real.address)?.as_ref().ok()?.via)));
    match behind.into_iter().find(|(real, via)| real != via) {
        Some((real, via)) => Err(RunError::Lacks(format!(
            "real {real} has encap \"l2\" and is behind the gateway {via}; put it on the interface's own network, or choose a tunnel"
        ))),
        None => Ok(()),
    }
}

fn random_key() -> Result<[u32; 16], RunError> {
    let mut key = [0_u32; 16];
    let bytes = size_of_val(&key);
    // SAFETY: the buffer is `bytes` long and any contents are valid integers.
    let got = unsafe { libc::getrandom(key.as_mut_ptr().cast(), bytes, 0) };
    if usize::try_from(got) == Ok(bytes) { Ok(key) } else { Err(RunError::Lacks("the kernel gave no random numbers".to_owned())) }
}

/// Waits for the readers of both seats.
struct Everybody<'a>(Option<&'a Seat>);

impl Grace for Everybody<'_> {
    fn wait(&self) -> bool {
        KernelGrace.wait() && self.0.is_none_or(Seat::grace)
    }
}

/// The receive queues of each interface.
fn queues(interfaces: &[Interface]) -> Result<Vec<u32>, RunError> {
    let of = |Interface { name, .. }: &Interface| {
        receive_queues(name).map_err(|source| RunError::Queues { interface: name.clone(), source })
    };
    interfaces.iter().map(of).collect()
}

/// Which of the interfaces a queue is of.
fn place_of(interfaces: &[Interface], at: &QueueName) -> usize {
    interfaces.iter().position(|interface| interface.name == at.interface).unwrap_or(0)
}

fn bound_name(bound: Bound) -> &'static str {
    match bound {
        Bound::ZeroCopy => "zero-copy",
        Bound::Copy => "copy",
    }
}
