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

/// One step of either side; the first number is the lane, and of `Send` and `Release` the last one is the place among the held
/// frames.
#[derive(Clone, Copy, Debug)]
enum Step {
    Refill(usize),
    Receive(usize),
    Send(usize, usize),
    Release(usize),
    Flush(usize),
    Reclaim(usize),
    Deliver(usize, usize, usize),
    Transmit(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let lane = || any::<usize>();
    prop_oneof![
        2 => lane().prop_map(Step::Refill),
        3 => lane().prop_map(Step::Receive),
        8 => (lane(), any::<usize>()).prop_map(|(lane, at)| Step::Send(lane, at)),
        4 => any::<usize>().prop_map(Step::Release),
        3 => lane().prop_map(Step::Flush),
        2 => lane().prop_map(Step::Reclaim),
        3 => (lane(), 1usize..60, 0usize..CHUNK).prop_map(|(lane, count, offset)| Step::Deliver(lane, count, offset)),
        2 => (lane(), 1usize..60).prop_map(|(lane, count)| Step::Transmit(lane, count)),
    ]
}

struct Bench {
    pool: Pool<Model>,
    kernels: Vec<Rc<RefCell<Kernel>>>,
    held: Vec<Frame<Entry>>,
    refused: usize,
}

impl Bench {
    fn new(total: usize, fill_size: usize, tx_size: usize) -> Self {
        Self::of_lanes(1, total, fill_size, tx_size)
    }

    fn of_lanes(lanes: usize, total: usize, fill_size: usize, tx_size: usize) -> Self {
        let kernels: Vec<_> = (0..lanes).map(|_| Rc::new(RefCell::new(Kernel::new(fill_size, tx_size)))).collect();
        let entries: Vec<_> = (0..total).map(|i| Entry { addr: i * CHUNK + 256 }).collect();
        let pool = Pool::new(kernels.iter().cloned().map(Model).collect(), &entries, CHUNK);
        Self { pool, kernels, held: Vec::with_capacity(total + BATCH), refused: 0 }
    }

    /// The kernel's side of the first lane.
    fn kernel(&self) -> std::cell::RefMut<'_, Kernel> {
        self.kernels[0].borrow_mut()
    }

    fn take(&mut self, at: usize) -> Option<Frame<Entry>> {
        (!self.held.is_empty()).then(|| self.held.swap_remove(at % self.held.len()))
    }

    fn run(&mut self, step: Step) {
        let lanes = self.kernels.len();
        match step {
            Step::Refill(lane) => drop(self.pool.refill(lane % lanes)),
            Step::Receive(lane) => drop(self.pool.receive(lane % lanes, &mut self.held)),
            Step::Send(lane, at) => {
                if let Some(frame) = self.take(at)
                    && let Err(frame) = self.pool.send(lane % lanes, frame)
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
            Step::Flush(lane) => drop(self.pool.flush(lane % lanes)),
            Step::Reclaim(lane) => drop(self.pool.reclaim(lane % lanes)),
            Step::Deliver(lane, count, offset) => self.kernels[lane % lanes].borrow_mut().deliver(count, offset),
            Step::Transmit(lane, count) => self.kernels[lane % lanes].borrow_mut().transmit(count),
        }
    }

    /// Counts every chunk wherever it really is, without asking the ledger.
    fn check(&self) -> Result<(), TestCaseError> {
        let census = self.pool.census();
        let mut owners = vec![0; census.total];
        let queued = self.pool.lanes.iter().flat_map(|lane| &lane.queued);
        let tokens = self.pool.free.iter().chain(queued.clone()).chain(&self.held);
        tokens.for_each(|f| owners[f.entry.addr / CHUNK] += 1);
        let (mut filling, mut sending) = (0, 0);
        let share = census.total / self.kernels.len();
        for kernel in &self.kernels {
            let kernel = kernel.borrow();
            kernel.chunks().for_each(|chunk| owners[chunk] += 1);
            let (in_rx, in_tx) = (kernel.fill.len() + kernel.rx.len(), kernel.tx.len() + kernel.done.len());
            prop_assert!(in_rx <= share, "a lane has more than its share to receive into: {in_rx} of {share}");
            prop_assert!(in_tx <= (share / 2).max(1), "a lane's receive side starves: {in_tx} of {share} are being sent");
            filling += in_rx;
            sending += in_tx;
        }
        prop_assert!(owners.iter().all(|&n| n == 1), "owners of each chunk: {owners:?}");
        let expected = Census {
            free: self.pool.free.len(),
            filling,
            held: self.held.len(),
            queued: queued.count(),
            sending,
            total: owners.len(),
            defects: 0,
        };
        prop_assert_eq!(census, expected);
        Ok(())
    }

    /// Lets everything come to rest.
    fn settle(&mut self) {
        while let Some(frame) = self.take(0) {
            self.pool.release(frame);
        }
        for _ in 0..1000 {
            for lane in 0..self.kernels.len() {
                self.pool.flush(lane);
                self.kernels[lane].borrow_mut().transmit(usize::MAX);
                self.pool.reclaim(lane);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever comes in by one lane and leaves by another.
    #[test]
    fn every_chunk_has_one_owner(
        lanes in 1usize..5,
        total in 4usize..200,
        fill_bits in 0u32..8,
        tx_bits in 0u32..7,
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let mut bench = Bench::of_lanes(lanes, total, 1 << fill_bits, 1 << tx_bits);
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

#[test]
fn a_busy_lane_leaves_the_others_their_share() {
    let mut bench = Bench::of_lanes(2, 512, 512, 512);
    while bench.pool.refill(0) > 0 {}
    assert_eq!(bench.pool.census().filling, 256, "one lane has its share");
    while bench.pool.refill(1) > 0 {}
    assert_eq!((bench.pool.census().filling, bench.pool.census().free), (512, 0));
    // All that came in by the first leaves by the second, which is slow: the first goes on receiving.
    for _ in 0..20 {
        bench.kernel().deliver(BATCH, 300);
        bench.pool.receive(0, &mut bench.held);
        for frame in std::mem::take(&mut bench.held) {
            if let Err(frame) = bench.pool.send(1, frame) {
                bench.refused += 1;
                bench.pool.release(frame);
            }
        }
        bench.held = Vec::with_capacity(2 * BATCH);
        bench.pool.flush(1);
        bench.pool.refill(0);
    }
    bench.check().expect("conserved");
    assert_eq!(bench.kernels[1].borrow().tx.len(), 128, "half of a share is on its way out");
    assert!(bench.refused > 0 && bench.pool.census().queued == QUEUED, "{:?}", bench.pool.census());
}

#[test]
fn a_frame_that_comes_back_by_another_lane_is_a_defect() {
    let mut bench = Bench::of_lanes(2, 16, 8, 8);
    bench.pool.refill(0);
    bench.pool.refill(1);
    let stolen = bench.kernel().fill.pop_front().expect("filled");
    bench.kernels[1].borrow_mut().rx.push_back(stolen);
    assert_eq!(bench.pool.receive(1, &mut bench.held), 0, "it became the other lane's");
    assert_eq!(bench.pool.census().defects, 1);
}

/// Takes `count` frames through the fill ring into the hands of the worker.
fn held(bench: &mut Bench, count: usize) {
    bench.pool.refill(0);
    bench.kernel().deliver(count, 300);
    bench.pool.receive(0, &mut bench.held);
    assert_eq!(bench.held.len(), count);
}

#[test]
fn frames_are_sent_in_order_and_the_rest_waits() {
    let mut bench = Bench::new(64, 64, 4);
    held(&mut bench, 10);
    let order: Vec<_> = bench.held.iter().map(|f| f.entry.addr).collect();
    for frame in bench.held.drain(..) {
        bench.pool.send(0, frame).expect("room to wait");
    }
    assert_eq!(bench.pool.flush(0), 4);
    assert_eq!(bench.pool.census().queued, 6);
    let mut sent: Vec<_> = Vec::new();
    while bench.pool.census().sending > 0 {
        sent.extend(bench.kernel().tx.iter().map(|e| e.addr));
        bench.kernel().transmit(4);
        bench.pool.reclaim(0);
        bench.pool.flush(0);
    }
    assert_eq!(sent, order);
}

#[test]
fn a_full_queue_gives_the_frame_back() {
    let mut bench = Bench::new(4 * QUEUED, 4 * QUEUED, 1);
    for _ in 0..QUEUED / BATCH + 1 {
        held(&mut bench, BATCH);
        for frame in bench.held.drain(..) {
            if let Err(frame) = bench.pool.send(0, frame) {
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
    bench.pool.refill(0);
    bench.kernel().deliver(1, 0);
    bench.pool.receive(0, &mut bench.held);
    let twice = bench.held[0].entry;
    for (defects, addr) in [twice.addr, 8 * CHUNK, usize::MAX].into_iter().enumerate() {
        bench.kernel().rx.push_back(Entry { addr });
        assert_eq!(bench.pool.receive(0, &mut bench.held), 0, "address {addr} became a second owner");
        assert_eq!(bench.pool.census().defects, defects as u64 + 1);
    }
    let frame = bench.take(0).expect("held");
    bench.pool.send(0, frame).expect("room to wait");
    bench.pool.flush(0);
    bench.kernel().done.push_back(Entry { addr: 7 * CHUNK });
    bench.pool.reclaim(0);
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
    two.pool.send(0, second).expect("room to wait");
    let census = two.pool.census();
    assert_eq!((census.defects, census.held, census.queued), (2, 2, 0));
    assert_eq!(one.pool.census().held, 2, "what is lost is seen");
}

#[test]
fn a_batch_never_grows_beyond_what_was_allocated() {
    let mut bench = Bench::new(128, 128, 8);
    while bench.pool.refill(0) > 0 {}
    bench.kernel().deliver(128, 0);
    let mut batch = Vec::with_capacity(BATCH + BATCH / 2);
    let capacity = batch.capacity();
    assert_eq!(bench.pool.receive(0, &mut batch), BATCH);
    assert_eq!(bench.pool.receive(0, &mut batch), 0);
    assert_eq!(batch.capacity(), capacity);
    assert_eq!(bench.pool.census().held, BATCH);
}
