//! On a router: the ways of VIPs, tunnels and answers.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::local::{filter_off, filter_words, hop_is_dead, refusal, refuser, sample};
use crate::facts::{Answer, HostFacts, Question, Route, Way};
use crate::finding::{Finding, or_pass};
use crate::network::Network;
use crate::setting::{Method, Setting};

fn to(to: IpAddr) -> Question {
    Question { to, from: None, by: None }
}

/// The device towards an address.
fn device(facts: &HostFacts, towards: IpAddr) -> Option<String> {
    match facts.answer(&to(towards)) {
        Some(Answer::Way(way)) if way.kind == "unicast" => way.device.clone(),
        _ => None,
    }
}

/// First the ways to all; when these are known, the packets that are forwarded, with the devices they come by.
pub(super) fn questions(facts: &HostFacts, setting: &Setting) -> Vec<Question> {
    let mut questions: Vec<Question> = setting.vips().into_iter().map(|vip| to(sample(&vip))).collect();
    let families = [false, true].map(|v6| setting.vips().iter().any(|vip| vip.address.is_ipv6() == v6));
    let clients: Vec<IpAddr> =
        [false, true].into_iter().zip(families).filter(|(_, any)| *any).flat_map(|(v6, _)| setting.clients_of(v6)).collect();
    questions.extend(setting.reals().into_iter().chain(setting.balancers.iter().copied()).chain(clients).map(to));
    questions.extend(forwarded(facts, setting).into_iter().map(|(_, question)| question));
    questions
}

/// What passes this router: in words, and as questions.
fn forwarded(facts: &HostFacts, setting: &Setting) -> Vec<(String, Question)> {
    let mut found = Vec::new();
    let mut add = |what: String, to: IpAddr, from: IpAddr, by: Option<String>| {
        if let Some(by) = by {
            found.push((what, Question { to, from: Some(from), by: Some(by) }));
        }
    };
    for service in &setting.services {
        for real in &service.reals {
            if service.method.is_tunnel() {
                for source in setting.sources.iter().filter(|source| source.address.is_ipv6() == real.is_ipv6()) {
                    let towards = setting.balancers.iter().find(|balancer| balancer.is_ipv6() == real.is_ipv6());
                    let by = towards.and_then(|balancer| device(facts, *balancer));
                    add(format!("tunnels from {source}"), *real, sample(source), by);
                }
            }
            if service.method != Method::Nat {
                let vip = sample(&service.vip);
                for client in setting.clients_of(vip.is_ipv6()) {
                    add(format!("answers from the VIP {}", service.vip), client, vip, device(facts, *real));
                }
            }
        }
    }
    found
}

/// D-30.
pub(super) fn leads_to_balancer(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    if setting.vips().is_empty() {
        return vec![Finding::skip("no VIP is known (--service)")];
    }
    let mut findings = Vec::new();
    for (v6, path) in [(false, "net/ipv4/ip_forward"), (true, "net/ipv6/conf/all/forwarding")] {
        if setting.vips().iter().any(|vip| vip.address.is_ipv6() == v6) && facts.setting(path) == Some(0) {
            let key = path.replace('/', ".");
            findings.push(Finding::fail(format!("{key} is 0: this host forwards nothing")).cure(format!("sysctl -w {key}=1")));
        }
    }
    let mut hops = BTreeSet::new();
    for vip in setting.vips() {
        let Some(answer) = facts.answer(&to(sample(&vip))) else { continue };
        findings.extend(vip_way(facts, setting, &vip, answer, &mut hops));
    }
    or_pass(findings, format!("VIPs go to {}", Vec::from_iter(hops).join(", ")))
}

/// The entry of the route tables that a VIP is sent by.
fn entry<'f>(facts: &'f HostFacts, vip: &Network) -> Option<&'f Route> {
    facts
        .routes
        .iter()
        .filter(|route| route.to.contains(vip.address))
        .max_by_key(|route| (route.kind == "local", route.to.length))
}

fn vip_way(facts: &HostFacts, setting: &Setting, vip: &Network, answer: &Answer, hops: &mut BTreeSet<String>) -> Vec<Finding> {
    let six = vip.ip_option();
    let balancer = setting.balancers.iter().find(|balancer| balancer.is_ipv6() == vip.address.is_ipv6());
    let replace = balancer.map(|balancer| format!("ip {six}route replace {vip} via {balancer}"));
    let known: Vec<String> = setting.balancers.iter().map(IpAddr::to_string).collect();
    let way = match answer {
        Answer::Way(way) if way.kind == "unicast" => way,
        Answer::Way(way) if way.kind == "local" => return vec![ends_here(facts, vip).cures(replace)],
        other => {
            let number = if let Answer::Refused(number) = other { refusal(*number) } else { "refused".to_owned() };
            let (why, cure) = refuser(facts, None, vip.address).map_or((number, None), |(why, cure)| (why, Some(cure)));
            return vec![Finding::fail(format!("the VIP {vip} has no way: {why}")).cures(cure).cures(replace)];
        }
    };
    // The kernel tells one next hop of several: the entry has them all.
    let all = entry(facts, vip).map(|route| route.hops.clone()).filter(|hops| hops.len() > 1);
    let all = all.unwrap_or_else(|| vec![(way.device.clone(), way.gateway)]);
    let mut findings = Vec::new();
    for (device, gateway) in all {
        let device = device.unwrap_or_default();
        let Some(gateway) = gateway else {
            let observed =
                format!("the VIP {vip} is sent straight onto {device}: no balancer answers ARP for it, and whoever does gets it");
            findings.push(Finding::fail(observed).cures(replace.clone()));
            continue;
        };
        hops.insert(gateway.to_string());
        if facts.addresses.iter().any(|own| own.address == gateway) {
            findings.push(
                Finding::fail(format!("the VIP {vip} goes via {gateway}, which is this router itself")).cures(replace.clone()),
            );
        } else if !setting.balancers.is_empty() && !setting.balancers.contains(&gateway) {
            let observed = format!("the VIP {vip} goes via {gateway}, which is no balancer: those are {}", known.join(", "));
            findings.push(Finding::fail(observed).cures(replace.clone()));
        } else {
            findings.extend(hop_is_dead(facts, &device, gateway));
        }
    }
    findings
}

/// The VIP is this router's own: an address, or a local route.
fn ends_here(facts: &HostFacts, vip: &Network) -> Finding {
    let six = vip.ip_option();
    match facts.addresses.iter().find(|own| own.address == vip.address) {
        Some(own) => {
            let link = facts.name_of(own.link);
            Finding::fail(format!("the VIP {vip} is an address of this router ({link})"))
                .cure(format!("ip {six}addr del {vip}/{} dev {link}", own.length))
        }
        None => Finding::fail(format!("a local route keeps the VIP {vip} on this router"))
            .cure(format!("ip {six}route del local {vip}")),
    }
}

/// D-32.
pub(super) fn reverse_path(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let (mut findings, mut said, mut asked) = (Vec::new(), BTreeSet::new(), 0);
    for (what, question) in forwarded(facts, setting) {
        let (Some(answer), Some(by)) = (facts.answer(&question), &question.by) else { continue };
        asked += 1;
        let Answer::Refused(_) = answer else { continue };
        // IPv6 has no such setting; what it refuses has no way at all, which is another check's.
        if question.to.is_ipv4() && facts.in_force(by, "rp_filter").unwrap_or(0) > 0 && said.insert(by.clone()) {
            let observed = format!("{what} come by {by}, and leave by another way: {}", filter_words(facts, by));
            findings.push(Finding::fail(observed).cures(filter_off(facts, by)));
        }
    }
    if asked == 0 {
        return vec![Finding::skip(
            "no tunnel and no answer is known that passes this router (--service …,real=…, --source, --balancer)",
        )];
    }
    or_pass(findings, format!("{asked} ways of tunnels and answers are not refused for where they come from"))
}

/// D-57.
pub(super) fn several_balancers(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let mut findings = Vec::new();
    for vip in setting.vips() {
        let Some(route) = entry(facts, &vip).filter(|route| route.hops.len() > 1) else { continue };
        let missing: Vec<String> = setting
            .balancers
            .iter()
            .filter(|balancer| balancer.is_ipv6() == vip.address.is_ipv6())
            .filter(|balancer| !route.hops.iter().any(|(_, gateway)| gateway.as_ref() == Some(balancer)))
            .map(IpAddr::to_string)
            .collect();
        if !missing.is_empty() {
            findings.push(Finding::warn(format!(
                "the VIP {vip} is spread over {} next hops, without {}",
                route.hops.len(),
                missing.join(", ")
            )));
        }
        let policy =
            if vip.address.is_ipv6() { "net/ipv6/fib_multipath_hash_policy" } else { "net/ipv4/fib_multipath_hash_policy" };
        if facts.setting(policy) == Some(0) {
            let key = policy.replace('/', ".");
            let observed =
                format!("the VIP {vip} is spread by addresses alone ({key} = 0): a client's flows all go to one balancer");
            findings.push(Finding::warn(observed).cure(format!("sysctl -w {key}=1")));
        }
    }
    or_pass(findings, "no VIP is spread over several next hops, or all of them are balancers and the flows are spread")
}

/// The devices towards the balancers.
pub(super) fn ports_to_balancers(facts: &HostFacts, setting: &Setting) -> BTreeSet<String> {
    let of_vips = setting.vips().into_iter().filter_map(|vip| match facts.answer(&to(sample(&vip))) {
        Some(Answer::Way(Way { device: Some(device), kind, .. })) if kind == "unicast" => Some(device.clone()),
        _ => None,
    });
    let ports: BTreeSet<String> =
        setting.balancers.iter().filter_map(|balancer| device(facts, *balancer)).chain(of_vips).collect();
    // Of a bridge: its ports, of which one is the balancer's. The neighbour's MAC does not tell which.
    let ports_of = |name: &String| {
        let bridge = facts.link(name).filter(|link| link.kind == "bridge").map(|link| link.index);
        bridge.map_or_else(
            || vec![name.clone()],
            |bridge| facts.links.iter().filter(|link| link.master == Some(bridge)).map(|link| link.name.clone()).collect(),
        )
    };
    // Of a VLAN: what it is on.
    let below = |name: String| {
        let below = facts.link(&name).filter(|link| link.kind == "vlan").and_then(|link| link.below);
        below.map_or(name, |index| facts.name_of(index).to_owned())
    };
    ports.iter().flat_map(ports_of).map(below).collect()
}
