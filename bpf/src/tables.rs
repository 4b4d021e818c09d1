//! The engine's memory in the kernel: BPF arrays that userspace maps.
//!
//! The numbers of entries here are the smallest, and so is the size of a core's counters; the loader sets the real ones.

use core::cell::UnsafeCell;
use core::hint::black_box;
use core::mem::MaybeUninit;

use aya_ebpf::Global;
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, DevMapHash, HashMap, ProgramArray, XskMap};
use aya_ebpf::programs::XdpContext;
use tandem_engine::handover::{INTERFACES, QUEUES};
use tandem_engine::memory::counters::{Block, HEAD, MAX_CPUS};
use tandem_engine::memory::prefixes::{self, SPACES, Space};
use tandem_engine::memory::{
    Addr, Answer, FlowSet, HashLine, IdKey, IdLine, Line, Memory, Nat, PrefixSlot, Real, RealLine, RingLine, Root, Trace, Tree,
    VipSlot, features, ids, nats,
};
use tandem_engine::nat::{self, Ask};
use tandem_engine::{Entry, Flow, NO_VIP, remember};

/// `BPF_F_MMAPABLE` (kernel fc9702273e2e, v5.5): only plain arrays can have it.
const MMAPABLE: u32 = 1 << 10;

/// A table whose address the loader puts into the program: nothing is looked up, which takes 14 instructions, and a store and a load
/// of the index. Here is its first entry; the mask, a load-time constant, tells the verifier how many there are.
#[repr(transparent)]
pub struct Direct<T>(UnsafeCell<MaybeUninit<T>>);

// SAFETY: `T` consists of the engine's shared integers alone, of which each access is one load or store.
unsafe impl<T: Sync> Sync for Direct<T> {}

impl<T> Direct<T> {
    const fn new() -> Self {
        Self(UnsafeCell::new(MaybeUninit::zeroed()))
    }

    /// The entry at this index, modulo the number of entries: the mask plus one.
    #[inline(always)]
    fn at(&self, index: u32, mask: u32) -> &T {
        let first: *const T = self.0.get().cast();
        // SAFETY: the loader makes the table that large, and zeroes are a `T`; the verifier proves the first. Wrapping, because
        // the compiler knows of one entry.
        unsafe { &*first.wrapping_add((index & mask) as usize) }
    }
}

#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.ROOT")]
static ROOT: Direct<Root> = Direct::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.VIPS")]
static VIPS: Direct<VipSlot> = Direct::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.REALS")]
static REALS: Direct<Real> = Direct::new();
#[map]
static RINGS: Array<RingLine> = Array::with_max_entries(1, MMAPABLE);
#[map]
static FLOWS: Array<FlowSet> = Array::with_max_entries(1, MMAPABLE);
#[map]
static HASHES: Array<HashLine> = Array::with_max_entries(1, MMAPABLE);
#[map]
/// The loader makes the values larger, by the counters of VIPs and reals.
static COUNTS: Array<Block> = Array::with_max_entries(1, MMAPABLE);
#[map]
static IDS: Array<IdLine> = Array::with_max_entries(1, MMAPABLE);
#[map]
static PREFIXES: Array<PrefixSlot> = Array::with_max_entries(4, MMAPABLE);
#[map]
static TREES: Array<Tree> = Array::with_max_entries(2 * SPACES, MMAPABLE);
#[map]
static NATS: Array<Nat> = Array::with_max_entries(1, MMAPABLE);
#[map]
static ANSWERS: Array<Answer> = Array::with_max_entries(nats::ANSWERS, MMAPABLE);
#[map]
static TRACE: Array<Trace> = Array::with_max_entries(1, MMAPABLE);
/// What each CPU knows of the frame that it works on. On the stack it would leave no room for anything else, and the verifier
/// would follow every combination of what it holds.
#[unsafe(no_mangle)]
static mut FLOW: [MaybeUninit<Flow>; MAX_CPUS as usize] = [const { MaybeUninit::zeroed() }; MAX_CPUS as usize];
/// The balancer itself, for what was in a tunnel.
#[map]
static AGAIN: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// The interfaces that frames may leave by, by their indices.
#[map]
pub static DEVICES: DevMapHash = DevMapHash::with_max_entries(INTERFACES, 0);
/// The workers' sockets: [`QUEUES`] places by RX queue for each interface.
#[map]
pub static XSKS: XskMap = XskMap::with_max_entries(INTERFACES * QUEUES, 0);
/// Where each interface's places in [`XSKS`] begin, by its index; asked only if there are several.
#[map]
static LANES: HashMap<u32, u32> = HashMap::with_max_entries(INTERFACES, 0);

/// Load-time constant: not 0 for replays and tests. The clock is the root's `tick`, all is counted in block 0, and if it is
/// [`TRACED`], every decision is written to the trace cell. The verifier removes whatever it does not select.
#[unsafe(no_mangle)]
static REPLAY: Global<u32> = Global::new(0);

/// A replay that wants to know of decisions.
const TRACED: u32 = 1;

/// Load-time constant: the features that this program is loaded for.
#[unsafe(no_mangle)]
static FEATURES: Global<u32> = Global::new(0);

/// Load-time constant: not 0 where usual frames have a way of their own. All that is asked about it for each frame.
#[unsafe(no_mangle)]
static USUAL: Global<u32> = Global::new(0);

/// Load-time constants: VIPs and reals that a core's counters have room for, minus one (powers of two minus one). Loaded where
/// they are needed, not kept: the stack has no room.
#[unsafe(no_mangle)]
static VIP_MASK: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static REAL_MASK: Global<u32> = Global::new(0);
/// The same of both halves of the VIP table.
#[unsafe(no_mangle)]
static SLOT_MASK: Global<u32> = Global::new(0);

/// Whether this program is loaded for a replay.
#[inline(always)]
pub fn is_replay() -> bool {
    REPLAY.load() != 0
}

/// Where replays want to know of decisions.
#[inline(always)]
pub fn trace() -> Option<&'static Trace> {
    if REPLAY.load() == TRACED { TRACE.get(0) } else { None }
}

/// Counters of reals in a line.
const REALS_PER_LINE: u64 = (size_of::<Line>() / size_of::<RealLine>()) as u64;

/// Jiffies in a tick of the coarse clock, as a power of two.
const TICK_SHIFT: u32 = 6;

/// This CPU's place for what it knows of a frame.
#[inline(always)]
fn flow_place() -> *mut Flow {
    // The mask tells the verifier what the loader has made sure of.
    let at = (cpu() & (MAX_CPUS - 1)) as usize;
    // SAFETY: the index is in the array.
    unsafe { (&raw mut FLOW).cast::<Flow>().add(at) }
}

/// What this CPU knows of the frame that it works on: for a global function, which gets no pointers.
///
/// # Safety
/// Whoever called that function has given the reference of [`flow`] away meanwhile, and nobody changes it.
#[inline(always)]
pub unsafe fn known_flow() -> &'static Flow {
    // SAFETY: an entry of the array, in which `flow` put a flow.
    unsafe { &*flow_place() }
}

/// Puts what is known of a usual frame into this CPU's place, as far as it is read there. Field by field: the whole would be copied
/// byte by byte.
#[inline(always)]
pub fn beside(known: &Flow) -> &'static mut Flow {
    let flow = flow();
    (flow.src, flow.ports, flow.protocol, flow.tos) = (known.src, known.ports, known.protocol, known.tos);
    (flow.is_v6, flow.l4, flow.len) = (known.is_v6, known.l4, known.len);
    black_box(core::ptr::from_mut(flow));
    flow
}

/// This CPU's place for what it knows of a frame, as new.
#[inline(always)]
pub fn flow() -> &'static mut Flow {
    let flow = flow_place();
    const WORDS: usize = const { size_of::<Flow>() / 8 };
    for word in 0..WORDS {
        // SAFETY: the entry has as many words, aligned as the map's entries are. Volatile, or LLVM calls a function that
        // clears byte by byte, which takes longer than all the rest.
        unsafe { flow.cast::<u64>().add(word).write_volatile(0) };
    }
    // SAFETY: the entry is this CPU's own, and programs on one CPU do not interrupt each other; each run takes it once. All
    // its bytes are 0, which is a flow: the default one.
    unsafe { &mut *flow }
}

const _: () = assert!(size_of::<Flow>() % 8 == 0 && align_of::<Flow>() == 8);

/// The place in [`XSKS`] of an interface's queue.
#[inline(always)]
pub fn lane(interface: u32, queue: u32) -> Option<u32> {
    // SAFETY: entries are written before the mode is switched to a worker's, and are never removed under one.
    let first = unsafe { LANES.get(interface) }?;
    if queue < QUEUES { Some(first.wrapping_add(queue)) } else { None }
}

/// Runs the balancer anew. Returns only if that cannot be: as often as the kernel lets programs call one another.
#[inline(always)]
pub fn again(ctx: &XdpContext) {
    // SAFETY: the kernel checks the array and its entry, and nothing here has a destructor.
    let _ = unsafe { AGAIN.tail_call(ctx, 0) };
}

/// Looks a key up in the id table. A global function, which the verifier checks once and whose callers it believes nothing
/// but that they get a number: inlined, it would follow all of them from each of the ten places of a key.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tandem_id(key: u64) -> u32 {
    let Some(kernel) = Kernel::<EVERYTHING>::new() else { return 0 };
    match kernel.root() {
        Some(root) => ids::find(&kernel, root, IdKey::of_number(key)),
        None => 0,
    }
}

/// Looks for the longest prefix; global for the same reason.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tandem_longest(space: u32, tag: u32, a: u64, b: u64) -> u32 {
    let Some(kernel) = Kernel::<EVERYTHING>::new() else { return 0 };
    match kernel.root() {
        Some(root) => prefixes::find(&kernel, root, Space::of_number(space), tag, [a, b]),
        None => 0,
    }
}

/// Asks the NAT table for the place of the frame's connection. Global for the same reason; the frame's flow is the one that
/// this CPU knows.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tandem_nat_place(ask: u32, real: u32) -> u32 {
    let Some(kernel) = Kernel::<EVERYTHING>::new() else { return 0 };
    // SAFETY: `Kernel::nat_place` hid it.
    let flow = unsafe { known_flow() };
    match kernel.root() {
        Some(root) => nat::place(&kernel, root, flow, Ask::of_number(ask), real),
        None => 0,
    }
}

/// Enters the frame's flow, or the packet that it is a fragment of. Global for the same reason.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tandem_remember(entry: u32, real: u32, now: u32) -> u32 {
    let Some(kernel) = Kernel::<EVERYTHING>::new() else { return 0 };
    // SAFETY: `Kernel::remember` hid it.
    let flow = unsafe { known_flow() };
    if let Some(root) = kernel.root() {
        remember(&kernel, root, flow, Entry::of_number(entry), real, now);
    }
    0
}

/// The CPU that the program runs on.
#[inline(always)]
pub fn cpu() -> u32 {
    // SAFETY: the helper only reads which CPU the program runs on.
    unsafe { bpf_get_smp_processor_id() }
}

/// The tables as this CPU sees them, for a program that knows the features `KNOWN`. What every frame asks again and again is
/// read once; in 64 bits, because older verifiers forget what they know of anything shorter that is kept on the stack.
pub struct Kernel<const KNOWN: u32 = EVERYTHING> {
    counts: &'static Block,
    features: u64,
}

/// What a program knows that can do everything.
pub const EVERYTHING: u32 = features::ALL | features::KATRAN;

impl<const KNOWN: u32> Kernel<KNOWN> {
    /// Whether usual frames alone are looked at ([`tandem_engine::Packet::PLAIN`]).
    const PLAIN: bool = KNOWN == features::PLAIN;

    /// This CPU's view; `None` if there is no block of counters for it.
    #[inline(always)]
    pub fn new() -> Option<Self> {
        let counts = COUNTS.get(if REPLAY.load() != 0 { 0 } else { cpu() })?;
        Some(Self { counts, features: if Self::PLAIN { 0 } else { FEATURES.load() as u64 } })
    }
}

/// The view of the way of usual frames, if there are any.
#[inline(always)]
pub fn plain_kernel() -> Option<Kernel<{ features::PLAIN }>> {
    if USUAL.load() == 0 { None } else { Kernel::new() }
}

impl<const KNOWN: u32> Memory for Kernel<KNOWN> {
    #[inline(always)]
    fn root(&self) -> Option<&Root> {
        Some(ROOT.at(0, 0))
    }
    #[inline(always)]
    fn vip(&self, index: u32) -> Option<&VipSlot> {
        Some(VIPS.at(index, SLOT_MASK.load()))
    }
    #[inline(always)]
    fn ring(&self, index: u32) -> Option<&RingLine> {
        RINGS.get(index)
    }
    #[inline(always)]
    fn real(&self, id: u32) -> Option<&Real> {
        Some(REALS.at(id, REAL_MASK.load()))
    }
    #[inline(always)]
    fn flows(&self, index: u32) -> Option<&FlowSet> {
        FLOWS.get(index)
    }
    #[inline(always)]
    fn hashes(&self, index: u32) -> Option<&HashLine> {
        HASHES.get(index)
    }
    #[inline(always)]
    fn ids(&self, index: u32) -> Option<&IdLine> {
        IDS.get(index)
    }
    #[inline(always)]
    fn prefix(&self, index: u32) -> Option<&PrefixSlot> {
        PREFIXES.get(index)
    }
    #[inline(always)]
    fn tree(&self, index: u32) -> Option<&Tree> {
        TREES.get(index)
    }
    #[inline(always)]
    fn id(&self, _root: &Root, key: IdKey) -> u32 {
        tandem_id(key.number())
    }
    #[inline(always)]
    fn longest(&self, _root: &Root, space: Space, tag: u32, addr: Addr) -> u32 {
        let [a, b] = addr;
        tandem_longest(space as u32, tag, a, b)
    }
    #[inline(always)]
    fn nat(&self, index: u32) -> Option<&Nat> {
        NATS.get(index)
    }
    #[inline(always)]
    fn answer(&self, index: u32) -> Option<&Answer> {
        ANSWERS.get(index)
    }
    #[inline(always)]
    fn nat_place(&self, _root: &Root, flow: &Flow, ask: Ask, real: u32) -> u32 {
        // Somebody may have it from here on: what is in it is written before.
        black_box(core::ptr::from_ref(flow));
        tandem_nat_place(ask as u32, real)
    }
    #[inline(always)]
    fn remember(&self, root: &Root, flow: &Flow, entry: Entry, real: u32, now: u32) {
        if Self::PLAIN {
            // The stack has no room for the time since then: it is the same, or the next tick.
            return remember(self, root, flow, entry, real, self.now());
        }
        black_box(core::ptr::from_ref(flow));
        tandem_remember(entry as u32, real, now);
    }
    #[inline(always)]
    fn has(&self, root: &Root, feature: u32) -> bool {
        // The constants first: the compiler and the verifier remove what they leave out.
        KNOWN & feature != 0 && (Self::PLAIN || self.features & feature as u64 != 0) && root.features.get() & feature != 0
    }
    #[inline(always)]
    fn can(&self, feature: u32) -> bool {
        KNOWN & feature != 0 && (Self::PLAIN || self.features & feature as u64 != 0)
    }
    #[inline(always)]
    fn count(&self, index: u32) -> Option<&Line> {
        self.counts.line(index)
    }
    #[inline(always)]
    fn is_vip(&self, vip: u32) -> bool {
        Self::PLAIN || vip != NO_VIP
    }
    #[inline(always)]
    fn vip_count(&self, vip: u32) -> Option<&Line> {
        let at = HEAD as u64 + (vip as u64 & VIP_MASK.load() as u64);
        // SAFETY: behind the block there are as many lines of VIPs as the mask lets through; the verifier proves it.
        Some(unsafe { &*core::ptr::from_ref(self.counts).cast::<Line>().add(at as usize) })
    }
    #[inline(always)]
    fn real_count(&self, real: u32) -> Option<&RealLine> {
        let first = (HEAD as u64 + VIP_MASK.load() as u64 + 1) * REALS_PER_LINE;
        let at = first + (real as u64 & REAL_MASK.load() as u64);
        // SAFETY: and behind those as many of reals.
        Some(unsafe { &*core::ptr::from_ref(self.counts).cast::<RealLine>().add(at as usize) })
    }
    #[inline(always)]
    fn now(&self) -> u32 {
        if REPLAY.load() != 0 {
            return ROOT.at(0, 0).tick.get();
        }
        // SAFETY: the helper only reads a counter of the kernel.
        (unsafe { bpf_jiffies64() } >> TICK_SHIFT) as u32
    }
    #[inline(always)]
    fn trace(&self) -> Option<&Trace> {
        if !Self::PLAIN && REPLAY.load() == TRACED { TRACE.get(0) } else { None }
    }
}
