//! The frame of an XDP program: the only access to packet memory.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail};
use core::arch::asm;
use core::hint::{assert_unchecked, black_box};
use tandem_engine::memory::{Memory, Root};
use tandem_engine::{Flow, Packet, Reason, Stop, answer_too_big, encap, nat, relay, vlan};

use crate::tables::{EVERYTHING, Kernel, beside, known_flow};

/// The frame that `ctx` describes. Positions are read anew for each window, so that none outlives a moved head; volatile, or
/// LLVM hands them to functions as plain numbers, with which the verifier lets nobody calculate.
///
/// `PLAIN`: only usual frames come this way, and what is known of one is kept in registers, not in the CPU's place.
pub struct Frame<const PLAIN: bool = false> {
    ctx: *mut xdp_md,
}

impl<const PLAIN: bool> Frame<PLAIN> {
    /// The frame of a running program.
    #[inline(always)]
    pub fn new(ctx: *mut xdp_md) -> Self {
        Self { ctx }
    }

    #[inline(always)]
    fn start(&self) -> usize {
        // SAFETY: the kernel gave `ctx` to the program and keeps it valid while the program runs.
        let start = unsafe { (&raw const (*self.ctx).data).read_volatile() as usize };
        // SAFETY: a frame's memory is not at 0. Nobody has to ask whether a reference to it is one.
        unsafe { assert_unchecked(start != 0) };
        start
    }

    #[inline(always)]
    fn end(&self) -> usize {
        // SAFETY: as in `start`.
        unsafe { (&raw const (*self.ctx).data_end).read_volatile() as usize }
    }

    /// The RX queue that the frame came from.
    #[inline(always)]
    pub fn rx_queue(&self) -> u32 {
        // SAFETY: as in `start`. Volatile, or LLVM reads it together with its neighbour, and the verifier allows words alone.
        unsafe { (&raw const (*self.ctx).rx_queue_index).read_volatile() }
    }

    /// The index of the interface that the frame came in by.
    #[inline(always)]
    pub fn interface(&self) -> u32 {
        // SAFETY: as in `rx_queue`.
        unsafe { (&raw const (*self.ctx).ingress_ifindex).read_volatile() }
    }

    /// Moves the frame's start by `by` bytes; positive: the frame gets shorter.
    #[inline(always)]
    pub fn move_head(&mut self, by: i32) -> bool {
        // SAFETY: the helper checks its arguments; every window ended with the borrow of `self`.
        unsafe { bpf_xdp_adjust_head(self.ctx, by) == 0 }
    }

    #[inline(always)]
    fn window<const N: usize>(&self, at: usize) -> Option<*mut [u8; N]> {
        let start = self.start() + at;
        if start + N > self.end() { None } else { Some(start as *mut [u8; N]) }
    }
}

/// Bytes between two positions. The program subtracts what LLVM does not see: it would turn a calculation with the difference into one
/// with the two pointers, which the verifier forbids.
#[inline(always)]
fn between(start: usize, end: usize) -> usize {
    let mut bytes = end;
    // SAFETY: a subtraction of two numbers.
    unsafe { asm!("{0} -= {1}", inout(reg) bytes, in(reg) start, options(pure, nomem, nostack, preserves_flags)) };
    // SAFETY: no frame has 4 GiB.
    unsafe { assert_unchecked(bytes <= u32::MAX as usize) };
    bytes
}

impl<const PLAIN: bool> Packet for Frame<PLAIN> {
    #[inline(always)]
    fn len(&self) -> usize {
        between(self.start(), self.end())
    }

    #[inline(always)]
    fn head<const N: usize>(&self) -> Option<(&[u8; N], usize)> {
        let (start, end) = (self.start(), self.end());
        if start + N > end {
            return None;
        }
        // SAFETY: compared with the frame's end; the verifier proves it again.
        Some((unsafe { &*(start as *const [u8; N]) }, between(start, end)))
    }

    #[inline(always)]
    fn bytes<const N: usize>(&self, at: usize) -> Option<&[u8; N]> {
        // SAFETY: `window` compared the bytes with the frame's end; the verifier proves it again.
        self.window(at).map(|window| unsafe { &*window })
    }

    #[inline(always)]
    fn bytes_anywhere<const N: usize>(&self, at: usize) -> Option<&[u8; N]> {
        let start = self.start() + at;
        // SAFETY: a reference is valid. Read back, it is one pointer: LLVM would calculate it twice, and what is known of one
        // of them the verifier does not know of the other.
        let start = unsafe { (&raw const start).read_volatile() };
        // SAFETY: compared with the frame's end; the verifier proves it again.
        if start + N > self.end() { None } else { Some(unsafe { &*(start as *const [u8; N]) }) }
    }

    #[inline(always)]
    fn bytes_mut<const N: usize>(&mut self, at: usize) -> Option<&mut [u8; N]> {
        // SAFETY: as in `bytes`; `&mut self` makes it the only window.
        self.window(at).map(|window| unsafe { &mut *window })
    }

    #[inline(always)]
    fn bytes_anywhere_mut<const N: usize>(&mut self, at: usize) -> Option<&mut [u8; N]> {
        let start = self.start() + at;
        // SAFETY: as in `bytes_anywhere`.
        let start = unsafe { (&raw const start).read_volatile() };
        // SAFETY: compared with the frame's end; the verifier proves it again. `&mut self` makes it the only window.
        if start + N > self.end() { None } else { Some(unsafe { &mut *(start as *mut [u8; N]) }) }
    }

    #[inline(always)]
    fn grow_head(&mut self, by: usize) -> bool {
        self.move_head(-(by as i32))
    }

    /// The helper itself leaves an Ethernet header (`bpf_xdp_adjust_head`, net/core/filter.c).
    #[inline(always)]
    fn shrink_head(&mut self, by: usize) -> bool {
        self.move_head(by as i32)
    }

    /// A BPF function of its own: the verifier walks the loop once.
    #[inline(always)]
    fn sum(&self, at: usize, len: usize) -> Option<u64> {
        // SAFETY: the kernel gave `ctx` to the program and keeps it valid while the program runs.
        match unsafe { tandem_sum(self.ctx, at as u32, len as u32) } {
            NO_SUM => None,
            sum => Some(sum),
        }
    }

    /// A global function, which the verifier checks once, whoever calls it.
    #[inline(always)]
    fn tunnel<M: Memory>(&mut self, _memory: &M, _root: &Root, flow: &Flow, real: u32, port: u32) -> u32 {
        if PLAIN {
            beside(flow);
        } else {
            // Somebody may have it from here on: what is in it is written before.
            black_box(core::ptr::from_ref(flow));
        }
        // SAFETY: the kernel gave `ctx` to the program and keeps it valid while the program runs.
        unsafe { tandem_tunnel(self.ctx, real, port) }
    }

    /// As `tunnel`.
    #[inline(always)]
    fn nat<M: Memory>(&mut self, _memory: &M, _root: &Root, flow: &Flow, real: u32) -> u32 {
        black_box(core::ptr::from_ref(flow));
        // SAFETY: as in `tunnel`.
        unsafe { tandem_nat(self.ctx, real) }
    }

    /// As `nat`; beside it, because each needs much of the stack.
    #[inline(always)]
    fn nat_error<M: Memory>(&mut self, _memory: &M, _root: &Root, flow: &Flow, real: u32) -> u32 {
        black_box(core::ptr::from_ref(flow));
        // SAFETY: as in `tunnel`.
        unsafe { tandem_nat_error(self.ctx, real) }
    }

    /// A BPF function of its own, too.
    #[inline(always)]
    fn answer_too_big(&mut self, is_v6: bool, mtu: u32) -> bool {
        // SAFETY: as in `sum`.
        unsafe { tandem_too_big(self.ctx, is_v6 as u32, mtu) != 0 }
    }

    /// A BPF function of its own, too.
    #[inline(always)]
    fn relay<M: Memory>(&mut self, _memory: &M) -> u32 {
        // SAFETY: as in `sum`.
        unsafe { tandem_relay(self.ctx) }
    }

    /// A BPF function of its own, for the same reason; frames without a tag never call it.
    #[inline(always)]
    fn take_tag(&mut self) -> u32 {
        // SAFETY: as in `sum`; every window ended with the borrow of `self`.
        unsafe { tandem_take_tag(self.ctx) }
    }

    #[inline(always)]
    fn put_tag(&mut self, tag: u32) -> bool {
        // SAFETY: as in `take_tag`.
        unsafe { tandem_put_tag(self.ctx, tag) != 0 }
    }

    #[inline(always)]
    fn truncate(&mut self, len: usize) -> bool {
        let by = (len as i32).wrapping_sub(self.len() as i32);
        // SAFETY: the helper checks its arguments; every window ended with the borrow of `self`.
        by <= 0 && unsafe { bpf_xdp_adjust_tail(self.ctx, by) == 0 }
    }
}

/// What [`tandem_sum`] says of bytes that the frame has not; no sum is as large.
const NO_SUM: u64 = u64::MAX;

/// Sums up bytes of the frame. Global, so that the verifier checks it once, whoever calls it.
///
/// # Safety
/// `ctx` is what the kernel gave to the running program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn tandem_sum(ctx: *mut xdp_md, at: u32, len: u32) -> u64 {
    // The offset is bounded for the verifier, to what no header chain is longer than.
    tandem_engine::checksum::of_packet(&Frame::<false>::new(ctx), (at & 0x3ff) as usize, len as usize).unwrap_or(NO_SUM)
}

/// Puts the frame into a tunnel; its flow is the one that this CPU knows.
///
/// # Safety
/// `ctx` is what the kernel gave to the running program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn tandem_tunnel(ctx: *mut xdp_md, real: u32, port: u32) -> u32 {
    let Some(kernel) = Kernel::<EVERYTHING>::new() else { return NO_TABLES };
    let Some(root) = kernel.root() else { return NO_TABLES };
    // SAFETY: `Frame::tunnel` gave it away.
    encap::tunnel(&mut Frame::<false>::new(ctx), &kernel, root, unsafe { known_flow() }, real, port)
}

/// Translates the frame to the other side of its NAT; its flow is the one that this CPU knows.
///
/// # Safety
/// `ctx` is what the kernel gave to the running program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn tandem_nat(ctx: *mut xdp_md, real: u32) -> u32 {
    let Some(kernel) = Kernel::<EVERYTHING>::new() else { return NO_TABLES };
    let Some(root) = kernel.root() else { return NO_TABLES };
    // SAFETY: `Frame::nat` gave it away.
    nat::translate(&mut Frame::<false>::new(ctx), &kernel, root, unsafe { known_flow() }, real)
}

/// The same with an ICMP error.
///
/// # Safety
/// `ctx` is what the kernel gave to the running program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn tandem_nat_error(ctx: *mut xdp_md, real: u32) -> u32 {
    let Some(kernel) = Kernel::<EVERYTHING>::new() else { return NO_TABLES };
    let Some(root) = kernel.root() else { return NO_TABLES };
    // SAFETY: `Frame::nat_error` gave it away.
    nat::error(&mut Frame::<false>::new(ctx), &kernel, root, unsafe { known_flow() }, real)
}

const NO_TABLES: u32 = Stop::raw(Some(Stop::of(Reason::NoReal)));

/// Takes the VLAN tag off the frame. Global for the same reason.
///
/// # Safety
/// As [`tandem_sum`].
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn tandem_take_tag(ctx: *mut xdp_md) -> u32 {
    vlan::take(&mut Frame::<false>::new(ctx))
}

/// Puts a VLAN tag on the frame; 0: there is no room. Global for the same reason.
///
/// # Safety
/// As [`tandem_sum`].
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn tandem_put_tag(ctx: *mut xdp_md, tag: u32) -> u32 {
    vlan::put(&mut Frame::<false>::new(ctx), tag) as u32
}

/// Answers a frame that is too large. Global for the same reason.
///
/// # Safety
/// `ctx` is what the kernel gave to the running program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn tandem_too_big(ctx: *mut xdp_md, is_v6: u32, mtu: u32) -> u32 {
    answer_too_big(&mut Frame::<false>::new(ctx), is_v6 != 0, mtu) as u32
}

/// Relays an ICMP error about a tunnel to the client. Global for the same reason.
///
/// # Safety
/// `ctx` is what the kernel gave to the running program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn tandem_relay(ctx: *mut xdp_md) -> u32 {
    match Kernel::<EVERYTHING>::new() {
        Some(kernel) => relay::relay(&mut Frame::<false>::new(ctx), &kernel),
        None => relay::NOT_OURS,
    }
}
