use super::*;
use crate::calibrate::Feed;

fn host() -> Host {
    Host {
        driver: None,
        xdp_features: None,
        queues: 1,
        cores: 2,
        attach: Attach::Native,
        no_zero_copy: Some("veth has none".to_owned()),
        no_copy: None,
    }
}

fn with_zero_copy() -> Host {
    Host { no_zero_copy: None, driver: Some("mlx5_core".to_owned()), ..host() }
}

fn measured(ns: f64, spread_ns: f64) -> Measured {
    Measured { ns, queue_ns: ns, spread_ns, forwarded: 100_000, rounds: 5, ..Measured::default() }
}

fn calibrated(xdp: f64, afxdp: f64, spread: f64) -> Numbers {
    let (bounce, xdp, afxdp) = (measured(90.0, 0.0), measured(xdp, spread), measured(afxdp, 0.0));
    let calibration = Calibration { bounce, xdp, afxdp, flows: 1024, frame: 60, core: 1, feed: Feed::LiveFrames };
    Numbers { calibrated: Ok(calibration), when: "now".to_owned(), memory: None }
}

fn in_memory(xdp_ns: f64, afxdp_ns: f64) -> Option<Result<Costs, String>> {
    Some(Ok(Costs { xdp_ns, afxdp_ns }))
}

fn not_calibrated(memory: Option<Result<Costs, String>>) -> Numbers {
    Numbers { calibrated: Err("this process lacks CAP_SYS_ADMIN".to_owned()), when: "now".to_owned(), memory }
}

#[track_caller]
fn assert_says(decision: &Decision, parts: &[&str]) {
    for part in parts {
        assert!(decision.reason.contains(part), "no {part:?} in {:?}", decision.reason);
    }
}

/// Without zero-copy the measurement alone decides, and both numbers are in the reason.
#[test]
fn the_cheaper_seat_is_chosen_by_what_was_measured() {
    let decision = decide(&host(), &calibrated(124.0, 1252.0, 2.0));
    assert_eq!((decision.chosen, decision.bound.as_str()), (ModeName::Xdp, "native"));
    assert_says(&decision, &["the kernel is the cheaper seat", "124 in XDP", "1252 in AF_XDP with copies", "private namespace"]);
    let decision = decide(&host(), &calibrated(1252.0, 124.0, 2.0));
    assert_eq!((decision.chosen, decision.bound.as_str()), (ModeName::Afxdp, "copy"));
    assert_says(&decision, &["AF_XDP (copy) is the cheaper seat", "1252 in XDP", "124 in AF_XDP with copies"]);
    assert_eq!(decision.bounce, Some(measured(90.0, 0.0)));
}

#[test]
fn within_the_noise_the_kernel_forwards() {
    for (xdp, afxdp, spread, chosen) in
        [(200.0, 190.0, 11.0, ModeName::Xdp), (200.0, 190.0, 9.0, ModeName::Afxdp), (200.0, 200.0, 0.0, ModeName::Xdp)]
    {
        let decision = decide(&host(), &calibrated(xdp, afxdp, spread));
        assert_eq!(decision.chosen, chosen, "{decision:?}");
        if chosen == ModeName::Xdp {
            assert_says(&decision, &["no more than the measurement does", "XDP needs no threads"]);
        }
    }
}

#[test]
fn zero_copy_is_estimated_and_says_so() {
    let numbers = |afxdp| Numbers { memory: in_memory(60.0, afxdp), ..calibrated(200.0, 1000.0, 5.0) };
    let decision = decide(&with_zero_copy(), &numbers(50.0));
    assert_eq!((decision.chosen, decision.bound.as_str()), (ModeName::Afxdp, "zero-copy"));
    let zero_copy = &decision.candidates[1];
    assert_eq!(zero_copy.ns, Some(140.0));
    assert!(zero_copy.how.starts_with("estimated: 90 ns that receiving and sending take"), "{zero_copy:?}");
    assert_says(&decision, &["140 in AF_XDP without copies (estimated)", "200 in XDP", "1000 in AF_XDP with copies"]);
    assert_eq!(decide(&with_zero_copy(), &numbers(150.0)).chosen, ModeName::Xdp);
    // What the driver promised and the bind did not keep: as if it had none.
    let refused = Host { no_zero_copy: Some("it cannot be had: EOPNOTSUPP".to_owned()), ..with_zero_copy() };
    let decision = decide(&refused, &numbers(50.0));
    assert_eq!(decision.chosen, ModeName::Xdp);
    assert_eq!(
        (decision.candidates[1].ns, decision.candidates[1].impossible.as_deref()),
        (None, Some("it cannot be had: EOPNOTSUPP"))
    );
}

#[test]
fn without_a_namespace_the_reason_says_what_is_missing() {
    let decision = decide(&host(), &not_calibrated(in_memory(70.0, 30.0)));
    assert_eq!(decision.chosen, ModeName::Xdp, "what copies cost is not known");
    assert_says(&decision, &["pays only with zero-copy", "veth has none", "in memory alone: 70 in XDP", "lacks CAP_SYS_ADMIN"]);
    for candidate in [&decision.candidates[0], &decision.candidates[2]] {
        assert!(candidate.how.contains("in memory") && candidate.how.contains("lacks CAP_SYS_ADMIN"), "{candidate:?}");
        assert_eq!(candidate.measured, None);
    }
    let decision = decide(&with_zero_copy(), &not_calibrated(in_memory(70.0, 30.0)));
    assert_eq!((decision.chosen, decision.bound.as_str()), (ModeName::Afxdp, "zero-copy"));
    assert_eq!(decide(&with_zero_copy(), &not_calibrated(in_memory(30.0, 70.0))).chosen, ModeName::Xdp);
    let decision = decide(&with_zero_copy(), &not_calibrated(Some(Err("no privileges".to_owned()))));
    assert_eq!(decision.chosen, ModeName::Afxdp);
    assert_says(&decision, &["nothing could be measured"]);
    assert!(decision.candidates[0].how.contains("no privileges"), "{decision:?}");
}

#[test]
fn what_is_not_possible_is_not_chosen() {
    let why = "this process lacks CAP_NET_RAW; give it".to_owned();
    let host = Host { no_copy: Some(why.clone()), no_zero_copy: Some(why), ..host() };
    for numbers in [calibrated(1252.0, 124.0, 2.0), not_calibrated(in_memory(70.0, 30.0)), not_calibrated(None)] {
        let decision = decide(&host, &numbers);
        assert_eq!(decision.chosen, ModeName::Xdp);
        assert_says(&decision, &["AF_XDP is not possible: this process lacks CAP_NET_RAW; give it"]);
    }
}

#[test]
fn a_generic_attachment_is_a_candidate_of_its_own() {
    let host = Host { attach: Attach::Generic, ..host() };
    let decision = decide(&host, &not_calibrated(in_memory(70.0, 30.0)));
    assert_eq!((decision.candidates[0].bound.as_str(), decision.bound.as_str()), ("generic", "generic"));
}

#[test]
fn a_saved_measurement_says_its_age() {
    let numbers = Numbers { when: "saved 3 min ago".to_owned(), ..calibrated(124.0, 1252.0, 2.0) };
    assert_eq!(decide(&host(), &numbers).candidates[0].how, "measured in a private namespace, saved 3 min ago");
}

#[test]
fn how_says_who_made_the_frames() {
    let mut numbers = calibrated(124.0, 1252.0, 2.0);
    if let Ok(calibration) = &mut numbers.calibrated {
        calibration.feed = Feed::Sockets;
    }
    let how = &decide(&host(), &numbers).candidates[2].how;
    assert!(how.contains("fed by sockets") && how.contains("Linux 5.18"), "{how}");
}

fn turn(mode: ModeName, forwarded: u64, queue: u64, worker: u64) -> Turn {
    Turn { mode, forwarded, lost: 1, seconds: 2.0, worker, queue }
}

#[test]
fn turns_on_the_interface_are_judged() {
    let (xdp, afxdp) = (ModeName::Xdp, ModeName::Afxdp);
    let turns = [
        turn(xdp, 20_000, 20_000_000, 0),
        turn(afxdp, 20_000, 4_000_000, 4_000_000),
        turn(afxdp, 40_000, 10_000_000, 8_000_000),
        turn(xdp, 20_000, 22_000_000, 0),
    ];
    let decision = judge(&host(), &turns, "copy").unwrap();
    assert_eq!((decision.chosen, decision.bound.as_str()), (afxdp, "copy"));
    assert_says(&decision, &["on the interface", "1000 in XDP", "400 in AF_XDP (copy)"]);
    let found = decision.candidates[1].measured.unwrap();
    assert_eq!((found.ns, found.queue_ns, found.worker_ns, found.spread_ns), (400.0, 200.0, 200.0, 50.0));
    assert_eq!((found.pps, found.forwarded, found.lost, found.rounds), (20_000.0, 60_000, 2, 2));
    // The same the other way round, and as much as one another.
    let other = |mode| if mode == xdp { afxdp } else { xdp };
    let turned = turns.map(|turn| Turn { mode: other(turn.mode), ..turn });
    assert_eq!(judge(&host(), &turned, "copy").unwrap().chosen, xdp);
    let alike = [turn(xdp, 20_000, 20_000_000, 0), turn(afxdp, 20_000, 19_000_000, 0), turn(xdp, 20_000, 22_000_000, 0)];
    assert_eq!(judge(&host(), &alike, "copy").unwrap().chosen, xdp);
}

#[test]
fn too_few_packets_are_no_ground_for_anything() {
    let turns = [turn(ModeName::Xdp, ENOUGH, 1_000_000, 0), turn(ModeName::Afxdp, ENOUGH - 1, 500_000, 0)];
    let why = judge(&host(), &turns, "copy").unwrap_err();
    assert!(why.contains("too few packets") && why.contains("9999") && why.contains("mode afxdp"), "{why}");
    assert!(judge(&host(), &turns[..1], "copy").is_err());
}
