//! Two threads write the same few sets without a lock. Nobody ever finds another flow's real.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use tandem_engine::memory::FlowSet;
use tandem_engine::memory::flows::{FIRST, Tag, Worth};

use crate::bed::Rng;

/// A power of two.
const SETS: u32 = 8;
const FLOWS: u32 = 512;
const PACKETS: u32 = 3_000_000;

/// Print of the `n`-th flow, as different as those of the keyed hash.
fn tag(n: u32) -> Tag {
    Tag { print: Rng(n.into()).next() | 1 << 63 }
}

/// Every flow has a real of its own, so that any mistake shows.
fn real(n: u32) -> u32 {
    n + 1
}

/// What a core does with a packet; `true`: the flow was found.
fn packet(table: &[FlowSet], n: u32, tags: &[Tag], now: u32) -> bool {
    let tag = &tags[n as usize];
    let [one, two] = [tag.first(), tag.second()].map(|set| &table[(set % u64::from(SETS)) as usize]);
    let found = match one.get(tag, now, 0).real() {
        0 => two.get(tag, now, 0).real(),
        found => found,
    };
    if found != 0 {
        assert_eq!(found, real(n), "flow {n} got the real of flow {}", found - 1);
        return true;
    }
    let worth = two.place(tag, now, 0, one.place(tag, now, FIRST, Worth::NONE));
    let set = if worth.is_second() { two } else { one };
    set.write(worth.way(), tag, real(n), now);
    false
}

#[test]
fn two_writers_never_mix_flows() {
    let table: Vec<FlowSet> = (0..SETS).map(|_| FlowSet::default()).collect();
    let tags: Vec<Tag> = (0..FLOWS).map(tag).collect();
    let (start, hits) = (Barrier::new(2), AtomicU32::new(0));
    thread::scope(|scope| {
        for seed in [1, 2] {
            let (table, tags, start, hits) = (&table, &tags, &start, &hits);
            scope.spawn(move || {
                let mut rng = Rng(seed);
                start.wait();
                let found = (0..PACKETS).filter(|at| packet(table, rng.below(FLOWS), tags, at >> 8)).count();
                hits.fetch_add(found as u32, Ordering::Relaxed);
            });
        }
    });
    let hits = hits.into_inner();
    // both paths were taken often: 40 places for 512 flows
    assert!(hits > PACKETS / 50 && hits < PACKETS, "{hits} hits of {} lookups", 2 * PACKETS);
}
