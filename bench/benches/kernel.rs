//! The kernel seat, frame by frame, against a floor and a rival in the same run.
//!
//! * gross: nanoseconds of a round, with the kernel's loop and the wrapper;
//! * net: without those. The floor of a program that changes the length is half way between `null` (which does nothing)
//!   and `room` (which calls `bpf_xdp_adjust_head` once, and so makes the wrapper call it once, too): the wrapper's share.
//!
//! `cargo bench -p tandem-bench --bench kernel`, as root.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use tandem_backends::control::{Counters, KernelGrace};
use tandem_backends::memory::Sizes;
use tandem_backends::xdp::{Balancer, Role};
use tandem_bench::kernel::{References, Timed};
use tandem_bench::scene::{self, vip};
use tandem_bench::timing::{Loads, is_measurement, stay_on_one_core, verdict};
use tandem_engine::Reason;
use tandem_engine::memory::VipCounter;
use tandem_engine::memory::counters::reason_at;
use tandem_engine::memory::flows::WAYS;

/// Sets of the small table, and places of the rival's map beside it.
const SMALL: u32 = 256;
/// Places of the rival's map beside the usual table.
const RIVAL_FLOWS: u32 = 65_536;
/// Random flows of the rows that evict.
const MANY: u32 = 1 << 24;

/// What every round of a row has to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Finds its flow.
    Hit,
    /// Finds its flow, and stays as long as it is.
    HitInPlace,
    /// Asks the ring and enters nothing.
    Ring,
    /// Asks the ring and overwrites its own entry.
    Syn,
    /// Asks the ring and takes the place of another flow.
    Evict,
    /// Goes to the host.
    Pass,
}

/// Which balancer a row is measured on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loaded {
    /// For the usual configuration.
    Usual,
    /// For the same with a small flow table.
    Small,
    /// For everything that can be configured.
    Everything,
}

struct Row {
    name: String,
    kind: Kind,
    loaded: Loaded,
    frame: Vec<u8>,
}

fn rows() -> Vec<Row> {
    let row = |name: &str, kind, frame| {
        let loaded = if kind == Kind::Evict { Loaded::Small } else { Loaded::Usual };
        Row { name: name.to_owned(), kind, loaded, frame }
    };
    let all = |name: String, kind, frame| Row { name, kind, loaded: Loaded::Everything, frame };
    let mut rows = vec![
        row("IPv4 UDP hit", Kind::Hit, scene::udp_v4(vip::PLAIN)),
        row("IPv4 TCP hit", Kind::Hit, scene::tcp_v4(vip::PLAIN, false)),
        row("IPv6 TCP hit", Kind::Hit, scene::tcp_v6(vip::V6)),
        row("IPv4 TCP hit, IPv6 real", Kind::Hit, scene::tcp_v4(vip::V6_REALS, false)),
        row("any-port UDP hit", Kind::Hit, scene::udp_v4(vip::ANY_PORT)),
        row("bypass-flow-table UDP", Kind::Ring, scene::udp_v4(vip::BYPASS)),
        row("not a VIP, IPv4", Kind::Pass, scene::udp_v4(vip::NONE)),
        row("not a VIP, IPv6", Kind::Pass, scene::tcp_v6(vip::V6_NONE)),
        row("SYN, same flow", Kind::Syn, scene::tcp_v4(vip::PLAIN, true)),
        row("new UDP flow + eviction", Kind::Evict, scene::udp_v4(vip::PLAIN)),
        row("new TCP flow + eviction", Kind::Evict, scene::tcp_v4(vip::PLAIN, false)),
        all("everything: IPv4 UDP hit".to_owned(), Kind::Hit, scene::udp_v4(vip::PLAIN)),
        all("everything: IPv4 TCP hit".to_owned(), Kind::Hit, scene::tcp_v4(vip::PLAIN, false)),
        all("everything: not a VIP".to_owned(), Kind::Pass, scene::udp_v4(vip::NONE)),
    ];
    rows.extend(scene::METHODS.map(|(method, vip)| {
        let kind = if matches!(method, "l2" | "nat") { Kind::HitInPlace } else { Kind::Hit };
        all(format!("everything: {method}, UDP hit"), kind, scene::udp_v4(vip))
    }));
    rows
}

/// A balancer, the references beside it, and the counters of both.
struct Seats {
    balancer: Balancer,
    references: References,
}

impl Seats {
    fn new(loaded: Loaded) -> Result<Self> {
        let (plan, flow_sets, rival_flows) = match loaded {
            Loaded::Usual => (scene::plan()?, None, RIVAL_FLOWS),
            Loaded::Small => (scene::plan()?, Some(SMALL), SMALL * WAYS as u32),
            Loaded::Everything => (scene::everything()?, None, RIVAL_FLOWS),
        };
        let blocks = aya::util::nr_cpus().map_err(|(_, e)| e)? as u32;
        let mut sizes = Sizes::for_plan(&plan, blocks);
        sizes.flow_sets = flow_sets.unwrap_or(sizes.flow_sets);
        let balancer = Balancer::load(&Role::Unpinned, sizes)?;
        scene::apply(&plan, balancer.tables(), &KernelGrace)?;
        let references = References::load(balancer.tables(), rival_flows)?;
        Ok(Self { balancer, references })
    }

    /// Frames counted by the balancer.
    fn balancer_counts(&self) -> Counts {
        let tables = self.balancer.tables();
        let counters = Counters::read(tables, 0..tables.blocks());
        let sum = |name: &str| counters.vips.values().filter_map(|row| row.get(name)).sum();
        Counts {
            forwarded: counters.reason(Reason::Forwarded),
            passed: counters.reason(Reason::NotAVip),
            ring: sum("ring"),
            entered: sum("entered"),
            evicted: Some(sum("evicted")),
        }
    }

    /// The same of the rival, whose map does not say whom it evicts.
    fn rival_counts(&self) -> Counts {
        let reason = |reason| self.references.count(reason_at(reason as u32).0, reason_at(reason as u32).1);
        let sum = |counter| self.references.count_of_vips(counter);
        Counts {
            forwarded: reason(Reason::Forwarded),
            passed: reason(Reason::NotAVip),
            ring: sum(VipCounter::Ring),
            entered: sum(VipCounter::Entered),
            evicted: None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Counts {
    forwarded: u64,
    passed: u64,
    ring: u64,
    entered: u64,
    evicted: Option<u64>,
}

impl Counts {
    fn since(self, before: Self) -> Self {
        Self {
            forwarded: self.forwarded - before.forwarded,
            passed: self.passed - before.passed,
            ring: self.ring - before.ring,
            entered: self.entered - before.entered,
            evicted: self.evicted.zip(before.evicted).map(|(now, before)| now - before),
        }
    }

    /// Whether these are the counters of `rounds` rounds of that kind. A random flow may be known by chance.
    fn fit(&self, kind: Kind, rounds: u64) -> bool {
        let nearly = |n: u64| n <= rounds && n >= rounds - rounds / 100;
        match kind {
            Kind::Hit | Kind::HitInPlace => (self.forwarded, self.ring) == (rounds, 0),
            Kind::Ring => (self.forwarded, self.ring, self.entered) == (rounds, rounds, 0),
            Kind::Syn => (self.forwarded, self.ring, self.entered) == (rounds, rounds, rounds) && self.evicted.unwrap_or(0) == 0,
            Kind::Evict => {
                self.forwarded == rounds && nearly(self.ring) && nearly(self.entered) && self.evicted.is_none_or(nearly)
            }
            Kind::Pass => (self.forwarded, self.passed) == (0, rounds),
        }
    }
}

/// One program under one row's frame.
struct Run {
    timed: Timed,
    series: Loads,
    /// Rounds that were run, in this many calls.
    rounds: u64,
    calls: u64,
    encapsulates: bool,
}

impl Run {
    fn new(timed: Timed, encapsulates: bool) -> Self {
        Self { timed, series: Loads::new(), rounds: 0, calls: 0, encapsulates }
    }

    fn call(&mut self, rounds: u32, measured: bool) -> Result<()> {
        let time = self.timed.run(rounds)?;
        if measured {
            self.series.add(time, rounds);
        }
        self.rounds += u64::from(rounds);
        self.calls += 1;
        Ok(())
    }

    /// The first round of a call has a fresh frame; every other one must find the last one's encapsulation.
    fn check(&self, name: &str) -> Result<()> {
        let seen = self.timed.seen();
        let changed = if self.encapsulates { self.rounds - self.calls } else { 0 };
        ensure!(
            seen.failed == 0 && seen.changed == changed,
            "{name}: {seen:?} in {} rounds, expected {changed} changed",
            self.rounds
        );
        Ok(())
    }
}

/// All runs of a row, and what its programs counted before.
struct Bench {
    row: Row,
    null: Run,
    room: Run,
    balancer: Run,
    rival: Run,
    before: [Counts; 2],
}

impl Bench {
    fn new(row: Row, seats: &mut Seats) -> Result<Self> {
        let flows = (row.kind == Kind::Evict).then_some(MANY);
        let encapsulates = !matches!(row.kind, Kind::Pass | Kind::HitInPlace);
        let run = |program: &aya::programs::ProgramFd, encapsulates| -> Result<Run> {
            let mut timed = Timed::new(program, &row.frame, flows)?;
            if flows.is_none() {
                timed.check_repeatable()?;
            }
            let mut run = Run::new(Timed::new(program, &row.frame, flows)?, encapsulates);
            // fills the small table and warms up the others
            run.call(if flows.is_some() { 200_000 } else { 10_000 }, false)?;
            Ok(run)
        };
        let null = run(seats.references.program("null")?, false)?;
        let room = run(seats.references.program("room")?, true)?;
        // which knows IPIP alone
        let rival = run(seats.references.program("hashed")?, row.kind != Kind::Pass)?;
        let balancer = run(seats.balancer.fd()?, encapsulates)?;
        let before = [seats.balancer_counts(), seats.rival_counts()];
        Ok(Self { row, null, room, balancer, rival, before })
    }

    /// One measurement of each program, and the check that the balancer and the rival did what they had to.
    fn round(&mut self, seats: &Seats, rounds: u32) -> Result<()> {
        // Since its last turn a flow may have been idle for so long that it is none any more.
        self.balancer.call(1000, false)?;
        self.rival.call(1000, false)?;
        self.before = [seats.balancer_counts(), seats.rival_counts()];
        for run in [&mut self.null, &mut self.balancer, &mut self.rival, &mut self.room] {
            run.call(rounds, true)?;
        }
        let counts = [seats.balancer_counts().since(self.before[0]), seats.rival_counts().since(self.before[1])];
        for (who, counts) in ["balancer", "rival"].iter().zip(counts) {
            ensure!(counts.fit(self.row.kind, rounds.into()), "{}, {who}: {counts:?} in {rounds} rounds", self.row.name);
        }
        for (who, run) in [("null", &self.null), ("room", &self.room), ("balancer", &self.balancer), ("rival", &self.rival)] {
            run.check(who).with_context(|| self.row.name.clone())?;
        }
        Ok(())
    }

    /// What the harness costs, by `of` (the least or the median).
    fn floor(&self, of: fn(&Loads) -> f64) -> f64 {
        match self.row.kind {
            Kind::Pass | Kind::HitInPlace => of(&self.null.series),
            Kind::Hit | Kind::Ring | Kind::Syn | Kind::Evict => f64::midpoint(of(&self.null.series), of(&self.room.series)),
        }
    }

    fn net(&self, run: &Run, of: fn(&Loads) -> f64) -> f64 {
        of(&run.series) - self.floor(of)
    }

    /// Adds what the same row took in programs that were loaded before.
    fn join(&mut self, before: Self) {
        self.null.series.join(before.null.series);
        self.room.series.join(before.room.series);
        self.balancer.series.join(before.balancer.series);
        self.rival.series.join(before.rival.series);
    }
}

/// The encapsulation without lookup: gross and floor come from the first row's frame.
fn fixed(seats: &mut Seats, frame: &[u8]) -> Result<Run> {
    let mut run = Run::new(Timed::new(seats.references.program("fixed")?, frame, None)?, true);
    run.call(10_000, false)?;
    Ok(run)
}

/// Only the rows whose name contains the first argument that is not an option, as criterion does it.
fn is_wanted(row: &Row) -> bool {
    std::env::args().skip(1).find(|argument| !argument.starts_with('-')).is_none_or(|part| row.name.contains(&part))
}

/// Loads all programs anew so many times.
fn measure(loads: u32, repeats: u32, rounds: u32) -> Result<()> {
    let (mut benches, mut fixed) = measure_once(repeats, rounds)?;
    for _ in 1..loads {
        let (again, fixed_again) = measure_once(repeats, rounds)?;
        benches.iter_mut().zip(again).for_each(|(bench, again)| bench.join(again));
        fixed.series.join(fixed_again.series);
    }
    println!(
        "\n{loads} x {repeats} x {rounds} rounds each, ns of thread CPU time per frame at the better quarter of the places, least / median"
    );
    report(&benches, &fixed);
    Ok(())
}

fn measure_once(repeats: u32, rounds: u32) -> Result<(Vec<Bench>, Run)> {
    let mut seats = [Seats::new(Loaded::Usual)?, Seats::new(Loaded::Small)?, Seats::new(Loaded::Everything)?];
    let mut benches = Vec::new();
    for row in rows().into_iter().filter(is_wanted) {
        let seats = &mut seats[row.loaded as usize];
        benches.push(Bench::new(row, seats)?);
    }
    let first = benches.first().context("no row has this name")?;
    let mut fixed = fixed(&mut seats[0], &first.row.frame)?;
    for _ in 0..repeats {
        fixed.call(rounds, true)?;
        for bench in &mut benches {
            bench.round(&seats[bench.row.loaded as usize], rounds)?;
        }
    }
    fixed.check("fixed")?;
    Ok((benches, fixed))
}

fn report(benches: &[Bench], fixed: &Run) {
    let of: [fn(&Loads) -> f64; 2] = [Loads::min, Loads::median];
    // the first row of those that encapsulate has the same floor as any other
    let floor = |of: fn(&Loads) -> f64| f64::midpoint(of(&benches[0].null.series), of(&benches[0].room.series));
    let fixed_net = of.map(|of| of(&fixed.series) - floor(of));
    println!("fixed header, no lookup: gross {}, net {}", pair(of.map(|of| of(&fixed.series))), pair(fixed_net));
    println!(
        "\n{:36} {:>15} {:>13} {:>15} {:>13} {:>8} {:>7}",
        "", "gross", "net", "hash maps gross", "net", "x fixed", "x hash"
    );
    for bench in benches {
        let (net, rival) = (of.map(|of| bench.net(&bench.balancer, of)), of.map(|of| bench.net(&bench.rival, of)));
        let (fixed, hash) = (net[0] / fixed_net[0], net[0] / rival[0]);
        println!(
            "{:36} {:>15} {:>13} {:>15} {:>13} {fixed:>8.2} {hash:>7.3}  {}",
            bench.row.name,
            pair(of.map(|of| of(&bench.balancer.series))),
            pair(net),
            pair(of.map(|of| of(&bench.rival.series))),
            pair(rival),
            target(&bench.row, net[0], fixed, hash),
        );
    }
    compare(benches);
}

/// What everything else costs those who do not use it, and what each method costs above IPIP.
fn compare(benches: &[Bench]) {
    let gross = |name: &str| Some(benches.iter().find(|bench| bench.row.name == name)?.balancer.series.min());
    for hit in ["IPv4 UDP hit", "IPv4 TCP hit"] {
        if let (Some(usual), Some(full)) = (gross(hit), gross(&format!("everything: {hit}"))) {
            let more = (full / usual - 1.0) * 100.0;
            println!("{hit}: with everything configured {more:+.1} % gross; at most 15 %: {}", verdict(more <= 15.0));
        }
    }
    let Some(ipip) = gross("everything: ipip, UDP hit") else { return };
    for (method, _) in scene::METHODS {
        if let Some(method_gross) = gross(&format!("everything: {method}, UDP hit")) {
            println!("{method:16}: {:+.1} ns over ipip", method_gross - ipip);
        }
    }
}

/// What the row is held to, by the least values.
fn target(row: &Row, net: f64, fixed: f64, hash: f64) -> String {
    match row.kind {
        _ if row.loaded == Loaded::Everything => String::new(),
        Kind::Hit => {
            let (by_fixed, by_hash) = (verdict(fixed <= 3.0), verdict(hash <= 0.35));
            format!("at most 3 x fixed: {by_fixed}, 0.35 x hash: {by_hash}")
        }
        Kind::Pass => format!("at most 12 ns: {}", verdict(net <= 12.0)),
        Kind::Evict => format!("at most 70 ns or 0.2 x hash: {}", verdict(net <= 70.0 || hash <= 0.2)),
        Kind::Ring | Kind::Syn | Kind::HitInPlace => String::new(),
    }
}

fn pair([least, median]: [f64; 2]) -> String {
    format!("{least:.1} / {median:.1}")
}

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: timing XDP programs takes CAP_BPF and CAP_NET_ADMIN; run `make bench` as root");
        return ExitCode::SUCCESS;
    }
    stay_on_one_core();
    let (loads, repeats, rounds) = if is_measurement() { (9, 7, 100_000) } else { (1, 1, 5000) };
    match measure(loads, repeats, rounds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
