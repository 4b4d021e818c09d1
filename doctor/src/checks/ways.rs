//! On the balancer: the ways to the reals.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::local::{hop_is_dead, refusal, refuser};
use crate::facts::{Answer, HostFacts, Question, Way};
use crate::finding::{Finding, or_pass};
use crate::setting::{Balancer, Method, Setting};

/// The reals.
pub(super) fn questions(setting: &Setting) -> Vec<Question> {
    setting.reals().into_iter().map(|real| Question { to: real, from: None, by: None }).collect()
}

fn ways<'a>(facts: &'a HostFacts, setting: &Setting) -> Vec<(IpAddr, &'a Answer)> {
    let way = |real| Some((real, facts.answer(&Question { to: real, from: None, by: None })?));
    setting.reals().into_iter().filter_map(way).collect()
}

fn unconfigured() -> Vec<Finding> {
    vec![Finding::skip("no configuration (-c FILE)")]
}

/// A command that takes a key out of the configuration; the balancer has to be started again, or reloaded.
pub(super) fn without_key(balancer: &Balancer, key: &str) -> String {
    format!("sed -i '/^ *{key} *=/d' {}", balancer.file)
}

/// D-33.
pub(super) fn next_hop(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let Some(balancer) = &setting.balancer else { return unconfigured() };
    let (mut findings, mut hops) = (Vec::new(), BTreeSet::new());
    let own =
        |mac: &str| facts.links.iter().find(|link| balancer.interfaces.contains(&link.name) && link.mac.as_deref() == Some(mac));
    for (real, answer) in ways(facts, setting) {
        let Answer::Way(Way { device: Some(device), gateway, kind, .. }) = answer else { continue };
        let via = gateway.unwrap_or(real);
        if kind != "unicast" || !hops.insert((device.clone(), via)) {
            continue;
        }
        let known = facts.neighbours.iter().find(|known| known.device == *device && known.address == via);
        let known = known.and_then(|known| known.mac.as_deref());
        match (&balancer.next_hop_mac, known) {
            (None, _) => findings.extend(hop_is_dead(facts, device, via)),
            (Some(configured), Some(known)) if configured != known && own(configured).is_none() && hops.len() == 1 => {
                let observed =
                    format!("node.next_hop_mac is {configured}, and the next hop {via} has {known}: nobody takes the frames");
                findings.push(Finding::fail(observed).cure(without_key(balancer, "next_hop_mac")));
            }
            _ => {}
        }
    }
    if let Some(mac) = &balancer.next_hop_mac {
        let is_group = mac.get(..2).and_then(|first| u8::from_str_radix(first, 16).ok()).is_none_or(|first| first & 1 == 1);
        let why = own(mac).map(|link| format!("the MAC of {} itself: frames come back", link.name));
        if let Some(why) = why.or_else(|| is_group.then(|| "no MAC of a single host".to_owned())) {
            findings
                .push(Finding::fail(format!("node.next_hop_mac is {mac}, {why}")).cure(without_key(balancer, "next_hop_mac")));
        }
    }
    if let Some(mac) = balancer.local_mac.as_ref().filter(|mac| own(mac).is_none()) {
        findings.push(Finding::warn(format!(
            "node.local_mac is {mac}, which is no MAC of {}: switches learn it from the frames, and send answers elsewhere",
            balancer.interfaces.join(", ")
        )));
    }
    let text: Vec<String> = hops.iter().map(|(device, via)| format!("{via} by {device}")).collect();
    or_pass(findings, format!("next hops: {}", if text.is_empty() { "none".to_owned() } else { text.join(", ") }))
}

/// D-34.
pub(super) fn vip_is_not_local(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let probes = setting.balancer.as_ref().is_some_and(|balancer| !balancer.marks.is_empty());
    let mut findings = Vec::new();
    for own in &facts.addresses {
        let Some(vip) = setting.vips().into_iter().find(|vip| vip.is_host() && vip.address == own.address) else { continue };
        let link = facts.name_of(own.link);
        let observed = format!("the VIP {vip} is an address of this host ({link})");
        let finding = if probes {
            Finding::fail(format!("{observed}: probes to it end here, and never reach a real"))
        } else {
            Finding::warn(format!("{observed}: what the balancer passes on, and this host's own packets to it, end here"))
        };
        findings.push(finding.cure(format!("ip {}addr del {vip}/{} dev {link}", vip.ip_option(), own.length)));
    }
    or_pass(findings, "no VIP is an address of this host")
}

/// D-49.
pub(super) fn reals_are_reached(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let Some(balancer) = &setting.balancer else { return unconfigured() };
    let (mut findings, mut reached) = (Vec::new(), 0);
    for (real, answer) in ways(facts, setting) {
        let methods: BTreeSet<Method> =
            setting.services.iter().filter(|s| s.reals.contains(&real)).map(|service| service.method).collect();
        let way = match answer {
            Answer::Way(way) if way.kind == "unicast" => way,
            _ if balancer.next_hop_mac.is_some() => continue,
            Answer::Way(way) if way.kind == "local" => {
                findings.push(Finding::fail(format!("the real {real} is an address of the balancer itself")));
                continue;
            }
            other => {
                let number = match other {
                    Answer::Refused(number) => refusal(*number),
                    Answer::Way(way) => format!("the route is `{}`", way.kind),
                };
                let (why, cure) = refuser(facts, None, real).map_or((number, None), |(why, cure)| (why, Some(cure)));
                findings.push(Finding::fail(format!("there is no way to the real {real}: {why}")).cures(cure));
                continue;
            }
        };
        reached += 1;
        let device = way.device.clone().unwrap_or_default();
        if methods.contains(&Method::L2)
            && let Some(gateway) = way.gateway
        {
            let observed = format!(
                "the real {real} is behind the router {gateway}, and `l2` reaches only what is on the balancer's own links: use a tunnel"
            );
            findings
                .push(Finding::fail(observed).cure(format!("sed -i 's/encap *= *\"l2\"/encap = \"ipip\"/' {}", balancer.file)));
        }
        let below = facts.link(&device).and_then(|link| link.vlan.and(link.below)).map(|index| facts.name_of(index));
        let is_ours = |name: &str| balancer.interfaces.iter().any(|interface| interface == name);
        if !is_ours(&device) && !below.is_some_and(is_ours) && balancer.next_hop_mac.is_none() {
            findings.push(Finding::fail(format!(
                "the way to the real {real} leaves by {device}, which is neither an interface of the configuration ({}) nor a VLAN of one",
                balancer.interfaces.join(", ")
            )));
        }
    }
    or_pass(findings, format!("{reached} reals have a way"))
}

/// D-44.
pub(super) fn mtu(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let Some(balancer) = &setting.balancer else { return unconfigured() };
    let packet = balancer.max_frame.saturating_sub(14);
    let mut narrow: BTreeMap<(String, u32, bool), (u32, IpAddr, usize)> = BTreeMap::new();
    for (real, answer) in ways(facts, setting) {
        let Answer::Way(Way { device: Some(device), mtu, .. }) = answer else { continue };
        let Some(link) = facts.link(device) else { continue };
        let by_route = mtu.filter(|mtu| *mtu > 0 && *mtu < link.mtu);
        let mtu = balancer.path_mtu.map_or(by_route.unwrap_or(link.mtu), |most| most.min(link.mtu));
        let overhead =
            setting.services.iter().filter(|service| service.reals.contains(&real)).map(|service| service.overhead(real)).max();
        let needed = packet + overhead.unwrap_or(0);
        if mtu < needed {
            let entry = narrow.entry((device.clone(), mtu, by_route.is_some())).or_insert((needed, real, 0));
            entry.0 = entry.0.max(needed);
            entry.2 += 1;
        }
    }
    let mut findings = Vec::new();
    for ((device, mtu, by_route), (needed, real, count)) in narrow {
        let headers = needed - packet;
        let fits = mtu.saturating_sub(headers);
        let observed = format!(
            "the way to {count} reals ({real}) by {device} has MTU {mtu}, and packets of {packet} bytes need {needed} with {headers} bytes of outer \
             headers"
        );
        let cure = if by_route { None } else { Some(format!("ip link set {device} mtu {needed}")) };
        findings.push(if balancer.tells_too_big {
            Finding::warn(format!("{observed}: clients are told to send at most {fits}")).cures(cure)
        } else {
            Finding::fail(format!("{observed}: larger ones are dropped, and nobody is told (tunnel.too_big = \"drop\")"))
                .cures(cure)
        });
    }
    or_pass(findings, format!("packets of {packet} bytes fit with their outer headers"))
}
