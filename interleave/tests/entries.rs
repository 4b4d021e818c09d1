//! Entries of the tables that several cores write at once, without a lock: flows, connections of NAT; and what grace periods
//! are made of.

use std::ptr::from_ref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use shuttle::thread::{JoinHandle, spawn};
use tandem_engine::memory::flows::{FIRST, Worth};
use tandem_engine::memory::nats::{Nat, NatRules, Opening, Side};
use tandem_engine::memory::shared::{S16, S64};
use tandem_engine::memory::{FlowSet, Tag};
use tandem_interleave::control::Grace;
use tandem_interleave::epoch::Epoch;
use tandem_interleave::{Readers, Watch, exhaust, explore, fails};

/// A flow's print, and the real that it has alone.
const fn flow(n: u64) -> (Tag, u32) {
    (Tag { print: 1 << 63 | n << 20 | n }, 7 + n as u32)
}

/// One way of a flow table.
trait Way: Default + Send + Sync + 'static {
    fn put(&self, tag: &Tag, real: u32);
    fn find(&self, tag: &Tag) -> u32;
    fn watch(&self) -> Watch;
}

impl Way for FlowSet {
    fn put(&self, tag: &Tag, real: u32) {
        self.write(0, tag, real, 100);
    }
    fn find(&self, tag: &Tag) -> u32 {
        self.get(tag, 100, 0).real()
    }
    /// Nobody writes the other ways: their words and checks (engine/src/memory/flows.rs has the drawing).
    fn watch(&self) -> Watch {
        let at = from_ref(self) as usize;
        Watch::all().but_at(at + 8..at + 40).but_at(at + 42..at + 50)
    }
}

/// What the flow table would be if its entries held print and real in two words.
#[derive(Default)]
struct Plainly {
    print: S64,
    real: S16,
}

impl Way for Plainly {
    fn put(&self, tag: &Tag, real: u32) {
        self.print.set(tag.print);
        self.real.set(real as u16);
    }
    fn find(&self, tag: &Tag) -> u32 {
        let real = self.real.get();
        if self.print.get() == tag.print { real.into() } else { 0 }
    }
    fn watch(&self) -> Watch {
        Watch::all()
    }
}

/// Two cores write two flows into one way, a third one looks for one of them.
fn torn<W: Way>() {
    let way = Arc::new(W::default());
    way.watch().begin();
    let write = |n: u64| {
        let way = way.clone();
        spawn(move || {
            let (tag, real) = flow(n);
            way.put(&tag, real);
        })
    };
    let writers = [write(1), write(2)];
    let (tag, real) = flow(1);
    let found = way.find(&tag);
    assert!(found == 0 || found == real, "torn: flow 1 was given real {found}, its own is {real}");
    writers.into_iter().for_each(|writer| writer.join().unwrap());
}

#[test]
fn a_torn_flow_entry_is_nobodys() {
    exhaust("a torn flow entry", 2_000_000, torn::<FlowSet>);
}

#[test]
fn in_two_words_a_torn_entry_is_somebodys() {
    fails("a flow entry in two words", 20_000, "torn: flow 1", torn::<Plainly>);
}

/// What a core does with packets of some flows: looks for each, and enters it if it is not there.
fn core(set: &Arc<FlowSet>, flows: &'static [u64]) -> JoinHandle<()> {
    let set = set.clone();
    spawn(move || {
        for n in flows {
            let (tag, real) = flow(*n);
            let found = set.get(&tag, 100, 0).real();
            assert!(found == 0 || found == real, "flow {n} was given real {found}, its own is {real}");
            if found == 0 {
                let worth = set.place(&tag, 100, 0, Worth::NONE);
                assert!(worth > Worth::NONE && u64::from(worth.way()) < FIRST, "there always is a way");
                set.write(worth.way(), &tag, real, 100);
            }
        }
    })
}

/// More flows than ways, on three cores.
#[test]
fn cores_that_enter_flows_into_one_set_do_not_mix_them() {
    explore("three cores and one set of flows", 1_000, || {
        let set = Arc::new(FlowSet::default());
        Watch::all().begin();
        let cores = [core(&set, &[1, 2, 3, 1, 6]), core(&set, &[4, 2, 5, 4]), core(&set, &[7, 3, 1, 5])];
        cores.into_iter().for_each(|core| core.join().unwrap());
    });
}

/// The connection of core `n`: its client is everybody's, so that only what a reply needs differs.
fn opening(n: u32) -> Opening {
    let ports = 5 | u64::from(n) << 32;
    Opening { client: [5, 5], vip: [6, 6], ports, real: n, source: 0, client_v6: false, tcp: true }
}

/// All of it is of one connection.
fn is_whole(nat: &Nat) -> bool {
    let found = nat.read();
    found.ports >> 32 == u64::from(found.real())
}

const NOW: u32 = 5_000;

/// A place of the NAT table, and the number of cores that have it.
#[derive(Default)]
struct Place {
    nat: Nat,
    rules: NatRules,
    owners: AtomicU32,
}

impl Place {
    fn used(connection: u32) -> Arc<Self> {
        let place = Self::default();
        for idle in &place.rules.idle {
            idle.set(1_000);
        }
        if connection != 0 {
            assert!(place.nat.claim(&place.rules, NOW, false));
            place.nat.fill(&opening(connection), 0, NOW);
            // It is over: a SYN of the same client opens another one in its place.
            const RST: u8 = 4;
            place.nat.touch(place.nat.seen(&place.rules, NOW), Side::Real, RST, NOW);
        }
        Arc::new(place)
    }

    /// A SYN opens connection `n`.
    fn open(self: &Arc<Self>, n: u32) -> JoinHandle<()> {
        let place = self.clone();
        spawn(move || {
            let Self { nat, rules, owners } = &*place;
            let over = nat.is_over() && nat.read().client == opening(n).client;
            if nat.claim(rules, NOW, over) {
                assert_eq!(owners.fetch_add(1, Ordering::Relaxed), 0, "the place has two owners");
                // Here the others may come.
                nat.real();
                owners.fetch_sub(1, Ordering::Relaxed);
                nat.fill(&opening(n), 0, NOW);
            }
        })
    }

    /// What the real sends, as it is looked up.
    fn reply(self: &Arc<Self>) -> JoinHandle<()> {
        let place = self.clone();
        spawn(move || {
            let Self { nat, rules, .. } = &*place;
            for _ in 0..2 {
                let generation = nat.generation();
                let life = nat.seen(rules, NOW);
                if life == 0 {
                    continue;
                }
                let found = nat.read();
                if nat.is_as(generation) {
                    let (ports, real) = (found.ports >> 32, found.real());
                    assert_eq!(ports, u64::from(real), "a mixture of two connections is believed");
                    nat.touch(life, Side::Real, 0, NOW);
                }
            }
        })
    }
}

fn opened_by_two() {
    let place = Place::used(0);
    Watch::all().but(std::slice::from_ref(&place.rules)).begin();
    [place.open(1), place.open(2)].into_iter().for_each(|core| core.join().unwrap());
    assert!(place.nat.claimed().is_none(), "claims are left");
    assert!(place.nat.entry().is_none() || is_whole(&place.nat), "a mixture of two connections is there");
}

#[test]
fn a_place_of_the_nat_table_has_one_owner() {
    exhaust("a place of the NAT table", 5_000_000, opened_by_two);
}

#[test]
fn a_place_of_the_nat_table_is_never_believed_while_it_changes() {
    explore("a place of the NAT table, used again", 2_000, || {
        let place = Place::used(9);
        Watch::all().but(std::slice::from_ref(&place.rules)).begin();
        let cores = [place.open(1), place.reply(), place.open(2), place.reply()];
        cores.into_iter().for_each(|core| core.join().unwrap());
        assert!(place.nat.claimed().is_none(), "claims are left");
        assert!(is_whole(&place.nat), "a mixture of two connections is there");
    });
}

/// Who looks whether the place is free, and then takes it.
#[test]
fn a_place_that_is_taken_without_a_claim_has_a_mixture_in_it() {
    fails("a place of the NAT table without a claim", 20_000, "a mixture of two connections is there", || {
        let place = Place::used(0);
        Watch::all().begin();
        let take = |n: u32| {
            let place = place.clone();
            spawn(move || {
                if place.nat.is_unused() {
                    place.nat.fill(&opening(n), 0, NOW);
                }
            })
        };
        [take(1), take(2)].into_iter().for_each(|core| core.join().unwrap());
        assert!(is_whole(&place.nat), "a mixture of two connections is there");
    });
}

/// A writer takes one of two slots out of use as soon as `grace` lets it; a reader's slot must not change under it.
fn retire<G: Grace>(grace: impl Fn(Arc<Vec<Epoch>>) -> G) {
    let epochs = Arc::new(vec![Epoch::new(), Epoch::new()]);
    let slots: Arc<[S64; 3]> = Arc::default();
    let [first, ..] = &*slots;
    first.set(1);
    Watch::all().begin();
    let read = |reader: usize| {
        let (slots, epochs) = (slots.clone(), epochs.clone());
        spawn(move || {
            for batch in 0..3 {
                epochs[reader].begin();
                let [one, two, current] = &*slots;
                let slot = if current.get() == 0 { one } else { two };
                for _ in 0..3 {
                    assert_ne!(slot.get(), 0, "a slot was retired under its reader");
                }
                if batch == 1 {
                    epochs[reader].park();
                }
            }
            epochs[reader].park();
        })
    };
    let readers = [read(0), read(1)];
    let grace = grace(epochs.clone());
    for round in 0..3 {
        let [one, two, current] = &*slots;
        let (old, new) = if round % 2 == 0 { (one, two) } else { (two, one) };
        new.set(round + 2);
        current.publish((round + 1) % 2);
        assert!(grace.wait());
        old.set(0);
    }
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}

#[test]
fn a_grace_period_waits_for_every_reader() {
    explore("grace periods", 2_000, || retire(Readers));
}

#[test]
fn without_a_grace_period_a_slot_is_retired_under_its_reader() {
    fails("no grace period", 20_000, "a slot was retired under its reader", || retire(|_| tandem_interleave::control::NoGrace));
}
