//! Generated frames: valid ones towards the VIPs of the plan, mutated ones, truncated ones, and the host's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, PacketBuilder, TcpHeader};
use tandem_backends::config::{Plan, Protocol};

/// SplitMix64: small, seedable, and the same everywhere.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}

/// Clients and their ports: few enough that flows return (most of the time only the first few ports), many enough that
/// small tables overflow.
const CLIENTS: u64 = 24;
const PORTS: u64 = 2000;
const FREQUENT_PORTS: u64 = 4;

/// A frame, and what of it a full-key oracle needs (if it is a valid one to a VIP).
pub fn frame(rng: &mut Rng, plan: &Plan) -> Vec<u8> {
    match rng.below(20) {
        0 => host(rng),
        1 => odd_ip(rng, plan),
        2 => mutated(rng, plan),
        3 => truncated(rng, plan),
        4 => message(rng, plan),
        _ => to_vip(rng, plan),
    }
}

/// Frames for a plan with everything: server ids, tunnels, fragments of one packet, and those of [`frame`].
pub fn rich_frame(rng: &mut Rng, plan: &Plan) -> Vec<u8> {
    match rng.below(6) {
        0 => with_server_id(rng, plan),
        1 => tunnel(rng, plan),
        2 => fragment(rng, plan),
        _ => frame(rng, plan),
    }
}

/// Where the transport header of a frame without options is.
fn l4(frame: &[u8]) -> usize {
    if frame[14] >> 4 == 6 { 54 } else { 34 }
}

/// A ping to a VIP's address, or an error about one of its flows, quoted whole or in part.
fn message(rng: &mut Rng, plan: &Plan) -> Vec<u8> {
    let about = to_vip(rng, plan);
    let (ip, v6, mut out) = (about[14..].to_vec(), about[14] >> 4 == 6, Vec::new());
    let eth = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
    let size = if rng.one_in(20) { 1600 } else { rng.below(60) as usize };
    let (client, vip) = if v6 { (8..24, 24..40) } else { (12..16, 16..20) };
    if rng.one_in(3) {
        let payload = vec![1; size];
        if v6 {
            let builder = eth.ipv6(ip[client].try_into().unwrap(), ip[vip].try_into().unwrap(), 9);
            builder.icmpv6_echo_request(1, 2).write(&mut out, &payload).unwrap();
        } else {
            let builder = eth.ipv4(ip[client].try_into().unwrap(), ip[vip].try_into().unwrap(), 9);
            builder.icmpv4_echo_request(1, 2).write(&mut out, &payload).unwrap();
        }
        return out;
    }
    // What the real sent: both ends the other way round.
    let mut quoted = ip.clone();
    quoted[client.clone()].copy_from_slice(&ip[vip.clone()]);
    quoted[vip.clone()].copy_from_slice(&ip[client.clone()]);
    let ports = l4(&about) - 14;
    quoted[ports..ports + 2].copy_from_slice(&ip[ports + 2..ports + 4]);
    quoted[ports + 2..ports + 4].copy_from_slice(&ip[ports..ports + 2]);
    quoted.truncate(ports + rng.below(30) as usize);
    let kinds: &[(u8, u8)] =
        if v6 { &[(2, 0), (1, 3), (1, 4), (3, 0), (133, 0)] } else { &[(3, 4), (3, 3), (3, 1), (11, 0), (5, 0)] };
    let &(kind, code) = rng.pick(kinds);
    let mtu = if rng.one_in(2) { 1400 } else { 1000 };
    let rest = [0, 0, (mtu >> 8) as u8, mtu as u8];
    let router = client_of(rng, v6);
    match (router, v6) {
        (IpAddr::V6(router), true) => {
            let builder = eth.ipv6(router.octets(), ip[vip].try_into().unwrap(), 9);
            builder.icmpv6_raw(kind, code, rest).write(&mut out, &quoted).unwrap();
        }
        (IpAddr::V4(router), _) => {
            let builder = eth.ipv4(router.octets(), ip[vip].try_into().unwrap(), 9);
            builder.icmpv4_raw(kind, code, rest).write(&mut out, &quoted).unwrap();
        }
        (IpAddr::V6(_), false) => unreachable!("families agree"),
    }
    out
}

fn client_of(rng: &mut Rng, v6: bool) -> IpAddr {
    client(rng, if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() })
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

fn client(rng: &mut Rng, like: IpAddr) -> IpAddr {
    let n = rng.below(CLIENTS) as u8;
    match like {
        IpAddr::V4(_) => Ipv4Addr::new(198, 51, 100, n).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, u16::from(n), 7).into(),
    }
}

fn destination(rng: &mut Rng, plan: &Plan) -> (IpAddr, u16, Protocol) {
    if plan.vips.is_empty() {
        return (Ipv4Addr::new(10, 200, 1, 1).into(), 80, Protocol::Tcp);
    }
    let vip = rng.pick(&plan.vips);
    let port = match (vip.port, rng.below(30)) {
        (0, _) => rng.below(50) as u16 + 1,
        (port, 0) => port + 1,
        (port, _) => port,
    };
    (vip.address, port, vip.protocol)
}

fn to_vip(rng: &mut Rng, plan: &Plan) -> Vec<u8> {
    let (address, port, protocol) = destination(rng, plan);
    let source = client(rng, address);
    let ports = if rng.one_in(3) { PORTS } else { FREQUENT_PORTS };
    let sport = 1024 + rng.below(ports) as u16;
    let ttl = if rng.one_in(40) { rng.below(3) as u8 } else { 2 + rng.below(254) as u8 };
    let size = if rng.one_in(50) { 1400 + rng.below(200) } else { rng.below(64) };
    let payload = vec![rng.next() as u8; size as usize];
    let mut frame = build(source, address, ttl, protocol, sport, port, tcp_flags(rng), &payload);
    // TOS or traffic class and flow label
    if frame[14] >> 4 == 6 {
        frame[14] = 0x60 | rng.below(16) as u8;
        frame[15] = rng.next() as u8;
    } else {
        frame[15] = rng.next() as u8;
    }
    if rng.one_in(10) {
        frame.extend(vec![0; rng.below(20) as usize]);
    }
    frame
}

/// SYN, RST, SYN and RST, or an ordinary segment.
fn tcp_flags(rng: &mut Rng) -> u8 {
    match rng.below(20) {
        0 => 0x02,
        1 => 0x12,
        2 => 0x04,
        3 => 0x06,
        4 => 0x11,
        _ => 0x10,
    }
}

#[allow(clippy::too_many_arguments, reason = "the fields of a packet")]
fn build(
    source: IpAddr,
    destination: IpAddr,
    ttl: u8,
    protocol: Protocol,
    sport: u16,
    dport: u16,
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    let eth = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
    let ip = match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => eth.ipv4(s.octets(), d.octets(), ttl),
        (IpAddr::V6(s), IpAddr::V6(d)) => eth.ipv6(s.octets(), d.octets(), ttl),
        _ => unreachable!("families agree"),
    };
    let mut frame = Vec::new();
    match protocol {
        Protocol::Udp => ip.udp(sport, dport).write(&mut frame, payload).unwrap(),
        Protocol::Tcp => {
            let mut tcp = TcpHeader::new(sport, dport, 1, 1000);
            (tcp.syn, tcp.rst, tcp.ack, tcp.fin) = (flags & 2 != 0, flags & 4 != 0, flags & 16 != 0, flags & 1 != 0);
            ip.tcp_header(tcp).write(&mut frame, payload).unwrap();
        }
    }
    frame
}

/// What the host itself gets: ARP, neighbour discovery, pings, other ports.
fn host(rng: &mut Rng) -> Vec<u8> {
    let eth = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
    let mut frame = Vec::new();
    match rng.below(5) {
        0 => {
            frame = vec![0xff; 12];
            frame.extend([8, 6]);
            frame.extend([1; 28]);
        }
        1 => eth.ipv4([192, 0, 2, 1], [10, 0, 0, 1], 64).icmpv4_echo_request(1, 2).write(&mut frame, b"ping").unwrap(),
        2 => eth.ipv6([1; 16], [2; 16], 255).icmpv6_echo_request(1, 2).write(&mut frame, b"ping").unwrap(),
        3 => eth.ipv4([192, 0, 2, 1], [10, 0, 0, 1], 64).tcp(1, 22, 3, 4).write(&mut frame, &[]).unwrap(),
        _ => eth.single_vlan(5.try_into().unwrap()).ipv4([1; 4], [10, 200, 1, 1], 9).udp(1, 80).write(&mut frame, &[]).unwrap(),
    }
    frame
}

/// IPv4 options and fragments, IPv6 fragments and extension headers, wrong versions.
fn odd_ip(rng: &mut Rng, plan: &Plan) -> Vec<u8> {
    let mut frame = to_vip(rng, plan);
    let v6 = frame[14] >> 4 == 6;
    match (v6, rng.below(4)) {
        (false, 0) => {
            let mut ip = Ipv4Header::new(8, 64, IpNumber::UDP, [1, 2, 3, 4], [10, 200, 1, 1]).unwrap();
            ip.options = Ipv4Options::from([1; 4]);
            let mut with = frame[..14].to_vec();
            ip.write(&mut with).unwrap();
            with.extend([0; 8]);
            return with;
        }
        (false, 1) => {
            let offset = IpFragOffset::try_new(rng.below(100) as u16).unwrap().value();
            let more = u16::from(rng.one_in(2)) << 13;
            frame[20..22].copy_from_slice(&(offset | more).to_be_bytes());
        }
        (false, _) => frame[14] = rng.next() as u8,
        (true, 0) => frame[20] = 44,
        (true, 1) => frame[20] = *rng.pick(&[0, 43, 60, 58, 1, 4, 41]),
        (true, _) => frame[14] = rng.next() as u8,
    }
    frame
}

/// Up to four bytes of the headers changed.
fn mutated(rng: &mut Rng, plan: &Plan) -> Vec<u8> {
    let mut frame = to_vip(rng, plan);
    for _ in 0..=rng.below(4) {
        let at = rng.below(frame.len().min(74) as u64) as usize;
        frame[at] ^= 1 << rng.below(8);
    }
    frame
}

fn truncated(rng: &mut Rng, plan: &Plan) -> Vec<u8> {
    let mut frame = to_vip(rng, plan);
    frame.truncate(rng.below(frame.len().min(90) as u64) as usize);
    frame
}
