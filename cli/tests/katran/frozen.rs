//! The vectors through the model and every backend: what each makes of them is what is frozen. Also on the kernels of
//! `make test-kernels`.

use std::collections::BTreeMap;

use crate::compare::{Bench, moved};
use crate::vectors::{Vector, is_listed};

/// Sends each vector through all; those of which a verdict, a byte or a counter differs, and how.
pub fn differing(bench: &mut Bench, vectors: &[Vector]) -> Vec<String> {
    let mut differing = Vec::new();
    for vector in vectors {
        bench.restart(&vector.settings);
        if let Err(text) = steps(bench, vector) {
            let brief = text.split("\nframes:").next().unwrap_or(&text);
            differing.push(format!("{}: {}: {brief}", vector.file, vector.name));
        }
    }
    differing
}

fn steps(bench: &mut Bench, vector: &Vector) -> Result<(), String> {
    for (number, step) in vector.steps.iter().enumerate() {
        step.settings.iter().for_each(|settings| bench.apply(settings));
        let before: Vec<_> = bench.seats.iter().map(|seat| seat.tally()).collect();
        let found = bench.frame(&step.frame).map_err(|text| format!("step {number}: {text}"))?;
        if !step.is(&found) {
            return Err(format!("step {number} is not what is frozen"));
        }
        for (seat, before) in bench.seats.iter().zip(&before) {
            let now = seat.tally();
            let differing = moved(step.moves(), &listed(&now, before));
            if !differing.is_empty() {
                return Err(format!("step {number}: {}: counters, expected and found: {differing:?}", seat.name));
            }
        }
    }
    bench.counters()
}

/// What moved since, of the counters that vectors list.
pub fn listed(now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let rows = moved(before, now).into_iter().filter(|(row, _)| is_listed(row));
    rows.map(|(row, (before, now))| (row, now - before)).collect()
}
