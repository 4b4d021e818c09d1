//! The rival: the same core with VIPs in a BPF hash map and flows in a BPF LRU hash map, each under its exact key, as
//! programs of this kind usually have them. Parsing, ring, reals, encapsulation and counters are the engine's.

use crate::frame::Frame;
use crate::tables::Kernel;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{HashMap, LruHashMap};
use aya_ebpf::programs::XdpContext;
use tandem_engine::memory::rings::{SLOTS_PER_LINE, slot_of};
use tandem_engine::memory::vips::{BYPASS_FLOW_TABLE, NO_SOURCE_PORT};
use tandem_engine::memory::{Memory, Root, Vip, VipCounter, features};
use tandem_engine::wire::IPPROTO_UDP;
use tandem_engine::{Action, Flow, From, Packet, Reason, Stop, Verdict, account, hash, steps};

/// Address, then `protocol << 16 | port`: id and flags, then the ring's line and length, and what its numbers are counted from.
#[map]
static VIP_HASH: HashMap<[u64; 3], [u32; 5]> = HashMap::with_max_entries(512, 0);
/// Both addresses, then `VIP << 40 | protocol << 32 | ports`: `tick << 32 | real`.
#[map]
static FLOW_HASH: LruHashMap<[u64; 5], u64> = LruHashMap::with_max_entries(1, 0);

/// What it knows of features: as the balancer's way of usual frames, which it takes the form of, too.
type Plain = Kernel<{ features::PLAIN }>;

/// The same core on hash maps.
#[xdp]
pub fn hashed(ctx: XdpContext) -> u32 {
    balance(&ctx).unwrap_or(XDP_ABORTED)
}

/// `None`: not a usual frame, which no row has.
#[inline(always)]
fn balance(ctx: &XdpContext) -> Option<u32> {
    let kernel = Plain::new()?;
    let root = kernel.root()?;
    let mut frame = Frame::<true>::new(ctx.ctx);
    let (head, len) = frame.head()?;
    let mut flow = Flow::default();
    match steps::family(head)? {
        steps::Family::V4(head) => {
            steps::read_v4(head, len, &kernel, root, &mut flow)?;
            count(&mut frame, &kernel, root, flow)
        }
        steps::Family::V6(head) => {
            steps::read_v6(&frame, head, len, &kernel, root, &mut flow)?;
            count(&mut frame, &kernel, root, flow)
        }
    }
}

#[inline(always)]
fn count<P: Packet>(frame: &mut P, kernel: &Plain, root: &Root, mut flow: Flow) -> Option<u32> {
    let verdict = match process(frame, kernel, root, &mut flow) {
        Err(stop) if stop.is_aside() => return None,
        other => other.unwrap_or_else(Verdict::stopped),
    };
    account(&verdict, &flow, kernel);
    Some(match verdict.action() {
        Action::Tx => XDP_TX,
        Action::Pass => XDP_PASS,
        Action::Drop => XDP_DROP,
    })
}

#[inline(always)]
fn process<P: Packet>(frame: &mut P, kernel: &Plain, root: &Root, flow: &mut Flow) -> Result<Verdict, Stop> {
    flow.vip = vip(root, flow).ok_or(Stop::of(Reason::NotAVip))?;
    if flow.vip.flags & NO_SOURCE_PORT != 0 {
        flow.ports &= 0xffff_0000;
    }
    let now = kernel.now();
    let key = key(flow);
    let (real, from) = match lookup(&key, root, flow, now) {
        Some(real) => (real, From::Flow),
        None => (ring(kernel, flow)?, From::Ring),
    };
    steps::send(frame, kernel, root, flow, real)?;
    if let From::Ring = from {
        remember(kernel, &key, flow, real, now);
    }
    Ok(Verdict::forward(flow.vip.id, real, flow.len, from))
}

#[inline(always)]
fn vip(root: &Root, flow: &mut Flow) -> Option<Vip> {
    let [a, b] = flow.dst;
    let protocol = (flow.protocol as u64) << 16;
    // SAFETY: the entry is only written by userspace, before the program runs.
    let found = unsafe { VIP_HASH.get([a, b, protocol | (flow.ports >> 16) as u64]) };
    let entry = match found {
        Some(entry) => entry,
        None if root.any_port.get() != 0 => {
            // SAFETY: as above.
            let entry = unsafe { VIP_HASH.get([a, b, protocol]) }?;
            flow.ports &= 0xffff;
            entry
        }
        None => return None,
    };
    let [id, flags, ring, ring_len, first] = *entry;
    Some(Vip { id, flags, ring, ring_len, first })
}

#[inline(always)]
fn key(flow: &Flow) -> [u64; 5] {
    let ([s0, s1], [d0, d1]) = (flow.src, flow.dst);
    [s0, s1, d0, d1, (flow.vip.id as u64) << 40 | (flow.protocol as u64) << 32 | flow.ports as u64]
}

#[inline(always)]
fn lookup(key: &[u64; 5], root: &Root, flow: &Flow, now: u32) -> Option<u32> {
    if flow.vip.flags & BYPASS_FLOW_TABLE != 0 || flow.is_syn() {
        return None;
    }
    let known = FLOW_HASH.get_ptr_mut(key)?;
    // SAFETY: the kernel frees no entry while the program runs; one that is recycled meanwhile has another flow's value,
    // which a benchmark on one CPU never meets.
    let value = unsafe { known.read() };
    let silent = now.wrapping_sub((value >> 32) as u32);
    let idle = root.udp_idle.get();
    if flow.protocol == IPPROTO_UDP && idle != 0 && silent > idle {
        return None;
    }
    if silent != 0 {
        // SAFETY: as above.
        unsafe { known.write((now as u64) << 32 | value & 0xffff_ffff) };
    }
    Some(value as u32)
}

#[inline(always)]
fn ring(kernel: &Plain, flow: &Flow) -> Result<u32, Stop> {
    let slot = slot_of(hash::packet(flow), flow.vip.ring_len);
    let line = kernel.ring(flow.vip.ring.wrapping_add(slot / SLOTS_PER_LINE));
    match line.map_or(0, |line| line.get(slot)) {
        0 => Err(Stop::of(Reason::NoRing)),
        number => Ok(flow.vip.first.wrapping_add(number)),
    }
}

#[inline(always)]
fn remember(kernel: &Plain, key: &[u64; 5], flow: &Flow, real: u32, now: u32) {
    if flow.vip.flags & BYPASS_FLOW_TABLE != 0 || flow.is_rst() {
        return;
    }
    let entered = FLOW_HASH.insert(key, (now as u64) << 32 | real as u64, 0);
    if entered.is_ok()
        && let Some(line) = kernel.vip_count(flow.vip.id)
    {
        line.add(VipCounter::Entered as usize, 1);
    }
}
