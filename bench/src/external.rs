//! Traffic from elsewhere: a real Pktgen-DPDK, or any other generator on another host. Measures a running balancer, by its own
//! counters alone: what arrives, what leaves, how often a flow was known, what it costs. What was offered, and what arrived at the
//! other end, only the generator knows.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tandem_api::wire;
use tandem_lab::Interrupt;

use crate::balancer::Control;
use crate::device::Mode;
use crate::host::Host;
use crate::manifest::{InterfaceFacts, Manifest, Method};
use crate::measure::cpu::core_times;
use crate::napi;
use crate::progress::Progress;
use crate::results::{Kind, Repeat, Results, Run};

/// Frames per second from which on traffic is there.
const TRAFFIC: f64 = 1000.0;
/// How long a new mode runs before it is measured.
const SETTLE: Duration = Duration::from_millis(500);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The balancer's name.
    pub name: String,
    /// Its modes, measured in turns; the one in force is put back at the end.
    pub modes: Vec<Mode>,
    /// Repeats of each.
    pub repeats: u32,
    /// How long each takes.
    pub time: Duration,
    /// How long to wait for traffic.
    pub patience: Duration,
}

/// All of the balancer's counters, and CPU time, at one moment.
struct Moment {
    at: Instant,
    received: u64,
    forwarded: u64,
    anew: u64,
    busy: Duration,
}

impl Moment {
    /// CPU time: the workers, and the softirqs of all cores, where the driver runs XDP programs.
    fn now(control: &Control, pid: i32) -> Result<Self> {
        let counted = control.counted()?;
        let workers = napi::threads_of_process(pid).into_iter().filter(|(_, name)| name.starts_with("xsk"));
        let workers: Duration = workers.map(|(thread, _)| napi::time_of(thread)).sum();
        let softirqs: u64 = core_times().iter().map(|[softirq, ..]| softirq).sum();
        let busy = workers + Duration::from_millis(softirqs);
        Ok(Self { at: Instant::now(), received: counted.received, forwarded: counted.forwarded, anew: counted.anew, busy })
    }
}

/// Waits for traffic, then measures.
///
/// # Errors
/// No balancer of this name, no traffic, interrupted.
pub fn run(settings: &Settings, interrupt: &Interrupt, progress: &Progress) -> Result<Results> {
    let begin = Instant::now();
    let control = Control::of(&settings.name);
    let (pid, before) = (control.pid()?, control.mode()?);
    let host = Host::default();
    let name = before.interface.split(", ").next().unwrap_or_default().to_owned();
    let method = Method {
        generator: "external".to_owned(),
        forwarding_cores: before.workers.iter().map(|worker| worker.core as usize).collect(),
        napi: "softirqs, as the driver has them".to_owned(),
        repeats: settings.repeats,
        seconds: settings.time.as_secs_f64(),
        ..Method::default()
    };
    let mut manifest = Manifest::begin(InterfaceFacts::of(&name, &host), method);
    progress.say("waiting for traffic");
    wait_for_traffic(&control, pid, settings.patience, interrupt)?;
    let mut runs: Vec<Run> = settings.modes.iter().map(|mode| Run::new(Kind::Throughput, "external", 0, *mode)).collect();
    let measured = repeats(settings, &control, pid, &mut runs, interrupt, progress);
    // Whatever happened, the mode is the one that it was.
    control.set_mode(before.mode())?;
    measured?;
    runs.iter_mut().for_each(|run| run.settle(settings.repeats));
    manifest.took = begin.elapsed().as_secs_f64();
    manifest.skipped.push("what the generator offered, and what came back to it: only the generator knows".to_owned());
    Ok(Results { manifest, runs })
}

fn repeats(
    settings: &Settings,
    control: &Control,
    pid: i32,
    runs: &mut [Run],
    interrupt: &Interrupt,
    progress: &Progress,
) -> Result<()> {
    for number in 1..=settings.repeats {
        for run in runs.iter_mut() {
            let seat = if run.mode == Mode::Afxdp { wire::Seat::Afxdp } else { wire::Seat::Xdp };
            run.bound = bound(&control.set_mode(seat)?);
            progress.say(&format!("{} {number}/{}", run.mode.name(), settings.repeats));
            pause(SETTLE, interrupt)?;
            let first = Moment::now(control, pid)?;
            pause(settings.time, interrupt)?;
            let last = Moment::now(control, pid)?;
            run.repeats.all.push(repeat(number, &first, &last));
            progress.advance(SETTLE + settings.time);
        }
    }
    Ok(())
}

fn repeat(number: u32, first: &Moment, last: &Moment) -> Repeat {
    let seconds = (last.at - first.at).as_secs_f64();
    let (received, forwarded) = (last.received - first.received, last.forwarded - first.forwarded);
    let known = 1.0 - (last.anew - first.anew) as f64 / forwarded.max(1) as f64;
    Repeat {
        number,
        received_pps: received as f64 / seconds,
        forwarded_pps: forwarded as f64 / seconds,
        flow_hit_ratio: (forwarded > 0).then_some(known),
        ns_per_packet: (forwarded > 0).then(|| last.busy.saturating_sub(first.busy).as_nanos() as f64 / forwarded as f64),
        ..Repeat::default()
    }
}

fn bound(report: &wire::Mode) -> String {
    match report.mode() {
        wire::Seat::Xdp | wire::Seat::Unspecified => report.attach.clone(),
        wire::Seat::Afxdp => report.workers.first().map_or_else(String::new, |worker| worker.bound.replace('-', "")),
    }
}

fn wait_for_traffic(control: &Control, pid: i32, patience: Duration, interrupt: &Interrupt) -> Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < patience {
        let first = Moment::now(control, pid)?;
        pause(Duration::from_millis(500), interrupt)?;
        let last = Moment::now(control, pid)?;
        if repeat(0, &first, &last).received_pps >= TRAFFIC {
            return Ok(());
        }
    }
    bail!("no traffic after {} s: fewer than {TRAFFIC} frames/s reached the balancer; start the generator", patience.as_secs())
}

fn pause(time: Duration, interrupt: &Interrupt) -> Result<()> {
    if interrupt.wait(time) {
        bail!("interrupted");
    }
    Ok(())
}
