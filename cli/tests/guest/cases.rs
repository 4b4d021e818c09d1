//! The frames: what clients send, as our own data path leaves it.

use std::net::IpAddr;

use etherparse::PacketBuilder;
use tandem_backends::config::{Plan, parse};
use tandem_backends::replay::{Action, Backend, Instance};

use super::service::{Service, text};

/// Of the real's device, and of the other end.
pub const REAL_MAC: &str = "02:00:00:00:07:01";
pub const BALANCER_MAC: &str = "02:00:00:00:07:02";
/// The real's addresses.
pub const REAL: [&str; 2] = ["192.168.7.1", "fd00:7::1"];
/// The balancer's; not in the real's subnets.
pub const BALANCER: [&str; 2] = ["172.16.1.2", "fd00:ff::1:2"];
/// Clients.
pub const CLIENT: [&str; 2] = ["10.0.0.5", "fd00:c::5"];
/// Of outer UDP headers: with a checksum everywhere, or only where it costs nothing.
const CHECKSUMS: [&str; 2] = ["always", "where-cheap"];

/// One frame and what must come of it.
pub struct Case {
    /// Which of [`services`].
    pub service: usize,
    /// Its number among those of the service: also the first byte of its payload.
    pub number: u8,
    pub what: String,
    pub sent: Sent,
    /// As it leaves the balancer.
    pub frame: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sent {
    /// A datagram with this payload.
    Datagram(Vec<u8>),
    /// The first segment of a connection, with this sequence number.
    Syn(u32),
}

/// All tunnels between all pairs of families, then L2.
pub fn services() -> Vec<Service> {
    [Service::tunnels(), Service::l2()].concat()
}

/// The balancer's configuration, with outer UDP checksums like this.
pub fn configuration(checksums: &str) -> String {
    with_tunnel(&format!("udp_checksum = \"{checksums}\""))
}

fn with_tunnel(lines: &str) -> String {
    let node = format!("next_hop_mac = \"{REAL_MAC}\"\nlocal_mac = \"{BALANCER_MAC}\"");
    text(&node, lines, BALANCER.map(address), REAL.map(address), &services())
}

/// The balancer's configuration for these services, with these outer sources.
pub fn of(sources: [String; 2], services: &[Service]) -> String {
    let node = format!("next_hop_mac = \"{REAL_MAC}\"\nlocal_mac = \"{BALANCER_MAC}\"");
    text(&node, "", sources.map(|source| address(&source)), REAL.map(address), services)
}

/// A frame of a service, as a balancer of this plan sends it on; the number is its first byte.
pub fn by(plan: &Plan, service: &Service, number: u8) -> Vec<u8> {
    let mut engine = Instance::new(Backend::Engine, plan, 3).expect("an engine");
    through(&mut engine, service, "", &Sent::Datagram(vec![number; 17]), 0)
}

/// The same, with the usual configuration and these outer sources.
pub fn one(sources: [&str; 2], service: &Service, number: u8) -> Vec<u8> {
    let text = of(sources.map(str::to_owned), std::slice::from_ref(service));
    by(&parse(&text, "guest").expect("a configuration").plan, service, number)
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn engine(configuration: &str) -> Instance {
    let plan = parse(configuration, "guest").expect("a configuration").plan;
    Instance::new(Backend::Engine, &plan, 3).expect("an engine")
}

/// Every case of every service.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for (round, checksums) in CHECKSUMS.into_iter().enumerate() {
        let mut engine = engine(&configuration(checksums));
        for (at, service) in services().iter().enumerate() {
            for (n, (what, sent, padded)) in contents(service, round as u8).into_iter().enumerate() {
                let frame = through(&mut engine, service, &what, &sent, padded);
                let number = n as u8 | (round as u8) << 7;
                cases.push(Case { service: at, number, what: format!("{what}, outer checksums {checksums}"), sent, frame });
            }
        }
    }
    cases
}

/// The same to tunnel ports that nobody listens at: one of each service that has such a port.
pub fn to_other_ports() -> Vec<Case> {
    let mut engine = engine(&with_tunnel("gue_port = 6090\nfou_port_v4 = 5565\nfou_port_v6 = 5566\ngeneve_port = 6091"));
    let tunnels = services().into_iter().enumerate().filter(|(_, service)| service.method.between.contains(&"udp"));
    let mut one = |(at, service): (usize, Service)| {
        let (what, sent, padded) = contents(&service, 0).swap_remove(0);
        let frame = through(&mut engine, &service, &what, &sent, padded);
        Case { service: at, number: 0, what: "another port".to_owned(), sent, frame }
    };
    tunnels.map(&mut one).collect()
}

/// What a client sends to a service: a name, the content, and up to how many bytes its frame is filled.
fn contents(service: &Service, round: u8) -> Vec<(String, Sent, usize)> {
    let full = 1472 - if service.vip.is_ipv4() { 0 } else { 20 };
    let mut contents = Vec::new();
    for len in [17, 18, 1, 333, full - 1, full] {
        for padded in [0, 77] {
            if padded == 0 || len == 1 {
                let number = contents.len() as u8 | round << 7;
                let payload = (0..len).map(|at| if at == 0 { number } else { (at * 31 + at / 256) as u8 }).collect();
                let name = format!("{len} bytes{}", if padded > 0 { ", padded" } else { "" });
                contents.push((name, Sent::Datagram(payload), padded));
            }
        }
    }
    let sequence = u32::from(service.at().port()) << 9 | u32::from(service.vip.is_ipv6()) << 8 | u32::from(round) << 7;
    contents.push(("SYN".to_owned(), Sent::Syn(sequence), 0));
    contents.push(("SYN, padded".to_owned(), Sent::Syn(sequence + 1), 60));
    for len in [2, 333] {
        let number = contents.len() as u8 | round << 7;
        let payload = (0..len).map(|at| if at == 0 { number } else { at as u8 }).collect();
        contents.push((format!("{len} bytes {WITHOUT}"), Sent::Datagram(payload), 0));
    }
    contents
}

/// In the names of datagrams whose own checksum is 0.
const WITHOUT: &str = "without checksum";

fn through(engine: &mut Instance, service: &Service, what: &str, sent: &Sent, padded: usize) -> Vec<u8> {
    let eth = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 7, 2]);
    let client = address(CLIENT[usize::from(service.vip.is_ipv6())]);
    let (ip, transport) = match (client, service.vip) {
        (IpAddr::V4(client), IpAddr::V4(vip)) => (eth.ipv4(client.octets(), vip.octets(), 63), 34),
        (IpAddr::V6(client), IpAddr::V6(vip)) => (eth.ipv6(client.octets(), vip.octets(), 63), 54),
        _ => unreachable!("families agree"),
    };
    let (port, mut frame) = (service.at().port(), Vec::new());
    match sent {
        Sent::Datagram(payload) => {
            // A port of its own, so that the tunnel's source port is another one each time.
            ip.udp(40_000 + u16::from(payload[0]), port).write(&mut frame, payload).expect("a Vec takes everything");
            if what.contains(WITHOUT) {
                frame[transport + 6..transport + 8].fill(0);
            }
        }
        Sent::Syn(sequence) => {
            let port_of_client = 50_000 + (*sequence & 0xff) as u16;
            ip.tcp(port_of_client, port, *sequence, 64_000).syn().write(&mut frame, &[]).expect("a Vec takes everything");
        }
    }
    frame.resize(frame.len().max(padded), 0xa5);
    let (decision, out) = engine.frame(&frame).expect("a frame");
    assert_eq!(decision.action, Action::Tx, "{service}: {what}: {decision:?}");
    out.to_vec()
}
