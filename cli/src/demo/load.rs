//! Traffic through one seat: many short requests, `curl`, and throughput.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::bail;
use tandem_backends::config::Protocol;
use tandem_backends::run::ModeName;
use tandem_lab::http::{self, Exchange};
use tandem_lab::iperf3::{Iperf3, Kind, Measured, Test};
use tandem_lab::{Host, find_program};

use super::progress::Step;
use super::stage::{SEATS, Stage, short};
use crate::lab::scene::Service;

/// First source port of the requests; those of the second seat follow, as each connection is to be a new one.
const FIRST_PORT: u16 = 2000;
/// Requests at a time.
const THREADS: usize = 16;
/// Bits a second that iperf3 sends over UDP.
const UDP_RATE: u64 = 30_000_000;

/// How much.
#[derive(Clone, Copy)]
pub struct Amount {
    /// HTTP requests for each service.
    pub requests: u16,
    /// Seconds of each measurement of throughput.
    pub seconds: u32,
}

/// The requests to one service.
pub struct Requests {
    /// The service.
    pub service: Service,
    /// How many.
    pub tried: usize,
    /// With a right answer.
    pub succeeded: usize,
    /// From the real that `trace` names.
    pub as_traced: usize,
    /// Answers by real: found, and named by `trace`.
    pub shares: BTreeMap<Host, (usize, usize)>,
    /// How long they all took.
    pub time: Duration,
    /// What was wrong with the first that failed or went astray.
    pub fault: Option<String>,
}

/// What went through one seat.
pub struct Through {
    /// Its name.
    pub seat: &'static str,
    /// The short requests, by service.
    pub requests: Vec<Requests>,
    /// The real that answered `curl`, or what `curl` said.
    pub curl: Result<Host, String>,
    /// TCP and UDP, each with the frames that the balancer forwarded.
    pub throughput: Vec<(Measured, u64)>,
    /// Frames that this seat forwarded, and that the other one did.
    pub frames: (u64, u64),
}

/// Puts a seat in force and sends traffic through.
pub fn run(stage: &mut Stage, mode: ModeName, amount: Amount) -> anyhow::Result<Through> {
    let report = stage.set_mode(mode)?;
    let [own, other] = match mode {
        ModeName::Xdp => SEATS,
        ModeName::Afxdp => [SEATS[1], SEATS[0]],
    }
    .map(|(_, name)| name);
    let before = stage.counters()?;
    let first = FIRST_PORT + if mode == ModeName::Xdp { 0 } else { amount.requests };
    let total = u64::from(amount.requests) * short().len() as u64;
    let bound = report.workers.first().map_or(String::new(), |worker| format!(", {} mode", worker.bound));
    let step = Step::begin(format!("{own}: {total} HTTP requests over {} VIPs", short().len()), total);
    let mut requests = Vec::new();
    for service in short() {
        requests.push(send(stage, service, first, amount.requests, &step)?);
        stage.go_on()?;
    }
    let good: usize = requests.iter().map(|part| part.succeeded).sum();
    step.end(&format!("{good} answered{bound}"));
    let curl = curl(stage)?;
    let mut throughput = Vec::new();
    for kind in [Kind::Tcp, Kind::Udp(UDP_RATE)] {
        throughput.push(measure(stage, own, kind, amount.seconds)?);
    }
    let after = stage.counters()?;
    let forwarded = |seat| after.forwarded(seat) - before.forwarded(seat);
    Ok(Through { seat: own, requests, curl, throughput, frames: (forwarded(own), forwarded(other)) })
}

fn send(stage: &mut Stage, service: Service, first_port: u16, requests: u16, step: &Step) -> anyhow::Result<Requests> {
    let source = stage.client(service.at.ip())?;
    let load = http::Load { source, target: service.at, first_port, requests, threads: THREADS, timeout: Duration::from_secs(5) };
    let start = Instant::now();
    let interrupt = stage.interrupt().clone();
    let exchanges = http::run(&stage.lab, &load, |_| {
        step.advance();
        interrupt.raised().is_none()
    })?;
    let time = start.elapsed();
    let none = BTreeMap::new();
    let mut result = Requests { service, tried: exchanges.len(), succeeded: 0, as_traced: 0, shares: none, time, fault: None };
    for exchange in &exchanges {
        let named = stage.oracle.real_of(Protocol::Tcp, exchange.source, exchange.target)?;
        result.add(exchange, named);
    }
    Ok(result)
}

impl Requests {
    fn add(&mut self, exchange: &Exchange, named: Host) {
        self.shares.entry(named).or_default().1 += 1;
        let fault = match &exchange.answer {
            Err(error) => error.to_string(),
            Ok(answer) => {
                self.succeeded += 1;
                if let Ok(real) = answer.real.parse() {
                    self.shares.entry(real).or_default().0 += 1;
                }
                if answer.real == named.to_string() {
                    self.as_traced += 1;
                    return;
                }
                format!("{} answered, trace names {named}", answer.real)
            }
        };
        self.fault.get_or_insert(format!("tcp {} > {}: {fault}", exchange.source, exchange.target));
    }
}

/// One request as anybody would send it.
fn curl(stage: &Stage) -> anyhow::Result<Result<Host, String>> {
    let [service, ..] = short();
    let mut command = Command::new(find_program("curl", "curl")?);
    command.args(["--silent", "--show-error", "--fail", "--max-time", "5", "--noproxy", "*"]);
    command.arg(format!("http://{}/", service.at));
    let mut process = stage.lab.spawn(Host::Client, command)?;
    while process.try_wait()?.is_none() {
        stage.wait(Duration::from_millis(5))?;
    }
    let words = process.last_words();
    Ok(words.parse().map_err(|_| words))
}

fn measure(stage: &Stage, seat: &str, kind: Kind, seconds: u32) -> anyhow::Result<(Measured, u64)> {
    let (target, _) = stage.iperf3;
    let [tcp, udp] = Service::iperf3(target);
    let service = if kind == Kind::Tcp { tcp } else { udp };
    let name = kind_name(kind);
    let before = stage.counters()?.packets(seat, &service);
    let step = Step::begin(format!("{seat}: iperf3 over {name}, {seconds} s"), 0);
    let test = Iperf3::start(&stage.lab, Test { kind, target, streams: 1, seconds, reverse: false })?;
    let until = Instant::now() + Duration::from_secs(u64::from(seconds) + 10);
    while test.running() {
        stage.wait(Duration::from_millis(20))?;
        if Instant::now() > until {
            bail!("{seat}: iperf3 over {name} does not end; it should take {seconds} s");
        }
    }
    let measured = test.finish()?;
    step.end(&measured.fault.clone().unwrap_or_else(|| rate(measured.received)));
    Ok((measured, stage.counters()?.packets(seat, &service) - before))
}

/// `TCP` or `UDP`.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Tcp => "TCP",
        Kind::Udp(_) => "UDP",
    }
}

/// Bits a second, in words.
pub fn rate(bits: f64) -> String {
    if bits >= 1e9 { format!("{:.2} Gbit/s", bits / 1e9) } else { format!("{:.1} Mbit/s", bits / 1e6) }
}

/// Where the requests of a service go, in words.
pub fn over(service: &Service) -> String {
    let family = |is_v6| if is_v6 { "IPv6" } else { "IPv4" };
    format!("HTTP {} over {}", service.at, family(service.v6_reals))
}
