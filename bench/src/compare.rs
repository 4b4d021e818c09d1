//! Two results side by side: which rows changed beyond noise.

use std::fmt::Write as _;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::device::Mode;
use crate::results::{Kind, Results, Run};
use crate::statistics::{Ratio, ratio};

/// A change must be at least so large, as a share: a run of an hour ago differs by as much without any reason.
pub const LEAST: f64 = 0.02;

/// A row of both.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Row {
    /// What is measured.
    pub kind: Kind,
    /// The scenario.
    pub scenario: String,
    /// Its spread, or the flows.
    pub spread: u32,
    /// What forwards.
    pub mode: Mode,
    /// What is compared: `pps`, `ns` or `p50`.
    pub what: &'static str,
    /// Median of the first.
    pub before: f64,
    /// Median of the second.
    pub after: f64,
    /// The second over the first.
    pub ratio: f64,
    /// The bootstrap interval.
    pub interval: (f64, f64),
    /// Beyond noise.
    pub changed: bool,
}

/// All rows that both have and that count in both.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Comparison {
    /// In what the environments differ: names with both values.
    pub environments: Vec<(String, String, String)>,
    /// The rows.
    pub rows: Vec<Row>,
    /// Rows that only one has, or that do not count.
    pub left_out: usize,
}

/// Why results are not compared.
#[derive(Debug, thiserror::Error)]
#[error("the environments differ, so the numbers do not compare ({differences}); --force compares them all the same")]
pub struct OtherEnvironment {
    differences: String,
}

/// Compares; `least` is the smallest change that counts, as a share.
///
/// # Errors
/// [`OtherEnvironment`], unless told to go on.
pub fn compare(before: &Results, after: &Results, least: f64, force: bool) -> Result<Comparison, OtherEnvironment> {
    let environments = before.manifest.differences(&after.manifest);
    if !environments.is_empty() && !force {
        let named: Vec<String> = environments.iter().map(|(name, a, b)| format!("{name}: {a} and {b}")).collect();
        return Err(OtherEnvironment { differences: named.join("; ") });
    }
    let mut comparison = Comparison { environments, rows: Vec::new(), left_out: 0 };
    for run in &before.runs {
        let same = |other: &&Run| {
            (other.kind, &other.scenario, other.spread, other.mode) == (run.kind, &run.scenario, run.spread, run.mode)
                && (run.kind != Kind::Latency || (other.offered_pps / run.offered_pps.max(1.0) - 1.0).abs() < 0.1)
        };
        match after.runs.iter().find(same).filter(|other| other.valid && run.valid) {
            Some(other) => comparison.rows.extend(rows(run, other, least)),
            None => comparison.left_out += 1,
        }
    }
    comparison.left_out += after.runs.len().saturating_sub(before.runs.len());
    Ok(comparison)
}

/// What two runs of one row say: values of all valid repeats.
fn rows(before: &Run, after: &Run, least: f64) -> Vec<Row> {
    let of = |run: &Run, f: &dyn Fn(&crate::results::Repeat) -> Option<f64>| -> Vec<f64> {
        run.repeats.all.iter().filter(|repeat| repeat.is_valid()).filter_map(f).collect()
    };
    let mut rows = Vec::new();
    let mut add = |what, before_values: Vec<f64>, after_values: Vec<f64>| {
        let Some(found) = ratio(&before_values, &after_values) else { return };
        let Ratio { ratio, low, high } = found;
        rows.push(Row {
            kind: before.kind,
            scenario: before.scenario.clone(),
            spread: before.spread,
            mode: before.mode,
            what,
            before: crate::statistics::median(&before_values),
            after: crate::statistics::median(&after_values),
            ratio,
            interval: (low, high),
            // One value on each side has no spread to be judged by.
            changed: before_values.len() > 2 && after_values.len() > 2 && found.is_change(least),
        });
    };
    match before.kind {
        Kind::Throughput => {
            add("pps", of(before, &|repeat| before.value(repeat)), of(after, &|repeat| after.value(repeat)));
            add("ns", of(before, &|repeat| repeat.ns_per_packet), of(after, &|repeat| repeat.ns_per_packet));
        }
        Kind::InMemory => add("ns", of(before, &|repeat| repeat.ns_per_packet), of(after, &|repeat| repeat.ns_per_packet)),
        Kind::LossFree => add("pps", vec![before.repeats.median], vec![after.repeats.median]),
        Kind::Latency => add("p50", vec![before.repeats.median], vec![after.repeats.median]),
    }
    rows
}

impl Comparison {
    /// The rows that changed.
    pub fn changed(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.changed)
    }

    /// As a table, and what it comes to.
    pub fn text(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY);
        table.set_header(["scenario", "mode", "what", "before", "after", "ratio", "95 % interval", ""]);
        for column in 3..7 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for row in &self.rows {
            let name = if row.kind == Kind::InMemory { format!("{} flows, in memory", row.spread) } else { row.scenario.clone() };
            let number = |value: f64| if row.what == "pps" { super::report::rate(value) } else { format!("{value:.1}") };
            table.add_row([
                name,
                row.mode.name().to_owned(),
                row.what.to_owned(),
                number(row.before),
                number(row.after),
                format!("{:.3}", row.ratio),
                format!("{:.3} … {:.3}", row.interval.0, row.interval.1),
                if row.changed { "CHANGED" } else { "" }.to_owned(),
            ]);
        }
        let mut text = format!("{table}\n");
        for (name, before, after) in &self.environments {
            let _ = writeln!(text, "the environments differ: {name}: {before} and {after}");
        }
        let changed = self.changed().count();
        let _ = match changed {
            0 => writeln!(text, "no change beyond noise in {} rows ({} left out)", self.rows.len(), self.left_out),
            _ => writeln!(text, "{changed} of {} rows changed beyond noise ({} left out)", self.rows.len(), self.left_out),
        };
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;
    use crate::results::Repeat;
    use crate::scenario::Rng;

    fn results(seed: u64, nanos: f64) -> Results {
        let mut rng = Rng(seed);
        let mut run = Run::new(Kind::InMemory, "in-memory", 1000, Mode::Xdp);
        run.repeats.all =
            (0..15).map(|_| Repeat { ns_per_packet: Some(nanos * (0.99 + 0.02 * rng.unit())), ..Repeat::default() }).collect();
        run.settle(15);
        Results { manifest: Manifest::default(), runs: vec![run] }
    }

    #[test]
    fn a_change_is_named_and_noise_is_not() {
        let same = compare(&results(1, 200.0), &results(2, 200.0), LEAST, false).unwrap();
        assert_eq!((same.changed().count(), same.rows.len()), (0, 1));
        assert!(same.text().contains("no change beyond noise in 1 rows"));
        let slower = compare(&results(1, 200.0), &results(2, 230.0), LEAST, false).unwrap();
        assert_eq!(slower.changed().count(), 1);
        assert!(slower.text().contains("CHANGED"), "{}", slower.text());
    }

    #[test]
    fn other_environments_are_refused_by_name() {
        let (before, mut after) = (results(1, 200.0), results(2, 200.0));
        after.manifest.host.cores = 64;
        let error = compare(&before, &after, LEAST, false).unwrap_err().to_string();
        assert!(error.contains("host.cores: 0 and 64") && error.contains("--force"), "{error}");
        assert_eq!(compare(&before, &after, LEAST, true).unwrap().environments.len(), 1);
    }
}
