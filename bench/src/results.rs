//! `results.json`: the manifest, and a run for each row. The names are a contract.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::device::Mode;
use crate::gates::Reason;
use crate::manifest::Manifest;
use crate::measure::Trial;
use crate::measure::cpu::Cpu;
use crate::statistics::{extremes, median};

/// What a run measures.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// As many frames as the device takes, and its CPU time at a paced rate below that.
    Throughput,
    /// The highest rate without loss.
    LossFree,
    /// The time frames take at a fixed rate.
    Latency,
    /// The core alone, without an interface.
    InMemory,
}

/// Latencies in microseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Half of the frames were faster.
    pub p50: f64,
    /// 99 of 100 were.
    pub p99: f64,
    /// 999 of 1000 were.
    pub p999: f64,
}

/// One repeat of a run, valid or not.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Repeat {
    /// Counted from 1; a repeat of a repeat has the number of the first.
    pub number: u32,
    /// How often it was tried before.
    pub rerun: u32,
    /// Frames per second.
    pub offered_pps: f64,
    /// Frames per second, at the device.
    pub received_pps: f64,
    /// Frames per second, at the receiver.
    pub forwarded_pps: f64,
    /// Frames sent and not come back.
    pub lost: u64,
    /// Share of packets whose flow was known.
    pub flow_hit_ratio: Option<f64>,
    /// CPU time of the device for each frame.
    pub ns_per_packet: Option<f64>,
    /// Frames per second while that was measured.
    pub paced_pps: Option<f64>,
    /// Nanoseconds of a turn of the [yardstick](crate::yardstick) beside it, on the same core.
    #[serde(default)]
    pub yardstick_ns: Option<f64>,
    /// Why it does not count; empty: it does.
    pub invalid_because: Vec<Reason>,
}

impl Repeat {
    /// Of a trial at the highest rate, and one at a paced rate.
    pub fn of(number: u32, rerun: u32, most: &Trial, paced: Option<&Trial>) -> Self {
        let mut reasons = most.reasons.clone();
        for reason in paced.iter().flat_map(|trial| &trial.reasons) {
            if !reasons.iter().any(|known| known.gate == reason.gate) {
                let what = format!("paced: {}", reason.what);
                reasons.push(Reason { gate: reason.gate, what });
            }
        }
        Self {
            number,
            rerun,
            offered_pps: most.offered_pps,
            received_pps: most.received_pps,
            forwarded_pps: most.forwarded_pps,
            lost: most.lost,
            flow_hit_ratio: most.hit,
            ns_per_packet: Some(paced.unwrap_or(most).ns_per_packet),
            paced_pps: paced.map(|trial| trial.offered_pps),
            yardstick_ns: None,
            invalid_because: reasons,
        }
    }

    /// Whether it counts.
    pub fn is_valid(&self) -> bool {
        self.invalid_because.is_empty()
    }
}

/// The repeats of a run, and their spread.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Repeats {
    /// Those that count.
    pub count: u32,
    /// Median of what the run is about: frames per second forwarded, microseconds, or nanoseconds.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// All of them, in the order in which they were measured.
    pub all: Vec<Repeat>,
}

/// A row.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Run {
    /// What it measures.
    pub kind: Kind,
    /// The scenario's name; `in-memory` for the core alone.
    pub scenario: String,
    /// Source ports; flows for the core alone.
    pub spread: u32,
    /// What forwards.
    pub mode: Mode,
    /// How the kernel bound it: `native`, `generic`, `copy` or `zerocopy`; `none` without an interface.
    pub bound: String,
    /// Frames per second sent.
    pub offered_pps: f64,
    /// Frames per second that reached the device.
    pub received_pps: f64,
    /// Frames per second that came back to the receiver.
    pub forwarded_pps: f64,
    /// Frames sent and not come back, over all valid repeats.
    pub lost: u64,
    /// Share of packets whose flow was known.
    pub flow_hit_ratio: Option<f64>,
    /// What it had to be.
    pub expected_hit_ratio: Option<f64>,
    /// CPU time of the device for each frame, at a paced rate.
    pub ns_per_packet: Option<f64>,
    /// Each core's shares of the time, in the last valid repeat.
    pub cpu: Vec<Cpu>,
    /// From the generator to the receiver, at `offered_pps`.
    pub latency_us: Option<Latency>,
    /// All repeats.
    pub repeats: Repeats,
    /// Whether enough repeats count.
    pub valid: bool,
    /// If not: why.
    pub invalid_because: Vec<Reason>,
}

impl Run {
    /// A row without repeats.
    pub fn new(kind: Kind, scenario: &str, spread: u32, mode: Mode) -> Self {
        Self {
            kind,
            scenario: scenario.to_owned(),
            spread,
            mode,
            bound: "none".to_owned(),
            offered_pps: 0.0,
            received_pps: 0.0,
            forwarded_pps: 0.0,
            lost: 0,
            flow_hit_ratio: None,
            expected_hit_ratio: None,
            ns_per_packet: None,
            cpu: Vec::new(),
            latency_us: None,
            repeats: Repeats::default(),
            valid: false,
            invalid_because: Vec::new(),
        }
    }

    /// What a repeat says of that which the run is about.
    pub fn value(&self, repeat: &Repeat) -> Option<f64> {
        match (self.kind, self.mode) {
            (Kind::InMemory, _) => repeat.ns_per_packet,
            (Kind::Latency, _) => None,
            (_, Mode::Drop) => Some(repeat.received_pps),
            _ => Some(repeat.forwarded_pps),
        }
    }

    /// Sums the repeats up; the row is valid if `wanted` of them are.
    pub fn settle(&mut self, wanted: u32) {
        let valid: Vec<&Repeat> = self.repeats.all.iter().filter(|repeat| repeat.is_valid()).collect();
        let of = |f: &dyn Fn(&Repeat) -> Option<f64>| -> Vec<f64> { valid.iter().filter_map(|repeat| f(repeat)).collect() };
        let middle = |f: &dyn Fn(&Repeat) -> Option<f64>| Some(median(&of(f))).filter(|median| median.is_finite());
        let values = of(&|repeat| self.value(repeat));
        let count = valid.len() as u32;
        let (offered, received) = (middle(&|r| Some(r.offered_pps)), middle(&|r| Some(r.received_pps)));
        let forwarded = middle(&|r| Some(r.forwarded_pps));
        let (hit, nanos) = (middle(&|r| r.flow_hit_ratio), middle(&|r| r.ns_per_packet));
        let lost = valid.iter().map(|repeat| repeat.lost).sum();
        let last = self.repeats.all.iter().rev().find(|repeat| !repeat.is_valid());
        let reasons = last.map(|repeat| repeat.invalid_because.clone()).unwrap_or_default();
        (self.offered_pps, self.received_pps) = (offered.unwrap_or(0.0), received.unwrap_or(0.0));
        (self.forwarded_pps, self.flow_hit_ratio, self.ns_per_packet) = (forwarded.unwrap_or(0.0), hit, nanos);
        self.lost = lost;
        let (min, max) = extremes(&values);
        self.repeats.count = count;
        (self.repeats.median, self.repeats.min, self.repeats.max) = (finite(median(&values)), finite(min), finite(max));
        self.valid = count >= wanted;
        self.invalid_because = if self.valid { Vec::new() } else { reasons };
    }
}

/// JSON has no `NaN`.
fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}

/// Everything.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Results {
    /// Where and how it was measured.
    pub manifest: Manifest,
    /// The rows.
    pub runs: Vec<Run>,
}

/// Why results cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// The file.
    #[error("{}: {source}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Its contents.
    #[error("{}: {what}; expected a results.json of `tandem bench`", path.display())]
    Contents {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

impl Results {
    /// Reads a `results.json`, or the one in a directory.
    ///
    /// # Errors
    /// [`ResultsError`].
    pub fn load(path: &Path) -> Result<Self, ResultsError> {
        let path = if path.is_dir() { path.join("results.json") } else { path.to_owned() };
        let text = fs::read_to_string(&path).map_err(|source| ResultsError::File { path: path.clone(), source })?;
        serde_json::from_str(&text).map_err(|e| ResultsError::Contents { path, what: e.to_string() })
    }

    /// Writes `results.json` and `results.csv` into a directory, which is made.
    ///
    /// # Errors
    /// [`ResultsError`].
    pub fn save(&self, directory: &Path) -> Result<(), ResultsError> {
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| ResultsError::File { path, source }
        };
        fs::create_dir_all(directory).map_err(file(directory))?;
        let path = directory.join("results.json");
        let text =
            serde_json::to_string_pretty(self).map_err(|e| ResultsError::Contents { path: path.clone(), what: e.to_string() })?;
        fs::write(&path, text + "\n").map_err(file(&path))?;
        let path = directory.join("results.csv");
        let written = self.csv().map_err(|e| ResultsError::Contents { path: path.clone(), what: e.to_string() })?;
        fs::write(&path, written).map_err(file(&path))
    }

    /// A line for each repeat.
    fn csv(&self) -> Result<Vec<u8>, csv::Error> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record([
            "kind",
            "scenario",
            "spread",
            "mode",
            "bound",
            "repeat",
            "rerun",
            "offered_pps",
            "received_pps",
            "forwarded_pps",
            "lost",
            "flow_hit_ratio",
            "ns_per_packet",
            "paced_pps",
            "yardstick_ns",
            "valid",
            "invalid_because",
        ])?;
        for run in &self.runs {
            for repeat in &run.repeats.all {
                let because: Vec<&str> = repeat.invalid_because.iter().map(|reason| reason.what.as_str()).collect();
                let key = (run.kind, &run.scenario, run.spread, run.mode, &run.bound, repeat.number, repeat.rerun);
                let rates = (repeat.offered_pps, repeat.received_pps, repeat.forwarded_pps, repeat.lost);
                let times = (repeat.flow_hit_ratio, repeat.ns_per_packet, repeat.paced_pps, repeat.yardstick_ns);
                writer.serialize((key, rates, times, repeat.is_valid(), because.join("; ")))?;
            }
        }
        writer.into_inner().map_err(|e| e.into_error().into())
    }

    /// The rows of a kind, in order.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |run| run.kind == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gates::Gate;

    fn repeat(pps: f64, reasons: &[Gate]) -> Repeat {
        let invalid_because = reasons.iter().map(|gate| Reason { gate: *gate, what: "x".to_owned() }).collect();
        Repeat { forwarded_pps: pps, offered_pps: pps, lost: 1, invalid_because, ..Repeat::default() }
    }

    #[test]
    fn invalid_repeats_are_kept_and_never_averaged_in() {
        let mut run = Run::new(Kind::Throughput, "s", 1, Mode::Xdp);
        run.repeats.all = vec![repeat(100.0, &[]), repeat(9.0, &[Gate::DeclaredFlows]), repeat(300.0, &[]), repeat(200.0, &[])];
        run.settle(3);
        assert_eq!((run.repeats.median, run.repeats.min, run.repeats.max, run.repeats.count), (200.0, 100.0, 300.0, 3));
        assert_eq!((run.valid, run.lost, run.repeats.all.len(), run.invalid_because.len()), (true, 3, 4, 0));
        run.settle(4);
        assert_eq!((run.valid, run.invalid_because[0].gate), (false, Gate::DeclaredFlows));
    }

    #[test]
    fn a_row_without_a_valid_repeat_has_no_numbers() {
        let mut run = Run::new(Kind::Throughput, "s", 1, Mode::Xdp);
        run.repeats.all = vec![repeat(9.0, &[Gate::WrongFrames])];
        run.settle(1);
        assert_eq!((run.valid, run.forwarded_pps, run.repeats.median), (false, 0.0, 0.0));
    }
}
