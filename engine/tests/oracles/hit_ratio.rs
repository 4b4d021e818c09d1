//! How often the flow table remembers, against a true LRU of the same capacity over the same packets, and under a flood.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use tandem_engine::From;
use tandem_engine::memory::flows::WAYS;

use crate::bed::{Bed, Frame, Rng, Tuple, process};

const RING: u32 = 31;
const SETS: u32 = 1024;
const CAPACITY: u32 = SETS * WAYS as u32;
const VIP: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 1);

/// A true LRU by the number of each flow's last packet.
#[derive(Default)]
struct Lru {
    last: HashMap<u32, u64>,
    order: BTreeMap<u64, u32>,
    packets: u64,
}

impl Lru {
    fn hit(&mut self, flow: u32) -> bool {
        self.packets += 1;
        let before = self.last.insert(flow, self.packets);
        if let Some(before) = before {
            self.order.remove(&before);
        }
        self.order.insert(self.packets, flow);
        if self.last.len() > CAPACITY as usize
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.last.remove(&oldest);
        }
        before.is_some()
    }
}

struct Table {
    bed: Bed,
    /// A packet of flow 0, without and with SYN; the others differ from it in a few bytes.
    templates: [Vec<u8>; 2],
    packets: u32,
}

impl Table {
    fn new() -> Self {
        let bed = Bed::new(SETS, RING);
        bed.reals(RING, &[([10, 0, 0, 1].into(), 1), ([10, 0, 0, 2].into(), 1)]);
        bed.vip(1, VIP.into(), 80, 6, 0, RING);
        let first = Tuple::numbered(0, VIP, 80);
        let templates = [false, true].map(|syn| first.tcp(64, syn, false, &[]));
        Self { bed, templates, packets: 0 }
    }

    /// Sends a packet of a flow. The coarse clock ticks four times while the capacity goes by.
    fn hit(&mut self, flow: u32, syn: bool) -> bool {
        self.packets += 1;
        self.bed.now.set(1000 + self.packets / (CAPACITY / 4));
        let frame = &mut self.templates[usize::from(syn)];
        frame[26..30].copy_from_slice(&flow.to_be_bytes());
        let verdict = process(&mut Frame::new(frame), &self.bed);
        assert!(verdict.is_forwarded(), "{verdict:?}");
        let from = verdict.from;
        from == From::Flow
    }
}

/// Flow numbers by Zipf's law with exponent `s`, by inversion of the distribution function.
fn zipf(flows: u32, s: f64) -> impl FnMut(&mut Rng) -> u32 {
    let mut sum = 0.0;
    let cumulative: Vec<f64> = (1..=flows)
        .map(|rank| {
            sum += f64::from(rank).powf(-s);
            sum
        })
        .collect();
    move |rng| {
        let at = rng.unit() * sum;
        cumulative.partition_point(|c| *c < at) as u32
    }
}

/// Hit ratios of the table and of a true LRU over `packets` packets, in percent.
fn compare(mut next: impl FnMut(&mut Rng) -> u32, packets: u32) -> (f64, f64) {
    let (mut table, mut lru, mut rng) = (Table::new(), Lru::default(), Rng(7));
    let (mut ours, mut theirs) = (0, 0);
    for _ in 0..packets {
        let flow = next(&mut rng);
        ours += u32::from(table.hit(flow, false));
        theirs += u32::from(lru.hit(flow));
    }
    let percent = |hits: u32| 100.0 * f64::from(hits) / f64::from(packets);
    (percent(ours), percent(theirs))
}

#[test]
fn remembers_as_well_as_a_true_lru() {
    let flows = CAPACITY * 8 / 10;
    let packets = 40 * flows;
    let mut at = 0;
    let cyclic = compare(
        |_| {
            at = (at + 1) % flows;
            at
        },
        packets,
    );
    let uniform = compare(|rng| rng.below(flows), packets);
    let zipf = compare(zipf(flows, 0.9), packets);
    for (order, (ours, lru)) in [("cyclic", cyclic), ("uniform", uniform), ("Zipf 0.9", zipf)] {
        println!("load 0.8, {order}: {ours:.2} %, true LRU {lru:.2} %");
        assert!(ours >= lru - 1.0 && lru > 90.0, "{order}: {ours:.2} %, true LRU {lru:.2} %");
    }
}

/// Twice as many flows as places: most orders leave the table no worse than a true LRU.
#[test]
fn overload_is_no_worse_than_a_true_lru() {
    let flows = 2 * CAPACITY;
    let uniform = compare(|rng| rng.below(flows), 10 * flows);
    let zipf = compare(zipf(flows, 0.9), 10 * flows);
    for (order, (ours, lru)) in [("uniform", uniform), ("Zipf 0.9", zipf)] {
        println!("load 2, {order}: {ours:.2} %, true LRU {lru:.2} %");
        assert!(ours >= lru - 1.0 && lru < 95.0, "{order}: {ours:.2} %, true LRU {lru:.2} %");
    }
}

/// Ten SYNs of new flows for every packet of the established ones, which fill a quarter of the table.
#[test]
fn a_flood_of_syns_leaves_the_established_alone() {
    let established = CAPACITY / 4;
    let (mut table, mut lru, mut rng) = (Table::new(), Lru::default(), Rng(11));
    for _ in 0..2 {
        for flow in 0..established {
            table.hit(flow, false);
            lru.hit(flow);
        }
    }
    let (mut ours, mut theirs, mut flood) = (0, 0, established);
    let packets = 40 * established;
    for _ in 0..packets {
        for _ in 0..10 {
            flood += 1;
            table.hit(flood, true);
            lru.hit(flood);
        }
        let flow = rng.below(established);
        ours += u32::from(table.hit(flow, false));
        theirs += u32::from(lru.hit(flow));
    }
    let percent = |hits: u32| 100.0 * f64::from(hits) / f64::from(packets);
    println!("established flows under a flood: {:.2} %, true LRU {:.2} %", percent(ours), percent(theirs));
    assert!(percent(ours) >= 99.0, "{:.2} % of the established flows' packets found their flow", percent(ours));
    assert!(percent(theirs) < 60.0, "the flood is none: even a true LRU keeps {:.2} %", percent(theirs));
}
