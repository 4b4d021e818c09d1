//! Floods of new flows, ten packets for each one of the established flows', at several loads of the table: how many of the
//! established lose their entry, beside what a simulation of the table with random numbers for hashes predicts.

use std::net::Ipv4Addr;
use std::time::Instant;

use tandem_engine::memory::features::GUARD;
use tandem_engine::memory::flows::{NEAR, WAYS};
use tandem_engine::{From, Verdict};

use crate::bed::{Bed, Frame, Rng, Tuple, process};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 1);
const RING: u32 = 127;
/// Packets of the flood for each packet of an established flow.
const TIMES: u32 = 10;
/// Coarse ticks are long: that many packets fall into one.
const PACKETS_PER_TICK: u32 = 20_000;

/// What the flood is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flood {
    Syn,
    Ack,
    Udp,
    /// Flows that fall into few sets under a key that the attacker guessed; the algorithm is public, the key is not.
    Aimed,
}

/// The sets that an attacker aims at.
const AIMED_AT: u32 = 8;

/// Established flows that lost their entry at least once, and packets of theirs that another real got than the first one.
#[derive(Clone, Copy, Debug)]
struct Lost {
    flows: u32,
    packets_elsewhere: u32,
}

impl Lost {
    fn percent(self, established: u32) -> f64 {
        100.0 * f64::from(self.flows) / f64::from(established)
    }
}

/// A packet of one flow among many that differ in their source alone.
struct Template {
    frame: Vec<u8>,
}

impl Template {
    fn new(frame: Vec<u8>) -> Self {
        Self { frame }
    }
    /// The checksums are not those of the source: the data path mends the outer header alone and looks at no inner one.
    fn of(&mut self, source: u32, port: u16) -> Frame {
        self.frame[26..30].copy_from_slice(&source.to_be_bytes());
        self.frame[34..36].copy_from_slice(&port.to_be_bytes());
        Frame::new(&self.frame)
    }
}

fn bed(sets: u32) -> Bed {
    let bed = Bed::new(sets, RING);
    let reals: Vec<_> = (1..=8_u8).map(|n| ([10, 0, 0, n].into(), 1)).collect();
    bed.reals(RING, &reals);
    bed.vip(1, VIP.into(), 80, 6, 0, RING);
    bed.vip(2, VIP.into(), 80, 17, 0, RING);
    bed
}

/// The sets of a flow under the key of these tables.
fn sets_of(bed: &Bed, source: u32, port: u16) -> [u32; 2] {
    bed.trace.clear();
    let mut template = Template::new(Tuple::numbered(0, VIP, 80).tcp(64, false, true, &[]));
    assert!(process(&mut template.of(source, port), bed).is_forwarded());
    bed.trace.sets.each_ref().map(|set| set.get() - 1)
}

/// Sources of a flood, one after the other. What is aimed is found by trying, on tables with another key.
fn sources(flood: Flood, sets: u32, rng: &mut Rng) -> Vec<(u32, u16)> {
    let source = |rng: &mut Rng| (0xc000_0000 | rng.next() as u32 >> 3, rng.next() as u16);
    match flood {
        Flood::Syn | Flood::Ack | Flood::Udp => Vec::new(),
        Flood::Aimed => {
            let guessed = bed(sets);
            for (n, key) in guessed.root.key.iter().enumerate() {
                key.set(0x5bd1_e995_u32.wrapping_mul(n as u32 + 1));
            }
            let aimed = std::iter::repeat_with(|| source(rng));
            aimed.filter(|(a, p)| sets_of(&guessed, *a, *p)[0] < AIMED_AT * sets / 256).take(5_000).collect()
        }
    }
}

fn run(flood: Flood, sets: u32, established: u32, rounds: u32) -> Lost {
    let (bed, mut rng) = (bed(sets), Rng(17));
    let aimed = sources(flood, sets, &mut rng);
    let first = Tuple::numbered(0, VIP, 80);
    let mut known = Template::new(first.tcp(64, false, false, &[]));
    let mut new = Template::new(match flood {
        Flood::Syn => first.tcp(64, true, false, &[]),
        Flood::Ack | Flood::Aimed => first.tcp(64, false, false, &[]),
        Flood::Udp => first.udp(64, &[]),
    });
    let mut packets = 0;
    let mut send = |frame: &mut Frame| {
        packets += 1;
        bed.now.set(30_000 + packets / PACKETS_PER_TICK);
        let verdict = process(frame, &bed);
        assert!(verdict.is_forwarded(), "{verdict:?}");
        (verdict.real, verdict.from)
    };
    let client = |flow: u32| (0x0a40_0000 | flow >> 12, 1024 + (flow & 0xfff) as u16);
    let mut reals = Vec::new();
    for flow in 0..established {
        let (source, port) = client(flow);
        reals.push(send(&mut known.of(source, port)).0);
    }
    for flow in 0..established {
        let (source, port) = client(flow);
        send(&mut known.of(source, port));
    }
    let mut has_lost = vec![false; established as usize];
    let mut packets_elsewhere = 0;
    for n in 0..rounds * established {
        for at in 0..TIMES {
            let (source, port) = match aimed.get((n * TIMES + at) as usize % aimed.len().max(1)) {
                Some(aimed) => *aimed,
                None => (0xc000_0000 | rng.next() as u32 >> 3, rng.next() as u16),
            };
            send(&mut new.of(source, port));
        }
        let flow = rng.below(established);
        let (source, port) = client(flow);
        let (real, from) = send(&mut known.of(source, port));
        has_lost[flow as usize] |= from != From::Flow;
        packets_elsewhere += u32::from(real != reals[flow as usize]);
    }
    Lost { flows: has_lost.iter().filter(|lost| **lost).count() as u32, packets_elsewhere }
}

/// The same flood on places alone: sets by random numbers, no packets, no hashes. Its own writing of the rule of who goes:
/// a free place in the emptier set, the oldest that was seen once, the oldest.
fn simulate(sets: u32, established: u32, rounds: u32) -> f64 {
    #[derive(Clone, Copy)]
    struct Entry {
        flow: u32,
        held: bool,
        at: u32,
    }
    let mut rng = Rng(99);
    let mut table: Vec<Vec<Entry>> = vec![Vec::new(); sets as usize];
    let pair = |rng: &mut Rng| {
        let first = rng.below(sets);
        [first, first ^ (rng.below(NEAR as u32) | 1)].map(|set| set as usize)
    };
    let homes: Vec<[usize; 2]> = (0..established).map(|_| pair(&mut rng)).collect();
    let enter = |table: &mut Vec<Vec<Entry>>, flow: u32, [a, b]: [usize; 2], at: u32| {
        let emptier = if table[a].len() < table[b].len() { a } else { b };
        if table[emptier].len() < WAYS {
            return table[emptier].push(Entry { flow, held: false, at });
        }
        let all = [a, b].into_iter().flat_map(|set| (0..WAYS).map(move |way| (set, way)));
        let (set, way) = all.min_by_key(|(set, way)| (table[*set][*way].held, table[*set][*way].at)).unwrap_or((a, 0));
        table[set][way] = Entry { flow, held: false, at };
    };
    let mut now = 0;
    for flow in 0..established {
        enter(&mut table, flow, homes[flow as usize], now);
    }
    table.iter_mut().flatten().for_each(|entry| entry.held = true);
    let mut has_lost = vec![false; established as usize];
    for _ in 0..rounds * established {
        for _ in 0..TIMES {
            now += 1;
            let places = pair(&mut rng);
            enter(&mut table, u32::MAX, places, now);
        }
        let flow = rng.below(established);
        let home = homes[flow as usize];
        match home
            .iter()
            .flat_map(|set| (0..WAYS).map(move |way| (*set, way)))
            .find(|(s, w)| table[*s].get(*w).is_some_and(|e| e.flow == flow))
        {
            Some((set, way)) => table[set][way] = Entry { flow, held: true, at: now },
            None => {
                has_lost[flow as usize] = true;
                enter(&mut table, flow, home, now);
            }
        }
    }
    100.0 * has_lost.iter().filter(|lost| **lost).count() as f64 / f64::from(established)
}

fn rounds() -> u32 {
    if std::env::var_os("TANDEM_LONG").is_some() { 40 } else { 4 }
}

/// 10,000 established flows that take half of the table's places.
#[test]
fn a_flood_leaves_the_established_alone() {
    let (sets, established) = (4096, 10_000);
    let predicted = simulate(sets, established, rounds());
    println!("load 0.5, ten to one: a simulation loses {predicted:.3} % of the established flows");
    assert!(predicted <= 0.5, "the simulation itself loses {predicted:.3} %");
    for flood in [Flood::Syn, Flood::Ack, Flood::Udp, Flood::Aimed] {
        let lost = run(flood, sets, established, rounds());
        println!("  {flood:?}: {} flows, {:.3} %", lost.flows, lost.percent(established));
        assert!(lost.percent(established) <= 0.5, "{flood:?}: {lost:?}");
        assert_eq!(lost.packets_elsewhere, 0, "{flood:?}: the ring did not change");
    }
}

/// From an almost empty table to four times as many established flows as it has places. However full it is, a lost entry
/// costs nothing while the ring stays as it is.
#[test]
fn a_lost_entry_costs_nothing_while_the_ring_stays() {
    let sets = 512;
    let places = sets * WAYS as u32;
    let mut before = 0.0;
    for quarters in [2, 4, 8, 16] {
        let established = places * quarters / 4;
        let (lost, predicted) = (run(Flood::Ack, sets, established, 2), simulate(sets, established, 2));
        let percent = lost.percent(established);
        println!("load {}: {percent:.2} % lost, a simulation {predicted:.2} %", f64::from(quarters) / 4.0);
        assert_eq!(lost.packets_elsewhere, 0, "load {quarters}/4");
        assert!(
            (percent - predicted).abs() <= 1.0 + predicted / 10.0,
            "load {quarters}/4: {percent:.2} %, simulated {predicted:.2} %"
        );
        assert!(percent >= before, "a fuller table loses more: {percent:.2} % after {before:.2} %");
        before = percent;
    }
    assert!(before > 10.0, "a table with four times as many flows as places lost only {before:.2} %: was there a flood?");
}

/// What is left to the established of a core that has nothing else to do: the time of their packets alone, against that of all packets
/// with ten of a flood for each of theirs. Without a limit of new flows (`flows.new_flows_per_core`), and above it. The times are
/// printed, and worth something in a release build on a quiet machine; what is asserted is that each packet was forwarded by whom
/// it had to be.
#[test]
fn what_a_flood_leaves() {
    let (sets, established, measurements) = (4096, 10_000, if cfg!(debug_assertions) { 20 } else { 400 });
    for (flood, guarded) in [Flood::Syn, Flood::Ack, Flood::Udp].into_iter().flat_map(|flood| [(flood, false), (flood, true)]) {
        let bed = bed(sets);
        let first = Tuple::numbered(0, VIP, 80);
        let mut known = Template::new(first.tcp(64, false, false, &[]));
        let mut new = Template::new(match flood {
            Flood::Udp => first.udp(64, &[]),
            _ => first.tcp(64, flood == Flood::Syn, false, &[]),
        });
        let mut rng = Rng(23);
        let mut of_established = |flow: u32| known.of(0x0a40_0000 | flow >> 12, 1024 + (flow & 0xfff) as u16);
        for flow in (0..established).chain(0..established) {
            assert!(process(&mut of_established(flow), &bed).is_forwarded());
        }
        if guarded {
            bed.root.features.set(bed.root.features.get() | GUARD);
            bed.root.guard_limit.set(1);
            bed.root.guard_window.set(1 << 20);
        }
        // Packets are made first, all alike, so that the time is that of the data path alone.
        let mut measure = |times: u32| {
            let kinds = (0..1100).map(|n| n % (times + 1) == 0);
            let mut frames: Vec<(bool, Frame)> = kinds
                .map(|is_known| match is_known {
                    true => (true, of_established(rng.below(established))),
                    false => (false, new.of(0xc000_0000 | rng.next() as u32 >> 3, rng.next() as u16)),
                })
                .collect();
            let begun = Instant::now();
            let verdicts: Vec<Verdict> = frames.iter_mut().map(|(_, frame)| process(frame, &bed)).collect();
            let nanos = begun.elapsed().as_nanos() as f64 / frames.len() as f64;
            for ((is_known, _), verdict) in frames.iter().zip(&verdicts) {
                let by = if *is_known { From::Flow } else { From::Ring };
                assert!(verdict.is_forwarded() && verdict.from == by, "{flood:?}: {verdict:?}");
            }
            nanos
        };
        // By turns, and the least of many: what the code takes when nothing disturbs it.
        let (mut alone, mut among) = (f64::MAX, f64::MAX);
        for _ in 0..measurements {
            alone = alone.min(measure(0));
            among = among.min(measure(TIMES));
        }
        println!(
            "{flood:?}, {}: {alone:.0} ns a packet of the established alone, {among:.0} ns of all among the flood: {:.0} % of their share",
            if guarded { "above the limit of new flows" } else { "no limit" },
            100.0 * alone / among
        );
    }
}

/// The sets under another key say nothing about the sets under ours.
#[test]
fn whoever_does_not_know_the_key_cannot_aim() {
    let sets = 256;
    let ours = bed(sets);
    let aimed = sources(Flood::Aimed, sets, &mut Rng(5));
    let mut count = vec![0_u32; sets as usize];
    for (source, port) in &aimed {
        count[sets_of(&ours, *source, *port)[0] as usize] += 1;
    }
    let mean = f64::from(aimed.len() as u32) / f64::from(sets);
    let chi: f64 = count.iter().map(|n| (f64::from(*n) - mean).powi(2) / mean).sum();
    // 255 degrees of freedom: the mean is 255, the standard deviation 22.6
    assert!((150.0..360.0).contains(&chi), "chi squared {chi:.0} over {sets} sets");
}
