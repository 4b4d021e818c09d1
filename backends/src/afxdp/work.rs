//! What a worker does to a batch of frames: no ring, no socket, no clock. Everything here is a pure function of the
//! frames and the shared memory, so that tests and benchmarks run it without a kernel.

use tandem_engine::memory::counters::count_seat;
use tandem_engine::memory::{Memory, Root, SeatCounter, features};
use tandem_engine::{Action, Flow, Reason, Verdict, account, classify, exit, finish, soon};

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
    // One bit for each frame that has a VIP.
    let mut ready: u32 = 0;
    for (i, (frame, flow)) in frames.iter_mut().zip(flows.iter_mut()).enumerate() {
        *flow = Flow::default();
        if let Some(frame) = frame {
            (flow.vlan, flow.interface) = (frame.vlan(), frame.interface());
        }
        match frame.as_mut().map(|frame| classify(frame, memory, root, flow)) {
            Some(Ok(())) => {
                soon(memory, root, flow);
                ready |= 1 << i;
            }
            Some(Err(stop)) => {
                let verdict = Verdict::stopped(stop);
                refuse(&verdict, flow, memory);
                if let Some(frame) = frame.as_ref().filter(|frame| frame.mark() != 0) {
                    tap.tell(frame, &verdict, 0);
                }
            }
            None => count_seat(memory, SeatCounter::Defect, 1),
        }
    }
    for (i, ((frame, flow), outcome)) in frames.iter_mut().zip(flows).zip(outcomes).enumerate() {
        *outcome = match frame {
            Some(frame) if ready & 1 << i != 0 => conclude(frame, flow, memory, root, tap),
            _ => Outcome::Release,
        };
    }
}

const _: () = assert!(BATCH <= u32::BITS as usize);

#[inline(always)]
fn conclude<M: Memory>(frame: &mut FrameBuf<'_>, flow: &mut Flow, memory: &M, root: &Root, tap: &Tap) -> Outcome {
    let verdict = finish(frame, memory, root, flow);
    // A frame that is too large for its way out has become an answer.
    if verdict.action() != Action::Tx {
        refuse(&verdict, flow, memory);
        if frame.mark() != 0 {
            tap.tell(frame, &verdict, 0);
        }
        return Outcome::Release;
    }
    account(&verdict, flow, memory);
    let length = frame.settle();
    if frame.was_moved() {
        count_seat(memory, SeatCounter::RoomMoved, 1);
    }
    let interface = if memory.has(root, features::SEVERAL) { exit(memory, flow, &verdict) } else { 0 };
    if frame.mark() != 0 {
        tap.tell(frame, &verdict, interface);
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
