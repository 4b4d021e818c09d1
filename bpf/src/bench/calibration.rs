//! Traffic of the calibration behind mode auto: the sender goes through UDP flows as long as only so many of its frames are under way,
//! and the receiver counts what comes back. So a seat is never overrun, whatever it can do, and no pace has to be guessed.

use crate::frame::Frame;
use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::XdpContext;
use tandem_engine::Packet;
use tandem_engine::memory::Line;

/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// Two lines, so that sender and receiver do not write to the same one: each one's words below.
#[map]
static CIRCLE: Array<Line> = Array::with_max_entries(2, MMAPABLE);

/// Of the sender: frames sent; how many more than came back it may send (0: none); the interface's index.
const SENT: usize = 0;
const CREDIT: usize = 1;
const INTERFACE: usize = 2;

/// Of the receiver: frames that came back as they should; others; where the destination port of the client's packet is then.
const BACK: usize = 0;
const OTHERS: usize = 1;
const PORT_AT: usize = 2;

/// Load-time constants: the first 44 bytes of each frame; the number of flows less one (a power of two less one); the destination
/// port, as in memory.
#[unsafe(no_mangle)]
static CIRCLE_FRAME: Global<[u32; 11]> = Global::new([0; 11]);
#[unsafe(no_mangle)]
static CIRCLE_FLOWS: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static CIRCLE_PORT: Global<u32> = Global::new(0);

/// The first source port.
const FIRST_PORT: u32 = 1024;
/// Where the source port is.
const SOURCE_AT: usize = 34;

/// The sender, run with live frames, which the kernel recycles as the balancer left them: so all of the head is written anew.
#[xdp]
pub fn circle_send(ctx: XdpContext) -> u32 {
    let (Some(sender), Some(receiver)) = (CIRCLE.get(0), CIRCLE.get(1)) else { return XDP_ABORTED };
    let sent = sender.get(SENT);
    if sent >= receiver.get(BACK) + sender.get(CREDIT) {
        return XDP_DROP;
    }
    let mut frame = Frame::<false>::new(ctx.ctx);
    let Some(bytes) = frame.bytes_mut::<44>(0) else { return XDP_ABORTED };
    let [w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10] = CIRCLE_FRAME.load().map(u32::to_le_bytes);
    bytes[0..4].copy_from_slice(&w0);
    bytes[4..8].copy_from_slice(&w1);
    bytes[8..12].copy_from_slice(&w2);
    bytes[12..16].copy_from_slice(&w3);
    bytes[16..20].copy_from_slice(&w4);
    bytes[20..24].copy_from_slice(&w5);
    bytes[24..28].copy_from_slice(&w6);
    bytes[28..32].copy_from_slice(&w7);
    bytes[32..36].copy_from_slice(&w8);
    bytes[36..40].copy_from_slice(&w9);
    bytes[40..44].copy_from_slice(&w10);
    let port = FIRST_PORT + (sent as u32 & CIRCLE_FLOWS.load());
    bytes[SOURCE_AT..SOURCE_AT + 2].copy_from_slice(&(port as u16).to_be_bytes());
    sender.set(SENT, sent + 1);
    // SAFETY: a helper that takes two numbers.
    unsafe { bpf_redirect(sender.get(INTERFACE) as u32, 0) as u32 }
}

/// The receiver.
#[xdp]
pub fn circle_receive(ctx: XdpContext) -> u32 {
    let Some(receiver) = CIRCLE.get(1) else { return XDP_ABORTED };
    let frame = Frame::<false>::new(ctx.ctx);
    let port = frame.bytes_anywhere::<2>((receiver.get(PORT_AT) & 0x7f) as usize).map_or(0, |port| u16::from_ne_bytes(*port));
    receiver.add(if port as u32 == CIRCLE_PORT.load() { BACK } else { OTHERS }, 1);
    XDP_DROP
}
