//! NAT of fragments: put together again, they are what the whole packet becomes.

use proptest::prelude::*;
use tandem_engine::Reason;

use crate::bed::{Bed, Tuple};
use crate::methods::rfc1071;
use crate::nat::{PORTS, Seen, VIP_PORT, answer, bed, client, real, sent, vip};

/// Bytes of the first fragment's payload.
const CUT: usize = 24;
/// Identification of a packet in fragments.
const ID: u16 = 0x1234;

/// The frame's packet in two fragments.
fn split(frame: &[u8]) -> [Vec<u8>; 2] {
    let is_v4 = frame[12..14] == [8, 0];
    let l4 = if is_v4 { 34 } else { 54 };
    [(1, &frame[l4..l4 + CUT]), (CUT as u16, &frame[l4 + CUT..])].map(|(at, payload)| {
        let mut head = frame[..l4].to_vec();
        if is_v4 {
            head[16..18].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
            head[18..20].copy_from_slice(&ID.to_be_bytes());
            head[20..22].copy_from_slice(&(at >> 3 | (at & 1) << 13).to_be_bytes());
            head[24..26].fill(0);
            let sum = rfc1071(&[&head[14..34]]);
            head[24..26].copy_from_slice(&sum.to_be_bytes());
        } else {
            head[18..20].copy_from_slice(&(8 + payload.len() as u16).to_be_bytes());
            let protocol = std::mem::replace(&mut head[20], 44);
            head.extend([&[protocol, 0][..], &at.to_be_bytes(), &u32::from(ID).to_be_bytes()].concat());
        }
        [&head, payload].concat()
    })
}

/// What the fragments have become, put together.
fn joined(bed: &Bed, fragments: &[Vec<u8>], reason: Reason) -> Result<Seen, TestCaseError> {
    let mut all: Option<Seen> = None;
    for (i, fragment) in fragments.iter().enumerate() {
        let (found, out) = sent(bed, fragment);
        prop_assert_eq!(found, reason, "fragment {}", i);
        let mut seen = Seen::of(&out);
        let (id, at) = if seen.source.is_ipv4() {
            let at = u16::from_be_bytes([out[20], out[21]]);
            (u32::from(u16::from_be_bytes([out[18], out[19]])), at.rotate_left(3))
        } else {
            let header: Vec<u8> = seen.payload.drain(..8).collect();
            prop_assert_eq!((seen.protocol, header[1]), (44, 0));
            seen.protocol = header[0];
            (u32::from_be_bytes(header[4..8].try_into().unwrap()), u16::from_be_bytes([header[2], header[3]]))
        };
        let before = all.as_ref().map_or(0, |all| all.payload.len() as u16);
        prop_assert_eq!((id, at), (u32::from(ID), before | u16::from(i + 1 < fragments.len())));
        match &mut all {
            None => all = Some(seen),
            Some(all) => {
                prop_assert_eq!((all.source, all.destination, all.macs), (seen.source, seen.destination, seen.macs));
                all.payload.extend(seen.payload);
            }
        }
    }
    Ok(all.unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Fragments, of a new connection and of a known one, and of its answers: put together again they are what the whole packet
    /// becomes, between all families.
    #[test]
    fn fragments_follow(client_v6: bool, real_v6: bool, sources: bool, known: bool, tcp: bool, n in 1_u32..200, port in 1_u16..,
                        there in 24_usize..200, back in 24_usize..200) {
        prop_assume!(sources || client_v6 == real_v6);
        let bed = bed(client_v6, real_v6, sources, PORTS);
        let tuple = Tuple { source: client(client_v6, n), destination: vip(client_v6), source_port: port, port: VIP_PORT };
        let frame = |len| if tcp { tuple.tcp(64, false, false, &vec![7; len]) } else { tuple.udp(64, &vec![7; len]) };
        if known {
            prop_assert_eq!(sent(&bed, &frame(9)).0, Reason::Forwarded);
        }
        let whole = frame(there);
        let got = joined(&bed, &split(&whole), Reason::Forwarded)?;
        prop_assert_eq!(&got, &Seen::of(&sent(&bed, &whole).1));
        prop_assert_eq!((got.destination, got.sum()), (real(real_v6), 0));

        let reply = answer(&got, tcp, &vec![8; back]);
        let home = joined(&bed, &split(&reply), Reason::NatReply)?;
        prop_assert_eq!(&home, &Seen::of(&sent(&bed, &reply).1));
        prop_assert_eq!((home.source, home.destination, home.sum()), (tuple.destination, tuple.source, 0));
    }

    /// A later fragment of an answer whose first one was not seen, or long ago, is nobody's here.
    #[test]
    fn answers_without_a_first_fragment_pass(v6: bool, sources: bool, late: bool, port in 1_u16..) {
        let bed = bed(v6, v6, sources, PORTS);
        let tuple = Tuple { source: client(v6, 1), destination: vip(v6), source_port: port, port: VIP_PORT };
        let (_, there) = sent(&bed, &tuple.udp(64, &[7; 64]));
        let [first, later] = split(&answer(&Seen::of(&there), false, &[8; 64]));
        if late {
            prop_assert_eq!(sent(&bed, &first).0, Reason::NatReply);
            bed.now.set(bed.now.get() + 60);
        }
        prop_assert_eq!(sent(&bed, &later), (Reason::Fragment, later));
    }

    /// The first fragment of a packet without a checksum cannot get one, which IPv6 wants: it is dropped by name (RFC 7915
    /// section 4.5).
    #[test]
    fn a_first_fragment_without_a_checksum_stays_in_its_family(real_v6: bool, port in 1_u16..) {
        let bed = bed(false, real_v6, true, PORTS);
        let tuple = Tuple { source: client(false, 1), destination: vip(false), source_port: port, port: VIP_PORT };
        let mut whole = tuple.udp(64, &[7; 64]);
        whole[40..42].fill(0);
        let [first, later] = split(&whole);
        if real_v6 {
            prop_assert_eq!(sent(&bed, &first).0, Reason::NatUntranslatable);
        } else {
            let got = joined(&bed, &[first, later], Reason::Forwarded)?;
            prop_assert_eq!(&got.payload[6..8], &[0, 0]);
        }
    }
}
