//! A plan that changes: VIPs and reals come and go, drain, go down, change weight.

use std::net::IpAddr;

use tandem_backends::config::{
    Encap, GeneveInner, Mac, OnRemoval, Plan, Protocol, Real, RealState, Vip, VipFlags, Weighting, parse,
};

use crate::frames::Rng;

/// Everything but VIPs.
fn base() -> Plan {
    with("", "source_prefix_v6 = \"100::/64\"\ntoo_big = \"drop\"\npath_mtu = 1440")
}

/// The same with more lines in its sections.
fn with(node: &str, rest: &str) -> Plan {
    let text = format!(
        r#"
        [node]
        next_hop_mac = "00:00:de:ad:be:af"
        local_mac = "00:ff:de:ad:be:af"
        {node}
        [tunnel]
        source_v4 = "10.0.13.37"
        {rest}
    "#
    );
    parse(&text, "base").unwrap().plan
}

/// Addresses of tunnels that are opened: balanced, sent on, and this host's own.
pub const DECAPS: [&str; 4] = ["10.9.0.1", "10.9.0.2", "10.0.13.37", "fc00:9::1"];
/// Server ids that are configured.
pub const SERVER_IDS: [u32; 3] = [1022, 1024, 70_000];

/// Everything that can be configured, in one plan.
pub fn full(rng: &mut Rng, profile: &str) -> Plan {
    let rest = format!(
        r#"
        source_v6 = "fc00:2307::1337"
        path_mtu = 1440
        decap = ["ipip", "gue"]
        tcp_server_id = true
        [flows]
        new_flows_per_core = 300
        [server_ids]
        {} = "10.0.0.1"
        {} = "fc00::1"
        {} = "10.0.0.77"
        [[source_route]]
        prefix = "198.51.100.0/28"
        real = "10.0.0.3"
        [[source_route]]
        prefix = "2001:db8::/120"
        real = "fc00::2307:1"
        [[decap]]
        address = "{}"
        then = "balance"
        [[decap]]
        address = "{}"
        then = "egress"
        [[decap]]
        address = "{}"
        then = "balance"
    "#,
        SERVER_IDS[0], SERVER_IDS[1], SERVER_IDS[2], DECAPS[0], DECAPS[1], DECAPS[3]
    );
    let mut plan = with(&format!("profile = \"{profile}\""), &rest);
    plan.vips = all_vips();
    let katran = plan.profile == tandem_backends::config::Profile::Katran;
    for (n, vip) in plan.vips.iter_mut().enumerate() {
        vip.reals = reals(rng);
        for real in &mut vip.reals {
            real.encap = match rng.below(if katran { 3 } else { 10 }) {
                0 => Encap::Gue,
                3 => Encap::Gue0,
                4 => Encap::Gre,
                5 => Encap::Fou,
                6 | 7 => Encap::Geneve,
                8 => Encap::L2,
                _ => Encap::Ipip,
            };
            real.local = rng.one_in(4);
        }
        let udp = VipFlags::QUIC | VipFlags::UDP_STABLE_ROUTING | VipFlags::UDP_FLOW_MIGRATION;
        vip.flags = VipFlags::all().difference(if vip.protocol == Protocol::Udp { VipFlags::empty() } else { udp });
        let drop =
            [VipFlags::BYPASS_FLOW_TABLE, VipFlags::HASH_DPORT_ONLY, VipFlags::UDP_STABLE_ROUTING, VipFlags::NO_SOURCE_PORT];
        for (i, flag) in drop.into_iter().enumerate() {
            if (n / 2) >> i & 1 == 0 {
                vip.flags.remove(flag);
            }
        }
        if katran {
            vip.ring_size = 65_537;
        } else if n % 5 == 0 {
            vip.prefix_len = Some(if vip.address.is_ipv4() { 31 } else { 126 });
            vip.address = if vip.address.is_ipv4() { "10.200.1.2".parse().unwrap() } else { "fc00:1::".parse().unwrap() };
        }
    }
    plan.vips.dedup_by_key(|vip| (vip.address, vip.port, vip.protocol));
    plan
}

/// Every VIP that can be: both families, both protocols, wildcard ports, flags, no reals.
fn all_vips() -> Vec<Vip> {
    let mut vips = Vec::new();
    for (n, address) in ["10.200.1.1", "10.200.1.2", "10.200.1.3", "fc00:1::1", "fc00:1::2", "fc00:1::3"].iter().enumerate() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            vips.push(Vip {
                address: address.parse().unwrap(),
                port: if n % 3 == 2 { 0 } else { 80 },
                protocol,
                weighting: if n % 2 == 0 { Weighting::V2 } else { Weighting::V1 },
                ring_size: [31, 127, 1021][n % 3],
                prefix_len: None,
                encap: Encap::Ipip,
                vni: 0x10_0000 + n as u32,
                geneve_inner: if n % 2 == 0 { GeneveInner::Ip } else { GeneveInner::Ethernet },
                on_removal: OnRemoval::Reselect,
                flags: match n {
                    4 if protocol == Protocol::Udp => VipFlags::NO_SOURCE_PORT | VipFlags::BYPASS_FLOW_TABLE,
                    4 => VipFlags::BYPASS_FLOW_TABLE,
                    1 if protocol == Protocol::Udp => VipFlags::NO_SOURCE_PORT,
                    _ => VipFlags::empty(),
                },
                reals: Vec::new(),
                health: None,
            });
        }
    }
    vips
}

fn real(rng: &mut Rng) -> Real {
    let n = rng.below(40);
    let address: IpAddr = match n % 2 {
        0 => format!("10.0.0.{}", n + 1).parse().unwrap(),
        _ => format!("fc00::{:x}", n + 1).parse().unwrap(),
    };
    let state = match rng.below(8) {
        0 => RealState::Drain,
        1 => RealState::Down,
        _ => RealState::Up,
    };
    Real {
        address,
        weight: rng.below(4) as u32,
        state,
        local: false,
        encap: Encap::Ipip,
        inner_mac: Some(Mac([2, 0, 0, 0, 7, 7])),
        port: None,
    }
}

fn reals(rng: &mut Rng) -> Vec<Real> {
    let mut reals: Vec<Real> = (0..rng.below(9)).map(|_| real(rng)).collect();
    reals.sort_by_key(|r| r.address);
    reals.dedup_by_key(|r| r.address);
    reals
}

/// A first plan with every VIP.
pub fn first(rng: &mut Rng) -> Plan {
    let mut plan = base();
    plan.vips = all_vips();
    for vip in &mut plan.vips {
        vip.reals = reals(rng);
    }
    plan
}

/// A few changes to a plan.
pub fn change(rng: &mut Rng, plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    for _ in 0..=rng.below(3) {
        match rng.below(6) {
            0 if plan.vips.len() > 4 => drop(plan.vips.remove(rng.below(plan.vips.len() as u64) as usize)),
            1 => {
                let missing: Vec<Vip> =
                    all_vips().into_iter().filter(|v| !plan.vips.iter().any(|w| w.to_string() == v.to_string())).collect();
                if !missing.is_empty() {
                    let mut vip = rng.pick(&missing).clone();
                    vip.reals = reals(rng);
                    plan.vips.push(vip);
                }
            }
            _ => {
                let at = rng.below(plan.vips.len() as u64) as usize;
                let vip = &mut plan.vips[at];
                match (rng.below(3), vip.reals.is_empty()) {
                    (0, false) => drop(vip.reals.remove(rng.below(vip.reals.len() as u64) as usize)),
                    (1, false) => {
                        let at = rng.below(vip.reals.len() as u64) as usize;
                        vip.reals[at] = Real { address: vip.reals[at].address, ..real(rng) };
                    }
                    _ => vip.reals = reals(rng),
                }
            }
        }
    }
    plan
}
