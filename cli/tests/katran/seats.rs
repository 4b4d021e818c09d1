//! The product's two backends, and what they say in the model's terms.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

use serde_json::Value;
use tandem_backends::config::{self, Plan};
use tandem_backends::control::Counters;
use tandem_backends::memory::Sizes;
use tandem_backends::replay::{Backend, Instance, ReplayError};

use crate::model::Outcome;
use crate::settings::Settings;

/// A balancer of one backend.
pub struct Seat {
    pub name: &'static str,
    instance: Instance,
}

impl Seat {
    /// One of each backend that this process may use; the missing one is named.
    pub fn all(settings: &Settings) -> Vec<Self> {
        let plan = plan(settings);
        let mut seats =
            vec![Self { name: "engine", instance: instance(Backend::Engine, &plan).expect("tables in plain memory") }];
        if is_root() {
            let instance = instance(Backend::Xdp, &plan).unwrap_or_else(|error| panic!("the program cannot be loaded: {error}"));
            seats.push(Self { name: "xdp", instance });
        } else {
            skipped("the kernel's seat needs root");
        }
        seats
    }

    /// Another configuration; flows and counters stay.
    pub fn apply(&mut self, settings: &Settings) {
        let applied = self.instance.apply(&plan(settings));
        applied.unwrap_or_else(|error| panic!("{}: {error} applying\n{}", self.name, settings.text()));
    }

    /// One frame.
    pub fn frame(&mut self, frame: &[u8]) -> Outcome {
        let (decision, left) = self.instance.frame(frame).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let (row, left) = (decision.row(0), left.to_vec());
        Outcome {
            action: row.action,
            reason: row.reason.expect("every frame has a reason"),
            vip: row.vip.map(str::to_owned),
            real: row.real,
            from: row.from,
            frame: left,
        }
    }

    /// Forgets all flows and counters.
    pub fn start_anew(&self) {
        self.instance.start_anew();
        self.instance.forget_flows();
    }

    /// All counters that moved, in the form of the model's.
    pub fn tally(&self) -> BTreeMap<String, u64> {
        let counters = Counters::read(self.instance.tables(), 0..1);
        rows(&serde_json::to_value(&counters).expect("counters are JSON"))
    }
}

/// A balancer that any configuration fits into, with a program that was loaded for all features.
fn instance(backend: Backend, plan: &Plan) -> Result<Instance, ReplayError> {
    let sizes = Sizes { flow_sets: 1 << 14, id_lines: 256, prefix_slots: 4096, features: u32::MAX, ..Sizes::for_plan(plan, 1) };
    Instance::with_sizes(backend, plan, 0, sizes)
}

#[track_caller]
fn plan(settings: &Settings) -> Plan {
    let text = settings.text();
    config::parse(&text, "t.toml").unwrap_or_else(|error| panic!("{error}\n{text}")).plan
}

/// The counters' JSON as rows: `reason.NAME`, `event.NAME`, `vip.VIP.NAME` and, over all VIPs, `real.ADDRESS.NAME`.
/// Without those that never moved, without `evicted`, as the model's table is endless, and without a real's `refused`, which Katran
/// does not count: the twins hold the seats against each other there.
pub fn rows(counters: &Value) -> BTreeMap<String, u64> {
    let mut rows = BTreeMap::new();
    let mut add = |row: String, n: &Value| *rows.entry(row).or_default() += n.as_u64().unwrap_or(0);
    for (group, kind) in [("reasons", "reason"), ("events", "event")] {
        // What is looked at again is counted twice among the frames already.
        let all = counters[group].as_object().into_iter().flatten();
        for (name, n) in all.filter(|(name, _)| !name.starts_with("again-")) {
            add(format!("{kind}.{name}"), n);
        }
    }
    for (vip, row) in counters["vips"].as_object().into_iter().flatten() {
        for (name, n) in row.as_object().into_iter().flatten().filter(|(name, _)| *name != "evicted") {
            add(format!("vip.{vip}.{name}"), n);
        }
    }
    for real in counters["reals"].as_array().into_iter().flatten() {
        let address = real["real"].as_str().unwrap_or("?");
        for (name, n) in real.as_object().into_iter().flatten().filter(|(name, n)| n.is_u64() && *name != "refused") {
            add(format!("real.{address}.{name}"), n);
        }
    }
    rows.retain(|_, n| *n > 0);
    rows
}

/// Says that a part did not run, past the harness, which hides what passing tests print.
pub fn skipped(why: &str) {
    assert!(std::env::var_os("TANDEM_REQUIRE_KERNEL").is_none(), "required, but {why}");
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// Whether programs can be loaded.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
