//! Outer sources of the tunnels, and addresses that only the host can supply.

use std::net::IpAddr;

use crate::facts::{Address, HostFacts};
use crate::finding::{Finding, or_pass};
use crate::network::Network;
use crate::setting::Setting;

/// D-01.
pub(super) fn source_is_no_vip(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let file = setting.balancer.as_ref().map_or("the configuration", |balancer| balancer.file.as_str());
    let mut findings = Vec::new();
    for source in &setting.sources {
        if source.is_host() && source.address.is_unspecified() {
            findings.push(Finding::fail("the outer source is unspecified: no real takes that"));
        }
        for vip in setting.vips().iter().filter(|vip| vip.overlaps(source)) {
            let what = if source.is_host() { "outer source" } else { "pool of outer sources" };
            let observed = format!(
                "the {what} {source} has the VIP {vip} in it: the reals have the VIP themselves, and drop packets that seem to come from it \
                 (martian source)"
            );
            let v6 = source.address.is_ipv6();
            let (key, family) = (if source.is_host() { "source" } else { "source_prefix" }, if v6 { "v6" } else { "v4" });
            let own = facts.addresses.iter().find(|own| {
                own.address.is_ipv6() == v6
                    && !own.address.is_loopback()
                    && !is_link_local(own.address)
                    && !vip.contains(own.address)
            });
            let finding = Finding::fail(observed);
            findings.push(match own {
                Some(own) if source.is_host() => {
                    finding.cure(format!("sed -i 's|^{key}_{family} *=.*|{key}_{family} = \"{}\"|' {file}", own.address))
                }
                _ => finding.cure(format!("sed -i '/^{key}_{family} *=/d' {file}")),
            });
        }
    }
    if setting.sources.is_empty() {
        return vec![Finding::pass("the interface's own address is the outer source")];
    }
    or_pass(findings, "no outer source is a VIP")
}

pub(super) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// D-02.
pub(super) fn sources_are_strange(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    if setting.sources.is_empty() {
        return vec![Finding::skip("no outer source is known (--source)")];
    }
    let (mut findings, mut warnings) = (Vec::new(), Vec::new());
    for source in &setting.sources {
        for own in &facts.addresses {
            let (link, alone) = (facts.name_of(own.link), Network::host(own.address));
            let subnet = Network { address: own.address, length: own.length };
            if source.overlaps(&alone) {
                let of = if source.is_host() {
                    format!(
                        "the outer source {source} is an address of this host ({link}): every tunnel packet is dropped as a martian"
                    )
                } else {
                    format!(
                        "{} ({link}) is in the pool of outer sources {source}: the flows that are given this source vanish, always the same ones",
                        own.address
                    )
                };
                let six = alone.ip_option();
                findings.push(Finding::fail(of).cure(format!(
                    "ip {six}addr del {subnet_text} dev {link}",
                    subnet_text = with_length(own.address, own.length)
                )));
            } else if !source.is_host() && source.overlaps(&subnet) && !subnet.is_host() {
                warnings.push(Finding::warn(format!(
                    "the subnet of {link}, {}, and the pool of outer sources {source} overlap: its broadcast address and hosts that get an \
                     address there cost flows",
                    with_length(own.address, own.length)
                )));
            }
        }
    }
    findings.extend(warnings);
    or_pass(findings, "no outer source is an address of this host")
}

fn with_length(address: IpAddr, length: u8) -> String {
    format!("{address}/{length}")
}

/// D-36.
pub(super) fn probes_look_like_data(_: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let Some(balancer) = setting.balancer.as_ref().filter(|balancer| !balancer.marks.is_empty()) else {
        return vec![Finding::pass("no probes are encapsulated")];
    };
    let findings = balancer.pools.iter().map(|pool| {
        let family = if pool.address.is_ipv6() { "v6" } else { "v4" };
        Finding::warn(format!(
            "probes have the plain outer source, data those of {pool}: a firewall may pass one and drop the other; let it pass both, or set \
             no tunnel.source_prefix_{family}"
        ))
        .cure(super::ways::without_key(balancer, &format!("source_prefix_{family}")))
    });
    or_pass(findings.collect(), "probes and data have the same outer source")
}

/// Whether an address of this host's can be the outer source for a family: no VIP, and known beyond the link.
fn is_source(setting: &Setting, own: &Address, v6: bool) -> bool {
    let is_vip = setting.vips().iter().any(|vip| vip.contains(own.address));
    own.address.is_ipv6() == v6 && !is_link_local(own.address) && !own.address.is_loopback() && !is_vip
}

/// D-48.
pub(super) fn host_has_sources(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let Some(balancer) = &setting.balancer else { return vec![Finding::skip("no configuration (-c FILE)")] };
    let mut findings = Vec::new();
    for (needed, v6) in [(balancer.needs_source_v4, false), (balancer.needs_source_v6, true)] {
        let Some(interface) = balancer.interfaces.first().filter(|_| needed) else { continue };
        let Some(link) = facts.link(interface) else { continue };
        if !facts.addresses.iter().any(|own| own.link == link.index && is_source(setting, own, v6)) {
            let (family, key) = if v6 { ("IPv6", "source_v6") } else { ("IPv4", "source_v4") };
            let observed = format!(
                "{interface} has no {family} address, and there are {family} reals: tunnels and probes would have no source; give it one (`ip addr \
                 add`), or set tunnel.{key}"
            );
            let other = facts.addresses.iter().find(|own| is_source(setting, own, v6)).map(|own| own.address);
            let file = &balancer.file;
            let cures = other.map(|address| {
                [
                    format!("grep -q '^\\[tunnel\\]' {file} || echo '[tunnel]' >> {file}"),
                    format!("sed -i '/^\\[tunnel\\]/a {key} = \"{address}\"' {file}"),
                ]
            });
            findings.push(Finding::fail(observed).cures(cures.into_iter().flatten()));
        }
    }
    or_pass(findings, "every family that is needed has a source")
}
