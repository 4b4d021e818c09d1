//! Results for people: tables in the terminal, a page with charts.

mod charts;
mod page;
mod table;

pub use page::page;
pub use table::{numbers, summary};

use crate::device::Mode;
use crate::results::{Kind, Run};

/// Millions, thousands or ones, as people read them.
pub(crate) fn rate(pps: f64) -> String {
    if pps >= 1e6 {
        format!("{:.2} M/s", pps / 1e6)
    } else if pps >= 1e3 {
        format!("{:.1} k/s", pps / 1e3)
    } else {
        format!("{pps:.0} /s")
    }
}

/// A share as per cent.
pub(crate) fn per_cent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), |share| format!("{:.2} %", share * 100.0))
}

/// What a mode is, in a few words.
pub(crate) fn meaning(mode: Mode) -> &'static str {
    match mode {
        Mode::Xdp => "Tandem in the kernel (XDP)",
        Mode::Afxdp => "Tandem in userspace (AF_XDP)",
        Mode::Drop => "drop at the device (what generator and interface can do)",
        Mode::Bounce => "bare XDP_TX",
        Mode::FixedHeader => "fixed IPIP header, no lookup (limit of the kernel seat)",
        Mode::AfxdpPlain => "AF_XDP forwarder without lookups (limit of the userspace seat)",
        Mode::Program => "another XDP program",
        Mode::Bytecode => "the kernel seat's bytecode in userspace (rbpf)",
    }
}

/// The value of a row with its unit.
pub(crate) fn value(run: &Run) -> String {
    match run.kind {
        Kind::Throughput | Kind::LossFree => rate(run.repeats.median),
        Kind::Latency => run.latency_us.map_or_else(String::new, |l| format!("{:.1} / {:.1} / {:.1} µs", l.p50, l.p99, l.p999)),
        Kind::InMemory => format!("{:.1} ns", run.repeats.median),
    }
}
