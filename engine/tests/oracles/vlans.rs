//! VLAN tags: what a frame becomes with one is what it becomes without, and the tag.

use std::net::IpAddr;

use etherparse::PacketBuilder;
use tandem_engine::memory::features::{DECAP_GUE, DECAP_IPIP, TOO_BIG, TUNNELS, VLANS};
use tandem_engine::memory::reals::{Method, Out, Way};
use tandem_engine::memory::vips::{DECAP, HAS_VIPS};
use tandem_engine::strip::{Outcome, Tunnels, decapsulate};
use tandem_engine::{Action, Reason, Verdict, vlan};

use crate::bed::{Bed, Frame, LOCAL_MAC};
use crate::methods;
use crate::peers::{V4, V6, address, check_too_big, plain_bed, sent, tuple};

/// Priority 5, drop eligible, VLAN 100.
const TAG: [u8; 4] = [0x81, 0, 0xb0, 100];

pub fn tagged(frame: &[u8], tag: &[u8]) -> Vec<u8> {
    [&frame[..12], tag, &frame[12..]].concat()
}

/// A bed whose real's frames leave by this way.
fn bed(family: [&str; 3], vlan: u16, features: u32) -> Bed {
    let bed = plain_bed(family);
    bed.root.features.set(VLANS | features);
    bed.root.gue_port.set(u32::from(6080_u16.to_be()));
    bed.address(address(family[1]), HAS_VIPS);
    bed.address(address(decap(family)), DECAP);
    bed.out(1, Out { vlan, ..Out::default() });
    bed
}

/// An address where tunnels end.
fn decap(family: [&str; 3]) -> &'static str {
    if family == V4 { "10.9.0.1" } else { "fc00:9::1" }
}

fn in_tunnel(family: [&str; 3], inner: &[u8]) -> Vec<u8> {
    let eth = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], LOCAL_MAC);
    let mut frame = Vec::new();
    let ip = match (address(family[0]), address(decap(family))) {
        (IpAddr::V4(s), IpAddr::V4(d)) => eth.ipv4(s.octets(), d.octets(), 64),
        (IpAddr::V6(s), IpAddr::V6(d)) => eth.ipv6(s.octets(), d.octets(), 64),
        _ => unreachable!("families agree"),
    };
    ip.udp(1000, 6080).write(&mut frame, inner).unwrap();
    frame
}

/// One frame for each way through the parsers, by name.
fn entries(family: [&str; 3]) -> Vec<(&'static str, Vec<u8>)> {
    let (is_v6, tuple) = (family == V6, tuple(family));
    let (udp, l4) = (tuple.udp(64, &[7; 40]), if is_v6 { 54 } else { 34 });
    let eth = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], LOCAL_MAC);
    let (mut ping, mut error) = (Vec::new(), Vec::new());
    let mut quoted = udp[14..].to_vec();
    match (tuple.source, tuple.destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            eth().ipv4(s.octets(), d.octets(), 9).icmpv4_echo_request(1, 2).write(&mut ping, b"ping").unwrap();
            quoted[12..16].copy_from_slice(&d.octets());
            quoted[16..20].copy_from_slice(&s.octets());
            quoted[20..24].rotate_left(2);
            eth().ipv4(s.octets(), d.octets(), 9).icmpv4_raw(3, 4, [0, 0, 5, 0]).write(&mut error, &quoted).unwrap();
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            eth().ipv6(s.octets(), d.octets(), 9).icmpv6_echo_request(1, 2).write(&mut ping, b"ping").unwrap();
            quoted[8..24].copy_from_slice(&d.octets());
            quoted[24..40].copy_from_slice(&s.octets());
            quoted[40..44].rotate_left(2);
            eth().ipv6(s.octets(), d.octets(), 9).icmpv6_raw(2, 0, [0, 0, 5, 0]).write(&mut error, &quoted).unwrap();
        }
        _ => unreachable!("families agree"),
    }
    let fragment = |first: bool| {
        let mut frame = udp.clone();
        if is_v6 {
            let header = [std::mem::replace(&mut frame[20], 44), 0, 0, if first { 1 } else { 0xb9 }, 0, 0, 0, 7];
            frame.splice(l4..l4, header);
            frame[19] += 8;
        } else {
            frame[18..20].copy_from_slice(&[0, 7]);
            frame[20..22].copy_from_slice(if first { &[0x20, 0] } else { &[0, 9] });
        }
        frame
    };
    let mut options = udp.clone();
    if is_v6 {
        let header = [std::mem::replace(&mut options[20], 0), 0, 1, 4, 0, 0, 0, 0];
        options.splice(l4..l4, header);
        options[19] += 8;
    } else {
        options[14] = 0x46;
        options[17] += 4;
        options.splice(l4..l4, [1; 4]);
    }
    let mut version = udp.clone();
    version[14] = 0x10;
    let arp = [&[0xff; 6][..], &[2; 6], &[8, 6], &[1; 28]].concat();
    let other = crate::bed::Tuple { port: 81, ..tuple };
    vec![
        ("UDP", udp.clone()),
        ("the same flow", udp.clone()),
        ("SYN", tuple.tcp(64, true, false, b"")),
        ("TCP", tuple.tcp(64, false, false, b"x")),
        ("padding", [&tuple.tcp(64, false, false, b"")[..], &[0; 6]].concat()),
        ("ping", ping),
        ("ICMP error", error),
        ("first fragment", fragment(true)),
        ("later fragment", fragment(false)),
        ("options, extension headers", options),
        ("wrong version", version),
        ("hop limit", tuple.udp(1, b"x")),
        ("too large", tuple.udp(64, &[7; 1400])),
        ("tunnel", in_tunnel(family, &udp[14..])),
        ("tunnel in a tunnel", in_tunnel(family, &in_tunnel(family, &udp[14..])[14..])),
        ("no VIP", other.udp(64, b"x")),
        ("ARP", arp),
    ]
}

/// What a frame becomes, with the tag (or none) that it has then.
fn expected((verdict, out): (Verdict, Vec<u8>), tag: &[u8], way: u16) -> (Verdict, Vec<u8>) {
    if verdict.action() == Action::Drop {
        return (verdict, out);
    }
    let out = match way {
        _ if !verdict.is_forwarded() => tagged(&out, tag),
        0 => out,
        Out::SAME_VLAN => tagged(&out, tag),
        id => tagged(&out, &[0x81, 0, tag[2] & 0xf0 | (id >> 8) as u8, id as u8]),
    };
    (verdict, out)
}

const WAYS: [u16; 4] = [0, Out::SAME_VLAN, 1, 4094];
const OPENS: u32 = DECAP_IPIP | DECAP_GUE;

/// X4: every entry of the parsers, whole and cut off at every byte, by every way out, whether tunnels are opened or not.
#[test]
fn x4_vlan_x_every_parser_entry() {
    let mut reached = std::collections::BTreeSet::new();
    for (family, way) in [V4, V6].into_iter().flat_map(|family| WAYS.map(|way| (family, way))) {
        for features in [0, TOO_BIG, TOO_BIG | OPENS] {
            let beds = [bed(family, 0, features), bed(family, way, features)];
            for bed in &beds {
                bed.root.max_frame.set(1000);
            }
            for (name, frame) in entries(family) {
                let plain = sent(&beds[0], &frame);
                let wanted = expected(plain, &TAG, way);
                let (verdict, out) = sent(&beds[1], &tagged(&frame, &TAG));
                assert_eq!(verdict, wanted.0, "{name}");
                if verdict.action() != Action::Drop {
                    assert_eq!(out, wanted.1, "{name}: {verdict:?}");
                }
                let changes = verdict.action() != Action::Pass || features & OPENS != 0;
                assert!(changes || out == tagged(&frame, &TAG), "{name}: passed, and changed");
                reached.insert(verdict.reason().name());
                for len in 14..frame.len().min(120) {
                    let cut = &frame[..len];
                    let (verdict, out) = expected(sent(&beds[0], cut), &TAG, way);
                    let found = sent(&beds[1], &tagged(cut, &TAG));
                    reached.insert(verdict.reason().name());
                    assert_eq!(found.0, verdict, "{name}, {len} bytes");
                    assert!(verdict.action() == Action::Drop || found.1 == out, "{name}, {len} bytes: {found:02x?}");
                }
            }
        }
    }
    let wanted = [
        "forwarded",
        "echo-reply",
        "too-big-reply",
        "frame-too-big",
        "not-ip",
        "not-a-vip",
        "icmp",
        "malformed-ip",
        "ttl-expired",
        "bad-length",
        "truncated-ip",
        "truncated-l4",
    ];
    assert!(wanted.iter().all(|reason| reached.contains(reason)), "{reached:?}");
}

/// Z4: a tagged frame that is too large is answered in its VLAN, by the same message as one without a tag; and a tag does
/// not make a frame too large.
#[test]
fn z4_too_big_behind_a_tag_is_correct() {
    for family in [V4, V6] {
        let bed = bed(family, Out::SAME_VLAN, TOO_BIG);
        bed.root.max_frame.set(1414);
        let frame = tuple(family).udp(64, &[7; 1400]);
        let (verdict, mut out) = sent(&bed, &tagged(&frame, &TAG));
        assert_eq!(verdict.reason(), Reason::TooBigReply);
        assert_eq!(out.drain(12..16).collect::<Vec<_>>(), TAG);
        check_too_big(family, &frame, &out);

        bed.root.max_frame.set(frame.len() as u32);
        assert_eq!(sent(&bed, &tagged(&frame, &TAG)).0.reason(), Reason::Forwarded, "the tag does not count");
    }
}

/// Two tags, a provider's tag, half a tag, and a tag around something else.
#[test]
fn what_is_not_looked_into_passes_as_it_came() {
    for (family, features) in [V4, V6].into_iter().flat_map(|family| [(family, 0), (family, OPENS)]) {
        let (bed, frame) = (bed(family, 7, features), tuple(family).udp(64, b"x"));
        for (tag, reason) in [
            (&[0x81, 0, 0, 7, 0x81, 0, 0, 8][..], Reason::VlanStacked),
            (&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8], Reason::VlanStacked),
            (&[0x88, 0xa8, 0, 7], Reason::VlanStacked),
            (&[0x81, 0, 0, 7, 0x88, 0xa8, 0, 8], Reason::VlanStacked),
            (&[0x81, 0, 0, 7, 8, 6], Reason::NotIp),
            (&[0x91, 0, 0, 7], Reason::NotIp),
        ] {
            let frame = tagged(&frame, tag);
            assert_eq!(sent(&bed, &frame), (Verdict::stop(reason), frame));
        }
        for len in 14..18 {
            let frame = &tagged(&frame, &TAG)[..len];
            assert_eq!(sent(&bed, frame), (Verdict::stop(Reason::TruncatedIp), frame.to_vec()));
        }
        // Without the feature, as in profile katran, a tag is none of our business.
        bed.root.features.set(features);
        let frame = tagged(&frame, &TAG);
        assert_eq!(sent(&bed, &frame), (Verdict::stop(Reason::NotIp), frame));
    }
}

/// Frames that came without a tag get one where the way has a VLAN, with priority 0; a priority tag is a tag.
#[test]
fn a_way_has_its_vlan_whatever_the_method() {
    for (family, method) in [V4, V6].into_iter().flat_map(|family| methods::METHODS.map(|method| (family, method))) {
        let frame = tuple(family).udp(64, b"x");
        let run = |way: u16, frame: &[u8]| {
            let bed = bed(family, way, TUNNELS);
            methods::sources(&bed);
            bed.root.features.set(bed.root.features.get() | VLANS);
            bed.way(1, &Way { ports: methods::ports(method), ..Way::by(method) });
            let (verdict, out) = sent(&bed, frame);
            assert_eq!(verdict.reason(), Reason::Forwarded, "{method:?}");
            out
        };
        let (plain, priority) = (run(0, &frame), [0x81, 0, 0xe0, 0]);
        assert_eq!(run(Out::SAME_VLAN, &frame), plain, "no tag, and none to keep");
        assert_eq!(run(4094, &frame), tagged(&plain, &[0x81, 0, 0x0f, 0xfe]));
        assert_eq!(run(Out::SAME_VLAN, &tagged(&frame, &priority)), tagged(&plain, &priority));
        assert_eq!(run(1, &tagged(&frame, &priority)), tagged(&plain, &[0x81, 0, 0xe0, 1]));
        assert_eq!(run(0, &tagged(&frame, &TAG)), plain);
        if method != Method::L2 {
            let mut real = Frame::new(&run(Out::SAME_VLAN, &tagged(&frame, &TAG)));
            assert_eq!(decapsulate(&mut real, &Tunnels::standard(), |_| {}), Outcome::Decapsulated);
            let mut stripped = Frame::new(&plain);
            assert_eq!(decapsulate(&mut stripped, &Tunnels::standard(), |_| {}), Outcome::Decapsulated);
            assert_eq!(real.as_slice(), tagged(stripped.as_slice(), &TAG), "the real gets the tag, too");
        }
    }
}

/// The `decap` program leaves tagged frames that are no tunnel as they are, and opens none in profile katran.
#[test]
fn decap_keeps_what_it_does_not_open() {
    let frame = tuple(V4).udp(64, b"x");
    for tunnels in [Tunnels::standard(), Tunnels::katran()] {
        for tag in [&TAG[..], &[0x81, 0, 0, 7, 0x81, 0, 0, 8], &[0x88, 0xa8, 0, 7]] {
            let sent = tagged(&frame, tag);
            for len in 0..=sent.len() {
                let mut cut = Frame::new(&sent[..len]);
                assert_eq!(decapsulate(&mut cut, &tunnels, |_| {}), Outcome::NotATunnel);
                assert_eq!(cut.as_slice(), &sent[..len]);
            }
        }
    }
}

#[test]
fn a_tag_is_one_number() {
    for control in [0, 1, 0x0fff, 0xffff_u16] {
        let tag = vlan::PRESENT | u32::from(control);
        assert_eq!(vlan::leaving(tag, 0), 0);
        assert_eq!(vlan::leaving(tag, Out::SAME_VLAN), tag);
        assert_eq!(vlan::leaving(tag, 9), vlan::PRESENT | u32::from(control) & 0xf000 | 9);
    }
    assert_eq!((vlan::leaving(0, Out::SAME_VLAN), vlan::leaving(0, 9)), (0, vlan::PRESENT | 9));
}
