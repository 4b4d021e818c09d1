//! What the engine emits, read by etherparse: all four encapsulations, and the client's packet inside.

use std::net::IpAddr;

use etherparse::{EtherType, IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice, NetSlice, SlicedPacket};
use proptest::prelude::*;
use tandem_engine::Reason;
use tandem_engine::memory::vips::BYPASS_FLOW_TABLE;

use crate::bed::{Bed, Frame, HOP_MAC, LOCAL_MAC, Tuple, process, words};

const RING: u32 = 31;

/// Two VIPs, for TCP and UDP on port 80, and one real.
pub fn bed(real: IpAddr, vip: IpAddr, flags: u32) -> Bed {
    let bed = Bed::new(64, RING);
    bed.reals(RING, &[(real, 1)]);
    bed.vip(1, vip, 80, 6, flags, RING);
    bed.vip(2, vip, 80, 17, flags, RING);
    bed
}

#[derive(Clone, Debug)]
pub struct Case {
    pub tuple: Tuple,
    pub real: IpAddr,
    pub ttl: u8,
    pub tos: u8,
    pub tcp: bool,
    pub syn: bool,
    pub payload: Vec<u8>,
    pub padding: usize,
    pub vary: u32,
    pub flags: u32,
}

fn address(v6: bool, bytes: [u8; 16]) -> IpAddr {
    // a zero second half would make an IPv6 VIP look like an IPv4 one to a person, not to the tables
    if v6 { bytes.into() } else { [bytes[0], bytes[1], bytes[2], bytes[3]].into() }
}

pub fn case() -> impl Strategy<Value = Case> {
    let addresses = (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<[u8; 16]>(), any::<[bool; 2]>());
    let header = (2_u8.., any::<u8>(), any::<[bool; 2]>(), any::<u16>());
    let rest = (
        proptest::collection::vec(any::<u8>(), 0..200),
        0_usize..20,
        prop_oneof![Just(0_u32), Just(0xffff), any::<u32>()],
        prop_oneof![Just(0), Just(BYPASS_FLOW_TABLE)],
    );
    (addresses, header, rest).prop_map(
        |((s, d, r, [v6, real_v6]), (ttl, tos, [tcp, syn], source_port), (payload, padding, vary, flags))| Case {
            tuple: Tuple { source: address(v6, s), destination: address(v6, d), source_port, port: 80 },
            real: address(real_v6, r),
            ttl,
            tos,
            tcp,
            syn,
            payload,
            padding,
            vary,
            flags,
        },
    )
}

impl Case {
    /// The client's frame, with its TOS or traffic class, its checksums right, and padding after it.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = if self.tcp {
            self.tuple.tcp(self.ttl, self.syn, false, &self.payload)
        } else {
            self.tuple.udp(self.ttl, &self.payload)
        };
        if self.tuple.source.is_ipv6() {
            frame[14] = 0x60 | self.tos >> 4;
            frame[15] = self.tos << 4 | 0x5;
        } else {
            let mut header = Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap().to_header();
            (header.dscp, header.ecn) = (dscp(self.tos), ecn(self.tos));
            header.identification = 0x1234;
            header.header_checksum = header.calc_header_checksum();
            header.write(&mut std::io::Cursor::new(&mut frame[14..34])).unwrap();
        }
        frame.extend(vec![0xaa; self.padding]);
        frame
    }
}

fn dscp(tos: u8) -> etherparse::IpDscp {
    (tos >> 2).try_into().unwrap()
}

fn ecn(tos: u8) -> etherparse::IpEcn {
    (tos & 3).try_into().unwrap()
}

/// The inner packet as a forwarder has to leave it: nothing changed but the TTL and what follows from it.
pub fn forwarded_inner(frame: &[u8]) -> Vec<u8> {
    let mut inner = frame[14..].to_vec();
    if inner[0] >> 4 == 6 {
        inner[7] -= 1;
    } else {
        let mut header = Ipv4HeaderSlice::from_slice(&inner).unwrap().to_header();
        header.time_to_live -= 1;
        header.header_checksum = header.calc_header_checksum();
        let len = header.header_len();
        header.write(&mut std::io::Cursor::new(&mut inner[..len])).unwrap();
    }
    inner
}

fn check_outer_v4(outer: &Ipv4HeaderSlice<'_>, case: &Case, inner_len: usize) {
    let IpAddr::V4(real) = case.real else { panic!("an IPv4 tunnel to {}", case.real) };
    let header = outer.to_header();
    assert_eq!(header.calc_header_checksum(), header.header_checksum);
    assert_eq!((header.options.len(), header.identification), (0, 0));
    assert_eq!(usize::from(header.total_len), 20 + inner_len);
    assert_eq!((header.dscp, header.ecn), (dscp(case.tos), ecn(case.tos)));
    assert!(header.dont_fragment && !header.more_fragments && header.fragment_offset.value() == 0);
    assert_eq!(header.time_to_live, 64);
    let carried = if case.tuple.source.is_ipv6() { IpNumber::IPV6 } else { IpNumber::IPV4 };
    assert_eq!(header.protocol, carried);
    assert_eq!(outer.destination_addr(), real);
    let differs = u32::from_ne_bytes(header.source) ^ u32::from_ne_bytes([10, 0, 13, 37]);
    assert_eq!(differs & !case.vary, 0, "only the bits that may vary do");
}

fn check_outer_v6(outer: &Ipv6HeaderSlice<'_>, case: &Case, inner_len: usize) {
    let IpAddr::V6(real) = case.real else { panic!("an IPv6 tunnel to {}", case.real) };
    assert_eq!(usize::from(outer.payload_length()), inner_len);
    assert_eq!(outer.traffic_class(), case.tos);
    assert_eq!((outer.flow_label().value(), outer.hop_limit()), (0, 64));
    let carried = if case.tuple.source.is_ipv6() { IpNumber::IPV6 } else { IpNumber::IPV4 };
    assert_eq!(outer.next_header(), carried);
    assert_eq!(outer.destination_addr(), real);
    let plain = "fc00:2307::1337".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let source = outer.source();
    assert_eq!(source[..12], plain[..12]);
    let last = |bytes: &[u8; 16]| u32::from_ne_bytes(*bytes.last_chunk().unwrap());
    assert_eq!((last(&source) ^ last(&plain)) & !case.vary, 0, "only the bits that may vary do");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_tunnel_is_what_the_rfcs_say(case in case()) {
        let bed = bed(case.real, case.tuple.destination, case.flags);
        bed.root.vary_v4.set(case.vary);
        bed.root.vary_v6.set(case.vary);
        let sent = case.frame();
        let mut frame = Frame::new(&sent);
        let verdict = process(&mut frame, &bed);
        let inner_len = sent.len() - 14 - case.padding;
        let vip = if case.tcp { 1 } else { 2 };
        prop_assert_eq!(verdict.reason(), Reason::Forwarded);
        let forward = verdict.is_forwarded() && (verdict.vip, verdict.real, verdict.bytes as usize) == (vip, 1, inner_len);
        prop_assert!(forward, "{:?}", verdict);

        let out = frame.as_slice();
        let room = if case.real.is_ipv6() { 40 } else { 20 };
        prop_assert_eq!(out.len(), sent.len() + room);
        prop_assert_eq!(&out[..12], [HOP_MAC, LOCAL_MAC].concat());
        prop_assert_eq!(&out[14 + room..], forwarded_inner(&sent));
        let packet = SlicedPacket::from_ethernet(out).unwrap();
        match packet.net.unwrap() {
            NetSlice::Ipv4(outer) => {
                prop_assert_eq!(&out[12..14], EtherType::IPV4.0.to_be_bytes());
                check_outer_v4(&outer.header(), &case, inner_len);
            }
            NetSlice::Ipv6(outer) => {
                prop_assert_eq!(&out[12..14], EtherType::IPV6.0.to_be_bytes());
                check_outer_v6(&outer.header(), &case, inner_len);
            }
            other => panic!("neither: {other:?}"),
        }
        // as the real unpacks it
        let inner = SlicedPacket::from_ip(&out[14 + room..][..inner_len]).unwrap();
        match inner.net.unwrap() {
            NetSlice::Ipv4(ip) => {
                let header = ip.header().to_header();
                prop_assert_eq!(header.calc_header_checksum(), header.header_checksum);
                prop_assert_eq!(header.time_to_live, case.ttl - 1);
                prop_assert_eq!(words(ip.header().destination_addr().into()), words(case.tuple.destination));
            }
            NetSlice::Ipv6(ip) => prop_assert_eq!(ip.header().hop_limit(), case.ttl - 1),
            other => panic!("neither: {other:?}"),
        }
    }

    /// Whatever the bytes are, nothing panics, and a frame that is not forwarded is not changed.
    #[test]
    fn any_bytes_at_all(bytes in proptest::collection::vec(any::<u8>(), 0..120), start in prop::sample::select(vec![0, 12, 14, 15])) {
        let vip: IpAddr = [10, 200, 1, 1].into();
        let bed = bed([10, 0, 0, 1].into(), vip, 0);
        let tuple = Tuple { source: [192, 0, 2, 1].into(), destination: vip, source_port: 9, port: 80 };
        // valid up to `start`, then anything
        let mut sent = tuple.udp(9, &[])[..start].to_vec();
        sent.extend(bytes);
        let mut frame = Frame::new(&sent);
        let verdict = process(&mut frame, &bed);
        if !verdict.is_forwarded() {
            prop_assert_eq!(frame.as_slice(), sent);
        }
    }
}
