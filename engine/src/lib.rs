//! Tandem's forwarding core: from a frame to its real, the same code in the kernel and in userspace.
//!
//! ```text
//! bytes --parse--> Flow --classify--> VIP --select--> real --encap--> bytes
//!                   |                  |               |
//!                  pass               pass            drop          account: the one place that counts
//! ```
//!
//! The core is `no_std`, has no heap, no panics and no clock of its own; the only `unsafe` is in
//! [`memory::shared`]. It is generic over the frame ([`Packet`]) and the tables ([`Memory`]), and compiled
//! twice: as an XDP program, where the verifier proves what the types already say, and natively for the
//! AF_XDP workers. Everything on the data path is `#[inline(always)]`: a BPF call costs 8 ns and hides
//! packet pointers from the verifier.
//!
//! It never talks to the outside world and so cannot fail: a frame that it cannot forward has a [`Reason`].
#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![deny(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::wildcard_enum_match_arm
    )
)]

#[cfg(not(target_endian = "little"))]
compile_error!("tandem's tables hold wire-order integers as little-endian machines load them");

mod answer;
pub mod capture;
pub mod checksum;
mod classify;
pub mod encap;
pub mod handover;
pub mod hash;
#[cfg(not(target_arch = "bpf"))]
pub mod maglev;
pub mod memory;
pub mod nat;
mod packet;
mod parse;
mod plain;
pub mod probe;
pub mod relay;
mod select;
mod server_id;
pub mod strip;
mod verdict;
pub mod vlan;
pub mod wire;

pub use answer::answer_too_big;
pub use classify::{classify, soon};
pub use encap::{ROOM_MAX, overhead, room_for};
pub use memory::{Addr, Memory};
pub use packet::Packet;
pub use parse::{Flow, Part};
pub use plain::{go, look, plain};
pub use select::enter;
pub use verdict::{Action, From, NO_VIP, Reason, Stop, Verdict};

/// The steps of [`process`] one by one: for programs that put something else between them, to be measured against it.
pub mod steps {
    pub use crate::plain::{Family, family, read, read_v4, read_v6, send};
}

use memory::counters::{Event, RealCounter, VipCounter, add_real, count_event, reason_at};
use memory::{Root, features, vips};
use parse::Seen;

/// Tunnels in tunnels that are stripped one after the other: as many programs as the kernel lets call one another
/// (`MAX_TAIL_CALL_CNT`).
pub const PASSES: u32 = 33;

/// One frame, all the way: its verdict, counted, and the frame as it has to leave.
#[inline(always)]
pub fn process<P: Packet, M: Memory>(packet: &mut P, memory: &M) -> Verdict {
    let mut flow = Flow::default();
    let Some(root) = memory.root() else { return Verdict::stop(Reason::NotConfigured) };
    let mut verdict = Verdict::stopped(Stop::AGAIN);
    for _ in 0..=PASSES {
        flow = Flow::default();
        verdict = match classify(packet, memory, root, &mut flow) {
            Ok(()) => finish(packet, memory, root, &mut flow),
            Err(stop) => Verdict::stopped(stop),
        };
        if !verdict.is_again() {
            break;
        }
    }
    account(&verdict, &flow, memory);
    verdict
}

/// From the flow to its real, and the frame on its way. Not counted yet.
#[inline(always)]
pub fn finish<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, flow: &mut Flow) -> Verdict {
    forward(packet, memory, root, flow).unwrap_or_else(Verdict::stopped)
}

#[inline(always)]
fn forward<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, flow: &mut Flow) -> Result<Verdict, Stop> {
    let now = memory.now();
    let nat = memory.has(root, features::NAT);
    if nat && !flow.is_reply && flow.vip.flags & (vips::NAT_V4 | vips::NAT_V6) != 0 {
        flow.nat = memory.nat_place(root, flow, nat::Ask::Client, 0);
    }
    let verdict =
        if nat && flow.nat != 0 { translated(packet, memory, root, flow)? } else { to_choice(packet, memory, root, flow, now)? };
    if flow.part == Part::First {
        select::remember_fragment(memory, root, flow, verdict.real, now);
    }
    Ok(verdict)
}

/// A packet of no connection of NAT, or of a new one: to the real that is chosen for it.
#[inline(always)]
fn to_choice<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, flow: &mut Flow, now: u32) -> Result<Verdict, Stop> {
    let later = flow.part == Part::Later;
    // The flow may lose its port to the VIP's flags; outer sources are crafted from it all the same. A later fragment has none.
    let port = if later { 0 } else { flow.ports & 0xffff };
    let choice = if later { select::follow(memory, root, flow, now)? } else { select::choose(packet, memory, root, flow, now)? };
    let (vip, real, from) = (flow.vip.id, choice.real, choice.from);
    let bytes = bytes(memory, root, flow);
    let is_local = memory.has(root, features::LOCAL)
        && (later || flow.vip.flags & vips::LOCAL != 0)
        && memory.real(real).is_some_and(|real| real.hop().is_local());
    if is_local {
        classify::as_it_came(packet, flow)?;
    } else {
        encap::deliver(packet, memory, root, flow, real, port)?;
    }
    // Last: a frame that could not be sent leaves no flow, and the verifier's many ways through a set end right here.
    if choice.enter {
        select::remember(memory, root, flow, real, now);
    }
    if choice.named != 0 {
        select::agree(memory, root, flow, &choice, now);
    }
    Ok(Verdict::chosen(is_local, vip, real, bytes, from))
}

/// A packet of a connection that NAT knows.
#[inline(always)]
fn translated<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, flow: &mut Flow) -> Result<Verdict, Stop> {
    nat::send(packet, memory, root, flow, 0)?;
    if flow.is_reply {
        return Err(Stop::of(Reason::NatReply));
    }
    let real = flow.nat.checked_sub(1).and_then(|at| memory.nat(at)).map_or(0, memory::Nat::real);
    Ok(Verdict::chosen(false, flow.vip.id, real, flow.len, From::Flow))
}

/// Index of the interface that a frame leaves by, if that is another one than it came in by, else 0; only if there are several
/// ([`features::SEVERAL`]). What goes to a real leaves as the way there says, and what a real behind NAT answers by that which
/// its client's frames came by; an answer of our own goes back.
#[inline(always)]
pub fn exit<M: Memory>(memory: &M, flow: &Flow, verdict: &Verdict) -> u32 {
    let interface = if verdict.is_reply() {
        memory.nat(flow.nat.wrapping_sub(1)).map_or(0, memory::Nat::interface)
    } else if verdict.is_forwarded() {
        memory.real(verdict.real).map_or(0, |real| real.out().interface)
    } else {
        0
    };
    if interface == flow.interface { 0 } else { interface }
}

/// Bytes of the packet that are counted. Katran leaves out the IPv6 header.
#[inline(always)]
fn bytes<M: Memory>(memory: &M, root: &Root, flow: &Flow) -> u32 {
    let less = if memory.has(root, features::KATRAN) && flow.is_v6 { wire::Ipv6::LEN as u32 } else { 0 };
    flow.len.wrapping_sub(less)
}

/// Counts a verdict: the one place that does.
#[inline(always)]
pub fn account<M: Memory>(verdict: &Verdict, flow: &Flow, memory: &M) {
    let (line, index) = reason_at(verdict.index());
    if let Some(line) = memory.count(line) {
        line.add(index, 1);
        line.add(index.wrapping_add(1), flow.frame as u64);
    }
    match flow.seen {
        Seen::Nothing => {}
        Seen::TooBigV4 => count_event(memory, Event::PtbV4),
        Seen::TooBigV6 => count_event(memory, Event::PtbV6),
        Seen::TooBigV4Low => {
            count_event(memory, Event::PtbV4);
            count_event(memory, Event::PtbV4Low);
        }
        Seen::TooBigV6Low => {
            count_event(memory, Event::PtbV6);
            count_event(memory, Event::PtbV6Low);
        }
    }
    if verdict.real != 0 {
        account_chosen(memory, verdict, flow);
    }
    if let Some(trace) = memory.trace() {
        trace.reason.set(verdict.index().wrapping_add(1));
        if verdict.real != 0 {
            trace.vip.set(verdict.vip.wrapping_add(1));
            trace.real.set(verdict.real.wrapping_add(1));
            trace.from.set((verdict.from as u32).wrapping_add(1));
        }
    }
}

#[inline(always)]
fn account_chosen<M: Memory>(memory: &M, &Verdict { vip, real, bytes, from, .. }: &Verdict, flow: &Flow) {
    let by_ring = matches!(from, From::Ring | From::SourceRoute);
    if memory.is_vip(vip)
        && let Some(line) = memory.vip_count(vip)
    {
        line.add(VipCounter::Packets as usize, 1);
        line.add(VipCounter::Bytes as usize, bytes as u64);
        if by_ring {
            line.add(VipCounter::Ring as usize, 1);
        }
    }
    if let Some(line) = memory.real_count(real) {
        add_real(line, RealCounter::Packets, 1);
        add_real(line, RealCounter::Bytes, bytes as u64);
        if by_ring {
            add_real(line, RealCounter::Ring, 1);
        }
        if flow.quoted || flow.is_rst() {
            add_real(line, RealCounter::Refused, 1);
        }
    }
}
