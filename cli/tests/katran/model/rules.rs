//! What the rules look up: VIPs, prefixes, reals, from the configuration.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::ring::{Ring, ring};
use crate::settings::{Settings, Tunnel, Vip};

/// A VIP with its ring.
pub struct VipRules {
    pub name: String,
    flags: HashSet<String>,
    pub encap: String,
    pub ring: Arc<Ring>,
    pub down: HashSet<IpAddr>,
}

/// An IPv4 or IPv6 network: whether v6, its address, its length.
type Network = (bool, [u8; 16], usize);

pub struct Rules {
    pub tunnel: Tunnel,
    pub next_hop_mac: [u8; 6],
    pub new_flows: u64,
    pub vips: Vec<VipRules>,
    exact: HashMap<([u8; 16], u16, u8), usize>,
    prefixes: Vec<(Network, u16, u8, usize)>,
    pub server_ids: HashMap<u32, IpAddr>,
    sources: Vec<(Network, IpAddr)>,
    /// Destinations of tunnels, and whether they are for egress.
    pub decap: HashMap<[u8; 16], bool>,
    /// Reals with the flag LOCAL_REAL: it belongs to the real, not to the VIP (8.1).
    pub local: HashSet<IpAddr>,
}

impl Rules {
    pub fn new(settings: &Settings) -> Self {
        assert_eq!(settings.node.profile, "katran", "the model knows no other profile");
        let mut rules = Self {
            tunnel: settings.tunnel.clone(),
            next_hop_mac: mac(&settings.node.next_hop_mac),
            new_flows: settings.flows.new_flows_per_core,
            vips: Vec::new(),
            exact: HashMap::new(),
            prefixes: Vec::new(),
            server_ids: settings.server_ids.iter().map(|(id, real)| (id.parse().expect("a number"), *real)).collect(),
            sources: settings.source_route.iter().map(|route| (network(&route.prefix), route.real)).collect(),
            decap: settings.decap.iter().map(|d| (key_bytes(d.address), d.then == "egress")).collect(),
            local: HashSet::new(),
        };
        settings.vip.iter().for_each(|vip| rules.add(vip));
        rules
    }

    fn add(&mut self, vip: &Vip) {
        let protocol = if vip.protocol == "tcp" { 6 } else { 17 };
        let number = self.vips.len();
        if vip.address.contains('/') {
            self.prefixes.push((network(&vip.address), vip.port, protocol, number));
        } else {
            let address = key_bytes(vip.address.parse().expect("an address"));
            self.exact.insert((address, vip.port, protocol), number);
        }
        let endpoints: Vec<(IpAddr, u32)> = vip.real.iter().map(|real| (real.address, real.weight)).collect();
        self.local.extend(vip.real.iter().filter(|real| real.local).map(|real| real.address));
        self.vips.push(VipRules {
            name: vip.name(),
            flags: vip.flags.iter().cloned().collect(),
            encap: vip.encap.clone().unwrap_or_else(|| self.tunnel.encap.clone()),
            ring: ring(&endpoints, vip.ring == "maglev-v1"),
            down: vip.real.iter().filter(|real| real.state == "down").map(|real| real.address).collect(),
        });
    }

    pub fn has(&self, vip: usize, flag: &str) -> bool {
        self.vips[vip].flags.contains(flag)
    }

    /// The VIP of exactly this key.
    pub fn exact(&self, address: &[u8; 16], port: [u8; 2], protocol: u8) -> Option<usize> {
        self.exact.get(&(*address, u16::from_be_bytes(port), protocol)).copied()
    }

    /// The VIP of the longest prefix with this port and protocol.
    pub fn longest_prefix(&self, v6: bool, address: &[u8; 16], port: [u8; 2], protocol: u8) -> Option<usize> {
        let port = u16::from_be_bytes(port);
        let fits = self.prefixes.iter().filter(|(net, p, proto, _)| (*p, *proto) == (port, protocol) && covers(net, v6, address));
        fits.max_by_key(|((_, _, length), ..)| *length).map(|(.., vip)| *vip)
    }

    /// The real for clients of the longest prefix (3.2).
    pub fn source_route(&self, v6: bool, address: &[u8; 16]) -> Option<IpAddr> {
        let fits = self.sources.iter().filter(|(net, _)| covers(net, v6, address));
        fits.max_by_key(|((_, _, length), _)| *length).map(|(_, real)| *real)
    }
}

fn covers((of_v6, network, length): &Network, v6: bool, address: &[u8; 16]) -> bool {
    let bit = |bytes: &[u8; 16], n: usize| bytes[n / 8] >> (7 - n % 8) & 1;
    *of_v6 == v6 && (0..*length).all(|n| bit(network, n) == bit(address, n))
}

fn network(text: &str) -> Network {
    let (address, length) = text.split_once('/').expect("a prefix");
    let address: IpAddr = address.parse().expect("an address");
    (address.is_ipv6(), key_bytes(address), length.parse().expect("a length"))
}

fn mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hex")).collect();
    bytes.try_into().expect("six bytes")
}

/// Section 0: an IPv4 address takes the first four bytes, the rest is 0.
pub fn key_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(v6) => v6.octets(),
        IpAddr::V4(v4) => v4_bytes(v4),
    }
}

fn v4_bytes(v4: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&v4.octets());
    bytes
}
