//! Stripping against frames that etherparse built: whatever was put in front is gone, and nothing else.

use etherparse::{IpNumber, PacketBuilder};
use tandem_engine::Packet;
use tandem_engine::strip::{COUNTERS, Outcome, Tunnels, counter_names, decapsulate};

use super::bed::Frame;

const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1]];
const GUE_PORT: u16 = 6080;
const STANDARD: Tunnels = Tunnels { gue_port: GUE_PORT, gre: false, fou_ports: [0, 0], geneve_port: 0, ..Tunnels::standard() };
const KATRAN: Tunnels = Tunnels { katran: true, ..STANDARD };

/// A client's packet with its Ethernet header.
fn client(is_v6: bool) -> Vec<u8> {
    let eth = PacketBuilder::ethernet2(MACS[0], MACS[1]);
    let mut frame = Vec::new();
    let udp = match is_v6 {
        false => eth.ipv4([198, 51, 100, 7], [10, 200, 1, 1], 63),
        true => eth.ipv6([7; 16], [8; 16], 63),
    };
    udp.udp(41000, 80).write(&mut frame, &[0x5a; 40]).unwrap();
    frame
}

/// The packet in a tunnel; a GUE port makes it GUE.
fn tunnelled(inner: &[u8], outer_v6: bool, gue: Option<u16>) -> Vec<u8> {
    let packet = &inner[14..];
    let protocol = IpNumber(if packet[0] >> 4 == 6 { 41 } else { 4 });
    let eth = PacketBuilder::ethernet2(MACS[0], MACS[1]);
    let ip = match outer_v6 {
        false => eth.ipv4([10, 0, 13, 37], [10, 0, 0, 1], 64),
        true => eth.ipv6([1; 16], [2; 16], 64),
    };
    let mut frame = Vec::new();
    match gue {
        None => ip.write(&mut frame, protocol, packet).unwrap(),
        Some(port) => ip.udp(31337, port).write(&mut frame, packet).unwrap(),
    }
    frame
}

/// What is left of a frame, the outcome, and the names of the counters that moved.
fn run(frame: &[u8], tunnels: &Tunnels) -> (Vec<u8>, Outcome, Vec<&'static str>) {
    let names: Vec<&str> = counter_names().collect();
    assert_eq!(names.len(), COUNTERS as usize);
    let (mut packet, mut moved) = (Frame::new(frame), Vec::new());
    let outcome = decapsulate(&mut packet, tunnels, |index| moved.push(names[index as usize]));
    assert_eq!(packet.len(), packet.as_slice().len());
    (packet.as_slice().to_vec(), outcome, moved)
}

#[test]
fn every_tunnel_is_opened() {
    for (inner_v6, outer_v6, gue) in (0..8).map(|n| (n & 1 != 0, n & 2 != 0, n & 4 != 0)) {
        let inner = client(inner_v6);
        let frame = tunnelled(&inner, outer_v6, gue.then_some(GUE_PORT));
        let (left, outcome, moved) = run(&frame, &STANDARD);
        assert_eq!((left, outcome), (inner, Outcome::Decapsulated));
        let mut expected = vec!["total", if outer_v6 { "v6" } else { "v4" }, if inner_v6 { "inner-v6" } else { "inner-v4" }];
        expected.extend(gue.then_some("gue"));
        expected.push("decapsulated");
        assert_eq!(moved, expected);
    }
}

#[test]
fn the_katran_profile_misjudges_two_of_them() {
    // 6in4: 40 bytes go instead of 20, if an IPv6 header is left. An IPv6 packet in GUE over IPv4 gets the EtherType of IPv4.
    let inner = client(true);
    let (left, outcome, _) = run(&tunnelled(&inner, false, None), &KATRAN);
    assert_eq!((&left[..14], &left[14..], outcome), (&inner[..14], &inner[34..], Outcome::Decapsulated));
    let short = &tunnelled(&inner, false, None)[..14 + 40 + 39];
    let (left, outcome, _) = run(short, &KATRAN);
    assert_eq!((&left[..], outcome), (short, Outcome::TruncatedDropped));
    let (left, outcome, _) = run(&tunnelled(&inner, false, Some(GUE_PORT)), &KATRAN);
    assert_eq!((&left[..14], &left[14..], outcome), (&client(false)[..14], &inner[14..], Outcome::Decapsulated));
    for (inner_v6, outer_v6, gue) in [(false, false, None), (false, true, None), (true, true, None), (true, true, Some(GUE_PORT))]
    {
        let inner = client(inner_v6);
        assert_eq!(run(&tunnelled(&inner, outer_v6, gue), &KATRAN).0, inner);
    }
}

#[test]
fn only_what_is_asked_for_is_opened() {
    let (ipip, gue) = (tunnelled(&client(false), true, None), tunnelled(&client(false), true, Some(GUE_PORT)));
    for (frame, tunnels) in [
        (&client(true), STANDARD),
        (&ipip, Tunnels { ipip: false, ..STANDARD }),
        (&gue, Tunnels { gue_port: 0, ..STANDARD }),
        (&gue, Tunnels { gue_port: GUE_PORT + 1, ..STANDARD }),
        (&tunnelled(&client(false), false, Some(0)), Tunnels { gue_port: 0, ..STANDARD }),
    ] {
        for tunnels in [tunnels, Tunnels { katran: true, ..tunnels }] {
            let (left, outcome, moved) = run(frame, &tunnels);
            assert_eq!((&left, outcome, moved), (frame, Outcome::NotATunnel, vec!["total", "not-a-tunnel"]));
        }
    }
}

/// Frames with options or in fragments: whose, and what becomes of them in either profile.
#[test]
fn options_and_fragments() {
    let with = |mut frame: Vec<u8>, options: bool| {
        if options {
            frame[14] = 0x46;
            frame.splice(34..34, [1; 4]);
        } else {
            frame[20] = 0x20;
        }
        frame
    };
    let inner = client(false);
    let (ipip, gue) = (tunnelled(&inner, false, None), tunnelled(&inner, false, Some(GUE_PORT)));
    for (frame, options, expected) in [
        (&inner, true, Outcome::NotATunnel),
        (&ipip, true, Outcome::TunnelOptions),
        (&gue, true, Outcome::TunnelOptions),
        (&inner, false, Outcome::NotATunnel),
        (&ipip, false, Outcome::TunnelFragment),
        (&gue, false, Outcome::NotATunnel),
    ] {
        let frame = with(frame.clone(), options);
        let dropped = if options { Outcome::Ipv4OptionsDropped } else { Outcome::FragmentDropped };
        for (tunnels, expected) in [(STANDARD, expected), (KATRAN, dropped)] {
            let (left, outcome, _) = run(&frame, &tunnels);
            assert_eq!((left, outcome), (frame.clone(), expected), "{tunnels:?}");
        }
    }
    let mut fragment = tunnelled(&inner, true, None);
    fragment[20] = 44;
    assert_eq!(run(&fragment, &STANDARD).1, Outcome::NotATunnel);
    assert_eq!(run(&fragment, &KATRAN).1, Outcome::FragmentDropped);
}

/// Cut at every byte: what is not whole enough stays as it is.
#[test]
fn truncated_tunnels() {
    for (inner_v6, outer_v6, gue) in (0..8).map(|n| (n & 1 != 0, n & 2 != 0, n & 4 != 0)) {
        let whole = tunnelled(&client(inner_v6), outer_v6, gue.then_some(GUE_PORT));
        let outer = if outer_v6 { 40 } else { 20 } + if gue { 8 } else { 0 };
        let needed = 14 + outer + if inner_v6 { 40 } else { 20 };
        for cut in 0..whole.len() {
            let frame = &whole[..cut];
            let (left, outcome, _) = run(frame, &STANDARD);
            if cut >= needed {
                assert_eq!((&left[14..], outcome), (&frame[14 + outer..], Outcome::Decapsulated));
            } else {
                assert_eq!(left, frame);
                let headers = 14 + if outer_v6 { 40 } else { 20 } + if gue { 8 } else { 0 };
                let expected = if cut < headers { Outcome::NotATunnel } else { Outcome::MalformedTunnel };
                assert_eq!(outcome, expected, "{cut} of {}", whole.len());
            }
            let (left, outcome, _) = run(frame, &KATRAN);
            assert!(outcome == Outcome::Decapsulated || left == frame, "{cut}: {outcome:?}");
        }
    }
}

#[test]
fn what_is_inside_must_be_ip() {
    for (outer_v6, gue) in [(false, None), (true, None), (false, Some(GUE_PORT)), (true, Some(GUE_PORT))] {
        let mut frame = tunnelled(&client(false), outer_v6, gue);
        let inner = frame.len() - client(false).len() + 14;
        for first in [0x00, 0x05, 0x44, 0x50, 0x65, 0xf5] {
            frame[inner] = first;
            // In GUE the version says what it is (0: a header with fields that are not opened); IPIP's protocol says what
            // it has to be.
            let expected = match (gue, first >> 4) {
                (Some(_), 6) => Outcome::Decapsulated,
                (Some(_), 0) => Outcome::TunnelOptions,
                _ => Outcome::MalformedTunnel,
            };
            assert_eq!(run(&frame, &STANDARD).1, expected, "{first:#x}");
        }
    }
}
