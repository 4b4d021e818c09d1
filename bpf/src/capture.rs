//! What the balancer tells of the frames that it sees while somebody captures: a sight as the frame comes in, and one as it leaves.
//!
//! ```text
//! filter > one of SAMPLE > RATE a second and CPU > a mark, and the first sight > classify, finish > the second sight
//! ```
//!
//! Only the program `capturing` calls what is here.

use core::arch::asm;

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_RB_NO_WAKEUP, xdp_md};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{PerCpuArray, RingBuf};
use aya_ebpf::programs::XdpContext;
use tandem_engine::capture::{MOST, Sight};
use tandem_engine::{Action, Packet, Verdict};

use crate::frame::Frame;
use crate::tables::cpu;

/// Where sights go; the loader sets its size. Nobody is woken for one: that takes longer than all the rest, and who reads looks
/// by himself.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Where each CPU puts one together.
#[map]
static TOLD: PerCpuArray<Told> = PerCpuArray::with_max_entries(1, 0);

/// What each CPU knows of the capture.
#[map]
static CAPTURED: PerCpuArray<State> = PerCpuArray::with_max_entries(1, 0);

/// One of so many frames that pass the filter; at least 1.
#[unsafe(no_mangle)]
static SAMPLE: Global<u32> = Global::new(1);
/// Frames a second at most.
#[unsafe(no_mangle)]
static RATE: Global<u32> = Global::new(0);
/// Jiffies in a second.
#[unsafe(no_mangle)]
static HZ: Global<u32> = Global::new(250);
/// Bytes of each frame at most.
#[unsafe(no_mangle)]
static SNAP: Global<u32> = Global::new(0);

/// Bytes that are copied at once, and of frames that have not as many.
const STEP: usize = 64;
const WORD: usize = 8;

/// A sight, and the frame's bytes behind it, with room for one more step than there can be.
#[repr(C)]
struct Told {
    sight: Sight,
    bytes: [u8; MOST + 1 + STEP],
}

/// The first four are read by userspace, in this order.
#[repr(C)]
struct State {
    /// Frames that passed the filter.
    accepted: u64,
    /// Of these: those that sampling chose, and that RATE was too low for.
    limited: u64,
    /// Of these: those that got a mark.
    marked: u64,
    /// Sights that there was no room for.
    lost: u64,
    /// The mark of the frame under way; 0: it is not captured.
    mark: u64,
    /// Not 0: the frame under way was in a tunnel, and the program was called again for what was in it.
    again: u64,
    /// Frames to leave out before the next one is taken.
    skip: u64,
    /// The bucket: a frame takes HZ, and RATE come in with each jiffy.
    credit: u64,
    /// Jiffies when the bucket was last filled.
    filled: u64,
}

/// This CPU's state.
#[inline(always)]
fn state() -> Option<&'static mut State> {
    let state = CAPTURED.get_ptr_mut(0)?;
    // SAFETY: the entry is this CPU's own, and programs on one CPU do not interrupt each other. Whoever has it does not touch it any
    // more once it has called somebody who takes it, too.
    Some(unsafe { &mut *state })
}

/// Instructions that there is room for in [`tandem_filter`].
const ROOM: usize = 1024;

/// Whether a frame shall be captured. The loader puts the instructions of a filter into the place of these, which take every
/// frame; the verifier removes the jumps to the next instruction (`opt_remove_nops`, v5.1).
///
/// # Safety
/// `ctx` is what the kernel gave to the running program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn tandem_filter(ctx: *mut xdp_md) -> u32 {
    let takes: u32;
    // SAFETY: the instructions touch nothing but the register of the result.
    unsafe {
        asm!(".rept {room}", "goto +0", ".endr", "w0 = 1", room = const ROOM, in("r1") ctx, out("r0") takes, options(nostack));
    }
    takes
}

/// Tells that a frame came in, if it is one to be captured; 0: it is not.
///
/// # Safety
/// `ctx` is what the kernel gave to the running program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn tandem_came(ctx: *mut xdp_md) -> u32 {
    let Some(state) = state() else { return 0 };
    if state.again != 0 {
        state.again = 0;
        return (state.mark != 0) as u32;
    }
    state.mark = 0;
    // SAFETY: `ctx` is the caller's.
    if unsafe { tandem_filter(ctx) } == 0 {
        return 0;
    }
    state.accepted = state.accepted.wrapping_add(1);
    if state.skip > 0 {
        state.skip = state.skip.wrapping_sub(1);
        return 0;
    }
    state.skip = (SAMPLE.load() as u64).wrapping_sub(1);
    if !pays(state) {
        state.limited = state.limited.wrapping_add(1);
        return 0;
    }
    state.marked = state.marked.wrapping_add(1);
    let mark = cpu() << 48 | state.marked;
    state.mark = mark;
    // SAFETY: as before.
    unsafe { tandem_tell(ctx, 0, 0, 0, Frame::<false>::new(ctx).interface()) };
    1
}

/// Tells of the frame under way, which is captured: that it came in (`reason` 0), that it leaves, or what else became of it.
///
/// # Safety
/// `ctx` is what the kernel gave to the running program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn tandem_tell(ctx: *mut xdp_md, reason: u32, real: u32, from: u32, interface: u32) -> u32 {
    let (Some(state), Some(told)) = (state(), TOLD.get_ptr_mut(0)) else { return 0 };
    let frame = Frame::<false>::new(ctx);
    let len = frame.len();
    let most = if reason & STAYS == 0 { (SNAP.load() as usize).min(MOST) } else { 0 };
    let caught = len.min(most);
    // Nobody copies less than a word.
    let caught = if caught < WORD { 0 } else { caught };
    // SAFETY: the helper only reads a clock.
    let time = unsafe { bpf_ktime_get_ns() };
    let (queue, reason) = (frame.rx_queue(), reason & !STAYS);
    let sight =
        Sight { mark: state.mark, time, len: len as u32, caught: caught as u32, interface, queue, reason, real, from, rest: 0 };
    // SAFETY: the entry is this CPU's own, and programs on one CPU do not interrupt each other.
    unsafe { (*told).sight = sight };
    // SAFETY: `ctx` is the caller's.
    unsafe { tandem_copy(ctx, caught as u32) };
    let all = size_of::<Sight>().wrapping_add(hidden(caught) & MOST);
    // SAFETY: the entry has as many bytes, which were all written when it was made.
    let bytes = unsafe { core::slice::from_raw_parts(told.cast::<u8>(), all) };
    if EVENTS.output::<[u8]>(bytes, BPF_RB_NO_WAKEUP as u64).is_err() {
        state.lost = state.lost.wrapping_add(1);
    }
    0
}

/// Copies the frame's first bytes to where they are told from. Global, so that the verifier goes through the loop once.
///
/// # Safety
/// `ctx` is what the kernel gave to the running program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn tandem_copy(ctx: *mut xdp_md, caught: u32) -> u32 {
    let Some(told) = TOLD.get_ptr_mut(0) else { return 0 };
    // SAFETY: as in `tandem_tell`, which touches nothing of it meanwhile.
    let (to, frame, caught) = (unsafe { &mut (*told).bytes }, Frame::<false>::new(ctx), caught as usize & MOST);
    if caught >= STEP {
        copy::<STEP, { (MOST + 1) / STEP }>(&frame, to, caught)
    } else {
        copy::<WORD, { STEP / WORD }>(&frame, to, caught)
    }
    0
}

/// The last bytes, which the steps may leave out, and then step by step.
#[inline(always)]
fn copy<const N: usize, const STEPS: usize>(frame: &Frame, to: &mut [u8; MOST + 1 + STEP], caught: usize) {
    if caught < N || !put::<N>(frame, to, caught.wrapping_sub(N)) {
        return;
    }
    for step in 0..STEPS {
        let at = step.wrapping_mul(N);
        // A frame that is not as long as it was ends it, too: or the verifier would follow both ways at each step.
        if at.wrapping_add(N) > caught || !put::<N>(frame, to, at) {
            return;
        }
    }
}

#[inline(always)]
fn put<const N: usize>(frame: &Frame, to: &mut [u8; MOST + 1 + STEP], at: usize) -> bool {
    let at = hidden(at) & MOST;
    let Some(window) = frame.bytes_anywhere::<N>(at) else { return false };
    // SAFETY: N is at most STEP, so that as many bytes are in the array from there on.
    let to = unsafe { to.as_mut_ptr().add(at) };
    word(window, to, 0);
    if N == STEP {
        // Not in a loop: LLVM would call a function that copies byte by byte.
        word(window, to, 1);
        word(window, to, 2);
        word(window, to, 3);
        word(window, to, 4);
        word(window, to, 5);
        word(window, to, 6);
        word(window, to, 7);
    }
    true
}

/// Copies one word of `window` to the same place behind `to`, which has as many bytes.
#[inline(always)]
fn word<const N: usize>(window: &[u8; N], to: *mut u8, number: usize) {
    if let Some(word) = window.get(number * WORD..).and_then(|rest| rest.first_chunk::<WORD>()) {
        // SAFETY: the caller's place has as many bytes as the window.
        unsafe { to.add(number * WORD).cast::<u64>().write_unaligned(u64::from_ne_bytes(*word)) };
    }
}

/// A number of which LLVM knows nothing: what it would conclude it would not say to the verifier.
#[inline(always)]
fn hidden(number: usize) -> usize {
    // SAFETY: a reference is valid.
    unsafe { (&raw const number).read_volatile() }
}

/// Beside a reason: the frame leaves by no interface.
const STAYS: u32 = 1 << 31;

/// Takes a frame's price out of the bucket, which a tenth of a second fills.
#[inline(always)]
fn pays(state: &mut State) -> bool {
    let (rate, price) = (RATE.load() as u64, HZ.load() as u64);
    // SAFETY: the helper only reads a counter of the kernel.
    let now = unsafe { bpf_jiffies64() };
    let passed = now.wrapping_sub(state.filled).min(price);
    let most = (rate.wrapping_mul(price) / 10).max(price);
    let credit = state.credit.wrapping_add(passed.wrapping_mul(rate)).min(most);
    state.filled = now;
    let pays = credit >= price;
    state.credit = if pays { credit.wrapping_sub(price) } else { credit };
    pays
}

/// What the frame under way is known by; 0: it is not captured.
#[inline(always)]
pub fn mark() -> u64 {
    match state() {
        Some(state) => state.mark,
        None => 0,
    }
}

/// A frame comes in. Whether it is captured: so what is not pays no more than this.
#[inline(always)]
pub fn came(ctx: &XdpContext) -> bool {
    // SAFETY: the context is the running program's.
    unsafe { tandem_came(ctx.ctx) != 0 }
}

/// Something became of a captured frame; `interface`: that which it leaves by if it is another one.
#[inline(always)]
pub fn went(ctx: &XdpContext, verdict: &Verdict, interface: u32) {
    let reason = verdict.index().wrapping_add(1);
    let reason = match verdict.action() {
        Action::Tx => reason,
        Action::Pass | Action::Drop => reason | STAYS,
    };
    // SAFETY: the context is the running program's.
    unsafe { tandem_tell(ctx.ctx, reason, verdict.real, verdict.from as u32, interface) };
}

/// Says that the program is called again for what was in the frame's tunnel, which is no other frame; or that it was not.
#[inline(always)]
pub fn set_again(again: bool) {
    if let Some(state) = state() {
        state.again = again as u64;
    }
}
