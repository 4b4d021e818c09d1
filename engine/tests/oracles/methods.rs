//! Every forwarding method, put on and taken off again. What is emitted is compared with what the documents say byte by byte,
//! and its checksums are summed up over the bytes that they cover (RFC 1071 section 4.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use tandem_engine::memory::features::{L2, TUNNELS};
use tandem_engine::memory::reals::{Method, Way};
use tandem_engine::memory::vips::HAS_VIPS;
use tandem_engine::strip::{Outcome, Tunnels, decapsulate};
use tandem_engine::wire::mac_word;
use tandem_engine::{NO_VIP, Reason, room_for};

use crate::bed::{Bed, Frame, HOP_MAC, LOCAL_MAC, process, words};
use crate::tunnels::{Case, bed, case, forwarded_inner};

pub const SOURCE_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 13, 37);
pub const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0xfc00, 0x2307, 0, 0, 0, 0, 0, 0x1337);
pub const INNER_MAC: [u8; 6] = [2, 0, 0, 7, 7, 7];
pub const VNI: u32 = 0x12_3456;

/// What is unusual about the client's packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Oddity {
    None,
    /// UDP over IPv4 without a checksum.
    NoChecksum,
    /// The first of several fragments.
    Fragment,
    /// A later one, without ports.
    Later,
    /// IPv4 options, or an IPv6 extension header.
    Options,
}

const ODDITIES: [Oddity; 5] = [Oddity::None, Oddity::NoChecksum, Oddity::Fragment, Oddity::Later, Oddity::Options];

/// All of them.
pub const METHODS: [Method; 8] =
    [Method::Ipip, Method::Gue, Method::Gre, Method::Fou, Method::Gue0, Method::Geneve, Method::GeneveEthernet, Method::L2];

pub fn ports(method: Method) -> [u16; 2] {
    let Tunnels { gue_port, fou_ports, geneve_port, .. } = Tunnels::standard();
    match method {
        Method::Ipip | Method::Gre | Method::L2 | Method::Nat => [0, 0],
        Method::Gue | Method::Gue0 => [gue_port; 2],
        Method::Fou => fou_ports,
        Method::Geneve | Method::GeneveEthernet => [geneve_port; 2],
    }
}

/// Sources for outer headers, and every method switched on.
pub fn sources(bed: &Bed) {
    bed.root.source_v4.set(u32::from_ne_bytes(SOURCE_V4.octets()));
    for (cell, word) in bed.root.source_v6.iter().zip(words(SOURCE_V6.into())) {
        cell.set(word);
    }
    bed.root.features.set(TUNNELS | L2);
}

/// Word by word in network order.
pub fn rfc1071(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Makes the client's packet odd; `false`: it is as usual. What is given has to be sent before it.
fn make_odd(frame: &mut Vec<u8>, case: &Case, oddity: Oddity) -> (bool, Option<Vec<u8>>) {
    let is_v6 = case.tuple.source.is_ipv6();
    match oddity {
        Oddity::None => (false, None),
        Oddity::NoChecksum if is_v6 || case.tcp => (false, None),
        Oddity::NoChecksum => {
            frame[34 + 6..34 + 8].fill(0);
            (true, None)
        }
        Oddity::Fragment => {
            make_fragment(frame, is_v6, true);
            (true, None)
        }
        Oddity::Later => {
            let mut first = frame.clone();
            make_fragment(&mut first, is_v6, true);
            make_fragment(frame, is_v6, false);
            (true, Some(first))
        }
        Oddity::Options if is_v6 => {
            // Destination options: PadN over four bytes.
            let next = std::mem::replace(&mut frame[20], 60);
            frame.splice(54..54, [next, 0, 1, 4, 0, 0, 0, 0]);
            lengthen_v6(frame, 8);
            (true, None)
        }
        Oddity::Options => {
            frame.splice(34..34, [1, 1, 1, 0]);
            frame[14] = 0x46;
            let len = u16::from_be_bytes([frame[16], frame[17]]) + 4;
            frame[16..18].copy_from_slice(&len.to_be_bytes());
            renew(&mut frame[14..38]);
            (true, None)
        }
    }
}

fn make_fragment(frame: &mut Vec<u8>, is_v6: bool, is_first: bool) {
    if is_v6 {
        let next = std::mem::replace(&mut frame[20], 44);
        frame.splice(54..54, [next, 0, 0, if is_first { 1 } else { 0x48 }, 0, 0, 0x12, 0x34]);
        lengthen_v6(frame, 8);
    } else {
        frame[20..22].copy_from_slice(if is_first { &[0x20, 0] } else { &[0, 9] });
        renew(&mut frame[14..34]);
    }
}

fn lengthen_v6(frame: &mut [u8], by: u16) {
    let len = u16::from_be_bytes([frame[18], frame[19]]) + by;
    frame[18..20].copy_from_slice(&len.to_be_bytes());
}

/// Makes the checksum of an IPv4 header right.
fn renew(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = rfc1071(&[header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Outer source, destination and payload of what was emitted, and its IP protocol.
struct Outer<'a> {
    source: IpAddr,
    protocol: u8,
    pseudo: Vec<u8>,
    payload: &'a [u8],
}

fn outer<'a>(out: &'a [u8], case: &Case, room: usize, inner_len: usize) -> Outer<'a> {
    if case.real.is_ipv6() {
        let ip = &out[14..54];
        assert_eq!(u16::from_be_bytes([ip[4], ip[5]]) as usize, inner_len + room - 40, "payload length");
        assert_eq!((ip[0] >> 4, ip[0] << 4 | ip[1] >> 4, ip[7]), (6, case.tos, 64));
        let source: [u8; 16] = ip[8..24].try_into().unwrap();
        let payload = &out[54..][..inner_len + room - 40];
        let len = (payload.len() as u32).to_be_bytes();
        let pseudo = [&ip[8..40], &len, &[0, 0, 0, ip[6]]].concat();
        assert_eq!(
            ip[24..40],
            match case.real {
                IpAddr::V6(real) => real.octets(),
                IpAddr::V4(_) => unreachable!(),
            }
        );
        Outer { source: source.into(), protocol: ip[6], pseudo, payload }
    } else {
        let ip = &out[14..34];
        assert_eq!(rfc1071(&[ip]), 0, "header checksum");
        assert_eq!(u16::from_be_bytes([ip[2], ip[3]]) as usize, inner_len + room, "total length");
        assert_eq!((ip[0], ip[1], ip[6], ip[7], ip[8]), (0x45, case.tos, 0x40, 0, 64), "TOS, don't fragment, TTL");
        let source: [u8; 4] = ip[12..16].try_into().unwrap();
        let payload = &out[34..][..inner_len + room - 20];
        let pseudo = [&ip[12..20], &[0, ip[9]], &(payload.len() as u16).to_be_bytes()[..]].concat();
        assert_eq!(
            ip[16..20],
            match case.real {
                IpAddr::V4(real) => real.octets(),
                IpAddr::V6(_) => unreachable!(),
            }
        );
        Outer { source: source.into(), protocol: ip[9], pseudo, payload }
    }
}

/// Bytes of the client's IP packet, as its header says.
fn ip_len(frame: &[u8]) -> usize {
    let word = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    if frame[14] >> 4 == 6 { 40 + word(18) } else { word(16) }
}

fn ethertype(is_v6: bool) -> [u8; 2] {
    if is_v6 { [0x86, 0xdd] } else { [8, 0] }
}

/// What is between UDP (or the IP header) and the client's packet.
fn own_header(method: Method, inner_v6: bool) -> Vec<u8> {
    let [a, b] = ethertype(inner_v6);
    let [_, c, d, e] = VNI.to_be_bytes();
    match method {
        Method::Ipip | Method::Gue | Method::Fou | Method::L2 | Method::Nat => vec![],
        Method::Gre => vec![0, 0, a, b],
        Method::Gue0 => vec![0, if inner_v6 { 41 } else { 4 }, 0, 0],
        Method::Geneve => vec![0, 0, a, b, c, d, e, 0],
        Method::GeneveEthernet => [&[0, 0, 0x65, 0x58, c, d, e, 0][..], &INNER_MAC, &LOCAL_MAC, &[a, b]].concat(),
    }
}

fn check(out: &[u8], case: &Case, method: Method, sent: &[u8], no_checksum: bool) {
    let inner_v6 = case.tuple.source.is_ipv6();
    let room = usize::from(room_for(case.real.is_ipv6(), method));
    let outer = outer(out, case, room, ip_len(sent));
    let own = own_header(method, inner_v6);
    let udp = match method {
        Method::Ipip | Method::L2 | Method::Nat | Method::Gre => {
            let protocol = if method == Method::Gre {
                47
            } else if inner_v6 {
                41
            } else {
                4
            };
            assert_eq!(outer.protocol, protocol);
            0
        }
        Method::Gue | Method::Fou | Method::Gue0 | Method::Geneve | Method::GeneveEthernet => {
            assert_eq!(outer.protocol, 17);
            let plain: IpAddr = if case.real.is_ipv6() { SOURCE_V6.into() } else { SOURCE_V4.into() };
            assert_eq!(outer.source, plain, "the port varies, not the source");
            let word = |at: usize| u16::from_be_bytes([outer.payload[at], outer.payload[at + 1]]);
            assert!(word(0) >= 0xc000, "a dynamic port");
            assert_eq!(word(2), ports(method)[usize::from(inner_v6)]);
            assert_eq!(usize::from(word(4)), outer.payload.len(), "UDP length");
            if no_checksum {
                assert_eq!(word(6), 0, "no checksum");
            } else {
                assert_ne!(word(6), 0, "a computed 0 is sent as all ones");
                assert_eq!(rfc1071(&[&outer.pseudo, outer.payload]), 0, "UDP checksum");
            }
            8
        }
    };
    assert_eq!(outer.payload[udp..][..own.len()], own);
}

/// Sends a case's frame by a method, compares what is emitted with the documents, and opens it again. `headers_do`: the outer
/// checksum can be had from the headers alone; if not, `zero` says that there is to be none.
pub fn put_on_and_off(case: &Case, method: Method, sent: &[u8], zero: bool, headers_do: bool) {
    put_on_and_off_after(None, case, method, sent, zero, headers_do);
}

/// The same after another frame, which has to be forwarded, too.
fn put_on_and_off_after(before: Option<&[u8]>, case: &Case, method: Method, sent: &[u8], zero: bool, headers_do: bool) {
    let bed = bed(case.real, case.tuple.destination, case.flags);
    sources(&bed);
    // Later fragments have no port: they are ours if their address has VIPs.
    bed.vip(NO_VIP, case.tuple.destination, 0, 0, HAS_VIPS, 0);
    bed.root.zero_checksums.set(u32::from(zero));
    bed.way(1, &Way { method, local: false, vni: VNI, ports: ports(method), inner_mac: mac_word(INNER_MAC) });
    if let Some(before) = before {
        assert_eq!(process(&mut Frame::new(before), &bed).reason(), Reason::Forwarded, "{before:02x?}");
    }
    let mut frame = Frame::new(sent);
    let verdict = process(&mut frame, &bed);
    assert_eq!(verdict.reason(), Reason::Forwarded);

    let out = frame.as_slice().to_vec();
    let room = usize::from(room_for(case.real.is_ipv6(), method));
    let is_v6 = case.tuple.source.is_ipv6();
    assert_eq!(out.len(), sent.len() + room);
    assert_eq!(&out[..12], [HOP_MAC, LOCAL_MAC].concat());
    assert_eq!(&out[14 + room..], forwarded_inner(sent), "the client's packet, and the padding behind it");
    if method == Method::L2 {
        assert_eq!(&out[12..14], ethertype(is_v6));
        return;
    }
    assert_eq!(&out[12..14], ethertype(case.real.is_ipv6()));
    check(&out, case, method, sent, zero && !headers_do);

    let mut frame = Frame::new(&out);
    assert_eq!(decapsulate(&mut frame, &Tunnels::standard(), |_| {}), Outcome::Decapsulated);
    let stripped = [&out[..12], &ethertype(is_v6), &out[14 + room..]].concat();
    assert_eq!(frame.as_slice(), stripped);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn every_method_on_and_off(
        case in case(),
        method in prop::sample::select(METHODS.to_vec()),
        oddity in prop::sample::select(ODDITIES.to_vec()),
        zero in any::<bool>(),
    ) {
        let mut sent = case.frame();
        let (is_odd, before) = make_odd(&mut sent, &case, oddity);
        put_on_and_off_after(before.as_deref(), &case, method, &sent, zero, !is_odd);
    }
}

/// X8: a checksum that comes out as 0 would say that there is none. Ports are tried until it does.
#[test]
fn x8_a_computed_zero_is_sent_as_all_ones() {
    let tuple = |port| crate::bed::Tuple {
        source: [192, 0, 2, 1].into(),
        destination: [10, 200, 1, 1].into(),
        source_port: port,
        port: 80,
    };
    // The outer port has the upper quarter of all ports: of these reals one is right for it.
    let mut ones = 0;
    for first in [10, 74, 138, 202] {
        let bed = bed([first, 0, 0, 1].into(), [10, 200, 1, 1].into(), 0);
        sources(&bed);
        bed.way(1, &Way { ports: [6080; 2], ..Way::by(Method::Gue) });
        for port in 0..=u16::MAX {
            let mut frame = Frame::new(&tuple(port).udp(64, b"x"));
            assert_eq!(process(&mut frame, &bed).reason(), Reason::Forwarded);
            let checksum = &frame.as_slice()[40..42];
            assert_ne!(checksum, [0, 0], "port {port}");
            ones += u32::from(checksum == [0xff, 0xff]);
        }
    }
    assert!(ones > 0, "nothing makes it 0: the test tests nothing");
}

/// Without a source of its family a UDP tunnel cannot be sent, and says so.
#[test]
fn no_source_no_tunnel() {
    for real in ["10.0.0.1", "fc00::1"] {
        let bed = bed(real.parse().unwrap(), [10, 200, 1, 1].into(), 0);
        bed.root.features.set(TUNNELS);
        bed.way(1, &Way { ports: [6080; 2], ..Way::by(Method::Gue0) });
        let tuple =
            crate::bed::Tuple { source: [192, 0, 2, 1].into(), destination: [10, 200, 1, 1].into(), source_port: 9, port: 80 };
        let mut frame = Frame::new(&tuple.udp(64, b""));
        assert_eq!(process(&mut frame, &bed).reason(), Reason::NoSource, "{real}");
    }
}
