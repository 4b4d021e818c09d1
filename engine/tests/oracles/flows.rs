//! The flow table against a model with full keys and plain fields: itself, a free place, the oldest of those seen once,
//! the oldest; a second packet protects; silent UDP flows are new; ages are known modulo 2^15 ticks, and the clocks of the two
//! seats that write are a tick apart.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use tandem_engine::memory::flows::WAYS;
use tandem_engine::memory::rings::slot_of;
use tandem_engine::{From, hash};

use crate::bed::{Bed, Frame, Rng, Tuple, process};

const RING: u32 = 127;
const IDLE: u32 = 117;
const VIP: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 1);
/// Two sets of ways to the model: index of the set, index of the way.
type Place = (usize, usize);

#[derive(Clone)]
struct Entry {
    key: (Tuple, u8),
    real: u32,
    tick: u32,
    held: bool,
}

struct Model {
    sets: Vec<[Option<Entry>; WAYS]>,
    /// Where a flow may be: learnt from the trace once, as the hash is keyed.
    places: HashMap<(Tuple, u8), [usize; 2]>,
}

/// What a packet did.
#[derive(PartialEq, Eq, Debug)]
struct Step {
    real: u32,
    from: From,
    /// Where it was found or written.
    place: Option<Place>,
    evicted: bool,
}

impl Model {
    fn new(sets: usize) -> Self {
        Self { sets: vec![[const { None }; WAYS]; sets], places: HashMap::new() }
    }

    fn at(&mut self, (set, way): Place) -> &mut Option<Entry> {
        &mut self.sets[set][way]
    }

    fn candidates(&self, key: &(Tuple, u8)) -> Vec<(usize, Place)> {
        let [one, two] = self.places[key];
        [one, two].into_iter().enumerate().flat_map(|(nth, set)| (0..WAYS).map(move |way| (nth, (set, way)))).collect()
    }

    fn packet(&mut self, key: (Tuple, u8), syn: bool, rst: bool, now: u32, ring: u32) -> Step {
        let idle = if key.1 == 17 { IDLE as i32 } else { i32::MAX };
        let own = self.candidates(&key).into_iter().map(|(_, place)| place);
        let own = own.filter(|place| self.sets[place.0][place.1].as_ref().is_some_and(|e| e.key == key)).collect::<Vec<_>>();
        if let Some(place) = own.first().copied().filter(|_| !syn) {
            let entry = self.at(place).as_mut().unwrap();
            if age(now, entry.tick) <= idle {
                (entry.tick, entry.held) = (now, true);
                return Step { real: entry.real, from: From::Flow, place: Some(place), evicted: false };
            }
        }
        if rst {
            return Step { real: ring, from: From::Ring, place: None, evicted: false };
        }
        let place = self.victim(&key, now);
        let old = self.at(place).replace(Entry { key, real: ring, tick: now, held: false });
        let evicted = old.is_some_and(|old| old.key != key);
        Step { real: ring, from: From::Ring, place: Some(place), evicted }
    }

    /// Ties go to the first set, then to the later way.
    fn victim(&self, key: &(Tuple, u8), now: u32) -> Place {
        let rank = |(nth, (set, way)): &(usize, Place)| match &self.sets[*set][*way] {
            Some(entry) if entry.key == *key => (4, Reverse(0), 0, Reverse(*nth), *way),
            None => (3, Reverse(*way), 0, Reverse(*nth), *way),
            Some(entry) if !entry.held => (2, Reverse(0), age(now, entry.tick), Reverse(*nth), *way),
            Some(entry) => (1, Reverse(0), age(now, entry.tick), Reverse(*nth), *way),
        };
        self.candidates(key).into_iter().max_by_key(rank).unwrap().1
    }
}

/// Below 0: written by a seat whose clock is ahead.
fn age(now: u32, tick: u32) -> i32 {
    let age = now.wrapping_sub(tick) as i32;
    if (-8..0).contains(&age) { age } else { age & ((1 << 15) - 1) }
}

fn step(bed: &Bed, frame: &[u8]) -> (Step, [usize; 2]) {
    bed.trace.clear();
    let verdict = process(&mut Frame::new(frame), bed);
    assert!(verdict.is_forwarded(), "{verdict:?}");
    let (real, from) = (verdict.real, verdict.from);
    let trace = &bed.trace;
    let place = match from {
        From::Flow => &trace.found,
        From::Ring | From::ServerId | From::SourceRoute => &trace.written,
    };
    let place = place[0].get().checked_sub(1).map(|set| (set as usize, place[1].get() as usize));
    let sets = trace.sets.each_ref().map(|set| set.get() as usize - 1);
    (Step { real, from, place, evicted: trace.evicted.get() != 0 }, sets)
}

/// The real that the ring names for a flow now.
fn ring_choice(bed: &Bed, shares: &[u16]) -> u32 {
    let slot = slot_of(bed.trace.hash.get(), RING);
    shares[slot as usize].into()
}

struct Counts {
    evicted: u32,
    hits: u32,
    against_ring: u32,
    idle: u32,
}

fn run(seed: u64, sets: u32, clients: u32, packets: u32) -> Counts {
    let bed = Bed::new(sets, RING);
    let reals: Vec<IpAddr> = (1..=8_u8).map(|n| [10, 0, 0, n].into()).collect();
    bed.root.udp_idle.set(IDLE);
    for (id, protocol) in [(1, 6), (2, 17)] {
        bed.vip(id, VIP.into(), 80, protocol, 0, RING);
    }
    let mut rng = Rng(seed);
    let mut model = Model::new(sets as usize);
    let mut counts = Counts { evicted: 0, hits: 0, against_ring: 0, idle: 0 };
    let mut ring = Vec::new();
    // the clock runs over 2^15 and over 2^32
    let mut now = if seed.is_multiple_of(2) { (1 << 15) - 2000 } else { u32::MAX - 2000 };
    for n in 0..packets {
        if n % 5000 == 0 {
            let weights: Vec<_> = reals.iter().map(|real| (*real, rng.below(3))).chain([(reals[0], 1)]).collect();
            ring = weigh(&bed, &weights);
        }
        if rng.below(20) == 0 {
            now = now.wrapping_add(if rng.below(100) == 0 { 2 * IDLE } else { 1 });
        }
        // One of two seats, and the clock of one of them is behind.
        let now = now.wrapping_sub(rng.below(2));
        bed.now.set(now);
        let tuple = Tuple::numbered(rng.below(clients), VIP, 80);
        let (protocol, syn, rst) = match rng.below(20) {
            0 => (6, true, false),
            1 => (6, false, true),
            2..10 => (6, false, false),
            _ => (17, false, false),
        };
        let frame = if protocol == 6 { tuple.tcp(9, syn, rst, &[]) } else { tuple.udp(9, &[]) };
        let (found, sets) = step(&bed, &frame);
        let key = (tuple, protocol);
        assert_eq!(*model.places.entry(key).or_insert(sets), sets, "a flow's sets never change");
        let choice = ring_choice_of(&tuple, protocol, &ring);
        if found.from == From::Ring {
            assert_eq!(ring_choice(&bed, &ring), choice);
        }
        let was_known = model.candidates(&key).iter().any(|(_, p)| model.sets[p.0][p.1].as_ref().is_some_and(|e| e.key == key));
        let expected = model.packet(key, syn, rst, now, choice);
        assert_eq!(found, expected, "packet {n}: {key:?}, SYN {syn}, RST {rst}, tick {now}");
        counts.evicted += u32::from(found.evicted);
        counts.hits += u32::from(found.from == From::Flow);
        counts.against_ring += u32::from(found.real != choice);
        counts.idle += u32::from(was_known && !syn && found.from == From::Ring);
    }
    assert_same_contents(&bed, &model);
    counts
}

fn weigh(bed: &Bed, weights: &[(IpAddr, u32)]) -> Vec<u16> {
    use tandem_engine::maglev::{Endpoint, Recipe, Weighting, fill};
    bed.reals(RING, weights);
    let mut ring = vec![0; RING as usize];
    let mut endpoints: Vec<_> =
        (1..).zip(weights).map(|(id, (real, weight))| Endpoint::new(Recipe::Standard, id, *real, *weight)).collect();
    fill(&mut ring, &mut endpoints, Weighting::V2);
    ring
}

fn ring_choice_of(tuple: &Tuple, protocol: u8, ring: &[u16]) -> u32 {
    let [source, destination] = [tuple.source, tuple.destination].map(crate::bed::words);
    let ports = u32::from(tuple.source_port.to_be()) | u32::from(tuple.port.to_be()) << 16;
    let flow = tandem_engine::Flow { src: source, dst: destination, ports, protocol, ..Default::default() };
    ring[slot_of(hash::packet(&flow), RING) as usize].into()
}

fn assert_same_contents(bed: &Bed, model: &Model) {
    for (set, (ours, theirs)) in bed.flows.iter().zip(&model.sets).enumerate() {
        let ours: Vec<_> = ours.entries().map(|(way, _, real, held, tick)| (way, real, held, u32::from(tick))).collect();
        let theirs = theirs.iter().enumerate().filter_map(|(way, entry)| Some((way, entry.as_ref()?)));
        let theirs: Vec<_> = theirs.map(|(way, e)| (way, e.real, e.held, e.tick % (1 << 15))).collect();
        assert_eq!(ours, theirs, "set {set}");
    }
}

#[test]
fn does_what_the_model_does() {
    for (seed, sets, clients) in [(1, 1, 20), (2, 8, 60), (3, 64, 300), (4, 64, 600), (5, 64, 2000), (6, 256, 600)] {
        let counts = run(seed, sets, clients, 40_000);
        assert!(
            counts.hits > 1000 && counts.against_ring > 0,
            "{sets} sets: {} hits, {} of them not the ring's",
            counts.hits,
            counts.against_ring
        );
        assert!(counts.idle > 0, "{sets} sets: no UDP flow was silent for too long");
        assert!(counts.evicted > 0 || sets == 256, "{sets} sets: nobody was evicted");
    }
}
