//! The floor: programs that do less than any balancer.

use crate::frame::Frame;
use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_TX};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, ProgramArray, XskMap};
use aya_ebpf::programs::XdpContext;
use core::hint::black_box;
use tandem_engine::Packet;
use tandem_engine::memory::Line;
use tandem_engine::wire::{ETHERTYPE_IPV4, Header, IPPROTO_IPIP, Ipv4, Tunnel4In4};

/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// Nothing: what the loop and the wrapper cost.
#[xdp]
pub fn null(_ctx: XdpContext) -> u32 {
    XDP_TX
}

/// Makes room and leaves it empty.
#[xdp]
pub fn room(ctx: XdpContext) -> u32 {
    if Frame::<false>::new(ctx.ctx).grow_head(Ipv4::LEN) { XDP_TX } else { XDP_ABORTED }
}

/// IPIP towards one address that is known beforehand: the engine's writing of headers, without any parsing or lookup.
#[xdp]
pub fn fixed(ctx: XdpContext) -> u32 {
    if encapsulate(&mut Frame::<false>::new(ctx.ctx)).is_some() { XDP_TX } else { XDP_ABORTED }
}

#[inline(always)]
fn encapsulate(frame: &mut Frame) -> Option<()> {
    const MAC: u64 = 0x0900_0000_0002;
    const LOCAL_MAC: u64 = 0x0100_0000_0002;
    const SOURCE: u32 = u32::from_ne_bytes([10, 0, 13, 37]);
    const REAL: u32 = u32::from_ne_bytes([10, 0, 0, 1]);
    if !frame.grow_head(Ipv4::LEN) {
        return None;
    }
    let tunnel = Tunnel4In4::view_mut(frame, 0)?;
    tunnel.eth.emit(MAC, LOCAL_MAC, ETHERTYPE_IPV4);
    let payload = tunnel.inner.total_len.get() as u32;
    tunnel.outer.emit_outer(SOURCE, REAL, tunnel.inner.tos, payload, IPPROTO_IPIP);
    tunnel.inner.decrement_ttl();
    Some(())
}

/// What reached the programs here: one line, frames in its first counter.
#[map]
static REACHED: Array<Line> = Array::with_max_entries(1, MMAPABLE);
/// The sockets of the forwarder without lookups.
#[map]
static STEER: XskMap = XskMap::with_max_entries(64, 0);

#[inline(always)]
fn reached() {
    if let Some(line) = REACHED.get(0) {
        line.add(0, 1);
    }
}

/// Counts and drops: what the generator and the interface can do.
#[xdp]
pub fn drop(_ctx: XdpContext) -> u32 {
    reached();
    XDP_DROP
}

/// Sends each frame back as it is.
#[xdp]
pub fn bounce(_ctx: XdpContext) -> u32 {
    reached();
    XDP_TX
}

/// Gives each frame to its queue's socket.
#[xdp]
pub fn steer(ctx: XdpContext) -> u32 {
    reached();
    STEER.redirect(Frame::<false>::new(ctx.ctx).rx_queue(), XDP_DROP as u64).unwrap_or(XDP_DROP)
}

/// Programs that are called one after the other, as `root` calls them: `delay` is in slot 0, and slot 1 follows.
#[map]
static ROOT_SLOTS: ProgramArray = ProgramArray::with_max_entries(4, 0);

/// Load-time constant: turns that `delay` takes.
#[unsafe(no_mangle)]
static TURNS: Global<u32> = Global::new(0);

/// Takes time, then calls the next program: to see whether a comparison finds it.
#[xdp]
pub fn delay(ctx: XdpContext) -> u32 {
    let mut number = 1_u64;
    for _ in 0..TURNS.load() {
        // Each turn waits for the one before.
        number = black_box(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    black_box(number);
    // SAFETY: nothing here has a destructor, and the programs called are XDP programs too.
    unsafe { ROOT_SLOTS.tail_call(&ctx, 1) };
    XDP_ABORTED
}

/// The same as `fixed`, counted: a device under test on an interface.
#[xdp]
pub fn limit(ctx: XdpContext) -> u32 {
    reached();
    if encapsulate(&mut Frame::<false>::new(ctx.ctx)).is_some() { XDP_TX } else { XDP_ABORTED }
}
