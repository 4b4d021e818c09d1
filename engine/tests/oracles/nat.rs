//! NAT: what a client sends, as the real gets it, and back again. Checksums are summed up over the bytes that they cover.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use tandem_engine::Reason;
use tandem_engine::memory::features::{NAT, TOO_BIG};
use tandem_engine::memory::reals::{Method, Way};
use tandem_engine::memory::vips::{HAS_VIPS, NAT_SOURCE, NAT_V4, NAT_V6};
use tandem_engine::memory::{Vip, VipKey};

use crate::bed::{Bed, Frame, HOP_MAC, LOCAL_MAC, Tuple, process, words};
use crate::methods::rfc1071;

const RING: u32 = 7;
pub const PORTS: u32 = 1000;
const FIRST_PORT: u32 = 2000;
const KEPT: u32 = 512;
pub const VIP_PORT: u16 = 80;
const REAL_PORT: u16 = 8080;
/// Where clients' frames come from.
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

pub fn vip(v6: bool) -> IpAddr {
    if v6 { "fc00:1::1".parse().unwrap() } else { Ipv4Addr::new(10, 200, 1, 1).into() }
}

pub fn real(v6: bool) -> IpAddr {
    if v6 { "fc00::77".parse().unwrap() } else { Ipv4Addr::new(10, 0, 0, 77).into() }
}

fn source(v6: bool) -> IpAddr {
    if v6 { "fc00:2307::40".parse().unwrap() } else { Ipv4Addr::new(10, 0, 13, 40).into() }
}

/// One VIP of a family for both protocols, one real of a family; with a source of each family, or without any.
pub fn bed(client_v6: bool, real_v6: bool, sources: bool, ports: u32) -> Bed {
    let mut bed = Bed::new(64, RING);
    let flags = if real_v6 { NAT_V6 } else { NAT_V4 } | 20 << 24;
    for (id, protocol) in [(0, 6), (1, 17)] {
        bed.vip(id, vip(client_v6), VIP_PORT, protocol, flags, RING);
    }
    bed.entry(VipKey::address(words(vip(client_v6))), Vip { id: u32::MAX, flags: HAS_VIPS, ..Vip::default() });
    bed.reals(RING, &[(real(real_v6), 1)]);
    bed.way(1, &Way { ports: [REAL_PORT, 0], ..Way::by(Method::Nat) });
    let rules = &bed.root.nat;
    rules.idle.iter().zip([120, 30_000, 900, 120, 480]).for_each(|(cell, ticks)| cell.set(ticks));
    rules.first_port.set(FIRST_PORT);
    rules.ports.set(ports);
    rules.kept.set(KEPT);
    if sources {
        rules.sources_v4.set(1);
        rules.sources_v6.set(1);
        for (index, v6) in [false, true].into_iter().enumerate() {
            let address = words(source(v6));
            rules.sources[index].iter().zip(address).for_each(|(cell, word)| cell.set(word));
            bed.entry(VipKey::address(address), Vip { id: u32::MAX, flags: NAT_SOURCE, ring: index as u32, ..Vip::default() });
        }
    }
    bed.nats = (0..KEPT + 4 * ports).map(|_| Default::default()).collect();
    bed.root.features.set(NAT);
    bed
}

/// What is in a frame without options; its checksums are right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    pub macs: [u8; 12],
    pub source: IpAddr,
    pub destination: IpAddr,
    ttl: u8,
    tos: u8,
    pub protocol: u8,
    /// From the transport header on.
    pub payload: Vec<u8>,
}

impl Seen {
    pub fn of(frame: &[u8]) -> Self {
        let macs = frame[..12].try_into().unwrap();
        let address = |bytes: &[u8]| -> IpAddr {
            match <[u8; 4]>::try_from(bytes) {
                Ok(v4) => v4.into(),
                Err(_) => <[u8; 16]>::try_from(bytes).unwrap().into(),
            }
        };
        let (source, destination, ttl, tos, protocol, payload) = if frame[12..14] == [8, 0] {
            let ip = &frame[14..34];
            assert_eq!((ip[0], rfc1071(&[ip])), (0x45, 0), "header checksum of {frame:02x?}");
            let len = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
            (address(&ip[12..16]), address(&ip[16..20]), ip[8], ip[1], ip[9], frame[34..14 + len].to_vec())
        } else {
            assert_eq!(frame[12..14], [0x86, 0xdd]);
            let ip = &frame[14..54];
            let len = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
            let payload = frame[54..54 + len].to_vec();
            (address(&ip[8..24]), address(&ip[24..40]), ip[7], ip[0] << 4 | ip[1] >> 4, ip[6], payload)
        };
        Self { macs, source, destination, ttl, tos, protocol, payload }
    }

    /// What the checksum of TCP, UDP or ICMPv6 sums up to: 0 if it is right.
    pub fn sum(&self) -> u16 {
        let bytes = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let len = (self.payload.len() as u32).to_be_bytes();
        let pseudo = [bytes(self.source), bytes(self.destination), len.to_vec(), vec![0, 0, 0, self.protocol]].concat();
        rfc1071(&[&pseudo, &self.payload])
    }

    fn ports(&self) -> (u16, u16) {
        let port = |at: usize| u16::from_be_bytes([self.payload[at], self.payload[at + 1]]);
        (port(0), port(2))
    }

    /// Without its ports and checksum.
    fn rest(&self) -> Vec<u8> {
        let checksum = if self.protocol == 6 { 16 } else { 6 };
        let mut rest = self.payload.clone();
        rest[..4].fill(0);
        rest[checksum..checksum + 2].fill(0);
        rest
    }
}

pub fn client(v6: bool, n: u32) -> IpAddr {
    if v6 { Ipv6Addr::from(0xfc00_00cc << 96 | u128::from(n)).into() } else { Ipv4Addr::from(0xc633_6400 + n).into() }
}

pub fn sent(bed: &Bed, frame: &[u8]) -> (Reason, Vec<u8>) {
    let mut frame = Frame::new(frame);
    let verdict = process(&mut frame, bed);
    (verdict.reason(), frame.as_slice().to_vec())
}

/// A frame of the real that answers `got`.
pub fn answer(got: &Seen, tcp: bool, payload: &[u8]) -> Vec<u8> {
    let (to, from) = got.ports();
    let tuple = Tuple { source: got.destination, destination: got.source, source_port: from, port: to };
    if tcp { tuple.tcp(64, false, false, payload) } else { tuple.udp(64, payload) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// There and back, every family in every other, with and without a source, odd lengths and padding.
    #[test]
    fn a_connection_is_translated_there_and_back(
        client_v6: bool, real_v6: bool, tcp: bool, sources: bool, no_checksum: bool,
        n in 1_u32..200, port in 1_u16.., padding in 0_usize..20,
        there in proptest::collection::vec(any::<u8>(), 0..200), back in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        prop_assume!(sources || client_v6 == real_v6);
        let bed = bed(client_v6, real_v6, sources, PORTS);
        let tuple = Tuple { source: client(client_v6, n), destination: vip(client_v6), source_port: port, port: VIP_PORT };
        let mut frame = if tcp { tuple.tcp(64, true, false, &there) } else { tuple.udp(64, &there) };
        let no_checksum = no_checksum && !tcp && !client_v6;
        if no_checksum {
            frame[40..42].fill(0);
        }
        let original = Seen::of(&frame);
        frame.extend(vec![0x5a; padding]);
        let (reason, out) = sent(&bed, &frame);
        prop_assert_eq!(reason, Reason::Forwarded);
        let got = Seen::of(&out);
        prop_assert_eq!(&got.macs[..6], &HOP_MAC);
        prop_assert_eq!(&got.macs[6..], &LOCAL_MAC);
        prop_assert_eq!((got.destination, got.ttl, got.protocol, got.tos), (real(real_v6), 63, original.protocol, original.tos));
        prop_assert_eq!(got.source, if sources { source(real_v6) } else { tuple.source });
        prop_assert_eq!(got.ports().1, REAL_PORT);
        if sources {
            let port = u32::from(got.ports().0);
            prop_assert!((FIRST_PORT..FIRST_PORT + PORTS).contains(&port));
        } else {
            prop_assert_eq!(got.ports().0, port);
        }
        prop_assert_eq!(got.rest(), original.rest());
        // No checksum stays none within IPv4; IPv6 has one.
        if no_checksum && !real_v6 {
            prop_assert_eq!(&got.payload[6..8], &[0, 0]);
        } else {
            prop_assert_eq!(got.sum(), 0);
            prop_assert!(tcp || got.payload[6..8] != [0, 0]);
        }
        // The next packet takes the same way.
        let (_, again) = sent(&bed, &frame);
        prop_assert_eq!(Seen::of(&again).ports(), got.ports());

        let reply = answer(&got, tcp, &back);
        let (reason, out) = sent(&bed, &reply);
        prop_assert_eq!(reason, Reason::NatReply);
        let home = Seen::of(&out);
        prop_assert_eq!(&home.macs[..6], &CLIENT_MAC);
        prop_assert_eq!((home.source, home.destination, home.ports()), (tuple.destination, tuple.source, (VIP_PORT, port)));
        prop_assert_eq!((home.sum(), home.ttl), (0, 63));
        prop_assert_eq!(home.rest(), Seen::of(&reply).rest());
    }

    /// An ICMP error about what the real got reaches the client, about what the client sent; and the other way round.
    #[test]
    fn errors_are_translated(client_v6: bool, real_v6: bool, sources: bool, tcp: bool, n in 1_u32..200, port in 1_u16..,
                             mtu in 1280_u16..9000, cut in 0_usize..60) {
        prop_assume!(sources || client_v6 == real_v6);
        let bed = bed(client_v6, real_v6, sources, PORTS);
        let tuple = Tuple { source: client(client_v6, n), destination: vip(client_v6), source_port: port, port: VIP_PORT };
        let frame = if tcp { tuple.tcp(64, true, false, &[1; 80]) } else { tuple.udp(64, &[1; 80]) };
        let (_, there) = sent(&bed, &frame);
        let got = Seen::of(&there);
        // A router behind us cannot send on what we sent.
        let error = too_big(&there, got.source, mtu, cut);
        let (reason, out) = sent(&bed, &error);
        prop_assert_eq!(reason, Reason::NatReply);
        is_about(&out, vip(client_v6), tuple.source, &frame, expected_mtu(real_v6, client_v6, mtu))?;
        // A router on the client's side cannot send on what it got for an answer.
        let (_, home) = sent(&bed, &answer(&got, tcp, &[2; 80]));
        let error = too_big(&home, tuple.destination, mtu, cut);
        let (reason, out) = sent(&bed, &error);
        prop_assert_eq!(reason, Reason::Forwarded);
        is_about(&out, got.source, real(real_v6), &answer(&got, tcp, &[2; 80]), expected_mtu(client_v6, real_v6, mtu))?;
    }
}

/// What is too large for the client's way when it is translated is told to the real; one byte less goes.
#[test]
fn an_answer_that_is_too_large_is_told() {
    for (client_v6, real_v6, mtu) in [(false, false, 1500), (false, true, 1500), (true, false, 1480), (true, true, 1500)] {
        let bed = bed(client_v6, real_v6, true, PORTS);
        bed.root.features.set(NAT | TOO_BIG);
        let tuple = Tuple { source: client(client_v6, 1), destination: vip(client_v6), source_port: 5000, port: VIP_PORT };
        let got = Seen::of(&sent(&bed, &tuple.udp(64, &[7; 64])).1);
        let headers = if real_v6 { 48 } else { 28 };
        let (reason, out) = sent(&bed, &answer(&got, false, &vec![8; mtu - headers]));
        assert_eq!((reason, out.len() <= 1514), (Reason::NatReply, true));
        let (reason, out) = sent(&bed, &answer(&got, false, &vec![8; mtu - headers + 1]));
        assert_eq!(reason, Reason::TooBigReply);
        let seen = Seen::of(&out);
        assert_eq!((seen.source, seen.destination), (got.source, got.destination));
        assert_eq!(u32::from_be_bytes(seen.payload[4..8].try_into().unwrap()), mtu as u32);
    }
}

fn expected_mtu(from_v6: bool, to_v6: bool, mtu: u16) -> u32 {
    match (from_v6, to_v6) {
        (true, false) => u32::from(mtu) - 20,
        (false, true) => u32::from(mtu) + 20,
        _ => u32::from(mtu),
    }
}

/// "Too big", sent to `to` about `frame`, of which the last `cut` bytes are not quoted.
pub fn too_big(frame: &[u8], to: IpAddr, mtu: u16, cut: usize) -> Vec<u8> {
    let quote = &frame[14..frame.len() - cut];
    let mut icmp = match to {
        IpAddr::V4(_) => vec![3, 4, 0, 0, 0, 0],
        IpAddr::V6(_) => vec![2, 0, 0, 0, 0, 0],
    };
    icmp.extend(mtu.to_be_bytes());
    icmp.extend(quote);
    let eth = etherparse::PacketBuilder::ethernet2([9; 6], LOCAL_MAC);
    let mut out = Vec::new();
    match to {
        IpAddr::V4(to) => {
            let sum = rfc1071(&[&icmp]).to_be_bytes();
            icmp[2..4].copy_from_slice(&sum);
            eth.ipv4([192, 0, 2, 9], to.octets(), 61).write(&mut out, etherparse::IpNumber::ICMP, &icmp).unwrap();
        }
        IpAddr::V6(to) => {
            let router: Ipv6Addr = "2001:db8::9".parse().unwrap();
            let len = (icmp.len() as u32).to_be_bytes();
            let sum = rfc1071(&[&router.octets(), &to.octets(), &len, &[0, 0, 0, 58], &icmp]).to_be_bytes();
            icmp[2..4].copy_from_slice(&sum);
            eth.ipv6(router.octets(), to.octets(), 61).write(&mut out, etherparse::IpNumber::IPV6_ICMP, &icmp).unwrap();
        }
    }
    out
}

/// `out` is "too big" from `from` to `to`, about `frame`.
fn is_about(out: &[u8], from: IpAddr, to: IpAddr, frame: &[u8], mtu: u32) -> Result<(), TestCaseError> {
    let seen = Seen::of(out);
    prop_assert_eq!((seen.source, seen.destination, seen.ttl), (from, to, 60));
    let (kind, sum) = match to {
        IpAddr::V4(_) => ([3, 4], rfc1071(&[&seen.payload])),
        IpAddr::V6(_) => ([2, 0], seen.sum()),
    };
    prop_assert_eq!((&seen.payload[..2], sum), (&kind[..], 0));
    prop_assert_eq!(u32::from_be_bytes(seen.payload[4..8].try_into().unwrap()), mtu);
    // The quoted packet: addresses, protocol, ports, and as much of the rest as was there.
    let family = if to.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
    let l4 = if to.is_ipv4() { 20 } else { 40 };
    let quote = &seen.payload[8..];
    let about = &frame[14..];
    let addresses = if to.is_ipv4() { 12..20 } else { 8..40 };
    prop_assert_eq!(&frame[12..14], &family);
    prop_assert_eq!(&quote[addresses.clone()], &about[addresses]);
    prop_assert_eq!(&quote[l4..l4 + 4], &about[l4..l4 + 4], "ports");
    if to.is_ipv4() {
        prop_assert_eq!(rfc1071(&[&quote[..20]]), 0, "the quoted header's checksum");
        prop_assert_eq!((&quote[2..4], quote[9]), (&about[2..4], about[9]), "its length and protocol");
    } else {
        prop_assert_eq!((&quote[4..6], quote[6]), (&about[4..6], about[6]), "its length and protocol");
    }
    let checksum = if frame[if to.is_ipv4() { 23 } else { 20 }] == 6 { l4 + 16 } else { l4 + 6 };
    prop_assert_eq!(&quote[checksum..checksum + 2], &about[checksum..checksum + 2], "the quoted checksum is the sender's");
    Ok(())
}

/// Z6: clients that share a port, to one real: each gets a port of its own towards it, and its own answers.
#[test]
fn z6_clients_with_one_port_never_collide() {
    let bed = bed(false, false, true, PORTS);
    let tuple = |n| Tuple { source: client(false, n), destination: vip(false), source_port: 5000, port: VIP_PORT };
    let got: Vec<Seen> = (1..=200).map(|n| Seen::of(&sent(&bed, &tuple(n).tcp(64, true, false, &[])).1)).collect();
    let ports: HashSet<u16> = got.iter().map(|got| got.ports().0).collect();
    assert_eq!(ports.len(), got.len());
    for (n, got) in (1..).zip(&got) {
        let home = Seen::of(&sent(&bed, &answer(got, true, &[n as u8])).1);
        assert_eq!((home.destination, home.ports()), (client(false, n), (VIP_PORT, 5000)));
    }
}

/// Hairpin: a real server that is a client of its own VIP gets its answer from the VIP, by way of the balancer, from the very port that
/// it serves at or from another one, while others are served.
#[test]
fn a_real_is_a_client_of_its_own_vip() {
    for v6 in [false, true] {
        let bed = bed(v6, v6, true, PORTS);
        let other = Tuple { source: client(v6, 1), destination: vip(v6), source_port: 5000, port: VIP_PORT };
        for source_port in [5000, REAL_PORT] {
            let own = Tuple { source: real(v6), source_port, ..other };
            for tuple in [other, own] {
                for tcp in [true, false] {
                    let frame = if tcp { tuple.tcp(64, true, false, &[]) } else { tuple.udp(64, &[1]) };
                    let (reason, out) = sent(&bed, &frame);
                    let got = Seen::of(&out);
                    assert_eq!((reason, got.source, got.destination), (Reason::Forwarded, source(v6), real(v6)), "{tuple:?}");
                    let (reason, home) = sent(&bed, &answer(&got, tcp, &[2]));
                    let home = Seen::of(&home);
                    let way = (home.source, home.destination, home.ports());
                    assert_eq!((reason, way), (Reason::NatReply, (vip(v6), tuple.source, (VIP_PORT, tuple.source_port))));
                    assert_eq!(home.sum(), 0, "{tuple:?}");
                }
            }
        }
    }
}

/// Z5: what is an answer is told of as one, and nothing else is, in either family: by verdict and by trace.
#[test]
fn z5_an_answer_is_told_of_as_one_and_nothing_else_is() {
    for (client_v6, real_v6) in [(false, false), (true, true), (false, true), (true, false)] {
        let bed = bed(client_v6, real_v6, true, PORTS);
        let tuple = Tuple { source: client(client_v6, 1), destination: vip(client_v6), source_port: 5000, port: VIP_PORT };
        let (reason, out) = sent(&bed, &tuple.tcp(64, true, false, &[]));
        assert_eq!(reason, Reason::Forwarded);
        let got = Seen::of(&out);
        let from_real = Tuple { source: got.destination, destination: got.source, source_port: REAL_PORT, port: got.ports().0 };
        let stranger = Tuple { source_port: REAL_PORT + 1, ..from_real };
        for (tuple, reason) in [(from_real, Reason::NatReply), (stranger, Reason::NotAVip), (from_real, Reason::NatReply)] {
            bed.trace.clear();
            assert_eq!(sent(&bed, &tuple.tcp(64, false, false, &[1])).0, reason, "{tuple:?}");
            assert_eq!(bed.trace.reason.get(), reason as u32 + 1, "{tuple:?}");
        }
    }
}

/// A core that dies with a claim leaves a place that nobody can have; the control plane takes the claim off, and no other's.
#[test]
fn a_claim_of_a_dead_core_is_taken_off() {
    let bed = bed(false, false, true, 1);
    let tuple = Tuple { source: client(false, 1), destination: vip(false), source_port: 5000, port: VIP_PORT };
    for nat in &bed.nats {
        assert!(nat.claimed().is_none() && nat.claim(&bed.root.nat, bed.now.get(), false));
    }
    assert_eq!(sent(&bed, &tuple.tcp(64, true, false, &[])).0, Reason::NatFull);
    for nat in &bed.nats {
        let seen = nat.claimed().expect("a claim");
        assert!(!nat.release(seen + 1), "it is another one than was seen");
        assert!(nat.release(seen) && nat.claimed().is_none());
    }
    let (reason, out) = sent(&bed, &tuple.tcp(64, true, false, &[]));
    assert_eq!(reason, Reason::Forwarded);
    assert_eq!(sent(&bed, &answer(&Seen::of(&out), true, &[1])).0, Reason::NatReply);
}

/// Every port carries one connection; when all are taken, new ones are refused, and the old ones go on.
#[test]
fn a_full_table_refuses_and_breaks_nothing() {
    const FEW: u32 = 64;
    let bed = bed(false, false, true, FEW);
    let mut open = Vec::new();
    let mut refused = 0;
    for n in 0..400 {
        let tuple = Tuple { source: client(false, 1 + n % 200), destination: vip(false), source_port: 5000, port: VIP_PORT };
        let tuple = Tuple { source_port: 5000 + (n / 200) as u16, ..tuple };
        let (reason, out) = sent(&bed, &tuple.tcp(64, true, false, &[]));
        match reason {
            Reason::Forwarded => open.push((tuple, Seen::of(&out).ports().0)),
            Reason::NatFull => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(open.len() as u32 + refused, 400);
    let ports: HashSet<u16> = open.iter().map(|(_, port)| *port).collect();
    assert_eq!(ports.len(), open.len(), "each port once");
    assert!(open.len() > FEW as usize * 9 / 10, "{} of {FEW} ports are used", open.len());
    for (tuple, port) in &open {
        let (reason, out) = sent(&bed, &tuple.tcp(64, false, false, &[1]));
        assert_eq!((reason, Seen::of(&out).ports().0), (Reason::Forwarded, *port));
    }
}

/// Idle times by state, and what a SYN does to a connection that is over.
#[test]
fn connections_end() {
    let bed = bed(false, false, true, PORTS);
    let tuple = Tuple { source: client(false, 1), destination: vip(false), source_port: 5000, port: VIP_PORT };
    let start = bed.now.get();
    let reaches = |bed: &Bed, got: &Seen| sent(bed, &answer(got, true, &[])).0 == Reason::NatReply;
    let (_, out) = sent(&bed, &tuple.tcp(64, true, false, &[]));
    let got = Seen::of(&out);
    // Opening: 120 ticks.
    bed.now.set(start + 120);
    assert!(reaches(&bed, &got));
    bed.now.set(start + 241);
    assert!(!reaches(&bed, &got), "it was silent for 121 ticks, and not open");
    // Its client goes on all the same: with another place or the same, and now it is open.
    let (reason, out) = sent(&bed, &tuple.tcp(64, false, false, &[]));
    assert_eq!(reason, Reason::Forwarded);
    let got = Seen::of(&out);
    assert!(reaches(&bed, &got));
    sent(&bed, &tuple.tcp(64, false, false, &[]));
    bed.now.set(bed.now.get() + 30_000);
    assert!(reaches(&bed, &got), "open: 30,000 ticks");
    // Aborted: it is forgotten soon, and a SYN opens a new one at once.
    sent(&bed, &tuple.tcp(64, false, true, &[]));
    let before = bed.nats.iter().filter(|nat| nat.entry().is_some()).count();
    let (reason, _) = sent(&bed, &tuple.tcp(64, true, false, &[]));
    assert_eq!(reason, Reason::Forwarded);
    assert!(bed.nats.iter().filter(|nat| nat.entry().is_some()).count() <= before + 1);
}

/// What is for no connection is none of NAT's business.
#[test]
fn strangers_pass() {
    let bed = bed(false, false, true, PORTS);
    let tuple = Tuple { source: client(false, 1), destination: vip(false), source_port: 5000, port: VIP_PORT };
    let (_, out) = sent(&bed, &tuple.tcp(64, true, false, &[]));
    let got = Seen::of(&out);
    let reply = Tuple { source: got.destination, destination: got.source, source_port: REAL_PORT, port: got.ports().0 };
    for stranger in [
        Tuple { source: client(false, 9), ..reply },
        Tuple { source_port: REAL_PORT + 1, ..reply },
        Tuple { port: reply.port ^ 1, ..reply },
        Tuple { port: 1, ..reply },
    ] {
        assert_eq!(sent(&bed, &stranger.tcp(64, false, false, &[])).0, Reason::NotAVip, "{stranger:?}");
    }
    assert_eq!(sent(&bed, &reply.udp(64, &[])).0, Reason::NotAVip, "the other protocol");
    // An ICMP error about nothing that is known.
    let unknown = Tuple { source: vip(false), destination: client(false, 50), source_port: VIP_PORT, port: 9 }.udp(64, &[0; 20]);
    assert_eq!(sent(&bed, &too_big(&unknown, vip(false), 1400, 0)).0, Reason::NatUnknown);
}
