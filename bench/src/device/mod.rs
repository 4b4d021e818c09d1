//! Devices under test: the balancer's two seats, and what they are compared with.

mod plain;
mod reference;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use aya::Ebpf;
use aya::programs::{Xdp, XdpMode};
use aya_obj::programs::XdpAttachType;
use serde::{Deserialize, Serialize};
use tandem_api::wire::Seat;
use tandem_backends::config::Attach;
use tandem_backends::memory::Area;
use tandem_backends::xdp::{attach_root, detach_root};
use tandem_engine::memory::Line;
use tandem_lab::{Host, Interrupt};

use crate::balancer::{Running, Setting, configuration};
use crate::napi;
use crate::scenario::Scenario;
use crate::wire::{Ports, Wire};
use plain::Plain;

/// What forwards, as results name it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The balancer in the kernel.
    Xdp,
    /// The balancer in userspace.
    Afxdp,
    /// Counts and drops: what generator and interface can do.
    Drop,
    /// XDP_TX of the frame as it is.
    Bounce,
    /// A fixed IPIP header without any lookup, IPv4 alone: the limit of the kernel seat.
    FixedHeader,
    /// Userspace sends each frame back as it is: the limit of the userspace seat.
    AfxdpPlain,
    /// Another loaded XDP program.
    Program,
    /// The balancer's bytecode in userspace, on memory alone: behind the feature `bytecode`.
    Bytecode,
}

impl Mode {
    /// All that a run has by itself.
    pub const ALL: [Self; 6] = [Self::Xdp, Self::Afxdp, Self::Drop, Self::Bounce, Self::FixedHeader, Self::AfxdpPlain];

    /// All that results may have.
    pub const KNOWN: [Self; 8] = {
        let [a, b, c, d, e, f] = Self::ALL;
        [a, b, c, d, e, f, Self::Program, Self::Bytecode]
    };

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Afxdp => "afxdp",
            Self::Drop => "drop",
            Self::Bounce => "bounce",
            Self::FixedHeader => "fixed-header",
            Self::AfxdpPlain => "afxdp-plain",
            Self::Program => "program",
            Self::Bytecode => "bytecode",
        }
    }

    /// A seat of the balancer.
    pub fn is_balancer(self) -> bool {
        matches!(self, Self::Xdp | Self::Afxdp)
    }

    /// Whether frames pass through userspace.
    pub fn is_userspace(self) -> bool {
        matches!(self, Self::Afxdp | Self::AfxdpPlain)
    }

    /// Bytes of outer headers that it puts in front.
    pub fn overhead(self, v6: bool) -> usize {
        match self {
            Self::Xdp | Self::Afxdp if v6 => 40,
            Self::Xdp | Self::Afxdp | Self::FixedHeader => 20,
            Self::Drop | Self::Bounce | Self::AfxdpPlain | Self::Program | Self::Bytecode => 0,
        }
    }

    /// Whether it is an interface's.
    pub fn has_device(self) -> bool {
        self != Self::Bytecode
    }

    /// Whether it takes this traffic.
    pub fn takes(self, scenario: &Scenario) -> bool {
        self.has_device() && (self != Self::FixedHeader || !scenario.traffic.v6)
    }

    /// Whether the core alone is measured in it, on memory.
    pub fn is_core(self) -> bool {
        self.is_balancer() || self == Self::Bytecode
    }
}

/// What is behind a wire.
enum What {
    Balancer {
        running: Running,
        root: Option<PathBuf>,
        _delay: Option<Ebpf>,
    },
    Reference {
        _ebpf: Ebpf,
        reached: Area<Line>,
        plain: Option<Plain>,
    },
    /// It counts nothing that we could read.
    Program {
        _loaded: Xdp,
    },
}

/// A device under test on its wire.
pub struct Device {
    // Before the wire: it ends first.
    what: What,
    /// Its wire.
    pub wire: Wire,
    /// The threads that serve its receive queue.
    napi: Vec<i32>,
    /// The forwarding core.
    pub core: usize,
    /// The XDP program on its interface, by its number.
    pub program: u32,
    /// The thread of its core's softirqs.
    pub softirq_thread: Option<i32>,
    mode: Mode,
    bound: String,
    /// Bytes of outer headers of a program that is not ours.
    overhead: usize,
}

/// What a device counted, as far as it counts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Frames that reached it.
    pub received: u64,
    /// Frames that it sent; `None`: it does not count them.
    pub forwarded: Option<u64>,
    /// Frames whose real was chosen anew; `None`: it knows no flows.
    pub anew: Option<u64>,
    /// Frames that another seat than the one asked for has forwarded.
    pub elsewhere: u64,
}

/// An artificial delay in front of the balancer, to see whether comparisons find it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Delay {
    /// Nanoseconds for each frame; with 0 the same programs are called, without the delay.
    pub nanos: f64,
}

/// What devices are built of.
pub struct Parts<'a> {
    /// Their namespaces' names begin with it.
    pub prefix: &'a str,
    /// The `tandem` binary.
    pub program: &'a Path,
    /// Whose destinations are VIPs.
    pub scenarios: &'a [Scenario],
    /// The balancer's configuration.
    pub setting: &'a Setting,
    /// A delay in front of the balancer.
    pub delay: Option<Delay>,
    /// Ports of the host instead of a veth pair.
    pub ports: Option<&'a Ports>,
    /// Ends the start.
    pub interrupt: &'a Interrupt,
}

impl Parts<'_> {
    fn core(&self) -> Result<usize> {
        self.setting.cores.first().copied().context("no forwarding core")
    }
}

impl Device {
    /// Starts the balancer, for both its seats.
    ///
    /// # Errors
    /// Whatever does not start; nothing is left then.
    pub fn balancer(parts: &Parts<'_>) -> Result<Self> {
        let core = parts.core()?;
        let mut wire = Wire::build(&format!("{}-lb", parts.prefix), parts.ports)?;
        let link = wire.lab.link(Host::Lb)?.clone();
        let text = configuration(parts.scenarios, &link, parts.setting)?;
        let (mut more, mut root, mut kept) = (Vec::new(), None, None);
        if let Some(delay) = parts.delay {
            let array = PathBuf::from(format!("{}/{}-root", tandem_lab::BPFFS, parts.prefix));
            let mut link_pin = array.clone().into_os_string();
            link_pin.push("_link");
            wire.lab.remove_with_it([array.clone(), PathBuf::from(link_pin)])?;
            wire.lab.ensure_bpffs(Path::new(tandem_lab::BPFFS))?;
            wire.lab.enter(Host::Lb, || attach_root(&link.interface, Attach::Native, &array))??;
            kept = Some(reference::delay(&array, delay)?);
            more = vec!["--xdp-root".to_owned(), array.display().to_string(), "--xdp-slot".to_owned(), "1".to_owned()];
            root = Some(array);
        }
        if parts.setting.generic {
            wire.lab.enter(Host::Lb, || tandem_lab::switch_gro_on(&link.interface))?.context("the device's receive queue")?;
        }
        let running = Running::start(&mut wire.lab, parts.program, &text, &more, parts.interrupt)?;
        let napi = wire.serve_on(core)?;
        let bound = if parts.setting.generic { "generic" } else { "native" }.to_owned();
        let program = wire.program_on()?.context("no XDP program is on the balancer's interface")?;
        let (what, softirq_thread) = (What::Balancer { running, root, _delay: kept }, napi::softirq_thread(core));
        Ok(Self { what, wire, napi, core, program, softirq_thread, mode: Mode::Xdp, bound, overhead: 0 })
    }

    /// Attaches a reference.
    ///
    /// # Errors
    /// What the kernel refuses; nothing is left then.
    pub fn reference(mode: Mode, parts: &Parts<'_>) -> Result<Self> {
        let core = parts.core()?;
        let wire = Wire::build(&format!("{}-{}", parts.prefix, mode.name()), parts.ports)?;
        let (mut ebpf, reached) = reference::attach(mode, &wire.lab)?;
        let napi = wire.serve_on(core)?;
        let mut bound = "native".to_owned();
        let mut plain = None;
        if mode == Mode::AfxdpPlain {
            let forwarder = Plain::start(&wire.lab, &mut ebpf, core)?;
            forwarder.bound().clone_into(&mut bound);
            plain = Some(forwarder);
        }
        let program = wire.program_on()?.context("no XDP program is on the reference's interface")?;
        let (what, softirq_thread) = (What::Reference { _ebpf: ebpf, reached, plain }, napi::softirq_thread(core));
        Ok(Self { what, wire, napi, core, program, softirq_thread, mode, bound, overhead: 0 })
    }

    /// Attaches another program, which somebody has loaded, configured and pinned; it puts `overhead` bytes of outer headers in
    /// front of each frame.
    ///
    /// # Errors
    /// No XDP program is pinned there, or the kernel refuses it.
    pub fn pinned(pin: &Path, overhead: usize, parts: &Parts<'_>) -> Result<Self> {
        let core = parts.core()?;
        let wire = Wire::build(&format!("{}-program", parts.prefix), parts.ports)?;
        let interface = wire.lab.link(Host::Lb)?.interface.clone();
        let loaded = Xdp::from_pin(pin, XdpAttachType::Interface);
        let mut loaded = loaded.with_context(|| format!("{}: no XDP program is pinned here", pin.display()))?;
        wire.lab.enter(Host::Lb, || loaded.attach(&interface, XdpMode::Driver).map(|_| ()))?.context("the pinned program")?;
        let napi = wire.serve_on(core)?;
        let program = wire.program_on()?.context("the pinned program is not on its interface")?;
        let (what, softirq_thread, bound) = (What::Program { _loaded: loaded }, napi::softirq_thread(core), "native".to_owned());
        Ok(Self { what, wire, napi, core, program, softirq_thread, mode: Mode::Program, bound, overhead })
    }

    /// Bytes of outer headers that it puts in front of frames.
    pub fn overhead(&self, v6: bool) -> usize {
        if self.mode == Mode::Program { self.overhead } else { self.mode.overhead(v6) }
    }

    /// Makes it forward as `mode` says.
    ///
    /// # Errors
    /// It is another device, or the balancer refuses.
    pub fn switch(&mut self, mode: Mode) -> Result<()> {
        let What::Balancer { running, .. } = &self.what else {
            return if mode == self.mode { Ok(()) } else { bail!("{} cannot be {}", self.mode.name(), mode.name()) };
        };
        let seat = match mode {
            Mode::Xdp => Seat::Xdp,
            Mode::Afxdp => Seat::Afxdp,
            other => bail!("the balancer has no mode {}", other.name()),
        };
        let report = running.set_mode(seat)?;
        self.bound = match mode {
            Mode::Xdp => report.attach,
            _ => report.workers.first().map_or_else(String::new, |worker| worker.bound.replace('-', "")),
        };
        self.mode = mode;
        Ok(())
    }

    /// What it is now.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// How the kernel bound it: `native`, `generic`, `copy` or `zerocopy`.
    pub fn bound(&self) -> &str {
        &self.bound
    }

    /// What it counted so far.
    ///
    /// # Errors
    /// The balancer does not answer.
    pub fn tally(&self) -> Result<Tally> {
        match &self.what {
            What::Balancer { running, .. } => {
                let counted = running.counted()?;
                let elsewhere = if self.mode == Mode::Afxdp { counted.without_worker } else { 0 };
                let (forwarded, anew) = (Some(counted.forwarded), Some(counted.anew));
                Ok(Tally { received: counted.received, forwarded, anew, elsewhere })
            }
            What::Reference { reached, plain, .. } => {
                let received = reached.first().map_or(0, |line| line.get(0));
                let forwarded = match (self.mode, plain) {
                    (Mode::Drop, _) => Some(0),
                    (_, Some(plain)) => Some(plain.sent()),
                    (_, None) => Some(received),
                };
                Ok(Tally { received, forwarded, ..Tally::default() })
            }
            What::Program { .. } => Ok(Tally { received: self.wire.received().frames, ..Tally::default() }),
        }
    }

    /// The threads that do its work, with a name for each kind: those of the receive queue, and workers.
    pub fn threads(&self) -> Vec<(i32, &'static str)> {
        let mut threads: Vec<_> = self.napi.iter().map(|thread| (*thread, "napi")).collect();
        match &self.what {
            What::Balancer { running, .. } => {
                let all = napi::threads_of_process(running.pid());
                threads.extend(
                    all.into_iter().map(|(thread, name)| (thread, if name.starts_with("xsk") { "worker" } else { "control" })),
                );
            }
            What::Reference { plain, .. } => threads.extend(plain.iter().map(|plain| (plain.thread(), "worker"))),
            What::Program { .. } => {}
        }
        threads
    }

    /// The cores on which its receive queue was served last.
    pub fn queue_cores(&self) -> Vec<usize> {
        self.napi.iter().filter_map(|thread| napi::core_of(*thread)).collect()
    }

    /// Takes it away.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn tear_down(self) -> Result<()> {
        let Self { what, wire, .. } = self;
        wire.serve_as_before()?;
        match what {
            What::Balancer { running, root, .. } => {
                running.stop()?;
                if let Some(root) = root {
                    detach_root(&root)?;
                }
            }
            What::Reference { plain, .. } => drop(plain),
            What::Program { .. } => {}
        }
        wire.lab.tear_down().map(|_| ()).context("the lab")
    }
}
