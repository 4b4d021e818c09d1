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
pub const FREQUENT_PORTS: u64 = 4;

/// A frame, now and then with VLAN tags.
pub fn frame(rng: &mut Rng, plan: &Plan) -> Vec<u8> {
    let frame = untagged(rng, plan);
    with_tags(rng, frame)
}

/// One frame in four gets a tag; a few of these another one, or are cut off inside.
pub fn with_tags(rng: &mut Rng, mut frame: Vec<u8>) -> Vec<u8> {
    // Of a generator of its own, so that the frames are the same without tags.
    let mut own = Rng(rng.0.rotate_left(32));
    let rng = &mut own;
    if frame.len() < 12 || !rng.one_in(4) {
        return frame;
    }
    let control = (rng.next() as u16).to_be_bytes();
    let types: &[[u8; 2]] = &[[0x81, 0], [0x88, 0xa8]];
    if rng.one_in(20) {
        let [a, b] = *rng.pick(types);
        frame.splice(12..12, [a, b, 0, 9]);
    }
    let [a, b] = if rng.one_in(20) { *rng.pick(types) } else { types[0] };
    frame.splice(12..12, [a, b, control[0], control[1]]);
    if rng.one_in(40) {
        frame.truncate(14 + rng.below(24) as usize);
    }
    frame
}

fn untagged(rng: &mut Rng, plan: &Plan) -> Vec<u8> {
    match rng.below(20) {
        0 => host(rng),
        1 => odd_ip(rng, plan),
        2 => mutated(rng, plan),
        3 => truncated(rng, plan),
        4 => message(rng, plan),
        _ => to_vip(rng, plan),
    }
}

/// Where the transport header of a frame without options is.
pub fn l4(frame: &[u8]) -> usize {
    if frame[14] >> 4 == 6 { 54 } else { 34 }
}

/// A ping to a VIP's address, or an error about one of its flows, quoted whole or in part.
pub fn message(rng: &mut Rng, plan: &Plan) -> Vec<u8> {
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

pub fn client_of(rng: &mut Rng, v6: bool) -> IpAddr {
    client(rng, if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() })
}

pub fn client(rng: &mut Rng, like: IpAddr) -> IpAddr {
    let n = rng.below(CLIENTS) as u8;
    match like {
        IpAddr::V4(_) => Ipv4Addr::new(198, 51, 100, n).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, u16::from(n), 7).into(),
    }
}

pub fn destination(rng: &mut Rng, plan: &Plan) -> (IpAddr, u16, Protocol) {
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

pub fn to_vip(rng: &mut Rng, plan: &Plan) -> Vec<u8> {
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
pub fn tcp_flags(rng: &mut Rng) -> u8 {
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
pub fn build(
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
