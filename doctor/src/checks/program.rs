//! XDP programs, and the balancer that should be there.

use crate::facts::{HostFacts, Link, Xdp};
use crate::finding::{Finding, or_pass};
use crate::setting::{Balancer, Role, Setting};
use tandem_backends::xdp::root_array;

use super::router::ports_to_balancers;

/// Names of our programs that forward, or call those that do; the kernel keeps 15 bytes.
const OURS: [&str; 3] = ["balancer", "capturing", "root"];

fn unconfigured() -> Vec<Finding> {
    vec![Finding::skip("no configuration (-c FILE)")]
}

/// The command that starts the balancer.
fn start(balancer: &Balancer) -> String {
    let name =
        if balancer.interfaces.first() == Some(&balancer.name) { String::new() } else { format!(" --name {}", balancer.name) };
    format!("tandem run -c {}{name}", balancer.file)
}

/// A program on a link, in words.
fn named(xdp: &Xdp) -> String {
    format!("program {} ({}, {})", xdp.program, xdp.name.as_deref().unwrap_or("name not told"), xdp.mode)
}

fn is_ours(xdp: &Xdp) -> bool {
    xdp.name.as_deref().is_none_or(|name| OURS.contains(&name))
}

/// D-40.
pub(super) fn attached(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let Some(balancer) = &setting.balancer else { return unconfigured() };
    let (mut findings, mut attached) = (Vec::new(), Vec::new());
    for name in &balancer.interfaces {
        let Some(link) = facts.link(name) else {
            let known: Vec<&str> = facts.links.iter().map(|link| link.name.as_str()).collect();
            findings.push(Finding::fail(format!("there is no interface {name:?}; there are {}", known.join(", "))));
            continue;
        };
        if !link.up {
            findings.push(Finding::fail(format!("{name} is down")).cure(format!("ip link set {name} up")));
        }
        match &link.xdp {
            None if balancer.is_starting => {}
            None => {
                let observed = format!("no XDP program is on {name}: the balancer does not run, and nothing is forwarded");
                findings.push(Finding::fail(observed).cure(start(balancer)));
            }
            // Another's is D-51's.
            Some(xdp) if !is_ours(xdp) => {}
            Some(xdp) if xdp.mode == "generic" && balancer.native => {
                findings.push(Finding::fail(format!("native was asked for, and {} is generic on {name}", named(xdp))));
            }
            Some(xdp) => attached.push(format!("{name}: {}", named(xdp))),
        }
        findings.extend(native(facts, balancer, link));
    }
    if facts.setting("net/core/bpf_jit_enable") == Some(0) {
        let observed = "the kernel interprets BPF programs (bpf_jit_enable = 0): ten times slower";
        findings.push(Finding::warn(observed).cure("sysctl -w net.core.bpf_jit_enable=1"));
    }
    let text = if attached.is_empty() { "the interfaces are there and up".to_owned() } else { attached.join(", ") };
    or_pass(findings, text)
}

/// Whether the driver can do what is asked, where the kernel tells (Linux 6.3).
fn native(facts: &HostFacts, balancer: &Balancer, link: &Link) -> Option<Finding> {
    let features = facts.devices.get(&link.name)?.xdp_features?;
    let driver = facts.places.get(&link.name).map_or(link.kind.as_str(), |place| place.driver.as_str());
    // NETDEV_XDP_ACT_BASIC of `netdev.h`.
    if balancer.native && features & 1 == 0 && link.xdp.is_none() {
        let hint = match driver {
            "virtio_net" => ": virtio_net needs twice as many queues as processors, an MTU of at most 3506, and LRO off",
            _ => "",
        };
        let observed = format!("the driver of {} ({driver}) offers no XDP as it is set up now{hint}", link.name);
        return Some(Finding::fail(observed).cure(format!("sed -i 's/^attach *=.*/attach = \"generic\"/' {}", balancer.file)));
    }
    None
}

/// D-51.
pub(super) fn no_other(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let Some(balancer) = &setting.balancer else { return unconfigured() };
    let mut findings = Vec::new();
    for name in &balancer.interfaces {
        let Some(xdp) = facts.link(name).and_then(|link| link.xdp.as_ref()).filter(|xdp| !is_ours(xdp)) else { continue };
        let cure = match xdp.name.as_deref() {
            Some("decap") => format!("tandem decap detach {name}"),
            Some("xdp_dispatcher") => format!("xdp-loader unload {name} --all"),
            _ => format!("ip link set dev {name} xdp off"),
        };
        findings.push(Finding::fail(format!("{} is on {name}: the balancer cannot be attached there", named(xdp))).cure(cure));
    }
    or_pass(findings, "no other XDP program on the balancer's interfaces")
}

/// D-56.
pub(super) fn is_looked_after(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let Some(balancer) = &setting.balancer else { return unconfigured() };
    if balancer.is_starting {
        return vec![Finding::skip("the balancer is about to start")];
    }
    let on = |name: &&String| {
        let name = facts.link(name).and_then(|link| link.xdp.as_ref()).and_then(|xdp| xdp.name.as_deref());
        matches!(name, Some("balancer" | "capturing"))
    };
    match (balancer.interfaces.iter().find(on), &facts.balancer) {
        (None, _) => vec![Finding::skip("no balancer is attached")],
        (Some(_), Some(_)) => vec![Finding::pass(format!("{} answers", balancer.name))],
        (Some(interface), None) => {
            let observed = format!(
                "the program on {interface} forwards, and no process named {} looks after it: next hops are not followed, and its userspace \
                 seat is gone",
                balancer.name
            );
            vec![Finding::warn(observed).cure(start(balancer))]
        }
    }
}

/// Whether frames that this link sends may lack their checksum.
fn leaves_checksums(facts: &HostFacts, link: &Link) -> bool {
    let features = facts.devices.get(&link.name).map(|device| &device.features);
    link.kind == "veth" && features.is_some_and(|features| features.iter().any(|name| name.starts_with("tx-checksum-ip")))
}

/// VLAN devices on a link.
pub(super) fn vlans_on(facts: &HostFacts, name: &str) -> usize {
    let index = facts.link(name).map(|link| link.index);
    facts.links.iter().filter(|link| link.vlan.is_some() && index.is_some() && link.below == index).count()
}

/// Whether the tags of this link's VLANs are left to hardware: a veth hands them over beside the frame.
fn leaves_tags(facts: &HostFacts, link: &Link) -> bool {
    let is_on = facts.devices.get(&link.name).is_some_and(|device| device.features.contains("tx-vlan-hw-insert"));
    link.kind == "veth" && is_on && vlans_on(facts, &link.name) > 0
}

/// D-43.
pub(super) fn veth(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    if let Some(why) = facts.unread.get("ethtool") {
        return vec![Finding::skip(format!("features of links cannot be read: {why}"))];
    }
    let off = |link: &Link| format!("ethtool -K {} tx off", link.name);
    let mut findings = Vec::new();
    match setting.role {
        Role::Router => {
            let ports = ports_to_balancers(facts, setting);
            let veths: Vec<&Link> = ports.iter().filter_map(|port| facts.link(port)).filter(|link| link.kind == "veth").collect();
            for link in veths.iter().filter(|link| leaves_checksums(facts, link)) {
                let observed = format!(
                    "tx-checksumming is on at {}, a veth: frames reach the balancer's XDP program without their checksums, and the reals drop them",
                    link.name
                );
                findings.push(Finding::fail(observed).cure(off(link)));
            }
            for link in veths.iter().filter(|link| leaves_tags(facts, link)) {
                let observed = format!(
                    "txvlan is on at {}, a veth with VLANs: frames reach the balancer's XDP program without their tags, and what it answers \
                     itself, or with node.next_hop_mac all that it sends, comes back without one",
                    link.name
                );
                findings.push(Finding::warn(observed).cure(format!("ethtool -K {} txvlan off", link.name)));
            }
            let takes = |link: &&Link| {
                let gro = facts.devices.get(&link.name).is_some_and(|device| device.features.contains("rx-gro"));
                link.xdp.is_some() || gro
            };
            // Of a bridge's ports, one is the balancer's.
            if !veths.is_empty() && !veths.iter().any(takes) {
                let port = veths.iter().find(|link| link.master.is_none()).or(veths.first());
                let name = port.map_or("", |link| link.name.as_str());
                let observed = format!(
                    "{name} is a veth without an XDP program: it drops every frame that the balancer's XDP program sends"
                );
                findings.push(Finding::fail(observed).cure(format!("tandem root attach {name}")));
            }
            if veths.is_empty() {
                return vec![Finding::pass("no veth leads to a balancer")];
            }
        }
        Role::Lb => {
            let interfaces =
                setting.balancer.iter().flat_map(|balancer| &balancer.interfaces).filter_map(|name| facts.link(name));
            for link in interfaces.filter(|link| leaves_checksums(facts, link)) {
                let observed = format!(
                    "tx-checksumming is on at {}, a veth: this host's own packets lack their checksums in XDP programs behind it",
                    link.name
                );
                findings.push(Finding::warn(observed).cure(off(link)));
            }
        }
        Role::Real | Role::Client => {
            for link in facts.links.iter().filter(|link| setting.role == Role::Client && leaves_checksums(facts, link)) {
                let observed = format!(
                    "tx-checksumming is on at {}, a veth: if nothing between computes them, frames reach the balancer without checksums",
                    link.name
                );
                findings.push(Finding::warn(observed).cure(off(link)));
            }
        }
    }
    or_pass(findings, "frames have their checksums, and what XDP sends is taken")
}

/// The rows of a running balancer's workers: queue, core, how it is bound.
pub(super) fn workers(facts: &HostFacts) -> Vec<(u64, u64, String)> {
    let rows = facts.balancer.as_ref().and_then(|report| report["workers"].as_array());
    let row = |row: &serde_json::Value| Some((row["queue"].as_u64()?, row["core"].as_u64()?, row["bound"].as_str()?.to_owned()));
    rows.into_iter().flatten().filter_map(row).collect()
}

/// The seat that forwards.
fn seat(facts: &HostFacts) -> Option<&str> {
    facts.balancer.as_ref()?["mode"].as_str()
}

/// D-52.
pub(super) fn userspace(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let Some(balancer) = &setting.balancer else { return unconfigured() };
    let workers = workers(facts);
    if seat(facts) != Some("afxdp") {
        return vec![Finding::skip("userspace does not forward")];
    }
    let mut findings = Vec::new();
    for (queue, core, bound) in &workers {
        if bound == "ended" {
            let observed = format!("the worker of queue {queue} (core {core}) has ended: the kernel forwards its frames");
            findings.push(Finding::warn(observed).cure(format!("{} --take-over", start(balancer))));
        }
    }
    // Since when is not known: while a process takes over, there is no socket for a moment.
    let count = |counters: &serde_json::Value| {
        ["xdp", "afxdp"].iter().filter_map(|seat| counters[seat]["seat"]["no-socket"].as_u64()).sum::<u64>()
    };
    let looks = facts.balancer_counters_before.as_ref().zip(facts.balancer_counters.as_ref());
    let lost = looks.map_or(0, |(before, now)| count(now).saturating_sub(count(before)));
    if lost > 0 {
        let interface = facts.balancer.as_ref().and_then(|report| report["interface"].as_str()).unwrap_or("the interface");
        let observed =
            format!("{lost} frames came in a moment on queues of {interface} without a socket: the kernel forwarded them");
        findings.push(Finding::warn(observed).cure(format!("{} --take-over", start(balancer))));
    }
    let zero_copy =
        |name: &str| facts.devices.get(name).and_then(|device| device.xdp_features).is_some_and(|features| features & 8 != 0);
    for name in balancer.interfaces.iter().filter(|name| zero_copy(name) && workers.iter().any(|(.., bound)| bound == "copy")) {
        findings.push(Finding::warn(format!("{name} can do zero-copy, and the sockets were bound in copy mode")));
    }
    let text: Vec<String> = workers.iter().map(|(queue, _, bound)| format!("queue {queue} {bound}")).collect();
    or_pass(findings, text.join(", "))
}

/// D-38.
pub(super) fn queues_and_cores(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let Some(balancer) = &setting.balancer else { return unconfigured() };
    let Some(interface) = balancer.interfaces.first() else { return vec![Finding::skip("no interface is configured")] };
    let (workers, link) = (workers(facts), facts.link(interface));
    let queues = facts.devices.get(interface).and_then(|device| device.queues).map(|(rx, _)| rx);
    let queues = queues.filter(|queues| *queues > 0).or(link.map(|link| link.rx_queues)).unwrap_or(1);
    let mut findings = Vec::new();
    for (at, (queue, core, _)) in workers.iter().enumerate() {
        if let Some((other, ..)) = workers[..at].iter().find(|(_, used, _)| used == core) {
            let observed =
                format!("queues {other} and {queue} of {interface} are served by one core, {core}: each gets half of it");
            let cure = (!balancer.cores.is_empty()).then(|| super::ways::without_key(balancer, "cores"));
            findings.push(Finding::warn(observed).cures(cure));
        }
    }
    if !workers.is_empty() && (workers.len() as u64) < u64::from(queues) {
        let observed = format!(
            "{interface} has {queues} receive queues and {} workers: the kernel forwards what comes on the others",
            workers.len()
        );
        findings.push(Finding::fail(observed).cure(format!("ethtool -L {interface} combined {}", workers.len())));
    }
    if let Some(place) = facts.places.get(interface) {
        let mut places: Vec<&str> = place.interrupts.iter().map(|interrupt| interrupt.processors.as_str()).collect();
        places.sort_unstable();
        places.dedup();
        if place.interrupts.len() > 1 && facts.machine.processors > 1 && places.len() == 1 && !places[0].contains([',', '-']) {
            let numbers = place.interrupts.iter().enumerate();
            let cures = numbers.map(|(at, interrupt)| {
                format!("echo {} > /proc/irq/{}/smp_affinity_list", at as u32 % facts.machine.processors, interrupt.number)
            });
            let observed = format!("all {} interrupts of {interface} go to processor {}", place.interrupts.len(), places[0]);
            findings.push(Finding::warn(observed).cures(cures));
        }
    }
    or_pass(findings, format!("{queues} receive queues, {} workers", workers.len()))
}

/// D-50.
pub(super) fn attach_flaps(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let Some(balancer) = &setting.balancer else { return unconfigured() };
    let kind_of = |index: Option<u32>| index.and_then(|index| facts.links.iter().find(|link| link.index == index));
    let mut findings = Vec::new();
    for link in balancer.interfaces.iter().filter_map(|name| facts.link(name)) {
        let bond = if link.kind == "bond" { Some(link) } else { kind_of(link.master).filter(|master| master.kind == "bond") };
        // In the network stack it is no matter of the cards.
        if let Some(bond) = bond.filter(|_| link.xdp.is_none() && balancer.native) {
            let observed = format!(
                "{} belongs to the bond {}: many drivers reset the card when the first XDP program comes and when the last one goes; with \
                 `tandem root` attached for good, and `tandem run --xdp-root {} --xdp-slot 0`, that is when the root comes",
                link.name,
                bond.name,
                root_array(&link.name).display()
            );
            findings.push(Finding::warn(observed).cure(format!("tandem root attach {}", link.name)));
        }
    }
    or_pass(findings, "attaching takes no bond's carrier away")
}
