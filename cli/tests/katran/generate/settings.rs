//! Configurations that Katran would accept: one encapsulation for all, IPv4 prefixes nowhere, IPv4 reals where it can
//! carry them, and with IPIP now and then one that it does not prevent (an IPv6 packet in an IPv4 header).

use std::net::IpAddr;

use super::Rng;
use crate::settings::{DecapAddress, Flows, Node, Real, Settings, SourceRoute, Tunnel, Vip};

/// Addresses of VIPs, without and with a prefix that covers some of the others.
pub const VIPS: [&str; 9] = [
    "10.200.1.1",
    "10.200.1.2",
    "10.200.1.3",
    "fc00:1::1",
    "fc00:1::2",
    "fc00:2::9",
    "fc00:1::/96",
    "fc00:2::/64",
    "fc00:2::/121",
];
const FLAGS: [&str; 10] = [
    "no-source-port",
    "bypass-flow-table",
    "quic",
    "hash-dport-only",
    "source-routing",
    "local",
    "global-flow-table",
    "hash-src-dst-port",
    "udp-stable-routing",
    "udp-flow-migration",
];
/// Server ids that frames may carry; the last one would be negative.
pub const IDS: [u32; 8] = [1, 7, 1022, 16_383, 70_000, 0x00ff_fffe, 0x0100_0007, 0x8000_0001];
const SOURCES: [&str; 8] = [
    "192.168.0.0/17",
    "192.168.1.0/24",
    "192.168.1.3/32",
    "0.0.0.0/1",
    "2001:db8::/32",
    "2001:db8::/64",
    "2001:db8::3/128",
    "2000::/3",
];
/// Where tunnels may end: addresses of nothing else, and two VIPs.
pub const TUNNEL_ENDS: [&str; 5] = ["10.200.9.1", "fc00:1404::1", "fc00:1404::2", "10.200.1.1", "fc00:1::1"];

/// A configuration.
pub fn settings(rng: &mut Rng) -> Settings {
    let gue = rng.one_in(2);
    let mut settings = Settings {
        node: Node {
            profile: "katran".to_owned(),
            next_hop_mac: "00:00:de:ad:be:af".to_owned(),
            local_mac: "00:ff:de:ad:be:af".to_owned(),
        },
        tunnel: tunnel(rng, gue),
        flows: Flows::default(),
        server_ids: some(rng, &IDS).iter().map(|id| (id.to_string(), real(rng, true, gue))).collect(),
        source_route: Vec::new(),
        decap: Vec::new(),
        vip: vips(rng, gue),
    };
    if rng.one_in(5) {
        settings.flows.new_flows_per_core = 1 + rng.below(12) as u64;
    }
    if rng.one_in(2) {
        let prefixes = some(rng, &SOURCES);
        let route = |prefix: &str| SourceRoute { prefix: prefix.to_owned(), real: real(rng, prefix.contains(':'), gue) };
        settings.source_route = prefixes.into_iter().map(route).collect();
    }
    if rng.one_in(2) {
        let ends = some(rng, &TUNNEL_ENDS);
        let end = |end: &str| DecapAddress { address: ip(end), then: rng.pick(&["balance", "balance", "egress"]).to_owned() };
        settings.decap = ends.into_iter().map(end).collect();
    }
    settings
}

fn tunnel(rng: &mut Rng, gue: bool) -> Tunnel {
    let decap: &[&str] = rng.pick(&[&[][..], &[], &["ipip"], &["gue"], &["ipip", "gue"]]);
    Tunnel {
        encap: if gue { "gue" } else { "ipip" }.to_owned(),
        gue_port: if rng.one_in(4) { 9886 } else { 6080 },
        decap: decap.iter().map(|kind| (*kind).to_owned()).collect(),
        decap_strict: rng.one_in(2),
        tcp_server_id: rng.one_in(3),
        max_frame: if rng.one_in(4) { 400 } else { 1514 },
        too_big: rng.pick(&["icmp", "drop"]).to_owned(),
        ..Tunnel::default()
    }
}

/// Each of them, or not.
fn some<T: Clone>(rng: &mut Rng, of: &[T]) -> Vec<T> {
    of.iter().filter(|_| rng.one_in(2)).cloned().collect()
}

fn vips(rng: &mut Rng, gue: bool) -> Vec<Vip> {
    let mut vips: Vec<Vip> = (0..1 + rng.below(5)).map(|_| vip(rng, gue)).collect();
    vips.sort_by_key(Vip::name);
    vips.dedup_by_key(|vip| vip.name());
    vips
}

fn vip(rng: &mut Rng, gue: bool) -> Vip {
    let address = rng.pick(&VIPS).to_owned();
    let count = if rng.one_in(12) { 0 } else { 1 + rng.below(4) };
    let mut reals: Vec<Real> = (0..count).map(|_| vip_real(rng, address.contains(':'), gue)).collect();
    reals.sort_by_key(|real| real.address);
    reals.dedup_by_key(|real| real.address);
    Vip {
        address,
        port: rng.pick(&[80, 443, 0]),
        protocol: rng.pick(&["tcp", "udp"]).to_owned(),
        ring: rng.pick(&["maglev-v1", "maglev-v2"]).to_owned(),
        flags: FLAGS.iter().filter(|_| rng.one_in(5)).map(|flag| (*flag).to_owned()).collect(),
        encap: rng.one_in(4).then(|| if gue { "gue" } else { "ipip" }.to_owned()),
        real: reals,
    }
}

fn vip_real(rng: &mut Rng, v6: bool, gue: bool) -> Real {
    let address = real(rng, v6, gue);
    Real {
        address,
        weight: rng.pick(&[1, 1, 1, 2, 3, 0, 40]),
        state: rng.pick(&["up", "up", "down", "drain"]).to_owned(),
        local: is_local(address),
    }
}

/// Whether the real is this machine: a property of the address.
fn is_local(address: IpAddr) -> bool {
    [ip("10.0.0.4"), ip("fc00::4")].contains(&address)
}

/// A real that packets of this family can be carried to.
fn real(rng: &mut Rng, v6: bool, gue: bool) -> IpAddr {
    let n = 1 + rng.below(4);
    let to_v4 = if v6 { !gue && rng.one_in(8) } else { rng.one_in(2) };
    ip(&if to_v4 { format!("10.0.0.{n}") } else { format!("fc00::{n}") })
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
