//! `tandem replay --program decap` and `--program health-encap`: the same in both seats, and what the text of the contract says.

use std::path::Path;

use etherparse::{IpNumber, NetSlice, PacketBuilder, SlicedPacket, UdpHeader};
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
    sent.extend([clients[0].clone(), tunnelled(&clients[0], false, Some(6082)), vec![1; 13], Vec::new()]);
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
    let events = json!({
        "total": 10, "v4": 4, "v6": 4, "inner-v4": 4, "inner-v6": 4, "gue": 4, "gre": 0, "fou": 0, "geneve": 0
    });
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

/// Reals that belong to no VIP, so that `tunnel.encap` is theirs.
fn alone(profile: &str, encap: &str) -> String {
    format!(
        "[node]\nprofile = \"{profile}\"\nnext_hop_mac = \"00:00:de:ad:be:af\"\nlocal_mac = \"00:ff:de:ad:be:af\"\n\
         [tunnel]\nencap = \"{encap}\"\nsource_v4 = \"10.0.13.37\"\nsource_v6 = \"fc00:2307::1337\"\n\
         [[health_encap]]\nmark = 1\nreal = \"10.0.0.1\"\n[[health_encap]]\nmark = 2\nreal = \"fc00::1\"\n"
    )
}

/// The UDP header behind an outer header of this length: source and destination port, length, checksum.
fn udp(frame: &[u8], ip: usize) -> [u16; 4] {
    std::array::from_fn(|n| u16::from_be_bytes([frame[14 + ip + 2 * n], frame[15 + ip + 2 * n]]))
}

#[test]
fn probes_in_gue() {
    let sent = clients();
    for (mark, ip) in [("1", 20), ("2", 40)] {
        let run = |seed: &str| written(&alone("standard", "gue"), &sent, &[&with_mark(mark)[..], &["--seed", seed]].concat());
        let (first, again, other) = (run("7"), run("7"), run("8"));
        assert_eq!(first, again, "one seed, two captures");
        assert_ne!(first.frames, other.frames, "two seeds, one capture");
        for (left, sent) in first.frames.iter().zip(&sent) {
            let [source, destination, length, checksum] = udp(left, ip);
            assert!(source >= 49152, "{source}");
            assert_eq!((destination, usize::from(length)), (6080, left.len() - 14 - ip));
            assert_eq!(left[14 + ip + 8..], sent[14..]);
            assert_eq!(left[12..14], if ip == 20 { [8, 0] } else { [0x86, 0xdd] });
            if ip == 20 {
                assert_eq!(checksum, 0);
                continue;
            }
            let address = |at: usize| left[at..at + 16].try_into().expect("16 bytes");
            let payload = left.len() - 14 - 40 - 8;
            let header = UdpHeader { source_port: source, destination_port: destination, length, checksum };
            let right = header.calc_checksum_ipv6_raw(address(22), address(38), &left[left.len() - payload..]);
            assert_eq!(checksum, right.expect("a length that fits"), "RFC 8200 section 8.1");
        }
    }
}

#[test]
fn katrans_probes() {
    let sent = clients();
    // GUE: no checksum in either family, and the source port as the machine holds it.
    for (mark, ip) in [("1", 20), ("2", 40)] {
        for left in written(&alone("katran", "gue"), &sent, &with_mark(mark)).frames {
            let [source, destination, length, checksum] = udp(&left, ip);
            assert_eq!((destination, usize::from(length), checksum), (6080, left.len() - 14 - ip, 0));
            assert_eq!(source.swap_bytes() & 0x0400, 0x0400);
        }
    }
    // IPIP: no "don't fragment"; an IPv6 probe in IPv4 keeps its EtherType and is protocol 4.
    for (encap, left) in [("ipip", [4, 4]), ("gue", [17, 17])] {
        let frames = written(&alone("katran", encap), &sent, &with_mark("1")).frames;
        assert_eq!(frames.iter().map(|frame| frame[23]).collect::<Vec<_>>(), left);
        assert_eq!([&frames[0][12..14], &frames[1][12..14]], [[8, 0], [0x86, 0xdd]]);
        assert_eq!(frames[0][18..22], [0; 4], "identification, flags and offset");
    }
    let standard = written(&alone("standard", "ipip"), &sent, &with_mark("1")).frames;
    assert_eq!(standard.iter().map(|frame| frame[23]).collect::<Vec<_>>(), [4, 41]);
    assert_eq!([&standard[0][12..14], &standard[1][12..14]], [[8, 0], [8, 0]]);
    assert_eq!(standard[0][18..22], [0, 0, 0x40, 0]);
}

/// Katran's rules for decapsulation: what is dropped, and what is misjudged.
#[test]
fn katrans_decap() {
    let [v4, _] = clients();
    // Long enough that an IPv6 header is left of it when 20 bytes too many are taken off.
    let v6 = frame("tcp [2001:db8::7]:41000 > [fc00:1::2]:443");
    let mut options = v4.clone();
    options[14] = 0x46;
    let mut fragment = v4.clone();
    fragment[20] = 0x20;
    let mut fragment_v6 = v6.clone();
    fragment_v6[20] = 44;
    let sent = [
        tunnelled(&v4, false, None),
        tunnelled(&v6, true, Some(6080)),
        v4.clone(),
        options,
        fragment,
        fragment_v6,
        v4[..20].to_vec(),
        tunnelled(&v6, false, None),
        tunnelled(&v6, false, Some(6080)),
    ];
    let Written { frames, verdicts, .. } = written(&alone("katran", "ipip"), &sent, DECAP);
    let reasons: Vec<_> = verdicts.lines().map(|line| line.split('"').nth(9).expect("a reason")).collect();
    let stripped = "decapsulated";
    let dropped = ["ipv4-options-dropped", "fragment-dropped", "fragment-dropped", "truncated-dropped"];
    assert_eq!(reasons, [&[stripped, stripped, "not-a-tunnel"], &dropped[..], &[stripped, stripped]].concat());
    assert_eq!((&frames[0], &frames[1]), (&v4, &v6));
    assert_eq!(frames[2..7], sent[2..7]);
    assert_eq!((&frames[7][14..], &frames[7][12..14]), (&v6[34..], &[0x86, 0xdd][..]), "6in4 loses 40 bytes");
    assert_eq!((&frames[8][14..], &frames[8][12..14]), (&v6[14..], &[8, 0][..]), "the EtherType is IPv4's");
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
