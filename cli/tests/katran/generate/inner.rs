//! IP packets from clients to the VIPs of a configuration, and what they carry.

use std::net::{IpAddr, Ipv6Addr};

use super::headers::{ip, tcp, udp};
use super::settings::{IDS, VIPS};
use super::{Rng, settings};
use crate::settings::Settings;

/// One flow of a client to something like a VIP.
#[derive(Clone)]
pub struct Tuple {
    pub client: (IpAddr, u16),
    pub vip: (IpAddr, u16),
    pub tcp: bool,
}

/// A configuration, and the flows that most of its frames are of.
pub struct Scene<'a> {
    pub settings: &'a Settings,
    favourites: Vec<Tuple>,
}

impl<'a> Scene<'a> {
    pub fn new(rng: &mut Rng, settings: &'a Settings) -> Self {
        Self { settings, favourites: (0..3).map(|_| new_tuple(rng, settings)).collect() }
    }

    /// A flow, often one of before.
    pub fn tuple(&self, rng: &mut Rng) -> Tuple {
        if rng.one_in(3) { new_tuple(rng, self.settings) } else { rng.pick(&self.favourites) }
    }
}

/// Nearly always to a VIP.
fn new_tuple(rng: &mut Rng, settings: &Settings) -> Tuple {
    let (address, port, is_tcp) = match settings.vip.len() {
        0 => (rng.pick(&VIPS).to_owned(), 80, true),
        n => {
            let vip = &settings.vip[rng.below(n)];
            (vip.address.clone(), vip.port, vip.protocol == "tcp")
        }
    };
    let vip = if address.contains('/') { inside(rng, &address) } else { settings::ip(&address) };
    let port = match (port, rng.below(20)) {
        (_, 0) => rng.pick(&[80, 443, 81]),
        (0, n) => 440 + n as u16 % 5,
        (port, _) => port,
    };
    let n = 1 + rng.below(3);
    let client = match vip {
        IpAddr::V4(_) => format!("{}.{n}", rng.pick(&["192.168.1", "192.168.200", "198.51.100"])),
        IpAddr::V6(_) => format!("{}::{n}", rng.pick(&["2001:db8", "2001:db8:0:0:1", "fc00:2", "2400:cb00"])),
    };
    let sport = rng.pick(&[31337, 1024, 65535]);
    Tuple { client: (settings::ip(&client), sport), vip: (vip, port), tcp: is_tcp ^ rng.one_in(25) }
}

/// An address in the prefix: also its first one, and one that only just is not in it.
fn inside(rng: &mut Rng, prefix: &str) -> IpAddr {
    let (network, length) = prefix.split_once('/').expect("a prefix");
    let network: Ipv6Addr = network.parse().expect("prefixes are of IPv6 here");
    let length: u32 = length.parse().expect("a length");
    let free = u128::from(rng.pick(&[0, 1, 2, 9, u64::MAX])) & (u128::MAX >> length);
    let beside = if rng.one_in(12) { 1 << (128 - length) } else { 0 };
    Ipv6Addr::from((u128::from(network) | free) ^ beside).into()
}

/// The packet of a flow.
pub fn packet(rng: &mut Rng, tuple: &Tuple) -> Vec<u8> {
    let Tuple { client, vip, tcp: is_tcp } = tuple.clone();
    let mut payload = payload(rng);
    if rng.one_in(25) {
        payload.resize(rng.pick(&[280, 326, 346, 1300, 1440, 1452, 1453, 1472, 1473, 1500, 1600]), 0x5a);
    }
    let segment = if is_tcp {
        let flags = rng.pick(&[0x10, 0x10, 0x10, 0x18, 0x02, 0x12, 0xc2, 0x04, 0x14, 0x06, 0x11, 0x00]);
        tcp(client, vip, flags, &options(rng), &payload)
    } else {
        udp(client, vip, &payload)
    };
    let ttl = rng.pick(&[64, 64, 64, 255, 2, 1, 0]);
    ip(client.0, vip.0, if is_tcp { 6 } else { 17 }, rng.byte(), ttl, &segment)
}

/// The first bytes decide: QUIC of each kind, stable routing, anything.
fn payload(rng: &mut Rng) -> Vec<u8> {
    let id = rng.pick(&IDS);
    let [a, b, c, d] = id.to_be_bytes();
    let cid = match rng.below(5) {
        0 => [0x40 | (id >> 10) as u8 & 0x3f, (id >> 2) as u8, (id << 6) as u8, 0, 0, 0, 0, 0],
        1 => [0x80, b, c, d, 1, 2, 3, 4],
        2 => [0xc0, a, b, c, d, 2, 3, 4],
        3 => [0x00, a, b, c, d, 2, 3, 4],
        _ => rng.next().to_be_bytes(),
    };
    let mut payload = match rng.below(6) {
        0 => [&[0x40 | rng.byte() & 0x3f][..], &cid, &rng.bytes(4)].concat(),
        1 => {
            let first = rng.pick(&[0xc0, 0xd0, 0xe0, 0xf0, 0x80, 0xa0]);
            [&[first, 0, 0, 0, 1, rng.pick(&[8, 8, 8, 20, 7, 0])][..], &cid, &rng.bytes(6)].concat()
        }
        2 | 3 => [&[rng.pick(&[0x52, 0x52, 0x52, 0x53]), b, c, d][..], &rng.bytes(4)].concat(),
        _ => rng.bytes(24),
    };
    if rng.one_in(6) {
        payload.truncate(rng.below(payload.len() + 1));
    }
    payload
}

/// TCP options: usually sound ones with the server id among them, sometimes anything.
fn options(rng: &mut Rng) -> Vec<u8> {
    if rng.one_in(3) {
        return Vec::new();
    }
    let mut options = Vec::new();
    while options.len() < 30 && !rng.one_in(4) {
        match rng.below(10) {
            0..=2 => options.push(1),
            3 => options.extend([2, 4, 5, 0xb4]),
            4 => options.extend([8, 10, 0, 0, 0, 1, 0, 0, 0, 2]),
            5..=7 => {
                let length = if rng.one_in(6) { rng.pick(&[5, 7, 0, 1]) } else { 6 };
                options.extend([0xb7, length]);
                options.extend(rng.pick(&IDS).to_le_bytes());
            }
            8 => options.push(rng.pick(&[0, 0xb6, 0xb7, 254])),
            _ => options.extend([rng.byte(), rng.below(5) as u8]),
        }
    }
    options.truncate(40);
    options
}
