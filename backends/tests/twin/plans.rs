//! A plan that changes: VIPs and reals come and go, drain, go down, change weight.

use std::net::IpAddr;

use tandem_backends::config::{Encap, Plan, Protocol, Real, RealState, Vip, VipFlags, Weighting, parse};

use crate::frames::Rng;

/// Everything but VIPs.
fn base() -> Plan {
    let text = r#"
        [node]
        next_hop_mac = "00:00:de:ad:be:af"
        local_mac = "00:ff:de:ad:be:af"
        [tunnel]
        source_v4 = "10.0.13.37"
        source_prefix_v6 = "100::/64"
    "#;
    parse(text, "base").unwrap().plan
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
                flags: match n {
                    4 if protocol == Protocol::Udp => VipFlags::NO_SOURCE_PORT | VipFlags::BYPASS_FLOW_TABLE,
                    4 => VipFlags::BYPASS_FLOW_TABLE,
                    1 if protocol == Protocol::Udp => VipFlags::NO_SOURCE_PORT,
                    _ => VipFlags::empty(),
                },
                reals: Vec::new(),
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
    Real { address, weight: rng.below(4) as u32, state, local: false, encap: Encap::Ipip }
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
