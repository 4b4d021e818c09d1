//! The frozen vectors of `profile = "katran"` on this kernel: the balancer's through the model, the engine and the program; those
//! of the programs beside it through these.

use std::collections::BTreeMap;

use serde_json::Value;
use tandem_backends::config::{Plan, parse};
use tandem_backends::replay::{Backend, Opening, Probing, VerdictRow};

use super::beside::{self, Row};
use super::compare::Bench;
use super::report::Report;
use super::{frozen, vectors};

pub fn run(report: &mut Report) {
    let all = vectors::all();
    let frames: usize = all.iter().map(|vector| vector.steps.len()).sum();
    let differing = frozen::differing(&mut Bench::new(&all[0].settings), &all);
    let name = format!("balancer, {} vectors of profile katran, {frames} frames", all.len());
    match differing.first() {
        None => report.ok(&name),
        Some(first) => report.fail(&name, &format!("{} differ, the first one: {first}", differing.len())),
    }
    for (file, beside) in beside::all() {
        let done = companions(&beside);
        let name = format!("{}, {} vectors", beside.program, rows(&beside).count());
        report.result(&name, done.map_err(|why| format!("{file}: {why}")));
    }
}

/// Of probes, those of one socket mark: for each other one an emulated verifier would have the whole balancer again. `make test` has
/// them all.
fn rows(beside: &beside::File) -> impl Iterator<Item = &Row> {
    beside.vector.iter().filter(|row| beside.program != "health-encap" || row.mark == Some(1))
}

/// Vectors of a program; those of one configuration and mark at once.
fn companions(beside: &beside::File) -> Result<(), String> {
    let mut groups: BTreeMap<(&str, u32), Vec<&Row>> = BTreeMap::new();
    for row in rows(beside) {
        groups.entry((&row.config, row.mark.unwrap_or(0))).or_default().push(row);
    }
    for ((config, mark), rows) in groups {
        let plan = parse(&beside.config[config], config).map_err(|error| format!("{error:?}"))?.plan;
        match beside.program.as_str() {
            "decap" => opened(&plan, &rows)?,
            "health-encap" => probed(&plan, mark, &rows)?,
            other => return Err(format!("no such program: {other}")),
        }
    }
    Ok(())
}

fn opened(plan: &Plan, rows: &[&Row]) -> Result<(), String> {
    let mut opening = Opening::new(Backend::Xdp, plan).map_err(|error| format!("{error:#}"))?;
    rows.iter().try_for_each(|row| {
        let frame = vectors::bytes(&row.frame);
        let (verdict, left) = opening.frame(0, &frame).map_err(|error| format!("{}: {error}", row.name))?;
        is_it(row, &verdict, left)
    })
}

fn probed(plan: &Plan, mark: u32, rows: &[&Row]) -> Result<(), String> {
    let mut probing = Probing::new(Backend::Xdp, plan, 1, mark).map_err(|error| format!("{error:#}"))?;
    rows.iter().try_for_each(|row| {
        let frame = vectors::bytes(&row.frame);
        let (verdict, left) = probing.frame(0, &frame).map_err(|error| format!("{}: {error}", row.name))?;
        is_it(row, &verdict, left)
    })
}

fn is_it(row: &Row, verdict: &VerdictRow<'_>, left: &[u8]) -> Result<(), String> {
    let found: Value = serde_json::to_value(verdict).map_err(|error| error.to_string())?;
    if found != row.verdict(0) {
        return Err(format!("{}: {found}, expected {}", row.name, row.verdict(0)));
    }
    row.is_left(left).map_err(|why| format!("{}: {why}", row.name))
}
