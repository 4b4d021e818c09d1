//! One veth pair (or two ports of the host) with a device under test at its one end, generator and receiver at the other; each in a namespace of a lab.
//!
//! ```text
//!   router (generator core)                          lb (forwarding core)
//!   generator ── redirect ──> veth ═════════════════> NAPI thread: the device under test
//!   sink: counts, drops  <─── veth <═════════════════ XDP_TX, or an AF_XDP worker's TX
//! ```
//!
//! The receive queue of the device under test is served by a kernel thread on the forwarding core (`threaded` NAPI), or the
//! generator's system call would run the device's program, on its own core and in its own time. The receiver's program runs
//! where the device sends: its cost is in every row alike, and the row `bounce` shows it.

use std::collections::HashSet;

use anyhow::{Context, Result, bail};
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use tandem_backends::afxdp::receive_queues;
use tandem_backends::facts::Netlink;
use tandem_backends::memory::Area;
use tandem_backends::xdp::REFERENCES;
use tandem_engine::memory::Line;
use tandem_lab::{Host, Lab, Spec};

use crate::frames::{payload_at, transport_at};
use crate::host;
use crate::kernel::area;
use crate::napi;
use crate::scenario::Scenario;

/// Frames that are sampled: each of so many (a power of two).
const SAMPLED: u64 = 4096;
/// Samples that are kept.
const SAMPLES: usize = 64;
/// Bytes of a sample.
pub const SAMPLE_BYTES: usize = 248;
/// Latencies that are kept.
const LATENCIES: usize = 1 << 20;

/// A frame as the receiver found it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sample {
    /// Its bytes on the wire.
    pub length: usize,
    /// The first of them, at most [`SAMPLE_BYTES`].
    pub bytes: Vec<u8>,
}

/// What the receiver counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Received {
    /// Frames of the traffic, forwarded as they should be (by length of headers and port).
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Other frames.
    pub others: u64,
}

/// Two ports of the host, with a cable between them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ports {
    /// Where the device under test is.
    pub device: String,
    /// Where generator and receiver are.
    pub generator: String,
}

/// The veth pair, or two ports.
pub struct Wire {
    /// The namespaces. They go with the value.
    pub lab: Lab,
    /// The NUMA node of the device's interface.
    pub node: Option<u32>,
    is_borrowed: bool,
    /// Its program is attached as long as it lives.
    _sink: Ebpf,
    counts: Area<Line>,
    seen: Area<Line>,
    samples: Area<Line>,
    latencies: Area<Line>,
}

impl Wire {
    /// Builds the namespaces, on a veth pair or with two ports of the host, and attaches the receiver.
    ///
    /// # Errors
    /// What the lab or the kernel refuses; nothing is left then.
    pub fn build(prefix: &str, ports: Option<&Ports>) -> Result<Self> {
        let mut lab = Lab::up(Spec { reals: 1, lb_queues: 1, ..Spec::routed(prefix, &[]) })?;
        let mut node = None;
        if let Some(Ports { device, generator }) = ports {
            // From here, as long as it is here.
            node = host::Host::default().node_of(device);
            lab.borrow_link(Host::Lb, device, generator)?;
            let queues = lab.enter(Host::Lb, || receive_queues(device))?.with_context(|| device.clone())?;
            if queues != 1 {
                bail!("{device} has {queues} receive queues, and one core is measured: `ethtool -L {device} combined 1`");
            }
        }
        let mut ebpf = EbpfLoader::new().load(REFERENCES).context("the benchmarks' object")?;
        let port = lab.link(Host::Lb)?.router.interface.clone();
        attach(&lab, Host::Router, &mut ebpf, "sink", &port, XdpMode::Driver)?;
        let (counts, seen) = (area(&ebpf, "SINK", 2)?, area(&ebpf, "SEEN", 2048)?);
        let (samples, latencies) = (area(&ebpf, "SAMPLES", 4 * SAMPLES)?, area(&ebpf, "LATENCIES", LATENCIES / 8)?);
        Ok(Self { lab, node, is_borrowed: ports.is_some(), _sink: ebpf, counts, seen, samples, latencies })
    }

    /// Has the receive queue of the device under test served by a thread on `core`; the threads, by their numbers.
    ///
    /// # Errors
    /// The kernel has no threaded NAPI for this interface.
    pub fn serve_on(&self, core: usize) -> Result<Vec<i32>> {
        let link = self.lab.link(Host::Lb)?;
        let threads = napi::into_threads(&self.lab, Host::Lb, &link.interface, self.is_borrowed)?;
        for thread in &threads {
            napi::pin(*thread, core)?;
        }
        Ok(threads)
    }

    /// Has the receive queue of a port of the host served as it was, while there is a program on it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn serve_as_before(&self) -> Result<()> {
        if self.is_borrowed { napi::out_of_threads(&self.lab, Host::Lb, &self.lab.link(Host::Lb)?.interface) } else { Ok(()) }
    }

    /// The number of the XDP program on the device's interface.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn program_on(&self) -> Result<Option<u32>> {
        let interface = self.lab.link(Host::Lb)?.interface.clone();
        let found = self.lab.enter(Host::Lb, || Ok::<_, anyhow::Error>(Netlink::open()?.interface(&interface)?))??;
        Ok(found.xdp.map(|attached| attached.program))
    }

    /// Starts counting anew: frames of `scenario` that are `longer` by so many bytes of outer headers.
    pub fn expect(&self, scenario: &Scenario, longer: usize, stamped: bool) {
        let traffic = &scenario.traffic;
        let transport = longer + transport_at(traffic.v6);
        let client = transport - if traffic.v6 { 18 } else { 6 };
        let ports: HashSet<u16> = scenario.sequence.iter().map(|item| item.step.dst_port).collect();
        let port = match ports.iter().next() {
            Some(port) if ports.len() == 1 => u64::from(port.to_be()),
            _ => u64::MAX,
        };
        let stamp = if stamped && can_stamp(scenario) { longer + payload_at(traffic) } else { 0 };
        if let Some(wanted) = self.counts.get(1) {
            // Nothing is counted while this is 0.
            wanted.set(0, 0);
            for line in self.seen.iter().chain(self.counts.first()) {
                line.clear();
            }
            let words = [(1, client as u64), (2, port), (3, SAMPLED - 1), (4, stamp as u64)];
            words.into_iter().for_each(|(at, word)| wanted.set(at, word));
            wanted.set(0, transport as u64);
        }
    }

    /// What was counted since [`Self::expect`].
    pub fn received(&self) -> Received {
        let count = |at| self.counts.first().map_or(0, |line| line.get(at));
        Received { frames: count(0), bytes: count(1), others: count(2) }
    }

    /// Distinct flows since [`Self::expect`].
    pub fn distinct(&self) -> u64 {
        self.seen.iter().flat_map(|line| (0..8).map(|word| u64::from(line.get(word).count_ones()))).sum()
    }

    /// The frames sampled last.
    pub fn samples(&self) -> Vec<Sample> {
        let taken = self.counts.first().map_or(0, |line| line.get(3)) as usize;
        let sample = |lines: &[Line]| {
            let words: Vec<u64> = lines.iter().flat_map(|line| (0..8).map(|word| line.get(word))).collect();
            let length = words.first().copied().unwrap_or(0) as usize;
            let mut bytes: Vec<u8> = words.iter().skip(1).flat_map(|word| word.to_le_bytes()).collect();
            // The receiver copies four bytes at a time.
            bytes.truncate(length - length % 4);
            Sample { length, bytes }
        };
        self.samples.chunks_exact(4).take(taken.min(SAMPLES)).map(sample).collect()
    }

    /// Nanoseconds from the generator to the receiver, of the last million frames.
    pub fn latencies(&self) -> Vec<u64> {
        let taken = self.counts.first().map_or(0, |line| line.get(4)) as usize;
        (0..taken.min(LATENCIES)).filter_map(|at| Some(self.latencies.get(at / 8)?.get(at % 8))).collect()
    }
}

/// Whether all frames have room for a stamp.
pub fn can_stamp(scenario: &Scenario) -> bool {
    let least = scenario.sequence.iter().map(|item| item.step.size as usize - 4).min().unwrap_or(0);
    least >= payload_at(&scenario.traffic) + 16
}

/// Attaches a program to an interface of a host, for as long as `ebpf` lives.
///
/// # Errors
/// No such program, or the kernel refuses it.
pub fn attach(lab: &Lab, host: Host, ebpf: &mut Ebpf, name: &str, interface: &str, mode: XdpMode) -> Result<()> {
    let program: &mut Xdp = ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?.try_into()?;
    program.load().with_context(|| format!("the program {name}"))?;
    let attached = lab.enter(host, || program.attach(interface, mode).map(|_| ()))?;
    attached.with_context(|| format!("{}: cannot attach {name} to {interface} ({mode:?})", lab.namespace(host)))
}
