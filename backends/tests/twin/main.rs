//! The twin test: the same frames through the BPF program and through the engine, on tables of their own. Bytes, verdicts,
//! every decision, all counters and every byte of the flow table must be equal; time moves by hand.
//!
//! `TANDEM_LONG=1` runs 10 million frames instead of 100,000, and 2 million in each profile with everything configured;
//! `TANDEM_FRAMES=N` any number, and a fifth of it in each profile.

mod frames;
mod many;
mod nat;
mod oracle;
mod plans;
mod rich;
mod state;

use std::collections::BTreeSet;

use tandem_backends::control::{Counters, Hops};
use tandem_backends::memory::Sizes;
use tandem_backends::replay::{Backend, Instance};
use tandem_backends::xdp::Headroom;
use tandem_engine::Reason;
use tandem_engine::memory::SeatCounter;
use tandem_engine::memory::reals::Out;

use frames::Rng;
use oracle::Oracle;

/// Both seats, one frame at a time.
struct Twins {
    kernel: Instance,
    engine: Instance,
    seen: BTreeSet<&'static str>,
}

impl Twins {
    fn new(plan: &tandem_backends::config::Plan, sets: u32) -> Option<Self> {
        let sizes = Sizes { flow_sets: sets, ..Sizes::for_plan(plan, 1) };
        let kernel = match Instance::with_sizes(Backend::Xdp, plan, 7, sizes) {
            Ok(kernel) => kernel,
            Err(error) if std::env::var_os("TANDEM_REQUIRE_KERNEL").is_none() && !is_root() => {
                eprintln!("SKIPPED: the kernel twin needs root: {error}");
                return None;
            }
            Err(error) => panic!("the kernel twin cannot be loaded: {error}"),
        };
        let engine = Instance::with_sizes(Backend::Engine, plan, 7, sizes).unwrap();
        let twins = Self { kernel, engine, seen: BTreeSet::new() };
        twins.vary_ways();
        Some(twins)
    }

    fn frame(&mut self, frame: &[u8], headroom: Headroom) -> tandem_backends::replay::Decision {
        self.frame_and_bytes(frame, headroom).0
    }

    fn frame_and_bytes(&mut self, frame: &[u8], headroom: Headroom) -> (tandem_backends::replay::Decision, Vec<u8>) {
        let (ours, bytes) = self.engine.frame_with(frame, headroom).unwrap();
        let (theirs, kernel_bytes) = self.kernel.frame_with(frame, headroom).unwrap();
        assert_eq!(ours, theirs, "frame {frame:02x?}");
        assert_eq!(bytes, kernel_bytes, "frame {frame:02x?}: {ours:?}");
        self.seen.extend(ours.reason.map(Reason::name));
        (ours, bytes.to_vec())
    }

    fn tick(&self, tick: u32) {
        self.kernel.set_tick(tick);
        self.engine.set_tick(tick);
    }

    fn apply(&mut self, plan: &tandem_backends::config::Plan) -> tandem_backends::control::Changes {
        let changes = self.engine.apply(plan).unwrap();
        assert_eq!(changes, self.kernel.apply(plan).unwrap());
        self.vary_ways();
        changes
    }

    /// Each real is in a VLAN of its own, in that of its clients, or in none.
    fn vary_ways(&self) {
        for twin in [&self.kernel, &self.engine] {
            let present = twin.tables().reals().iter().enumerate().filter(|(_, real)| real.hop().is_present());
            for (id, real) in present {
                let vlan = [Out::SAME_VLAN, 0, 1 + id as u16 % 4094][id % 3];
                real.set_out(Out { vlan, ..real.out() }, 0);
            }
        }
    }

    fn assert_tables_equal(&self) -> Counters {
        let (ours, theirs) = (self.engine.tables(), self.kernel.tables());
        for (i, (a, b)) in ours.flows().iter().zip(theirs.flows()).enumerate() {
            assert_eq!(a.snapshot(), b.snapshot(), "flow set {i}");
        }
        for (i, (a, b)) in ours.hashes().iter().zip(theirs.hashes()).enumerate() {
            let of = |line: &tandem_engine::memory::HashLine| [0, 1, 2, 3, 4].map(|way| line.get(way));
            assert_eq!(of(a), of(b), "hashes of flow set {i}");
        }
        for (i, (a, b)) in ours.nats().iter().zip(theirs.nats()).enumerate() {
            assert_eq!(a.snapshot(), b.snapshot(), "place {i} of NAT");
        }
        for (i, (a, b)) in ours.answers().iter().zip(theirs.answers()).enumerate() {
            assert_eq!(a.snapshot(), b.snapshot(), "place {i} of NAT's answers in fragments");
        }
        let counters = Counters::read(ours, 0..1);
        assert_eq!(counters, Counters::read(theirs, 0..1));
        counters
    }
}

fn is_root() -> bool {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn frames_of_this_run() -> u64 {
    if let Some(wanted) = std::env::var_os("TANDEM_FRAMES") {
        return wanted.to_str().and_then(|n| n.parse().ok()).expect("TANDEM_FRAMES is a number");
    }
    if std::env::var_os("TANDEM_LONG").is_some() { 10_000_000 } else { 100_000 }
}

/// Runs `count` generated frames over tables of `sets` sets.
fn run(seed: u64, sets: u32, count: u64) {
    let mut rng = Rng(seed);
    let mut plan = plans::first(&mut rng);
    let Some(mut twins) = Twins::new(&plan, sets) else { return };
    let mut oracle = Oracle::default();
    let mut total = tandem_backends::control::Changes::default();
    // grace periods take their time: at most 400 changes a run
    let period = (count / 400).max(1500);
    let (mut tick, mut evictions) = (30_000, 0);
    for n in 0..count {
        if n % period == period - 1 {
            evictions += twins.assert_tables_equal().vips.values().map(|v| v["evicted"]).sum::<u64>();
            plan = plans::change(&mut rng, &plan);
            let changes = twins.apply(&plan);
            oracle.plan(&plan);
            total.vips_added += changes.vips_added;
            total.vips_removed += changes.vips_removed;
            total.reals_added += changes.reals_added;
            total.reals_removed += changes.reals_removed;
            total.rings += changes.rings;
            total.flows_forgotten += changes.flows_forgotten;
        }
        // now and then a tick, rarely longer than UDP flows live
        if rng.one_in(50) {
            tick += if rng.one_in(40) { 200 } else { 1 };
            twins.tick(tick);
        }
        let frame = frames::frame(&mut rng, &plan);
        let decision = twins.frame(&frame, Headroom::Usual);
        oracle.check(&plan, &frame, &decision);
    }
    twins.assert_tables_equal();
    eprintln!(
        "{count} frames, {sets} sets: {evictions} evictions seen, {} by flow, {total:?}, reasons {:?}",
        oracle.by_flow, twins.seen
    );
    assert!(oracle.by_flow > count / 20);
    for (what, n) in [
        ("VIPs added", total.vips_added),
        ("VIPs removed", total.vips_removed),
        ("reals added", total.reals_added),
        ("reals removed", total.reals_removed),
        ("rings", total.rings),
    ] {
        assert!(n > 0, "no {what} during the run");
    }
    assert!(total.flows_forgotten > 0, "no flow lost its real");
    if sets <= 1024 {
        assert!(evictions > 0, "no evictions in a table of {sets} sets");
    }
}

#[test]
fn generated_frames_on_64_sets() {
    run(1, 64, frames_of_this_run() / 5);
}

#[test]
fn generated_frames_on_1024_sets() {
    run(2, 1024, frames_of_this_run() / 2);
}

#[test]
fn generated_frames_on_16384_sets() {
    run(3, 16_384, frames_of_this_run() * 3 / 10);
}

/// Generated frames for everything that can be configured at once, in one profile.
fn run_full(seed: u64, profile: &str) {
    let mut rng = Rng(seed);
    let mut plan = plans::full(&mut rng, profile);
    let Some(mut twins) = Twins::new(&plan, 1024) else { return };
    let frames = frames_of_this_run() / 5;
    for n in 0..frames {
        if n == frames / 2 {
            // What is down loses its UDP flows (katran), or all of them (standard).
            for real in plan.vips.iter_mut().flat_map(|vip| &mut vip.reals).step_by(2) {
                real.state = tandem_backends::config::RealState::Down;
            }
            twins.apply(&plan);
        }
        if n % 400 == 0 {
            twins.tick(30_000 + n as u32 / 400);
        }
        twins.frame(&rich::rich_frame(&mut rng, &plan), Headroom::Usual);
    }
    let counters = twins.assert_tables_equal();
    eprintln!("{frames} frames, seed {seed}, profile {profile}, reasons {:?}", twins.seen);
    let never: Vec<_> = counters.events.iter().filter(|(_, n)| **n == 0).map(|(name, _)| *name).collect();
    // Nothing fills the global table here, and frames that cannot be encapsulated are another test's. Katran takes what is in
    // a tunnel over IPv4 for IPv4; in the standard profile no flow stays at a real that is down.
    let other = if profile == "katran" { "egress-decap-v6" } else { "udp-migrated" };
    let mut expected = vec!["encap-failed-v4", "encap-failed-v6", "global-flow-hit", "nat-errors", "nat-opened", other];
    expected.sort_unstable();
    assert_eq!(never, expected, "events that were never counted");
}

#[test]
fn everything_in_the_standard_profile() {
    run_full(11, "standard");
}

#[test]
fn everything_in_the_katran_profile() {
    run_full(12, "katran");
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
    for twin in [&twins.kernel, &twins.engine] {
        assert!(twin.control().set_hops(&unresolved) > 0);
    }
    assert_eq!(twins.frame(&frame, Headroom::Usual).reason, Some(Reason::NoNextHop));
    for twin in [&twins.kernel, &twins.engine] {
        twin.tables().reals().iter().for_each(tandem_engine::memory::Real::clear);
    }
    assert_eq!(twins.frame(&frame, Headroom::Usual).reason, Some(Reason::NoReal));
    for twin in [&twins.kernel, &twins.engine] {
        twin.tables().root().layout.set(0);
    }
    assert_eq!(twins.frame(&frame, Headroom::Usual).reason, Some(Reason::NotConfigured));
    assert_eq!(twins.assert_tables_equal().seat(SeatCounter::Defect), 0);
    let mut seen = twins.seen;
    for profile in ["standard", "katran"] {
        let plan = plans::full(&mut rng, profile);
        let mut twins = Twins::new(&plan, 64).expect("as before");
        for _ in 0..5000 {
            twins.frame(&rich::rich_frame(&mut rng, &plan), Headroom::Usual);
        }
        // A source that was configured goes missing.
        for twin in [&twins.kernel, &twins.engine] {
            let root = twin.tables().root();
            root.source_v4.set(0);
            root.source_v6.iter().for_each(|word| word.set(0));
        }
        for _ in 0..1000 {
            twins.frame(&rich::rich_frame(&mut rng, &plan), Headroom::Usual);
        }
        seen.extend(twins.seen);
    }
    let plan = nat::plan(&mut rng, 1);
    let mut twins = Twins::new(&plan, 64).expect("as before");
    nat::talk(&mut rng, &plan, &mut twins, 20_000);
    seen.extend(twins.seen);
    seen.extend(state::lost_control());
    seen.extend(state::removed_reals());
    let never: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).filter(|name| !seen.contains(name)).collect();
    assert_eq!(never, [""; 0], "never reached");
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
