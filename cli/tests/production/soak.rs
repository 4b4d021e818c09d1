//! A long run with everything at random: `make soak TIME=600 SEED=1`. Here it takes `TANDEM_SOAK_SECONDS`, 20 by default.
//!
//! Traffic stays and comes and goes: TCP connections that are checked byte by byte, new ones, UDP flows. Meanwhile the
//! configuration changes, reals drain and go, the mode is switched, the process is restarted, replaced and killed, and floods come.
//! Nothing may break that state could have kept, and nothing may grow: after each event the process is looked at.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, Socket, Type};
use tandem_lab::{BPFFS, Host, Lab};

use super::common::permitted;
use super::datagrams::{self, Datagrams};
use super::load::{self, Load};
use super::stand::{REALS, Stand, VIPS, Wish};
use super::{Outcome, Trial, reload, until};

/// TCP connections and UDP flows that stay, and new connections a second.
const LONG: usize = 120;
const FLOWS: usize = 60;
const RATE: u32 = 50;
/// Frames of a flood, and the time it takes.
const FLOOD: u32 = 4_000;
const FLOOD_TIME: Duration = Duration::from_secs(1);
/// What the process's own memory may grow by, from when it was first seen in the same state, in KiB: the allocator keeps what a
/// program took to be loaded, 15 MiB.
const GROWTH: u64 = 24 << 10;
/// Threads and descriptors that there may be more: a thread that waits for more work, the link of a program that was taken over.
const SPARE: usize = 2;
/// Datagrams that may be lost, of a hundred: those under way when a worker dies or a flood fills a ring.
const LOST: u64 = 5;

struct Rng(u64);

impl Rng {
    /// SplitMix64 (Steele, Lea and Flood, 2014).
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % u64::from(n)) as u32
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    Reload,
    Drain,
    Remove,
    Switch,
    Flood,
    Restart,
    Upgrade,
    Kill,
}

/// All of them, as often as they shall come.
const EVENTS: [Event; 20] = [
    Event::Reload,
    Event::Reload,
    Event::Reload,
    Event::Reload,
    Event::Reload,
    Event::Reload,
    Event::Drain,
    Event::Drain,
    Event::Remove,
    Event::Remove,
    Event::Switch,
    Event::Switch,
    Event::Switch,
    Event::Switch,
    Event::Flood,
    Event::Flood,
    Event::Restart,
    Event::Upgrade,
    Event::Kill,
    Event::Kill,
];

impl Event {
    fn name(self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::Drain => "drain",
            Self::Remove => "removal",
            Self::Switch => "mode switch",
            Self::Flood => "flood",
            Self::Restart => "graceful restart",
            Self::Upgrade => "upgrade",
            Self::Kill => "kill -9",
        }
    }
}

/// What the balancer's process holds.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Holdings {
    /// Its own memory, in KiB (the tables are the kernel's).
    memory: u64,
    threads: usize,
    /// By what they are: a file, a map, a socket ...
    descriptors: BTreeMap<String, usize>,
    /// Mappings of files and tables; those of plain memory are `memory`.
    maps: usize,
    pins: Vec<String>,
}

impl Holdings {
    fn of(stand: &Stand) -> Self {
        let process = Path::new("/proc").join(stand.pid().to_string());
        let status = fs::read_to_string(process.join("status")).expect("a process");
        let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line of it");
        let memory = memory.trim().trim_end_matches(" kB").parse().expect("a number");
        let threads = fs::read_dir(process.join("task")).expect("a process").count();
        let mut descriptors = BTreeMap::new();
        for entry in fs::read_dir(process.join("fd")).expect("a process").flatten() {
            // One that was closed meanwhile is none.
            let Ok(link) = fs::read_link(entry.path()) else { continue };
            let link = link.display().to_string();
            // socket:[1234], anon_inode:bpf-map, /a/file
            let kind = link.split(":[").next().unwrap_or_default();
            // Each process has a log of its own.
            let kind = if kind.ends_with(".log") { "log" } else { kind };
            *descriptors.entry(kind.to_owned()).or_default() += 1;
        }
        let maps = fs::read_to_string(process.join("maps")).expect("a process");
        let maps = maps.lines().filter(|line| line.contains("bpf-map") || line.contains("socket:")).count();
        let pins = fs::read_dir(Path::new(BPFFS).join("tandem").join(stand.name())).expect("its pins");
        let mut pins: Vec<String> = pins.flatten().map(|pin| pin.file_name().to_string_lossy().into_owned()).collect();
        pins.sort();
        Self { memory, threads, descriptors, maps, pins }
    }

    fn open(&self) -> usize {
        self.descriptors.values().sum()
    }

    /// What has grown since.
    fn growth(&self, first: &Self) -> Option<String> {
        let same = (self.maps, &self.pins) == (first.maps, &first.pins)
            && self.threads <= first.threads + SPARE
            && self.open() <= first.open() + SPARE;
        if same && self.memory <= first.memory + GROWTH {
            return None;
        }
        Some(format!("first {first}\nnow   {self}"))
    }
}

impl fmt::Display for Holdings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory, threads, descriptors, maps, pins } = self;
        write!(f, "{memory} KiB, {threads} threads, {maps} mapped tables and rings, {} pins, {descriptors:?}", pins.len())
    }
}

struct Soak {
    trial: Trial,
    datagrams: Datagrams,
    rng: Rng,
    wish: Wish,
    /// What was held first in a state: the number of workers, and of further VIPs.
    first: BTreeMap<(usize, u16), Holdings>,
    most: u64,
    events: u32,
}

impl Soak {
    fn new(seed: u64) -> Self {
        let wish = Wish::new("xdp");
        let stand = Stand::new("soak", &wish);
        for real in 1..=REALS {
            load::serve(&stand.lab, real, &VIPS);
            datagrams::serve(&stand.lab, real, &VIPS);
        }
        std::thread::sleep(Duration::from_millis(200));
        let load = Load::start(&stand.lab, &VIPS, LONG, RATE);
        let datagrams = Datagrams::start(&stand.lab, &VIPS, FLOWS);
        let open = || (1..=REALS).map(|real| load.events.with(real as u8)).sum::<u32>() as usize;
        until("all connections are open", Duration::from_secs(60), || open() == LONG);
        let trial = Trial::new(stand, load);
        Self { trial, datagrams, rng: Rng(seed), wish, first: BTreeMap::new(), most: 0, events: 0 }
    }

    /// One of the reals.
    fn any_real(&mut self) -> usize {
        self.rng.below(REALS.into()) as usize
    }

    /// Other weights, and other further VIPs.
    fn another(&mut self) {
        self.wish.others = self.rng.below(4) as u16;
        for real in 0..self.wish.reals.len() {
            let weight = 1 + self.rng.below(4);
            if let Some((before, _)) = &mut self.wish.reals[real] {
                *before = weight;
            }
        }
    }

    /// Something happens.
    fn event(&mut self, event: Event) {
        let (how, real) = (self.rng.below(3) as usize, self.any_real());
        match event {
            Event::Drain => {
                // One at a time: the others have to take the new connections.
                let drained = self.wish.reals.iter().position(|real| matches!(real, Some((_, "drain"))));
                self.wish.reals[drained.unwrap_or(real)] = Some((1, if drained.is_some() { "up" } else { "drain" }));
            }
            Event::Remove => {
                // Those that stay have to be up.
                self.wish.reals.iter_mut().flatten().for_each(|(_, state)| *state = "up");
                self.wish.reals[real] = None;
                self.datagrams.echoes.changes(real as u16 + 1);
            }
            Event::Reload | Event::Switch | Event::Flood | Event::Restart | Event::Upgrade | Event::Kill => self.another(),
        }
        let (wish, rng, datagrams) = (&self.wish, &mut self.rng, &self.datagrams);
        let events = self.trial.load.events.clone();
        let served = || events.served.load(Ordering::Relaxed);
        self.trial.phase(event.name(), |stand, load| match event {
            Event::Reload | Event::Drain => reload(stand, wish, how),
            Event::Remove => {
                reload(stand, wish, how);
                let end = Instant::now() + Duration::from_secs(45);
                while load.events.with(real as u8 + 1) > 0 {
                    let left = || (load.events.with(real as u8 + 1), stand.tell(&["flow", "list"]), stand.tell(&["counters"]));
                    assert!(Instant::now() < end, "connections stay with real {}, which is gone: {:?}", real + 1, left());
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            Event::Switch => {
                let to = if stand.tell(&["mode", "show"])["mode"] == "xdp" { "afxdp" } else { "xdp" };
                assert_eq!(stand.tell(&["mode", "set", to])["mode"], to);
            }
            Event::Flood => flood(&stand.lab, rng),
            Event::Restart => {
                stand.signal(Signal::SIGTERM);
                stand.ended();
                stand.write(wish);
                stand.start(&[]);
            }
            Event::Upgrade => stand.start(&["--take-over"]),
            Event::Kill => {
                stand.signal(Signal::SIGKILL);
                std::thread::sleep(Duration::from_millis(u64::from(rng.below(800))));
                stand.start(&[]);
            }
        });
        let before = served();
        until("somebody is served after it", Duration::from_secs(30), || served() > before);
        let Outcome { broken, failed, .. } = self.trial.outcomes.last().expect("just pushed");
        let may_break = |of: u8| event == Event::Remove && usize::from(of) == real + 1;
        let broken: Vec<_> = broken.iter().filter(|fault| !may_break(fault.real)).collect();
        let failed: Vec<_> = failed.iter().filter(|fault| !may_break(fault.real)).collect();
        let name = event.name();
        assert!(broken.is_empty(), "{name} broke what state could have kept: {broken:?}\n{}", self.trial.stand.log());
        assert!(failed.is_empty(), "{name}: new connections failed: {failed:?}\n{}", self.trial.stand.log());
        let moved = datagrams.echoes.moved.lock().expect("no panic").clone();
        assert!(moved.is_empty(), "{name} moved UDP flows whose real is there: {moved:?}\n{}", self.trial.stand.log());
        if event == Event::Remove {
            self.wish.reals[real] = Some((1, "up"));
            reload(&self.trial.stand, &self.wish, 0);
            self.datagrams.echoes.changes(real as u16 + 1);
        }
        self.events += 1;
    }

    /// Nothing may have grown since the process was first seen in this state.
    fn look(&mut self) {
        let stand = &self.trial.stand;
        // Some events do not read the file; the state that is compared is that of the file.
        reload(stand, &self.wish, 0);
        let workers = stand.tell(&["mode", "show"])["workers"].as_array().expect("workers").len();
        let state = (workers, self.wish.others);
        let first = self.first.get(&state).cloned();
        let mut now = Holdings::of(stand);
        if let Some(first) = &first {
            // A client's connection may be closing.
            let end = Instant::now() + Duration::from_secs(5);
            while now.growth(first).is_some() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(50));
                now = Holdings::of(stand);
            }
            if let Some(growth) = now.growth(first) {
                panic!("it grows, with {workers} workers and {} further VIPs:\n{growth}", self.wish.others);
            }
        }
        self.most = self.most.max(now.memory);
        self.first.entry(state).or_insert(now);
    }
}

/// Packets of flows that do not exist, each of another one: ACKs and datagrams.
fn flood(lab: &Lab, rng: &mut Rng) {
    let vip = VIPS[0];
    let SocketAddr::V4(to) = vip else { panic!("the first VIP is IPv4") };
    let packets: Vec<Vec<u8>> = (0..FLOOD)
        .map(|n| {
            let [_, a, b, c] = rng.below(1 << 24).to_be_bytes();
            // 198.18.0.0/15 is for tests (RFC 2544); nobody answers it here.
            let ip = PacketBuilder::ipv4([198, 18 | a & 1, b, c], to.ip().octets(), 64);
            let port = 1024 + rng.below(60_000) as u16;
            let mut packet = Vec::new();
            let written = if n % 2 == 0 {
                ip.tcp(port, to.port(), n, 1024).ack(n).write(&mut packet, &[])
            } else {
                ip.udp(port, to.port()).write(&mut packet, b"flood")
            };
            written.expect("a packet");
            packet
        })
        .collect();
    let send = move || {
        // IPPROTO_RAW: with the IP header as it is given.
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).expect("a raw socket");
        let start = Instant::now();
        for (n, packet) in (0_u32..).zip(&packets) {
            let _ = socket.send_to(packet, &vip.into());
            if n % 64 == 0 {
                std::thread::sleep((FLOOD_TIME * n / FLOOD).saturating_sub(start.elapsed()));
            }
        }
    };
    lab.enter(Host::Client, send).expect("its namespace");
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |n| n.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Nothing of it is left: no pins, no sockets, no namespaces.
fn nothing_is_left(prefix: &str) {
    let of = |directory: &str| fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let all = ["/run/netns", "/sys/fs/bpf/tandem", "/sys/fs/bpf/tandem-lab", "/run/tandem", "/run/tandem-lab"].map(of);
    let left: Vec<_> = all.into_iter().flatten().filter(|name| name.to_string_lossy().contains(prefix)).collect();
    assert!(left.is_empty(), "of {prefix}: {left:?}");
}

#[test]
fn soak() {
    if !permitted() {
        return;
    }
    let (time, seed) = (Duration::from_secs(number("TANDEM_SOAK_SECONDS", 20)), number("TANDEM_SEED", 1));
    eprintln!("soak of {time:?}, seed {seed}; the same seed makes the same events (TANDEM_SEED, or make soak SEED={seed})");
    let mut soak = Soak::new(seed);
    let start = Instant::now();
    let mut met = BTreeMap::new();
    soak.look();
    while start.elapsed() < time {
        let event = EVENTS[soak.rng.below(EVENTS.len() as u32) as usize];
        soak.event(event);
        *met.entry(event.name()).or_insert(0) += 1;
        soak.look();
    }
    // The workers end, and say where their frames are.
    soak.trial.stand.signal(Signal::SIGTERM);
    soak.trial.stand.ended();
    // What is attached goes on forwarding until everybody is done.
    soak.trial.load.end();
    soak.datagrams.end();
    let failed = soak.trial.load.events.failed.lock().expect("no panic");
    let last: Vec<_> = failed.iter().filter(|fault| fault.real == 0).collect();
    assert!(last.is_empty(), "new connections failed, seed {seed}: {last:?}");
    drop(failed);
    let (events, echoes) = (&soak.trial.load.events, &soak.datagrams.echoes);
    let [echoed, served, late] = [&events.echoed, &events.served, &events.late].map(|n| n.load(Ordering::Relaxed));
    let [sent, lost] = [&echoes.sent, &echoes.lost].map(|n| n.load(Ordering::Relaxed));
    eprintln!("after {:.0} s, seed {seed}: {} events, {met:?}", start.elapsed().as_secs_f64(), soak.events);
    eprintln!("  TCP: {echoed} messages back as they were, {served} new connections served, {late} with a lost packet");
    eprintln!("  UDP: {lost} of {sent} datagrams lost; no flow left a real that was there");
    for ((workers, others), first) in &soak.first {
        eprintln!("  first with {workers} workers and {others} further VIPs: {first}");
    }
    eprintln!(
        "  at most {} KiB, which is at most {GROWTH} KiB more than at first in the same state; nothing else grew",
        soak.most
    );
    assert!(lost * 100 <= sent * LOST, "{lost} of {sent} datagrams were lost, seed {seed}");
    let errors = soak.trial.stand.errors();
    assert!(errors.is_empty(), "the balancer says, seed {seed}: {errors:#?}");
    let prefix = soak.trial.stand.prefix().to_owned();
    drop(soak);
    nothing_is_left(&prefix);
    eprintln!("verdict, seed {seed}: passed; nothing broke that state could have kept, nothing grew, nothing is left");
}
