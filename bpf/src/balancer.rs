//! The balancer: forwards, or hands the VIPs' frames to the AF_XDP workers, by the mode in the shared root.

use crate::capture;
use crate::frame::Frame;
use crate::tables::{DEVICES, EVERYTHING, Kernel, XSKS, again, flow, lane, plain_kernel};
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use tandem_engine::memory::counters::{SeatCounter, count_seat};
use tandem_engine::memory::vips::LOCAL;
use tandem_engine::memory::{Memory, Mode, Root, features};
use tandem_engine::{Action, Flow, Part, Reason, Verdict, account, classify, exit, finish, handover, plain};

/// The balancer.
#[xdp]
#[inline(always)]
pub fn balancer(ctx: XdpContext) -> u32 {
    balance::<false>(&ctx)
}

/// The same while somebody captures. A program of its own: so the one that nobody captures on has not one instruction for it.
#[xdp]
#[inline(always)]
pub fn capturing(ctx: XdpContext) -> u32 {
    balance::<true>(&ctx)
}

/// Usual frames, in mode xdp. `None`: nothing was done, and the frame has to take the other way.
#[inline(always)]
fn usual(ctx: &XdpContext) -> Option<u32> {
    let kernel = plain_kernel()?;
    plain(&mut Frame::<true>::new(ctx.ctx), &kernel, kernel.root()?).map(xdp)
}

#[inline(always)]
fn balance<const CAPTURE: bool>(ctx: &XdpContext) -> u32 {
    if !CAPTURE && let Some(action) = usual(ctx) {
        return action;
    }
    let Some(kernel) = Kernel::<EVERYTHING>::new() else { return XDP_ABORTED };
    let Some(root) = kernel.root() else { return XDP_ABORTED };
    let captured = CAPTURE && capture::came(ctx);
    let (mut frame, flow) = (Frame::<false>::new(ctx.ctx), flow());
    if kernel.has(root, features::SEVERAL) {
        flow.interface = frame.interface();
    }
    let verdict = match classify(&mut frame, &kernel, root, flow) {
        Ok(()) => match hand_over(ctx, &mut frame, &kernel, root, flow, captured) {
            Some(action) => return action,
            None => finish(&mut frame, &kernel, root, flow),
        },
        Err(stop) => Verdict::stopped(stop),
    };
    if verdict.is_again() {
        if CAPTURE {
            capture::set_again(true);
        }
        again(ctx);
        if CAPTURE {
            capture::set_again(false);
        }
    }
    account(&verdict, flow, &kernel);
    if kernel.has(root, features::SEVERAL) && (verdict.is_forwarded() || verdict.is_reply()) {
        if captured {
            capture::went(ctx, &verdict, exit(&kernel, flow, &verdict));
        }
        return leave(&kernel, flow, &verdict);
    }
    if captured {
        capture::went(ctx, &verdict, 0);
    }
    xdp(verdict.action())
}

/// Sends a frame on by the interface that its way has.
#[inline(always)]
fn leave(kernel: &Kernel, flow: &Flow, verdict: &Verdict) -> u32 {
    let interface = exit(kernel, flow, verdict);
    if interface == 0 {
        return XDP_TX;
    }
    DEVICES.redirect(interface, XDP_DROP as u64).unwrap_or_else(|action| {
        count_seat(kernel, SeatCounter::NoInterface, 1);
        action
    })
}

#[inline(always)]
fn xdp(action: Action) -> u32 {
    match action {
        Action::Tx => XDP_TX,
        Action::Pass => XDP_PASS,
        Action::Drop => XDP_DROP,
    }
}

/// Gives the frame to its queue's worker, if the mode is afxdp and there is one.
///
/// A queue without a socket (a worker that died, a queue that was added) is served here, and that is counted. So is, without
/// being counted, what the host may have to get: a worker cannot give anything to it.
#[inline(always)]
fn hand_over(ctx: &XdpContext, frame: &mut Frame, kernel: &Kernel, root: &Root, flow: &Flow, captured: bool) -> Option<u32> {
    if !root.is_mode(Mode::Afxdp) {
        return None;
    }
    if kernel.has(root, features::LOCAL) && (flow.vip.flags & LOCAL != 0 || flow.part == Part::Later) {
        return None;
    }
    let queue = frame.rx_queue();
    let place = if kernel.has(root, features::SEVERAL) { lane(flow.interface, queue) } else { Some(queue) };
    let Some(place) = place.filter(|place| XSKS.get(*place).is_some()) else {
        count_seat(kernel, SeatCounter::NoSocket, 1);
        return None;
    };
    let mark = if captured { capture::mark() } else { 0 };
    if !handover::make_room(frame, kernel, flow, mark) {
        let verdict = Verdict::stop(Reason::NoHeadroom);
        account(&verdict, flow, kernel);
        if captured {
            capture::went(ctx, &verdict, 0);
        }
        return Some(XDP_DROP);
    }
    count_seat(kernel, SeatCounter::HandedOver, 1);
    Some(XSKS.redirect(place, 0).unwrap_or(XDP_DROP))
}
