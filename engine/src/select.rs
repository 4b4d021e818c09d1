//! From the flow to its real: the flow table, else the VIP's ring.
//!
//! A SYN always asks the ring and overwrites what the table knew; a RST is looked up but never entered; a UDP flow that
//! was silent for too long is new.

use crate::hash;
use crate::memory::flows::{SECOND, Worth};
use crate::memory::rings::{SLOTS_PER_LINE, slot_of};
use crate::memory::vips::BYPASS_FLOW_TABLE;
use crate::memory::{Memory, Root, VipCounter, counters};
use crate::parse::Flow;
use crate::verdict::{Reason, Verdict};
use crate::wire::IPPROTO_UDP;

/// The real that the flow table knows.
#[inline(always)]
pub(crate) fn lookup<M: Memory>(memory: &M, root: &Root, flow: &Flow, now: u32) -> Option<u32> {
    if flow.vip.flags & BYPASS_FLOW_TABLE != 0 {
        return None;
    }
    let tag = &flow.tag;
    if let Some(trace) = memory.trace() {
        let [one, two] = &trace.sets;
        one.set(tag.one.wrapping_add(1));
        two.set(tag.two.wrapping_add(1));
        trace.print.set(tag.print);
    }
    if flow.is_syn() {
        return None;
    }
    let idle = if flow.protocol == IPPROTO_UDP { root.udp_idle.get() } else { 0 };
    let (set, (real, way)) = match memory.flows(tag.one)?.get(tag, now, idle) {
        Some(hit) => (tag.one, hit),
        None => (tag.two, memory.flows(tag.two)?.get(tag, now, idle)?),
    };
    if let Some(trace) = memory.trace() {
        let [at, in_way] = &trace.found;
        at.set(set.wrapping_add(1));
        in_way.set(way);
    }
    Some(real)
}

/// The real that the VIP's ring names.
#[inline(always)]
pub(crate) fn ring<M: Memory>(memory: &M, flow: &Flow) -> Result<u32, Verdict> {
    let hash = hash::packet(flow);
    let slot = slot_of(hash, flow.vip.ring_len);
    if let Some(trace) = memory.trace() {
        trace.hash.set(hash);
        trace.slot.set(slot.wrapping_add(1));
    }
    // a VIP without a ring has length 0 and line 0, whose slots are all nobody
    let line = memory.ring(flow.vip.ring.wrapping_add(slot / SLOTS_PER_LINE));
    match line.map_or(0, |line| line.get(slot)) {
        0 => Err(Verdict::Drop(Reason::NoRing)),
        real => Ok(real),
    }
}

/// Enters a flow whose real the ring chose.
#[inline(always)]
pub(crate) fn remember<M: Memory>(memory: &M, flow: &Flow, real: u32, now: u32) {
    if flow.vip.flags & BYPASS_FLOW_TABLE != 0 || flow.is_rst() {
        return;
    }
    let tag = &flow.tag;
    let (Some(one), Some(two)) = (memory.flows(tag.one), memory.flows(tag.two)) else { return };
    let worth = two.place(tag, now, SECOND, one.place(tag, now, 0, Worth::NONE));
    let set = if worth.is_second() { two } else { one };
    set.write(worth.way(), tag, real, now);
    if let Some(line) = memory.count(counters::vip_at(flow.vip.id)) {
        line.add(VipCounter::Entered as usize, 1);
        if worth.evicts() {
            line.add(VipCounter::Evicted as usize, 1);
        }
    }
    if let Some(trace) = memory.trace() {
        let [at, in_way] = &trace.written;
        at.set((if worth.is_second() { tag.two } else { tag.one }).wrapping_add(1));
        in_way.set(worth.way());
        trace.evicted.set(worth.evicts() as u32);
    }
}
