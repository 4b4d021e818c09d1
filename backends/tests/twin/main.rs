//! The twin test: the same frames through the BPF program and through the engine, on tables of their own. Bytes, verdicts,
//! every decision, all counters and every byte of the flow table must be equal; time moves by hand. The program runs twice, each
//! time on tables of its own: once as in a replay, so that it tells its decisions, and once as it forwards, when usual frames
//! take a way of their own.
//!
//! `rounds` has the generated frames: 200,000, with `TANDEM_LONG=1` 20 million, with `make twins FRAMES=N` so many.

mod frames;
mod many;
mod nat;
mod oracle;
mod plans;
mod rich;
mod rounds;
mod state;
mod told;

use std::collections::{BTreeMap, BTreeSet};

use tandem_backends::config::Plan;
use tandem_backends::control::{Changes, Counters, Hops};
use tandem_backends::memory::{LookedUp, Sizes, Tables};
use tandem_backends::replay::{Backend, Decision, Instance};
use tandem_backends::xdp::Headroom;
use tandem_engine::Reason;
use tandem_engine::memory::SeatCounter;
use tandem_engine::memory::reals::Out;

use frames::Rng;

/// Both seats, one frame at a time.
struct Twins {
    kernel: Instance,
    forwarding: Instance,
    engine: Instance,
    /// Frames so far: all, by reason, and those that took another flow's place.
    sent: u64,
    by_reason: Vec<u64>,
    evictions: u64,
    /// Frames after which the tables were alike when they were last compared.
    alike: u64,
    /// So many frames later all tables are compared after each frame.
    each_from: u64,
}

/// Tables that differ, though all decisions were the same.
struct Differ {
    what: String,
    /// They were found after so many frames, and were alike after so many.
    after: u64,
    alike: u64,
}

impl Twins {
    fn new(plan: &Plan, sets: u32) -> Option<Self> {
        Self::with(plan, Sizes { flow_sets: sets, ..Sizes::for_plan(plan, 1) })
    }

    fn with(plan: &Plan, sizes: Sizes) -> Option<Self> {
        let kernel = match Instance::with_sizes(Backend::Xdp, plan, 7, sizes) {
            Ok(kernel) => kernel,
            Err(error) if std::env::var_os("TANDEM_REQUIRE_KERNEL").is_none() && !is_root() => {
                eprintln!("SKIPPED: the kernel twin needs root: {error}");
                return None;
            }
            Err(error) => panic!("the kernel twin cannot be loaded: {error}"),
        };
        let forwarding = Instance::with_sizes(Backend::Forwarding, plan, 7, sizes).unwrap();
        let engine = Instance::with_sizes(Backend::Engine, plan, 7, sizes).unwrap();
        let by_reason = vec![0; Reason::ALL.len()];
        let twins = Self { kernel, forwarding, engine, sent: 0, by_reason, evictions: 0, alike: 0, each_from: u64::MAX };
        twins.vary_ways();
        Some(twins)
    }

    fn frame(&mut self, frame: &[u8], headroom: Headroom) -> Decision {
        self.frame_and_bytes(frame, headroom).0
    }

    fn frame_and_bytes(&mut self, frame: &[u8], headroom: Headroom) -> (Decision, &[u8]) {
        let tables = (self.sent >= self.each_from).then(|| self.seats().map(|twin| twin.tables().clone()));
        let (ours, bytes) = self.engine.frame_with(frame, headroom).unwrap();
        let (theirs, kernel_bytes) = self.kernel.frame_with(frame, headroom).unwrap();
        assert_eq!(ours, theirs, "frame {}: {frame:02x?}", self.sent);
        assert_eq!(bytes, kernel_bytes, "frame {}: {frame:02x?}: {ours:?}", self.sent);
        let (forwarded, forwarded_bytes) = self.forwarding.frame_with(frame, headroom).unwrap();
        assert_eq!(ours.action, forwarded.action, "forwarding, frame {}: {frame:02x?}: {ours:?}", self.sent);
        assert_eq!(bytes, forwarded_bytes, "forwarding, frame {}: {frame:02x?}: {ours:?}", self.sent);
        self.by_reason[ours.reason.map_or(0, |reason| reason as usize)] += 1;
        self.evictions += u64::from(ours.entered.is_some_and(|(.., evicted)| evicted));
        if let Some(tables) = tables
            && let Err(what) = differ(tables.each_ref().map(|tables| tables.as_ref()))
        {
            panic!("after frame {}: {what}: {frame:02x?}: {ours:?}", self.sent);
        }
        self.sent += 1;
        (ours, kernel_bytes)
    }

    /// The reasons that were reached, and how often.
    fn reasons(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let reached = Reason::ALL.iter().zip(&self.by_reason).filter(|(_, n)| **n > 0);
        reached.map(|(reason, n)| (reason.name(), *n))
    }

    fn seen(&self) -> BTreeSet<&'static str> {
        self.reasons().map(|(name, _)| name).collect()
    }

    fn tick(&self, tick: u32) {
        self.seats().iter().for_each(|seat| seat.set_tick(tick));
    }

    fn seats(&self) -> [&Instance; 3] {
        [&self.engine, &self.kernel, &self.forwarding]
    }

    /// What differs between the tables, and the counters of which all are.
    fn compare(&self) -> Result<Counters, String> {
        differ(self.seats().map(|seat| seat.tables().as_ref()))
    }

    fn apply(&mut self, plan: &Plan) -> Changes {
        let changes = self.engine.apply(plan).unwrap();
        assert_eq!(changes, self.kernel.apply(plan).unwrap());
        assert_eq!(changes, self.forwarding.apply(plan).unwrap());
        self.vary_ways();
        changes
    }

    /// Each real is in a VLAN of its own, in that of its clients, or in none.
    fn vary_ways(&self) {
        for twin in self.seats() {
            let present = twin.tables().reals().iter().enumerate().filter(|(_, real)| real.hop().is_present());
            for (id, real) in present {
                let vlan = [Out::SAME_VLAN, 0, 1 + id as u16 % 4094][id % 3];
                real.set_out(Out { vlan, ..real.out() }, 0);
            }
        }
    }

    /// Compares the tables.
    fn check(&mut self) -> Result<Counters, Differ> {
        let after = self.sent;
        let counters = self.compare().map_err(|what| Differ { what, after, alike: self.alike })?;
        self.alike = after;
        Ok(counters)
    }

    fn assert_tables_equal(&self) -> Counters {
        self.compare().unwrap_or_else(|what| panic!("after {} frames: {what}", self.sent))
    }
}

fn differ([engine, kernel, forwarding]: [&Tables; 3]) -> Result<Counters, String> {
    differing(engine, forwarding).map_err(|what| format!("forwarding: {what}"))?;
    differing(engine, kernel)
}

/// The counters of both, or what differs in their tables.
fn differing(ours: &Tables, theirs: &Tables) -> Result<Counters, String> {
    fn first<T, S: PartialEq + std::fmt::Debug>(name: &str, ours: &[T], theirs: &[T], of: fn(&T) -> S) -> Result<(), String> {
        match ours.iter().zip(theirs).position(|(a, b)| of(a) != of(b)) {
            None if ours.len() == theirs.len() => Ok(()),
            None => Err(format!("{name}: {} and {}", ours.len(), theirs.len())),
            Some(at) => Err(format!("{name} {at}: engine {:x?}, kernel {:x?}", of(&ours[at]), of(&theirs[at]))),
        }
    }
    first("flow set", ours.flows(), theirs.flows(), |set| set.snapshot())?;
    first("hashes of flow set", ours.hashes(), theirs.hashes(), |line| [0, 1, 2, 3, 4].map(|way| line.get(way)))?;
    first("place of NAT", ours.nats(), theirs.nats(), |nat| nat.snapshot())?;
    first("place of NAT's answers in fragments", ours.answers(), theirs.answers(), |answer| answer.snapshot())?;
    let [ours, theirs] = [ours, theirs].map(|tables| Counters::read(tables, 0..1));
    let named = |of: fn(&Counters) -> &BTreeMap<&'static str, u64>| {
        let pairs = of(&ours).iter().zip(of(&theirs)).filter(|((_, a), (_, b))| a != b);
        pairs.map(|((name, a), (_, b))| format!("{name}: engine {a}, kernel {b}")).collect::<Vec<_>>()
    };
    let differ = [named(|of| &of.reasons), named(|of| &of.events), named(|of| &of.seat)].concat();
    match ours == theirs {
        true => Ok(ours),
        false if differ.is_empty() => Err(format!("counters: engine {ours:?}, kernel {theirs:?}")),
        false => Err(format!("counters: {}", differ.join("; "))),
    }
}

fn is_root() -> bool {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Every reason is reached, also those that a sound configuration never reaches, and the twins agree on it.
#[test]
fn every_reason_is_reached() {
    let mut rng = Rng(4);
    let mut plan = plans::first(&mut rng);
    plan.vips[1].reals.clear();
    let Some(mut twins) = Twins::new(&plan, 64) else { return };
    for _ in 0..20_000 {
        let frame = rich::rich_frame(&mut rng, &plan);
        twins.frame(&frame, Headroom::Usual);
    }
    let mut forwarded = || loop {
        let frame = frames::frame(&mut rng, &plan);
        if twins.frame(&frame, Headroom::Usual).reason == Some(Reason::Forwarded) {
            break frame;
        }
    };
    let frame = forwarded();
    assert_eq!(twins.frame(&frame, Headroom::None).reason, Some(Reason::NoHeadroom));
    let unresolved: Hops = plan.vips.iter().flat_map(|v| &v.reals).map(|r| (r.address, None)).collect();
    for twin in twins.seats() {
        assert!(twin.control().set_hops(&unresolved) > 0);
    }
    assert_eq!(twins.frame(&frame, Headroom::Usual).reason, Some(Reason::NoNextHop));
    for twin in twins.seats() {
        twin.tables().reals().iter().for_each(tandem_engine::memory::Real::clear);
    }
    assert_eq!(twins.frame(&frame, Headroom::Usual).reason, Some(Reason::NoReal));
    for twin in twins.seats() {
        twin.tables().root().set_layout(0);
    }
    assert_eq!(twins.frame(&frame, Headroom::Usual).reason, Some(Reason::NotConfigured));
    assert_eq!(twins.assert_tables_equal().seat(SeatCounter::Defect), 0);
    let mut seen = twins.seen();
    for profile in ["standard", "katran"] {
        let plan = plans::full(&mut rng, profile);
        let mut twins = Twins::new(&plan, 64).expect("as before");
        for _ in 0..5000 {
            twins.frame(&rich::rich_frame(&mut rng, &plan), Headroom::Usual);
        }
        // A source that was configured goes missing.
        for twin in twins.seats() {
            let root = twin.tables().root();
            root.source_v4.set(0);
            root.source_v6.iter().for_each(|word| word.set(0));
        }
        for _ in 0..1000 {
            twins.frame(&rich::rich_frame(&mut rng, &plan), Headroom::Usual);
        }
        seen.extend(twins.seen());
    }
    let plan = nat::plan(&mut rng, 1);
    let mut twins = Twins::new(&plan, 64).expect("as before");
    assert!(nat::talk(&mut rng, &plan, &mut twins, 20_000).is_ok());
    seen.extend(twins.seen());
    seen.extend(state::lost_control());
    seen.extend(state::removed_reals());
    let never: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).filter(|name| !seen.contains(name)).collect();
    assert_eq!(never, [""; 0], "never reached");
}

/// As on kernels that take no large table as one value: looked up by the program, in each of the ways that there are.
#[test]
fn tables_that_are_looked_up_are_the_same() {
    let mut rng = Rng(6);
    let plans = [plans::first(&mut rng), plans::full(&mut rng, "standard"), plans::full(&mut rng, "katran")];
    for looked_up in [LookedUp { vips: false, ..LookedUp::ALL }, LookedUp::ALL] {
        for plan in &plans {
            let Some(mut twins) = Twins::with(plan, Sizes { flow_sets: 1024, looked_up, ..Sizes::for_plan(plan, 1) }) else {
                return;
            };
            for sent in 0..20_000 {
                let usual = sent % 2 == 0;
                let frame = if usual { frames::frame(&mut rng, plan) } else { rich::rich_frame(&mut rng, plan) };
                twins.frame(&frame, Headroom::Usual);
            }
            assert!(twins.seen().contains("forwarded"), "{:?}", twins.seen());
            twins.assert_tables_equal();
        }
    }
}

/// Truncated at every byte, every length field off by one, every single-bit flip of the headers.
#[test]
fn every_truncation_and_every_bit() {
    let mut rng = Rng(5);
    let plan = plans::first(&mut rng);
    let Some(mut twins) = Twins::new(&plan, 64) else { return };
    for _ in 0..8 {
        let frame = frames::frame(&mut rng, &plan);
        for len in 0..frame.len().min(120) {
            twins.frame(&frame[..len], Headroom::Usual);
        }
        for bit in 0..frame.len().min(74) * 8 {
            let mut flipped = frame.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            twins.frame(&flipped, Headroom::Usual);
        }
    }
    twins.assert_tables_equal();
}
