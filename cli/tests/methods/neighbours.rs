//! Whether somebody on the balancer's link says that an address is his: asked by ARP (RFC 826) and by a neighbour solicitation
//! (RFC 4861 section 4.3), as the router would.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use socket2::{Domain, Protocol, Socket, Type};
use tandem_lab::{Host, Lab};

use super::transfers::put;

const ARP: [u8; 2] = [0x08, 0x06];
/// Type of a neighbour advertisement.
const ADVERTISEMENT: u8 = 136;
/// Where the type of an ICMPv6 message is in a frame.
const ICMPV6_TYPE: usize = 14 + 40;

/// Asks from the balancer, and waits this long for an answer.
pub fn answers_for(lab: &Lab, address: IpAddr, wait: Duration) -> bool {
    let link = lab.link(Host::Lb).expect("a link");
    let (own, query) = match address {
        IpAddr::V4(address) => (link.mac.0, arp(link.mac.0, link.v4, address)),
        IpAddr::V6(address) => (link.mac.0, solicitation(link.mac.0, link.v6, address)),
    };
    let index = link.index;
    lab.enter(Host::Lb, move || {
        let everything = Protocol::from(i32::from(0x0003_u16.to_be()));
        let mut socket = Socket::new(Domain::PACKET, Type::RAW, Some(everything)).expect("a packet socket");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("Linux");
        put(index, &query).expect("sent");
        let (until, mut frame) = (Instant::now() + wait, [0; 2048]);
        while Instant::now() < until {
            let Ok(len) = socket.read(&mut frame) else { continue };
            if is_answer(&frame[..len], own, address) {
                return true;
            }
        }
        false
    })
    .expect("the balancer's namespace")
}

fn is_answer(frame: &[u8], own: [u8; 6], address: IpAddr) -> bool {
    let to_us = frame.len() > 41 && frame[..6] == own;
    match address {
        IpAddr::V4(address) => to_us && frame[12..14] == ARP && frame[28..32] == address.octets(),
        IpAddr::V6(address) => {
            let target = frame.get(ICMPV6_TYPE + 8..ICMPV6_TYPE + 24);
            to_us && frame.get(ICMPV6_TYPE) == Some(&ADVERTISEMENT) && target == Some(&address.octets()[..])
        }
    }
}

fn arp(own: [u8; 6], source: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    // Ethernet and IPv4, lengths 6 and 4, a request.
    let parts: [&[u8]; 8] =
        [&[0xff; 6], &own, &ARP, &[0, 1, 8, 0, 6, 4, 0, 1], &own, &source.octets(), &[0; 6], &target.octets()];
    parts.concat()
}

fn solicitation(own: [u8; 6], source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    // The target, and the option with the link-layer address of who asks.
    let body = [&target.octets()[..], &[1, 1], &own].concat();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(own, [0x33, 0x33, 0xff, a, b, c])
        .ipv6(source.octets(), group.octets(), 255)
        .icmpv6_raw(135, 0, [0; 4])
        .write(&mut frame, &body)
        .expect("a Vec takes everything");
    frame
}
