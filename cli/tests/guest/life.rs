//! The balancer's life on this kernel: both ways of attachment in both modes, the live switch, and a restart that keeps its flows.

use std::path::PathBuf;

use tandem_backends::config::Attach;
use tandem_backends::run::{Handle, ModeName, Options, Reply, Request};
use tandem_backends::xdp::{SlotWish, attach_root, detach_root, put_tap};

use super::report::Report;
use super::running::{PLAIN_LINK, Stand, comes_back, forwarded};

const FLOWS: u16 = 20;

pub fn run(report: &mut Report) {
    let stand = |attach, mode| Stand { lines: PLAIN_LINK, far: &["far0"], interface: "lb0", attach, node: "", mode };
    for attach in ["native", "generic"] {
        for mode in ["xdp", "afxdp"] {
            report.result(&format!("mode {mode}, {attach}"), stand(attach, mode).run(|handle| forwards(handle, mode)));
        }
    }
    report.result("live switch, there and back", stand("native", "xdp").run(switches));
    let kept = stand("native", "xdp");
    report.result("a restart keeps flows, counters and the frames between", kept.set_up(|| restarts(&kept)));
    report.result("in a slot of a root, behind a tap", kept.set_up(|| behind_a_tap(&kept)));
}

fn behind_a_tap(stand: &Stand) -> Result<(), String> {
    let path = PathBuf::from(format!("/sys/fs/bpf/guest-root-{}", std::process::id()));
    attach_root(stand.interface, Attach::Native, &path).map_err(|error| format!("root: {error}"))?;
    let tapped = put_tap(&path, 0).map_err(|error| format!("tap: {error}"));
    let slot = Some(SlotWish { path: path.clone(), slot: 2 });
    let done = tapped.and_then(|()| stand.balance_by(Options { slot, ..Options::default() }, |handle| forwards(handle, "xdp")));
    detach_root(&path).map_err(|error| error.to_string())?;
    done
}

/// The seat of the mode forwards, and only it.
fn forwards(handle: &Handle, mode: &str) -> Result<(), String> {
    comes_back(5000)?;
    let [xdp, afxdp] = forwarded(handle)?;
    let (own, other) = if mode == "xdp" { (xdp, afxdp) } else { (afxdp, xdp) };
    if own > 0 && other == 0 { Ok(()) } else { Err(format!("forwarded by xdp {xdp}, by afxdp {afxdp}")) }
}

fn switches(handle: &Handle) -> Result<(), String> {
    let mut before = [0, 0];
    for (mode, seat) in [(ModeName::Xdp, 0), (ModeName::Afxdp, 1), (ModeName::Xdp, 0)] {
        handle.ask(Request::SetMode(mode)).map_err(|error| format!("{mode:?}: {error}"))?;
        (0..FLOWS).try_for_each(|flow| comes_back(5000 + flow)).map_err(|why| format!("{mode:?}: {why}"))?;
        let now = forwarded(handle)?;
        let moved = [now[0] - before[0], now[1] - before[1]];
        if moved[seat] < u64::from(FLOWS) || moved[1 - seat] > 0 {
            return Err(format!("{mode:?}: forwarded by xdp {}, by afxdp {}", moved[0], moved[1]));
        }
        before = now;
    }
    known(handle)
}

/// Each flow is in the table once.
fn known(handle: &Handle) -> Result<(), String> {
    match handle.ask(Request::FlowRows) {
        Ok(Reply::FlowRows(rows)) if rows.iter().map(|row| row.flows.flows).sum::<u64>() == u64::from(FLOWS) => Ok(()),
        other => Err(format!("not {FLOWS} flows: {other:?}")),
    }
}

fn restarts(stand: &Stand) -> Result<(), String> {
    let mut before = 0;
    stand.balance(true, |handle| {
        (0..FLOWS).try_for_each(|flow| comes_back(5000 + flow))?;
        [before, _] = forwarded(handle)?;
        known(handle)
    })?;
    comes_back(5000).map_err(|why| format!("without a process: {why}"))?;
    stand.balance(false, |handle| {
        let [now, _] = forwarded(handle)?;
        if now <= before {
            return Err(format!("{now} frames counted after {before}"));
        }
        known(handle)
    })
}
