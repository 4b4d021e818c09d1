//! Ten thousand VIPs of ten reals each: read, checked, and written into the tables, once with a ring for each (1,009 slots), once
//! with rings that VIPs of the same reals share (65,537 slots); then one of them changed. Rings, seconds, memory of each table.
//!
//! `cargo bench -p tandem-bench --bench load`; `-- NUMBER` for another number of VIPs.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tandem_backends::config::{Plan, parse};
use tandem_backends::control::{Changes, Control, Facts, NoGrace};
use tandem_backends::memory::{Sizes, Tables};
use tandem_bench::timing::{is_measurement, stay_on_one_core, verdict};

/// VIPs.
const VIPS: u32 = 10_000;
/// Reals of each.
const REALS: u32 = 10;
/// VIPs that have the same reals, where some have.
const ALIKE: u32 = 100;
/// Ring size, whether VIPs have the same reals, and what all of it may take.
const LOADS: [(u32, bool, Duration); 2] = [(1009, false, Duration::from_secs(5)), (65_537, true, Duration::from_secs(30))];
/// Rounds; the least time counts.
const ROUNDS: usize = 3;

fn text(vips: u32, ring_size: u32, alike: u32) -> String {
    let mut text = "node = { next_hop_mac = \"00:00:de:ad:be:af\", local_mac = \"00:ff:de:ad:be:af\" }
        tunnel = { source_v4 = \"10.0.13.37\" }\n"
        .to_owned();
    for vip in 0..vips {
        let address = Ipv4Addr::from(0x0a80_0000 + vip);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "[[vip]]\naddress = \"{address}\"\nport = 443\nprotocol = \"tcp\"\nring_size = {ring_size}");
        for real in 0..REALS {
            let address = Ipv4Addr::from(0xac10_0000 + vip / alike * REALS + real + 1);
            let _ = writeln!(text, "[[vip.real]]\naddress = \"{address}\"\nweight = {}", 1 + real % 3);
        }
    }
    text
}

fn apply(control: &mut Control, plan: &Plan) -> Result<Changes> {
    let facts = Facts::of_plan(plan, 1).map_err(anyhow::Error::msg)?;
    Ok(control.apply(plan, &facts, &NoGrace)?)
}

fn measure(vips: u32, ring_size: u32, shared: bool, limit: Duration) -> Result<()> {
    let text = text(vips, ring_size, if shared { ALIKE } else { 1 });
    let (mut read, mut all, mut changed) = (Duration::MAX, Duration::MAX, Duration::MAX);
    let mut printed = String::new();
    for _ in 0..if is_measurement() { ROUNDS } else { 1 } {
        let start = Instant::now();
        let mut plan = parse(&text, "plan")?.plan;
        read = read.min(start.elapsed());
        let sizes = Sizes::for_plan(&plan, 8);
        let tables = Tables::plain(sizes)?;
        let mut control = Control::adopt(tables)?;
        let changes = apply(&mut control, &plan)?;
        all = all.min(start.elapsed());
        ensure!((changes.vips_added, changes.reals_added) == (vips, vips * REALS), "{changes:?}");
        let (rings, users) = control.rings_shared();
        let real = plan.vips.first_mut().and_then(|vip| vip.reals.first_mut()).context("a real")?;
        real.address = Ipv4Addr::new(192, 0, 2, 1).into();
        let start = Instant::now();
        let changes = apply(&mut control, &plan)?;
        changed = changed.min(start.elapsed());
        ensure!(changes == Changes { reals_added: 1, reals_removed: 1, rings: 1, ..Changes::default() }, "{changes:?}");
        printed = format!("{rings} rings for {users} VIPs; with counters of 8 cores {}", sizes.in_words());
    }
    let seconds = |time: Duration| time.as_secs_f64();
    println!(
        "{vips} VIPs of {REALS} reals, rings of {ring_size} slots: {:.2} s, of which reading {:.2} s; at most {limit:?}: {}",
        seconds(all),
        seconds(read),
        verdict(all <= limit)
    );
    println!("  {printed}\n  one VIP changed: {:.3} s", seconds(changed));
    Ok(())
}

fn main() -> ExitCode {
    stay_on_one_core();
    let usual = if is_measurement() { VIPS } else { 200 };
    let vips = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(usual);
    let measured = LOADS.iter().try_for_each(|(size, shared, limit)| measure(vips, *size, *shared, *limit));
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
