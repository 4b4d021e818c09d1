//! Mistakes that other balancers made, each as a test with the name that the notes on them have (X: xvs, Z: zon-lb). X2 is a
//! test of the configuration, X4 and Z4 are of VLANs, X8 of the forwarding methods, Z5 and Z6 of NAT; X10 and X11 concern later
//! features.

use std::net::IpAddr;

use tandem_engine::memory::Memory as _;
use tandem_engine::memory::counters::RealCounter;
use tandem_engine::memory::features::TOO_BIG;
use tandem_engine::memory::reals::{Method, Way};
use tandem_engine::strip::{Outcome, Tunnels, decapsulate};
use tandem_engine::{From, Reason, Verdict, probe};

use crate::bed::{Bed, Frame, Tuple, process};
use crate::methods::{self, METHODS, rfc1071};
use crate::nat::too_big;
use crate::tunnels::{Case, bed, forwarded_inner};

const RING: u32 = 31;
pub const V4: [&str; 3] = ["192.0.2.1", "10.200.1.1", "10.0.0.1"];
pub const V6: [&str; 3] = ["2001:db8::1", "fc00:1::1", "fc00::1"];

pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn tuple([client, vip, _]: [&str; 3]) -> Tuple {
    Tuple { source: address(client), destination: address(vip), source_port: 40_000, port: 80 }
}

pub fn plain_bed(family: [&str; 3]) -> Bed {
    bed(address(family[2]), address(family[1]), 0)
}

pub fn sent(bed: &Bed, frame: &[u8]) -> (Verdict, Vec<u8>) {
    let mut frame = Frame::new(frame);
    let verdict = process(&mut frame, bed);
    (verdict, frame.as_slice().to_vec())
}

#[test]
fn x1_udp_and_tcp_of_one_tuple_are_two_flows_and_both_are_kept() {
    let (one, two) = (address("10.0.0.1"), address("10.0.0.2"));
    let bed = plain_bed(V4);
    bed.reals(RING, &[(one, 1), (two, 0)]);
    let (udp, tcp) = (tuple(V4).udp(64, b"x"), tuple(V4).tcp(64, false, false, b"x"));
    assert_eq!((sent(&bed, &udp).0.real, sent(&bed, &udp).0.from), (1, From::Flow));
    bed.reals(RING, &[(one, 0), (two, 1)]);
    let (verdict, _) = sent(&bed, &tcp);
    assert_eq!((verdict.real, verdict.from), (2, From::Ring), "TCP must not follow the flow of UDP");
    let (verdict, _) = sent(&bed, &udp);
    assert_eq!((verdict.real, verdict.from), (1, From::Flow), "UDP keeps its real when the ring changes");
}

#[test]
fn x3_fragmentation_needed_quotes_the_packet_and_comes_from_the_vip() {
    for family in [V4, V6] {
        let bed = plain_bed(family);
        bed.root.features.set(TOO_BIG);
        bed.root.max_frame.set(1414);
        let frame = tuple(family).udp(64, &[7; 1400]);
        let (verdict, out) = sent(&bed, &frame);
        assert_eq!(verdict.reason(), Reason::TooBigReply);
        check_too_big(family, &frame, &out);
    }
}

/// The answer to a frame that was larger than its 1400 bytes of IP packet may be.
pub fn check_too_big(family: [&str; 3], frame: &[u8], out: &[u8]) {
    assert_eq!((&out[..6], &out[6..12]), (&frame[6..12], &frame[..6]), "back to who sent it");
    let ip = &out[14..];
    if family == V4 {
        assert_eq!(rfc1071(&[&ip[..20]]), 0, "IP header checksum");
        assert_eq!((&ip[12..16], &ip[16..20]), (&frame[30..34], &frame[26..30]), "from the VIP to the client");
        let icmp = &ip[20..usize::from(u16::from_be_bytes([ip[2], ip[3]]))];
        assert_eq!((icmp[0], icmp[1], &icmp[4..8]), (3, 4, &1400_u32.to_be_bytes()[..]));
        assert_eq!(rfc1071(&[icmp]), 0, "ICMP checksum");
        assert_eq!(icmp[8..], frame[14..][..icmp.len() - 8], "the packet as it came, both addresses in it");
    } else {
        assert_eq!((&ip[8..24], &ip[24..40]), (&frame[38..54], &frame[22..38]), "from the VIP to the client");
        let icmp = &ip[40..40 + usize::from(u16::from_be_bytes([ip[4], ip[5]]))];
        assert_eq!((icmp[0], icmp[1], &icmp[4..8]), (2, 0, &1400_u32.to_be_bytes()[..]));
        let pseudo = [&ip[8..40], &(icmp.len() as u32).to_be_bytes(), &[0, 0, 0, 58]].concat();
        assert_eq!(rfc1071(&[&pseudo, icmp]), 0, "ICMPv6 checksum");
        assert_eq!(icmp[8..], frame[14..][..icmp.len() - 8], "the packet as it came");
    }
}

/// A segment of 40 bytes and the padding behind it: the outer checksum ends where the outer UDP length says.
#[test]
fn x5_padding_is_in_no_checksum() {
    for (family, real) in [(V4, V4[2]), (V4, V6[2]), (V6, V4[2]), (V6, V6[2])] {
        for (method, padding) in METHODS.into_iter().flat_map(|method| [0, 1, 6, 20].map(|padding| (method, padding))) {
            let case = Case {
                tuple: tuple(family),
                real: address(real),
                ttl: 64,
                tos: 0,
                tcp: true,
                syn: false,
                payload: Vec::new(),
                padding,
                vary: 0,
                flags: 0,
            };
            methods::put_on_and_off(&case, method, &case.frame(), false, true);
        }
    }
}

/// Nobody could answer a probe from `::` or `0.0.0.0`: without a source of the real's family it is not sent, and its frame stays
/// as it was. With one, that is its source.
#[test]
fn x6_a_probe_without_a_source_is_not_sent() {
    for (family, real) in [(V4, V4[2]), (V4, V6[2]), (V6, V4[2]), (V6, V6[2])] {
        for method in METHODS.into_iter().filter(|method| *method != Method::L2) {
            let bed = bed(address(real), address(family[1]), 0);
            bed.root.source_v4.set(0);
            bed.root.source_v6.iter().for_each(|word| word.set(0));
            bed.way(1, &Way { ports: methods::ports(method), ..Way::by(method) });
            let probe = tuple(family).tcp(64, true, false, b"");
            let send = || {
                let mut frame = Frame::new(&probe);
                (probe::encapsulate(&mut frame, &bed, 1, true, || 7), frame.as_slice().to_vec())
            };
            assert_eq!(send(), (probe::Outcome::NoSource, probe.clone()), "{method:?} to {real}");
            methods::sources(&bed);
            let (outcome, out) = send();
            assert_eq!(outcome, probe::Outcome::Processed, "{method:?} to {real}");
            let source = if real == V6[2] { &out[22..38] } else { &out[26..30] };
            assert!(source.iter().any(|byte| *byte != 0), "{method:?} to {real}: {out:02x?}");
        }
    }
}

/// A probe goes by the method of the data, to where a real that opens its tunnels finds it as it was; over IPv6 with a right UDP
/// checksum.
#[test]
fn probes_go_by_every_method() {
    for (family, real) in [(V4, V4[2]), (V4, V6[2]), (V6, V4[2]), (V6, V6[2])] {
        for method in METHODS {
            let bed = bed(address(real), address(family[1]), 0);
            methods::sources(&bed);
            bed.way(1, &Way { ports: methods::ports(method), inner_mac: 0x0700_0000_0002, vni: 7, ..Way::by(method) });
            let probe = tuple(family).tcp(64, true, false, b"probe");
            let mut frame = Frame::new(&probe);
            assert_eq!(probe::encapsulate(&mut frame, &bed, 1, true, || 7), probe::Outcome::Processed, "{method:?} to {real}");
            let out = frame.as_slice().to_vec();
            let has_udp = !matches!(method, Method::Ipip | Method::Gre | Method::L2);
            if has_udp && real == V6[2] {
                let length = &out[58..60];
                assert_eq!(rfc1071(&[&out[22..54], length, &[0, 17], &out[54..]]), 0, "{method:?}: {out:02x?}");
            }
            if method != Method::L2 {
                let outcome = decapsulate(&mut frame, &Tunnels::standard(), |_| {});
                assert_eq!(outcome, Outcome::Decapsulated, "{method:?} to {real}: {out:02x?}");
            }
            assert_eq!(frame.as_slice()[14..], probe[14..], "{method:?} to {real}");
        }
    }
    // By NAT there are none.
    let bed = bed(address(V4[2]), address(V4[1]), 0);
    bed.way(1, &Way { ports: [8080, 0], ..Way::by(Method::Nat) });
    let probe = tuple(V4).tcp(64, true, false, b"probe");
    let mut frame = Frame::new(&probe);
    assert_eq!(probe::encapsulate(&mut frame, &bed, 1, true, || 7), probe::Outcome::Skipped);
    assert_eq!(frame.as_slice(), probe);
}

/// The ports of a first fragment are in the packet, not in what fills up its frame: found by generated frames.
#[test]
fn ports_are_within_the_packet() {
    let bed = bed(address(V4[2]), address(V4[1]), 0);
    methods::sources(&bed);
    let mut frame = tuple(V4).udp(64, &[7; 33]);
    // "More fragments", and bytes of payload that the IP header tells of.
    frame[20] = 0x20;
    for (payload, reason) in [(0, Reason::BadLength), (4, Reason::BadLength), (7, Reason::BadLength), (8, Reason::Forwarded)] {
        frame[17] = 20 + payload;
        assert_eq!(sent(&bed, &frame).0.reason(), reason, "{payload} bytes");
    }
}

/// A driver that tells another length than the packet's (vmxnet3, CVE-2025-37799): what is behind the packet is in no header and no
/// checksum, and a packet that the frame does not hold is dropped and counted, by every method.
#[test]
fn x7_lengths_are_the_packets_own() {
    for (family, real) in [(V4, V4[2]), (V4, V6[2]), (V6, V4[2]), (V6, V6[2])] {
        for method in METHODS {
            let bed = bed(address(real), address(family[1]), 0);
            methods::sources(&bed);
            bed.way(1, &Way { ports: methods::ports(method), ..Way::by(method) });
            let frame = tuple(family).udp(64, &[7; 33]);
            let (verdict, wanted) = sent(&bed, &frame);
            assert_eq!(verdict.reason(), Reason::Forwarded);
            for more in [1, 3, 46, 200] {
                let longer = [frame.as_slice(), &vec![0xaa; more]].concat();
                let (verdict, out) = sent(&bed, &longer);
                assert_eq!(
                    (verdict.reason(), verdict.bytes as usize),
                    (Reason::Forwarded, frame.len() - 14),
                    "{method:?}, {more} more"
                );
                assert!(out.starts_with(&wanted), "{method:?}, {more} more: other headers");
            }
            for less in [1, 2, 33] {
                let shorter = &frame[..frame.len() - less];
                assert_eq!(sent(&bed, shorter), (Verdict::stop(Reason::BadLength), shorter.to_vec()), "{method:?}, {less} less");
            }
        }
    }
}

#[test]
fn x9_a_reset_is_looked_up_and_never_entered() {
    let bed = plain_bed(V4);
    let reset = tuple(V4).tcp(64, false, true, b"");
    for _ in 0..2 {
        assert_eq!(sent(&bed, &reset).0.from, From::Ring);
    }
    let _ = sent(&bed, &tuple(V4).tcp(64, false, false, b""));
    assert_eq!(sent(&bed, &reset).0.from, From::Flow);
}

/// A hint about a real: resets and ICMP errors are counted for it, what else is forwarded is not.
#[test]
fn what_refuses_a_reals_packets_is_counted_for_it() {
    let bed = plain_bed(V4);
    let refused = || bed.real_count(1).expect("a line")[RealCounter::Refused as usize].get();
    let answered = tuple(V4).tcp(64, false, false, b"x");
    assert_eq!((sent(&bed, &answered).0.reason(), refused()), (Reason::Forwarded, 0));
    let _ = sent(&bed, &tuple(V4).tcp(64, false, true, b""));
    assert_eq!(refused(), 1);
    // A client's port unreachable quotes what came from the VIP.
    let to_client = Tuple { source: address(V4[1]), destination: address(V4[0]), source_port: 80, port: 40_000 };
    let error = too_big(&to_client.tcp(64, false, false, b"x"), address(V4[1]), 1400, 0);
    assert_eq!((sent(&bed, &error).0.reason(), refused()), (Reason::Forwarded, 2));
    assert_eq!((sent(&bed, &answered).0.reason(), refused()), (Reason::Forwarded, 2));
}

/// Lengths of extension headers: words of 8 bytes without the first, of AH words of 4 without the first two.
#[test]
fn z1_extension_headers_are_as_long_as_they_say() {
    let bed = plain_bed(V6);
    let plain = tuple(V6).udp(64, b"x");
    let with = |headers: &[(u8, u8, usize)]| {
        let mut frame = plain.clone();
        let mut chain = Vec::new();
        for (n, (_, length, bytes)) in headers.iter().enumerate() {
            let mut header = vec![0; *bytes];
            header[..2].copy_from_slice(&[headers.get(n + 1).map_or(17, |next| next.0), *length]);
            chain.extend(header);
        }
        frame[20] = headers[0].0;
        let payload = u16::from_be_bytes([frame[18], frame[19]]) + chain.len() as u16;
        frame[18..20].copy_from_slice(&payload.to_be_bytes());
        frame.splice(54..54, chain);
        frame
    };
    for headers in [&[(0, 0, 8)][..], &[(60, 1, 16)], &[(0, 0, 8), (43, 2, 24), (60, 0, 8)], &[(51, 4, 24)]] {
        let (verdict, _) = sent(&bed, &with(headers));
        assert_eq!((verdict.reason(), verdict.vip), (Reason::Forwarded, 2), "{headers:?}");
    }
    // a length that leads out of the frame, or to bytes that are no header
    assert_eq!(sent(&bed, &with(&[(0, 20, 8)])).0.reason(), Reason::TruncatedL4);
}

#[test]
fn z2_one_hop_less_and_an_end_of_loops() {
    for family in [V4, V6] {
        let bed = plain_bed(family);
        for ttl in [2, 64, 255] {
            let frame = tuple(family).udp(ttl, b"x");
            let (verdict, out) = sent(&bed, &frame);
            assert_eq!(verdict.reason(), Reason::Forwarded);
            assert!(out.ends_with(&forwarded_inner(&frame)), "TTL {ttl}");
        }
        for ttl in [0, 1] {
            let frame = tuple(family).udp(ttl, b"x");
            assert_eq!(sent(&bed, &frame), (Verdict::stop(Reason::TtlExpired), frame));
        }
    }
}

#[test]
fn z3_no_checksum_stays_none() {
    let mut frame = tuple(V4).udp(64, b"x");
    frame[40..42].fill(0);
    for method in METHODS {
        let bed = plain_bed(V4);
        methods::sources(&bed);
        bed.way(1, &Way { ports: [6080; 2], ..Way::by(method) });
        let (verdict, out) = sent(&bed, &frame);
        assert_eq!(verdict.reason(), Reason::Forwarded);
        assert!(out.ends_with(&forwarded_inner(&frame)), "{method:?}: the client's packet has another checksum");
        assert!(method != Method::L2 || out.len() == frame.len());
    }
}
