//! A whole benchmark: devices up, rows interleaved, invalid repeats measured again, everything down again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tandem_engine::memory::Line;
use tandem_lab::{Host as Place, Interrupt};

use crate::balancer::{self, Setting};
use crate::device::{Delay, Device, Mode, Parts};
use crate::gates::{Evidence, judge};
use crate::generate::{Generator, Kind as GeneratorKind, Load};
use crate::host::Host;
use crate::manifest::{InterfaceFacts, Manifest, Method};
use crate::measure::memory::Cores;
use crate::measure::search::{Answer, Search, loss_free};
use crate::measure::{Trial, Wish, measure};
use crate::oracle::Oracle;
use crate::progress::Progress;
use crate::results::{Kind, Latency, Repeat, Results, Run};
use crate::scenario::Scenario;
use crate::wire::{Ports, can_stamp};
use crate::yardstick::Yardstick;

/// Times that a repeat is measured again, for each row.
const RERUNS: u32 = 2;
/// Share of the highest rate at which CPU time is measured.
const PACED: f64 = 0.6;
/// The highest rate that the search for the loss-free one tries, as a share of the highest rate forwarded.
const SEARCH_UP_TO: f64 = 1.1;
/// Bytes that the yardstick of a repeat works on, and those beside the flow table of the core alone: tables and frames.
const YARDSTICK: usize = 1 << 20;

/// What to measure, and with what.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The scenarios.
    pub scenarios: Vec<Scenario>,
    /// What forwards.
    pub modes: Vec<Mode>,
    /// The generator.
    pub generator: GeneratorKind,
    /// Repeats of each row.
    pub repeats: u32,
    /// Seconds of each.
    pub time: Duration,
    /// Flows that the balancer's table holds.
    pub capacity: u32,
    /// Attach generically.
    pub generic: bool,
    /// Scenarios, by name, whose loss-free rate and latencies are measured.
    pub searched: Vec<String>,
    /// Trials of a search.
    pub steps: u32,
    /// Share of frames that may be lost.
    pub loss_threshold: f64,
    /// Frames per second at which latencies are measured.
    pub latency_rates: Vec<f64>,
    /// Numbers of flows with which the core alone is measured.
    pub memory_flows: Vec<u32>,
    /// Prefix of namespaces.
    pub prefix: String,
    /// The `tandem` binary.
    pub program: PathBuf,
    /// The generator's core.
    pub generator_core: usize,
    /// The forwarding core.
    pub core: usize,
    /// The pin of another XDP program, and the bytes that it puts in front of frames; for [`Mode::Program`].
    pub pinned: Option<(PathBuf, usize)>,
    /// An artificial delay.
    pub delay: Option<(Mode, f64)>,
    /// Two ports of the host instead of veth pairs: there is one device at a time then.
    pub ports: Option<Ports>,
}

/// The devices of a run, and what belongs to each scenario.
struct Bench<'a> {
    settings: &'a Settings,
    interrupt: &'a Interrupt,
    progress: &'a Progress,
    setting: Setting,
    devices: BTreeMap<Slot, Device>,
    oracle: Oracle,
    plan: tandem_backends::config::Plan,
    /// Loaded when first needed, by scenario.
    generators: BTreeMap<usize, Generator>,
    expected: BTreeMap<usize, f64>,
    yardstick: Yardstick,
}

/// How fast the generator is to be, in frames per second.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Pace {
    /// As fast as it goes.
    Most,
    /// So fast at most: the device is not to be overrun.
    Below(f64),
    /// Just so fast.
    Exactly(f64),
    /// Just so fast, with the time in each frame.
    Stamped(f64),
}

/// The balancer is one device with two modes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Slot {
    Balancer,
    Reference(Mode),
}

impl Slot {
    fn of(mode: Mode) -> Self {
        if mode.is_balancer() { Self::Balancer } else { Self::Reference(mode) }
    }
}

/// Runs everything.
///
/// # Errors
/// What does not start or breaks; interrupted. Nothing is left in either case.
pub fn run(settings: &Settings, interrupt: &Interrupt, progress: &Progress) -> Result<Results> {
    let begin = Instant::now();
    if settings.generator_core == settings.core {
        bail!("generator and device under test would share core {}; this takes two cores", settings.core);
    }
    let mut bench = Bench::build(settings, interrupt, progress)?;
    let mut manifest = Manifest::begin(bench.interface()?, bench.method());
    if let Some((mode, nanos)) = settings.delay {
        manifest.method.delay = Some((mode.name().to_owned(), nanos));
    }
    let mut runs = bench.throughput()?;
    runs.extend(bench.searches(&runs)?);
    runs.extend(bench.latencies()?);
    for device in std::mem::take(&mut bench.devices).into_values() {
        device.tear_down()?;
    }
    runs.extend(in_memory(settings, interrupt, progress)?);
    manifest.took = begin.elapsed().as_secs_f64();
    Ok(Results { manifest, runs })
}

/// Seconds that [`run`] will take, about.
pub fn estimate(settings: &Settings) -> Duration {
    let window = settings.time + settings.time / 2 + Duration::from_millis(700);
    let rows = settings.scenarios.len() * settings.modes.len() * settings.repeats as usize;
    let seats = settings.modes.iter().filter(|mode| mode.is_balancer()).count();
    let searched = settings.searched.len() * seats;
    let searches = searched * (settings.steps as usize + settings.latency_rates.len());
    let memory: f64 = settings.memory_flows.iter().map(|flows| memory_seconds(settings, *flows)).sum();
    window * rows as u32
        + (settings.time / 2 + Duration::from_millis(400)) * searches as u32
        + Duration::from_secs_f64(memory + 5.0)
}

impl<'a> Bench<'a> {
    fn build(settings: &'a Settings, interrupt: &'a Interrupt, progress: &'a Progress) -> Result<Self> {
        let setting = Setting { capacity: settings.capacity, cores: vec![settings.core], generic: settings.generic };
        progress.say("starting the devices under test");
        // Always there: its configuration says what is right.
        let balancer = build(Slot::Balancer, settings, &setting, interrupt)?;
        let text = balancer::configuration(&settings.scenarios, balancer.wire.lab.link(Place::Lb)?, &setting)?;
        let plan = balancer::plan(&text)?;
        let mut devices = BTreeMap::from([(Slot::Balancer, balancer)]);
        let others = settings.modes.iter().filter(|mode| mode.has_device() && !mode.is_balancer());
        for mode in others.filter(|_| settings.ports.is_none()) {
            let slot = Slot::Reference(*mode);
            devices.insert(slot, build(slot, settings, &setting, interrupt)?);
        }
        let oracle = Oracle::new(&plan)?;
        let (generators, expected) = (BTreeMap::new(), BTreeMap::new());
        let yardstick = Yardstick::new(YARDSTICK);
        Ok(Self { settings, interrupt, progress, setting, devices, oracle, plan, generators, expected, yardstick })
    }

    /// Makes sure that the device is there: on ports of the host in place of the one before.
    fn ready(&mut self, slot: Slot) -> Result<()> {
        if !self.devices.contains_key(&slot) {
            for before in std::mem::take(&mut self.devices).into_values() {
                before.tear_down()?;
            }
            self.devices.insert(slot, build(slot, self.settings, &self.setting, self.interrupt)?);
        }
        Ok(())
    }

    fn interface(&self) -> Result<InterfaceFacts> {
        let balancer = self.devices.get(&Slot::Balancer).context("no balancer")?;
        let name = balancer.wire.lab.link(Place::Lb)?.interface.clone();
        Ok(balancer.wire.lab.enter(Place::Lb, || InterfaceFacts::of(&name, &Host::default()))?)
    }

    fn method(&self) -> Method {
        let settings = self.settings;
        Method {
            generator: settings.generator.name().to_owned(),
            generator_core: settings.generator_core,
            forwarding_cores: vec![settings.core],
            napi: "a kernel thread on the forwarding core".to_owned(),
            flow_capacity: settings.capacity,
            repeats: settings.repeats,
            seconds: settings.time.as_secs_f64(),
            loss_threshold: settings.loss_threshold,
            delay: None,
        }
    }

    fn trial(&mut self, at: usize, mode: Mode, pace: Pace, time: Duration) -> Result<Trial> {
        let settings = self.settings;
        let scenario = settings.scenarios.get(at).context("no such scenario")?;
        if let std::collections::btree_map::Entry::Vacant(vacant) = self.generators.entry(at) {
            vacant.insert(Generator::load(settings.generator, scenario)?);
        }
        if mode.is_balancer() && !self.expected.contains_key(&at) {
            self.expected.insert(at, Oracle::expected_hit_ratio(&self.plan, scenario)?);
        }
        self.ready(Slot::of(mode))?;
        let generator = self.generators.get(&at).context("loaded above")?;
        let device = self.devices.get_mut(&Slot::of(mode)).with_context(|| format!("no device {}", mode.name()))?;
        let bound = match mode {
            Mode::Afxdp | Mode::AfxdpPlain => None,
            Mode::Xdp if settings.generic => Some("generic".to_owned()),
            _ => Some("native".to_owned()),
        };
        let (rate, is_exact, stamped) = match pace {
            Pace::Most => (None, false, false),
            Pace::Below(rate) => (Some(rate), false, false),
            Pace::Exactly(rate) => (Some(rate), true, false),
            Pace::Stamped(rate) => (Some(rate), true, true),
        };
        let load = Load { rate, stamped, core: settings.generator_core };
        let wish = Wish { load, is_exact, time, bound, expected_hit: self.expected.get(&at).copied() };
        measure(device, mode, scenario, generator, &mut self.oracle, &wish, self.interrupt)
    }

    /// Highest rate and CPU time, the rows one after the other, again and again.
    fn throughput(&mut self) -> Result<Vec<Run>> {
        let settings = self.settings;
        let pairs =
            settings.scenarios.iter().enumerate().flat_map(|(at, scenario)| {
                settings.modes.iter().filter(|mode| mode.takes(scenario)).map(move |mode| (at, *mode))
            });
        let mut rows: Vec<((usize, Mode), Run, u32)> = pairs
            .filter_map(|(at, mode)| {
                let scenario = settings.scenarios.get(at)?;
                let run = Run::new(Kind::Throughput, &scenario.name, scenario.spread(), mode);
                Some(((at, mode), run, 0))
            })
            .collect();
        for number in 1..=settings.repeats {
            for row in &mut rows {
                self.repeat(row, number, 0)?;
            }
        }
        // Those that are lacking, again, in the same order.
        for rerun in 1..=RERUNS {
            for row in &mut rows {
                if (row.1.repeats.all.iter().filter(|repeat| repeat.is_valid()).count() as u32) < settings.repeats {
                    let invalid: Vec<u32> =
                        row.1.repeats.all.iter().filter(|r| !r.is_valid() && r.rerun + 1 == rerun).map(|r| r.number).collect();
                    for number in invalid {
                        self.repeat(row, number, rerun)?;
                    }
                }
            }
        }
        let runs = rows.into_iter().map(|((at, mode), mut run, _)| {
            run.expected_hit_ratio = self.expected.get(&at).copied().filter(|_| mode.is_balancer());
            run.settle(settings.repeats);
            run
        });
        Ok(runs.collect())
    }

    fn repeat(&mut self, row: &mut ((usize, Mode), Run, u32), number: u32, rerun: u32) -> Result<()> {
        let ((at, mode), run, _) = row;
        let again = if rerun > 0 { ", again" } else { "" };
        self.progress.say(&format!("{} {} {number}/{}{again}", run.scenario, mode.name(), self.settings.repeats));
        let time = self.settings.time;
        let before = self.yardstick.nanos_on(self.settings.core)?;
        let most = self.trial(*at, *mode, Pace::Most, time)?;
        let rate = most.forwarded_pps * PACED;
        let paced = if *mode == Mode::Drop || rate < 1000.0 {
            None
        } else {
            Some(self.trial(*at, *mode, Pace::Below(rate), time / 2)?)
        };
        let mut repeat = Repeat::of(number, rerun, &most, paced.as_ref());
        repeat.yardstick_ns = Some(f64::midpoint(before, self.yardstick.nanos_on(self.settings.core)?));
        if repeat.is_valid() || run.cpu.is_empty() {
            run.cpu = paced.unwrap_or(most).cpu;
        }
        if let Some(device) = self.devices.get(&Slot::of(*mode)) {
            device.bound().clone_into(&mut run.bound);
        }
        for reason in &repeat.invalid_because {
            self.progress.note(&format!("{} {} {number}: {}", run.scenario, mode.name(), reason.what));
        }
        run.repeats.all.push(repeat);
        self.progress.advance(time + time / 2 + Duration::from_millis(700));
        Ok(())
    }

    fn seats(&self) -> Vec<Mode> {
        self.settings.modes.iter().copied().filter(|mode| mode.is_balancer()).collect()
    }

    fn searched(&self) -> Vec<usize> {
        let named = |scenario: &Scenario| self.settings.searched.contains(&scenario.name);
        self.settings.scenarios.iter().enumerate().filter(|(_, scenario)| named(scenario)).map(|(at, _)| at).collect()
    }

    /// The loss-free rates.
    fn searches(&mut self, throughput: &[Run]) -> Result<Vec<Run>> {
        let settings = self.settings;
        let mut runs = Vec::new();
        for at in self.searched() {
            for mode in self.seats() {
                let Some(scenario) = settings.scenarios.get(at) else { continue };
                let most = throughput.iter().find(|run| run.scenario == scenario.name && run.mode == mode);
                let most = most.map_or(0.0, |run| run.forwarded_pps) * SEARCH_UP_TO;
                let mut run = Run::new(Kind::LossFree, &scenario.name, scenario.spread(), mode);
                let search = Search {
                    most: if most > 0.0 { most } else { 1e6 },
                    threshold: settings.loss_threshold,
                    steps: settings.steps,
                };
                let mut trials = Vec::new();
                let found = loss_free(&search, |rate| {
                    self.progress.say(&format!("{} {}: loss-free at {rate:.0}/s?", scenario.name, mode.name()));
                    let trial = self.trial(at, mode, Pace::Exactly(rate), settings.time / 2)?;
                    self.progress.advance(settings.time / 2 + Duration::from_millis(400));
                    let lost = trial.lost as f64 / trial.sent.max(1) as f64;
                    // What is lost behind the device is lost all the same.
                    let is_valid = trial.reasons.iter().all(|reason| reason.gate == crate::gates::Gate::OutsideDrops);
                    let answer = Answer { lost, is_valid };
                    trials.push((rate, lost, trial));
                    Ok(answer)
                })?;
                for (number, (_, _, trial)) in trials.iter().enumerate() {
                    run.repeats.all.push(Repeat::of(number as u32 + 1, 0, trial, None));
                }
                let best =
                    trials.iter().rev().find(|(rate, lost, _)| Some(*rate) == found.rate && *lost <= settings.loss_threshold);
                if let Some((rate, _, trial)) = best {
                    run.valid = true;
                    (run.offered_pps, run.received_pps, run.forwarded_pps) = (*rate, trial.received_pps, trial.forwarded_pps);
                    (run.flow_hit_ratio, run.ns_per_packet) = (trial.hit, Some(trial.ns_per_packet));
                    (run.lost, run.cpu) = (trial.lost, trial.cpu.clone());
                    (run.repeats.median, run.repeats.min, run.repeats.max, run.repeats.count) = (*rate, *rate, *rate, 1);
                } else {
                    run.invalid_because = trials.last().map(|(_, _, trial)| trial.reasons.clone()).unwrap_or_default();
                }
                self.finish(at, mode, &mut run);
                runs.push(run);
            }
        }
        Ok(runs)
    }

    fn latencies(&mut self) -> Result<Vec<Run>> {
        let settings = self.settings;
        let mut runs = Vec::new();
        for at in self.searched() {
            let Some(scenario) = settings.scenarios.get(at).filter(|scenario| can_stamp(scenario)) else { continue };
            for rate in &settings.latency_rates {
                for mode in self.seats() {
                    let mut run = Run::new(Kind::Latency, &scenario.name, scenario.spread(), mode);
                    for rerun in 0..=RERUNS {
                        self.progress.say(&format!("{} {}: latency at {rate:.0}/s", scenario.name, mode.name()));
                        let trial = self.trial(at, mode, Pace::Stamped(*rate), settings.time / 2)?;
                        if rerun == 0 {
                            self.progress.advance(settings.time / 2 + Duration::from_millis(400));
                        }
                        let repeat = Repeat::of(1, rerun, &trial, None);
                        let done = repeat.is_valid();
                        run.latency_us = trial.latency.as_ref().map(|histogram| {
                            let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
                            Latency { p50: at(0.5), p99: at(0.99), p999: at(0.999) }
                        });
                        run.repeats.all.push(repeat);
                        run.cpu = trial.cpu;
                        if done {
                            break;
                        }
                    }
                    run.settle(1);
                    if !run.valid {
                        // The row is about this rate, offered or not.
                        run.offered_pps = *rate;
                    }
                    let p50 = run.latency_us.map_or(0.0, |latency| latency.p50);
                    (run.repeats.median, run.repeats.min, run.repeats.max) = (p50, p50, p50);
                    self.finish(at, mode, &mut run);
                    runs.push(run);
                }
            }
        }
        Ok(runs)
    }

    fn finish(&self, at: usize, mode: Mode, run: &mut Run) {
        run.expected_hit_ratio = self.expected.get(&at).copied();
        if let Some(device) = self.devices.get(&Slot::of(mode)) {
            device.bound().clone_into(&mut run.bound);
        }
    }
}

/// Starts a device.
fn build(slot: Slot, settings: &Settings, setting: &Setting, interrupt: &Interrupt) -> Result<Device> {
    let parts = Parts {
        prefix: &settings.prefix,
        program: &settings.program,
        scenarios: &settings.scenarios,
        setting,
        delay: settings.delay.filter(|(mode, _)| *mode == Mode::Xdp).map(|(_, nanos)| Delay { nanos }),
        ports: settings.ports.as_ref(),
        interrupt,
    };
    match (slot, &settings.pinned) {
        (Slot::Balancer, _) => Device::balancer(&parts),
        (Slot::Reference(Mode::Program), Some((pin, overhead))) => Device::pinned(pin, *overhead, &parts),
        (Slot::Reference(mode), _) => Device::reference(mode, &parts),
    }
}

/// How long [`in_memory`] takes for so many flows: all of them are sent to each seat, and then there are the turns.
fn memory_seconds(settings: &Settings, flows: u32) -> f64 {
    1.0 + 0.4 * f64::from(settings.repeats) + f64::from(flows) * 8e-6
}

/// The core alone, by number of flows: the seats in turns.
fn in_memory(settings: &Settings, interrupt: &Interrupt, progress: &Progress) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    let seats: Vec<Mode> = settings.modes.iter().copied().filter(|mode| mode.is_core()).collect();
    let work = || -> Result<Vec<Run>> {
        if !core_affinity::set_for_current(core_affinity::CoreId { id: settings.core }) {
            bail!("cannot pin the measurement to core {}", settings.core);
        }
        for flows in &settings.memory_flows {
            progress.say(&format!("the core alone, {flows} flows"));
            let cores = seats.iter().map(|mode| Cores::new(*flows, *mode, settings.delay));
            let mut cores: Vec<Cores> = cores.collect::<Result<_>>()?;
            let mut rows: Vec<Run> = seats.iter().map(|mode| Run::new(Kind::InMemory, "in-memory", *flows, *mode)).collect();
            let mut yardstick = Yardstick::new(YARDSTICK + *flows as usize * size_of::<Line>());
            // Cheap: three times as often as the others.
            for number in 1..=3 * settings.repeats {
                for (run, cores) in rows.iter_mut().zip(&mut cores) {
                    if interrupt.raised().is_some() {
                        bail!("interrupted; everything that was made has been removed");
                    }
                    let yardstick_ns = Some(yardstick.nanos());
                    let (nanos, hit) = cores.measure()?;
                    // Rows of other work would be no rows of flows that are known.
                    let evidence =
                        Evidence { offered_pps: 1.0, queue_cores: vec![0], forwarding_cores: vec![0], ..Evidence::default() };
                    let evidence = Evidence { expected_hit: Some(1.0), hit: Some(hit), ..evidence };
                    let repeat = Repeat {
                        number,
                        ns_per_packet: Some(nanos),
                        flow_hit_ratio: Some(hit),
                        yardstick_ns,
                        invalid_because: judge(&evidence),
                        ..Repeat::default()
                    };
                    run.expected_hit_ratio = Some(1.0);
                    run.repeats.all.push(repeat);
                }
            }
            rows.iter_mut().for_each(|run| run.settle(3 * settings.repeats));
            progress.advance(Duration::from_secs_f64(memory_seconds(settings, *flows)));
            runs.append(&mut rows);
        }
        Ok(runs)
    };
    // On a thread of its own: the pinning ends with it.
    std::thread::scope(|scope| scope.spawn(work).join()).map_err(|_| anyhow::anyhow!("the measurement panicked"))?
}
