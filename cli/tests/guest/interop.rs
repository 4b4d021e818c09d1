//! Our frames into stock Linux: what its tunnel devices open and its sockets get, against the table of [`super::setups`].

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::bed::{Bed, SETTLE};
use super::cases::{self, Case, Sent};
use super::report::Report;
use super::service::Service;
use super::setups::{SETUPS, Setup, method, pair};
use super::start::is_init;

/// For all that is expected to come.
const WAIT: Duration = Duration::from_secs(10);

pub fn run(report: &mut Report, cases: &[Case]) {
    let services = cases::services();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    for setup in &SETUPS {
        match Bed::new(setup, &services) {
            Ok(bed) => one(report, setup, setup.delivers_on(&release), &services, cases, bed),
            // A kernel without modules lacks most of the devices.
            Err(why) if !is_init() => report.skip(setup.name, &why),
            Err(why) => report.fail(setup.name, &why),
        }
    }
    broken(report, &services, cases);
}

/// All cases into one set-up; a line for each service.
fn one(report: &mut Report, setup: &Setup, delivers: fn(&Service) -> bool, services: &[Service], cases: &[Case], mut bed: Bed) {
    let expected: BTreeSet<usize> = (0..cases.len()).filter(|at| delivers(&services[cases[*at].service])).collect();
    let came = exchange(&mut bed, cases, setup.tags, &expected);
    let other = came.strange.first().map(|what| format!("; {} strange arrivals, for example {what}", came.strange.len()));
    for (at, service) in services.iter().enumerate() {
        let of_it: Vec<usize> = (0..cases.len()).filter(|case| cases[*case].service == at).collect();
        let wrong: Vec<&str> = of_it
            .iter()
            .filter(|case| came.whole.contains(case) != expected.contains(case))
            .map(|case| cases[*case].what.as_str())
            .collect();
        let delivered = delivers(service);
        let what = if delivered { "delivered" } else { "dropped" };
        let name = format!("{}: {} {}: {} {what}", setup.name, method(service), pair(service), of_it.len());
        let result = if wrong.is_empty() && other.is_none() {
            Ok(())
        } else {
            Err(format!("not so: {}{}", wrong.join("; "), other.as_deref().unwrap_or("")))
        };
        report.result(&name, result);
    }
}

/// What has come of the cases.
struct Came {
    /// Those whose payload arrived, or whose SYN was answered.
    whole: BTreeSet<usize>,
    /// Arrivals that belong to no case: other bytes than were sent.
    strange: Vec<String>,
}

/// Sends all frames, waits for those that are expected, and a moment for those that are not.
fn exchange(bed: &mut Bed, cases: &[Case], tags: &[u16], expected: &BTreeSet<usize>) -> Came {
    let mut came = Came { whole: BTreeSet::new(), strange: Vec::new() };
    for case in cases {
        bed.send(&tagged(&case.frame, tags));
        collect(bed, cases, &mut came);
    }
    let until = Instant::now() + WAIT;
    while !expected.is_subset(&came.whole) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
        collect(bed, cases, &mut came);
    }
    std::thread::sleep(SETTLE);
    collect(bed, cases, &mut came);
    came
}

fn collect(bed: &mut Bed, cases: &[Case], came: &mut Came) {
    for arrived in bed.datagrams() {
        let is_it = |case: &Case| case.service == arrived.service && case.sent == Sent::Datagram(arrived.payload.clone());
        match cases.iter().position(is_it) {
            Some(case) => drop(came.whole.insert(case)),
            None => came.strange.push(format!("{arrived:02x?}")),
        }
    }
    for sequence in bed.answered() {
        match cases.iter().position(|case| case.sent == Sent::Syn(sequence)) {
            Some(case) => drop(came.whole.insert(case)),
            None => came.strange.push(format!("an answer to {sequence}")),
        }
    }
}

/// A frame with 802.1Q tags (802.1ad for the outer of two).
fn tagged(frame: &[u8], tags: &[u16]) -> Vec<u8> {
    let mut headers = Vec::new();
    for (at, tag) in tags.iter().enumerate() {
        let kind: u16 = if at + 1 < tags.len() { 0x88a8 } else { 0x8100 };
        headers.extend([kind.to_be_bytes(), tag.to_be_bytes()].concat());
    }
    [&frame[..12], &headers, &frame[12..]].concat()
}

/// Does the kernel drop what is broken? Frames with one bit changed, and frames to other ports, into a set-up that takes all
/// others.
fn broken(report: &mut Report, services: &[Service], cases: &[Case]) {
    let setup = SETUPS.iter().find(|setup| setup.name == "ports for FOU and GUE").expect("a set-up");
    let mut bed = match Bed::new(setup, services) {
        Ok(bed) => bed,
        Err(why) if !is_init() => return report.skip("broken frames", &why),
        Err(why) => return report.fail("broken frames", &why),
    };
    // Whole ones, to compare: each of a datagram with a checksum of its own, and outer checksums everywhere.
    let whole: Vec<&Case> = cases.iter().filter(|case| case.number == 0 && (setup.delivers)(&services[case.service])).collect();
    let changed = |at: fn(&Case, &Service) -> Option<usize>| -> Vec<Case> {
        let each = whole.iter().filter_map(|case| at(case, &services[case.service]).map(|at| (case, at)));
        each.map(|(case, at)| {
            let mut frame = case.frame.clone();
            frame[at] ^= 1;
            Case { service: case.service, number: 0, what: case.what.clone(), sent: case.sent.clone(), frame }
        })
        .collect()
    };
    let has_udp = |service: &Service| service.method.between.contains(&"udp");
    let kinds: [(&str, Vec<Case>); 4] = [
        ("a bit of the outer IPv4 header's checksum", changed(|_, to| (!to.v6_real).then_some(14 + 11))),
        (
            "a bit of the outer UDP checksum",
            changed(|_, to| to.method.between.contains(&"udp").then_some(14 + if to.v6_real { 40 } else { 20 } + 7)),
        ),
        ("a bit of the payload", changed(|case, _| case.frame.len().checked_sub(1))),
        ("another port", cases::to_other_ports().into_iter().filter(|case| (setup.delivers)(&services[case.service])).collect()),
    ];
    for (what, frames) in kinds {
        let came = exchange(&mut bed, &frames, &[], &BTreeSet::new());
        let arrived: Vec<String> = came.whole.iter().map(|case| services[frames[*case].service].to_string()).collect();
        let result = if !arrived.is_empty() || !came.strange.is_empty() {
            Err(format!("delivered: {}, and {} strange ones", arrived.join("; "), came.strange.len()))
        } else if frames.len() < services.iter().filter(|to| has_udp(to) && (setup.delivers)(to)).count() / 2 {
            Err(format!("only {} frames", frames.len()))
        } else {
            Ok(())
        };
        report.result(&format!("broken frames, {what}: {} dropped", frames.len()), result);
    }
    let again: Vec<Case> = whole
        .iter()
        .map(|case| Case {
            service: case.service,
            number: 0,
            what: case.what.clone(),
            sent: case.sent.clone(),
            frame: case.frame.clone(),
        })
        .collect();
    let came = exchange(&mut bed, &again, &[], &(0..again.len()).collect());
    let missing = again.len() - came.whole.len();
    let result = if missing == 0 { Ok(()) } else { Err(format!("{missing} not delivered\n{}", bed.counted())) };
    report.result(&format!("the same frames as they were made: {} delivered", again.len()), result);
}
