//! Frames for a plan with everything: server ids, tunnels, fragments of one packet, and the usual ones.

use std::net::IpAddr;

use etherparse::{IpNumber, PacketBuilder};
use tandem_backends::config::{Plan, Protocol};

use crate::frames::{
    FREQUENT_PORTS, Rng, build, client, client_of, destination, frame, l4, message, tcp_flags, to_vip, with_tags,
};

/// Frames for a plan with everything: server ids, tunnels, fragments of one packet, and those of [`frame`].
pub fn rich_frame(rng: &mut Rng, plan: &Plan) -> Vec<u8> {
    let frame = match rng.below(13) {
        0 | 1 => with_server_id(rng, plan),
        2 | 3 => tunnel(rng, plan),
        4 | 5 => fragment(rng, plan),
        6 => about_tunnel(rng, plan),
        _ => return frame(rng, plan),
    };
    with_tags(rng, frame)
}

/// A payload that names a server: a QUIC connection id, the header of stable routing, or a TCP option.
fn with_server_id(rng: &mut Rng, plan: &Plan) -> Vec<u8> {
    let (address, port, protocol) = destination(rng, plan);
    let source = client(rng, address);
    let sport = 1024 + rng.below(FREQUENT_PORTS) as u16;
    let id = if rng.one_in(4) { rng.next() as u32 >> rng.below(20) } else { *rng.pick(&crate::plans::SERVER_IDS) };
    let [a, b, c, d] = id.to_be_bytes();
    if protocol == Protocol::Tcp {
        let mut frame = build(source, address, 64, protocol, sport, port, tcp_flags(rng), &[0; 12]);
        let at = l4(&frame);
        frame[at + 12] = [0x50, 0x70, 0x80, 0x30][rng.below(4) as usize];
        let options = [&[1, 1][..], &[0xb7, if rng.one_in(9) { 5 } else { 6 }], &id.to_le_bytes(), &[2, 4, 0, 0]].concat();
        let from = rng.below(3) as usize;
        frame[at + 20..at + 30].copy_from_slice(&options[from..from + 10]);
        return frame;
    }
    let cid = match rng.below(4) {
        0 => [0x40 | (id >> 10) as u8 & 0x3f, (id >> 2) as u8, (id << 6) as u8, 0, 0, 0, 0, 0],
        1 => [0x80, b, c, d, 0, 0, 0, 0],
        2 => [0xc0, a, b, c, d, 0, 0, 0],
        _ => [rng.next() as u8; 8],
    };
    let mut payload = match rng.below(4) {
        0 => [&[0x52, b, c, d][..], &cid].concat(),
        1 => [&[0xc0 | (rng.below(4) << 4) as u8, 0, 0, 0, 1, if rng.one_in(4) { 4 } else { 8 }][..], &cid].concat(),
        _ => [&[0x40][..], &cid].concat(),
    };
    if rng.one_in(6) {
        payload.truncate(rng.below(payload.len() as u64) as usize);
    }
    build(source, address, 64, protocol, sport, port, 0, &payload)
}

/// A frame in a tunnel: IPIP or GUE, over IPv4 or IPv6, to an address of the plan or another one.
fn tunnel(rng: &mut Rng, plan: &Plan) -> Vec<u8> {
    let mut inner = if rng.one_in(4) { message(rng, plan) } else { to_vip(rng, plan) }[14..].to_vec();
    let v6 = inner[0] >> 4 == 6;
    if rng.one_in(8) {
        inner[if v6 { 7 } else { 8 }] = rng.below(3) as u8;
    }
    let to: IpAddr = if rng.one_in(8) { client_of(rng, false) } else { rng.pick(&crate::plans::DECAPS).parse().unwrap() };
    let from = client(rng, to);
    let mut out = Vec::new();
    if rng.one_in(2) {
        let outer = build(from, to, 64, Protocol::Udp, 1000, if rng.one_in(9) { 99 } else { 6080 }, 0, &inner);
        return outer;
    }
    let next = IpNumber(if v6 { 41 } else { 4 });
    let eth = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
    match (from, to) {
        (IpAddr::V4(s), IpAddr::V4(d)) => eth.ipv4(s.octets(), d.octets(), 64).write(&mut out, next, &inner).unwrap(),
        (IpAddr::V6(s), IpAddr::V6(d)) => eth.ipv6(s.octets(), d.octets(), 64).write(&mut out, next, &inner).unwrap(),
        _ => unreachable!("families agree"),
    }
    out
}

/// What a router says about a tunnel of ours (or nearly one), quoted as far as it likes.
fn about_tunnel(rng: &mut Rng, plan: &Plan) -> Vec<u8> {
    let inner = if rng.one_in(6) { fragment(rng, plan) } else { to_vip(rng, plan) }[14..].to_vec();
    let (v6, outer_v6) = (inner[0] >> 4 == 6, rng.one_in(2));
    let [a, b] = if v6 { [0x86, 0xdd] } else { [8, 0] };
    let (own, port): (&[u8], u16) = match rng.below(8) {
        0 => (&[0, 0, a, b], 0),
        1 => (&[], if v6 { 5556 } else { 5555 }),
        2 => (&[], 6080),
        3 => (&[0, if v6 { 41 } else { 4 }, 0, 0], 6080),
        4 => (&[0, 0, a, b, 1, 2, 3, 0], 6081),
        5 => (&[0, 0, 0x65, 0x58, 1, 2, 3, 0, 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, a, b], 6081),
        _ => (&[], 0),
    };
    let protocol = match (port, own.is_empty()) {
        (0, true) => [4, 41][usize::from(v6)],
        (0, false) => 47,
        _ => 17,
    };
    let udp = if port == 0 { vec![] } else { [&[0xc0, 1][..], &port.to_be_bytes(), &[0; 4]].concat() };
    let payload = [&udp[..], own, &inner].concat();
    let eth = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
    let (source_v4, source_v6) =
        ([10, 0, 13, if rng.one_in(9) { 38 } else { 37 }], [0xfc, 0, 0x23, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x13, 0x37]);
    let (mut outer, mut out) = (Vec::new(), Vec::new());
    if outer_v6 {
        eth().ipv6(source_v6, [0xfd; 16], 60).write(&mut outer, IpNumber(protocol), &payload).unwrap();
    } else {
        eth().ipv4(source_v4, [10, 0, 0, 1], 60).write(&mut outer, IpNumber(protocol), &payload).unwrap();
    }
    let quoted = if rng.one_in(2) { outer.len() - 14 } else { 20 + rng.below(100) as usize };
    let quote = &outer[14..][..quoted.min(outer.len() - 14).min(1200)];
    let rest = [0, 0, rng.below(7) as u8, rng.next() as u8];
    let &(kind, code) = rng.pick(if outer_v6 { &[(2, 0), (1, 3), (3, 0), (4, 0)] } else { &[(3, 4), (3, 2), (11, 0), (12, 0)] });
    if outer_v6 {
        eth().ipv6([0xfe; 16], source_v6, 9).icmpv6_raw(kind, code, rest).write(&mut out, quote).unwrap();
    } else {
        eth().ipv4([10, 9, 9, 9], source_v4, 9).icmpv4_raw(kind, code, rest).write(&mut out, quote).unwrap();
    }
    if rng.one_in(10) {
        let at = 14 + rng.below(out.len() as u64 - 14) as usize;
        out[at] ^= 1 << rng.below(8);
    }
    if rng.one_in(6) {
        out.extend(vec![0; rng.below(20) as usize]);
    }
    out
}

/// One of the fragments of a few packets.
fn fragment(rng: &mut Rng, plan: &Plan) -> Vec<u8> {
    let mut frame = to_vip(rng, plan);
    let (id, first) = (rng.below(8) as u8, rng.one_in(2));
    if frame[14] >> 4 == 6 {
        let next = std::mem::replace(&mut frame[20], 44);
        let header = [next, 0, 0, if first { 1 } else { 0xb9 }, 0, 0, 0, id];
        frame.splice(54..54, header);
        let len = u16::from_be_bytes([frame[18], frame[19]]) + 8;
        frame[18..20].copy_from_slice(&len.to_be_bytes());
    } else {
        frame[18..20].copy_from_slice(&[0, id]);
        frame[20..22].copy_from_slice(if first { &[0x20, 0] } else { &[0, 9] });
    }
    frame
}
