//! The pool against a kernel in memory: whatever both do, each chunk has exactly one owner.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;

const CHUNK: usize = 2048;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    addr: usize,
}

impl Descriptor for Entry {
    fn addr(&self) -> usize {
        self.addr
    }
}

/// The kernel's side: what lies in each ring, and what it holds between them.
#[derive(Debug)]
struct Kernel {
    fill: VecDeque<Entry>,
    rx: VecDeque<Entry>,
    tx: VecDeque<Entry>,
    done: VecDeque<Entry>,
    fill_size: usize,
    tx_size: usize,
}

impl Kernel {
    fn new(fill_size: usize, tx_size: usize) -> Self {
        let (fill, rx, tx, done) = Default::default();
        Self { fill, rx, tx, done, fill_size, tx_size }
    }

    /// Receives up to `count` frames; a packet starts anywhere in its chunk.
    fn deliver(&mut self, count: usize, offset: usize) {
        for _ in 0..count.min(self.fill.len()) {
            let entry = self.fill.pop_front().expect("counted");
            self.rx.push_back(Entry { addr: (entry.addr & !(CHUNK - 1)) + offset });
        }
    }

    /// Sends up to `count` frames.
    fn transmit(&mut self, count: usize) {
        for _ in 0..count.min(self.tx.len()) {
            let entry = self.tx.pop_front().expect("counted");
            self.done.push_back(entry);
        }
    }

    fn chunks(&self) -> impl Iterator<Item = usize> {
        [&self.fill, &self.rx, &self.tx, &self.done].into_iter().flatten().map(|e| e.addr / CHUNK)
    }
}

#[derive(Clone, Debug)]
struct Model(Rc<RefCell<Kernel>>);

impl Rings for Model {
    type Entry = Entry;
    fn fill_room(&mut self, _want: usize) -> usize {
        let kernel = self.0.borrow();
        kernel.fill_size - kernel.fill.len()
    }
    fn fill(&mut self, frames: impl Iterator<Item = Frame<Entry>>) {
        let mut kernel = self.0.borrow_mut();
        kernel.fill.extend(frames.map(|f| f.entry));
        assert!(kernel.fill.len() <= kernel.fill_size, "the fill ring overflows");
    }
    fn receive(&mut self, into: &mut [Entry; BATCH]) -> usize {
        take(&mut self.0.borrow_mut().rx, into)
    }
    fn send_room(&mut self, _want: usize) -> usize {
        let kernel = self.0.borrow();
        kernel.tx_size - kernel.tx.len()
    }
    fn send(&mut self, frames: impl Iterator<Item = Frame<Entry>>) {
        let mut kernel = self.0.borrow_mut();
        kernel.tx.extend(frames.map(|f| f.entry));
        assert!(kernel.tx.len() <= kernel.tx_size, "the TX ring overflows");
    }
    fn complete(&mut self, into: &mut [Entry; BATCH]) -> usize {
        take(&mut self.0.borrow_mut().done, into)
    }
}

fn take(ring: &mut VecDeque<Entry>, into: &mut [Entry; BATCH]) -> usize {
    let count = ring.len().min(BATCH);
    for (slot, entry) in into.iter_mut().zip(ring.drain(..count)) {
        *slot = entry;
    }
    count
}

/// One step of either side.
#[derive(Clone, Copy, Debug)]
enum Step {
    Refill,
    Receive,
    /// Of the held frames, send the one at this place.
    Send(usize),
    Release(usize),
    Flush,
    Reclaim,
    Deliver(usize, usize),
    Transmit(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Refill),
        3 => Just(Step::Receive),
        8 => any::<usize>().prop_map(Step::Send),
        4 => any::<usize>().prop_map(Step::Release),
        3 => Just(Step::Flush),
        2 => Just(Step::Reclaim),
        3 => (1usize..60, 0usize..CHUNK).prop_map(|(count, offset)| Step::Deliver(count, offset)),
        2 => (1usize..60).prop_map(Step::Transmit),
    ]
}

struct Bench {
    pool: Pool<Model>,
    kernel: Rc<RefCell<Kernel>>,
    held: Vec<Frame<Entry>>,
    refused: usize,
}

impl Bench {
    fn new(total: usize, fill_size: usize, tx_size: usize) -> Self {
        let kernel = Rc::new(RefCell::new(Kernel::new(fill_size, tx_size)));
        let entries: Vec<_> = (0..total).map(|i| Entry { addr: i * CHUNK + 256 }).collect();
        let pool = Pool::new(Model(kernel.clone()), &entries, CHUNK);
        Self { pool, kernel, held: Vec::with_capacity(total + BATCH), refused: 0 }
    }

    fn take(&mut self, at: usize) -> Option<Frame<Entry>> {
        (!self.held.is_empty()).then(|| self.held.swap_remove(at % self.held.len()))
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Refill => drop(self.pool.refill()),
            Step::Receive => drop(self.pool.receive(&mut self.held)),
            Step::Send(at) => {
                if let Some(frame) = self.take(at)
                    && let Err(frame) = self.pool.send(frame)
                {
                    self.refused += 1;
                    self.pool.release(frame);
                }
            }
            Step::Release(at) => {
                if let Some(frame) = self.take(at) {
                    self.pool.release(frame);
                }
            }
            Step::Flush => drop(self.pool.flush()),
            Step::Reclaim => drop(self.pool.reclaim()),
            Step::Deliver(count, offset) => self.kernel.borrow_mut().deliver(count, offset),
            Step::Transmit(count) => self.kernel.borrow_mut().transmit(count),
        }
    }

    /// Counts every chunk wherever it really is, without asking the ledger.
    fn check(&self) -> Result<(), TestCaseError> {
        let kernel = self.kernel.borrow();
        let census = self.pool.census();
        let mut owners = vec![0; census.total];
        let tokens = self.pool.free.iter().chain(&self.pool.queued).chain(&self.held);
        for chunk in tokens.map(|f| f.entry.addr / CHUNK).chain(kernel.chunks()) {
            owners[chunk] += 1;
        }
        prop_assert!(owners.iter().all(|&n| n == 1), "owners of each chunk: {owners:?}");
        let expected = Census {
            free: self.pool.free.len(),
            filling: kernel.fill.len() + kernel.rx.len(),
            held: self.held.len(),
            queued: self.pool.queued.len(),
            sending: kernel.tx.len() + kernel.done.len(),
            total: owners.len(),
            defects: 0,
        };
        prop_assert_eq!(census, expected);
        prop_assert!(census.sending <= (census.total / 2).max(1), "the receive side starves: {census:?}");
        Ok(())
    }

    /// Lets everything come to rest.
    fn settle(&mut self) {
        while let Some(frame) = self.take(0) {
            self.pool.release(frame);
        }
        for _ in 0..1000 {
            self.pool.flush();
            self.kernel.borrow_mut().transmit(usize::MAX);
            self.pool.reclaim();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn every_chunk_has_one_owner(
        total in 1usize..200,
        fill_bits in 0u32..8,
        tx_bits in 0u32..7,
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let mut bench = Bench::new(total, 1 << fill_bits, 1 << tx_bits);
        for step in steps {
            bench.run(step);
            bench.check()?;
        }
        bench.settle();
        let census = bench.pool.census();
        prop_assert!(census.is_whole(), "{census:?}");
        prop_assert_eq!(census.free + census.filling, census.total);
    }
}

/// Takes `count` frames through the fill ring into the hands of the worker.
fn held(bench: &mut Bench, count: usize) {
    bench.pool.refill();
    bench.kernel.borrow_mut().deliver(count, 300);
    bench.pool.receive(&mut bench.held);
    assert_eq!(bench.held.len(), count);
}

#[test]
fn frames_are_sent_in_order_and_the_rest_waits() {
    let mut bench = Bench::new(64, 64, 4);
    held(&mut bench, 10);
    let order: Vec<_> = bench.held.iter().map(|f| f.entry.addr).collect();
    for frame in bench.held.drain(..) {
        bench.pool.send(frame).expect("room to wait");
    }
    assert_eq!(bench.pool.flush(), 4);
    assert_eq!(bench.pool.census().queued, 6);
    let mut sent: Vec<_> = Vec::new();
    while bench.pool.census().sending > 0 {
        sent.extend(bench.kernel.borrow().tx.iter().map(|e| e.addr));
        bench.kernel.borrow_mut().transmit(4);
        bench.pool.reclaim();
        bench.pool.flush();
    }
    assert_eq!(sent, order);
}

#[test]
fn a_full_queue_gives_the_frame_back() {
    let mut bench = Bench::new(4 * QUEUED, 4 * QUEUED, 1);
    for _ in 0..QUEUED / BATCH + 1 {
        held(&mut bench, BATCH);
        for frame in bench.held.drain(..) {
            if let Err(frame) = bench.pool.send(frame) {
                bench.refused += 1;
                bench.pool.release(frame);
            }
        }
    }
    assert_eq!(bench.refused, BATCH);
    assert_eq!(bench.pool.census().queued, QUEUED);
    bench.check().expect("conserved");
}

#[test]
fn an_address_the_kernel_does_not_own_is_no_frame() {
    let mut bench = Bench::new(8, 8, 8);
    bench.pool.refill();
    bench.kernel.borrow_mut().deliver(1, 0);
    bench.pool.receive(&mut bench.held);
    let twice = bench.held[0].entry;
    for (defects, addr) in [twice.addr, 8 * CHUNK, usize::MAX].into_iter().enumerate() {
        bench.kernel.borrow_mut().rx.push_back(Entry { addr });
        assert_eq!(bench.pool.receive(&mut bench.held), 0, "address {addr} became a second owner");
        assert_eq!(bench.pool.census().defects, defects as u64 + 1);
    }
    let frame = bench.take(0).expect("held");
    bench.pool.send(frame).expect("room to wait");
    bench.pool.flush();
    bench.kernel.borrow_mut().done.push_back(Entry { addr: 7 * CHUNK });
    bench.pool.reclaim();
    assert_eq!(bench.pool.census().defects, 4, "a chunk of the fill ring was completed");
    assert_eq!(bench.pool.free.len(), 0);
}

#[test]
fn a_token_of_another_pool_is_refused() {
    let (mut one, mut two) = (Bench::new(8, 8, 8), Bench::new(8, 8, 8));
    held(&mut one, 2);
    held(&mut two, 2);
    let (first, second) = (one.take(0).expect("held"), one.take(0).expect("held"));
    two.pool.release(first);
    two.pool.send(second).expect("room to wait");
    let census = two.pool.census();
    assert_eq!((census.defects, census.held, census.queued), (2, 2, 0));
    assert_eq!(one.pool.census().held, 2, "what is lost is seen");
}

#[test]
fn a_batch_never_grows_beyond_what_was_allocated() {
    let mut bench = Bench::new(128, 128, 8);
    while bench.pool.refill() > 0 {}
    bench.kernel.borrow_mut().deliver(128, 0);
    let mut batch = Vec::with_capacity(BATCH + BATCH / 2);
    let capacity = batch.capacity();
    assert_eq!(bench.pool.receive(&mut batch), BATCH);
    assert_eq!(bench.pool.receive(&mut batch), 0);
    assert_eq!(batch.capacity(), capacity);
    assert_eq!(bench.pool.census().held, BATCH);
}
