//! The running balancer: both seats over one memory, and the loop that looks after them.

use std::error::Error;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, never, select, tick};
use tandem_engine::memory::Mode;

use super::capture::Session;
use super::error::RunError;
use super::file::ConfigFile;
use super::hops::NextHops;
use super::live::Probe;
use super::lock::Lock;
use super::paths::{warn_of_narrow_ways, warn_of_strange_sources};
use super::places::Paths;
use super::protocol::{Asked, CoreRow, Handle, Refusal, Reply, Request, SeatCounters};
use super::reload::{Readers, tell_of};
use super::seats::queues;
use super::server::Server;
use super::supplied::{check_key, facts};
use crate::afxdp::{Ask, Clock, Event, Seat, SeatConfig, Tap};
use crate::calibrate::{Calibrated, Record};
use crate::config::{ModeWish, Plan, Profile};
use crate::control::{Control, Counters, KernelGrace, frames, marks};
use crate::decision::Decision;
use crate::facts::{Interface, Netlink, check_privileges, is_bpffs};
use crate::memory::Sizes;
use crate::xdp::{Balancer, Role, SlotWish};

/// How often the host is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often the clock is measured again.
const CALIBRATE: Duration = Duration::from_secs(60);

/// How long the flows of a removed real that keeps them may be silent.
const REMOVED_IDLE: Duration = Duration::from_secs(15 * 60);
/// Why nobody can say which flows depend on state.
const NOT_KNOWN: &str = "the tables do not keep what flows asked their ring by (profile katran, or tables that were made under it): which of them depend \
     on state is not known";

/// What a run needs beside the plan.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Options {
    /// Name of this balancer, for its pins and its socket; `None`: the interface's.
    pub name: Option<String>,
    /// The file that the plan came from, for [`Request::Reload`].
    pub config: Option<PathBuf>,
    /// Leaves the program attached and the tables pinned at the end, for the next run to take over.
    pub leave_attached: bool,
    /// Takes the place of a process that is running: it is told to leave everything in place and to end.
    pub take_over: bool,
    /// A slot of a root's program array to enter; `None`: the interface itself.
    pub slot: Option<SlotWish>,
    /// What the seats cost, for mode auto ([`calibration`](super::calibration)); `None`: what is saved of it.
    pub calibration: Option<Calibrated>,
}

/// What a run is told from outside, by signal handlers say: set, never cleared by who sets it.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    /// To end.
    pub stop: Arc<AtomicBool>,
    /// To end and to leave everything in place for the next process.
    pub hand_over: Arc<AtomicBool>,
    /// To read the configuration file again.
    pub reload: Arc<AtomicBool>,
}

/// Where a run is in its life, for whoever supervises it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    /// It forwards: the first time, and after each reload.
    Ready,
    /// The configuration is read again.
    Reloading,
    /// It is all right; said every second.
    Alive,
    /// It ends.
    Stopping,
}

/// Runs the balancer until it is told to stop. `tell` hears of its life; `serve` gets the handle that requests go through
/// and the control socket, before the first [`Life::Ready`], and what it gives back lives until the end.
///
/// # Errors
/// [`RunError`]; the host is as it was then.
pub fn run<S>(
    plan: &Plan,
    options: &Options,
    signals: &Signals,
    mut tell: impl FnMut(Life),
    serve: impl FnOnce(Handle, UnixListener) -> Result<S, Box<dyn Error + Send + Sync>>,
) -> Result<(), RunError> {
    check_privileges(plan.mode == ModeWish::Afxdp)?;
    let interface = plan.interfaces.first().ok_or(RunError::NoInterface)?;
    let paths = Paths::of(options.name.as_deref().unwrap_or(interface));
    let bpffs = PathBuf::from("/sys/fs/bpf");
    if !is_bpffs(&bpffs) {
        return Err(RunError::NoBpffs(bpffs));
    }
    let _lock = Lock::take(&paths.lock, options.take_over)?;
    let mut record = Kept::of(&paths, options);
    let server = Server::listen(&paths.socket)?;
    let was_there = Balancer::is_left(&paths.pins);
    let mut running = match Running::start(plan, &paths, options) {
        Ok(running) => running,
        Err(error) => {
            // Nothing of a failed start stays, but what a balancer before left stays as it was.
            if !was_there {
                let _ = Balancer::remove_left(&paths.pins);
            }
            return Err(error);
        }
    };
    let (handle, requests) = Handle::new();
    let serving = server.socket().and_then(|socket| serve(handle, socket).map_err(RunError::Serve));
    let leave = || options.leave_attached || signals.hand_over.load(Ordering::Relaxed);
    let (serving, end) = match serving {
        Ok(serving) => {
            tell(Life::Ready);
            (Some(serving), running.look_after(&requests, signals, &mut tell))
        }
        Err(error) => (None, Err(error)),
    };
    tell(Life::Stopping);
    let leaves = leave() && end.is_ok();
    record.stays |= leaves;
    running.stop(leaves)?;
    drop((serving, requests));
    end
}

/// What was measured at a start; it goes with the process, unless that leaves the balancer to the next one.
struct Kept {
    path: PathBuf,
    stays: bool,
}

impl Kept {
    fn of(paths: &Paths, options: &Options) -> Self {
        let goes = options.calibration.as_ref().is_some_and(|calibrated| calibrated.goes);
        Self { path: paths.calibration.clone(), stays: !goes }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Somebody may have asked for another one meanwhile.
        if !self.stays && !Record::read(&self.path).is_ok_and(|record| record.was_asked_for) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

pub(super) struct Running {
    pub(super) plan: Arc<Plan>,
    pub(super) options: Options,
    /// The first of the interfaces, which supplies what is not configured.
    pub(super) interface: Interface,
    /// All of them.
    pub(super) interfaces: Vec<Interface>,
    pub(super) netlink: Netlink,
    pub(super) balancer: Balancer,
    pub(super) control: Control,
    /// `None`: the configuration says where every frame goes.
    pub(super) next_hops: Option<NextHops>,
    pub(super) seat: Option<Seat>,
    /// What the workers tell of captured frames.
    pub(super) tap: Arc<Tap>,
    /// Who captures.
    pub(super) capture: Option<Session>,
    /// Receive queues of the first interface, when they were looked at last.
    pub(super) queues: Vec<u32>,
    /// Blocks of counters before the workers': one for each CPU.
    pub(super) cpus: u32,
    pub(super) why: String,
    /// What mode auto found out, or the last probe on the interface.
    pub(super) decision: Option<Decision>,
    /// The probe on the interface that goes on.
    pub(super) probe: Option<Probe>,
    /// The configuration file, if the plan came from one.
    pub(super) file: Option<ConfigFile>,
    calibrated: Instant,
}

impl Running {
    fn start(plan: &Plan, paths: &Paths, options: &Options) -> Result<Self, RunError> {
        let netlink = Netlink::open()?;
        let interfaces = plan.interfaces.iter().map(|name| netlink.interface(name)).collect::<Result<Vec<_>, _>>()?;
        let interface = interfaces.first().ok_or(RunError::NoInterface)?.clone();
        match &options.slot {
            Some(_) if interfaces.len() > 1 => return Err(RunError::SlotOfSeveral),
            Some(slot) => Balancer::check_slot(&paths.pins, slot, &interface)?,
            None => Balancer::check_left(&paths.pins, &interfaces)?,
        }
        let cpus = aya::util::nr_cpus().map_or(1, |n| n as u32);
        // A block for each worker; drivers offer as many queues as there are CPUs, even if fewer are in use now.
        let queues = queues(&interfaces)?;
        let needed = cpus + SeatConfig::workers(queues.iter().copied()).max(cpus);
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
        let (facts, ways) = facts(plan, &interfaces, &netlink, &balancer, None)?;
        if control.is_configured() {
            check_key(plan, &facts, balancer.tables())?;
        }
        // A process that was killed in mode afxdp left no workers.
        balancer.tables().root().switch(Mode::Xdp);
        balancer.tables().root().beat(balancer.clock().tick());
        let changes = control.apply(plan, &facts, &KernelGrace)?;
        tell_of(&interface.name, plan, &control, &changes);
        log::info!(
            "{}: memory of the tables for {found} CPUs and workers: {}",
            interface.name,
            balancer.tables().sizes().in_words()
        );
        interfaces.iter().for_each(|interface| warn_of_narrow_ways(plan, interface, balancer.tables()));
        if plan.profile == Profile::Standard {
            warn_of_strange_sources(plan, [facts.source_v4.map(Into::into), facts.source_v6.map(Into::into)], &netlink);
        }
        let next_hops = ways.map(|ways| NextHops::new(plan, &control, ways)).transpose()?;
        let mut running = Self {
            plan: Arc::new(plan.clone()),
            options: options.clone(),
            interface,
            interfaces,
            netlink,
            balancer,
            control,
            next_hops,
            seat: None,
            tap: Arc::default(),
            capture: None,
            queues,
            cpus,
            why: String::new(),
            decision: None,
            probe: None,
            file: options.config.as_deref().map(ConfigFile::watch),
            calibrated: Instant::now(),
        };
        running.attach()?;
        running.start_probes()?;
        if let Err(error) = running.choose_mode() {
            running.stop(false)?;
            return Err(error);
        }
        Ok(running)
    }

    /// Puts the loaded program where frames come by, or into the place of the one that is there, without a gap.
    pub(super) fn attach(&mut self) -> Result<(), RunError> {
        if let Some(slot) = &self.options.slot {
            return Ok(self.balancer.enter(slot, &self.interface)?);
        }
        if self.interfaces.len() > 1 {
            self.balancer.set_devices(&self.interfaces)?;
        }
        Ok(self.balancer.attach(&self.interfaces, self.plan.attach)?)
    }

    /// Sends the probes of health checks to the reals of their marks, if the configuration names any.
    pub(super) fn start_probes(&mut self) -> Result<(), RunError> {
        let name = &self.interface.name;
        if self.plan.health_encaps.is_empty() {
            return Ok(self.balancer.detach_probes(&self.interfaces)?);
        }
        self.balancer.set_marks(&marks(&self.plan, self.control.tables()))?;
        self.balancer.attach_probes(&self.interfaces)?;
        log::info!("{name}: probes with {} socket marks go to their reals", self.plan.health_encaps.len());
        Ok(())
    }

    fn look_after(&mut self, requests: &Receiver<Asked>, signals: &Signals, tell: &mut dyn FnMut(Life)) -> Result<(), RunError> {
        let ticks = tick(Duration::from_millis(100));
        let mut looked = Instant::now();
        loop {
            let events: Receiver<Event> = self.seat.as_ref().map_or_else(never, |seat| seat.events().clone());
            let file: Receiver<()> = self.file.as_ref().map_or_else(never, |file| file.changes.clone());
            let changes: Receiver<()> = self.next_hops.as_ref().map_or_else(never, NextHops::changes);
            let mut changed = false;
            self.beat();
            self.follow_capture();
            self.follow_probe();
            if let Err(error) = self.follow_queues() {
                log::error!("{}: cannot follow its receive queues, the kernel forwards as before: {error}", self.interface.name);
            }
            select! {
                recv(requests) -> asked => if let Ok(asked) = asked { self.serve(asked, tell) },
                recv(events) -> event => if let Ok(event) = event { self.worker_ended(&event) },
                recv(changes) -> told => if let Some(hops) = &mut self.next_hops { hops.note(told.is_ok()) },
                recv(file) -> told => changed = self.file_changed(told.is_ok()),
                recv(ticks) -> _ => {}
            }
            if signals.stop.load(Ordering::Relaxed) || signals.hand_over.load(Ordering::Relaxed) {
                log::info!("{}: stopping", self.interface.name);
                return Ok(());
            }
            if (signals.reload.swap(false, Ordering::Relaxed) || changed)
                && let Err(refusal) = self.reload(tell)
            {
                log::error!("the configuration stays as it was: {refusal}");
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.look()?;
                tell(Life::Alive);
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
            let idle = self.balancer.clock().ticks(REMOVED_IDLE);
            let freed = self.control.free_idle(self.balancer.clock().tick(), idle, &Readers(self.seat.as_ref()))?;
            if freed > 0 {
                log::info!("{}: {freed} removed reals have no flows any more", self.interface.name);
            }
        }
        Ok(())
    }

    /// Tells the data path that somebody is there.
    fn beat(&self) {
        self.control.tables().root().beat(self.balancer.clock().tick());
    }

    fn serve(&mut self, Asked { request, answer }: Asked, tell: &mut dyn FnMut(Life)) {
        if let Request::ProbeMode(wish) = request {
            return self.start_probe(wish, answer);
        }
        // A client that did not wait does not get it.
        let _ = answer.send(self.answer(request, tell));
    }

    fn answer(&mut self, request: Request, tell: &mut dyn FnMut(Life)) -> Result<Reply, Refusal> {
        match request {
            Request::Mode => Ok(Reply::Mode(self.report())),
            Request::ProbeMode(_) => Err(Refusal::Failed("a probe on the interface has its answer at its end".to_owned())),
            Request::SetMode(mode) => match self.switch(mode, Ask::Prefer, "set by hand") {
                Ok(()) => {
                    self.give_up_probe("the mode was set by hand");
                    log::info!("{}: mode {mode:?}: set by hand", self.interface.name);
                    Ok(Reply::Mode(self.report()))
                }
                Err(error) => Err(Refusal::Failed(format!("the mode stays {:?}: {error}", self.mode()))),
            },
            Request::Counters => {
                let (tables, cpus) = (self.control.tables(), self.cpus);
                let (xdp, afxdp) = (Counters::read(tables, 0..cpus), Counters::read(tables, cpus..tables.blocks()));
                Ok(Reply::Counters(Box::new(SeatCounters { xdp, afxdp })))
            }
            Request::Cores => Ok(Reply::Cores(self.cores())),
            Request::Plan => Ok(Reply::Plan(self.plan.clone())),
            Request::Apply(plan) => self.apply(*plan).map(Reply::Applied),
            Request::FlowRows => {
                let rows = self.control.flow_rows(self.balancer.clock().tick());
                rows.map(Reply::FlowRows).ok_or_else(|| Refusal::Failed(NOT_KNOWN.to_owned()))
            }
            Request::ExportFlows { only_depending: true } if !self.control.knows_depending() => {
                Err(Refusal::Failed(format!("{NOT_KNOWN}; export all flows")))
            }
            Request::ExportFlows { only_depending } => {
                let clock = self.balancer.clock();
                Ok(Reply::Flows(Box::new(self.control.export_flows(only_depending, clock.tick(), clock.tick_ms()))))
            }
            Request::ImportFlows(flows) => {
                let clock = self.balancer.clock();
                let done = self.control.import_flows(&flows, clock.tick(), clock.tick_ms());
                done.map(Reply::Imported).map_err(|error| Refusal::Failed(error.to_string()))
            }
            Request::Rings => Ok(Reply::Rings(self.control.ring_rows())),
            Request::Reload => self.reload(tell).map(Reply::Applied),
            Request::Capture(wish) => self.start_capture(wish).map(Reply::Capture),
        }
    }

    /// What each core did: the CPUs' kernel seats, then the workers.
    fn cores(&self) -> Vec<CoreRow> {
        let tables = self.control.tables();
        let names = (0..tables.blocks()).map(|block| match block.checked_sub(self.cpus) {
            None => (block, format!("cpu {block}")),
            Some(queue) => (block, format!("queue {queue}")),
        });
        names.map(|(block, core)| CoreRow { core, frames: frames(tables, block) }).collect()
    }

    /// Ends the workers, and takes away the program and the pins unless they shall stay.
    fn stop(mut self, leave: bool) -> Result<(), RunError> {
        self.stop_workers()?;
        self.end_capture(leave);
        if leave {
            log::info!("{}: left attached; the next run takes over", self.interface.name);
            return Ok(());
        }
        self.balancer.detach_probes(&self.interfaces)?;
        Ok(self.balancer.remove()?)
    }
}
