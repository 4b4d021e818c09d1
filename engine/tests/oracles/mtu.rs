//! Ways that take less than what is accepted: who sends too much is told what is left of their MTU (RFC 1191, RFC 8201).

use std::net::IpAddr;

use tandem_engine::memory::features::{L2, PATH_MTU, TOO_BIG, TUNNELS};
use tandem_engine::memory::reals::{Method, Way};
use tandem_engine::wire::mac_word;
use tandem_engine::{Reason, room_for};

use crate::bed::{Bed, Frame, Tuple, process};
use crate::methods::{INNER_MAC, METHODS, VNI, ports, rfc1071, sources};
use crate::tunnels::bed;

pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Client, VIP and real of every pair of families.
pub const PAIRS: [[&str; 3]; 4] = [
    ["192.0.2.1", "10.200.1.1", "10.0.0.1"],
    ["192.0.2.1", "10.200.1.1", "fc00::1"],
    ["2001:db8::1", "fc00:1::1", "10.0.0.1"],
    ["2001:db8::1", "fc00:1::1", "fc00::1"],
];

pub fn tuple([client, vip, _]: [&str; 3]) -> Tuple {
    Tuple { source: address(client), destination: address(vip), source_port: 40_000, port: 80 }
}

pub fn bed_by(pair: [&str; 3], method: Method) -> Bed {
    let bed = bed(address(pair[2]), address(pair[1]), 0);
    sources(&bed);
    bed.way(1, &Way { method, local: false, vni: VNI, ports: ports(method), inner_mac: mac_word(INNER_MAC) });
    bed
}

/// A datagram of this many bytes of IP.
pub fn datagram(pair: [&str; 3], len: usize) -> Vec<u8> {
    let headers = if pair[0].contains(':') { 48 } else { 28 };
    tuple(pair).udp(64, &vec![7; len - headers])
}

/// Checks an ICMP error from the VIP to the client, whose checksums are right; gives type, code, MTU and the quote.
#[track_caller]
pub fn error(out: &[u8], to: Tuple) -> (u8, u8, u32, &[u8]) {
    let ip = &out[14..];
    let icmp = match (to.source, to.destination) {
        (IpAddr::V4(client), IpAddr::V4(vip)) => {
            assert_eq!((&out[12..14], ip[0], ip[8], ip[9]), (&[8, 0][..], 0x45, 64, 1));
            assert_eq!(rfc1071(&[&ip[..20]]), 0, "header checksum");
            assert_eq!((&ip[12..16], &ip[16..20]), (&vip.octets()[..], &client.octets()[..]));
            let icmp = &ip[20..usize::from(u16::from_be_bytes([ip[2], ip[3]]))];
            assert_eq!(rfc1071(&[icmp]), 0, "ICMP checksum");
            assert_eq!(icmp[4..6], [0, 0]);
            icmp
        }
        (IpAddr::V6(client), IpAddr::V6(vip)) => {
            assert_eq!((&out[12..14], ip[0] >> 4, ip[7], ip[6]), (&[0x86, 0xdd][..], 6, 64, 58));
            assert_eq!((&ip[8..24], &ip[24..40]), (&vip.octets()[..], &client.octets()[..]));
            let icmp = &ip[40..40 + usize::from(u16::from_be_bytes([ip[4], ip[5]]))];
            let pseudo = [&ip[8..40], &(icmp.len() as u32).to_be_bytes(), &[0, 0, 0, 58]].concat();
            assert_eq!(rfc1071(&[&pseudo, icmp]), 0, "ICMPv6 checksum");
            icmp
        }
        _ => unreachable!(),
    };
    (icmp[0], icmp[1], u32::from_be_bytes(icmp[4..8].try_into().unwrap()), &icmp[8..])
}

#[test]
fn x3_what_is_too_large_for_the_way_is_answered_with_what_fits() {
    for pair in PAIRS {
        for method in METHODS {
            let bed = bed_by(pair, method);
            bed.root.features.set(TUNNELS | L2 | TOO_BIG | PATH_MTU);
            bed.narrow(1, 1400);
            let fits = 1400 - usize::from(room_for(address(pair[2]).is_ipv6(), method));
            let mut frame = Frame::new(&datagram(pair, fits));
            assert_eq!(process(&mut frame, &bed).reason(), Reason::Forwarded, "{method:?} {pair:?}");
            assert_eq!(frame.as_slice().len(), 1414, "just full");

            let sent = datagram(pair, fits + 1);
            let mut frame = Frame::new(&sent);
            assert_eq!(process(&mut frame, &bed).reason(), Reason::TooBigReply, "{method:?} {pair:?}");
            let out = frame.as_slice();
            assert_eq!((&out[..6], &out[6..12]), (&sent[6..12], &sent[..6]), "back to who sent it");
            let (kind, code, mtu, quote) = error(out, tuple(pair));
            assert_eq!((kind, code), if pair[0].contains(':') { (2, 0) } else { (3, 4) });
            assert_eq!(mtu as usize, fits, "{method:?} {pair:?}");
            assert_eq!(quote, &sent[14..][..quote.len()], "the packet as it came");
            assert!(quote.len() >= 68);
        }
    }
}

/// No host has to take less than 1280 bytes for IPv6: what is smaller and does not fit is lost, and counted.
#[test]
fn nobody_is_told_less_than_the_least_mtu() {
    let pair = PAIRS[3];
    let bed = bed_by(pair, Method::Gue);
    bed.root.features.set(TUNNELS | TOO_BIG | PATH_MTU);
    bed.narrow(1, 1300);
    let mut frame = Frame::new(&datagram(pair, 1281));
    assert_eq!(process(&mut frame, &bed).reason(), Reason::TooBigReply);
    assert_eq!(error(frame.as_slice(), tuple(pair)).2, 1280);
    for len in [1280, 1253] {
        assert_eq!(process(&mut Frame::new(&datagram(pair, len)), &bed).reason(), Reason::PathMtu);
    }
    assert_eq!(process(&mut Frame::new(&datagram(pair, 1252)), &bed).reason(), Reason::Forwarded);
}

#[test]
fn nobody_is_told_if_the_configuration_says_so_or_the_way_is_not_known_to_be_narrow() {
    for pair in PAIRS {
        let bed = bed_by(pair, Method::Ipip);
        bed.narrow(1, 1400);
        let sent = datagram(pair, 1500);
        bed.root.features.set(PATH_MTU);
        let mut frame = Frame::new(&sent);
        assert_eq!(process(&mut frame, &bed).reason(), Reason::PathMtu);
        assert_eq!(frame.as_slice(), sent, "dropped as it came");
        bed.root.features.set(TOO_BIG);
        assert_eq!(process(&mut Frame::new(&sent), &bed).reason(), Reason::Forwarded);
        bed.root.features.set(PATH_MTU);
        bed.narrow(1, 0);
        assert_eq!(process(&mut Frame::new(&sent), &bed).reason(), Reason::Forwarded);
    }
}
