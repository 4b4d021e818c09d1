//! What a worker does to a batch of frames: no ring, no socket, no clock. Everything here is a pure function of the
//! frames and the shared memory, so that tests and benchmarks run it without a kernel.

use tandem_engine::memory::counters::count_seat;
use tandem_engine::memory::root::LAYOUT;
use tandem_engine::memory::{Memory, Root, SeatCounter, features};
use tandem_engine::{Action, Flow, Reason, Stop, Verdict, account, classify, exit, finish, go, look, soon};

use super::frame::FrameBuf;
use super::frames::BATCH;
use super::tap::Tap;

#[cfg(test)]
mod tests;

/// What has to happen to a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Outcome {
    /// Its chunk is free again.
    #[default]
    Release,
    /// This many bytes, from the descriptor's start, are to be sent back by where they came.
    Send(usize),
    /// The same by another interface, with this index.
    Leave(usize, u32),
}

/// What is known of each frame of a batch; kept by the worker, since it is too large to be cleared for a single frame.
pub type Flows = [Flow; BATCH];

/// Decides on at most [`BATCH`] frames: classifies all of them, asking for their flow sets, then finishes all.
///
/// By the time a frame is finished its sets have arrived, which is worth three times the work at a million flows.
/// `None` stands for a frame whose hand-over header made no sense. `outcomes` gets one entry for each frame. What becomes of
/// captured frames is told to `tap`.
#[inline]
pub fn handle<M: Memory>(
    frames: &mut [Option<FrameBuf<'_>>],
    memory: &M,
    flows: &mut Flows,
    outcomes: &mut [Outcome; BATCH],
    tap: &Tap,
) {
    let Some(root) = memory.root() else { return };
    let has_usual = root.layout() == LAYOUT && features::has_usual(root.features.get());
    // One bit for each frame that has a VIP, and for each of these that is a usual one.
    let (mut ready, mut usual) = (0_u32, 0_u32);
    for (i, (frame, flow)) in frames.iter_mut().zip(flows.iter_mut()).enumerate() {
        let Some(frame) = frame else {
            count_seat(memory, SeatCounter::Defect, 1);
            continue;
        };
        let is_usual = has_usual && frame.vlan() == 0 && look(frame, memory, root, flow);
        if is_usual || classified(frame, memory, root, flow, tap) {
            soon(memory, flow);
            ready |= 1 << i;
            usual |= u32::from(is_usual) << i;
        }
    }
    for (i, ((frame, flow), outcome)) in frames.iter_mut().zip(flows).zip(outcomes).enumerate() {
        *outcome = match frame {
            Some(frame) if usual & 1 << i != 0 => conclude_usual(frame, flow, memory, root, tap),
            Some(frame) if ready & 1 << i != 0 => conclude(frame, flow, memory, root, tap),
            _ => Outcome::Release,
        };
    }
}

/// Any frame: whether it has a VIP. What is known of it is in `flow` then.
#[inline]
fn classified<M: Memory>(frame: &mut FrameBuf<'_>, memory: &M, root: &Root, flow: &mut Flow, tap: &Tap) -> bool {
    *flow = Flow { vlan: frame.vlan(), interface: frame.interface(), ..Flow::default() };
    let Err(stop) = classify(frame, memory, root, flow) else { return true };
    refused(frame, &Verdict::stopped(stop), flow, memory, tap);
    false
}

/// A usual frame leaves by the interface that it came in by: where there are several, no frame is usual.
#[inline(always)]
fn conclude_usual<M: Memory>(frame: &mut FrameBuf<'_>, flow: &mut Flow, memory: &M, root: &Root, tap: &Tap) -> Outcome {
    match go(frame, memory, root, flow) {
        Ok(verdict) => leave(frame, &verdict, memory, tap, 0),
        // It is none after all.
        Err(Stop::ASIDE) if classified(frame, memory, root, flow, tap) => conclude(frame, flow, memory, root, tap),
        Err(Stop::ASIDE) => Outcome::Release,
        Err(stop) => refused(frame, &Verdict::stopped(stop), flow, memory, tap),
    }
}

const _: () = assert!(BATCH <= u32::BITS as usize);

#[inline(always)]
fn conclude<M: Memory>(frame: &mut FrameBuf<'_>, flow: &mut Flow, memory: &M, root: &Root, tap: &Tap) -> Outcome {
    let verdict = finish(frame, memory, root, flow);
    // A frame that is too large for its way out has become an answer.
    if verdict.action() != Action::Tx {
        return refused(frame, &verdict, flow, memory, tap);
    }
    account(&verdict, flow, memory);
    let interface = if memory.has(root, features::SEVERAL) { exit(memory, flow, &verdict) } else { 0 };
    leave(frame, &verdict, memory, tap, interface)
}

/// Counts a frame that goes no further.
#[cold]
fn refused<M: Memory>(frame: &FrameBuf<'_>, verdict: &Verdict, flow: &Flow, memory: &M, tap: &Tap) -> Outcome {
    refuse(verdict, flow, memory);
    if frame.mark() != 0 {
        tap.tell(frame, verdict, 0);
    }
    Outcome::Release
}

/// A frame that is sent, by this interface; 0: by the one that it came in by.
#[inline(always)]
fn leave<M: Memory>(frame: &mut FrameBuf<'_>, verdict: &Verdict, memory: &M, tap: &Tap, interface: u32) -> Outcome {
    let length = frame.settle();
    if frame.was_moved() {
        count_seat(memory, SeatCounter::RoomMoved, 1);
    }
    if frame.mark() != 0 {
        tap.tell(frame, verdict, interface);
    }
    if interface == 0 { Outcome::Send(length) } else { Outcome::Leave(length, interface) }
}

/// Counts a frame that is not forwarded. The kernel seat saw it as a VIP's, so it can no longer be given to the host: a VIP
/// that was removed meanwhile explains one reason to pass it, and nothing explains the others, or an answer.
#[cold]
fn refuse<M: Memory>(verdict: &Verdict, flow: &Flow, memory: &M) {
    match (verdict.action(), verdict.reason()) {
        (Action::Drop, _) => account(verdict, flow, memory),
        (_, Reason::NotAVip) => count_seat(memory, SeatCounter::VipGone, 1),
        (Action::Pass | Action::Tx, _) => count_seat(memory, SeatCounter::Defect, 1),
    }
}
