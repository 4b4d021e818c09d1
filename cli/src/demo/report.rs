//! What the demo shows at the end: one table, and whether each promise was kept.

use std::fmt::Write;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use tandem_lab::Host;
use tandem_lab::iperf3::{Kind, Measured};

use super::load::{Requests, Through, kind_name, over, rate};
use super::stage::{Counted, SEATS};
use super::switches::Switched;

/// Switches that transfers have to survive for the promise to count; fewer if fewer were asked for.
const SWITCHES: u32 = 10;

/// Something that was promised.
pub struct Promise {
    /// In words, with what was found.
    pub text: String,
    /// Was it kept?
    pub kept: bool,
}

fn promise(kept: bool, text: String) -> Promise {
    Promise { text, kept }
}

/// The promises about one seat.
pub fn of_seat(through: &Through, wanted: usize) -> Vec<Promise> {
    let seat = through.seat;
    let sum = |count: fn(&Requests) -> usize| through.requests.iter().map(count).sum::<usize>();
    let (succeeded, as_traced) = (sum(|part| part.succeeded), sum(|part| part.as_traced));
    let fault = through.requests.iter().find_map(|part| part.fault.as_deref());
    let fault = fault.map_or(String::new(), |fault| format!("; first: {fault}"));
    let (own, other) = through.frames;
    let mut promises = vec![
        promise(succeeded == wanted, format!("{seat}: {succeeded} of {wanted} HTTP requests answered{fault}")),
        promise(
            as_traced == wanted,
            format!("{seat}: {as_traced} of {wanted} connections reached the real that `tandem trace` names"),
        ),
        // The last acknowledgements of what came before may go through either.
        promise(own > 0 && other * 100 <= own, format!("{seat}: this seat forwarded {own} frames, the other one {other}")),
        match &through.curl {
            Ok(real) => promise(true, format!("{seat}: curl was answered by {real}")),
            Err(words) => promise(false, format!("{seat}: curl was not answered: {words}")),
        },
    ];
    promises.extend(through.throughput.iter().map(|(measured, forwarded)| {
        let moved = measured.fault.is_none() && measured.received > 0.0;
        let result = measured.fault.clone().unwrap_or_else(|| throughput(measured, *forwarded));
        promise(moved, format!("{seat}: iperf3 over {}: {result}", kind_name(measured.kind)))
    }));
    promises
}

/// Rate and, over UDP, where datagrams were lost: a real whose program does not read fast enough drops them too.
fn throughput(measured: &Measured, forwarded: u64) -> String {
    let rate = rate(measured.received);
    match measured.kind {
        Kind::Tcp => rate,
        Kind::Udp(_) => {
            let passed = forwarded.min(measured.datagrams);
            format!(
                "{rate}; the balancer forwarded {passed} of {} datagrams, {} were lost at the real",
                measured.datagrams,
                measured.lost.saturating_sub(measured.datagrams - passed)
            )
        }
    }
}

/// The promises about the switches.
pub fn of_switches(switched: &Switched, wanted: u32) -> Vec<Promise> {
    let Switched { during, outcomes, frames, slowest } = switched;
    let faults: Vec<_> = outcomes.iter().filter_map(|outcome| Some((outcome, outcome.fault.as_deref()?))).collect();
    let whole = outcomes.len() - faults.len();
    let mut text = format!("live: {whole} of {} transfers arrived whole: no reset, no byte changed", outcomes.len());
    for (outcome, fault) in &faults {
        // Writing to a String cannot fail.
        let _ = write!(text, "; {:?} {} > {}: {fault}", outcome.direction, outcome.source, outcome.target);
    }
    let all: u64 = frames.iter().sum();
    let parts = SEATS.iter().zip(frames).map(|((_, seat), n)| format!("{seat} {:.0} %", percent(*n as f64, all as f64)));
    vec![
        promise(
            *during >= wanted.min(SWITCHES),
            format!("live: {during} switches while all of them ran, the slowest in {slowest:.1?}"),
        ),
        promise(faults.is_empty(), text),
        promise(
            frames.iter().all(|n| n * 10 > all),
            format!("live: both seats forwarded more than 10 % of the {all} frames: {}", parts.collect::<Vec<_>>().join(", ")),
        ),
    ]
}

/// The promise about what must never happen.
pub fn of_counters(counted: &Counted) -> Promise {
    let (defect, no_socket) = (counted.seats("defect"), counted.seats("no-socket"));
    let shown = |count: Option<u64>| count.map_or("not counted".to_owned(), |count| count.to_string());
    let text = format!("no frame went astray between the seats: defect {}, no-socket {}", shown(defect), shown(no_socket));
    promise(defect == Some(0) && no_socket == Some(0), text)
}

/// The promise about the end.
pub fn of_teardown(left: &[String]) -> Promise {
    let text = if left.is_empty() {
        "nothing is left: no namespace, link, pin, process or socket".to_owned()
    } else {
        format!("left behind: {}", left.join(", "))
    };
    promise(left.is_empty(), text)
}

/// The table.
pub fn table(seats: &[Through], switched: &Switched, iperf3_real: Host) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header(["seat", "traffic", "tried", "good", "as traced", "share per real (predicted)", "rate"]);
    for through in seats {
        for part in &through.requests {
            let per_second = part.tried as f64 / part.time.as_secs_f64().max(1e-9);
            let counts = [part.tried, part.succeeded, part.as_traced].map(|n| n.to_string());
            let [tried, good, as_traced] = counts;
            let rate = format!("{per_second:.0} requests/s");
            table.add_row([through.seat.to_owned(), over(&part.service), tried, good, as_traced, shares(part), rate]);
        }
        for (measured, _) in &through.throughput {
            let good = u8::from(measured.fault.is_none()).to_string();
            let lost = percent(measured.lost as f64, measured.datagrams as f64);
            let lost = if measured.datagrams > 0 { format!(", {lost:.1} % lost") } else { String::new() };
            let traffic = format!("iperf3 {} {}", kind_name(measured.kind), measured.target);
            let rate = rate(measured.received) + &lost;
            table.add_row([through.seat.to_owned(), traffic, "1".into(), good, "".into(), iperf3_real.to_string(), rate]);
        }
    }
    let good = switched.outcomes.iter().filter(|outcome| outcome.fault.is_none()).count();
    let (bytes, seconds) = switched.outcomes.iter().fold((0, 0.0_f64), |(b, s), o| (b + o.bytes, s.max(o.seconds)));
    let traffic = format!("HTTP uploads and downloads, {} switches", switched.during);
    let (tried, rate) = (switched.outcomes.len().to_string(), rate(bytes as f64 * 8.0 / seconds.max(1e-9)));
    table.add_row(["both".to_owned(), traffic, tried, good.to_string(), "".into(), by_real(switched), rate]);
    for column in 2..5 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// `33.1 (33.1) 33.5 (33.5) 33.4 (33.4) %`, in the order of the reals.
fn shares(part: &Requests) -> String {
    let share = |n: usize| percent(n as f64, part.tried as f64);
    let shares = part.shares.values().map(|(found, named)| format!("{:.1} ({:.1})", share(*found), share(*named)));
    shares.collect::<Vec<_>>().join("  ") + " %"
}

/// `real1 2, real3 4`.
fn by_real(switched: &Switched) -> String {
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for outcome in &switched.outcomes {
        *counts.entry(outcome.real.as_deref().unwrap_or("nobody")).or_default() += 1;
    }
    counts.iter().map(|(real, n)| format!("{real} {n}")).collect::<Vec<_>>().join(", ")
}

fn percent(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part * 100.0 / whole } else { 0.0 }
}
