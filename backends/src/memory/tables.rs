//! All tables of one balancer.

use std::sync::Arc;

use tandem_engine::memory::counters::BLOCK;
use tandem_engine::memory::flows::WAYS;
use tandem_engine::memory::reals::MAX_REALS;
use tandem_engine::memory::vips::SLOTS;
use tandem_engine::memory::{FlowSet, Line, Real, RingLine, Root, Trace, VipSlot};

use super::area::{Area, MapError};
use crate::config::Plan;

/// Numbers of entries that depend on the configuration and the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Lines of the rings, 64 bytes each.
    pub ring_lines: u32,
    /// Sets of the flow table: a power of two, 64 bytes each.
    pub flow_sets: u32,
    /// Blocks of counters: one for each CPU and each worker.
    pub blocks: u32,
}

impl Sizes {
    /// Fewest ring lines: room for 32 rings of the default size and their successors.
    const RING_LINES: u32 = 64 * 2049;

    /// What a plan needs: each ring twice, for the change from one to the next, and room to grow.
    pub fn for_plan(plan: &Plan, blocks: u32) -> Self {
        let rings: u32 = plan.vips.iter().map(|vip| RingLine::lines(vip.ring_size)).sum();
        Self {
            ring_lines: (2 * rings + 1).max(Self::RING_LINES),
            flow_sets: Self::sets_for(plan.flow_capacity),
            blocks: blocks.max(1),
        }
    }

    /// Sets that hold `capacity` flows: the next power of two.
    pub fn sets_for(capacity: u32) -> u32 {
        capacity.div_ceil(WAYS as u32).next_power_of_two()
    }

    /// Bytes that tables of these sizes take.
    pub fn bytes(&self) -> usize {
        size_of::<Root>()
            + 2 * SLOTS as usize * size_of::<VipSlot>()
            + self.ring_lines as usize * size_of::<RingLine>()
            + MAX_REALS as usize * size_of::<Real>()
            + self.flow_sets as usize * size_of::<FlowSet>()
            + (self.blocks * BLOCK) as usize * size_of::<Line>()
    }
}

/// The one memory.
#[derive(Debug)]
pub struct Tables {
    root: Area<Root>,
    pub(super) vips: Area<VipSlot>,
    pub(super) rings: Area<RingLine>,
    pub(super) reals: Area<Real>,
    pub(super) flows: Area<FlowSet>,
    pub(super) counts: Area<Line>,
    trace: Area<Trace>,
    /// Stands in for the first entry of an area, which always has one.
    no_root: Root,
    no_trace: Trace,
}

impl Tables {
    /// Tables in memory of this process: for replays, tests and benchmarks.
    ///
    /// # Errors
    /// [`MapError`]: no memory.
    pub fn plain(sizes: Sizes) -> Result<Arc<Self>, MapError> {
        Self::of_areas(
            Area::plain("ROOT", 1)?,
            Area::plain("VIPS", 2 * SLOTS as usize)?,
            Area::plain("RINGS", sizes.ring_lines as usize)?,
            Area::plain("REALS", MAX_REALS as usize)?,
            Area::plain("FLOWS", sizes.flow_sets as usize)?,
            Area::plain("COUNTS", (sizes.blocks * BLOCK) as usize)?,
            Area::plain("TRACE", 1)?,
        )
    }

    /// Tables made of these areas.
    pub(crate) fn of_areas(
        root: Area<Root>,
        vips: Area<VipSlot>,
        rings: Area<RingLine>,
        reals: Area<Real>,
        flows: Area<FlowSet>,
        counts: Area<Line>,
        trace: Area<Trace>,
    ) -> Result<Arc<Self>, MapError> {
        Ok(Arc::new(Self {
            root,
            vips,
            rings,
            reals,
            flows,
            counts,
            trace,
            no_root: Root::default(),
            no_trace: Trace::default(),
        }))
    }

    /// The root.
    #[inline(always)]
    pub fn root(&self) -> &Root {
        self.root.first().unwrap_or(&self.no_root)
    }
    /// Both halves of the VIP table.
    pub fn vips(&self) -> &[VipSlot] {
        &self.vips
    }
    /// All ring lines.
    pub fn rings(&self) -> &[RingLine] {
        &self.rings
    }
    /// All reals, by id.
    pub fn reals(&self) -> &[Real] {
        &self.reals
    }
    /// The flow table.
    pub fn flows(&self) -> &[FlowSet] {
        &self.flows
    }
    /// The flow table, to be advised or zeroed.
    pub fn flow_area(&self) -> &Area<FlowSet> {
        &self.flows
    }
    /// The trace cell.
    pub fn trace(&self) -> &Trace {
        self.trace.first().unwrap_or(&self.no_trace)
    }
    /// Blocks of counters.
    pub fn blocks(&self) -> u32 {
        (self.counts.len() / BLOCK as usize) as u32
    }
    /// The lines of one block of counters; empty if there is no such block.
    pub fn block(&self, block: u32) -> &[Line] {
        let start = block as usize * BLOCK as usize;
        self.counts.get(start..start + BLOCK as usize).unwrap_or_default()
    }
    /// Numbers of entries.
    pub fn sizes(&self) -> Sizes {
        Sizes { ring_lines: self.rings.len() as u32, flow_sets: self.flows.len() as u32, blocks: self.blocks() }
    }
}
