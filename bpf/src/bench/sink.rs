//! The receiver: counts what comes back from the device under test, and keeps the evidence.

use crate::frame::Frame;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::XdpContext;
use tandem_engine::Packet;
use tandem_engine::memory::Line;

/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// Two lines: counters, then what to look for.
#[map]
static SINK: Array<Line> = Array::with_max_entries(2, MMAPABLE);
/// A bit for each flow that was seen, by the number that `flow_number` makes of it.
#[map]
static SEEN: Array<Line> = Array::with_max_entries(2048, MMAPABLE);
/// Sampled frames, four lines each: length, then the first 248 bytes.
#[map]
static SAMPLES: Array<Line> = Array::with_max_entries(4 * 64, MMAPABLE);
/// Nanoseconds from the stamp to here, eight a line.
#[map]
static LATENCIES: Array<Line> = Array::with_max_entries(1 << 17, MMAPABLE);

/// Frames of the traffic, and their bytes.
const FRAMES: usize = 0;
const BYTES: usize = 1;
/// Other frames.
const OTHERS: usize = 2;
/// Samples taken.
const SAMPLED: usize = 3;
/// Latencies taken.
const TIMED: usize = 4;

/// Where layer 4 of the client's packet begins.
const TRANSPORT: usize = 0;
/// Where the last two bytes of the client's address are.
const CLIENT: usize = 1;
/// The destination port, as in memory; above 0xffff: any.
const PORT: usize = 2;
/// Each so many frames are sampled, less one (a power of two less one).
const EVERY: usize = 3;
/// Not 0: where the stamp is.
const STAMP: usize = 4;

/// The receiver.
#[xdp]
pub fn sink(ctx: XdpContext) -> u32 {
    let (Some(counts), Some(wanted)) = (SINK.get(0), SINK.get(1)) else { return XDP_ABORTED };
    let frame = Frame::<false>::new(ctx.ctx);
    let at = (wanted.get(TRANSPORT) & 0xff) as usize;
    let ports = frame.bytes_anywhere::<4>(at).map_or([0; 4], |ports| *ports);
    let [s0, s1, d0, d1] = ports;
    let port = wanted.get(PORT);
    if at == 0 || port <= 0xffff && u16::from_le_bytes([d0, d1]) as u64 != port {
        counts.add(OTHERS, 1);
        return XDP_PASS;
    }
    let number = counts.get(FRAMES) + 1;
    counts.set(FRAMES, number);
    counts.add(BYTES, frame.len() as u64);
    let client = frame.bytes_anywhere::<2>((wanted.get(CLIENT) & 0xff) as usize).map_or(0, |last| u16::from_be_bytes(*last));
    saw(u16::from_be_bytes([s0, s1]), client);
    if number & wanted.get(EVERY) == 0 {
        sample(&frame, counts);
    }
    if wanted.get(STAMP) != 0 {
        time(&frame, counts, (wanted.get(STAMP) & 0xff) as usize);
    }
    XDP_DROP
}

/// Notes the flow, by its source port and the last two bytes of the client's address.
#[inline(always)]
fn saw(port: u16, client: u16) {
    let number = (port as u32).wrapping_add((client as u32).wrapping_mul(40_503)) & 0xf_ffff;
    let Some(line) = SEEN.get(number >> 9) else { return };
    let (word, bit) = ((number >> 6 & 7) as usize, 1 << (number & 63));
    let before = line.get(word);
    if before & bit == 0 {
        line.set(word, before | bit);
    }
}

#[inline(always)]
fn time(frame: &Frame, counts: &Line, at: usize) {
    let (Some(stamp), Some(complement)) = (frame.bytes_anywhere::<8>(at), frame.bytes_anywhere::<8>(at + 8)) else { return };
    let (sent, complement) = (u64::from_le_bytes(*stamp), u64::from_le_bytes(*complement));
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if sent != !complement || sent == 0 || sent > now {
        return;
    }
    let number = counts.get(TIMED);
    counts.set(TIMED, number + 1);
    if let Some(line) = LATENCIES.get((number >> 3) as u32 & 0x1_ffff) {
        line.set(number as usize & 7, now - sent);
    }
}

/// Off the usual way.
#[inline(never)]
fn sample(frame: &Frame, counts: &Line) {
    let number = counts.get(SAMPLED);
    counts.set(SAMPLED, number + 1);
    let first = (number as u32 & 63) * 4;
    let (Some(a), Some(b), Some(c), Some(d)) =
        (SAMPLES.get(first), SAMPLES.get(first + 1), SAMPLES.get(first + 2), SAMPLES.get(first + 3))
    else {
        return;
    };
    a.set(0, frame.len() as u64);
    for at in 0..7 {
        copy(frame, a, at + 1, at * 8);
    }
    for at in 0..8 {
        copy(frame, b, at, 56 + at * 8);
        copy(frame, c, at, 120 + at * 8);
        copy(frame, d, at, 184 + at * 8);
    }
}

/// Eight bytes, or four, or none: the last ones of a frame may be lacking.
#[inline(always)]
fn copy(frame: &Frame, line: &Line, word: usize, at: usize) {
    let bytes = match (frame.bytes::<8>(at), frame.bytes::<4>(at)) {
        (Some(bytes), _) => u64::from_le_bytes(*bytes),
        (None, Some(bytes)) => u32::from_le_bytes(*bytes) as u64,
        (None, None) => 0,
    };
    line.set(word, bytes);
}
