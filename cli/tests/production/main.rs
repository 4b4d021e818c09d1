//! What an operator does to a balancer that carries traffic: nothing breaks that state could have kept.
//!
//! `TANDEM_LONG=1`: 2,000 connections that stay instead of 300 (200 with two balancers), and three to eight times as many reloads and
//! switches.

#[path = "../common/mod.rs"]
mod common;
mod datagrams;
mod load;
mod pair;
mod soak;
mod stand;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::permitted;
use datagrams::Pulse;
use load::{Fault, Load};
use nix::sys::signal::Signal;
use stand::{REALS, SERVED, Stand, VIPS, Wish};

/// Longer than the time between two messages of a connection.
const SETTLE: Duration = Duration::from_millis(900);
/// New connections a second.
const RATE: u32 = 200;

struct Extent {
    long: usize,
    reloads: usize,
    switches: usize,
}

fn extent() -> Extent {
    if std::env::var_os("TANDEM_LONG").is_some() {
        Extent { long: 2000, reloads: 100, switches: 20 }
    } else {
        Extent { long: 300, reloads: 12, switches: 6 }
    }
}

/// What a phase did to the traffic.
#[derive(Debug)]
struct Outcome {
    name: &'static str,
    took: Duration,
    served: u64,
    late: u64,
    slowest: Duration,
    /// For how long nothing came through, of a datagram every millisecond.
    gap: Duration,
    broken: Vec<Fault>,
    failed: Vec<Fault>,
}

struct Trial {
    stand: Stand,
    load: Load,
    pulse: Pulse,
    outcomes: Vec<Outcome>,
}

impl Trial {
    fn new(stand: Stand, load: Load) -> Self {
        let pulse = Pulse::start(&stand.lab, VIPS[0]);
        Self { stand, load, pulse, outcomes: Vec::new() }
    }

    fn phase(&mut self, name: &'static str, work: impl FnOnce(&mut Stand, &Load)) -> &Outcome {
        let events = self.load.events.clone();
        let count = |of: &std::sync::Mutex<Vec<Fault>>| of.lock().expect("no panic").len();
        let before = (count(&events.broken), count(&events.failed));
        let (served, late) = (events.served.load(Ordering::Relaxed), events.late.load(Ordering::Relaxed));
        events.slowest();
        self.pulse.gap();
        let began = Instant::now();
        work(&mut self.stand, &self.load);
        std::thread::sleep(SETTLE);
        let outcome = Outcome {
            name,
            took: began.elapsed(),
            served: events.served.load(Ordering::Relaxed) - served,
            late: events.late.load(Ordering::Relaxed) - late,
            slowest: events.slowest(),
            gap: self.pulse.gap(),
            broken: events.broken.lock().expect("no panic")[before.0..].to_vec(),
            failed: events.failed.lock().expect("no panic")[before.1..].to_vec(),
        };
        eprintln!(
            "  {name:<22} {:>5.1} s, {:>5} new connections served, {} failed, {} with a lost packet, {} of the long ones broken, longest wait {:?}, longest gap {:?}",
            outcome.took.as_secs_f64(),
            outcome.served,
            outcome.failed.len(),
            outcome.late,
            outcome.broken.len(),
            outcome.slowest,
            outcome.gap
        );
        self.outcomes.push(outcome);
        self.outcomes.last().expect("just pushed")
    }
}

fn until(what: &str, most: Duration, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + most;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not within {most:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Another configuration, read by command, after a signal, or because the file changed.
fn reload(stand: &Stand, wish: &Wish, n: usize) {
    stand.write(wish);
    match n % 3 {
        0 => {
            stand.tell(&["reload"]);
        }
        1 => stand.signal(Signal::SIGHUP),
        _ => {}
    }
    let counted = |wish: &Wish| {
        stand.tell(&["counters"])["xdp"]["vips"].as_object().expect("VIPs").len() == SERVED + usize::from(wish.others)
    };
    until("the configuration comes into force", Duration::from_secs(20), || counted(wish));
}

/// VIPs come and go; reals get other weights, drain, go and come back, and keep their flows all the while.
fn reloads(stand: &Stand, mode: &'static str, times: usize) {
    for n in 0..times {
        let mut wish = Wish { others: (n as u16 * 3) % 5, keep: true, ..Wish::new(mode) };
        wish.reals[n % 3] = match n % 4 {
            1 => Some((1, "drain")),
            3 => None,
            _ => Some((1 + n as u32 % 4, "up")),
        };
        reload(stand, &wish, n);
    }
    reload(stand, &Wish { others: 1, ..Wish::new(mode) }, 0);
    reload(stand, &Wish::new(mode), 0);
}

fn drain(stand: &Stand, load: &Load, mode: &'static str) {
    let mut wish = Wish { others: 1, ..Wish::new(mode) };
    wish.reals[1] = Some((1, "drain"));
    reload(stand, &wish, 0);
    let with = load.events.with(2);
    assert!(with > 0, "the real to drain has no connections");
    let flows = stand.tell(&["mode", "show"])["flows"].clone();
    let (all, on_state) = (flows["flows"].as_u64().expect("a number"), flows["on_state"].as_u64().expect("a number"));
    eprintln!("  drained: {with} connections stay with the real; of {all} flows {on_state} depend on state");
    assert!(on_state >= u64::from(with) && on_state <= all, "{flows}");
    std::thread::sleep(SETTLE);
    assert_eq!(load.events.with(2), with, "connections of a drained real");
    reload(stand, &Wish::new(mode), 0);
}

/// Everything that may be done to a balancer while it carries traffic, in one mode.
fn operate(mode: &'static str) {
    let Extent { long, reloads: times, switches } = extent();
    let stand = Stand::new("op", &Wish::new(mode));
    assert_eq!(stand.tell(&["mode", "show"])["mode"], mode);
    for real in 1..=REALS {
        load::serve(&stand.lab, real, &VIPS);
        datagrams::serve(&stand.lab, real, &VIPS);
    }
    std::thread::sleep(Duration::from_millis(200));
    let load = Load::start(&stand.lab, &VIPS, long, RATE);
    let open = |load: &Load| (1..=REALS).map(|real| load.events.with(real as u8)).sum::<u32>() as usize;
    until("all connections are open", Duration::from_secs(60), || open(&load) == long);
    eprintln!("mode {mode}: {long} connections that stay, {RATE} new ones a second");
    let mut trial = Trial::new(stand, load);

    trial.phase("nothing", |_, _| {});
    trial.phase("reload", |stand, _| reloads(stand, mode, times));
    trial.phase("drain", |stand, load| drain(stand, load, mode));
    trial.phase("mode switch", |stand, _| {
        for n in 0..switches {
            let to = if (n % 2 == 0) == (mode == "xdp") { "afxdp" } else { "xdp" };
            assert_eq!(stand.tell(&["mode", "set", to])["mode"], to);
            std::thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(stand.tell(&["mode", "show"])["mode"], mode);
    });
    trial.phase("graceful restart", |stand, _| {
        stand.signal(Signal::SIGTERM);
        stand.ended();
        stand.start(&[]);
    });
    trial.phase("upgrade", |stand, _| {
        stand.other_program();
        stand.start(&["--take-over"]);
    });
    assert_eq!(trial.stand.tell(&["mode", "show"])["mode"], mode);
    trial.phase("kill -9", |stand, _| {
        stand.signal(Signal::SIGKILL);
        std::thread::sleep(Duration::from_millis(500));
        stand.start(&[]);
    });
    let killed = trial.outcomes.last().expect("a phase");
    let (window, wait) = (killed.gap, killed.slowest);
    for outcome in &trial.outcomes {
        let Outcome { name, broken, failed, .. } = outcome;
        assert!(broken.is_empty(), "{mode}: {name} broke what state could have kept: {broken:?}\n{}", trial.stand.log());
        assert!(failed.is_empty(), "{mode}: {name}: new connections failed: {failed:?}\n{}", trial.stand.log());
        assert!(outcome.served > 0, "{mode}: {name}: nobody was served");
    }
    eprintln!("  kill -9 in mode {mode}: nothing came through for {window:?}; the longest wait for an echo was {wait:?}");
    remove(&mut trial, mode);
    more_queues(&mut trial, mode);
    let counters = trial.stand.tell(&["counters"]);
    assert_eq!(counters["afxdp"]["seat"]["defect"], 0, "{counters}");
    trial.load.end();
}

/// A real is removed for good: its own connections break, at once and not by a time limit, and no others.
fn remove(trial: &mut Trial, mode: &'static str) {
    let (mut with, mut done) = (0, Instant::now());
    let outcome = trial.phase("hard removal", |stand, load| {
        let mut wish = Wish { others: 1, ..Wish::new(mode) };
        wish.reals[0] = None;
        with = load.events.with(1);
        reload(stand, &wish, 0);
        done = Instant::now();
        until("its connections break", Duration::from_secs(25), || load.events.with(1) == 0);
    });
    let others: Vec<_> = outcome.broken.iter().filter(|fault| fault.real != 1).collect();
    assert!(others.is_empty(), "connections with other reals broke: {others:?}");
    assert_eq!(outcome.broken.len(), with as usize, "each of its connections breaks once");
    let last = outcome.broken.iter().map(|fault| fault.at).max().expect("some broke");
    eprintln!("  removed: its {with} connections were told within {:?}", last.saturating_duration_since(done));
    let hung: Vec<_> = outcome.broken.iter().filter(|fault| fault.what.contains("no echo")).collect();
    assert!(hung.is_empty(), "a client was left waiting: {hung:?}");
    let failed: Vec<_> = outcome.failed.iter().filter(|fault| fault.real != 1).collect();
    assert!(failed.is_empty(), "new connections failed: {failed:?}");
}

/// The interface gets another receive queue. The carrier goes off and on again for that: packets are lost, and no connection.
fn more_queues(trial: &mut Trial, mode: &'static str) {
    let outcome = trial.phase("queue count", |stand, _| {
        stand.queues(2);
        let told = |stand: &Stand| stand.log().contains("2 receive queues instead of 1");
        let workers = |stand: &Stand| stand.tell(&["mode", "show"])["workers"].as_array().expect("workers").len();
        until("a worker for each queue", Duration::from_secs(20), || told(stand) && (mode == "xdp" || workers(stand) == 2));
    });
    let Outcome { broken, failed, .. } = outcome;
    assert!(broken.is_empty() && failed.is_empty(), "{mode}: another queue: {broken:?} {failed:?}");
}

/// In the kernel seat, and in that of the workers.
#[test]
fn nothing_breaks_that_state_can_keep() {
    if !permitted() {
        return;
    }
    for mode in ["xdp", "afxdp"] {
        operate(mode);
    }
}
