//! Traffic, made in the kernel: `BPF_PROG_TEST_RUN` with live frames runs this program, which redirects each frame to an
//! interface. The kernel recycles frames as the device under test left them, so whatever may have changed is written anew.

use crate::frame::Frame;
use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP};
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_redirect};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::XdpContext;
use tandem_engine::Packet;
use tandem_engine::memory::Line;

/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// One line: see the constants below.
#[map]
static GENERATOR: Array<Line> = Array::with_max_entries(1, MMAPABLE);
/// What to send, in this order, again and again. Two frames a line, of four words: the low 32 bits of both addresses; ports and
/// checksums (of the IPv4 header and of layer 4), as they are in memory; length, then flags; unused.
#[map]
static SCHEDULE: Array<Line> = Array::with_max_entries(1, MMAPABLE);

/// Frames sent.
const SENT: usize = 0;
/// When the next one is due.
const DUE: usize = 1;
/// Nanoseconds from frame to frame; 0: as fast as it goes.
const GAP: usize = 2;
/// The interface's index.
const INTERFACE: usize = 3;
/// The next frame of the schedule.
const NEXT: usize = 4;
/// Times that the schedule was gone through.
const ROUND: usize = 5;
/// Not 0: write the time into the payload.
const STAMP: usize = 6;
/// Nanoseconds that it may be late and still catch up.
const LATE: usize = 7;

/// The frame is a SYN.
const SYN: u64 = 1;
/// The client has another address in every round.
const CHURN: u64 = 2;

/// Load-time constants: whether IPv6, whether TCP, frames of the schedule, bytes of the largest, and the first 64 bytes.
#[unsafe(no_mangle)]
static GEN_V6: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static GEN_TCP: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static GEN_COUNT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static GEN_LENGTH: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static GEN_HEADER: Global<[u32; 14]> = Global::new([0; 14]);

/// The generator.
#[xdp]
pub fn generator(ctx: XdpContext) -> u32 {
    let Some(state) = GENERATOR.get(0) else { return XDP_ABORTED };
    let gap = state.get(GAP);
    if gap != 0 {
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_ktime_get_ns() };
        let due = state.get(DUE);
        if now < due {
            return XDP_DROP;
        }
        // What could not be offered in time is not made up for in one burst.
        state.set(DUE, if now - due > state.get(LATE) { now + gap } else { due + gap });
    }
    let mut frame = Frame::<false>::new(ctx.ctx);
    if build(&mut frame, state).is_none() {
        return XDP_ABORTED;
    }
    state.add(SENT, 1);
    // SAFETY: a helper that takes two numbers.
    unsafe { bpf_redirect(state.get(INTERFACE) as u32, 0) as u32 }
}

#[inline(always)]
fn build(frame: &mut Frame, state: &Line) -> Option<()> {
    let at = state.get(NEXT) as u32;
    let entry = SCHEDULE.get(at >> 1)?;
    let first = ((at & 1) * 4) as usize;
    let (addresses, ports, rest) = (entry.get(first), entry.get(first + 1), entry.get(first + 2));
    let (length, flags) = (rest as u32 & 0xffff, rest >> 16);
    let round = state.get(ROUND);
    if at + 1 >= GEN_COUNT.load() {
        state.set(NEXT, 0);
        state.set(ROUND, round + 1);
    } else {
        state.set(NEXT, at as u64 + 1);
    }
    if length < GEN_LENGTH.load() && !frame.truncate(length as usize) {
        return None;
    }
    let (source, ports) =
        if flags & CHURN != 0 { churn(addresses as u32, ports, round as u16) } else { (addresses as u32, ports) };
    if GEN_V6.load() != 0 {
        v6(frame, source, (addresses >> 32) as u32, ports, length)?;
    } else {
        v4(frame, source, (addresses >> 32) as u32, ports, length)?;
    }
    transport(frame, ports, length, flags)?;
    if state.get(STAMP) != 0 {
        stamp(frame)?;
    }
    Some(())
}

/// Another client: the round is added to the last two bytes of its address, and both checksums follow (RFC 1624).
#[inline(always)]
fn churn(source: u32, ports: u64, round: u16) -> (u32, u64) {
    let [a, b, c, d] = source.to_ne_bytes();
    let before = u16::from_ne_bytes([c, d]);
    let after = u16::from_be_bytes([c, d]).wrapping_add(round).to_be();
    let [c, d] = after.to_ne_bytes();
    let fix = |sum: u16| {
        let sum = (!sum) as u32 + (!before) as u32 + after as u32;
        let sum = (sum & 0xffff) + (sum >> 16);
        !(((sum & 0xffff) + (sum >> 16)) as u16)
    };
    let (header, layer4) = (fix((ports >> 32) as u16), fix((ports >> 48) as u16));
    let ports = ports & 0xffff_ffff | (header as u64) << 32 | (layer4 as u64) << 48;
    (u32::from_ne_bytes([a, b, c, d]), ports)
}

#[inline(always)]
fn v4(frame: &mut Frame, source: u32, destination: u32, ports: u64, length: u32) -> Option<()> {
    let [w0, w1, w2, w3, w4, w5, ..] = GEN_HEADER.load().map(u32::to_le_bytes);
    let bytes = frame.bytes_mut::<34>(0)?;
    bytes[0..4].copy_from_slice(&w0);
    bytes[4..8].copy_from_slice(&w1);
    bytes[8..12].copy_from_slice(&w2);
    bytes[12..16].copy_from_slice(&w3);
    bytes[16..20].copy_from_slice(&w4);
    bytes[20..24].copy_from_slice(&w5);
    bytes[16..18].copy_from_slice(&((length - 14) as u16).to_be_bytes());
    bytes[24..26].copy_from_slice(&((ports >> 32) as u16).to_le_bytes());
    bytes[26..30].copy_from_slice(&source.to_le_bytes());
    bytes[30..34].copy_from_slice(&destination.to_le_bytes());
    Some(())
}

#[inline(always)]
fn v6(frame: &mut Frame, source: u32, destination: u32, _ports: u64, length: u32) -> Option<()> {
    let words = GEN_HEADER.load().map(u32::to_le_bytes);
    let bytes = frame.bytes_mut::<54>(0)?;
    let [w0, w1, w2, w3, w4, w5, w6, w7, w8, _, w10, w11, w12, _] = words;
    bytes[0..4].copy_from_slice(&w0);
    bytes[4..8].copy_from_slice(&w1);
    bytes[8..12].copy_from_slice(&w2);
    bytes[12..16].copy_from_slice(&w3);
    bytes[16..20].copy_from_slice(&w4);
    bytes[18..20].copy_from_slice(&((length - 54) as u16).to_be_bytes());
    bytes[20..24].copy_from_slice(&w5);
    bytes[24..28].copy_from_slice(&w6);
    bytes[28..32].copy_from_slice(&w7);
    bytes[32..36].copy_from_slice(&w8);
    bytes[34..38].copy_from_slice(&source.to_le_bytes());
    bytes[40..44].copy_from_slice(&w10);
    bytes[38..40].copy_from_slice(&[words[9][2], words[9][3]]);
    bytes[44..48].copy_from_slice(&w11);
    bytes[48..52].copy_from_slice(&w12);
    bytes[50..54].copy_from_slice(&destination.to_le_bytes());
    Some(())
}

#[inline(always)]
fn transport(frame: &mut Frame, ports: u64, length: u32, flags: u64) -> Option<()> {
    let at = if GEN_V6.load() != 0 { 54 } else { 34 };
    let sum = ((ports >> 48) as u16).to_le_bytes();
    if GEN_TCP.load() != 0 {
        let bytes = frame.bytes_mut::<20>(at)?;
        bytes[0..4].copy_from_slice(&(ports as u32).to_le_bytes());
        bytes[13..14].copy_from_slice(&[if flags & SYN != 0 { 0x02 } else { 0x10 }]);
        bytes[16..18].copy_from_slice(&sum);
    } else {
        let bytes = frame.bytes_mut::<8>(at)?;
        bytes[0..4].copy_from_slice(&(ports as u32).to_le_bytes());
        bytes[4..6].copy_from_slice(&((length as u16).wrapping_sub(at as u16)).to_be_bytes());
        bytes[6..8].copy_from_slice(&sum);
    }
    Some(())
}

/// The time and its complement, in front of the payload: together they leave every checksum as it is.
#[inline(always)]
fn stamp(frame: &mut Frame) -> Option<()> {
    let at = if GEN_V6.load() != 0 { 54 } else { 34 } + if GEN_TCP.load() != 0 { 20 } else { 8 };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let bytes = frame.bytes_mut::<16>(at)?;
    bytes[0..8].copy_from_slice(&now.to_le_bytes());
    bytes[8..16].copy_from_slice(&(!now).to_le_bytes());
    Some(())
}
