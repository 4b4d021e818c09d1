//! Full NAT: the destination becomes the real's, the source (where addresses for that are configured) one of this host's,
//! and back again for what the real answers. IPv4, IPv6, and each to the other (RFC 7915).
//!
//! Mapping is by connection ([`memory::nats`](crate::memory::nats)); one client gets the same source address always
//! (RFC 4787 REQ-2), so that fragments without ports get it, too. A packet in the midst of a TCP connection that is not
//! known opens one, too: its real resets it, and the client need not wait.

mod icmp;
mod rewrite;

pub use icmp::error;
pub use rewrite::translate;

use crate::encap::{done, fits_way, tag};
use crate::hash::{self, Kind};
use crate::memory::counters::{Event, VipCounter, count_event, count_vip};
use crate::memory::nats::{ANSWERS, Found, MAX_SOURCES, Nat, NatRules, Opening, PROBES, Side};
use crate::memory::vips::{NAT_SOURCE, NAT_V4, NAT_V6};
use crate::memory::{Addr, Memory, Root, VipKey, features, vips};
use crate::packet::Packet;
use crate::parse::{Flow, Part};
use crate::select::FRAGMENT_IDLE;
use crate::verdict::Reason::{NatFull, NatUnknown, NoHeadroom};
use crate::verdict::Stop;
use crate::wire::{FragmentHeader, IPPROTO_TCP, IPPROTO_UDP, Ipv4, Ipv6};

/// What is asked of the NAT table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Ask {
    /// The connection that a client's packet to a VIP belongs to.
    Client = 0,
    /// The connection that a packet to no VIP answers, or that an ICMP error to this host is about.
    Reply = 1,
    /// A place for a new one.
    Open = 2,
}

impl Ask {
    /// From its number.
    #[inline(always)]
    pub const fn of_number(number: u32) -> Self {
        match number {
            0 => Self::Client,
            1 => Self::Reply,
            _ => Self::Open,
        }
    }
}

/// The place (plus one) of the connection in the NAT table; 0: there is none.
#[inline(always)]
pub fn place<M: Memory>(memory: &M, root: &Root, flow: &Flow, ask: Ask, real: u32) -> u32 {
    let now = memory.now();
    match ask {
        Ask::Client => of_client(memory, root, flow, now),
        Ask::Reply => of_real(memory, root, flow, now),
        Ask::Open => open(memory, root, flow, real, now),
    }
}

/// Translates the frame to the other side of its connection, which is a new one to real `id` if `flow` has none. A later
/// fragment needs none, and an ICMP error opens none.
#[inline(always)]
pub(crate) fn send<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, flow: &mut Flow, id: u32) -> Result<(), Stop> {
    if flow.nat == 0 && flow.part != Part::Later {
        if flow.quoted {
            return Err(Stop::of(NatUnknown));
        }
        flow.nat = memory.nat_place(root, flow, Ask::Open, id);
        if flow.nat == 0 {
            return Err(Stop::of(NatFull));
        }
    }
    if !flow.is_reply {
        let known = flow.nat.checked_sub(1).and_then(|at| memory.nat(at));
        if let Some(real) = memory.real(known.map_or(id, Nat::real)) {
            fits_way(packet, memory, root, flow, real)?;
        }
    }
    done(if flow.quoted { packet.nat_error(memory, root, flow, id) } else { packet.nat(memory, root, flow, id) })?;
    let known = flow.nat.checked_sub(1).and_then(|at| memory.nat(at));
    if flow.is_reply {
        let tag = if memory.can(features::VLANS) { known.map_or(0, Nat::tag) } else { 0 };
        return if tag == 0 || packet.put_tag(tag) { Ok(()) } else { Err(Stop::of(NoHeadroom)) };
    }
    match memory.real(known.map_or(id, Nat::real)) {
        Some(real) => tag(packet, memory, flow, real),
        None => Ok(()),
    }
}

/// Bytes that a packet grows by from IPv4 to IPv6: a fragment has a header of its own there.
#[inline(always)]
pub(crate) fn grows(flow: &Flow) -> u32 {
    const HEADER: u32 = const { (Ipv6::LEN - Ipv4::LEN) as u32 };
    if flow.part == Part::Whole { HEADER } else { const { HEADER + FragmentHeader::LEN as u32 } }
}

/// The places that a client's connections may be in.
struct Pool {
    first: u32,
    len: u32,
    /// Index of the source, plus one; 0: the client's address stays.
    source: u32,
    at: (u32, u32),
}

impl Pool {
    /// Of the connections of `client` to reals of this family.
    #[inline(always)]
    fn of(root: &Root, client: Addr, client_v6: bool, port: u16, protocol: u8, real_v6: bool) -> Self {
        let rules = &root.nat;
        let at = hash::client(root, client, port, protocol);
        let source = source(root, client, real_v6);
        if source != 0 {
            let ports = rules.ports.get();
            let span = source.wrapping_sub(1).wrapping_mul(2).wrapping_add((protocol == IPPROTO_TCP) as u32);
            return Self { first: rules.kept.get().wrapping_add(span.wrapping_mul(ports)), len: ports, source, at };
        }
        let len = if client_v6 == real_v6 { rules.kept.get() } else { 0 };
        Self { first: 0, len, source: 0, at }
    }

    /// Its `probe`-th place, from its first one.
    #[inline(always)]
    fn offset(&self, probe: u32) -> u32 {
        let (start, step) = self.at;
        let spread = start.wrapping_add(step.wrapping_mul(probe));
        ((spread as u64).wrapping_mul(self.len as u64) >> 32) as u32
    }
}

/// The source (plus one) that a client's address is replaced by towards reals of this family; 0: it stays.
#[inline(always)]
pub(super) fn source(root: &Root, client: Addr, real_v6: bool) -> u32 {
    let (v4, v6) = (root.nat.sources_v4.get(), root.nat.sources_v6.get());
    let (first, count) = if real_v6 { (v4, v6) } else { (0, v4) };
    if count == 0 {
        return 0;
    }
    let (hash, _) = hash::client(root, client, 0, 0);
    let index = ((hash as u64).wrapping_mul(count as u64) >> 32) as u32;
    first.wrapping_add(index).wrapping_add(1) & (MAX_SOURCES as u32).wrapping_mul(2).wrapping_sub(1)
}

#[inline(always)]
fn of_client<M: Memory>(memory: &M, root: &Root, flow: &Flow, now: u32) -> u32 {
    if flow.part == Part::Later {
        return 0;
    }
    let found = if flow.vip.flags & NAT_V4 != 0 { search(memory, root, flow, now, false) } else { 0 };
    if found == 0 && flow.vip.flags & NAT_V6 != 0 { search(memory, root, flow, now, true) } else { found }
}

#[inline(always)]
fn search<M: Memory>(memory: &M, root: &Root, flow: &Flow, now: u32, real_v6: bool) -> u32 {
    let pool = Pool::of(root, flow.src, flow.is_v6, flow.wire_ports as u16, flow.protocol, real_v6);
    for probe in 0..PROBES {
        let at = pool.first.wrapping_add(pool.offset(probe));
        let Some(nat) = memory.nat(at) else { return 0 };
        // Connections take the first free place: behind one that nobody ever had, there is none.
        if nat.is_unused() {
            return 0;
        }
        let generation = nat.generation();
        let life = nat.seen(&root.nat, now);
        if life != 0 && is_clients(&nat.read(), flow) && nat.is_as(generation) {
            if flow.is_syn() && nat.is_over() {
                return 0;
            }
            if !flow.quoted {
                nat.touch(life, Side::Client, flow.tcp_flags, now);
            }
            return at.wrapping_add(1);
        }
    }
    0
}

#[inline(always)]
fn is_clients(found: &Found, flow: &Flow) -> bool {
    found.ports as u32 == flow.wire_ports
        && found.client == flow.src
        && found.vip == flow.dst
        && found.client_v6() == flow.is_v6
        && found.is_tcp() == (flow.protocol == IPPROTO_TCP)
}

/// A packet to no VIP. Later fragments have no ports: the first one shows them the way.
#[inline(always)]
fn of_real<M: Memory>(memory: &M, root: &Root, flow: &Flow, now: u32) -> u32 {
    if flow.protocol != IPPROTO_TCP && flow.protocol != IPPROTO_UDP {
        return 0;
    }
    let place = if flow.part == Part::Later { 0 } else { by_ports(memory, root, flow, now) };
    if flow.part == Part::Whole || flow.part == Part::First && place == 0 {
        return place;
    }
    let print = hash::tag(root, false, flow, Kind::Fragment).print;
    let Some(answer) = memory.answer(print as u32 & const { ANSWERS - 1 }) else { return place };
    if flow.part == Part::First {
        answer.note(print, place, now);
        return place;
    }
    let noted = answer.place(print, now, FRAGMENT_IDLE);
    if noted != 0 && answers(memory, &root.nat, noted.wrapping_sub(1), flow, now) { noted } else { 0 }
}

/// By the port that it is sent to, or by the client that it is sent to.
#[inline(always)]
fn by_ports<M: Memory>(memory: &M, root: &Root, flow: &Flow, now: u32) -> u32 {
    let rules = &root.nat;
    let about = vips::find(memory, root, &VipKey::address(flow.dst));
    if let Some(about) = about.filter(|about| about.flags & NAT_SOURCE != 0) {
        let port = u16::from_be((flow.ports >> 16) as u16) as u32;
        let offset = port.wrapping_sub(rules.first_port.get());
        let ports = rules.ports.get();
        if offset >= ports {
            return 0;
        }
        let span = about.ring.wrapping_mul(2).wrapping_add((flow.protocol == IPPROTO_TCP) as u32);
        let at = rules.kept.get().wrapping_add(span.wrapping_mul(ports)).wrapping_add(offset);
        return if answers(memory, rules, at, flow, now) { at.wrapping_add(1) } else { 0 };
    }
    if rules.kept.get() == 0 {
        return 0;
    }
    let at = hash::client(root, flow.dst, (flow.ports >> 16) as u16, flow.protocol);
    let pool = Pool { first: 0, len: rules.kept.get(), source: 0, at };
    for probe in 0..PROBES {
        let at = pool.offset(probe);
        if memory.nat(at).is_none_or(Nat::is_unused) {
            return 0;
        }
        if answers(memory, rules, at, flow, now) {
            return at.wrapping_add(1);
        }
    }
    0
}

/// Whether a packet comes from the real of the connection at this place.
#[inline(always)]
fn answers<M: Memory>(memory: &M, rules: &NatRules, at: u32, flow: &Flow, now: u32) -> bool {
    let Some(nat) = memory.nat(at) else { return false };
    let generation = nat.generation();
    let life = nat.seen(rules, now);
    if life == 0 {
        return false;
    }
    let found = nat.read();
    let Some(real) = memory.real(found.real()) else { return false };
    let to = if found.source() == 0 { found.client } else { rules.source(found.source().wrapping_sub(1)) };
    let same = (flow.part == Part::Later || (found.ports >> 32) as u32 == flow.ports)
        && real.addr() == flow.src
        && real.hop().is_present()
        && real.hop().is_v6() == flow.is_v6
        && to == flow.dst
        && found.is_tcp() == (flow.protocol == IPPROTO_TCP);
    if same && nat.is_as(generation) {
        if !flow.quoted {
            nat.touch(life, Side::Real, flow.tcp_flags, now);
        }
        return true;
    }
    false
}

/// Takes a place for a new connection to this real.
#[inline(always)]
fn open<M: Memory>(memory: &M, root: &Root, flow: &Flow, id: u32, now: u32) -> u32 {
    let Some(real) = memory.real(id) else { return 0 };
    let client_port = flow.wire_ports as u16;
    let vip_port = (flow.wire_ports >> 16) as u16;
    let real_port = if real.port(false) == 0 { vip_port } else { real.port(false) };
    let tcp = flow.protocol == IPPROTO_TCP;
    let pool = Pool::of(root, flow.src, flow.is_v6, client_port, flow.protocol, real.hop().is_v6());
    if pool.len == 0 {
        return 0;
    }
    for probe in 0..PROBES {
        let offset = pool.offset(probe);
        let at = pool.first.wrapping_add(offset);
        let Some(nat) = memory.nat(at) else { return 0 };
        let over = nat.is_over() && is_clients(&nat.read(), flow);
        if nat.claim(&root.nat, now, over) {
            let port =
                if pool.source == 0 { client_port } else { (root.nat.first_port.get().wrapping_add(offset) as u16).to_be() };
            let ports = flow.wire_ports as u64 | (real_port as u64) << 32 | (port as u64) << 48;
            let (client, vip) = (flow.src, flow.dst);
            let opening = Opening { client, vip, ports, real: id, source: pool.source, client_v6: flow.is_v6, tcp };
            nat.fill(&opening, flow.vip.id, now);
            count_event(memory, Event::NatOpened);
            count_vip(memory, flow.vip.id, VipCounter::Entered);
            return at.wrapping_add(1);
        }
    }
    0
}
