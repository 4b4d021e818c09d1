//! Section 7: encapsulation, byte by byte.

use std::net::IpAddr;

use super::sums::{checksum, fold, words};
use super::{Packet, Walk};

const DISCARD: [u8; 12] = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

impl Walk<'_> {
    /// The outer header in front of the packet, and new MACs. `port`: the source port as saved in 1.7.
    pub(super) fn encapsulate(&mut self, packet: &Packet, port: [u8; 2], real: IpAddr, gue: bool) {
        let outer = match (real, gue) {
            (IpAddr::V4(real), false) => ipip_v4(packet, port, real.octets()),
            (IpAddr::V6(real), false) => ipip_v6(packet, port, real.octets()),
            (IpAddr::V4(real), true) => self.gue_v4(packet, port, real.octets()),
            (IpAddr::V6(real), true) => self.gue_v6(packet, port, real.octets()),
        };
        let ether_type: [u8; 2] = if real.is_ipv6() { [0x86, 0xdd] } else { [0x08, 0x00] };
        let received_at = &self.frame[..6];
        let ethernet = [&self.model.rules.next_hop_mac, received_at, &ether_type].concat();
        self.frame = [&ethernet, &outer, &self.frame[14..]].concat();
    }

    /// 7.2 to an IPv4 real.
    fn gue_v4(&self, packet: &Packet, [ph, pl]: [u8; 2], real: [u8; 4]) -> Vec<u8> {
        let s = &packet.src;
        let source = self.model.rules.tunnel.source_v4.octets();
        let length = packet.bytes.wrapping_add(8);
        let udp = self.udp([s[2] ^ pl, s[3] ^ ph], length, &[source.as_slice(), &real].concat(), packet.v6);
        [ip_v4(packet, 28, 17, source, real), udp].concat()
    }

    /// 7.2 to an IPv6 real.
    fn gue_v6(&self, packet: &Packet, [ph, pl]: [u8; 2], real: [u8; 16]) -> Vec<u8> {
        let s = &packet.src;
        let source = self.model.rules.tunnel.source_v6.octets();
        let (port, inner) = if packet.v6 { ([s[12] ^ ph, s[13] ^ pl], 40) } else { ([s[2] ^ ph, s[3] ^ pl], 0) };
        let length = packet.bytes.wrapping_add(inner).wrapping_add(8);
        let udp = self.udp(port, length, &[source, real].concat(), packet.v6);
        [ip_v6(packet, length, 17, source, real), udp].concat()
    }

    /// The UDP header, with the checksum that is computed from headers only.
    fn udp(&self, source: [u8; 2], length: u16, addresses: &[u8], inner_v6: bool) -> Vec<u8> {
        let mut udp = [source, self.model.rules.tunnel.gue_port.to_be_bytes(), length.to_be_bytes(), [0; 2]].concat();
        let outer_pseudo = [addresses, &[0, 17], &length.to_be_bytes()].concat();
        let (inner, inner_pseudo) = if inner_v6 { self.inner_v6() } else { self.inner_v4() };
        let complements: Vec<u8> = inner_pseudo.iter().map(|byte| !byte).collect();
        let sum = 0xffff + words(&complements) + words(inner) + words(&udp) + words(&outer_pseudo);
        udp[6..8].copy_from_slice(&(!fold(sum)).to_be_bytes());
        udp
    }

    /// Inner IP header and its pseudo header.
    fn inner_v4(&self) -> (&[u8], Vec<u8>) {
        let ip = &self.frame[14..34];
        let length = u16::from_be_bytes([ip[2], ip[3]]).wrapping_sub(20).to_be_bytes();
        (ip, [&ip[12..20], &[0, ip[9]], &length].concat())
    }

    fn inner_v6(&self) -> (&[u8], Vec<u8>) {
        let ip = &self.frame[14..54];
        (ip, [&ip[8..40], &[0, 0], &ip[4..6], &[0, 0, 0, ip[6]]].concat())
    }
}

/// 7.1 to an IPv4 real.
fn ipip_v4(packet: &Packet, [ph, pl]: [u8; 2], real: [u8; 4]) -> Vec<u8> {
    let s = &packet.src;
    ip_v4(packet, 20, 4, [172, 16, s[2] ^ pl, s[3] ^ ph], real)
}

/// 7.1 to an IPv6 real.
fn ipip_v6(packet: &Packet, [ph, pl]: [u8; 2], real: [u8; 16]) -> Vec<u8> {
    let s = &packet.src;
    let [x0, x1, x2, x3] = if packet.v6 { [s[12], s[13], s[14], s[15]] } else { [s[0], s[1], s[2], s[3]] };
    let mut source = [0; 16];
    source[..12].copy_from_slice(&DISCARD);
    source[12..].copy_from_slice(&[x0 ^ ph, x1 ^ pl, x2, x3]);
    let (next, inner) = if packet.v6 { (41, 40) } else { (4, 0) };
    ip_v6(packet, packet.bytes.wrapping_add(inner), next, source, real)
}

fn ip_v4(packet: &Packet, more: u16, protocol: u8, source: [u8; 4], real: [u8; 4]) -> Vec<u8> {
    let [high, low] = packet.bytes.wrapping_add(more).to_be_bytes();
    let mut ip = [&[0x45, packet.tos, high, low, 0, 0, 0, 0, 64, protocol, 0, 0], &source[..], &real].concat();
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum);
    ip
}

fn ip_v6(packet: &Packet, payload: u16, next: u8, source: [u8; 16], real: [u8; 16]) -> Vec<u8> {
    let [high, low] = payload.to_be_bytes();
    let start = [0x60 | packet.tos >> 4, packet.tos << 4, 0, 0, high, low, next, 64];
    [&start[..], &source, &real].concat()
}
