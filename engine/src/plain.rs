//! The way of the usual frames: whole TCP and UDP packets to a VIP without flags, whose reals are reached by IPIP.
//!
//! The same steps as for any other frame (`classify`, `select`, `encap`), compiled for a [`Packet`] that
//! says what it is not ([`Packet::PLAIN`]), and put together so that what is known of the frame stays in registers: a hit and a
//! new flow each have a branch of their own to the end, with its counters. A frame that is not usual after all has neither been
//! changed nor counted, and takes the other way.

use crate::memory::{Memory, Root};
use crate::packet::Packet;
use crate::parse::Flow;
use crate::select::{self, Entry};
use crate::verdict::{Action, From, Stop, Verdict};
use crate::{account, classify, encap};

/// Decides on a frame and counts it. `None`: nothing was done, and the frame has to take the other way.
#[inline(always)]
pub fn plain<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root) -> Option<Action> {
    let mut flow = Flow::default();
    match forward(packet, memory, root, &mut flow) {
        Ok(()) => Some(Action::Tx),
        Err(stop) if stop.is_aside() => None,
        Err(stop) => {
            let verdict = Verdict::stopped(stop);
            account(&verdict, &flow, memory);
            Some(verdict.action())
        }
    }
}

#[inline(always)]
fn forward<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, flow: &mut Flow) -> Result<(), Stop> {
    classify(packet, memory, root, flow)?;
    let (now, port) = (memory.now(), flow.ports & 0xffff);
    select::count_without_id(memory, root, flow);
    let real = select::known(memory, root, false, flow, now);
    if real != 0 {
        encap::deliver(packet, memory, root, flow, real, port)?;
        account(&Verdict::forward(flow.vip.id, real, flow.len, From::Flow), flow, memory);
        return Ok(());
    }
    let choice = select::decide(memory, root, false, flow)?;
    encap::deliver(packet, memory, root, flow, choice.real, port)?;
    if choice.enter {
        memory.remember(root, flow, Entry::Flow, choice.real, now);
    }
    account(&Verdict::forward(flow.vip.id, choice.real, flow.len, From::Ring), flow, memory);
    Ok(())
}
