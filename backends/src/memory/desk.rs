//! The tables as one userspace core sees them: the engine's [`Memory`].

use std::cell::Cell;
use std::sync::Arc;

use tandem_engine::memory::{
    Answer, FlowSet, HashLine, IdLine, Line, Memory, Nat, PrefixSlot, Real, RealLine, RingLine, Root, Trace, Tree, VipSlot,
};

use super::tables::Tables;

/// One core's view, with its own block of counters and its own reading of the clock.
///
/// `TRACED` decides at compile time whether each decision is written to the trace cell.
#[derive(Debug)]
pub struct Desk<const TRACED: bool> {
    tables: Arc<Tables>,
    block: u32,
    now: Cell<u32>,
}

/// A worker's view.
pub type Plain = Desk<false>;
/// A replay's view.
pub type Traced = Desk<true>;

impl<const TRACED: bool> Desk<TRACED> {
    /// The view of the core that counts in `block`.
    pub fn new(tables: Arc<Tables>, block: u32) -> Self {
        Self { tables, block, now: Cell::new(0) }
    }

    /// Sets the clock, in ticks.
    #[inline]
    pub fn set_now(&self, tick: u32) {
        self.now.set(tick);
    }
}

impl<const TRACED: bool> Memory for Desk<TRACED> {
    #[inline(always)]
    fn root(&self) -> Option<&Root> {
        Some(self.tables.root())
    }
    #[inline(always)]
    fn vip(&self, index: u32) -> Option<&VipSlot> {
        self.tables.vips.get(index as usize)
    }
    #[inline(always)]
    fn ring(&self, index: u32) -> Option<&RingLine> {
        self.tables.rings.get(index as usize)
    }
    #[inline(always)]
    fn real(&self, id: u32) -> Option<&Real> {
        self.tables.reals.get(id as usize)
    }
    #[inline(always)]
    fn flows(&self, index: u64) -> Option<&FlowSet> {
        self.tables.flows.get(modulo(index, self.tables.flows.len()))
    }
    #[inline(always)]
    fn hashes(&self, index: u64) -> Option<&HashLine> {
        self.tables.hashes.get(modulo(index, self.tables.flows.len()))
    }
    #[inline(always)]
    fn ids(&self, index: u32) -> Option<&IdLine> {
        self.tables.ids.get(index as usize)
    }
    #[inline(always)]
    fn prefix(&self, index: u32) -> Option<&PrefixSlot> {
        self.tables.prefixes.get(index as usize)
    }
    #[inline(always)]
    fn tree(&self, index: u32) -> Option<&Tree> {
        self.tables.trees.get(index as usize)
    }
    #[inline(always)]
    fn nat(&self, index: u32) -> Option<&Nat> {
        self.tables.nats.get(index as usize)
    }
    #[inline(always)]
    fn answer(&self, index: u32) -> Option<&Answer> {
        self.tables.answers.get(index as usize)
    }
    #[inline(always)]
    fn count(&self, index: u32) -> Option<&Line> {
        self.tables.line(self.block, index)
    }
    #[inline(always)]
    fn vip_count(&self, vip: u32) -> Option<&Line> {
        self.tables.line(self.block, self.tables.extent.vip(vip))
    }
    #[inline(always)]
    fn real_count(&self, real: u32) -> Option<&RealLine> {
        self.tables.real_count(self.block, real)
    }
    #[inline(always)]
    fn now(&self) -> u32 {
        self.now.get()
    }
    #[inline(always)]
    fn soon(&self, set: u64) {
        if let Some(set) = self.flows(set) {
            prefetch(set);
        }
    }
    #[inline(always)]
    fn trace(&self) -> Option<&Trace> {
        TRACED.then(|| self.tables.trace())
    }
}

/// `index` modulo `len`, a power of two.
#[inline(always)]
fn modulo(index: u64, len: usize) -> usize {
    index as usize & len.wrapping_sub(1)
}

#[inline(always)]
fn prefetch(set: &FlowSet) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing as far as the program can tell, and SSE is part of x86_64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(set).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = set;
}
