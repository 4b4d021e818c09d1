//! Interleavings of those who read the tables with those who write them, explored by [shuttle]: `make interleave`.
//!
//! What runs is the product's own code, not a copy of it: the engine, built with its feature `interleave`, and those files of
//! `tandem-backends` that know the tables and not the kernel, named below, so that a build takes a minute. Every access to a
//! shared integer of the tables ([`tandem_engine::memory::shared`]) is a place where the scheduler may let another thread go on.
//!
//! *What is explored*: sequentially consistent interleavings. Each access happens at once and for all; what a machine may do
//! beyond that, to stores and loads that are not ordered, is not. Which accesses are ordered, by release and acquire and by the
//! fences of [`epoch`], is argued where they are made. (x86 lets a load overtake an earlier store to another address, and nothing
//! else; grace periods are the only place where that matters, and have a full fence on both sides.)
//!
//! *What is not a scheduling point*, because nothing else can tell when it happens: reads of the control plane in tables that
//! nobody else writes, and counters, which each core has for itself ([`Watch`]).

#[path = "../../backends/src/replay/buffer.rs"]
pub mod buffer;
#[path = "../../backends/src/config/mod.rs"]
pub mod config;
#[path = "../../backends/src/control/mod.rs"]
pub mod control;
#[path = "../../backends/src/afxdp/epoch.rs"]
pub mod epoch;
#[expect(unused_imports, reason = "the kernel seat uses more of it")]
#[path = "../../backends/src/memory/mod.rs"]
pub mod memory;

use std::cell::RefCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use shuttle::current::{TaskId, me};
use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, Runner};
use shuttle_engine::runtime::thread::switch;
use tandem_engine::memory::shared::point::POINT;

use control::Grace;
use epoch::{Epoch, Waiting};

/// Which accesses are scheduling points. None are until [`Watch::begin`]: setting up needs none.
#[derive(Default)]
pub struct Watch {
    on: bool,
    quiet: Vec<Range<usize>>,
    alone: Vec<Range<usize>>,
    writer: Option<TaskId>,
}

thread_local! {
    /// Of the execution that this thread runs: shuttle runs all its tasks on one.
    static WATCH: RefCell<Watch> = RefCell::default();
}

fn addresses<T>(of: &[T]) -> Range<usize> {
    let bytes = of.as_ptr_range();
    bytes.start as usize..bytes.end as usize
}

impl Watch {
    /// Everything is a scheduling point.
    pub fn all() -> Self {
        Self::default()
    }

    /// But not this.
    pub fn but<T>(self, quiet: &[T]) -> Self {
        self.but_at(addresses(quiet))
    }

    /// But not at these addresses.
    pub fn but_at(mut self, quiet: Range<usize>) -> Self {
        self.quiet.push(quiet);
        self
    }

    /// And nothing that the thread that calls this reads in here: it is the only one that writes there.
    pub fn read_alone<T>(mut self, table: &[T]) -> Self {
        self.writer = Some(me());
        self.alone.push(addresses(table));
        self
    }

    /// From here on, in this execution.
    pub fn begin(mut self) {
        self.on = true;
        WATCH.set(self);
    }

    fn is_point(&self, at: usize, writes: bool) -> bool {
        let within = |ranges: &[Range<usize>]| ranges.iter().any(|range| range.contains(&at));
        self.on && !within(&self.quiet) && (writes || self.writer != Some(me()) || !within(&self.alone))
    }
}

fn point(at: usize, writes: bool) {
    if WATCH.with_borrow(|watch| watch.on && watch.is_point(at, writes)) {
        switch();
    }
}

/// Waits for all readers as the product does, but lets the others go on meanwhile instead of sleeping.
pub struct Readers(pub Arc<Vec<Epoch>>);

impl Grace for Readers {
    fn wait(&self) -> bool {
        let mut waiting = Waiting::on(self.0.iter());
        while !waiting.is_over() {
            shuttle::thread::yield_now();
        }
        true
    }
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|n| n.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// What the choices of a run are made of: `TANDEM_SEED`, else always the same.
pub fn seed() -> u64 {
    number("TANDEM_SEED").unwrap_or(1)
}

/// Interleavings to try: `TANDEM_LONG` tries twenty times as many.
pub fn many(few: usize) -> usize {
    if std::env::var_os("TANDEM_LONG").is_some() { 20 * few } else { few }
}

fn run(scheduler: impl Scheduler + 'static, persist: FailurePersistence, model: impl Fn() + Send + Sync + 'static) -> usize {
    POINT.get_or_init(|| point);
    let mut config = Config::new();
    // The control plane builds rings and parses nothing: far below a thread's usual stack, far above shuttle's.
    config.stack_size = 1 << 20;
    config.failure_persistence = persist;
    let started = move || {
        WATCH.set(Watch::default());
        model();
    };
    Runner::new(scheduler, config).run(started)
}

/// Tries `few` interleavings (twenty times as many with `TANDEM_LONG`) with few preemptions at any places (PCT), and as many with preemptions
/// everywhere. A failure prints its schedule, for [`shuttle::replay`].
pub fn explore(name: &str, few: usize, model: impl Fn() + Send + Sync + Clone + 'static) {
    let (seed, count) = (seed(), many(few));
    println!("{name}: seed {seed}");
    let pct = run(PctScheduler::new_from_seed(seed, DEPTH, count), FailurePersistence::Print, model.clone());
    let random = run(RandomScheduler::new_from_seed(seed, count), FailurePersistence::Print, model);
    println!("{name}: {pct} interleavings with up to {DEPTH} preemptions, {random} with preemptions everywhere: none fails");
}

/// Preemptions that PCT places.
const DEPTH: usize = 4;

/// Tries every interleaving there is.
///
/// # Panics
/// There are more than `most`.
pub fn exhaust(name: &str, most: usize, model: impl Fn() + Send + Sync + 'static) {
    let count = run(DfsScheduler::new(Some(most), false), FailurePersistence::Print, model);
    assert!(count < most, "{name}: more than {most} interleavings");
    println!("{name}: all {count} interleavings tried, none fails");
}

/// A model that is known to be wrong: one of `most` interleavings shows it, with this in its message.
///
/// # Panics
/// None does.
pub fn fails(name: &str, most: usize, message: &str, model: impl Fn() + Send + Sync + 'static) {
    let pct = PctScheduler::new_from_seed(seed(), DEPTH, most);
    let failure = catch_unwind(AssertUnwindSafe(|| run(pct, FailurePersistence::None, model)));
    // What was left of the execution that failed is over.
    WATCH.set(Watch::default());
    let Err(failure) = failure else { panic!("{name}: nothing is found in {most} interleavings, so nothing would be") };
    let said = failure.downcast_ref::<String>().map(String::as_str).or(failure.downcast_ref::<&str>().copied()).unwrap_or("");
    assert!(said.contains(message), "{name}: fails, but with {said:?}, not {message:?}");
    println!("{name}: found, as it has to be: {said}");
}
