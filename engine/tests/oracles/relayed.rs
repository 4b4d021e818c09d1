//! ICMP errors about the engine's own tunnels, written as RFC 792 and RFC 4443 say, and what the client gets for them.

use std::net::IpAddr;

use etherparse::PacketBuilder;
use tandem_engine::memory::features::{L2, RELAY, TUNNELS};
use tandem_engine::memory::reals::Method;
use tandem_engine::memory::vips::HAS_VIPS;
use tandem_engine::{Reason, room_for};

use crate::bed::{Bed, Frame, LOCAL_MAC, process};
use crate::methods::{METHODS, SOURCE_V4, SOURCE_V6};
use crate::mtu::{PAIRS, address, bed_by, datagram, error, tuple};

const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

/// What a router says to the source of a packet, and quotes of it.
pub fn said(kind: u8, code: u8, mtu: u32, quote: &[u8], to: IpAddr) -> Vec<u8> {
    let eth = PacketBuilder::ethernet2(ROUTER_MAC, LOCAL_MAC);
    let (mut out, rest) = (Vec::new(), mtu.to_be_bytes());
    match to {
        IpAddr::V4(to) => {
            eth.ipv4([10, 9, 9, 9], to.octets(), 60).icmpv4_raw(kind, code, rest).write(&mut out, quote).unwrap();
        }
        IpAddr::V6(to) => {
            let router: std::net::Ipv6Addr = "fc00:9::9".parse().unwrap();
            eth.ipv6(router.octets(), to.octets(), 60).icmpv6_raw(kind, code, rest).write(&mut out, quote).unwrap();
        }
    }
    out
}

fn bed_of(pair: [&str; 3], method: Method) -> Bed {
    let bed = bed_by(pair, method);
    bed.root.features.set(TUNNELS | L2 | RELAY);
    bed.root
        .tunnel_ports
        .set(u64::from(6081_u16.to_be()) << 32 | u64::from(5556_u16.to_be()) << 16 | u64::from(5555_u16.to_be()));
    bed.root.gue_port.set(u32::from(6080_u16.to_be()));
    bed.vip(tandem_engine::NO_VIP, address(pair[1]), 0, 0, HAS_VIPS, 0);
    bed
}

/// Sends a datagram of `len` bytes to a real; the packet that a router sees, and where it came from.
fn tunnelled(bed: &Bed, pair: [&str; 3], len: usize) -> (Vec<u8>, IpAddr) {
    let mut frame = Frame::new(&datagram(pair, len));
    assert_eq!(process(&mut frame, bed).reason(), Reason::Forwarded);
    let source = if pair[2].contains(':') { SOURCE_V6.into() } else { SOURCE_V4.into() };
    (frame.as_slice()[14..].to_vec(), source)
}

#[test]
fn every_error_about_every_tunnel_reaches_the_client_in_its_own_family() {
    for pair in PAIRS {
        for method in METHODS.into_iter().filter(|method| *method != Method::L2) {
            let bed = bed_of(pair, method);
            let (outer, source) = tunnelled(&bed, pair, 1400);
            let room = usize::from(room_for(source.is_ipv6(), method));
            let v6 = pair[0].contains(':');
            let kinds: &[(u8, u8, u32)] =
                if source.is_ipv6() { &[(2, 0, 1390), (1, 0, 0), (3, 0, 0)] } else { &[(3, 4, 1390), (3, 2, 0), (11, 0, 0)] };
            let whole = if source.is_ipv6() { 1232 } else { 548 };
            for (kind, code, mtu) in kinds {
                for quoted in [whole, room + 40 + 8, room + 68] {
                    let mut frame = Frame::new(&said(*kind, *code, *mtu, &outer[..quoted], source));
                    let verdict = process(&mut frame, &bed);
                    assert_eq!(verdict.reason(), Reason::IcmpRelayed, "{method:?} {pair:?} {kind} {code}, {quoted} bytes");
                    let out = frame.as_slice();
                    assert_eq!(&out[..12], [ROUTER_MAC, LOCAL_MAC].concat(), "back to the router, which knows the client");
                    let (got, got_code, told, quote) = error(out, tuple(pair));
                    let too_big = *mtu != 0;
                    let expected = match (v6, too_big) {
                        (false, true) => (3, 4),
                        (false, false) => (3, 1),
                        (true, true) => (2, 0),
                        (true, false) => (1, 3),
                    };
                    assert_eq!((got, got_code), expected);
                    let left = 1390 - room as u32;
                    assert_eq!(told, if too_big { left } else { 0 });
                    let most = if v6 { 1232 } else { 548 };
                    assert_eq!(quote, &outer[room..][..(quoted - room).min(most)], "the client's packet, as far as it is there");
                }
            }
        }
    }
}

#[test]
fn what_quotes_too_little_is_counted_and_left_to_the_host() {
    for pair in PAIRS {
        for method in METHODS.into_iter().filter(|method| *method != Method::L2) {
            let bed = bed_of(pair, method);
            let (outer, source) = tunnelled(&bed, pair, 200);
            let (kind, room) = (if source.is_ipv6() { 2 } else { 3 }, usize::from(room_for(source.is_ipv6(), method)));
            let header = if pair[0].contains(':') { 40 } else { 20 };
            for quoted in [room, room + header - 1, room + header + 7] {
                let sent = said(kind, if kind == 3 { 4 } else { 0 }, 1300, &outer[..quoted], source);
                let mut frame = Frame::new(&sent);
                assert_eq!(process(&mut frame, &bed).reason(), Reason::IcmpUnrelayed, "{method:?} {pair:?}: {quoted}");
                assert_eq!(frame.as_slice(), sent);
            }
        }
    }
}

#[test]
fn what_is_not_about_one_of_our_tunnels_stays_the_hosts() {
    for pair in PAIRS {
        let bed = bed_of(pair, Method::Ipip);
        let (outer, source) = tunnelled(&bed, pair, 200);
        let (kind, code) = if source.is_ipv6() { (2, 0) } else { (3, 4) };
        let not_relayed = |what: &str, sent: &[u8]| {
            let mut frame = Frame::new(sent);
            let reason = process(&mut frame, &bed).reason();
            assert!(matches!(reason, Reason::Icmp | Reason::NotAVip), "{what}: {reason:?}");
            assert_eq!(frame.as_slice(), sent, "{what}");
        };
        let mut wrong = said(kind, code, 1300, &outer[..100], source);
        let last = wrong.len() - 1;
        wrong[last] ^= 1;
        not_relayed("a wrong checksum", &wrong);
        let other: IpAddr = if source.is_ipv6() { "fc00::77".parse().unwrap() } else { "10.0.13.38".parse().unwrap() };
        not_relayed("to another address than the quote's source", &said(kind, code, 1300, &outer[..100], other));
        let mut elsewhere = outer.clone();
        let inner = if source.is_ipv6() { 40 } else { 20 };
        let at = inner + if pair[0].contains(':') { 39 } else { 19 };
        elsewhere[at] ^= 0x40;
        not_relayed("about a packet to no VIP", &said(kind, code, 1300, &elsewhere[..100], source));
        let mut tcp = outer.clone();
        tcp[if source.is_ipv6() { 6 } else { 9 }] = 50;
        not_relayed("another protocol", &said(kind, code, 1300, &tcp[..100], source));
        bed.root.features.set(TUNNELS);
        not_relayed("a configuration without tunnels", &said(kind, code, 1300, &outer[..100], source));
    }
}

/// RFC 1191 section 4: a router of before names no MTU; neither do we, and the client guesses from the quote.
#[test]
fn an_old_routers_error_has_no_mtu() {
    let bed = bed_of(PAIRS[0], Method::Ipip);
    let (outer, source) = tunnelled(&bed, PAIRS[0], 1400);
    let mut frame = Frame::new(&said(3, 4, 0, &outer[..100], source));
    assert_eq!(process(&mut frame, &bed).reason(), Reason::IcmpRelayed);
    assert_eq!(error(frame.as_slice(), tuple(PAIRS[0])).2, 0);
}
