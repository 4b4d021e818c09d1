//! On the balancer: cards, processors, and what the process may do.

use crate::facts::HostFacts;
use crate::finding::{Finding, or_pass};
use crate::setting::{Balancer, Setting};

fn unconfigured() -> Vec<Finding> {
    vec![Finding::skip("no configuration (-c FILE)")]
}

fn interfaces(balancer: &Balancer) -> impl Iterator<Item = &String> {
    balancer.interfaces.iter()
}

/// Major and minor number of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The third number, which counts the repairs; distributors that count otherwise leave 0.
fn repair(release: &str) -> u32 {
    let third = release.split(|c: char| !c.is_ascii_digit()).nth(2);
    third.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Whether vmxnet3's native XDP, which came with 6.6, gives frames a wrong length: 4c2227656d90 (v6.15), and the repairs of the
/// kernels that were cared for then.
fn has_wrong_lengths(release: &str) -> bool {
    match version(release) {
        Some((6, 6)) => repair(release) < 89,
        Some((6, 12)) => repair(release) < 26,
        Some((6, 14)) => repair(release) < 5,
        Some(version) => ((6, 6)..(6, 15)).contains(&version),
        None => false,
    }
}

/// D-37.
pub(super) fn losses(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let Some(balancer) = &setting.balancer else { return unconfigured() };
    let mut findings = Vec::new();
    for (name, counter, moved) in &facts.losses {
        // What is no protocol of anybody's counts as dropped, too: only what a card counts is a loss.
        if !balancer.interfaces.contains(name) || matches!(counter.as_str(), "rx_dropped" | "tx_dropped") {
            continue;
        }
        let finding =
            Finding::fail(format!("{name} loses frames before any program sees them: {counter} grew by {moved} in a moment"));
        let ring = facts.devices.get(name).and_then(|device| device.ring).filter(|(now, most)| now < most);
        findings.push(finding.cures(ring.map(|(_, most)| format!("ethtool -G {name} rx {most}"))));
    }
    or_pass(findings, "no card lost a frame while it was looked at")
}

/// D-39.
pub(super) fn places(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let Some(balancer) = &setting.balancer else { return unconfigured() };
    let mut findings = Vec::new();
    if facts.machine.irqbalance && !balancer.cores.is_empty() {
        let observed = "irqbalance moves the interrupts of the cards, and node.cores pins the workers: they part sooner or later";
        findings.push(Finding::warn(observed).cure("systemctl stop irqbalance"));
    }
    let mut nodes: Vec<(&String, i32)> = Vec::new();
    for name in interfaces(balancer) {
        if let Some(place) = facts.places.get(name).filter(|place| place.node >= 0 && facts.machine.nodes > 1) {
            nodes.push((name, place.node));
        }
    }
    if let [(first, node), rest @ ..] = nodes.as_slice() {
        for (other, far) in rest.iter().filter(|(_, far)| far != node) {
            findings.push(Finding::warn(format!(
                "{first} is on node {node} and {other} on node {far}: every frame between them crosses the machine"
            )));
        }
        let on_node = |core: usize| facts.machine.node_processors.get(node).is_none_or(|list| contains(list, core));
        let far: Vec<String> = balancer.cores.iter().filter(|core| !on_node(**core)).map(ToString::to_string).collect();
        if !far.is_empty() {
            findings.push(Finding::warn(format!("{first} is on node {node}, and the workers' cores {} are not", far.join(", "))));
        }
    }
    or_pass(findings, format!("{} nodes of memory, cards and cores together", facts.machine.nodes.max(1)))
}

/// Whether a list such as `0-3,8` has a number.
fn contains(list: &str, number: usize) -> bool {
    list.split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        matches!((first.trim().parse::<usize>(), last.trim().parse::<usize>()), (Ok(first), Ok(last)) if (first..=last).contains(&number))
    })
}

/// D-41.
pub(super) fn offloads(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let Some(balancer) = &setting.balancer else { return unconfigured() };
    if let Some(why) = facts.unread.get("ethtool") {
        return vec![Finding::skip(format!("features of links cannot be read: {why}"))];
    }
    let mut findings = Vec::new();
    for name in interfaces(balancer) {
        let Some(device) = facts.devices.get(name) else { continue };
        let is_on = |feature: &str| device.features.contains(feature);
        if is_on("rx-lro") {
            let observed = format!(
                "LRO is on at {name}: it makes one frame of many, larger than any way takes, and most drivers refuse XDP with it"
            );
            findings.push(Finding::fail(observed).cure(format!("ethtool -K {name} lro off")));
        }
        if is_on("rx-gro-hw") {
            let observed = format!("rx-gro-hw is on at {name}: the card makes one frame of many before XDP sees them");
            findings.push(Finding::warn(observed).cure(format!("ethtool -K {name} rx-gro-hw off")));
        }
        let vlans = super::program::vlans_on(facts, name);
        // The other end of a veth decides, whatever is set here: that is the router's veth (D-43).
        let is_veth = facts.link(name).is_some_and(|link| link.kind == "veth");
        if vlans > 0 && !is_veth && is_on("rx-vlan-hw-parse") {
            let observed = |what: &str| {
                format!(
                    "rxvlan is on at {name}, which has {vlans} VLANs: the card takes the tags off, XDP does not see them, and {what}"
                )
            };
            // With it, each frame leaves by the VLAN that it came by; without, by that of the way to its real.
            let finding = match (balancer.native, &balancer.next_hop_mac) {
                (true, Some(_)) => Finding::fail(observed("all frames leave without the tag that they came with")),
                (true, None) => {
                    Finding::warn(observed("what the balancer answers itself (pings, \"too big\") leaves without one"))
                }
                (false, None) => {
                    Finding::fail(observed("in generic mode frames leave with them, whatever the way to their real says"))
                }
                (false, Some(_)) => continue,
            };
            findings.push(finding.cure(format!("ethtool -K {name} rxvlan off txvlan off")));
        }
    }
    or_pass(findings, "nothing is joined, and no tag taken off, before XDP")
}

/// D-42.
pub(super) fn vmxnet3(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let Some(balancer) = &setting.balancer else { return unconfigured() };
    let is_it = |name: &&String| facts.places.get(*name).is_some_and(|place| place.driver == "vmxnet3");
    let Some(name) = interfaces(balancer).find(is_it) else { return vec![Finding::pass("no vmxnet3")] };
    let release = &facts.machine.release;
    if balancer.native && has_wrong_lengths(release) {
        let observed = format!(
            "{name} is a vmxnet3, and this is Linux {release}: with native XDP its driver gives wrong lengths (CVE-2025-37799; fixed in 6.15, \
             6.14.5, 6.12.26 and 6.6.89, and by distributors, Ubuntu in 6.14.0-24)"
        );
        return vec![Finding::warn(observed).cure(format!("sed -i 's/^attach *=.*/attach = \"generic\"/' {}", balancer.file))];
    }
    vec![Finding::pass(format!("{name}: vmxnet3 of Linux {release}, {}", if balancer.native { "fixed" } else { "generic" }))]
}

/// D-53.
pub(super) fn busy_polling(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let Some(balancer) = &setting.balancer else { return unconfigured() };
    if !balancer.userspace {
        return vec![Finding::pass("userspace does not forward")];
    }
    let (release, mut findings) = (&facts.machine.release, Vec::new());
    for name in interfaces(balancer) {
        let driver = facts.places.get(name).map_or("", |place| place.driver.as_str());
        if driver == "ixgbe" && version(release) == Some((6, 14)) {
            findings.push(Finding::warn(format!(
                "{name} is an ixgbe on Linux {release}, on which AF_XDP sockets were seen to stop; use another kernel, or mode = \"xdp\""
            )));
        }
    }
    let copies = super::program::workers(facts).iter().any(|(.., bound)| bound == "copy");
    if copies && version(release).is_some_and(|version| version < (5, 18)) {
        findings.push(Finding::warn(format!(
            "sockets in copy mode on Linux {release} lose wake-ups with busy polling (fixed in 5.18)"
        )));
    }
    or_pass(findings, "no known mistake of this kernel and driver")
}

/// D-54.
pub(super) fn privileges_and_power(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let Some(balancer) = &setting.balancer else { return unconfigured() };
    let (machine, mut findings) = (&facts.machine, Vec::new());
    // Only sockets of AF_XDP need that one.
    let is_needed = |name: &&str| balancer.userspace || *name != "CAP_NET_RAW";
    let missing: Vec<&str> = machine.missing_capabilities.iter().map(String::as_str).filter(is_needed).collect();
    if !missing.is_empty() {
        let observed = format!("this process has not {}: as this user the balancer does not start", missing.join(", "));
        findings.push(
            Finding::fail(observed).cure("setcap cap_bpf,cap_net_admin,cap_net_raw,cap_sys_admin+ep \"$(command -v tandem)\""),
        );
    }
    if !machine.bpf_file_system {
        let observed = "no BPF file system is at /sys/fs/bpf: the balancer has no place for its pins";
        findings.push(Finding::fail(observed).cure("mount -t bpf bpf /sys/fs/bpf"));
    }
    let slow: Vec<&String> =
        machine.governors.iter().filter(|governor| *governor != "performance" && *governor != "schedutil").collect();
    // A process that waits for frames in userspace is not what a governor sees as work.
    if let Some(governor) = slow.first() {
        let observed = format!(
            "processors run with the governor {governor}: they are slow to wake, and results of measurements do not compare"
        );
        findings.push(Finding::warn(observed).cure("cpupower frequency-set -g performance"));
    }
    let most = balancer.cores.iter().max().copied().unwrap_or(0);
    if most >= machine.processors as usize && machine.processors > 0 {
        findings.push(
            Finding::fail(format!("node.cores names core {most}, and there are {} processors", machine.processors))
                .cure(super::ways::without_key(balancer, "cores")),
        );
    }
    or_pass(findings, "privileges suffice, and no governor saves power")
}

#[cfg(test)]
mod tests {
    /// The repairs of 6.12 by Debian's changelog of that kernel.
    #[test]
    fn kernels_with_wrong_lengths() {
        for (release, wrong) in [
            ("6.1.0-37-amd64", false),
            ("6.6.88", true),
            ("6.6.89", false),
            ("6.8.0-45-generic", true),
            ("6.12.25-amd64", true),
            ("6.12.107+deb13-cloud-amd64", false),
            ("6.14.0-24-generic", true),
            ("6.14.5", false),
            ("6.15.0", false),
            ("7.2.13+deb14-cloud-amd64", false),
        ] {
            assert_eq!(super::has_wrong_lengths(release), wrong, "{release}");
        }
    }
}
