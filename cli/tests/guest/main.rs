//! Stock kernels as the judge: frames of our own data path into Linux's own tunnel devices, and our own programs on kernels of
//! other versions. One line for each result, and a last one that sums up.
//!
//! `scripts/kernels.sh test` boots Debian's kernels with this program as their init process. As a test of the workspace it runs
//! on the kernel that is there, in namespaces of its own, with whatever devices that kernel has.

mod bed;
mod calibration;
mod capture;
mod cards;
mod cases;
mod doctor;
mod document;
mod generic;
mod interop;
mod katran;
mod life;
mod links;
mod nat;
mod report;
mod running;
mod setups;
mod start;
mod twins;

// The generator of the twin test, which lives beside it.
#[path = "../../../backends/tests/twin/frames.rs"]
#[allow(dead_code, reason = "shared")]
mod frames;
#[path = "../../../backends/tests/twin/plans.rs"]
#[allow(dead_code, reason = "shared")]
mod plans;
#[path = "../../../backends/tests/twin/rich.rs"]
mod rich;
// The model of Katran's rules, and its vectors.
#[path = "../katran/beside.rs"]
#[allow(dead_code, reason = "shared")]
mod beside;
#[path = "../katran/compare.rs"]
mod compare;
#[path = "../katran/frozen.rs"]
mod frozen;
#[path = "../katran/model/mod.rs"]
#[allow(dead_code, reason = "shared")]
mod model;
#[path = "../katran/seats.rs"]
#[allow(dead_code, reason = "shared")]
mod seats;
#[path = "../katran/settings.rs"]
#[allow(dead_code, reason = "shared")]
mod settings;
#[path = "../katran/vectors.rs"]
#[allow(dead_code, unused_imports, reason = "its own tests are not part of this program")]
mod vectors;
// Of the lab's test: addresses of packet sockets, and the methods.
#[path = "../methods/packet.rs"]
mod packet;
#[path = "../methods/service.rs"]
#[allow(dead_code, reason = "shared")]
mod service;

use std::cell::LazyCell;
use std::time::Instant;

use report::Report;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [verb, results @ ..] = arguments.as_slice()
        && let Some(write) = document::writer(verb)
    {
        print!("{}", write(results));
        return;
    }
    if start::is_init() {
        start::as_init(run);
    }
    if !start::is_privileged() {
        eprintln!("SKIPPED: namespaces, devices and programs need root");
        return;
    }
    start::in_namespaces();
    let report = run();
    assert!(report.is_clean(), "{report}");
}

/// What adds its results to the report.
type Part<'p> = &'p dyn Fn(&mut Report);

/// Everything, on this kernel, or the part that `TANDEM_PART` names.
fn run() -> Report {
    let (mut report, started) = (Report::default(), Instant::now());
    let only = std::env::var("TANDEM_PART").ok();
    let cases = LazyCell::new(cases::all);
    let parts: [(&str, Part<'_>); 11] = [
        ("doctor", &doctor::run),
        ("cards", &cards::run),
        ("interop", &|report| interop::run(report, &cases)),
        ("nat", &nat::run),
        ("twins", &|report| twins::run(report, &cases)),
        ("katran", &katran::run),
        ("generic", &generic::run),
        ("life", &life::run),
        ("capture", &|report| capture::run(report, &cases)),
        ("links", &links::run),
        ("calibration", &calibration::run),
    ];
    for (name, part) in parts.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name)) {
        part(&mut report);
        println!("note: {name}: done after {} s", started.elapsed().as_secs());
    }
    println!("{report}");
    report
}
