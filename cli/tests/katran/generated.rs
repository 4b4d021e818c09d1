//! Generated configurations and frames through the model and both backends: verdict, real, bytes and every counter.
//!
//! 2,000 configurations of 30 frames; with `TANDEM_LONG=1` a hundred times as many.

use std::collections::BTreeMap;

use crate::compare::Bench;
use crate::generate::{Rng, frames, inner::Scene, settings};
use crate::model::Model;

/// Configurations of this run.
fn cases() -> u64 {
    if std::env::var_os("TANDEM_LONG").is_some() { 200_000 } else { 2_000 }
}

const FRAMES: usize = 30;

/// Cases that long runs found something by: a flow entered as one VIP's that leaves its real as another's.
const FOUND: [u64; 1] = [148_703];

/// The case of a number: a configuration and its frames.
fn case(number: u64) -> (crate::settings::Settings, Vec<Vec<u8>>) {
    let mut rng = Rng(number.wrapping_mul(0x0dad_beef_cafe_f00d));
    let settings = settings::settings(&mut rng);
    let scene = Scene::new(&mut rng, &settings);
    let frames = (0..FRAMES).map(|_| frames::frame(&mut rng, &scene)).collect();
    (settings, frames)
}

/// Differences that look alike are told once.
#[derive(Default)]
struct Differences(BTreeMap<String, (u64, String)>);

impl Differences {
    fn add(&mut self, number: u64, text: &str) {
        let alike: String = text.split("\nframes:").next().unwrap_or_default().chars().filter(char::is_ascii).collect();
        let alike: String = alike.lines().take(2).collect::<Vec<_>>().join(" | ");
        self.0.entry(alike).or_insert_with(|| (0, format!("case {number}: {text}"))).0 += 1;
    }

    #[track_caller]
    fn assert_none(self) {
        let mut kinds: Vec<(String, (u64, String))> = self.0.into_iter().collect();
        kinds.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
        for (kind, (count, _)) in kinds.iter().take(60) {
            eprintln!("{count:6} {kind}");
        }
        if let Some((_, (_, first))) = kinds.first() {
            panic!("{} kinds of differences; the most frequent one first seen in {first}", kinds.len());
        }
    }
}

#[test]
fn both_backends_do_what_the_model_does() {
    let mut bench = Bench::new(&case(0).0);
    let mut differences = Differences::default();
    for number in FOUND.into_iter().chain(0..cases()) {
        let (settings, frames) = case(number);
        bench.restart(&settings);
        let done = frames.iter().try_for_each(|frame| bench.frame(frame).map(|_| ())).and_then(|()| bench.counters());
        if let Err(text) = done {
            differences.add(number, &text);
        }
    }
    differences.assert_none();
}

/// The generator reaches every rule that moves a counter; else agreement about it would mean nothing.
#[test]
fn generated_cases_reach_every_rule() {
    let mut reached: BTreeMap<String, u64> = BTreeMap::new();
    for number in 0..1500 {
        let (settings, frames) = case(number);
        let mut model = Model::new(&settings);
        for frame in &frames {
            *reached.entry(format!("from.{}", model.frame(frame).from)).or_default() += 1;
        }
        for (row, n) in model.tally().rows() {
            let row = match row.split('.').collect::<Vec<_>>().as_slice() {
                ["vip", .., name] => format!("vip.{name}"),
                ["real", .., name] => format!("real.{name}"),
                _ => row,
            };
            *reached.entry(row).or_default() += n;
        }
    }
    let missing: Vec<&str> = EXPECTED.split_whitespace().filter(|row| reached.get(*row).is_none_or(|n| *n < 5)).collect();
    assert!(missing.is_empty(), "never or hardly reached: {missing:?}; reached: {reached:?}");
}

const EXPECTED: &str = "
    reason.forwarded reason.not-ip reason.not-tcp-udp reason.not-a-vip reason.icmp reason.frame-too-short
    reason.truncated-dropped reason.ipv4-options-dropped reason.fragment-dropped reason.frame-too-big reason.too-big-reply
    reason.echo-reply reason.no-ring reason.local-delivery reason.decapsulated reason.not-our-tunnel reason.decap-ttl-expired
    reason.egress-decap
    event.vip-packets event.ring-decisions event.miss-tcp-syn event.miss-tcp-other event.too-big-v4 event.too-big-v6
    event.source-route-miss event.source-route-hit event.decap-destination event.decap-v4
    event.decap-v6 event.decap-balanced-v4 event.decap-balanced-v6 event.egress-decap-v4 event.egress-decap-v6
    event.quic-icmp event.quic-icmp-ignorable event.ptb-v4 event.ptb-v4-low event.ptb-v6 event.ptb-v6-low
    event.udp-migrated event.guarded event.quic-ring event.quic-initial event.quic-invalid-id event.quic-routed
    event.quic-v1 event.quic-v2 event.quic-v3 event.quic-match event.quic-mismatch event.quic-not-found event.stable-ring
    event.stable-routed event.stable-invalid-id event.stable-invalid-type event.tcp-id-ring event.tcp-id-mismatch
    event.tcp-id-routed event.tcp-id-syn event.frames event.bytes event.tx-bytes event.drop-bytes event.pass-bytes
    vip.packets vip.bytes vip.ring vip.entered vip.server-id-new vip.server-id-mismatch vip.decap
    real.packets real.bytes real.ring
    from.flow from.ring from.server-id from.source-route from.none";
