//! Generated frames through both backends of `tandem replay`: the same files come out.

use serde_json::Value;
use tandem_backends::config;

use super::captures::pcap;
use super::replay::{CONFIG, Replay, Written, backends};
use super::shell::{Scratch, tandem};

#[path = "../../../backends/tests/twin/frames.rs"]
mod frames;

const FRAMES: usize = 400;

/// Valid, odd, mutated and truncated frames for the plan of [`CONFIG`].
fn generated() -> Vec<Vec<u8>> {
    let plan = config::parse(CONFIG, "t.toml").expect("a good configuration").plan;
    let mut rng = frames::Rng(20);
    (0..FRAMES).map(|_| frames::frame(&mut rng, &plan)).collect()
}

/// Replays them through each backend that may be used, with these options.
fn replays(sent: &[Vec<u8>], options: &[&str]) -> Vec<Written> {
    let scratch = Scratch::new();
    let (config, input) = (scratch.file("t.toml", CONFIG), scratch.file("in.pcap", pcap(sent)));
    let replay = |backend| Replay { scratch: &scratch, backend, config: &config, input: &input }.written(options);
    backends().iter().map(|backend| replay(backend)).collect()
}

fn assert_alike(written: &[Written]) {
    for pair in written.windows(2) {
        for (ours, theirs) in pair[0].verdicts.lines().zip(pair[1].verdicts.lines()) {
            assert_eq!(ours, theirs);
        }
        assert!(pair[0] == pair[1], "verdicts agree, frames or counters do not");
    }
}

fn count(written: &Written, field: &str, value: &str) -> usize {
    written.rows().iter().filter(|row| row[field] == value).count()
}

#[test]
fn both_backends_write_the_same() {
    let sent = generated();
    let written = replays(&sent, &[]);
    assert_alike(&written);
    let first = &written[0];
    assert_eq!(first.frames.len(), FRAMES);
    assert_eq!(first.rows().len(), FRAMES);
    for (field, value) in [("action", "tx"), ("action", "pass"), ("action", "drop"), ("from", "flow"), ("from", "ring")] {
        assert!(count(first, field, value) > 0, "no {field} {value}: the frames are too few or too alike");
    }
    for (number, (row, (sent, left))) in first.rows().iter().zip(sent.iter().zip(&first.frames)).enumerate() {
        assert_eq!(row["frame"], number);
        match (row["action"].as_str(), row["reason"].as_str()) {
            (_, Some("forwarded")) => assert!(left.len() == sent.len() + 20 || left.len() == sent.len() + 40),
            (Some("tx"), Some("echo-reply")) => assert!(left.len() == sent.len() && left != sent),
            (Some("tx"), Some("too-big-reply")) => assert!([126, 310].contains(&left.len())),
            // Nobody puts the tag of what is dropped back.
            (Some("drop"), _) if sent.len() > 18 && sent[12..14] == [0x81, 0] && *left == [&sent[..12], &sent[16..]].concat() => {
            }
            (action, _) => {
                assert_eq!((action == Some("tx"), left), (false, sent), "frame {number} was not forwarded, and changed");
            }
        }
    }
    // The counters are those that the verdicts name.
    let reasons = first.counters["reasons"].as_object().expect("an object");
    for (reason, counted) in reasons {
        assert_eq!(counted.as_u64(), Some(count(first, "reason", reason) as u64), "{reason}");
    }
}

#[test]
fn fresh_per_frame_forgets() {
    let sent = generated();
    let written = replays(&sent, &["--fresh-per-frame"]);
    assert_alike(&written);
    let first = &written[0];
    assert_eq!(count(first, "from", "flow"), 0, "a flow outlived its frame");
    assert!(count(first, "from", "ring") > 0);
    let reasons = first.counters["reasons"].as_object().expect("an object");
    assert_eq!(reasons.values().filter_map(Value::as_u64).sum::<u64>(), 1, "only the last frame counts");
    // Whether a frame is forwarded does not depend on those before it, and the rings have not changed.
    let kept = &replays(&sent, &[])[0];
    for (fresh, kept) in first.rows().iter().zip(kept.rows()) {
        assert_eq!((&fresh["action"], &fresh["reason"]), (&kept["action"], &kept["reason"]));
    }
}

#[test]
fn a_seed_changes_the_places_of_flows_and_nothing_else() {
    let sent = generated();
    let (zero, other) = (replays(&sent, &[]), replays(&sent, &["--seed", "18446744073709551615"]));
    assert_alike(&other);
    assert!(zero[0] == other[0], "another seed, other decisions");
    let scratch = Scratch::new();
    let config = scratch.file("t.toml", CONFIG);
    let [a, b, c] = ["0", "0", "1"].map(|seed| {
        let words = ["trace", "--seed", seed, "udp 198.51.100.7:41000 > 10.200.1.1:80", "-c"].map(Into::into);
        let words: Vec<std::ffi::OsString> = words.into_iter().chain([config.clone().into()]).collect();
        let text = tandem(words).done().out;
        let (places, rest): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.starts_with("flow") || line.starts_with("entered"));
        (places.join("\n"), rest.join("\n"))
    });
    assert_eq!(a, b, "the same seed, another answer");
    assert_eq!(a.1, c.1);
    assert_ne!(a.0, c.0, "the seed has no effect at all");
}
