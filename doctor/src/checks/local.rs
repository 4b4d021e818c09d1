//! On a real server: does the kernel take what comes out of the tunnel, and does the answer leave?

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::tunnels::{Opener, here, opener};
use crate::facts::{Answer, HostFacts, Question, Way};
use crate::finding::{Finding, or_pass};
use crate::network::Network;
use crate::setting::{Method, Setting};

/// VIPs that are asked about; a configuration may have hundreds that are treated alike.
const MOST: usize = 64;

/// Pairs of VIP and client of one family.
fn pairs(setting: &Setting) -> Vec<(IpAddr, IpAddr)> {
    let vips = setting.vips().into_iter().take(MOST);
    vips.flat_map(|vip| setting.clients_of(vip.address.is_ipv6()).into_iter().map(move |client| (vip.address, client))).collect()
}

/// The packets of this role: out of the tunnel, the outer one, and the answer.
pub(super) fn questions(facts: &HostFacts, setting: &Setting) -> Vec<Question> {
    let mut questions = Vec::new();
    for (service, real) in here(facts, setting).into_iter().take(MOST) {
        let Ok(opener) = opener(facts, setting, service, real) else { continue };
        let by = Some(opener.link().name.clone());
        for client in setting.clients_of(service.vip.address.is_ipv6()) {
            questions.push(Question { to: service.vip.address, from: Some(client), by: by.clone() });
        }
        if let Opener::Device(_) = opener {
            questions.extend(outer_questions(facts, setting, real));
        }
    }
    for (vip, client) in pairs(setting) {
        questions.push(Question { to: client, from: Some(vip), by: None });
    }
    questions
}

/// The outer packet, as the kernel's own tunnels see it.
fn outer_questions(facts: &HostFacts, setting: &Setting, real: IpAddr) -> Vec<Question> {
    let Some(own) = facts.addresses.iter().find(|own| own.address == real) else { return Vec::new() };
    let by = Some(facts.name_of(own.link).to_owned()).filter(|name| facts.link(name).is_some_and(|link| !link.loopback));
    let sources = setting.sources.iter().filter(|source| source.address.is_ipv6() == real.is_ipv6());
    sources.map(|source| Question { to: real, from: Some(sample(source)), by: by.clone() }).collect()
}

/// An address of a network that is not the network's own.
pub(crate) fn sample(network: &Network) -> IpAddr {
    match network.address {
        _ if network.is_host() => network.address,
        IpAddr::V4(v4) => IpAddr::from((u32::from(v4) | 1).to_be_bytes()),
        IpAddr::V6(v6) => IpAddr::from((u128::from(v6) | 1).to_be_bytes()),
    }
}

/// What the kernel says when it refuses.
pub(super) fn refusal(number: i32) -> String {
    let error = std::io::Error::from_raw_os_error(number).to_string();
    error.split(" (os").next().unwrap_or_default().to_owned()
}

/// D-03.
pub(super) fn taken(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let (mut findings, mut asked, mut said) = (Vec::new(), 0, BTreeSet::new());
    for (question, answer) in &facts.answers {
        let (Some(by), Some(from)) = (&question.by, question.from) else { continue };
        if !setting.vips().iter().any(|vip| vip.address == question.to) {
            continue;
        }
        asked += 1;
        let why = match answer {
            Answer::Way(way) if way.kind == "local" => continue,
            Answer::Way(way) => format!("it is not for this host: the route is `{}`", way.kind),
            Answer::Refused(number) => {
                format!("{}: no way back to the client by {by}, or the VIP is not local", refusal(*number))
            }
        };
        if said.insert(question.to) {
            findings.push(Finding::fail(format!("the kernel refuses {from} > {} from {by}: {why}", question.to)));
        }
    }
    if asked == 0 {
        return vec![Finding::skip("nobody opens the tunnels here, so nothing comes out of them")];
    }
    or_pass(findings, format!("the kernel takes all of {asked} packets out of the tunnels"))
}

/// The settings that have a reverse path filter in force on a link, as commands that switch it off.
pub(super) fn filter_off(facts: &HostFacts, link: &str) -> Vec<String> {
    let key = |device: &str| format!("net/ipv4/conf/{device}/rp_filter");
    let on = |device: &&&str| facts.setting(&key(device)).unwrap_or(0) > 0;
    ["all", link].iter().filter(on).map(|device| format!("sysctl -w net.ipv4.conf.{device}.rp_filter=0")).collect()
}

/// `all` and the device, in words.
pub(super) fn filter_words(facts: &HostFacts, link: &str) -> String {
    let of = |device: &str| facts.setting(&format!("net/ipv4/conf/{device}/rp_filter")).unwrap_or(0);
    format!("rp_filter is {} on {link} and {} on all: the larger counts", of(link), of("all"))
}

/// D-04.
pub(super) fn reverse_path(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let (mut findings, mut looked) = (Vec::new(), BTreeSet::new());
    for (service, real) in here(facts, setting) {
        let Ok(opener) = opener(facts, setting, service, real) else { continue };
        let link = &opener.link().name;
        let is_device = matches!(opener, Opener::Device(_));
        if service.vip.address.is_ipv4() && looked.insert(link.clone()) {
            let force = facts.in_force(link, "rp_filter").unwrap_or(0);
            // A filter that is not in the way is none: 2 asks only for any route, and a client may be reached by this link.
            let refused = facts.answers.iter().any(|(question, answer)| {
                question.by.as_ref() == Some(link) && question.to == service.vip.address && matches!(answer, Answer::Refused(_))
            });
            if force > 0 && (refused || is_device && force == 1) {
                let observed = format!("{}: what comes from the clients by {link} is dropped", filter_words(facts, link));
                findings.push(Finding::fail(observed).cures(filter_off(facts, link)));
            }
        }
        if is_device && real.is_ipv4() {
            for question in outer_questions(facts, setting, real) {
                let (Some(by), Some(Answer::Refused(_))) = (&question.by, facts.answer(&question)) else { continue };
                if facts.in_force(by, "rp_filter").unwrap_or(0) > 0 && looked.insert(by.clone()) {
                    let from = question.from.map_or_else(String::new, |from| from.to_string());
                    let observed = format!("{}: outer packets from {from} are dropped", filter_words(facts, by));
                    findings.push(Finding::fail(observed).cures(filter_off(facts, by)));
                }
            }
        }
    }
    if looked.is_empty() && findings.is_empty() {
        return vec![Finding::skip("no IPv4 packet comes out of a tunnel here (IPv6 has no such filter)")];
    }
    let links = Vec::from_iter(looked).join(", ");
    or_pass(findings, format!("no reverse path filter in the way on {links}; accept tunnels only from the balancers (firewall)"))
}

/// D-07.
pub(super) fn vips_are_local(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let vips: BTreeSet<Network> =
        setting.services.iter().filter(|service| service.method != Method::Nat).map(|service| service.vip).collect();
    if vips.is_empty() {
        return vec![Finding::skip("no VIP is known (--service)")];
    }
    let mut findings = Vec::new();
    for vip in &vips {
        let six = vip.ip_option();
        let own = facts.addresses.iter().find(|own| own.address == vip.address);
        if !vip.is_host() {
            let covers = |route: &&crate::facts::Route| {
                route.kind == "local" && route.to.contains(vip.address) && route.to.length <= vip.length
            };
            if !facts.routes.iter().any(|route| covers(&route)) {
                let observed = format!("no local route covers the VIP {vip}: what is addressed to it is forwarded or dropped");
                findings.push(Finding::fail(observed).cure(format!("ip {six}route add local {vip} dev lo")));
            }
            continue;
        }
        let nodad = if vip.address.is_ipv6() { " nodad" } else { "" };
        let add = format!("ip {six}addr add {vip}/{} dev lo{nodad}", vip.length);
        match own {
            None if facts.is_local(vip.address) => {}
            None => {
                let observed =
                    format!("the VIP {vip} is no address of this host: what comes out of the tunnel is forwarded or dropped");
                findings.push(Finding::fail(observed).cure(add));
            }
            Some(own) => {
                let link = facts.name_of(own.link);
                let at = format!("{vip}/{}", own.length);
                if let Some(state) = &own.state {
                    let observed =
                        format!("the VIP {vip} on {link} is {state}: another host has it, or is being asked whether it has");
                    findings.push(Finding::fail(observed).cure(format!("ip {six}addr del {at} dev {link}")).cure(add));
                } else if own.length < vip.length && !facts.link(link).is_some_and(|link| link.loopback) {
                    let observed = format!("the VIP {at} on {link} makes its whole subnet a neighbour of {link}");
                    findings.push(Finding::warn(observed).cure(format!("ip {six}addr del {at} dev {link}")).cure(add));
                }
            }
        }
    }
    or_pass(findings, format!("{} VIPs are addresses of this host", vips.len()))
}

/// The links that a balancer, or the next hop of answers, is on.
fn shared_links(facts: &HostFacts, setting: &Setting) -> BTreeSet<String> {
    let on_link = |address: IpAddr| {
        let near = |own: &&crate::facts::Address| {
            Network { address: own.address, length: own.length }.contains(address)
                && !Network { address: own.address, length: own.length }.is_host()
        };
        facts.addresses.iter().filter(near).map(|own| facts.name_of(own.link).to_owned()).collect::<Vec<_>>()
    };
    setting.balancers.iter().flat_map(|balancer| on_link(*balancer)).collect()
}

/// D-08.
pub(super) fn silent_for_vips(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    if !setting.vips().iter().any(|vip| vip.address.is_ipv4()) {
        return vec![Finding::pass("no IPv4 VIP")];
    }
    let mut links = shared_links(facts, setting);
    if setting.services.iter().any(|service| service.method == Method::L2) {
        links.extend(
            here(facts, setting)
                .iter()
                .filter_map(|(service, real)| Some(opener(facts, setting, service, *real).ok()?.link().name.clone())),
        );
    }
    if links.is_empty() {
        return vec![Finding::pass("this host shares no segment with a balancer")];
    }
    let loud = |link: &&String| facts.in_force(link, "arp_ignore").unwrap_or(0) == 0;
    let findings = links.iter().filter(loud).map(|link| {
        let observed =
            format!("arp_ignore is 0 on {link}: this host answers ARP for the VIPs on lo, and takes them from the balancer");
        Finding::fail(observed).cure("sysctl -w net.ipv4.conf.all.arp_ignore=1")
    });
    let names = Vec::from_iter(links.clone()).join(", ");
    or_pass(findings.collect(), format!("ARP for the VIPs is not answered on {names}"))
}

/// The ways of answers: VIP, client, way.
fn answers<'a>(facts: &'a HostFacts, setting: &Setting) -> Vec<(IpAddr, IpAddr, &'a Answer)> {
    let way = |(vip, client)| {
        let answer = facts.answer(&Question { to: client, from: Some(vip), by: None })?;
        Some((vip, client, answer))
    };
    pairs(setting).into_iter().filter_map(way).collect()
}

/// D-12.
pub(super) fn asks_as_itself(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (mut looked, mut said) = (0, BTreeSet::new());
    for (vip, _, answer) in answers(facts, setting) {
        let (true, Answer::Way(Way { device: Some(device), gateway, .. })) = (vip.is_ipv4(), answer) else { continue };
        looked += 1;
        if facts.in_force(device, "arp_announce").unwrap_or(0) == 2 || !said.insert(device) {
            continue;
        }
        let neighbour = facts.neighbours.iter().find(|known| Some(known.address) == *gateway && known.device == *device);
        let is_silent = neighbour.is_none_or(|known| matches!(known.state.as_str(), "failed" | "incomplete"));
        let observed =
            format!("arp_announce is not 2 on {device}: this host asks for its next hop with the VIP {vip} as the sender");
        let finding = if is_silent && gateway.is_some() {
            Finding::fail(format!("{observed}, and {} does not answer", gateway.map_or_else(String::new, |at| at.to_string())))
        } else {
            Finding::warn(format!("{observed}, which some routers do not answer"))
        };
        findings.push(finding.cure("sysctl -w net.ipv4.conf.all.arp_announce=2"));
    }
    if looked == 0 {
        return vec![Finding::skip("no IPv4 answer has a way from here")];
    }
    or_pass(findings, "this host asks with addresses of the link")
}

/// The route or rule that refuses packets from one address to another, as the command that removes it.
pub(super) fn refuser(facts: &HostFacts, from: Option<IpAddr>, to: IpAddr) -> Option<(String, String)> {
    let refuses = |kind: &str| matches!(kind, "blackhole" | "unreachable" | "prohibit");
    let is_of = |network: &Option<Network>, address: Option<IpAddr>| {
        network.is_none_or(|network| address.is_some_and(|address| network.contains(address)))
    };
    let rules = facts.rules.iter().filter(|rule| rule.v6 == to.is_ipv6() && refuses(&rule.action));
    let rule = rules.filter(|rule| is_of(&rule.from, from) && is_of(&rule.to, Some(to))).min_by_key(|rule| rule.priority);
    let six = if to.is_ipv6() { "-6 " } else { "" };
    if let Some(rule) = rule {
        let what = format!("rule {} is `{}`", rule.priority, rule.action);
        return Some((what, format!("ip {six}rule del pref {}", rule.priority)));
    }
    let covers = |route: &&crate::facts::Route| route.to.contains(to) && route.kind != "local" && route.kind != "broadcast";
    let route = facts.routes.iter().filter(covers).max_by_key(|route| route.to.length)?;
    // The kernel's own entry for what nothing else covers (IPv6) is no mistake of anybody's.
    if !refuses(&route.kind) || route.metric == u32::MAX {
        return None;
    }
    let table = if route.table == 254 { String::new() } else { format!(" table {}", route.table) };
    let to = if route.to.is_host() { route.to.to_string() } else { format!("{}/{}", route.to.address, route.to.length) };
    Some((format!("the route to {to} is `{}`", route.kind), format!("ip {six}route del {} {to}{table}", route.kind)))
}

/// D-10.
pub(super) fn answers_leave(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let (mut findings, mut ways, mut said) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for (vip, client, answer) in answers(facts, setting) {
        let refused = match answer {
            Answer::Refused(number) => refusal(*number),
            Answer::Way(way) if way.kind == "unicast" => {
                let via = way.gateway.unwrap_or(client);
                let device = way.device.clone().unwrap_or_default();
                if ways.insert((device.clone(), via))
                    && let Some(finding) = hop_is_dead(facts, &device, via)
                {
                    findings.push(finding);
                }
                continue;
            }
            Answer::Way(way) if way.kind == "local" => format!("the client {client} is an address of this host"),
            Answer::Way(way) => format!("the route is `{}`", way.kind),
        };
        let (why, cure) = match refuser(facts, Some(vip), client) {
            Some((why, cure)) => (why, Some(cure)),
            None => (refused, None),
        };
        if said.insert((vip.is_ipv6(), why.clone())) {
            findings.push(Finding::fail(format!("answers from {vip} to {client} have no way: {why}")).cures(cure));
        }
    }
    let text: Vec<String> = ways.iter().map(|(device, via)| format!("{via} by {device}")).collect();
    if text.is_empty() && findings.is_empty() {
        return vec![Finding::skip("no VIP is known (--service)")];
    }
    or_pass(findings, format!("answers leave to {}", text.join(", ")))
}

/// A next hop that cannot be reached, or whose MAC was told wrong.
pub(super) fn hop_is_dead(facts: &HostFacts, device: &str, via: IpAddr) -> Option<Finding> {
    let known = facts.neighbours.iter().find(|known| known.device == device && known.address == via)?;
    let six = if via.is_ipv6() { "-6 " } else { "" };
    let delete = format!("ip {six}neigh del {via} dev {device}");
    if known.state == "failed" {
        return Some(Finding::fail(format!("the next hop {via} does not answer on {device}")).cure(delete));
    }
    let mac = known.mac.as_deref()?;
    let owner = facts.links.iter().find(|link| link.mac.as_deref() == Some(mac) && link.name == device);
    let is_group = u8::from_str_radix(mac.get(..2)?, 16).ok()? & 1 == 1;
    let why = match owner {
        Some(link) => format!("the MAC of {} itself", link.name),
        None if is_group || mac == "00:00:00:00:00:00" => "no MAC of a single host".to_owned(),
        None => return None,
    };
    Some(Finding::fail(format!("the next hop {via} on {device} has {mac}, {why} ({})", known.state)).cure(delete))
}

/// D-35.
pub(super) fn listeners(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    if let Some(why) = facts.unread.get("listeners") {
        return vec![Finding::skip(format!("sockets cannot be listed: {why}"))];
    }
    let (mut findings, mut served, mut said) = (Vec::new(), 0, BTreeSet::new());
    let with_port =
        setting.services.iter().filter(|service| service.port != 0 && service.method != Method::Nat && service.vip.is_host());
    for service in with_port {
        let (vip, port, protocol) = (service.vip.address, service.port, service.protocol());
        let of_port: Vec<_> = facts.listeners.iter().filter(|l| l.udp == service.udp && l.port == port).collect();
        if of_port.iter().any(|listener| listener.takes(vip, port)) {
            served += 1;
            continue;
        }
        // Translated to where somebody listens, it is served, too.
        if is_translated(facts, service) {
            served += 1;
            continue;
        }
        if !said.insert((vip, port, service.udp)) {
            continue;
        }
        let elsewhere = of_port.iter().find(|l| l.address.is_ipv6() == vip.is_ipv6() && !l.address.is_loopback());
        let Some(elsewhere) = elsewhere else {
            let observed =
                format!("nobody listens on {protocol} {}: start the service, on the VIP or on every address", service.at());
            findings.push(Finding::fail(observed));
            continue;
        };
        let observed = format!(
            "{protocol} {port} is served on {}, not on {vip}: let the service listen on the VIP or on every address",
            elsewhere.address
        );
        let family = if vip.is_ipv6() { "ip6" } else { "ip" };
        let to = if vip.is_ipv6() { format!("[{}]", elsewhere.address) } else { elsewhere.address.to_string() };
        findings.push(
            Finding::fail(observed)
                .cure(format!("nft add table {family} tandem-doctor"))
                .cure(format!("nft 'add chain {family} tandem-doctor vips {{ type nat hook prerouting priority dstnat; }}'"))
                .cure(format!(
                    "nft add rule {family} tandem-doctor vips {family} daddr {vip} {protocol} dport {port} dnat to {to}"
                )),
        );
    }
    if served == 0 && findings.is_empty() {
        return vec![Finding::skip("no service with a port is known (--service)")];
    }
    or_pass(findings, format!("{served} services are listened for"))
}

/// Whether a rule of the packet filter gives a service another destination: the rule names VIP and port.
fn is_translated(facts: &HostFacts, service: &crate::setting::Service) -> bool {
    use crate::facts::Step;
    let address = match service.vip.address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let compares = |steps: &[Step], wanted: &[u8]| {
        steps.iter().any(|step| matches!(step, Step::Compare { how: 0, value, .. } if value == wanted))
    };
    facts.filter.chains.iter().flat_map(|chain| &chain.rules).any(|rule| {
        rule.steps.iter().any(|step| matches!(step, Step::Other(name) if name == "nat" || name == "redir"))
            && compares(&rule.steps, &address)
            && compares(&rule.steps, &service.port.to_be_bytes())
    })
}
