//! `tandem replay --program decap` and `--program health-encap`: the same in both seats, and what the text of the contract says.

use std::path::Path;

use etherparse::{IpNumber, NetSlice, PacketBuilder, SlicedPacket};
use serde_json::{Value, json};

use super::captures::pcap;
use super::replay::{CONFIG, Replay, Written, backends, frame};
use super::shell::Scratch;

/// What every backend writes: the same of all.
#[track_caller]
fn written(config: &str, frames: &[Vec<u8>], options: &[&str]) -> Written {
    let scratch = Scratch::new();
    let (config, input) = (scratch.file("t.toml", config), scratch.file("in.pcap", pcap(frames)));
    let run = |backend: &'static str| run(&scratch, backend, &config, &input, options);
    let mut all = backends().iter().map(|backend| (backend, run(backend)));
    let (_, first) = all.next().expect("the engine needs no privileges");
    for (backend, other) in all {
        assert_eq!(first, other, "{backend}");
    }
    first
}

fn run(scratch: &Scratch, backend: &'static str, config: &Path, input: &Path, options: &[&str]) -> Written {
    Replay { scratch, backend, config, input }.written(options)
}

const DECAP: &[&str] = &["--program", "decap"];

/// A client's frame in a tunnel: in GUE if there is a port.
fn tunnelled(inner: &[u8], outer_v6: bool, gue: Option<u16>) -> Vec<u8> {
    let packet = &inner[14..];
    let protocol = IpNumber(if packet[0] >> 4 == 6 { 41 } else { 4 });
    let eth = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
    let ip = match outer_v6 {
        false => eth.ipv4([10, 0, 13, 37], [10, 0, 0, 1], 64),
        true => eth.ipv6([1; 16], [2; 16], 64),
    };
    let mut frame = Vec::new();
    match gue {
        None => ip.write(&mut frame, protocol, packet).expect("a frame"),
        Some(port) => ip.udp(31337, port).write(&mut frame, packet).expect("a frame"),
    }
    frame
}

fn clients() -> [Vec<u8>; 2] {
    [frame("tcp 198.51.100.7:41000 > 10.200.1.2:80"), frame("udp [2001:db8::7]:41000 > [fc00:1::1]:443")]
}

#[test]
fn decap_opens_every_tunnel() {
    let clients = clients();
    let kinds = [(false, None), (true, None), (false, Some(6080)), (true, Some(6080))];
    let mut sent: Vec<_> =
        clients.iter().flat_map(|client| kinds.map(|(outer_v6, gue)| tunnelled(client, outer_v6, gue))).collect();
    sent.extend([clients[0].clone(), tunnelled(&clients[0], false, Some(6081)), vec![1; 13], Vec::new()]);
    let Written { frames, verdicts, counters } = written(CONFIG, &sent, DECAP);
    for (n, left) in frames.iter().enumerate() {
        assert_eq!(left, if n < 8 { &clients[n / 4] } else { &sent[n] }, "frame {n}");
    }
    let expected = |frame, action, reason| {
        format!(r#"{{"frame":{frame},"action":"{action}","reason":"{reason}","vip":null,"real":null,"from":"none"}}"#)
    };
    let rows = (0..8).map(|n| expected(n, "pass", "decapsulated"));
    let rows = rows.chain((8..10).map(|n| expected(n, "pass", "not-a-tunnel")));
    let rows: Vec<_> = rows.chain((10..12).map(|n| expected(n, "drop", "frame-too-short"))).collect();
    assert_eq!(verdicts.lines().collect::<Vec<_>>(), rows);
    let events = json!({"total": 10, "v4": 4, "v6": 4, "inner-v4": 4, "inner-v6": 4, "gue": 4});
    assert_eq!(counters["events"], events);
    assert_eq!(moved(&counters), json!({"decapsulated": 8, "not-a-tunnel": 2, "frame-too-short": 2}));
}

/// The reasons whose counters are not 0.
fn moved(counters: &Value) -> Value {
    let reasons = counters["reasons"].as_object().expect("an object");
    reasons.iter().filter(|(_, count)| **count != 0).map(|(name, count)| (name.clone(), count.clone())).collect::<Value>()
}

#[test]
fn decap_starts_anew_for_each_frame() {
    let client = &clients()[0];
    let sent = [tunnelled(client, false, None), client.clone()];
    let options = [DECAP, &["--fresh-per-frame"]].concat();
    assert_eq!(moved(&written(CONFIG, &sent, &options).counters), json!({"not-a-tunnel": 1}));
}

/// Cut at every byte, and with options or in fragments: both seats agree, and what is not stripped stays as it is.
#[test]
fn decap_of_what_is_broken() {
    let mut sent = Vec::new();
    for (client, (outer_v6, gue)) in clients().iter().zip([(true, Some(6080)), (false, None)]) {
        let whole = tunnelled(client, outer_v6, gue);
        sent.extend((14..whole.len()).map(|cut| whole[..cut].to_vec()));
        for (at, by) in (14..40).flat_map(|at| [0x41, 0x03].map(|by| (at, by))) {
            let mut odd = whole.clone();
            odd[at] ^= by;
            sent.push(odd);
        }
    }
    let Written { frames, verdicts, .. } = written(CONFIG, &sent, DECAP);
    let mut reasons = std::collections::BTreeSet::new();
    for ((line, left), sent) in verdicts.lines().zip(&frames).zip(&sent) {
        let row: Value = serde_json::from_str(line).expect("a row");
        let reason = row["reason"].as_str().expect("a reason").to_owned();
        assert!(reason == "decapsulated" || left == sent, "{row}");
        assert_eq!(row["action"], "pass", "{row}");
        reasons.insert(reason);
    }
    let all = ["decapsulated", "malformed-tunnel", "not-a-tunnel", "tunnel-fragment", "tunnel-options"];
    assert_eq!(reasons.into_iter().collect::<Vec<_>>(), all);
}

/// Two marks, for reals of both families.
fn probing() -> String {
    format!(
        "{CONFIG}[[health_encap]]\nmark = 1\nreal = \"10.0.0.1\"\n[[health_encap]]\nmark = 2\nreal = \"fc00::1\"\n\
         [[health_encap]]\nmark = 3\nreal = \"10.9.9.9\"\n"
    )
}

fn with_mark(mark: &str) -> [&str; 4] {
    ["--program", "health-encap", "--mark", mark]
}

#[test]
fn probes_go_to_the_real_of_their_mark() {
    let sent = clients();
    for (mark, real, overhead) in [("1", "10.0.0.1", 20), ("2", "fc00::1", 40), ("3", "10.9.9.9", 20)] {
        let Written { frames, verdicts, counters } = written(&probing(), &sent, &with_mark(mark));
        for (n, (left, sent)) in frames.iter().zip(&sent).enumerate() {
            assert_eq!(
                verdicts.lines().nth(n).expect("a row"),
                format!(r#"{{"frame":{n},"action":"redirect","reason":"processed","vip":null,"real":"{real}","from":"none"}}"#)
            );
            assert_eq!(left[14 + overhead..], sent[14..], "mark {mark}: the probe itself is changed");
            assert_eq!(left[..12], [0, 0, 0xde, 0xad, 0xbe, 0xaf, 0, 0xff, 0xde, 0xad, 0xbe, 0xaf]);
            let outer = SlicedPacket::from_ethernet(left).expect("a packet");
            match outer.net.expect("a header") {
                NetSlice::Ipv4(ip) => {
                    let header = ip.header();
                    assert_eq!((header.source(), usize::from(header.total_len())), ([10, 0, 13, 37], left.len() - 14));
                    assert_eq!((header.dcp().value(), header.ttl()), (0, 64));
                    assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
                }
                NetSlice::Ipv6(ip) => {
                    let header = ip.header();
                    assert_eq!(header.source_addr().to_string(), "fc00:2307::1337");
                    assert_eq!((usize::from(header.payload_length()), header.hop_limit()), (left.len() - 54, 64));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(moved(&counters), json!({"processed": 2}));
    }
}

#[test]
fn what_is_no_probe_is_left_alone() {
    let arp = [&[0xff; 12][..], &[8, 6], &[1; 28]].concat();
    let mut large = frame("udp 198.51.100.7:41000 > 10.200.1.1:80");
    large.resize(1515, 0);
    let sent = [clients()[0].clone(), arp, vec![1; 13], large, vec![0; 14]];
    for mark in ["0", "9"] {
        let Written { frames, counters, .. } = written(&probing(), &sent, &with_mark(mark));
        assert_eq!(frames, sent);
        assert_eq!(moved(&counters), json!({"skipped": 4, "frame-too-short": 1}), "mark {mark}");
    }
    let Written { frames, verdicts, counters } = written(&probing(), &sent, &with_mark("1"));
    assert_eq!(frames[1..], sent[1..]);
    let expected = json!({"processed": 1, "skipped": 2, "too-big": 1, "frame-too-short": 1});
    assert_eq!(moved(&counters), expected, "{verdicts}");
    assert!(verdicts.lines().nth(3).expect("a row").contains(r#""action":"drop","reason":"too-big""#), "{verdicts}");
}

/// Cut at every byte: both seats agree, and what ends inside its IP header is run in neither.
#[test]
fn probes_that_are_cut() {
    for (probe, header) in clients().iter().zip([20, 40]) {
        let sent: Vec<_> = (0..probe.len()).map(|cut| probe[..cut].to_vec()).collect();
        let too_short = 14 + header;
        for mark in ["1", "2"] {
            let Written { frames, counters, .. } = written(&probing(), &sent, &with_mark(mark));
            let expected = json!({"processed": sent.len() - too_short, "frame-too-short": too_short});
            assert_eq!(moved(&counters), expected);
            assert_eq!(frames[..too_short], sent[..too_short]);
        }
    }
}

#[test]
fn a_mark_is_for_probes() {
    let scratch = Scratch::new();
    let (config, input) = (scratch.file("t.toml", CONFIG), scratch.file("in.pcap", pcap(&[])));
    let replay = Replay { scratch: &scratch, backend: "engine", config: &config, input: &input };
    for program in ["balancer", "decap"] {
        replay.run(&["--program", program, "--mark", "1"]).refused(2, &["--mark", "it takes --program health-encap"]);
    }
}
