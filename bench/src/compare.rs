//! Two results side by side: which rows changed beyond noise.

use std::fmt::Write as _;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::device::Mode;
use crate::results::{Kind, Repeat, Results, Run};
use crate::statistics::{median, ratio};

/// A change must be at least so large, as a share: a run of an hour ago differs by as much without any reason.
pub const LEAST: f64 = 0.02;
/// Of two results without any difference, one pair in so many has a row that is called changed.
const ONE_IN: f64 = 20.0;

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
    /// The [yardstick](crate::yardstick)'s time beside the second over that beside the first: above 1, the machine was slower.
    pub machine: Option<f64>,
    /// The second over the first, as if the machine had been as fast: times are divided by the yardstick's, rates multiplied.
    pub ratio: f64,
    /// Its bootstrap interval.
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
    let (mut pairs, mut left_out) = (Vec::new(), after.runs.len().saturating_sub(before.runs.len()));
    for run in &before.runs {
        let same = |other: &&Run| {
            (other.kind, &other.scenario, other.spread, other.mode) == (run.kind, &run.scenario, run.spread, run.mode)
                && (run.kind != Kind::Latency || (other.offered_pps / run.offered_pps.max(1.0) - 1.0).abs() < 0.1)
        };
        match after.runs.iter().find(same).filter(|other| other.valid && run.valid) {
            Some(other) => pairs.extend(series(run, other)),
            None => left_out += 1,
        }
    }
    // Each row has its part of the error that all of them may make (Bonferroni).
    let confidence = 1.0 - 1.0 / ONE_IN / pairs.len().max(1) as f64;
    let rows = pairs.iter().filter_map(|pair| pair.row(confidence, least)).collect();
    Ok(Comparison { environments, rows, left_out })
}

/// One number of a row in both results: each valid repeat's value, and its yardstick's time.
struct Pair<'a> {
    run: &'a Run,
    what: &'static str,
    before: Vec<(f64, Option<f64>)>,
    after: Vec<(f64, Option<f64>)>,
}

impl Pair<'_> {
    fn row(&self, confidence: f64, least: f64) -> Option<Row> {
        let values = |series: &[(f64, Option<f64>)]| -> Vec<f64> { series.iter().map(|(value, _)| *value).collect() };
        let yardsticks = |series: &[(f64, Option<f64>)]| -> Option<Vec<f64>> {
            series.iter().map(|(_, yardstick)| yardstick.filter(|nanos| *nanos > 0.0)).collect()
        };
        let (before, after) = (values(&self.before), values(&self.after));
        let (before_median, after_median) = (median(&before), median(&after));
        let enough = before.len() > 2 && after.len() > 2;
        let mut machine = None;
        let found = match yardsticks(&self.before).zip(yardsticks(&self.after)) {
            Some((first, second)) => {
                machine = Some(median(&second) / median(&first)).filter(|ratio| ratio.is_finite());
                let beside = |values: &[f64], yardsticks: &[f64]| -> Vec<f64> {
                    let pairs = values.iter().zip(yardsticks);
                    pairs.map(|(value, nanos)| if self.what == "pps" { value * nanos } else { value / nanos }).collect()
                };
                ratio(&beside(&before, &first), &beside(&after, &second), confidence)?
            }
            None => ratio(&before, &after, confidence)?,
        };
        Some(Row {
            kind: self.run.kind,
            scenario: self.run.scenario.clone(),
            spread: self.run.spread,
            mode: self.run.mode,
            what: self.what,
            before: before_median,
            after: after_median,
            machine,
            ratio: found.ratio,
            interval: (found.low, found.high),
            // One value on each side has no spread to be judged by.
            changed: enough && found.is_change(least),
        })
    }
}

/// What two runs of one row say.
fn series<'a>(before: &'a Run, after: &Run) -> Vec<Pair<'a>> {
    let of = |run: &Run, value: &dyn Fn(&Repeat) -> Option<f64>| -> Vec<(f64, Option<f64>)> {
        let valid = run.repeats.all.iter().filter(|repeat| repeat.is_valid());
        valid.filter_map(|repeat| Some((value(repeat)?, repeat.yardstick_ns))).collect()
    };
    let pair = |what, value: &dyn Fn(&Repeat) -> Option<f64>| Pair {
        run: before,
        what,
        before: of(before, value),
        after: of(after, value),
    };
    let alone =
        |what| Pair { run: before, what, before: vec![(before.repeats.median, None)], after: vec![(after.repeats.median, None)] };
    let nanos = |repeat: &Repeat| repeat.ns_per_packet;
    match before.kind {
        Kind::Throughput => vec![pair("pps", &|repeat| before.value(repeat)), pair("ns", &nanos)],
        Kind::InMemory => vec![pair("ns", &nanos)],
        Kind::LossFree => vec![alone("pps")],
        Kind::Latency => vec![alone("p50")],
    }
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
        table.set_header(["scenario", "mode", "what", "before", "after", "machine", "ratio", "interval", ""]);
        for column in 3..8 {
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
                row.machine.map(|ratio| format!("{ratio:.3}")).unwrap_or_default(),
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
    use crate::scenario::Rng;

    fn results(seed: u64, nanos: f64) -> Results {
        measured(seed, nanos, None)
    }

    /// With a yardstick that takes so long.
    fn measured(seed: u64, nanos: f64, yardstick_ns: Option<f64>) -> Results {
        let mut rng = Rng(seed);
        let mut run = Run::new(Kind::InMemory, "in-memory", 1000, Mode::Xdp);
        let mut repeat = || Repeat { ns_per_packet: Some(nanos * (0.99 + 0.02 * rng.unit())), yardstick_ns, ..Repeat::default() };
        run.repeats.all = (0..15).map(|_| repeat()).collect();
        run.settle(15);
        Results { manifest: Manifest::default(), runs: vec![run] }
    }

    #[test]
    fn a_slower_machine_is_not_a_slower_program() {
        let before = measured(1, 200.0, Some(100.0));
        let slower_machine = compare(&before, &measured(2, 240.0, Some(120.0)), LEAST, false).unwrap();
        assert_eq!(slower_machine.changed().count(), 0, "{}", slower_machine.text());
        assert_eq!(slower_machine.rows[0].machine, Some(1.2));
        let slower_program = compare(&before, &measured(2, 200.0, Some(80.0)), LEAST, false).unwrap();
        assert_eq!(slower_program.changed().count(), 1, "as fast on a faster machine: {}", slower_program.text());
        // Results that one of has no yardstick compare as they are.
        let without = compare(&before, &results(2, 240.0), LEAST, false).unwrap();
        assert_eq!((without.changed().count(), without.rows[0].machine), (1, None));
    }

    #[test]
    fn rates_are_judged_beside_the_yardstick_too() {
        let throughput = |seed: u64, pps: f64, yardstick: f64| {
            let mut rng = Rng(seed);
            let mut run = Run::new(Kind::Throughput, "s", 1, Mode::Xdp);
            let mut repeat =
                || Repeat { forwarded_pps: pps * (0.99 + 0.02 * rng.unit()), yardstick_ns: Some(yardstick), ..Repeat::default() };
            run.repeats.all = (0..5).map(|_| repeat()).collect();
            run.settle(5);
            Results { manifest: Manifest::default(), runs: vec![run] }
        };
        let changed = |after: &Results| compare(&throughput(1, 1e6, 100.0), after, LEAST, false).unwrap().changed().count();
        assert_eq!(changed(&throughput(2, 0.8e6, 125.0)), 0, "four fifths of the rate at four fifths of the speed");
        assert_eq!(changed(&throughput(2, 0.8e6, 100.0)), 1);
    }

    /// A hundred rows without a difference: each may err in one of 2,000 pairs only.
    #[test]
    fn many_rows_do_not_make_a_change_likelier() {
        let many = |seed: u64| {
            let mut all = Results { manifest: Manifest::default(), runs: Vec::new() };
            for at in 0..100 {
                let mut rng = Rng(seed + 1000 * at);
                let mut run = Run::new(Kind::InMemory, "in-memory", at as u32, Mode::Xdp);
                let mut repeat = || Repeat { ns_per_packet: Some(200.0 * (0.9 + 0.2 * rng.unit())), ..Repeat::default() };
                run.repeats.all = (0..15).map(|_| repeat()).collect();
                run.settle(15);
                all.runs.push(run);
            }
            all
        };
        let compared = compare(&many(1), &many(2), LEAST, false).unwrap();
        assert_eq!((compared.rows.len(), compared.changed().count()), (100, 0), "{}", compared.text());
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
