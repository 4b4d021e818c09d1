//! From the flow to its real: a server id, the flow table, the client's network, the VIP's ring, in this order.
//!
//! A SYN always asks the ring and overwrites what the table knew; a RST is looked up but never entered; a UDP flow that
//! was silent for too long is new.

use crate::hash::{self, Kind};
use crate::memory::counters::{Event, GUARD_LINE, VipCounter, count_event, count_vip};
use crate::memory::flows::{FIRST, Hit, Worth};
use crate::memory::rings::{SLOTS_PER_LINE, slot_of};
use crate::memory::shared::S32;
use crate::memory::vips::{
    BYPASS_FLOW_TABLE, GLOBAL_FLOW_TABLE, HASH_DPORT_ONLY, QUIC, SOURCE_ROUTING, UDP_FLOW_MIGRATION, UDP_STABLE_ROUTING,
};
use crate::memory::{FlowSet, HashLine, IdKey, Memory, Real, Root, Space, Tag, features};
use crate::packet::Packet;
use crate::parse::Flow;
use crate::server_id;
use crate::verdict::{From, NO_VIP, Reason, Stop};
use crate::wire::{IPPROTO_TCP, IPPROTO_UDP};

/// What was chosen, and what the flow table is to learn of it.
pub(crate) struct Choice {
    /// The real's id.
    pub real: u32,
    /// Who chose it.
    pub from: From,
    /// Whether the flow is to be entered.
    pub enter: bool,
    /// A real that a server id named, which the flow table has to agree with; 0: none.
    pub named: u32,
    /// It was a TCP option that named it, not QUIC.
    pub by_tcp: bool,
}

/// Chooses the real of a flow whose VIP is known.
#[inline(always)]
pub(crate) fn choose<P: Packet, M: Memory>(
    packet: &P,
    memory: &M,
    root: &Root,
    flow: &mut Flow,
    now: u32,
) -> Result<Choice, Stop> {
    let katran = memory.has(root, features::KATRAN);
    let named = named(packet, memory, root, katran, flow);
    if named.real != 0 {
        return Ok(Choice { real: named.real, from: From::ServerId, enter: false, named: named.to_check, by_tcp: named.by_tcp });
    }
    let real = known(memory, root, katran, flow, now);
    if real != 0 {
        return Ok(Choice { real, from: From::Flow, enter: false, named: 0, by_tcp: false });
    }
    decide(memory, root, katran, flow)
}

/// A fragment without ports follows the first one, whose real says which VIP it is.
#[inline(always)]
pub(crate) fn follow<M: Memory>(memory: &M, root: &Root, flow: &mut Flow, now: u32) -> Result<Choice, Stop> {
    let real = fragment(memory, root, flow, now);
    if real == 0 {
        return Err(Stop::of(Reason::FragmentUnknown));
    }
    flow.vip.id = memory.real(real).and_then(Real::owner).unwrap_or(NO_VIP);
    Ok(Choice { real, from: From::Flow, enter: false, named: 0, by_tcp: false })
}

/// What server ids say.
struct Named {
    /// 0: nothing.
    real: u32,
    /// What QUIC or TCP named, even if stable routing overrides it.
    to_check: u32,
    by_tcp: bool,
}

#[inline(always)]
fn named<P: Packet, M: Memory>(packet: &P, memory: &M, root: &Root, katran: bool, flow: &Flow) -> Named {
    let flags = flow.vip.flags;
    let is_udp = flow.protocol == IPPROTO_UDP;
    let mut real = 0;
    if memory.has(root, features::QUIC) && flags & QUIC != 0 && (katran || is_udp) {
        real = server_id::quic(packet, memory, root, katran, flow);
    }
    let (mut to_check, mut by_tcp) = (real, false);
    if memory.has(root, features::STABLE) && flags & UDP_STABLE_ROUTING != 0 && is_udp {
        let stable = server_id::stable(packet, memory, root, flow);
        real = if stable != 0 { stable } else { real };
    }
    if memory.has(root, features::TCP_ID) && flow.protocol == IPPROTO_TCP && real == 0 {
        real = if server_id::has_no_option(flow) {
            count_event(memory, Event::TcpIdRing);
            0
        } else {
            server_id::tcp(packet, memory, root, katran, flow)
        };
        if flags & BYPASS_FLOW_TABLE == 0 {
            (to_check, by_tcp) = (real, true);
        }
    }
    // In Katran QUIC's ids go into the table of a VIP that bypasses it.
    if flags & BYPASS_FLOW_TABLE != 0 && !katran {
        to_check = 0;
    }
    Named { real, to_check, by_tcp }
}

/// Counts a usual frame that could have carried a server id.
#[inline(always)]
pub(crate) fn count_without_id<M: Memory>(memory: &M, root: &Root, flow: &Flow) {
    if flow.protocol == IPPROTO_TCP && memory.has(root, features::TCP_ID) {
        count_event(memory, Event::TcpIdRing);
    }
}

/// The real that the flow table knows, or the global table, unless the flow has to leave it; 0: none.
#[inline(always)]
fn known<M: Memory>(memory: &M, root: &Root, katran: bool, flow: &Flow, now: u32) -> u32 {
    let mut real = lookup(memory, root, flow, now);
    if memory.has(root, features::GLOBAL) && flow.vip.flags & GLOBAL_FLOW_TABLE != 0 && real == 0 && !flow.is_syn() {
        let tag = hash::tag(root, katran, flow, Kind::Global);
        real = get(memory, &tag, now, 0).1.real();
        if real != 0 {
            count_event(memory, Event::GlobalFlowHit);
        }
    }
    let migrates = memory.has(root, features::MIGRATE) && flow.vip.flags & UDP_FLOW_MIGRATION != 0;
    if migrates && flow.protocol == IPPROTO_UDP && (katran || real != 0) {
        // Katran counts this question as a new flow.
        let flood = katran && guard(memory, root);
        let down = |real: u32| memory.id(root, IdKey::down(flow.vip.id, real)) != 0;
        if !flood && real != 0 && down(real) {
            count_event(memory, Event::UdpMigrated);
            return 0;
        }
    }
    real
}

/// The real that the flow table knows; 0: none.
#[inline(always)]
fn lookup<M: Memory>(memory: &M, root: &Root, flow: &Flow, now: u32) -> u32 {
    if flow.vip.flags & BYPASS_FLOW_TABLE != 0 {
        return 0;
    }
    if let Some(trace) = memory.trace() {
        trace_sets(root, &flow.tag, &trace.sets);
        trace.print.set(flow.tag.print);
    }
    if flow.is_syn() {
        return 0;
    }
    let (set, hit) = ask(memory, root, flow, now);
    if hit.is_some()
        && let Some(trace) = memory.trace()
    {
        let [at, in_way] = &trace.found;
        at.set(plus_one(root, set));
        in_way.set(hit.way());
    }
    hit.real()
}

/// The real that the flow table knows of a flow that no VIP flag keeps out of it; 0: none.
#[inline(always)]
pub(crate) fn in_table<M: Memory>(memory: &M, root: &Root, flow: &Flow, now: u32) -> u32 {
    ask(memory, root, flow, now).1.real()
}

/// Asks by the rules of its protocol: a UDP flow that was silent for too long is not known.
#[inline(always)]
fn ask<M: Memory>(memory: &M, root: &Root, flow: &Flow, now: u32) -> (u64, Hit) {
    let idle = if flow.protocol == IPPROTO_UDP { root.udp_idle.get() } else { 0 };
    get(memory, &flow.tag, now, idle)
}

/// The set that the flow was found in, and what it knows.
#[inline(always)]
fn get<M: Memory>(memory: &M, tag: &Tag, now: u32, idle: u32) -> (u64, Hit) {
    either(memory, tag, |set| set.get(tag, now, idle))
}

/// Asks the flow's first set, then its second.
#[inline(always)]
fn either<M: Memory>(memory: &M, tag: &Tag, ask: impl Fn(&FlowSet) -> Hit) -> (u64, Hit) {
    let first = tag.first();
    let hit = memory.flows(first).map_or(Hit::NONE, &ask);
    if hit.is_some() {
        return (first, hit);
    }
    let second = tag.second();
    (second, memory.flows(second).map_or(Hit::NONE, &ask))
}

/// What a new flow meets.
pub(crate) struct Arrival {
    /// There are too many in this window.
    flood: bool,
    /// It is to be entered into the flow table.
    pub enter: bool,
}

/// Counts a new flow.
#[inline(always)]
pub(crate) fn arrive<M: Memory>(memory: &M, root: &Root, katran: bool, flow: &Flow) -> Arrival {
    if flow.protocol == IPPROTO_TCP {
        count_event(memory, if flow.is_syn() { Event::MissTcpSyn } else { Event::MissTcpOther });
    }
    let flood = memory.has(root, features::GUARD) && guard(memory, root);
    if flood {
        count_event(memory, Event::Guarded);
    }
    // An ICMP error opens no flow; in Katran it does.
    let opens = katran || !flow.quoted;
    Arrival { flood, enter: opens && !flood && flow.vip.flags & BYPASS_FLOW_TABLE == 0 && !flow.is_rst() }
}

/// A new flow: the client's network, else the ring.
#[inline(always)]
fn decide<M: Memory>(memory: &M, root: &Root, katran: bool, flow: &mut Flow) -> Result<Choice, Stop> {
    let Arrival { flood, enter } = arrive(memory, root, katran, flow);
    let routed = if memory.has(root, features::SOURCE_ROUTES) && flow.vip.flags & SOURCE_ROUTING != 0 && !flood {
        source_route(memory, root, flow)
    } else {
        0
    };
    let (real, from) = if routed != 0 { (routed, From::SourceRoute) } else { (ring(memory, root, katran, flow)?, From::Ring) };
    count_event(memory, Event::RingDecisions);
    Ok(Choice { real, from, enter, named: 0, by_tcp: false })
}

#[inline(never)]
fn source_route<M: Memory>(memory: &M, root: &Root, flow: &Flow) -> u32 {
    let space = if flow.is_v6 { Space::SourceV6 } else { Space::SourceV4 };
    let real = memory.longest(root, space, 0, flow.src);
    count_event(memory, if real != 0 { Event::SourceRouteHit } else { Event::SourceRouteMiss });
    real
}

/// The real that the VIP's ring names.
#[inline(always)]
pub(crate) fn ring<M: Memory>(memory: &M, root: &Root, katran: bool, flow: &mut Flow) -> Result<u32, Stop> {
    let hash = if memory.has(root, features::HASH_FLAGS) && flow.vip.flags & HASH_DPORT_ONLY != 0 {
        hash_by_dport(root, katran, flow)
    } else {
        hash::of_packet(katran, flow)
    };
    flow.asked = hash;
    let len = flow.vip.ring_len;
    let slot = if katran { hash.checked_rem(len).unwrap_or(0) } else { slot_of(hash, len) };
    if let Some(trace) = memory.trace() {
        trace.hash.set(hash);
        trace.slot.set(slot.wrapping_add(1));
    }
    // a VIP without a ring has length 0 and line 0, whose slots are all nobody
    let line = memory.ring(flow.vip.ring.wrapping_add(slot / SLOTS_PER_LINE));
    match line.map_or(0, |line| line.get(slot)) {
        0 => Err(Stop::of(Reason::NoRing)),
        number => Ok(flow.vip.first.wrapping_add(number)),
    }
}

/// Every client is the same one. In Katran the flow itself changes, and is entered and encapsulated as that.
#[inline(always)]
fn hash_by_dport(root: &Root, katran: bool, flow: &mut Flow) -> u32 {
    let port = flow.ports >> 16;
    let anyone = Flow { src: [0, 0], ports: port << 16 | port, ..*flow };
    if katran {
        (flow.src, flow.ports) = (anyone.src, anyone.ports);
        flow.tag = hash::tag(root, katran, flow, Kind::Flow);
    }
    hash::of_packet(katran, &anyone)
}

/// Counts a new flow of this core; whether there are too many in this window.
#[inline(always)]
fn guard<M: Memory>(memory: &M, root: &Root) -> bool {
    let Some(line) = memory.count(GUARD_LINE) else { return false };
    let (count, start, now) = (line.get(0), line.get(1) as u32, memory.now());
    if count == 0 || now.wrapping_sub(start) > root.guard_window.get() {
        line.set(0, 1);
        line.set(1, now as u64);
        return false;
    }
    line.set(0, count.wrapping_add(1));
    count >= root.guard_limit.get() as u64
}

/// Enters a flow as seen at `now`, and counts it.
#[inline(always)]
pub(crate) fn remember<M: Memory>(memory: &M, root: &Root, flow: &Flow, real: u32, now: u32) {
    let Some(place) = Place::of_number(memory.enter(&flow.tag, real, flow.asked, now)) else { return };
    if let Some(line) = memory.vip_count(flow.vip.id) {
        line.add(VipCounter::Entered as usize, 1);
        if place.evicts() {
            line.add(VipCounter::Evicted as usize, 1);
        }
    }
    if let Some(trace) = memory.trace() {
        let [at, in_way] = &trace.written;
        at.set(plus_one(root, place.set()));
        in_way.set(place.way());
        trace.evicted.set(place.evicts() as u32);
    }
}

/// Enters a fragmented packet: its later fragments find by its identification where the first one was sent.
#[inline(always)]
pub(crate) fn remember_fragment<M: Memory>(memory: &M, root: &Root, flow: &Flow, real: u32, now: u32) {
    let tag = hash::tag(root, memory.has(root, features::KATRAN), flow, Kind::Fragment);
    trace_fragment(memory, root, &tag);
    memory.enter(&tag, real, HashLine::NONE, now);
}

/// Where something was entered. One number, 0 for nowhere, as a function of the kernel program returns it:
/// `1 << 63 | another flow lost its place << 62 | set << 8 | way`.
#[derive(Clone, Copy)]
struct Place(u64);

impl Place {
    const SOME: u64 = 1 << 63;
    const EVICTS: u64 = 1 << 62;
    const SET: u32 = 8;

    #[inline(always)]
    fn of_number(number: u64) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }
    #[inline(always)]
    fn evicts(self) -> bool {
        self.0 & Self::EVICTS != 0
    }
    #[inline(always)]
    fn set(self) -> u64 {
        (self.0 & !(Self::SOME | Self::EVICTS)) >> Self::SET
    }
    #[inline(always)]
    fn way(self) -> u32 {
        (self.0 & const { (1 << Self::SET) - 1 }) as u32
    }
}

/// Writes into the best place of a tag's sets, as seen at `now`, and gives the number of the place. `hash`: what the ring was asked by.
#[inline(always)]
pub fn enter<M: Memory>(memory: &M, tag: &Tag, real: u32, hash: u32, now: u32) -> u64 {
    let (Some(one), Some(two)) = (memory.flows(tag.first()), memory.flows(tag.second())) else { return 0 };
    let worth = two.place(tag, now, 0, one.place(tag, now, FIRST, Worth::NONE));
    let (set, at) = if worth.is_second() { (two, tag.second()) } else { (one, tag.first()) };
    set.write(worth.way(), tag, real, now);
    keep_hash(memory, at, worth.way(), hash);
    let evicts = if worth.evicts() { Place::EVICTS } else { 0 };
    Place::SOME | evicts | at << Place::SET | worth.way() as u64
}

/// Keeps what a flow asked the ring by beside its entry.
#[inline(always)]
fn keep_hash<M: Memory>(memory: &M, set: u64, way: u32, hash: u32) {
    if memory.can(features::RING_HASHES)
        && let Some(line) = memory.hashes(set)
    {
        line.set(way, hash);
    }
}

/// Makes the flow table agree with the real that a server id named.
#[inline(never)]
pub(crate) fn agree<M: Memory>(memory: &M, root: &Root, flow: &Flow, choice: &Choice, now: u32) {
    let katran = memory.has(root, features::KATRAN);
    let real = choice.named;
    let count = |quic: Event| {
        if !choice.by_tcp {
            count_event(memory, quic);
        }
    };
    let (set, hit) = either(memory, &flow.tag, |set| set.peek(&flow.tag));
    match hit.is_some() {
        true if is_same(memory, hit.real(), real) => count(Event::QuicMatch),
        true => {
            if let Some(set) = memory.flows(set) {
                set.rewrite(hit.way(), &flow.tag, real);
            }
            keep_hash(memory, set, hit.way(), HashLine::NONE);
            count(Event::QuicMismatch);
            if choice.by_tcp {
                count_event(memory, Event::TcpIdMismatch);
            }
            count_vip(memory, flow.vip.id, VipCounter::ServerIdMismatch);
        }
        false => {
            if !(memory.has(root, features::GUARD) && guard(memory, root)) {
                // Katran enters it with time 0, which for UDP is too long ago to be found.
                let idle = root.udp_idle.get();
                let stale = katran && flow.protocol == IPPROTO_UDP && idle != 0;
                let then = if stale { now.wrapping_sub(idle).wrapping_sub(1) } else { now };
                remember(memory, root, flow, real, then);
            }
            count(Event::QuicNotFound);
        }
    }
}

/// Whether two ids are one machine: a VIP's real, and a real of no VIP, may have the same address.
#[inline(always)]
fn is_same<M: Memory>(memory: &M, one: u32, other: u32) -> bool {
    let address = |id| memory.real(id).map(|real| (real.addr(), real.hop().is_v6()));
    one == other || address(one) == address(other)
}

/// The real that the first fragment of the packet was sent to; 0: not known.
#[inline(always)]
pub(crate) fn fragment<M: Memory>(memory: &M, root: &Root, flow: &Flow, now: u32) -> u32 {
    let tag = hash::tag(root, memory.has(root, features::KATRAN), flow, Kind::Fragment);
    trace_fragment(memory, root, &tag);
    get(memory, &tag, now, FRAGMENT_IDLE).1.real()
}

/// Ticks after which the fragments of a packet are another packet's: 15 s at 250 Hz (RFC 791 suggests 15 s).
pub(crate) const FRAGMENT_IDLE: u32 = 59;

#[inline(always)]
fn trace_fragment<M: Memory>(memory: &M, root: &Root, tag: &Tag) {
    if let Some(trace) = memory.trace() {
        trace_sets(root, tag, &trace.fragment_sets);
    }
}

#[inline(always)]
fn trace_sets(root: &Root, tag: &Tag, [first, second]: &[S32; 2]) {
    first.set(plus_one(root, tag.first()));
    second.set(plus_one(root, tag.second()));
}

/// A set as the trace cell has it: its index in the table, plus one.
#[inline(always)]
fn plus_one(root: &Root, set: u64) -> u32 {
    (set as u32 & root.flow_mask.get()).wrapping_add(1)
}
