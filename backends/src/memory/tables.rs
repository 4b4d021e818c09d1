//! All tables of one balancer.

use std::sync::Arc;

use tandem_engine::memory::counters::Extent;
use tandem_engine::memory::features;
use tandem_engine::memory::flows::WAYS;
use tandem_engine::memory::nats::ANSWERS;
use tandem_engine::memory::prefixes::SPACES;
use tandem_engine::memory::{
    Answer, FlowSet, HashLine, IdLine, Line, Nat, PrefixSlot, Real, RealLine, RingLine, Root, Trace, Tree, VipSlot,
};

use super::area::{Area, MapError, Shared};
use crate::config::Plan;
use crate::control;

/// Which of the tables that every frame asks by a number the kernel holds as entries, which the program looks up. The others are one value
/// each, whose address is in the program.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LookedUp {
    /// The VIP table. The way of usual frames is only taken without it.
    pub vips: bool,
    /// The rings.
    pub rings: bool,
    /// The flow table.
    pub flows: bool,
    /// What its flows asked the ring by.
    pub hashes: bool,
    /// The counters of each core.
    pub counts: bool,
}

impl LookedUp {
    /// All of them.
    pub const ALL: Self = Self { vips: true, rings: true, flows: true, hashes: true, counts: true };
}

/// Numbers of entries that depend on the configuration and the host, and what the program is loaded for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Slots of one half of the VIP table: a power of two, 64 bytes each.
    pub vip_slots: u32,
    /// VIPs and reals, each with its counters in every block; a real has 64 bytes beside.
    pub extent: Extent,
    /// Lines of the rings, 64 bytes each.
    pub ring_lines: u32,
    /// Sets of the flow table: a power of two, 64 bytes each.
    pub flow_sets: u32,
    /// Lines beside them that keep what flows asked the ring by, 32 bytes each: as many, or 1 without them.
    pub hash_lines: u32,
    /// Blocks of counters: one for each CPU and each worker.
    pub blocks: u32,
    /// Lines of the id table: a power of two, 64 bytes each.
    pub id_lines: u32,
    /// Slots of one half of the prefix table: a power of two, 32 bytes each.
    pub prefix_slots: u32,
    /// Places of the NAT table, 128 bytes each.
    pub nat_places: u32,
    /// The [`features`] that the kernel program is loaded with.
    pub features: u32,
    /// New tables that are looked up even if the kernel takes them as one value; for tests. Pinned ones stay what they are.
    pub looked_up: LookedUp,
}

impl Sizes {
    /// Fewest ring lines: room for 32 rings of the default size and their successors.
    const RING_LINES: u32 = 64 * 2049;

    /// What a plan needs: each ring twice, for the change from one to the next, and room to grow.
    pub fn for_plan(plan: &Plan, blocks: u32) -> Self {
        let (flow_sets, features) = (Self::sets_for(plan.flow_capacity), control::features(plan));
        let ring_lines = 2 * control::ring_lines(plan) + 1;
        Self {
            vip_slots: control::vip_slots(plan),
            extent: control::extent(plan),
            ring_lines: u32::try_from(ring_lines).unwrap_or(u32::MAX).max(Self::RING_LINES),
            flow_sets,
            hash_lines: if features & features::RING_HASHES != 0 { flow_sets } else { 1 },
            blocks: blocks.max(1),
            id_lines: control::id_lines(plan),
            prefix_slots: control::prefixes::slots(plan),
            nat_places: control::nat_places(plan),
            features,
            looked_up: LookedUp::default(),
        }
    }

    /// Sets that hold `capacity` flows: the next power of two.
    pub fn sets_for(capacity: u32) -> u32 {
        capacity.div_ceil(WAYS as u32).next_power_of_two()
    }

    /// Bytes that tables of these sizes take.
    pub fn bytes(&self) -> usize {
        self.by_table().iter().map(|(_, bytes)| bytes).sum()
    }

    /// In words: MiB in all, and of each table that has a tenth of one, the largest first.
    pub fn in_words(&self) -> String {
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let mut tables = self.by_table();
        tables.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        let named = tables.iter().filter(|(_, bytes)| mib(*bytes) >= 0.1);
        let named: Vec<String> = named.map(|(name, bytes)| format!("{name} {:.1}", mib(*bytes))).collect();
        format!("{:.1} MiB: {}", mib(self.bytes()), named.join(", "))
    }

    /// Bytes of each table.
    pub fn by_table(&self) -> [(&'static str, usize); 12] {
        fn of<T>(len: u32) -> usize {
            len as usize * size_of::<T>()
        }
        [
            ("ROOT", of::<Root>(1)),
            ("VIPS", 2 * of::<VipSlot>(self.vip_slots)),
            ("RINGS", of::<RingLine>(self.ring_lines)),
            ("REALS", of::<Real>(self.extent.reals)),
            ("FLOWS", of::<FlowSet>(self.flow_sets)),
            ("HASHES", of::<HashLine>(self.hash_lines)),
            ("COUNTS", self.blocks as usize * of::<Line>(self.extent.lines())),
            ("IDS", of::<IdLine>(self.id_lines)),
            ("PREFIXES", 2 * of::<PrefixSlot>(self.prefix_slots)),
            ("TREES", 2 * of::<Tree>(SPACES)),
            ("NATS", of::<Nat>(self.nat_places)),
            ("ANSWERS", of::<Answer>(ANSWERS)),
        ]
    }
}

/// Where areas come from.
pub(crate) trait Source {
    /// Why there is none.
    type Error;
    /// The table of this name, with `len` entries.
    fn area<T: Shared>(&mut self, name: &'static str, len: usize) -> Result<Area<T>, Self::Error>;
}

/// Memory of this process.
struct Plain;

impl Source for Plain {
    type Error = MapError;
    fn area<T: Shared>(&mut self, name: &'static str, len: usize) -> Result<Area<T>, MapError> {
        Area::plain(name, len)
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
    pub(super) hashes: Area<HashLine>,
    pub(super) counts: Area<Line>,
    pub(super) ids: Area<IdLine>,
    pub(super) prefixes: Area<PrefixSlot>,
    pub(super) trees: Area<Tree>,
    pub(super) nats: Area<Nat>,
    pub(super) answers: Area<Answer>,
    trace: Area<Trace>,
    pub(super) extent: Extent,
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
        Self::of(&mut Plain, sizes)
    }

    /// Tables of these sizes, each made by `source`.
    pub(crate) fn of<S: Source>(source: &mut S, sizes: Sizes) -> Result<Arc<Self>, S::Error> {
        Ok(Arc::new(Self {
            root: source.area("ROOT", 1)?,
            vips: source.area("VIPS", 2 * sizes.vip_slots as usize)?,
            rings: source.area("RINGS", sizes.ring_lines as usize)?,
            reals: source.area("REALS", sizes.extent.reals as usize)?,
            flows: source.area("FLOWS", sizes.flow_sets as usize)?,
            hashes: source.area("HASHES", sizes.hash_lines as usize)?,
            counts: source.area("COUNTS", sizes.blocks as usize * sizes.extent.lines() as usize)?,
            ids: source.area("IDS", sizes.id_lines as usize)?,
            prefixes: source.area("PREFIXES", 2 * sizes.prefix_slots as usize)?,
            trees: source.area("TREES", 2 * SPACES as usize)?,
            nats: source.area("NATS", sizes.nat_places as usize)?,
            answers: source.area("ANSWERS", ANSWERS as usize)?,
            trace: source.area("TRACE", 1)?,
            extent: sizes.extent,
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
    /// What the flows asked the ring by: a line for each set, or one alone.
    pub fn hashes(&self) -> &[HashLine] {
        &self.hashes
    }
    /// The flow table, to be advised or zeroed.
    pub fn flow_area(&self) -> &Area<FlowSet> {
        &self.flows
    }
    /// The id table.
    pub fn ids(&self) -> &[IdLine] {
        &self.ids
    }
    /// Both halves of the prefix table.
    pub fn prefixes(&self) -> &[PrefixSlot] {
        &self.prefixes
    }
    /// The trees of both halves.
    pub fn trees(&self) -> &[Tree] {
        &self.trees
    }
    /// The NAT table.
    pub fn nats(&self) -> &[Nat] {
        &self.nats
    }
    /// The answers of NAT that come in fragments.
    pub fn answers(&self) -> &[Answer] {
        &self.answers
    }
    /// The trace cell.
    pub fn trace(&self) -> &Trace {
        self.trace.first().unwrap_or(&self.no_trace)
    }
    /// VIPs and reals that there is room for.
    pub fn extent(&self) -> Extent {
        self.extent
    }
    /// Blocks of counters.
    pub fn blocks(&self) -> u32 {
        (self.counts.len() / self.extent.lines() as usize) as u32
    }
    /// The lines of one block of counters; empty if there is no such block.
    pub fn block(&self, block: u32) -> &[Line] {
        let lines = self.extent.lines() as usize;
        let start = block as usize * lines;
        self.counts.get(start..start + lines).unwrap_or_default()
    }
    /// A VIP's counters in a block.
    pub fn vip_count(&self, block: u32, vip: u32) -> Option<&Line> {
        self.line(block, self.extent.vip(vip))
    }
    /// A real's counters in a block.
    #[inline(always)]
    pub fn real_count(&self, block: u32, real: u32) -> Option<&RealLine> {
        let (line, second) = self.extent.real(real);
        self.line(block, line)?.real(second)
    }
    /// A line of a block.
    #[inline(always)]
    pub(super) fn line(&self, block: u32, line: u32) -> Option<&Line> {
        self.counts.get(block as usize * self.extent.lines() as usize + line as usize)
    }
    /// Numbers of entries.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            vip_slots: self.vips.len() as u32 / 2,
            extent: self.extent,
            ring_lines: self.rings.len() as u32,
            flow_sets: self.flows.len() as u32,
            hash_lines: self.hashes.len() as u32,
            blocks: self.blocks(),
            id_lines: self.ids.len() as u32,
            prefix_slots: self.prefixes.len() as u32 / 2,
            nat_places: self.nats.len() as u32,
            features: self.root().features.get(),
            looked_up: LookedUp::default(),
        }
    }
}
