//! Tables for the terminal, and for the README.

use std::fmt::Write as _;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};

use super::{per_cent, rate, value};
use crate::device::Mode;
use crate::results::{Kind, Results, Run};

/// Every row, valid or not.
pub fn summary(results: &Results) -> String {
    let mut text = String::new();
    if let Some(caveat) = results.manifest.caveat() {
        text.push_str(caveat);
        text.push_str("\n\n");
    }
    for (kind, title) in [
        (Kind::Throughput, "highest rate, frames back at the receiver; CPU time of the device for each at 60 % of it"),
        (Kind::LossFree, "highest rate without loss"),
        (Kind::Latency, "latency from generator to receiver, p50 / p99 / p999"),
        (Kind::InMemory, "the core alone, CPU time of a packet whose flow is known, by number of flows"),
    ] {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY);
        table.set_header(["scenario", "mode", "bound", "median", "least … most", "CPU", "hit ratio", "expected", ""]);
        for column in [3, 4, 5, 6, 7] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for run in results.of(kind) {
            table.add_row(row(run));
        }
        if results.of(kind).next().is_some() {
            let _ = writeln!(text, "{title}\n{table}\n");
        }
    }
    text
}

fn row(run: &Run) -> [String; 9] {
    let scenario = if run.kind == Kind::InMemory { format!("{} flows", run.spread) } else { run.scenario.clone() };
    let spread = match run.kind {
        Kind::Throughput => format!("{} … {}", rate(run.repeats.min), rate(run.repeats.max)),
        Kind::InMemory => format!("{:.1} … {:.1}", run.repeats.min, run.repeats.max),
        Kind::LossFree => String::new(),
        Kind::Latency => format!("at {}", rate(run.offered_pps)),
    };
    let cpu = if run.kind == Kind::InMemory { None } else { run.ns_per_packet };
    [
        scenario,
        run.mode.name().to_owned(),
        run.bound.clone(),
        value(run),
        spread,
        cpu.map_or_else(String::new, |nanos| format!("{nanos:.0} ns")),
        per_cent(run.flow_hit_ratio),
        per_cent(run.expected_hit_ratio),
        verdict(run),
    ]
}

/// Why a row does not count, or how often a repeat had to be measured again.
fn verdict(run: &Run) -> String {
    let again = run.repeats.all.iter().filter(|repeat| repeat.rerun > 0).count();
    match (run.valid, run.invalid_because.first()) {
        (true, _) if run.kind == Kind::Throughput && again > 0 => format!("valid, {again} again"),
        (true, _) => "valid".to_owned(),
        (false, Some(reason)) => format!("INVALID: {}", reason.what),
        (false, None) => "INVALID".to_owned(),
    }
}

/// The README's section, in Markdown.
pub fn numbers(results: &Results) -> String {
    let manifest = &results.manifest;
    let host = &manifest.host;
    let virtual_machine = if host.is_virtual { ", a virtual machine" } else { "" };
    let mut text = format!(
        "`{}` on {} ({} cores{virtual_machine}), Linux {}, revision {}. Medians of {} repeats; generator on core {}, device under \
         test on core {:?}.\n\n",
        manifest.command.replace('`', ""),
        host.cpu,
        host.cores,
        host.kernel.split(' ').next().unwrap_or_default(),
        manifest.revision,
        manifest.method.repeats,
        manifest.method.generator_core,
        manifest.method.forwarding_cores,
    );
    if let Some(caveat) = manifest.caveat() {
        let _ = writeln!(text, "{caveat}\n");
    }
    let modes: Vec<Mode> = Mode::KNOWN.into_iter().filter(|mode| results.runs.iter().any(|run| run.mode == *mode)).collect();
    for (kind, title) in
        [(Kind::Throughput, "Highest rate, million frames a second"), (Kind::InMemory, "The core alone, ns of CPU time a packet")]
    {
        let mut rows: Vec<(&str, u32)> = results.of(kind).map(|run| (run.scenario.as_str(), run.spread)).collect();
        rows.dedup();
        let columns: Vec<Mode> = modes.iter().copied().filter(|mode| results.of(kind).any(|run| run.mode == *mode)).collect();
        if rows.is_empty() {
            continue;
        }
        let names: Vec<&str> = columns.iter().map(|mode| mode.name()).collect();
        let what = if kind == Kind::InMemory { "flows" } else { "scenario" };
        let _ = writeln!(text, "{title}:\n\n| {what} | {} |\n|---|{}", names.join(" | "), "---|".repeat(columns.len()));
        for (scenario, spread) in rows {
            let cell = |mode: &Mode| {
                let run = results.of(kind).find(|run| run.scenario == scenario && run.spread == spread && run.mode == *mode);
                run.map_or_else(String::new, |run| match (run.valid, kind) {
                    (false, _) => "invalid".to_owned(),
                    (true, Kind::InMemory) => format!("{:.0}", run.repeats.median),
                    (true, _) => format!("{:.2}", run.repeats.median / 1e6),
                })
            };
            let name = if kind == Kind::InMemory { spread.to_string() } else { format!("`{scenario}`") };
            let _ = writeln!(text, "| {name} | {} |", columns.iter().map(cell).collect::<Vec<_>>().join(" | "));
        }
        text.push('\n');
    }
    text
}
