//! The engine's memory in the kernel: BPF arrays that userspace maps.
//!
//! The numbers of entries here are the smallest, and so is the size of a core's counters; the loader sets the real ones.

use core::cell::UnsafeCell;
use core::hint::{assert_unchecked, black_box};
use core::mem::MaybeUninit;

use aya_ebpf::bindings::bpf_func_id::BPF_FUNC_get_smp_processor_id;
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_map_lookup_elem};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, DevMapHash, HashMap, ProgramArray, XskMap};
use aya_ebpf::programs::XdpContext;
use tandem_engine::handover::{INTERFACES, QUEUES};
use tandem_engine::memory::counters::{Block, HEAD, MAX_CPUS};
use tandem_engine::memory::prefixes::{self, SPACES, Space};
use tandem_engine::memory::{
    Addr, Answer, FlowSet, HashLine, IdKey, IdLine, Line, Memory, Nat, PrefixSlot, Real, RealLine, RingLine, Root, Tag, Trace,
    Tree, VipSlot, features, ids, nats,
};
use tandem_engine::nat::{self, Ask};
use tandem_engine::{Flow, NO_VIP, enter};

use crate::constants::{
    self, BLOCK_BYTES, BLOCKS, CPU_MASK, FEATURES, FLOW_MASK, HASH_MASK, LOOK_UP_COUNTS, LOOK_UP_FLOWS, LOOK_UP_HASHES,
    LOOK_UP_RINGS, LOOK_UP_VIPS, REAL_COUNTS, REAL_MASK, REPLAY, RING_LINES, SLOT_MASK, TRACED, UNUSUAL, VIP_MASK, behind,
    constant, is, is_below, is_set, known, masked, times,
};

/// `BPF_F_MMAPABLE` (kernel fc9702273e2e, v5.5): only plain arrays can have it.
const MMAPABLE: u32 = 1 << 10;

/// A table that every frame asks by a number that it has calculated. Where the kernel lets it be one value the loader puts its
/// address into the program, and nothing is looked up, which takes 14 instructions, and a store and a load of the index. Where not,
/// entries are looked up in [`Entries`]. This is the first entry; a mask, a load-time constant, tells the verifier how many there are.
#[repr(transparent)]
pub struct Direct<T>(UnsafeCell<MaybeUninit<T>>);

// SAFETY: `T` consists of the engine's shared integers alone, of which each access is one load or store.
unsafe impl<T: Sync> Sync for Direct<T> {}

impl<T> Direct<T> {
    const fn new() -> Self {
        Self(UnsafeCell::new(MaybeUninit::zeroed()))
    }

    #[inline(always)]
    const fn first(&self) -> *const T {
        self.0.get().cast_const().cast()
    }

    /// The entry at this index, which the caller has masked.
    #[inline(always)]
    fn at(&self, index: u64) -> &T {
        self.behind(index.wrapping_mul(size_of::<T>() as u64))
    }

    /// The entry so many bytes behind the first.
    #[inline(always)]
    fn behind(&self, bytes: u64) -> &T {
        // Wrapping, because the compiler knows of one entry.
        let entry = self.first().wrapping_byte_add(bytes as usize);
        // SAFETY: it is in the table, which is at no null pointer: or the compiler would ask.
        unsafe { assert_unchecked(!entry.is_null()) };
        // SAFETY: the loader makes the table as large as the masks say, and zeroes are a `T`; the verifier proves the first.
        unsafe { &*entry }
    }
}

/// The same table as a map whose entries are looked up: where a symbol of it is in the program, the loader puts the map.
#[repr(transparent)]
pub struct Entries(UnsafeCell<u64>);

// SAFETY: only its address is ever used.
unsafe impl Sync for Entries {}

impl Entries {
    const fn new() -> Self {
        Self(UnsafeCell::new(0))
    }

    /// The entry at this index.
    ///
    /// # Safety
    /// Entries are `T`s.
    #[inline(always)]
    unsafe fn get<T>(&self, index: u64) -> Option<&T> {
        let key = index as u32;
        // SAFETY: the symbol is a map of the loader's, whose keys are 32 bits.
        let entry: *const T = unsafe { bpf_map_lookup_elem(self.0.get().cast(), (&raw const key).cast()) }.cast_const().cast();
        // SAFETY: the caller knows the type, and arrays live as long as the program.
        unsafe { entry.as_ref() }
    }
}

#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.ROOT")]
static ROOT: Direct<Root> = Direct::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.VIPS")]
static VIPS: Direct<VipSlot> = Direct::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.VIPS.map")]
static VIPS_MAP: Entries = Entries::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.REALS")]
static REALS: Direct<Real> = Direct::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.FLOWS")]
static FLOWS: Direct<FlowSet> = Direct::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.FLOWS.map")]
static FLOWS_MAP: Entries = Entries::new();
/// Each block's bytes are a load-time constant: behind what is here are the counters of VIPs and reals.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.COUNTS")]
static COUNTS: Direct<Block> = Direct::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.COUNTS.map")]
static COUNTS_MAP: Entries = Entries::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.RINGS")]
static RINGS: Direct<RingLine> = Direct::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.RINGS.map")]
static RINGS_MAP: Entries = Entries::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.HASHES")]
static HASHES: Direct<HashLine> = Direct::new();
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.HASHES.map")]
static HASHES_MAP: Entries = Entries::new();
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

/// Whether this program is loaded for a replay.
#[inline(always)]
pub fn is_replay() -> bool {
    is_set::<REPLAY>()
}

/// Where replays want to know of decisions.
#[inline(always)]
pub fn trace() -> Option<&'static Trace> {
    if is_set::<TRACED>() { TRACE.get(0) } else { None }
}

/// Jiffies in a tick of the coarse clock, as a power of two.
const TICK_SHIFT: u32 = 6;

/// This CPU's place for what it knows of a frame.
#[inline(always)]
fn flow_place() -> *mut Flow {
    // The mask tells the verifier what the loader has made sure of.
    let at = (cpu() & (MAX_CPUS as u64 - 1)) as usize;
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

/// Enters a flow into its table. Global for the same reason: inlined, the verifier would follow each of its ten places for every way
/// that a frame may have taken until then.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tandem_enter(print: u64, real: u32, hash: u32, now: u32) -> u64 {
    enter(&Kernel::<EVERYTHING>::without_counters(), &Tag { print }, real, hash, now)
}

/// The CPU that the program runs on.
#[inline(always)]
pub fn cpu() -> u64 {
    // SAFETY: a call of a helper is one of its number. As aya declares it its answer has 32 bits, which would be cut off first.
    let helper: unsafe extern "C" fn() -> u64 = unsafe { core::mem::transmute(BPF_FUNC_get_smp_processor_id as usize) };
    // SAFETY: the helper only reads which CPU the program runs on.
    unsafe { helper() }
}

/// The tables as this CPU sees them, for a program that knows the features `KNOWN`.
pub struct Kernel<const KNOWN: u32 = EVERYTHING> {
    /// Its block of counters.
    counts: &'static Block,
}

/// What a program knows that can do everything.
pub const EVERYTHING: u32 = features::ALL | features::KATRAN;

impl<const KNOWN: u32> Kernel<KNOWN> {
    /// Whether usual frames alone are looked at ([`tandem_engine::plain()`]).
    const PLAIN: bool = KNOWN == features::PLAIN;

    /// This CPU's view; `None` if there is no block of counters for it.
    #[inline(always)]
    pub fn new() -> Option<Self> {
        let cpu = masked::<CPU_MASK>(cpu());
        if is::<LOOK_UP_COUNTS>(cpu) {
            // SAFETY: an entry is a block, and what is behind it.
            return Some(Self { counts: unsafe { COUNTS_MAP.get(cpu) }? });
        }
        if !is_below::<BLOCKS>(cpu) {
            return None;
        }
        Some(Self { counts: COUNTS.behind(times::<BLOCK_BYTES>(cpu)) })
    }

    /// The view of something that counts nothing.
    #[inline(always)]
    fn without_counters() -> Self {
        Self { counts: COUNTS.at(0) }
    }

    /// Whether the program is loaded for it. Not kept here: it would be handed to functions on the stack.
    #[inline(always)]
    fn is_loaded_for(feature: u32) -> bool {
        if !Self::PLAIN {
            return known::<FEATURES>() & feature as u64 != 0;
        }
        match feature {
            features::GUARD => is_set::<{ constants::GUARD }>(),
            features::TCP_ID => is_set::<{ constants::TCP_ID }>(),
            features::DECAP_GUE => is_set::<{ constants::DECAP_GUE }>(),
            features::PREFIX_VIPS => is_set::<{ constants::PREFIX_VIPS }>(),
            features::NAT => is_set::<{ constants::NAT }>(),
            _ => true,
        }
    }
}

/// The view of the way of usual frames, if there are any.
#[inline(always)]
pub fn plain_kernel() -> Option<Kernel<{ features::PLAIN }>> {
    if is_set::<UNUSUAL>() {
        // An instruction of its own: what only this leads to is removed with it.
        constant::<UNUSUAL>();
        return None;
    }
    Kernel::new()
}

impl<const KNOWN: u32> Memory for Kernel<KNOWN> {
    #[inline(always)]
    fn root(&self) -> Option<&Root> {
        Some(ROOT.at(0))
    }
    #[inline(always)]
    fn vip(&self, index: u32) -> Option<&VipSlot> {
        let index = masked::<SLOT_MASK>(index as u64);
        if !Self::PLAIN && is::<LOOK_UP_VIPS>(index) {
            // SAFETY: an entry is a slot.
            return unsafe { VIPS_MAP.get(index) };
        }
        Some(VIPS.at(index))
    }
    #[inline(always)]
    fn ring(&self, index: u32) -> Option<&RingLine> {
        let index = index as u64;
        if is::<LOOK_UP_RINGS>(index) {
            // SAFETY: an entry is a line.
            return unsafe { RINGS_MAP.get(index) };
        }
        if is_below::<RING_LINES>(index) { Some(RINGS.at(index)) } else { None }
    }
    #[inline(always)]
    fn real(&self, id: u32) -> Option<&Real> {
        Some(REALS.at(masked::<REAL_MASK>(id as u64)))
    }
    #[inline(always)]
    fn flows(&self, index: u64) -> Option<&FlowSet> {
        let index = masked::<FLOW_MASK>(index);
        if is::<LOOK_UP_FLOWS>(index) {
            // SAFETY: an entry is a set.
            return unsafe { FLOWS_MAP.get(index) };
        }
        Some(FLOWS.at(index))
    }
    #[inline(always)]
    fn hashes(&self, index: u64) -> Option<&HashLine> {
        // Its set's line; the second mask is for the verifier.
        let index = masked::<HASH_MASK>(masked::<FLOW_MASK>(index));
        if is::<LOOK_UP_HASHES>(index) {
            // SAFETY: an entry is a line.
            return unsafe { HASHES_MAP.get(index) };
        }
        Some(HASHES.at(index))
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
    fn enter(&self, tag: &Tag, real: u32, hash: u32, now: u32) -> u64 {
        tandem_enter(tag.print, real, hash, now)
    }
    #[inline(always)]
    fn has(&self, root: &Root, feature: u32) -> bool {
        // The constants first: the compiler and the verifier remove what they leave out.
        KNOWN & feature != 0 && Self::is_loaded_for(feature) && root.features.get() & feature != 0
    }
    #[inline(always)]
    fn can(&self, feature: u32) -> bool {
        KNOWN & feature != 0 && Self::is_loaded_for(feature)
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
        let lines: *const Line = core::ptr::from_ref(self.counts).cast();
        // SAFETY: behind the block there are as many lines of VIPs as the mask lets through; the verifier proves it.
        Some(unsafe { &*lines.wrapping_add(HEAD as usize).wrapping_add(masked::<VIP_MASK>(vip as u64) as usize) })
    }
    #[inline(always)]
    fn real_count(&self, real: u32) -> Option<&RealLine> {
        let first: *const RealLine = behind::<REAL_COUNTS>(core::ptr::from_ref(self.counts).cast()).cast();
        // SAFETY: and behind those as many of reals.
        Some(unsafe { &*first.wrapping_add(masked::<REAL_MASK>(real as u64) as usize) })
    }
    #[inline(always)]
    fn now(&self) -> u32 {
        // SAFETY: the helper only reads a counter of the kernel.
        let jiffies = unsafe { bpf_jiffies64() };
        if is::<REPLAY>(jiffies) { ROOT.at(0).tick.get() } else { (jiffies >> TICK_SHIFT) as u32 }
    }
    #[inline(always)]
    fn trace(&self) -> Option<&Trace> {
        if !Self::PLAIN && is_set::<TRACED>() { TRACE.get(0) } else { None }
    }
}
