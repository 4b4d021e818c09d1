//! Packets that have to get through, and the packet filter.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::local::sample;
use super::packet::{FORWARD, INPUT, POSTROUTING, PREROUTING, Packet, run};
use super::tunnels::{Opener, here, opener};
use crate::facts::{Filter, HostFacts, Step};
use crate::finding::{Finding, or_pass};
use crate::setting::{Method, Role, Service, Setting};

/// Port of a client that nobody has told apart.
const CLIENT_PORT: u16 = 40_000;

fn ports(to: u16) -> Vec<u8> {
    let mut header = [CLIENT_PORT.to_be_bytes(), to.to_be_bytes()].concat();
    header.resize(20, 0);
    // Of TCP: a SYN.
    header[12..14].copy_from_slice(&[0x50, 0x02]);
    header
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "ip6" } else { "ip" }
}

/// The tunnel packets to a real.
fn outer(service: &Service, real: IpAddr, setting: &Setting) -> Option<Packet> {
    let source = setting.sources.iter().find(|source| source.address.is_ipv6() == real.is_ipv6())?;
    let inner = if service.vip.address.is_ipv6() { 41 } else { 4 };
    let (protocol, port) = match service.method {
        Method::Ipip => (inner, None),
        Method::Gre => (47, None),
        Method::Gue | Method::Gue0 => (17, Some(setting.ports.gue)),
        Method::Geneve => (17, Some(setting.ports.geneve)),
        Method::Fou if inner == 41 => (17, Some(setting.ports.fou_v6)),
        Method::Fou => (17, Some(setting.ports.fou_v4)),
        Method::L2 | Method::Nat => return None,
    };
    let (ip, what) = (family(real), format!("{} from {source} to {real}", service.method));
    let matched = port.map_or_else(|| format!("meta l4proto {protocol}"), |port| format!("udp dport {port}"));
    let rule = format!("{ip} saddr {source} {ip} daddr {real} {matched} accept");
    Some(Packet { what, rule, from: sample(source), to: real, protocol, transport: ports(port.unwrap_or(0)), by: None })
}

/// The client's own packets to a VIP.
fn inner(service: &Service, client: IpAddr) -> Packet {
    let (vip, port) = (service.vip.address, if service.port == 0 { 80 } else { service.port });
    let (protocol, name) = if service.udp { (17, "udp") } else { (6, "tcp") };
    let rule = format!("{} daddr {} {name} dport {port} accept", family(vip), service.vip);
    Packet {
        what: format!("{name} from {client} to {vip}:{port}"),
        rule,
        from: client,
        to: vip,
        protocol,
        transport: ports(port),
        by: None,
    }
}

/// The answers of a VIP.
fn answer(service: &Service, client: IpAddr) -> Packet {
    let (vip, port) = (service.vip.address, if service.port == 0 { 80 } else { service.port });
    let (protocol, name) = if service.udp { (17, "udp") } else { (6, "tcp") };
    let mut transport = ports(CLIENT_PORT);
    transport[..2].copy_from_slice(&port.to_be_bytes());
    let rule = format!("{} saddr {} {name} sport {port} accept", family(vip), service.vip);
    Packet {
        what: format!("{name} answers of {vip}:{port} to {client}"),
        rule,
        from: vip,
        to: client,
        protocol,
        transport,
        by: None,
    }
}

/// ICMP that tells a client of a smaller MTU.
fn too_big(from: IpAddr, client: IpAddr) -> Packet {
    let (protocol, kind, rule) = if client.is_ipv6() {
        (58, [2, 0], "icmpv6 type packet-too-big accept")
    } else {
        (1, [3, 4], "icmp type destination-unreachable accept")
    };
    let transport = [&kind[..], &[0; 18]].concat();
    let what = format!("ICMP \"packet too big\" to {client}");
    Packet { what, rule: rule.to_owned(), from, to: client, protocol, transport, by: None }
}

/// Where packets of a kind pass the filter of this role.
fn through(facts: &HostFacts, packets: &[(Packet, &[u32])]) -> (Vec<Finding>, Option<String>) {
    let (mut findings, mut said, mut vague): (Vec<Finding>, Vec<(String, Option<u64>)>, _) = (Vec::new(), Vec::new(), None);
    for (packet, hooks) in packets {
        let Some(culprit) = run(&facts.filter, packet, hooks) else { continue };
        let chain = format!("{} {} {}", culprit.base.family, culprit.base.table, culprit.base.name);
        let rule = culprit
            .handle
            .map_or_else(|| "its default".to_owned(), |handle| format!("rule {handle}{}", counted(&facts.filter, handle)));
        let cure = format!("nft insert rule {chain} {}", packet.rule);
        let culprits = (chain.clone(), culprit.handle);
        if !culprit.is_certain {
            vague = vague.or_else(|| Some(format!("{rule} of {chain} asks for more than is known of {}", packet.what)));
        } else if let Some(finding) = said.iter().position(|said| *said == culprits).and_then(|at| findings.get_mut(at)) {
            finding.cures.push(cure);
        } else {
            said.push(culprits);
            findings.push(Finding::fail(format!("nft {chain}: {rule} drops {}", packet.what)).cure(cure));
        }
    }
    (findings, vague)
}

fn counted(filter: &Filter, handle: u64) -> String {
    let rule = filter.chains.iter().flat_map(|chain| &chain.rules).find(|rule| rule.handle == handle);
    let count = rule
        .and_then(|rule| rule.steps.iter().find_map(|step| if let Step::Counter(count) = step { Some(*count) } else { None }));
    count.map_or_else(String::new, |count| format!(" ({count} packets so far)"))
}

fn conclude(facts: &HostFacts, packets: &[(Packet, &[u32])], passed: &str) -> Vec<Finding> {
    if let Some(why) = facts.unread.get("filter") {
        return vec![Finding::skip(format!("the packet filter cannot be read: {why}"))];
    }
    let (findings, vague) = through(facts, packets);
    if findings.is_empty() {
        if let Some(vague) = vague {
            return vec![Finding::skip(format!("not known: {vague}"))];
        }
        if !facts.filter.legacy.is_empty() {
            let tables = facts.filter.legacy.join(", ");
            return vec![Finding::skip(format!(
                "nf_tables drops nothing of it; rules of the old tables ({tables}) are not read: iptables-save -c"
            ))];
        }
    }
    or_pass(findings, format!("{passed} ({} chains read)", facts.filter.chains.len()))
}

/// D-11.
pub(super) fn passes(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    const LOCAL: &[u32] = &[PREROUTING, INPUT];
    const ACROSS: &[u32] = &[PREROUTING, FORWARD, POSTROUTING];
    let mut packets: Vec<(Packet, &[u32])> = Vec::new();
    for service in &setting.services {
        let client = setting.clients_of(service.vip.address.is_ipv6()).first().copied();
        let tunnels = service.reals.iter().filter_map(|real| outer(service, *real, setting));
        match setting.role {
            Role::Router => {
                packets.extend(tunnels.map(|packet| (packet, ACROSS)));
                packets.extend(client.map(|client| (inner(service, client), ACROSS)));
                packets.extend(client.map(|client| (answer(service, client), ACROSS)));
            }
            Role::Real => {
                let opened = here(facts, setting).into_iter().find(|(of, _)| *of == service);
                let opener = opened.and_then(|(_, real)| opener(facts, setting, service, real).ok());
                // What `tandem decap` takes off never reaches the filter with its tunnel.
                if !matches!(opener, Some(Opener::Program(_) | Opener::Nobody(_))) {
                    packets.extend(tunnels.map(|packet| (packet, LOCAL)));
                }
                packets.extend(client.map(|client| {
                    let by = opener.map(|opener| opener.link().name.clone());
                    (Packet { by, ..inner(service, client) }, LOCAL)
                }));
                packets.extend(client.map(|client| (answer(service, client), &[3, POSTROUTING][..])));
            }
            Role::Client => packets.extend(client.map(|client| (answer(service, client), LOCAL))),
            Role::Lb => {}
        }
    }
    if packets.is_empty() {
        return vec![Finding::skip("no service is known (--service)")];
    }
    conclude(facts, &packets, &format!("the packet filter passes all of {} kinds of packets", packets.len()))
}

/// D-45.
pub(super) fn errors_pass(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let hooks: &[u32] = if setting.role == Role::Client { &[PREROUTING, INPUT] } else { &[PREROUTING, FORWARD, POSTROUTING] };
    let pairs: BTreeSet<(IpAddr, IpAddr)> = setting
        .services
        .iter()
        .flat_map(|service| {
            let vip = service.vip.address;
            setting.clients_of(vip.is_ipv6()).into_iter().map(move |client| (vip, client))
        })
        .collect();
    let packets: Vec<(Packet, &[u32])> = pairs.into_iter().map(|(vip, client)| (too_big(vip, client), hooks)).collect();
    if packets.is_empty() {
        return vec![Finding::skip("no service is known (--service)")];
    }
    conclude(facts, &packets, "ICMP \"packet too big\" gets through")
}
