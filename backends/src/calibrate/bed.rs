//! What is in the private namespace: two veth pairs, the balancer on one, a program that sends back on the other, the receiver at
//! their far ends, and the threads whose time is counted.

use std::fs;
use std::time::{Duration, Instant};

use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::{LinkUnspec, LinkVeth};
use tandem_engine::memory::Mode;

use super::traffic::{Traffic, VIP, VIP_PORT};
use super::{CalibrateError, Feed};
use crate::afxdp::{Ask, Seat, SeatConfig};
use crate::config::{Attach, Plan, parse};
use crate::control::{Control, Facts, KernelGrace};
use crate::facts::{self, Netlink, named};
use crate::memory::{Plain, Sizes};
use crate::xdp::{Balancer, REFERENCES, Role, chain};

/// How long a kernel thread may take to appear.
const PATIENCE: Duration = Duration::from_secs(1);
/// The flow table is as small as this traffic needs it: what a large one costs, both seats pay alike.
const CAPACITY: u32 = 65_536;

/// One veth pair.
pub(super) struct Pair {
    /// Index of the generator's end.
    pub far: u32,
    /// The thread that serves the other end's receive queue.
    pub queue: i32,
}

/// All of it; goes with the value and the thread.
pub(super) struct Bed {
    /// Who sends and receives.
    pub traffic: Traffic,
    pub balanced: Pair,
    pub bounced: Pair,
    /// The worker's thread.
    pub worker: i32,
    /// The core that forwards.
    pub core: usize,
    balancer: Balancer,
    seat: Option<Seat>,
    _bounce: Ebpf,
}

/// The names of a pair's ends: short, or the kernel cuts those of its threads; with this process' number, since those are seen from
/// everywhere.
fn names(letter: char) -> [String; 2] {
    let id = std::process::id();
    [format!("c{id}{letter}"), format!("r{id}{letter}")]
}

impl Bed {
    pub fn make(cores: &[usize], feed: Feed) -> Result<Self, CalibrateError> {
        let all: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
        let core = cores.last().or(all.last()).copied().unwrap_or(0);
        // Others, if there are any.
        let mut others = all.into_iter().filter(|other| *other != core);
        let generator = others.next().unwrap_or(core);
        let receiver = others.next().unwrap_or(core);
        let netlink = Netlink::open()?;
        let pairs = [names('a'), names('b')];
        for [near, far] in &pairs {
            add_veth(&netlink, near, far)?;
        }
        let [[near, far], [bounce, bounced]] = &pairs;
        let plan = plan()?;
        let facts = Facts::of_plan(&plan, 0).map_err(CalibrateError::Plan)?;
        let cpus = aya::util::nr_cpus().map_or(1, |n| n as u32);
        let mut balancer = Balancer::load(&Role::Unpinned, Sizes::for_plan(&plan, cpus + 1))?;
        Control::adopt(balancer.tables().clone())?.apply(&plan, &facts, &KernelGrace)?;
        balancer.attach(&[netlink.interface(near)?], Attach::Native)?;
        let mut references = EbpfLoader::new().map_max_entries("LATENCIES", 1).load(REFERENCES).map_err(unloaded)?;
        attach(&mut references, "bounce", bounce)?;
        let mut traffic = Traffic::load()?;
        for end in [far, bounced] {
            attach(traffic.object()?, "circle_receive", end)?;
        }
        let mut threads = Vec::new();
        for (end, core) in [(near, core), (bounce, core), (far, receiver), (bounced, receiver)] {
            threads.push(into_thread(end, core)?);
        }
        let pair = |far: &String, queue: usize| -> Result<Pair, CalibrateError> {
            Ok(Pair { far: netlink.interface(far)?.index, queue: threads.get(queue).copied().unwrap_or_default() })
        };
        let (balanced, bounced) = (pair(far, 0)?, pair(bounced, 1)?);
        let config = SeatConfig { zero_copy: Ask::Never, ..SeatConfig::new(&[(near.as_str(), 1)], vec![core]) };
        let seat = Seat::start(&config, vec![(Plain::new(balancer.tables().clone(), cpus), balancer.clock())])?;
        for (at, socket) in seat.sockets() {
            balancer.set_socket(0, &at, socket)?;
        }
        let worker = worker(near)?;
        let [[_, far], [_, bounced_far]] = pairs;
        traffic.start(generator, feed, vec![(balanced.far, far), (bounced.far, bounced_far)])?;
        Ok(Self { traffic, balanced, bounced, worker, core, balancer, seat: Some(seat), _bounce: references })
    }

    /// The live switch.
    pub fn switch(&self, mode: Mode) {
        self.balancer.tables().root().switch(mode);
    }

    /// Whether the worker goes on.
    pub fn is_whole(&self) -> bool {
        self.seat.as_ref().is_some_and(|seat| seat.events().is_empty())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // The worker sends by a link that is still there.
        drop(self.seat.take());
    }
}

fn unloaded(error: aya::EbpfError) -> CalibrateError {
    link("the calibration's programs cannot be loaded", &error)
}

fn link(step: impl Into<String>, error: &(dyn std::error::Error + 'static)) -> CalibrateError {
    CalibrateError::Link { step: step.into(), cause: chain(error), cure: "`dmesg | tail` may say more" }
}

fn plan() -> Result<Plan, CalibrateError> {
    let text = format!(
        r#"
        node = {{ next_hop_mac = "02:00:00:00:00:09", local_mac = "02:00:00:00:00:01" }}
        tunnel.source_v4 = "192.0.2.1"
        flows.capacity = {CAPACITY}
        flows.new_flows_per_core = 4_000_000_000
        [[vip]]
        address = "{VIP}"
        port = {VIP_PORT}
        protocol = "udp"
        real = [{{ address = "10.0.0.1" }}, {{ address = "10.0.0.2" }}, {{ address = "10.0.0.3" }}]
        "#
    );
    parse(&text, "calibration").map(|loaded| loaded.plan).map_err(|error| CalibrateError::Plan(error.to_string()))
}

/// A pair of one queue, both ends up.
fn add_veth(netlink: &Netlink, near: &str, far: &str) -> Result<(), CalibrateError> {
    let one = [LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)];
    let (mut peer, mut pair) = (LinkUnspec::new_with_name(far), LinkVeth::new(near, far));
    for attribute in &one {
        peer = peer.append_extra_attribute(attribute.clone());
    }
    pair = pair.set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
    for attribute in one {
        pair = pair.append_extra_attribute(attribute);
    }
    let made = netlink.run(async |handle| handle.link().add(pair.build()).execute().await);
    made.map_err(|error| CalibrateError::Link {
        step: "cannot make a veth pair".to_owned(),
        cause: error.to_string(),
        cure: "`modprobe veth` loads what may be missing",
    })?;
    for name in [near, far] {
        let up = LinkUnspec::new_with_name(name).up().build();
        let done = netlink.run(async |handle| handle.link().change(up).execute().await);
        done.map_err(|error| link(format!("cannot set {name} up"), &error))?;
    }
    Ok(())
}

/// Attaches a program natively, for as long as the object lives.
fn attach(ebpf: &mut Ebpf, name: &'static str, interface: &str) -> Result<(), CalibrateError> {
    let step = format!("cannot attach the program {name}");
    let program: Option<&mut Xdp> = ebpf.program_mut(name).and_then(|program| program.try_into().ok());
    let program = program.ok_or_else(|| CalibrateError::Plan(format!("the object has no program {name}")))?;
    match program.load() {
        Ok(()) | Err(aya::programs::ProgramError::AlreadyLoaded) => {}
        Err(error) => return Err(link(step, &error)),
    }
    program.attach(interface, XdpMode::Driver).map(|_| ()).map_err(|error| link(step, &error))
}

/// Has an interface's receive queue, which has its program already, served by a thread on `core`; the thread's number.
fn into_thread(interface: &str, core: usize) -> Result<i32, CalibrateError> {
    let lacks = |cause: String| CalibrateError::Link {
        step: format!("cannot have {interface} served by a thread"),
        cause,
        cure: "threaded NAPI takes Linux 5.12, a writable sysfs, and a /proc that shows the kernel's threads",
    };
    fs::write(format!("/sys/class/net/{interface}/threaded"), "1").map_err(|error| lacks(error.to_string()))?;
    let (until, name) = (Instant::now() + PATIENCE, format!("napi/{interface}-"));
    let thread = loop {
        match named("/proc", &name).next() {
            Some(thread) => break thread,
            None if Instant::now() > until => return Err(lacks(format!("no thread {name}* in /proc"))),
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let mut set = CpuSet::new();
    // Where it may not be pinned, its time is counted all the same.
    if set.set(core).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(thread), &set);
    }
    Ok(thread)
}

/// The thread of the worker on this interface, which the seat has named so.
fn worker(interface: &str) -> Result<i32, CalibrateError> {
    let name = format!("xsk0-{interface}");
    named("/proc/self/task", &name).next().ok_or_else(|| CalibrateError::Plan(format!("no thread {name} in /proc/self/task")))
}

/// Nanoseconds that a thread has run.
pub(super) fn time_of(thread: i32) -> Result<u64, CalibrateError> {
    facts::time_of(thread).map_err(|error| CalibrateError::Link {
        step: format!("cannot read the time of thread {thread}"),
        cause: error.to_string(),
        cure: "it takes a kernel with CONFIG_SCHED_INFO",
    })
}
