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

pub mod checksum;
mod classify;
mod encap;
pub mod handover;
pub mod hash;
#[cfg(not(target_arch = "bpf"))]
pub mod maglev;
pub mod memory;
mod packet;
mod parse;
pub mod probe;
mod select;
pub mod strip;
mod verdict;
pub mod wire;

pub use classify::{classify, soon};
pub use encap::{ROOM_MAX, room_for};
pub use memory::{Addr, Memory};
pub use packet::Packet;
pub use parse::Flow;
pub use verdict::{Action, From, Reason, Verdict};

/// The steps of [`process`] one by one: for programs that put something else between them, to be measured against it.
pub mod steps {
    pub use crate::classify::fits;
    pub use crate::encap::deliver;
    pub use crate::parse::parse;
}

use memory::counters::{VipCounter, real_at, reason_at, vip_at};

/// One frame, all the way: its verdict, counted, and the frame as it has to leave.
#[inline(always)]
pub fn process<P: Packet, M: Memory>(packet: &mut P, memory: &M) -> Verdict {
    let mut flow = Flow::default();
    let verdict = match classify(packet, memory, &mut flow) {
        Ok(()) => finish(packet, memory, &flow),
        Err(verdict) => verdict,
    };
    account(&verdict, memory);
    verdict
}

/// From the flow to its real, and the frame on its way. Not counted yet.
#[inline(always)]
pub fn finish<P: Packet, M: Memory>(packet: &mut P, memory: &M, flow: &Flow) -> Verdict {
    match forward(packet, memory, flow) {
        Ok(verdict) | Err(verdict) => verdict,
    }
}

#[inline(always)]
fn forward<P: Packet, M: Memory>(packet: &mut P, memory: &M, flow: &Flow) -> Result<Verdict, Verdict> {
    let root = memory.root().ok_or(Verdict::Pass(Reason::NotConfigured))?;
    let now = memory.now();
    let (real, from) = match select::lookup(memory, root, flow, now) {
        Some(real) => (real, From::Flow),
        None => (select::ring(memory, flow)?, From::Ring),
    };
    encap::deliver(packet, memory, root, flow, real)?;
    // Last: a frame that could not be sent leaves no flow, and the verifier's many ways through a set end right here.
    if let From::Ring = from {
        select::remember(memory, flow, real, now);
    }
    Ok(Verdict::Forward { vip: flow.vip.id, real, bytes: flow.len, from })
}

/// Counts a verdict: the one place that does.
#[inline(always)]
pub fn account<M: Memory>(verdict: &Verdict, memory: &M) {
    let (line, index) = reason_at(verdict.reason());
    if let Some(line) = memory.count(line) {
        line.add(index, 1);
    }
    if let Verdict::Forward { vip, real, bytes, from } = *verdict {
        if let Some(line) = memory.count(vip_at(vip)) {
            line.add(VipCounter::Packets as usize, 1);
            line.add(VipCounter::Bytes as usize, bytes as u64);
            if let From::Ring = from {
                line.add(VipCounter::Ring as usize, 1);
            }
        }
        let (line, index) = real_at(real);
        if let Some(line) = memory.count(line) {
            line.add(index, 1);
            line.add(index.wrapping_add(1), bytes as u64);
        }
    }
    if let Some(trace) = memory.trace() {
        trace.reason.set((verdict.reason() as u32).wrapping_add(1));
        if let Verdict::Forward { real, from, .. } = *verdict {
            trace.real.set(real.wrapping_add(1));
            trace.from.set((from as u32).wrapping_add(1));
        }
    }
}
