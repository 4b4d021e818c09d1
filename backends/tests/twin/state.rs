//! What depends on who controls the tables, and on what the flow table alone knows: the same in both seats.

use std::collections::BTreeSet;

use tandem_backends::config::{OnControlLoss, OnRemoval, Plan, Protocol, RealState};
use tandem_backends::control::{Depending, FLOWS_VERSION, FlowExport};
use tandem_backends::memory::Sizes;
use tandem_backends::replay::{Backend, Instance, Tuple};
use tandem_backends::xdp::Headroom;
use tandem_engine::{From, Reason};

use crate::frames::{self, Rng};
use crate::{Twins, plans};

/// A frame of a flow that the table knows.
fn known(rng: &mut Rng, plan: &Plan, twins: &mut Twins) -> Vec<u8> {
    loop {
        let frame = frames::frame(rng, plan);
        twins.frame(&frame, Headroom::Usual);
        if twins.frame(&frame, Headroom::Usual).from == Some(From::Flow) {
            return frame;
        }
    }
}

/// Frames to VIPs when the control process is silent, and when it is there again.
pub fn lost_control() -> BTreeSet<&'static str> {
    let (mut rng, mut seen) = (Rng(31), BTreeSet::new());
    for (policy, reason) in [
        (OnControlLoss::Keep, Reason::Forwarded),
        (OnControlLoss::Pass, Reason::ControlLost),
        (OnControlLoss::Drop, Reason::ControlLostDropped),
    ] {
        let mut plan = plans::first(&mut rng);
        plan.on_control_loss = policy;
        let Some(mut twins) = Twins::new(&plan, 64) else { return seen };
        let frame = known(&mut rng, &plan, &mut twins);
        // 10 s of 256 ms each: 40 ticks.
        for (tick, beat, expected) in [
            (40, None, Reason::Forwarded),
            (41, None, reason),
            (1000, None, reason),
            (1000, Some(990), Reason::Forwarded),
            // Its clock is a little ahead.
            (1000, Some(1002), Reason::Forwarded),
            (1042, None, Reason::Forwarded),
            (1043, None, reason),
            // The clock turns round.
            (2, Some((1 << 26) - 20), Reason::Forwarded),
            (21, None, reason),
        ] {
            for twin in twins.seats() {
                beat.into_iter().for_each(|beat| twin.tables().root().beat(beat));
            }
            twins.tick(tick);
            let found = twins.frame(&frame, Headroom::Usual).reason;
            assert_eq!(found, Some(expected), "{policy:?} at {tick}");
        }
        seen.extend(twins.seen());
    }
    seen
}

/// Flows of reals that are removed, under each policy.
pub fn removed_reals() -> BTreeSet<&'static str> {
    let (mut rng, mut seen) = (Rng(32), BTreeSet::new());
    for policy in [OnRemoval::Reselect, OnRemoval::Keep, OnRemoval::Drop] {
        let mut plan = plans::first(&mut rng);
        plan.vips.iter_mut().for_each(|vip| vip.on_removal = policy);
        let Some(mut twins) = Twins::new(&plan, 64) else { return seen };
        let frame = known(&mut rng, &plan, &mut twins);
        let before = twins.frame(&frame, Headroom::Usual).real;
        let mut without = plan.clone();
        for vip in &mut without.vips {
            // Down or gone is the same.
            vip.reals.iter_mut().skip(1).for_each(|real| real.state = RealState::Down);
            vip.reals.truncate(vip.reals.len().max(2) - usize::from(rng.one_in(2)));
            vip.reals.iter_mut().for_each(|real| real.state = RealState::Down);
        }
        let changes = twins.apply(&without);
        assert!(changes.reals_removed > 0);
        assert_eq!(changes.flows_forgotten > 0, policy == OnRemoval::Reselect);
        let after = twins.frame(&frame, Headroom::Usual);
        match policy {
            OnRemoval::Reselect => assert_eq!(after.reason, Some(Reason::NoRing)),
            OnRemoval::Keep => assert_eq!((after.reason, &after.real), (Some(Reason::Forwarded), &before)),
            OnRemoval::Drop => assert_eq!(after.reason, Some(Reason::RealRemoved)),
        }
        // It comes back, and its flows with it if they were not forgotten.
        twins.apply(&plan);
        let back = twins.frame(&frame, Headroom::Usual);
        assert_eq!(back.reason, Some(Reason::Forwarded));
        assert_eq!(back.from == Some(From::Flow), policy != OnRemoval::Reselect);
        twins.assert_tables_equal();
        seen.extend(twins.seen());
    }
    seen
}

/// Frames of `count` flows to each VIP without flags, none of them a SYN.
fn flows(plan: &Plan, count: u16) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for vip in plan.vips.iter().filter(|vip| vip.flags.is_empty()) {
        let client = if vip.address.is_ipv4() { "198.51.100.7" } else { "[2001:db8::7]" };
        let port = if vip.port == 0 { 443 } else { vip.port };
        for n in 0..count {
            let to = std::net::SocketAddr::new(vip.address, port);
            let tuple: Tuple = format!("{} {client}:{} > {to}", vip.protocol, 20_000 + n).parse().unwrap();
            let mut frame = tuple.frame();
            if vip.protocol == Protocol::Tcp {
                // An ACK instead of a SYN.
                let flags = 14 + if vip.address.is_ipv4() { 20 } else { 40 } + 13;
                frame[flags] = 0x10;
            }
            frames.push(frame);
        }
    }
    frames
}

/// The number of flows that depend on the flow table is the number that go to another real once it is gone.
#[test]
fn what_depends_on_state_is_what_changes_without_it() {
    let mut rng = Rng(33);
    let mut plan = plans::first(&mut rng);
    let Some(mut twins) = Twins::new(&plan, 16_384) else { return };
    let frames = flows(&plan, 300);
    let real = |twins: &mut Twins, frame: &[u8]| twins.frame(frame, Headroom::Usual).real.map(|(_, address)| address);
    for frame in &frames {
        real(&mut twins, frame);
    }
    let depending = |twins: &Twins| {
        let [ours, theirs] = [&twins.engine, &twins.kernel].map(|twin| twin.control().depending(0).unwrap());
        assert_eq!(ours, theirs);
        ours
    };
    let Depending { flows, on_state } = depending(&twins);
    assert!(flows > 1000 && on_state == 0, "{flows} flows, {on_state} depend on the table, and no ring has changed");
    let mut numbers = Vec::new();
    for _ in 0..4 {
        plan = plans::change(&mut rng, &plan);
        plan = plans::change(&mut rng, &plan);
        twins.apply(&plan);
        // What the table knows is what is forwarded by it; looked at without entering anything.
        let kept = twins.engine.tables().flows().iter().map(|set| set.entries().count() as u64).sum::<u64>();
        let found = depending(&twins);
        assert!(found.flows <= kept);
        numbers.push(found);
    }
    let found = depending(&twins);
    let known: Vec<_> = frames
        .iter()
        .filter_map(|frame| {
            let decision = twins.frame(frame, Headroom::Usual);
            (decision.from == Some(From::Flow)).then_some((frame, decision.real.map(|(_, address)| address)))
        })
        .collect();
    assert_eq!(known.len() as u64, found.flows, "flows in the table, and flows that are found there");
    for twin in twins.seats() {
        twin.forget_flows();
    }
    let changed = known.iter().filter(|(frame, before)| real(&mut twins, frame) != *before).count();
    assert_eq!(changed as u64, found.on_state, "of {}; {numbers:?}", known.len());
    assert!(changed > 0, "nothing depended on the table: {numbers:?}");
}

/// Flows that one balancer exports and another one with the same key imports go where they went before.
#[test]
fn flows_are_carried_to_another_balancer() {
    let mut rng = Rng(34);
    let first = plans::first(&mut rng);
    let mut later = plans::change(&mut rng, &first);
    // The same VIPs in the same order have the same ids.
    later.vips = first.vips.clone();
    for vip in &mut later.vips {
        vip.reals.iter_mut().step_by(2).for_each(|real| real.state = RealState::Drain);
    }
    let new = |plan: &Plan, seed: u64, sets: u32| {
        let sizes = Sizes { flow_sets: sets, ..Sizes::for_plan(plan, 1) };
        Instance::with_sizes(Backend::Engine, plan, seed, sizes).unwrap()
    };
    let mut here = new(&first, 7, 8192);
    let frames = flows(&first, 200);
    let real = |instance: &mut Instance, frame: &[u8]| instance.frame(frame).unwrap().0.real.map(|(_, address)| address);
    let before: Vec<_> = frames.iter().map(|frame| real(&mut here, frame)).collect();
    here.apply(&later).unwrap();
    let depending = here.control().depending(0).unwrap();
    let (all, some) = (here.control().export_flows(false, 0, 256), here.control().export_flows(true, 0, 256));
    assert_eq!((all.flows.len() as u64, some.flows.len() as u64), (depending.flows, depending.on_state));
    assert!(depending.on_state > 100, "{depending:?}");
    let text = serde_json::to_string(&some).unwrap();
    assert_eq!(serde_json::from_str::<tandem_backends::control::FlowExport>(&text).unwrap(), some);
    for sets in [4096, 8192, 16_384] {
        let mut there = new(&later, 7, sets);
        let done = there.control().import_flows(&some, 0, 256).unwrap();
        assert_eq!((done.entered, done.known + done.no_real + done.other_id + done.too_old), (depending.on_state, 0), "{done:?}");
        assert_eq!(there.control().import_flows(&some, 0, 256).unwrap().known, depending.on_state);
        let other = frames.iter().zip(&before).filter(|(frame, before)| real(&mut there, frame) != **before).count();
        assert_eq!(other, 0, "of {} flows went to another real, with {sets} sets", frames.len());
    }
    let stranger = new(&later, 8, 8192);
    let error = stranger.control().import_flows(&some, 0, 256).unwrap_err().to_string();
    assert!(error.contains("flows.key_file"), "{error}");
    // What the first version wrote, with bits that are not looked at any more.
    let mut first_version = some.clone();
    first_version.version = 1;
    first_version.flows.iter_mut().for_each(|flow| flow.print |= 0xf_0000);
    let mut there = new(&later, 7, 8192);
    // And with other prints of IPv6 flows.
    let done = there.control().import_flows(&first_version, 0, 256).unwrap();
    assert!(done.other_id > 0 && done.entered > 0 && done.entered + done.other_id == depending.on_state, "{done:?}");
    let is_v4 = |frame: &[u8]| frame[12..14] == [8, 0];
    assert!(frames.iter().zip(&before).all(|(frame, before)| !is_v4(frame) || real(&mut there, frame) == *before));
    let later = FlowExport { version: FLOWS_VERSION + 1, ..some };
    let error = stranger.control().import_flows(&later, 0, 256).unwrap_err().to_string();
    assert!(error.contains(&format!("version {}", FLOWS_VERSION + 1)), "{error}");
}

/// A balancer dies, and another one of its group, which saw none of the changes, gets its flows: those that break are at most as
/// many as depended on the state of the first, and their rings are the same.
#[test]
fn one_balancer_in_the_place_of_another() {
    let mut rng = Rng(35);
    let mut plan = plans::first(&mut rng);
    let new = |plan: &Plan, seed: u64| {
        let sizes = Sizes { flow_sets: 8192, ..Sizes::for_plan(plan, 1) };
        Instance::with_sizes(Backend::Engine, plan, seed, sizes).unwrap()
    };
    let real = |instance: &mut Instance, frame: &[u8]| instance.frame(frame).unwrap().0.real.map(|(_, address)| address);
    let mut first = new(&plan, 7);
    let mut frames = flows(&plan, 100);
    for _ in 0..6 {
        for frame in &frames {
            real(&mut first, frame);
        }
        plan = plans::change(&mut rng, &plan);
        first.apply(&plan).unwrap();
        frames = flows(&plan, 100);
    }
    let mut second = new(&plan, 8);
    let rows = first.control().ring_rows();
    assert!(rows.len() == plan.vips.len() && rows.iter().any(|row| row.slots > 0), "{rows:?}");
    assert_eq!(rows, second.control().ring_rows(), "rings with another history");
    let depending = first.control().depending(0).unwrap();
    let mut broken = 0;
    for frame in &frames {
        let decision = first.frame(frame).unwrap().0;
        if decision.from == Some(From::Flow) {
            broken += u64::from(real(&mut second, frame) != decision.real.map(|(_, address)| address));
        }
    }
    eprintln!("{depending:?}, {broken} of them broken by the other balancer");
    assert!(broken > 0 && broken <= depending.on_state, "{broken} of {depending:?}");
    // Another ring is another digest.
    plan.vips[0].reals.clear();
    second.apply(&plan).unwrap();
    assert_ne!(rows, second.control().ring_rows());
}
