//! A ring of 65,537 slots for 1,000 reals: built, written beside the one in force, published.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use tandem_bench::timing::{Series, is_measurement, thread_time, verdict};
use tandem_engine::maglev::{Endpoint, Recipe, Weighting, fill};
use tandem_engine::memory::rings::SLOTS_PER_LINE;
use tandem_engine::memory::{RingLine, VipSlot};

const SLOTS: usize = 65_537;
const REALS: u16 = 1000;
/// What the least time to build a ring may be.
const LIMIT: Duration = Duration::from_millis(3);
/// What the least time to publish one may be: written beside the one in force, and one store.
const PUBLISHED: Duration = Duration::from_micros(100);

fn endpoints() -> Vec<Endpoint> {
    let real =
        |id: u16| Endpoint::new(Recipe::Standard, id, Ipv4Addr::from(0x0a00_0000 | u32::from(id)).into(), 1 + u32::from(id % 3));
    (1..=REALS).map(real).collect()
}

fn ring(criterion: &mut Criterion) {
    let mut slots = vec![0; SLOTS];
    for (name, weighting) in [("fill, V1", Weighting::V1), ("fill, V2", Weighting::V2)] {
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| fill(black_box(&mut slots), &mut endpoints(), weighting));
        });
    }
    let lines: Vec<RingLine> = (0..RingLine::lines(SLOTS as u32)).map(|_| RingLine::default()).collect();
    criterion.bench_function("write", |bencher| {
        bencher.iter(|| {
            for (line, ids) in lines.iter().zip(slots.chunks(SLOTS_PER_LINE as usize)) {
                line.fill(ids);
            }
        });
    });
    let vip = VipSlot::default();
    criterion.bench_function("publish", |bencher| bencher.iter(|| black_box(&vip).set_ring(black_box(1), SLOTS as u32)));
}

fn target(_: &mut Criterion) {
    let (mut series, mut slots) = (Series::default(), vec![0; SLOTS]);
    for _ in 0..if is_measurement() { 50 } else { 1 } {
        let before = thread_time();
        fill(black_box(&mut slots), &mut endpoints(), Weighting::V2);
        series.add(thread_time() - before, 1);
    }
    let met = series.min() <= LIMIT.as_nanos() as f64;
    println!("{SLOTS} slots for {REALS} reals: {:.2} ms at least; at most {LIMIT:?}: {}", series.min() / 1e6, verdict(met));
    let (mut series, vip) = (Series::default(), VipSlot::default());
    let need = RingLine::lines(SLOTS as u32);
    let lines: Vec<RingLine> = (0..2 * need).map(|_| RingLine::default()).collect();
    for round in 0..if is_measurement() { 500 } else { 1 } {
        let first = round % 2 * need;
        let before = thread_time();
        for (line, numbers) in lines.iter().skip(first as usize).zip(slots.chunks(SLOTS_PER_LINE as usize)) {
            line.fill(numbers);
        }
        black_box(&vip).set_ring(first, SLOTS as u32);
        series.add(thread_time() - before, 1);
    }
    let met = series.min() <= PUBLISHED.as_nanos() as f64;
    println!("published: {:.3} ms at least; at most {PUBLISHED:?}: {}", series.min() / 1e6, verdict(met));
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(20);
    targets = ring, target
}
criterion_main!(benches);
