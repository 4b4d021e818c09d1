//! Several XDP programs on one interface: a root that calls what is in the slots of a program array.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{PerCpuArray, ProgramArray};
use aya_ebpf::programs::XdpContext;

/// Slots of the array.
const SLOTS: u32 = 4;

/// The programs. Pinned, whoever has the path puts a program into a slot or takes it out.
#[map]
static ROOT_SLOTS: ProgramArray = ProgramArray::with_max_entries(SLOTS, 0);

/// Frames that `tap` saw.
#[map]
static TAPPED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Gives the frame to the first slot that has a program; passes it if none has.
#[xdp]
pub fn root(ctx: XdpContext) -> u32 {
    call_from(&ctx, 0)
}

/// For slot 0: counts the frame and gives it to the next slot that has a program, as every program before the balancer has to.
#[xdp]
pub fn tap(ctx: XdpContext) -> u32 {
    if let Some(count) = TAPPED.get_ptr_mut(0) {
        // SAFETY: the slot is this CPU's own, and programs on one CPU do not interrupt each other.
        unsafe { *count = (*count).wrapping_add(1) };
    }
    call_from(&ctx, 1)
}

/// A call that is done does not return; one of an empty slot does.
#[inline(always)]
fn call_from(ctx: &XdpContext, first: u32) -> u32 {
    for slot in first..SLOTS {
        // SAFETY: the context is the program's own, and the array holds XDP programs alone: the kernel refuses others.
        unsafe { ROOT_SLOTS.tail_call(ctx, slot) };
    }
    XDP_PASS
}
