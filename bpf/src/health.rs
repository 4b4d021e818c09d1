//! Health checks: what a checker on this host sends to a VIP with a socket mark leaves towards the real of that mark.

use crate::skb::Skb;
use crate::tables::{EVERYTHING, Kernel, is_replay, trace};
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use aya_ebpf::programs::TcContext;
use tandem_engine::Action;
use tandem_engine::memory::reals::Out;
use tandem_engine::memory::{Memory, Real, features};
use tandem_engine::probe::{self, COUNTERS, Outcome};

/// From the socket mark to the id of the real.
#[map]
static HEALTH_MARKS: HashMap<u32, u32> = HashMap::with_max_entries(4096, 0);

/// By the indices of `probe::Outcome`.
#[map]
static HEALTH_COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS, 0);

/// Where replays take their random numbers from.
#[map]
static HEALTH_RANDOM: Array<u64> = Array::with_max_entries(1, 0);

/// Bytes that are read of a probe: Ethernet, the longer IP header, the longer transport header.
const HEADERS: u32 = 14 + 40 + 20;

/// At the egress of an interface. The frame is sent out once more, by the interface of the way to its real, without the mark: then
/// it is nobody's probe.
#[classifier]
pub fn health_encap(ctx: TcContext) -> i32 {
    let mut frame = Skb::new(ctx.skb.skb);
    let (outcome, interface) = run(&mut frame);
    if let Some(count) = HEALTH_COUNTS.get_ptr_mut(outcome as u32) {
        // SAFETY: the slot is this CPU's own, and programs at one CPU's egress do not interrupt each other.
        unsafe { *count = (*count).wrapping_add(1) };
    }
    if let Some(trace) = trace() {
        trace.reason.set((outcome as u32).wrapping_add(1));
    }
    match outcome.action() {
        // SAFETY: the helper only notes where the frame goes.
        Action::Tx => (unsafe { bpf_redirect(interface, 0) }) as i32,
        Action::Pass => TC_ACT_UNSPEC,
        Action::Drop => TC_ACT_SHOT as i32,
    }
}

/// What became of the frame, and the interface that it leaves by.
#[inline(always)]
fn run(frame: &mut Skb) -> (Outcome, u32) {
    let (mark, here) = (frame.mark(), frame.interface());
    if mark == 0 {
        return (Outcome::Skipped, here);
    }
    // SAFETY: the value is read once, as a whole; entries are only ever written by userspace.
    let Some(&real) = (unsafe { HEALTH_MARKS.get(&mark) }) else { return (Outcome::Skipped, here) };
    let Some(kernel) = Kernel::<EVERYTHING>::new() else { return (Outcome::Skipped, here) };
    frame.pull(HEADERS);
    let whole = frame.is_whole();
    let outcome = probe::encapsulate(frame, &kernel, real, whole, random);
    if outcome != Outcome::Processed {
        return (outcome, here);
    }
    frame.unmark();
    let out = kernel.real(real).map_or(Out::default(), Real::out);
    let has_tag = kernel.can(features::VLANS) && out.vlan != 0 && out.vlan != Out::SAME_VLAN;
    if has_tag && !frame.push_tag(out.vlan) {
        return (Outcome::NoRoom, here);
    }
    (outcome, if out.interface == 0 { here } else { out.interface })
}

#[inline(always)]
fn random() -> u32 {
    if !is_replay() {
        // SAFETY: the helper has no arguments.
        return unsafe { bpf_get_prandom_u32() };
    }
    let Some(cell) = HEALTH_RANDOM.get_ptr_mut(0) else { return 0 };
    // SAFETY: a replay runs one frame at a time.
    let state = unsafe { *cell };
    let (state, number) = probe::next_random(state);
    // SAFETY: as above.
    unsafe { *cell = state };
    number
}
