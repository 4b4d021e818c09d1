//! The balancer's life on this kernel: both ways of attachment in both modes, the live switch, and a restart that keeps its flows.

use tandem_backends::run::{Handle, ModeName, Reply, Request};

use super::report::Report;
use super::running::{PLAIN_LINK, Stand, comes_back, forwarded};

const FLOWS: u16 = 20;

pub fn run(report: &mut Report) {
    let stand = |attach, mode| Stand { lines: PLAIN_LINK, far: &["far0"], interface: "lb0", attach, mode };
    for attach in ["native", "generic"] {
        for mode in ["xdp", "afxdp"] {
            report.result(&format!("mode {mode}, {attach}"), stand(attach, mode).run(|handle| forwards(handle, mode)));
        }
    }
    report.result("live switch, there and back", stand("native", "xdp").run(switches));
    let kept = stand("native", "xdp");
    report.result("a restart keeps flows, counters and the frames between", kept.set_up(|| restarts(&kept)));
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
