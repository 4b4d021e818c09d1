//! Our own programs on this kernel: loaded, and held against the engine frame by frame.

use tandem_backends::config::{Plan, parse};
use tandem_backends::memory::{LookedUp, Sizes};
use tandem_backends::replay::{Action, Backend, Instance, Opening};

use super::cases::{self, Case};
use super::frames::{self, Rng};
use super::report::Report;
use super::{plans, rich};

/// A kernel's emulated CPU does some 3,000 of them a second.
const FRAMES: usize = 2000;

pub fn run(report: &mut Report, cases: &[Case]) {
    let mut rng = Rng(4);
    let least = plans::first(&mut rng);
    balancer(report, "the least there is to configure", &least, false);
    let methods = parse(&cases::configuration("always"), "guest").expect("a configuration").plan;
    balancer(report, "every method", &methods, false);
    let standard = plans::full(&mut rng, "standard");
    balancer(report, "everything, profile standard", &standard, true);
    balancer(report, "everything, profile katran", &plans::full(&mut rng, "katran"), true);
    // As large tables are before Linux 6.0.
    for (name, plan, looked_up) in [
        ("the least, all looked up but VIPs", &least, LookedUp { vips: false, ..LookedUp::ALL }),
        ("everything, profile standard, all looked up", &standard, LookedUp::ALL),
    ] {
        let sizes = Sizes { flow_sets: 1024, looked_up, ..Sizes::for_plan(plan, 1) };
        report_twins(report, name, twins(plan, plan.vips.len() > least.vips.len(), sizes));
    }
    report.result("decap: kernel and engine agree", decap(cases));
}

fn balancer(report: &mut Report, name: &str, plan: &Plan, rich: bool) {
    report_twins(report, name, twins(plan, rich, Sizes { flow_sets: 1024, ..Sizes::for_plan(plan, 1) }));
}

fn report_twins(report: &mut Report, name: &str, found: Result<String, String>) {
    match found {
        Ok(said) => report.ok(&format!("balancer, {name}: {said}")),
        Err(why) => report.fail(&format!("balancer, {name}"), &why),
    }
}

/// Generated frames through both; says how large the program was.
fn twins(plan: &Plan, rich: bool, sizes: Sizes) -> Result<String, String> {
    let instance = |backend| Instance::with_sizes(backend, plan, 7, sizes).map_err(|error| format!("{error:#}"));
    let (mut kernel, mut engine) = (instance(Backend::Xdp)?, instance(Backend::Engine)?);
    let (mut rng, mut sent) = (Rng(5), 0);
    for tick in [30_000, 30_001] {
        kernel.set_tick(tick);
        engine.set_tick(tick);
        for _ in 0..FRAMES / 2 {
            let frame = if rich { rich::rich_frame(&mut rng, plan) } else { frames::frame(&mut rng, plan) };
            let ours = engine.frame(&frame).map_err(|error| error.to_string())?;
            let theirs = kernel.frame(&frame).map_err(|error| error.to_string())?;
            if ours != theirs {
                return Err(format!("frame {frame:02x?}: engine {ours:02x?}, kernel {theirs:02x?}"));
            }
            sent += usize::from(ours.0.action == Action::Tx);
        }
    }
    for (n, (a, b)) in engine.tables().flows().iter().zip(kernel.tables().flows()).enumerate() {
        if a.snapshot() != b.snapshot() {
            return Err(format!("flow set {n} differs"));
        }
    }
    if sent < FRAMES / 5 {
        return Err(format!("only {sent} of {FRAMES} frames were sent on"));
    }
    // Linux 5.10 does not tell how much its verifier followed.
    let size = kernel
        .budget()
        .map_or_else(String::new, |budget| format!("{} instructions, {} verified; ", budget.translated, budget.verified));
    Ok(format!("{size}{FRAMES} frames alike, {sent} sent on"))
}

/// Tunnels of every kind, opened by the real's program and by the engine.
fn decap(cases: &[Case]) -> Result<(), String> {
    let plan = parse(&cases::configuration("always"), "guest").map_err(|error| format!("{error:?}"))?.plan;
    let opening = |backend| Opening::new(backend, &plan).map_err(|error| format!("{error:#}"));
    let (mut kernel, mut engine) = (opening(Backend::Xdp)?, opening(Backend::Engine)?);
    for (n, Case { frame, .. }) in (0..).zip(cases) {
        let (ours, bytes) = engine.frame(n, frame).map_err(|error| error.to_string())?;
        let (theirs, kernel_bytes) = kernel.frame(n, frame).map_err(|error| error.to_string())?;
        if ours != theirs || bytes != kernel_bytes {
            return Err(format!("frame {frame:02x?}: engine {ours:?} {bytes:02x?}, kernel {theirs:?} {kernel_bytes:02x?}"));
        }
    }
    if cases.len() < 200 { Err(format!("{} frames", cases.len())) } else { Ok(()) }
}
