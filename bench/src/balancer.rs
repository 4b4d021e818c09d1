//! The balancer under test: the real `tandem run`, as a process of its own in the lab's namespace, with the tables that a
//! user would have.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde_json::Value;
use tandem_api::client::Client;
use tandem_api::wire;
use tandem_backends::config::{Plan, parse};
use tandem_backends::run::Paths;
use tandem_lab::{BPFFS, Host, Interrupt, Lab, Link, Process};

use crate::pkt::Protocol;
use crate::scenario::Scenario;

/// How long it may take until it forwards.
const START: Duration = Duration::from_secs(30);

/// What is configured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setting {
    /// Flows that the table holds.
    pub capacity: u32,
    /// The forwarding cores.
    pub cores: Vec<usize>,
    /// Generic XDP instead of native.
    pub generic: bool,
}

/// A running balancer; ends with the value.
pub struct Running {
    process: Process,
    control: Control,
}

/// What a running balancer can be asked, whoever started it.
#[derive(Clone, Debug)]
pub struct Control {
    socket: PathBuf,
}

/// Counters of both seats at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    /// Frames that came to the program.
    pub received: u64,
    /// Frames that left, by either seat.
    pub forwarded: u64,
    /// Of these: those whose real was chosen anew.
    pub anew: u64,
    /// Frames that were forwarded in the kernel because a queue had no worker, in mode afxdp.
    pub without_worker: u64,
}

/// The configuration for these scenarios on a link: every destination is a VIP with three reals.
///
/// # Errors
/// Too many destinations.
pub fn configuration(scenarios: &[Scenario], link: &Link, setting: &Setting) -> Result<String> {
    let mut vips: BTreeSet<(IpAddr, u16, &str)> = BTreeSet::new();
    for scenario in scenarios {
        let protocol = if scenario.traffic.protocol == Protocol::Udp { "udp" } else { "tcp" };
        let ends =
            scenario.sequence.iter().map(|item| (scenario.traffic.address(item.step.dst_ip), item.step.dst_port, protocol));
        vips.extend(ends);
    }
    if vips.len() > 64 {
        bail!("the scenarios have {} destinations, and each would be a VIP; 64 are enough for a benchmark", vips.len());
    }
    let (attach, capacity) = (if setting.generic { "generic" } else { "native" }, setting.capacity);
    let mut text = format!(
        "[node]\ninterface = \"{}\"\nmode = \"xdp\"\nattach = \"{attach}\"\ncores = {:?}\n\
         next_hop_mac = \"{}\"\nlocal_mac = \"{}\"\n\
         [tunnel]\nsource_v4 = \"{}\"\nsource_v6 = \"{}\"\n\
         [flows]\ncapacity = {capacity}\nnew_flows_per_core = 4_000_000_000\n",
        link.interface, setting.cores, link.router.mac, link.mac, link.v4, link.v6
    );
    for (address, port, protocol) in vips {
        let real = |n: u8| if address.is_ipv4() { format!("10.0.0.{n}") } else { format!("fc00::{n}") };
        let reals: Vec<String> = (1..=3).map(|n| format!("{{ address = \"{}\" }}", real(n))).collect();
        write!(
            text,
            "[[vip]]\naddress = \"{address}\"\nport = {port}\nprotocol = \"{protocol}\"\nreal = [{}]\n",
            reals.join(", ")
        )?;
    }
    Ok(text)
}

/// The configuration as the engine reads it.
///
/// # Errors
/// It is not one.
pub fn plan(text: &str) -> Result<Plan> {
    Ok(parse(text, "bench").context("the benchmarks' own configuration")?.plan)
}

impl Running {
    /// Starts `program run` in the lab, and waits until it forwards. `more` are arguments behind the configuration.
    ///
    /// # Errors
    /// It does not start; its last words are in the message.
    pub fn start(lab: &mut Lab, program: &Path, text: &str, more: &[String], interrupt: &Interrupt) -> Result<Self> {
        let name = format!("lab-{}", lab.topology().spec.prefix);
        let paths = Paths::of(&name);
        lab.remove_with_it([paths.pins.clone(), paths.socket.clone()])?;
        lab.ensure_bpffs(Path::new(BPFFS))?;
        let file = lab.directory().join("tandem.toml");
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        let mut command = Command::new(program);
        command.arg("run").arg("-c").arg(&file).args(["--name", &name]).args(more);
        let mut process = lab.spawn(Host::Lb, command)?;
        let until = Instant::now() + START;
        loop {
            if interrupt.raised().is_some() {
                bail!("interrupted");
            }
            if let Some(status) = process.try_wait()? {
                bail!("the balancer ended with {status}: {}", process.last_words());
            }
            match Client::unix(&paths.socket).and_then(|mut client| client.mode()) {
                Ok(_) => return Ok(Self { process, control: Control { socket: paths.socket } }),
                Err(error) if Instant::now() > until => {
                    bail!("the balancer does not answer after {} s ({error}): {}", START.as_secs(), process.last_words());
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Its process number.
    pub fn pid(&self) -> i32 {
        self.process.pid() as i32
    }

    /// Switches it to a seat; says how that is bound.
    ///
    /// # Errors
    /// It refuses.
    pub fn set_mode(&self, mode: wire::Seat) -> Result<wire::Mode> {
        self.control.set_mode(mode).with_context(|| self.last_words())
    }

    /// The counters now.
    ///
    /// # Errors
    /// It does not answer.
    pub fn counted(&self) -> Result<Counted> {
        self.control.counted().with_context(|| self.last_words())
    }

    fn last_words(&self) -> String {
        format!("the balancer's last words: {}", self.process.last_words())
    }

    /// Ends it, and says what it left behind: nothing.
    ///
    /// # Errors
    /// It ended with an error.
    pub fn stop(mut self) -> Result<()> {
        self.process.terminate();
        let status = self.process.wait()?;
        if !status.success() {
            bail!("the balancer ended with {status}: {}", self.process.last_words());
        }
        Ok(())
    }
}

impl Control {
    /// Of the balancer of this name.
    pub fn of(name: &str) -> Self {
        Self { socket: Paths::of(name).socket }
    }

    /// The process behind the socket.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn pid(&self) -> Result<i32> {
        let stream = UnixStream::connect(&self.socket)
            .with_context(|| format!("{}: no balancer answers; is `tandem run` running?", self.socket.display()))?;
        Ok(getsockopt(&stream, PeerCredentials)?.pid())
    }

    /// The mode in force.
    ///
    /// # Errors
    /// It does not answer.
    pub fn mode(&self) -> Result<wire::Mode> {
        Ok(Client::unix(&self.socket)?.mode()?)
    }

    /// Switches it to a seat; says how that is bound.
    ///
    /// # Errors
    /// It refuses.
    pub fn set_mode(&self, mode: wire::Seat) -> Result<wire::Mode> {
        Ok(Client::unix(&self.socket)?.set_mode(mode)?)
    }

    /// The counters now.
    ///
    /// # Errors
    /// It does not answer.
    pub fn counted(&self) -> Result<Counted> {
        let all = serde_json::to_value(Client::unix(&self.socket)?.counters()?)?;
        let seats = ["xdp", "afxdp"].map(|seat| all.get(seat).cloned().unwrap_or_default());
        let sum = |values: &Value| values.as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum::<u64>();
        let seat = |seat: &Value, name: &str| seat["seat"][name].as_u64().unwrap_or(0);
        let [xdp, _] = &seats;
        let reason = |seat: &Value| seat["reasons"]["forwarded"].as_u64().unwrap_or(0);
        let anew = |seat: &Value| -> u64 {
            seat["vips"].as_object().into_iter().flatten().filter_map(|(_, row)| row["ring"].as_u64()).sum()
        };
        Ok(Counted {
            received: sum(&xdp["reasons"]) + seat(xdp, "handed-over"),
            // What a full TX ring refused was decided, and never left.
            forwarded: (seats.iter().map(reason).sum::<u64>()).saturating_sub(seats.iter().map(|s| seat(s, "tx-full")).sum()),
            anew: seats.iter().map(anew).sum(),
            without_worker: seat(xdp, "no-socket"),
        })
    }
}
