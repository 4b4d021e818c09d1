//! What `BPF_PROG_TEST_RUN` repeats: brings the frame back to what it was, then calls the program under test.
//!
//! The kernel's repeat loop runs the same buffer again and again without restoring it: from its second round on it would
//! time an encapsulating program on its own output. The program under test is whatever was put into the slot, byte for byte.

use crate::frame::Frame;
use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_action::XDP_ABORTED;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, ProgramArray};
use aya_ebpf::programs::XdpContext;
use tandem_engine::Packet;
use tandem_engine::memory::Line;

/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// The program under test. The index is constant, so the JIT makes the tail call a direct jump.
#[map]
static SLOT: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// Rounds that found the frame's length changed; state of the flow numbers; rounds that failed.
#[map]
static STATE: Array<Line> = Array::with_max_entries(1, MMAPABLE);

const CHANGED: usize = 0;
const NUMBERS: usize = 1;
const FAILED: usize = 2;

/// Load-time constant: bytes of the frame.
#[unsafe(no_mangle)]
static LENGTH: Global<u32> = Global::new(0);
/// Load-time constant: the frame's Ethernet header but for its last two bytes.
#[unsafe(no_mangle)]
static MACS: Global<[u32; 3]> = Global::new([0; 3]);
/// Load-time constant: not 0 for an IPv6 frame.
#[unsafe(no_mangle)]
static IS_V6: Global<u32> = Global::new(0);
/// Load-time constant: the four bytes from TTL to checksum, or in the first byte the hop limit.
#[unsafe(no_mangle)]
static TTL: Global<u32> = Global::new(0);
/// Load-time constant: not 0 for a random flow of so many in every round (at most 2^24).
#[unsafe(no_mangle)]
static FLOW_COUNT: Global<u32> = Global::new(0);

/// Load-time constants: an IPv4 frame's addresses, ports, length and checksum of UDP, as NAT found them, if the first is not 0.
#[unsafe(no_mangle)]
static BODY: Global<[u32; 4]> = Global::new([0; 4]);

/// The wrapper.
#[xdp]
pub fn wrapper(ctx: XdpContext) -> u32 {
    let mut frame = Frame::<false>::new(ctx.ctx);
    let Some(state) = STATE.get(0) else { return XDP_ABORTED };
    // In 64 bits: what is compared are pointers.
    let longer = frame.len() as i64 - i64::from(LENGTH.load());
    if longer != 0 {
        if !frame.move_head(longer as i32) {
            state.add(FAILED, 1);
            return XDP_ABORTED;
        }
        state.add(CHANGED, 1);
    }
    if restore(&mut frame).is_none() || FLOW_COUNT.load() != 0 && next_flow(&mut frame, state).is_none() {
        state.add(FAILED, 1);
        return XDP_ABORTED;
    }
    // SAFETY: nothing here has a destructor, and the program called is an XDP program too.
    unsafe { SLOT.tail_call(&ctx, 0) };
    state.add(FAILED, 1);
    XDP_ABORTED
}

/// Rewrites what is overwritten: the Ethernet header (by the outer header), the client's TTL, and what NAT replaces.
#[inline(always)]
fn restore(frame: &mut Frame) -> Option<()> {
    let [a, b, c] = MACS.load();
    let eth = frame.bytes_mut::<14>(0)?;
    let ttl = TTL.load();
    let (ethertype, words) = (if IS_V6.load() != 0 { [0x86, 0xdd] } else { [8, 0] }, [a, b, c].map(u32::to_le_bytes));
    let [w0, w1, w2] = words;
    eth[0..4].copy_from_slice(&w0);
    eth[4..8].copy_from_slice(&w1);
    eth[8..12].copy_from_slice(&w2);
    eth[12..14].copy_from_slice(&ethertype);
    if IS_V6.load() != 0 {
        *frame.bytes_mut::<1>(21)? = [ttl as u8];
    } else {
        *frame.bytes_mut::<4>(22)? = ttl.to_le_bytes();
        let [a, b, c, d] = BODY.load().map(u32::to_le_bytes);
        if BODY.load()[0] != 0 {
            let body = frame.bytes_mut::<16>(26)?;
            body[0..4].copy_from_slice(&a);
            body[4..8].copy_from_slice(&b);
            body[8..12].copy_from_slice(&c);
            body[12..16].copy_from_slice(&d);
        }
    }
    Some(())
}

/// Writes the next flow's number into an IPv4 frame: 16 bits of source port, 8 bits of source address.
#[inline(always)]
fn next_flow(frame: &mut Frame, state: &Line) -> Option<()> {
    state.add(NUMBERS, 0x9e37_79b9_7f4a_7c15);
    let number = state.get(NUMBERS);
    let random = (number ^ number >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32;
    let number = (random * FLOW_COUNT.load() as u64 >> 32) as u32;
    *frame.bytes_mut::<2>(34)? = (number as u16).to_le_bytes();
    *frame.bytes_mut::<1>(29)? = [(number >> 16) as u8];
    Some(())
}
