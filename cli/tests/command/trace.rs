//! `tandem trace`: one packet, explained.

use std::ffi::OsString;

use super::replay::{CONFIG, backends};
use super::shell::{Answer, Scratch, tandem};

#[track_caller]
fn trace(options: &[&str], packet: &str) -> Answer {
    let scratch = Scratch::new();
    let config = scratch.file("t.toml", CONFIG);
    let words = ["trace", packet, "-c"].map(OsString::from).into_iter();
    tandem(words.chain([config.into()]).chain(options.iter().map(OsString::from)))
}

#[test]
fn both_backends_give_the_same_answer() {
    for packet in [
        "udp 198.51.100.7:41000 > 10.200.1.1:80",
        "tcp 198.51.100.7:41000 > 10.200.1.2:1",
        "udp [2001:db8::7]:41000 > [fc00:1::1]:443",
        "tcp [2001:db8::7]:41000 > [fc00:1::2]:443",
        "tcp 198.51.100.7:41000 > 10.200.1.1:80",
    ] {
        let answers: Vec<_> = backends().iter().map(|backend| trace(&["--backend", backend], packet).done().out).collect();
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:#?}");
        assert_eq!(trace(&[], packet).done().out, answers[0], "the engine is the default");
    }
}

#[test]
fn every_decision_is_named() {
    let text = trace(&[], "udp 198.51.100.7:41000 > 10.200.1.1:80").done().out;
    let words: Vec<&str> = text.lines().filter(|line| !line.starts_with(' ')).filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(words, ["packet", "vip", "flow", "ring", "real", "entered", "outer", "verdict"], "{text}");
    for part in [
        "packet    udp 198.51.100.7:41000 > 10.200.1.1:80\n",
        "vip       10.200.1.1:80/udp (id 0), ring of 65537 slots from line 1, room for 20 bytes\n",
        "real      10.0.0.1 (id 1), chosen by the ring\n",
        "00:ff:de:ad:be:af > 00:00:de:ad:be:af, 10.0.13.37 > 10.0.0.1, protocol 4, TTL 64, ",
        "verdict   tx (forwarded)\n",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    let json = trace(&["--json"], "udp 198.51.100.7:41000 > 10.200.1.1:80").done().out;
    assert_eq!(
        json,
        "{\"frame\":0,\"action\":\"tx\",\"reason\":\"forwarded\",\"vip\":\"10.200.1.1:80/udp\",\"real\":\"10.0.0.1\",\"from\":\"ring\"}\n"
    );
}

#[test]
fn a_packet_for_the_host() {
    for packet in ["udp 198.51.100.7:41000 > 10.200.1.1:81", "tcp [2001:db8::7]:1 > [fc00:1::9]:443"] {
        let text = trace(&[], packet).done().out;
        assert!(text.contains("vip       none\n") && text.contains("verdict   pass (not-a-vip)\n"), "{text}");
    }
}

#[test]
fn words_that_are_no_packet() {
    for (packet, why) in [
        ("", "0 words"),
        ("udp 198.51.100.7:41000 10.200.1.1:80", "3 words"),
        ("sctp 198.51.100.7:41000 > 10.200.1.1:80", "protocol \"sctp\", not tcp or udp"),
        ("udp 198.51.100.7 > 10.200.1.1:80", "\"198.51.100.7\" is not ADDRESS:PORT"),
        ("udp 198.51.100.7:41000 > 10.200.1.1:65536", "\"10.200.1.1:65536\" is not ADDRESS:PORT"),
        ("udp 2001:db8::7:1 > [fc00:1::1]:443", "\"2001:db8::7:1\" is not ADDRESS:PORT"),
        ("udp 198.51.100.7:41000 > [fc00:1::1]:443", "different families"),
    ] {
        trace(&[], packet).refused(2, &[&format!("{packet:?} is not a packet: "), why, "; expected for example"]);
    }
}
