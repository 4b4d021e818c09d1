//! Everything that the demo runs on: the lab, the servers, the balancer as a process of its own.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use serde_json::Value;
use tandem_api::client::{Client, ClientError};
use tandem_api::{seat_name, wire};
use tandem_backends::config;
use tandem_backends::run::{ModeName, Paths};
use tandem_lab::{Host, Interrupt, Lab, MARKER, Process, Servers, Services, Spec};

use super::progress::Step;
use crate::lab::rig;
use crate::lab::scene::{Oracle, Service, configuration, iperf3_port};

const V4: [IpAddr; 3] = [vip_v4(1), vip_v4(2), vip_v4(3)];
const V6: [IpAddr; 2] = [vip_v6(1), vip_v6(2)];
/// How long the balancer may take until it forwards.
const START: Duration = Duration::from_secs(20);

const fn vip_v4(n: u8) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::new(10, 200, 1, n))
}

const fn vip_v6(n: u16) -> IpAddr {
    IpAddr::V6(std::net::Ipv6Addr::new(0xfc00, 0x200, 0, 0, 0, 0, 0, n))
}

/// The seats, in the order of the demo, with their names in counters.
pub const SEATS: [(ModeName, &str); 2] = [(ModeName::Xdp, "xdp"), (ModeName::Afxdp, "afxdp")];

/// The services for many short requests: either family over either family.
pub fn short() -> [Service; 4] {
    let http = |vip: IpAddr, v6_reals| Service::http(SocketAddr::new(vip, 80)).over_v6(v6_reals);
    [http(V4[0], false), http(V6[0], true), http(V4[1], true), http(V6[1], false)]
}

/// The services for long transfers, counted by themselves.
pub fn long() -> [Service; 2] {
    [V4[0], V6[0]].map(|vip| Service::http(SocketAddr::new(vip, 8080)))
}

/// Where iperf3 is measured.
const THROUGHPUT: IpAddr = V4[2];

/// A running balancer between running servers. Whatever it is, it ends with the value.
pub struct Stage {
    balancer: Process,
    /// nginx and iperf3 on every real.
    pub servers: Servers,
    /// What `tandem trace` says.
    pub oracle: Oracle,
    /// Where iperf3 listens, and the real that its connections reach.
    pub iperf3: (SocketAddr, Host),
    socket: PathBuf,
    interrupt: Interrupt,
    /// The namespaces. Last, so that all else has ended.
    pub lab: Lab,
}

impl Stage {
    /// Builds the lab and starts everything in it.
    ///
    /// # Errors
    /// Whatever does not start; nothing is left then.
    pub fn build(prefix: &str, reals: u16, blob: u64, interrupt: Interrupt) -> anyhow::Result<Self> {
        let step = Step::begin("Building the lab", 0);
        let vips = [&V4[..], &V6[..]].concat();
        let lab = rig::build(Spec { reals, ..Spec::routed(prefix, &vips) })?;
        interrupted(&interrupt)?;
        step.end(&format!("client, router, balancer, {reals} reals, each a network namespace"));

        let (port, real) = iperf3_port(lab.topology(), THROUGHPUT)?;
        let iperf3 = SocketAddr::new(THROUGHPUT, port);
        let services = services(iperf3);
        let file = lab.directory().join("tandem.toml");
        fs::write(&file, configuration(lab.topology(), &services)?).with_context(|| file.display().to_string())?;
        let oracle = Oracle::new(&config::load(&file)?.plan, lab.topology())?;

        let step = Step::begin("Starting the servers", 0);
        let web = short().iter().chain(&long()).map(|service| service.at).collect();
        let servers = Servers::start(&lab, &Services { web, iperf3: vec![iperf3], blob })?;
        interrupted(&interrupt)?;
        step.end("nginx and iperf3 on every real");

        let step = Step::begin("Starting the balancer", 0);
        let (balancer, socket) = start_balancer(&lab, &file, &interrupt)?;
        step.end(&format!("{} VIPs: tandem run -c {}", services.len(), file.display()));
        Ok(Self { balancer, servers, oracle, iperf3: (iperf3, real), socket, interrupt, lab })
    }

    /// The client's address of the same family.
    pub fn client(&self, like: IpAddr) -> anyhow::Result<IpAddr> {
        Ok(self.lab.link(Host::Client)?.address_like(like))
    }

    /// Switches the balancer to a seat.
    pub fn set_mode(&self, mode: ModeName) -> anyhow::Result<wire::Mode> {
        let seat = match mode {
            ModeName::Xdp => wire::Seat::Xdp,
            ModeName::Afxdp => wire::Seat::Afxdp,
        };
        let report = self.ask(|client| client.ask(async |b| b.set_mode(wire::SetModeRequest { mode: seat.into() }).await))?;
        if report.mode() != seat {
            bail!("asked for mode {mode:?}, the balancer is in mode {}: {}", seat_name(report.mode()), report.why);
        }
        Ok(report)
    }

    /// The balancer's counters as they are now.
    pub fn counters(&self) -> anyhow::Result<Counted> {
        let counters = self.ask(|client| client.ask(async |b| b.get_counters(wire::GetCountersRequest {}).await))?;
        Ok(Counted(serde_json::to_value(counters)?))
    }

    fn ask<T>(&self, ask: impl FnOnce(&mut Client) -> Result<T, ClientError>) -> anyhow::Result<T> {
        let answer = Client::unix(&self.socket).and_then(|mut client| ask(&mut client));
        answer.map_err(|error| self.with_last_words(error.into()))
    }

    fn with_last_words(&self, error: anyhow::Error) -> anyhow::Error {
        if self.balancer.alive() { error } else { anyhow!("{error}; the balancer's last words: {}", self.balancer.last_words()) }
    }

    /// Fails once the user wants to end.
    pub fn go_on(&self) -> anyhow::Result<()> {
        interrupted(&self.interrupt)
    }

    /// Did the user not ask to end yet? For loops on other threads.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// Waits; fails once the user wants to end.
    pub fn wait(&self, time: Duration) -> anyhow::Result<()> {
        let _ = self.interrupt.wait(time);
        self.go_on()
    }

    /// Ends everything and says what is left of it: nothing.
    pub fn tear_down(mut self) -> anyhow::Result<Vec<String>> {
        let topology = self.lab.topology().clone();
        self.balancer.terminate();
        let status = self.balancer.wait()?;
        let mut left = Vec::new();
        if !status.success() {
            left.push(format!("the balancer ended with {status}: {}", self.balancer.last_words()));
        }
        let outside = rig::outside(&topology.spec.prefix);
        // Before the lab removes what it noted: the balancer cleans up behind itself.
        let [_, own @ ..] = &outside;
        left.extend(own.iter().filter(|path| path.exists()).map(|path| format!("{} of the balancer", path.display())));
        self.lab.tear_down()?;
        left.extend(outside.iter().filter(|path| path.exists()).map(|path| path.display().to_string()));
        let namespaces = topology.namespaces().map(|name| Path::new("/run/netns").join(name));
        left.extend(namespaces.filter(|path| path.exists()).map(|path| path.display().to_string()));
        left.extend(marked(&topology.spec.prefix).into_iter().map(|pid| format!("process {pid}")));
        Ok(left)
    }
}

fn services(iperf3: SocketAddr) -> Vec<Service> {
    short().into_iter().chain(long()).chain(Service::iperf3(iperf3)).collect()
}

fn interrupted(interrupt: &Interrupt) -> anyhow::Result<()> {
    let Some(signal) = interrupt.raised() else { return Ok(()) };
    let name = i32::try_from(signal).ok().and_then(signal_hook::low_level::signal_name).unwrap_or("a signal");
    bail!("interrupted by {name}; everything that was made has been removed");
}

fn start_balancer(lab: &Lab, file: &Path, interrupt: &Interrupt) -> anyhow::Result<(Process, PathBuf)> {
    let name = rig::balancer_name(&lab.topology().spec.prefix);
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(program);
    command.arg("run").arg("-c").arg(file).args(["--name", &name]);
    let mut process = lab.spawn(Host::Lb, command)?;
    let socket = Paths::of(&name).socket;
    let until = Instant::now() + START;
    loop {
        interrupted(interrupt)?;
        if let Some(status) = process.try_wait()? {
            bail!("the balancer ended with {status}: {}", process.last_words());
        }
        let mode = |mut client: Client| client.ask(async |b| b.get_mode(wire::GetModeRequest {}).await);
        match Client::unix(&socket).and_then(mode) {
            Ok(_) => return Ok((process, socket)),
            Err(error) if Instant::now() > until => {
                bail!("the balancer does not answer after {} s ({error}): {}", START.as_secs(), process.last_words());
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Processes that carry the lab's mark.
fn marked(prefix: &str) -> Vec<u32> {
    let mark = format!("{MARKER}={prefix}");
    let own = std::process::id();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let carries = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    pids.filter(|pid| *pid != own).filter(carries).collect()
}

/// The balancer's counters at one moment.
pub struct Counted(Value);

impl Counted {
    /// Frames of a service that a seat has forwarded.
    pub fn packets(&self, seat: &str, service: &Service) -> u64 {
        self.0[seat]["vips"][service.name()]["packets"].as_u64().unwrap_or(0)
    }

    /// Frames of all services that a seat has forwarded.
    pub fn forwarded(&self, seat: &str) -> u64 {
        let vips = self.0[seat]["vips"].as_object();
        vips.into_iter().flatten().filter_map(|(_, counts)| counts["packets"].as_u64()).sum()
    }

    /// One of the seats' own counters, summed over both.
    pub fn seats(&self, counter: &str) -> Option<u64> {
        SEATS.iter().map(|(_, seat)| self.0[*seat]["seat"][counter].as_u64()).sum()
    }
}
