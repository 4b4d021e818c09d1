//! One measurement: a scenario through a device at a rate, for a time, with all the evidence.

pub mod cpu;
pub mod memory;
pub mod search;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use tandem_lab::Interrupt;

use crate::device::{Device, Mode, Tally};
use crate::gates::{Evidence, Reason, judge};
use crate::generate::{Generator, Load};
use crate::host::{Host, HostState};
use crate::oracle::Oracle;
use crate::scenario::Scenario;
use cpu::{Cpu, Times};

/// The shortest and the longest time before anything counts.
const WARM: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(4);
/// How long frames may be under way at the end.
const DRAIN: Duration = Duration::from_millis(60);

/// What is wanted of a measurement.
#[derive(Clone, Debug)]
pub struct Wish {
    /// What the generator does.
    pub load: Load,
    /// Whether the rate is what is measured at, and must be offered; else it only keeps the device from being overrun.
    pub is_exact: bool,
    /// How long.
    pub time: Duration,
    /// How it is to be bound; `None`: however the driver can.
    pub bound: Option<String>,
    /// What the flow table must know.
    pub expected_hit: Option<f64>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Frames per second sent, in the window.
    pub offered_pps: f64,
    /// Frames per second that reached the device, by its own counters.
    pub received_pps: f64,
    /// Frames per second that came back, by the receiver's.
    pub forwarded_pps: f64,
    /// Frames sent and not come back, of the whole measurement.
    pub lost: u64,
    /// Frames sent, in all.
    pub sent: u64,
    /// Share of packets whose flow was known.
    pub hit: Option<f64>,
    /// CPU time of the device for each frame that it forwarded (or dropped, if that is what it does).
    pub ns_per_packet: f64,
    /// What each core did.
    pub cpu: Vec<Cpu>,
    /// Nanoseconds from generator to receiver.
    pub latency: Option<Histogram<u64>>,
    /// Why it is worthless, if it is.
    pub reasons: Vec<Reason>,
}

/// All counters at one moment.
struct Moment {
    at: Instant,
    sent: u64,
    back: u64,
    tally: Tally,
    times: Times,
}

/// Measures.
///
/// # Errors
/// Something broke; that a measurement is worthless is no error.
pub fn measure(
    device: &mut Device,
    mode: Mode,
    scenario: &Scenario,
    generator: &Generator,
    oracle: &mut Oracle,
    wish: &Wish,
    interrupt: &Interrupt,
) -> Result<Trial> {
    device.switch(mode)?;
    let (host, before) = (Host::default(), Host::default().state());
    let start = device.tally()?;
    device.wire.expect(scenario, device.overhead(scenario.traffic.v6), wish.load.stamped);
    let running = generator.start(&device.wire.lab, &wish.load)?;
    let declared = scenario.flow_numbers().len() as u64;
    let begin = Instant::now();
    let look = || -> Result<Moment> {
        let times = Times::of(device);
        let tally = device.tally()?;
        Ok(Moment { at: Instant::now(), sent: running.sent(), back: device.wire.received().frames, tally, times })
    };
    // Every flow has been forwarded once, or never will.
    while begin.elapsed() < PATIENCE {
        let is_warm = running.rounds() >= 2 && (mode == Mode::Drop || device.wire.distinct() >= declared);
        if is_warm && begin.elapsed() >= WARM || running.has_ended() {
            break;
        }
        pause(Duration::from_millis(5), interrupt)?;
    }
    let first = look()?;
    pause(wish.time, interrupt)?;
    let last = look()?;
    let sent = running.stop()?;
    std::thread::sleep(DRAIN);
    let end = device.tally()?;
    let trial = Ends {
        start,
        end,
        first,
        last,
        sent: sent.frames,
        generator_cpu: sent.cpu.as_secs_f64() / begin.elapsed().as_secs_f64(),
    };
    trial.sum_up(device, mode, scenario, oracle, wish, (before, host.state()))
}

fn pause(time: Duration, interrupt: &Interrupt) -> Result<()> {
    if interrupt.wait(time) {
        bail!("interrupted; everything that was made has been removed");
    }
    Ok(())
}

/// Both ends of the whole, and of the window in it.
struct Ends {
    start: Tally,
    end: Tally,
    first: Moment,
    last: Moment,
    sent: u64,
    generator_cpu: f64,
}

impl Ends {
    fn sum_up(
        self,
        device: &Device,
        mode: Mode,
        scenario: &Scenario,
        oracle: &mut Oracle,
        wish: &Wish,
        host: (HostState, HostState),
    ) -> Result<Trial> {
        let Self { start, end, first, last, sent, generator_cpu } = self;
        let seconds = (last.at - first.at).as_secs_f64();
        let per_second = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds;
        let offered_pps = per_second(first.sent, last.sent);
        let received_pps = per_second(first.tally.received, last.tally.received);
        let forwarded_pps = per_second(first.back, last.back);
        let hit = hit_ratio(&first.tally, &last.tally);
        let received = device.wire.received();
        let compared = oracle.compare(scenario, mode, device.overhead(scenario.traffic.v6), &device.wire.samples())?;
        let comes_back = mode != Mode::Drop;
        let evidence = Evidence {
            declared_flows: scenario.flow_numbers().len() as u64,
            seen_flows: comes_back.then(|| device.wire.distinct()),
            churns: scenario.churns(),
            expected_hit: wish.expected_hit.filter(|_| mode.is_balancer()),
            hit,
            asked_pps: wish.load.rate.filter(|_| wish.is_exact),
            offered_pps,
            queue_cores: device.queue_cores(),
            forwarding_cores: vec![device.core],
            bound_asked: wish.bound.clone(),
            bound: device.bound().to_owned(),
            host: Some(host),
            programs: Some((device.wire.program_on()?, device.program)),
            device_sent: end.forwarded.zip(start.forwarded).map(|(end, start)| end - start),
            came_back: received.frames,
            compared: compared.compared,
            wrong: compared.wrong,
            others: received.others,
            elsewhere: end.elsewhere - start.elsewhere,
            device_node: device.wire.node,
            core_nodes: Host::default().node_of_core(device.core).map(|node| (device.core, node)).into_iter().collect(),
        };
        let done = if comes_back { last.back - first.back } else { last.tally.received - first.tally.received };
        let busy = last.times.busy_since(&first.times);
        let latency = wish.load.stamped.then(|| histogram(&device.wire.latencies())).transpose()?;
        Ok(Trial {
            offered_pps,
            received_pps,
            forwarded_pps,
            lost: if comes_back {
                sent.saturating_sub(received.frames)
            } else {
                sent.saturating_sub(end.received - start.received)
            },
            sent,
            hit,
            ns_per_packet: busy.as_nanos() as f64 / done.max(1) as f64,
            cpu: last.times.cores_since(&first.times, seconds, (wish.load.core, generator_cpu)),
            latency,
            reasons: judge(&evidence),
        })
    }
}

/// Packets whose flow was known, of those that were forwarded.
fn hit_ratio(first: &Tally, last: &Tally) -> Option<f64> {
    let anew = last.anew?.saturating_sub(first.anew?);
    let forwarded = last.forwarded?.saturating_sub(first.forwarded?);
    (forwarded > 0).then(|| 1.0 - anew as f64 / forwarded as f64)
}

fn histogram(nanos: &[u64]) -> Result<Histogram<u64>> {
    let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
    for nanos in nanos {
        histogram.saturating_record((*nanos).max(1));
    }
    Ok(histogram)
}
