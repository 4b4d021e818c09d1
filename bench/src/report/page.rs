//! `index.html`: everything in one file, without a script and without the network.

use std::fmt::Write as _;

use anyhow::Result;

use super::charts::charts;
use super::{meaning, per_cent, rate, value};
use crate::results::{Kind, Results, Run};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:980px;margin:2em auto;padding:0 1em;color:#222}\
h1{font-size:1.5em}h2{font-size:1.2em;margin-top:2em}table{border-collapse:collapse;font-size:13px;margin:1em 0}\
th,td{border-bottom:1px solid #ddd;padding:3px 9px;text-align:right;vertical-align:top}th:first-child,td:first-child,td.l,th.l{text-align:left}td{white-space:nowrap}td.why{white-space:normal;min-width:12em}\
.caveat{background:#fff3cd;border:1px solid #e0c060;padding:.7em 1em;border-radius:4px}\
tr.invalid td{text-decoration:line-through;color:#999}tr.invalid td.why{text-decoration:none;color:#b00020}\
svg{max-width:100%;height:auto;border:1px solid #eee;margin:.5em 0}code,pre{font:12px/1.4 ui-monospace,monospace}pre{background:#f6f6f6;padding:.7em;overflow:auto}";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The page.
///
/// # Errors
/// A chart cannot be drawn.
pub fn page(results: &Results) -> Result<String> {
    let manifest = &results.manifest;
    let mut html = String::new();
    write!(
        html,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Tandem benchmark</title><style>{STYLE}</style></head><body>"
    )?;
    // What the numbers cannot show comes before any of them.
    if let Some(caveat) = manifest.caveat() {
        write!(html, "<p class=\"caveat\"><strong>{}</strong></p>", escape(caveat))?;
    }
    if let Some((seat, nanos)) = &manifest.method.delay {
        write!(
            html,
            "<p class=\"caveat\"><strong>An artificial delay of {nanos} ns was put in front of {}.</strong></p>",
            escape(seat)
        )?;
    }
    if manifest.profile != "release" {
        write!(
            html,
            "<p class=\"caveat\"><strong>A {} build: in-memory and userspace rows say nothing.</strong></p>",
            manifest.profile
        )?;
    }
    write!(html, "<h1>Tandem: kernel XDP against AF_XDP</h1><p><code>{}</code><br>", escape(&manifest.command))?;
    let invalid = results.runs.iter().filter(|run| !run.valid).count();
    write!(
        html,
        "{}, {} cores, Linux {}; revision {}; {} rows, {invalid} of them invalid; took {:.0} s.</p>",
        escape(&manifest.host.cpu),
        manifest.host.cores,
        escape(&manifest.host.kernel),
        escape(&manifest.revision),
        results.runs.len(),
        manifest.took
    )?;
    let drawn = charts(results)?;
    for (name, svg) in &drawn {
        write!(html, "<figure id=\"chart-{name}\" style=\"margin:0\">{svg}</figure>")?;
    }
    legend(&mut html, results)?;
    for (kind, title) in [
        (Kind::Throughput, "Highest rate, and CPU time at 60 % of it"),
        (Kind::LossFree, "Highest rate without loss"),
        (Kind::Latency, "Latency: p50 / p99 / p999"),
        (Kind::InMemory, "The core alone"),
    ] {
        table(&mut html, results, kind, title)?;
    }
    invalid_repeats(&mut html, results)?;
    write!(html, "<h2>Manifest</h2>")?;
    if !manifest.skipped.is_empty() {
        write!(html, "<p>Left out: {}</p>", escape(&manifest.skipped.join("; ")))?;
    }
    writeln!(html, "<pre>{}</pre></body></html>", escape(&serde_json::to_string_pretty(manifest)?))?;
    Ok(html)
}

fn legend(html: &mut String, results: &Results) -> Result<()> {
    let mut modes: Vec<_> = results.runs.iter().map(|run| run.mode).collect();
    modes.sort_unstable();
    modes.dedup();
    write!(html, "<h2>What forwards</h2><table>")?;
    for mode in modes {
        write!(html, "<tr><td>{}</td><td class=\"l\">{}</td></tr>", mode.name(), meaning(mode))?;
    }
    write!(
        html,
        "</table><p>Received: frames that reached the device, by its own counters. Forwarded: frames that came back to the receiver with \
         the right length of headers and port; sampled ones were compared byte for byte with what the engine says they must be. \
         Error bars: least and greatest of the valid repeats.</p>"
    )?;
    Ok(())
}

fn table(html: &mut String, results: &Results, kind: Kind, title: &str) -> Result<()> {
    if results.of(kind).next().is_none() {
        return Ok(());
    }
    write!(
        html,
        "<h2>{title}</h2><table><tr><th>{}</th><th class=\"l\">mode</th><th class=\"l\">bound</th><th>median</th><th>least</th><th>most</th>\
         <th>offered</th><th>received</th><th>lost</th><th>CPU, ns</th><th>hit ratio</th><th>expected</th><th>repeats</th><th class=\"l\"></th></tr>",
        if kind == Kind::InMemory { "flows" } else { "scenario" }
    )?;
    for run in results.of(kind) {
        row(html, run)?;
    }
    write!(html, "</table>")?;
    Ok(())
}

fn row(html: &mut String, run: &Run) -> Result<()> {
    let class = if run.valid { "" } else { " class=\"invalid\"" };
    let name = if run.kind == Kind::InMemory { run.spread.to_string() } else { run.scenario.clone() };
    let number = |value: f64| match run.kind {
        Kind::Throughput | Kind::LossFree => rate(value),
        Kind::Latency | Kind::InMemory => format!("{value:.1}"),
    };
    let why: Vec<String> = run.invalid_because.iter().map(|reason| escape(&reason.what)).collect();
    let has_rates = run.kind != Kind::InMemory;
    let rates = |value: f64| if has_rates { rate(value) } else { "–".to_owned() };
    write!(
        html,
        "<tr{class}><td>{}</td><td class=\"l\">{}</td><td class=\"l\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
         <td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"l why\">{}</td></tr>",
        escape(&name),
        run.mode.name(),
        escape(&run.bound),
        value(run),
        number(run.repeats.min),
        number(run.repeats.max),
        rates(run.offered_pps),
        rates(run.received_pps),
        if has_rates { run.lost.to_string() } else { "–".to_owned() },
        run.ns_per_packet.map_or_else(|| "–".to_owned(), |nanos| format!("{nanos:.0}")),
        per_cent(run.flow_hit_ratio),
        per_cent(run.expected_hit_ratio),
        run.repeats.count,
        why.join("; ")
    )?;
    Ok(())
}

/// Shown, crossed out, never averaged in.
fn invalid_repeats(html: &mut String, results: &Results) -> Result<()> {
    let rows = results.runs.iter().filter(|run| run.kind != Kind::LossFree);
    let invalid: Vec<_> = rows
        .flat_map(|run| run.repeats.all.iter().filter(|repeat| !repeat.is_valid()).map(move |repeat| (run, repeat)))
        .collect();
    if invalid.is_empty() {
        return Ok(());
    }
    write!(
        html,
        "<h2>Repeats that do not count</h2><table><tr><th>scenario</th><th class=\"l\">mode</th><th>repeat</th><th>forwarded</th><th class=\"l\">why</th></tr>"
    )?;
    for (run, repeat) in invalid {
        let why: Vec<String> = repeat.invalid_because.iter().map(|reason| escape(&reason.what)).collect();
        let again = if repeat.rerun > 0 { format!(" (again, {})", repeat.rerun) } else { String::new() };
        write!(
            html,
            "<tr class=\"invalid\"><td>{}</td><td class=\"l\">{}</td><td>{}{again}</td><td>{}</td><td class=\"l why\">{}</td></tr>",
            escape(&run.scenario),
            run.mode.name(),
            repeat.number,
            rate(repeat.forwarded_pps),
            why.join("; ")
        )?;
    }
    write!(html, "</table>")?;
    Ok(())
}
