//! Frames: valid ones to the VIPs, ICMP with quotes, tunnels, what is none of a balancer's business, and all of it broken.

use std::net::IpAddr;

use super::Rng;
use super::headers::{frame as ethernet, icmp, ip, udp};
use super::inner::{Scene, Tuple, packet};
use super::settings::{TUNNEL_ENDS, ip as ip_of};

/// A frame for this configuration.
pub fn frame(rng: &mut Rng, scene: &Scene<'_>) -> Vec<u8> {
    let mut frame = match rng.below(24) {
        0 | 1 => quoting(rng, scene),
        2 => echo(rng, scene),
        3..=6 if !scene.settings.tunnel.decap.is_empty() => tunnel(rng, scene),
        3 => tunnel(rng, scene),
        7 => others(rng),
        _ => {
            let tuple = scene.tuple(rng);
            ethernet(&packet(rng, &tuple))
        }
    };
    match rng.below(24) {
        0 => frame.truncate(rng.below(frame.len() + 1)),
        1 => flip(rng, &mut frame),
        2 => odd(rng, &mut frame, scene.settings.tunnel.encap == "gue"),
        3 => off_by_one(rng, &mut frame),
        4 => frame.extend(vec![0; rng.below(20)]),
        _ => {}
    }
    frame
}

fn swapped(tuple: &Tuple) -> Tuple {
    Tuple { client: tuple.vip, vip: tuple.client, tcp: tuple.tcp }
}

/// An ICMP error: somebody on the way to a client says something about a packet that the VIP's real sent.
fn quoting(rng: &mut Rng, scene: &Scene<'_>) -> Vec<u8> {
    let tuple = scene.tuple(rng);
    let (vip, router) = (tuple.vip.0, tuple.client.0);
    let mut quoted = packet(rng, &swapped(&tuple));
    if rng.one_in(4) {
        quoted.truncate(if vip.is_ipv6() { 48 } else { 28 });
    }
    if rng.one_in(10) {
        let protocol_at = if vip.is_ipv6() { 6 } else { 9 };
        quoted[protocol_at] = rng.pick(&[47, 44, 58, 1, 132]);
    }
    if rng.one_in(12) {
        quoted[0] = rng.pick(&[0x46, 0x45, 0x60, 0x4f]);
    }
    let kind: [u8; 2] = if vip.is_ipv6() {
        rng.pick(&[[2, 0], [1, 0], [1, 3], [1, 4], [3, 0], [4, 1], [135, 0]])
    } else {
        rng.pick(&[[3, 4], [3, 4], [3, 3], [3, 1], [3, 0], [11, 0], [5, 1]])
    };
    let mtu: u16 = rng.pick(&[1500, 1280, 1279, 68]);
    let [high, low] = mtu.to_be_bytes();
    let message = icmp(router, vip, kind, [0, 0, high, low], &quoted);
    ethernet(&ip(router, vip, if vip.is_ipv6() { 58 } else { 1 }, rng.byte(), 64, &message))
}

fn echo(rng: &mut Rng, scene: &Scene<'_>) -> Vec<u8> {
    let tuple = scene.tuple(rng);
    let (from, to) = (tuple.client.0, tuple.vip.0);
    let kind: [u8; 2] =
        if to.is_ipv6() { rng.pick(&[[128, 0], [128, 7], [129, 0]]) } else { rng.pick(&[[8, 0], [8, 9], [0, 0]]) };
    let mut message = icmp(from, to, kind, [0, 1, 0, 2], &rng.bytes(12));
    if rng.one_in(3) {
        // Where the carry of the patched checksum shows.
        let sum = rng.pick(&[[0xf8, 0xff], [0xff, 0xff], [0xf7, 0xff], [0, 0], [1, 0]]);
        message[2..4].copy_from_slice(&sum);
    }
    ethernet(&ip(from, to, if to.is_ipv6() { 58 } else { 1 }, 0, rng.byte(), &message))
}

/// IPIP or GUE, to a configured end, the balancer itself, or anybody.
fn tunnel(rng: &mut Rng, scene: &Scene<'_>) -> Vec<u8> {
    let mut inner = match rng.below(8) {
        0 => quoting(rng, scene)[14..].to_vec(),
        1 => echo(rng, scene)[14..].to_vec(),
        _ => {
            let tuple = scene.tuple(rng);
            packet(rng, &tuple)
        }
    };
    for _ in 0..if rng.one_in(10) { 2 } else { 1 } {
        inner = wrapped(rng, scene, &inner);
    }
    ethernet(&inner)
}

fn wrapped(rng: &mut Rng, scene: &Scene<'_>, inner: &[u8]) -> Vec<u8> {
    let settings = scene.settings;
    let to = match rng.below(5) {
        0 => IpAddr::from(settings.tunnel.source_v4),
        1 => IpAddr::from(settings.tunnel.source_v6),
        _ if !settings.decap.is_empty() => settings.decap[rng.below(settings.decap.len())].address,
        _ => ip_of(rng.pick(&TUNNEL_ENDS)),
    };
    let from = ip_of(if to.is_ipv6() { "fc00:dead::1" } else { "198.51.100.77" });
    let class = rng.byte();
    if rng.one_in(2) {
        let protocol = if inner[0] >> 4 == 6 { 41 } else { 4 };
        let protocol = if rng.one_in(10) { rng.pick(&[4, 41]) } else { protocol };
        return ip(from, to, protocol, class, 64, inner);
    }
    let port = if rng.one_in(8) { 9000 } else { settings.tunnel.gue_port };
    ip(from, to, 17, class, 64, &udp((from, 40000), (to, port), inner))
}

/// What a balancer lets pass: ARP, VLANs, other protocols, other addresses.
fn others(rng: &mut Rng) -> Vec<u8> {
    let (from, to) = if rng.one_in(2) { ("192.0.2.1", "192.0.2.2") } else { ("2001:db8::1", "fc00:9::1") };
    let (from, to) = (ip_of(from), ip_of(to));
    match rng.below(5) {
        0 => [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1, 8, 6], &[0; 28]].concat(),
        1 => [&[2; 12][..], &[0x81, 0, 0, 5, 8, 0], &rng.bytes(40)].concat(),
        2 => ethernet(&ip(from, to, rng.pick(&[47, 50, 132, 89, 0, 43, 60, 2]), 0, 64, &[0; 24])),
        3 => ethernet(&ip(from, to, 17, 0, 64, &udp((from, 53), (to, 53), &[1; 12]))),
        _ => ethernet(&rng.bytes(60)),
    }
}

/// Up to four bits of the headers.
fn flip(rng: &mut Rng, frame: &mut [u8]) {
    for _ in 0..=rng.below(4) {
        let at = rng.below(frame.len().min(110));
        frame[at] ^= 1 << rng.below(8);
    }
}

/// IPv4 options, fragments, wrong versions, a protocol of the other family.
fn odd(rng: &mut Rng, frame: &mut [u8], gue: bool) {
    let v6 = frame[12..14] == [0x86, 0xdd];
    let (Some(_), false) = (frame.get(53), frame[12..14] == [0x08, 0x06]) else { return };
    let protocol_at = if v6 { 20 } else { 23 };
    match rng.below(5) {
        0 => frame[14] = rng.byte(),
        1 if !v6 => frame[20..22].copy_from_slice(&rng.pick(&[0x2000_u16, 0x0001, 0x1fff, 0x8000, 0x4000, 0x6001]).to_be_bytes()),
        // How GUE carries IPv6 to an IPv4 real is not said, and these make an IPv4 flow of an IPv6 packet.
        2 if !gue => frame[protocol_at] = if v6 { 1 } else { 58 },
        3 => frame[protocol_at] = rng.pick(&[44, 0, 43, 6, 17, 4, 41]),
        _ => frame[14] = (frame[14] & 0xf0) | rng.byte() & 0x0f,
    }
}

/// A length field: of IP, UDP or TCP.
fn off_by_one(rng: &mut Rng, frame: &mut [u8]) {
    let v6 = frame.get(12..14) == Some(&[0x86, 0xdd]);
    let at = if v6 { rng.pick(&[18, 58, 66]) } else { rng.pick(&[16, 38, 46]) };
    let Some([high, low]) = frame.get(at..at + 2).map(|field| [field[0], field[1]]) else { return };
    let field = u16::from_be_bytes([high, low]);
    let field = match rng.below(6) {
        0 => 0,
        1 => u16::MAX,
        2 => field.wrapping_add(1),
        3 => 19,
        _ => field.wrapping_sub(1),
    };
    frame[at..at + 2].copy_from_slice(&field.to_be_bytes());
}
