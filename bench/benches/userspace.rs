//! The userspace seat: batches of 32 frames on the kernel's own memory, mapped, against a hash map with a list in order of
//! use, for a thousand, a million and ten million flows.
//!
//! 512 chunks of 2 KiB; before each batch 32 of them are rewritten for random flows, as if they had just arrived (that is
//! in the numbers of both). `cargo bench -p tandem-bench --bench userspace`; as root on mapped memory, else on plain.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use tandem_backends::control::{Counters, NoGrace};
use tandem_backends::memory::{Sizes, Tables};
use tandem_backends::xdp::{Balancer, Role};
use tandem_bench::batches::{FRAMES, Hashed, Seat, Umem, measure_once, warm_up};
use tandem_bench::scenario::Rng;
use tandem_bench::scene;
use tandem_bench::timing::{Series, is_measurement, stay_on_one_core, verdict};
use tandem_engine::{From, Reason};

use std::sync::Arc;

/// Flows, sets of the table, ns at most (least value), or so many times the rival's.
const SIZES: [(u32, u32, f64, f64); 3] =
    [(1000, 1 << 18, 34.0, 1.1), (1_000_000, 1 << 18, 58.0, 0.10), (10_000_000, 1 << 22, 72.0, 0.09)];

/// Tables that are the kernel's, if this process may have them; what keeps them alive, and what they are.
fn tables(sizes: Sizes) -> Result<(Arc<Tables>, Option<Balancer>, &'static str)> {
    match Balancer::load(&Role::Unpinned, sizes) {
        Ok(balancer) => Ok((balancer.tables().clone(), Some(balancer), "mapped")),
        Err(error) => {
            eprintln!("note: plain memory instead of mapped: {error}");
            let tables = Tables::plain(sizes)?;
            tables.flow_area().advise_huge_pages();
            Ok((tables, None, "plain"))
        }
    }
}

fn compare(flows: u32, sets: u32, repeats: u32, limit: (f64, f64)) -> Result<()> {
    let plan = scene::plan()?;
    let (tables, _kernel, kind) = tables(Sizes { flow_sets: sets, ..Sizes::for_plan(&plan, 2) })?;
    scene::apply(&plan, &tables, &NoGrace)?;
    let mut seat = Seat::new(tables.clone(), 0, 0);
    let mut hashed = Hashed::new(&tables, 1, flows);
    warm_up(&mut seat, flows);
    warm_up(&mut hashed, flows);
    let before = (counted(&tables, 0), hashed.rival.hits);
    let (mut ours, mut theirs) = (Series::default(), Series::default());
    let (mut umem, mut rng) = (Umem::new(), Rng(1));
    for _ in 0..repeats {
        measure_once(&mut seat, &mut umem, &mut rng, flows, &mut ours)?;
        measure_once(&mut hashed, &mut umem, &mut rng, flows, &mut theirs)?;
    }
    let frames = u64::from(repeats * FRAMES);
    let (forwarded, by_ring) = counted(&tables, 0);
    let (forwarded, by_ring) = (forwarded - before.0.0, by_ring - before.0.1);
    // A table that forgot flows, or a rival that did, would be measured on other work. At a load of 0.76 some pairs of sets
    // overflow: fewer than one flow in a hundred.
    ensure!(forwarded == frames && by_ring * 100 <= frames, "{forwarded} of {frames} forwarded, {by_ring} of them by the ring");
    ensure!(hashed.rival.hits - before.1 == frames, "the rival forgot flows");
    let ratio = ours.min() / theirs.min();
    println!(
        "{flows:>10} {kind:>7} {:>6.1} / {:<6.1} {:>8.1} / {:<6.1} {ratio:>6.3}  at most {} ns or {} x: {}",
        ours.min(),
        ours.median(),
        theirs.min(),
        theirs.median(),
        limit.0,
        limit.1,
        verdict(ours.min() <= limit.0 || ratio <= limit.1),
    );
    Ok(())
}

/// Frames that a block counted as forwarded, and those of them that asked the ring.
fn counted(tables: &Tables, block: u32) -> (u64, u64) {
    let counters = Counters::read(tables, block..block + 1);
    let by_ring = counters.vips.values().filter_map(|row| row.get(From::Ring.name())).sum();
    (counters.reason(Reason::Forwarded), by_ring)
}

fn main() -> ExitCode {
    stay_on_one_core();
    println!("{FRAMES} frames a measurement, ns of thread CPU time per frame, least / median");
    println!("{:>10} {:>7} {:>15} {:>17} {:>6}", "flows", "memory", "seat", "hash map + list", "ratio");
    let (sizes, repeats) = if is_measurement() { (&SIZES[..], 41) } else { (&SIZES[..1], 2) };
    for (flows, sets, nanos, ratio) in sizes {
        if let Err(error) = compare(*flows, *sets, repeats, (*nanos, *ratio)) {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
