//! Frames from parts.

use std::net::IpAddr;

use crate::model::sums::{checksum, fold, words};

const ETHERNET: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];

/// An Ethernet frame around an IP packet.
pub fn frame(packet: &[u8]) -> Vec<u8> {
    let ether_type: [u8; 2] = if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [0x08, 0x00] };
    [&ETHERNET[..], &ether_type, packet].concat()
}

/// An IP packet; both addresses of one family.
pub fn ip(from: IpAddr, to: IpAddr, protocol: u8, class: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let header = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let [high, low] = (payload.len() as u16 + 20).to_be_bytes();
            let start = [0x45, class, high, low, 0x12, 0x34, 0x40, 0, ttl, protocol, 0, 0];
            let mut header = [&start[..], &from.octets(), &to.octets()].concat();
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum);
            header
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let [high, low] = (payload.len() as u16).to_be_bytes();
            let start = [0x60 | class >> 4, class << 4 | 5, 0x67, 0x89, high, low, protocol, ttl];
            [&start[..], &from.octets(), &to.octets()].concat()
        }
        _ => unreachable!("both of one family"),
    };
    [&header, payload].concat()
}

/// A UDP datagram with its checksum.
pub fn udp(from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16 + 8).to_be_bytes();
    let mut udp = [&from.1.to_be_bytes()[..], &to.1.to_be_bytes(), &length, &[0, 0], payload].concat();
    let sum = transport_sum(from.0, to.0, 17, &udp);
    udp[6..8].copy_from_slice(&sum);
    udp
}

/// A TCP segment; `options` are padded to whole words.
pub fn tcp(from: (IpAddr, u16), to: (IpAddr, u16), flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut options = options.to_vec();
    options.resize(options.len().div_ceil(4) * 4, 0);
    let offset = ((20 + options.len()) as u8 / 4) << 4;
    let start = [&from.1.to_be_bytes()[..], &to.1.to_be_bytes(), &[0, 0, 0, 9, 0, 0, 0, 7]].concat();
    let mut tcp = [&start[..], &[offset, flags, 4, 0, 0, 0, 0, 0], &options, payload].concat();
    let sum = transport_sum(from.0, to.0, 6, &tcp);
    tcp[16..18].copy_from_slice(&sum);
    tcp
}

/// An ICMP message of either version: type, code, the four bytes behind the checksum, the rest.
pub fn icmp(from: IpAddr, to: IpAddr, [kind, code]: [u8; 2], four: [u8; 4], rest: &[u8]) -> Vec<u8> {
    let mut icmp = [&[kind, code, 0, 0], &four[..], rest].concat();
    let sum = if to.is_ipv6() { transport_sum(from, to, 58, &icmp) } else { checksum(&icmp) };
    icmp[2..4].copy_from_slice(&sum);
    icmp
}

fn transport_sum(from: IpAddr, to: IpAddr, protocol: u8, segment: &[u8]) -> [u8; 2] {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let addresses = words(&octets(from)) + words(&octets(to));
    (!fold(addresses + u64::from(protocol) + segment.len() as u64 + words(segment))).to_be_bytes()
}
