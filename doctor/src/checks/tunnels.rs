//! On a real server: who takes the tunnels off.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::facts::{HostFacts, Link};
use crate::finding::{Finding, or_pass};
use crate::setting::{Method, Service, Setting};

/// Name of the program of `tandem decap`.
const DECAP: &str = "decap";

/// Who opens a tunnel here.
pub(super) enum Opener<'a> {
    /// `tandem decap`, on this link.
    Program(&'a Link),
    /// A tunnel device.
    Device(&'a Link),
    /// Nobody has to: there is no outer header, and this is the link that frames come by.
    Nobody(&'a Link),
}

impl<'a> Opener<'a> {
    /// The link that the client's packet seems to come in by.
    pub(super) fn link(&self) -> &'a Link {
        match self {
            Self::Program(link) | Self::Device(link) | Self::Nobody(link) => link,
        }
    }
}

/// The link with an address, or the first that could receive anything.
fn outer_link(facts: &HostFacts, address: IpAddr) -> Option<&Link> {
    let own = facts.addresses.iter().find(|own| own.address == address);
    let link = own.and_then(|own| facts.links.iter().find(|link| link.index == own.link)).filter(|link| !link.loopback);
    link.or_else(|| facts.links.iter().find(|link| link.up && !link.loopback && link.tunnel.is_none()))
}

/// Whether a device opens this service's tunnel from one of the outer sources.
fn opens(link: &Link, service: &Service, real: IpAddr, setting: &Setting) -> bool {
    let Some(tunnel) = &link.tunnel else { return false };
    let inner_v6 = service.vip.address.is_ipv6();
    let kind = match (service.method, real.is_ipv6(), inner_v6) {
        (Method::Geneve, ..) => "geneve",
        (Method::Gre, false, _) => "gre",
        (Method::Gre, true, _) => "ip6gre",
        (_, false, false) => "ipip",
        (_, false, true) => "sit",
        (_, true, _) => "ip6tnl",
    };
    let inner = if inner_v6 { 41 } else { 4 };
    let is_mode = tunnel.external || matches!(service.method, Method::Gre | Method::Geneve) || [0, inner].contains(&tunnel.inner);
    let is_local = tunnel.local.is_none_or(|local| local == real);
    let is_remote = tunnel.remote.is_none_or(|remote| setting.sources.iter().any(|s| s.is_host() && s.address == remote));
    let is_geneve = service.method != Method::Geneve
        || tunnel.port == Some(setting.ports.geneve)
            && tunnel.inner_ip != service.ethernet
            && (tunnel.external || tunnel.vni == Some(service.vni));
    link.kind == kind && is_mode && is_local && is_remote && is_geneve
}

/// Who opens the tunnel of a service to a real that is this host; `Err`: what there is instead, and the commands that help.
pub(super) fn opener<'a>(
    facts: &'a HostFacts,
    setting: &Setting,
    service: &Service,
    real: IpAddr,
) -> Result<Opener<'a>, (String, Vec<String>)> {
    let outer = outer_link(facts, real).ok_or_else(|| ("there is no link that is up".to_owned(), Vec::new()))?;
    if !service.method.is_tunnel() {
        return Ok(Opener::Nobody(outer));
    }
    let is_decap = |link: &Link| link.up && link.xdp.as_ref().is_some_and(|xdp| xdp.name.as_deref() == Some(DECAP));
    if is_decap(outer) {
        return Ok(Opener::Program(outer));
    }
    let fits = facts.links.iter().filter(|link| opens(link, service, real, setting));
    let fits: Vec<&Link> = fits.collect();
    if let Some(link) = fits.iter().find(|link| link.up) {
        return Ok(Opener::Device(link));
    }
    if let Some(down) = fits.first() {
        return Err((format!("{} would open it, and is down", down.name), vec![format!("ip link set {} up", down.name)]));
    }
    Err(nobody(facts, service, real, outer))
}

/// What there is instead of one that opens it.
fn nobody(facts: &HostFacts, service: &Service, real: IpAddr, outer: &Link) -> (String, Vec<String>) {
    let inner_v6 = service.vip.address.is_ipv6();
    let mode = facts.links.iter().find(|link| link.kind == "ip6tnl" && link.tunnel.as_ref().is_some_and(|t| t.remote.is_none()));
    if let (false, true, Some(link)) = (matches!(service.method, Method::Gre | Method::Geneve), real.is_ipv6(), mode) {
        let inner = link.tunnel.as_ref().map_or(0, |tunnel| tunnel.inner);
        let takes = if inner == 4 { "ip4ip6: only IPv4 inside" } else { "ip6ip6: only IPv6 inside" };
        let mut cures = vec![format!("ip -6 tunnel change {} mode any", link.name)];
        if !link.up {
            cures.push(format!("ip link set {} up", link.name));
        }
        return (format!("{} is in mode {takes}", link.name), cures);
    }
    let (module, device) = match (service.method, real.is_ipv6(), inner_v6) {
        (Method::Geneve, ..) => ("geneve", String::new()),
        (Method::Gre, false, _) => ("ip_gre", "gre0".to_owned()),
        (Method::Gre, true, _) => ("ip6_gre", "ip6gre0".to_owned()),
        (_, false, false) => ("ipip", "tunl0".to_owned()),
        (_, false, true) => ("sit", "sit0".to_owned()),
        (_, true, _) => ("ip6_tunnel", "ip6tnl0".to_owned()),
    };
    let geneve: Vec<&Link> = facts.links.iter().filter(|link| link.kind == "geneve").collect();
    let observed = match geneve.first() {
        Some(link) if service.method == Method::Geneve => {
            let of = link.tunnel.clone().unwrap_or_default();
            let (inside, wanted) =
                (if of.inner_ip { "packets" } else { "frames" }, if service.ethernet { "frames" } else { "packets" });
            format!(
                "{} takes {inside} of network {} at port {}, and the balancer sends {wanted} of network {}",
                link.name,
                of.vni.map_or_else(|| "any".to_owned(), |vni| vni.to_string()),
                of.port.unwrap_or(0),
                service.vni
            )
        }
        _ => format!("no device of the right kind opens it, and no `tandem decap` is attached to {}", outer.name),
    };
    let has_module = facts.machine.modules.iter().any(|name| name == module);
    let cures = match service.method {
        Method::Geneve if has_module => {
            let inner = if service.ethernet { "" } else { " innerprotoinherit" };
            let mut cures: Vec<String> = geneve.iter().map(|link| format!("ip link del {}", link.name)).collect();
            cures.push(format!("ip link add gnv0 type geneve external{inner}"));
            cures.push("ip link set gnv0 up".to_owned());
            cures
        }
        // The device appears with the module; IPv6's takes both families only in mode `any`.
        _ if has_module && !device.is_empty() => {
            let mut cures = Vec::new();
            if facts.link(&device).is_none() {
                cures.push(format!("modprobe {module}"));
            }
            if device == "ip6tnl0" {
                cures.push("ip -6 tunnel change ip6tnl0 mode any".to_owned());
            }
            cures.push(format!("ip link set {device} up"));
            cures
        }
        _ => vec![format!("tandem decap attach {}", outer.name)],
    };
    (observed, cures)
}

/// Services with each of their reals that is this host; all of them, if none is (the address may be a router's).
pub(super) fn here<'s>(facts: &HostFacts, setting: &'s Setting) -> Vec<(&'s Service, IpAddr)> {
    let all = || setting.services.iter().flat_map(|service| service.reals.iter().map(move |real| (service, *real)));
    let own: Vec<(&Service, IpAddr)> = all().filter(|(_, real)| facts.is_local(*real)).collect();
    if own.is_empty() { all().collect() } else { own }
}

/// D-05.
pub(super) fn decapsulation(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let (mut findings, mut said, mut opened) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let here = here(facts, setting);
    if here.is_empty() {
        return vec![Finding::skip("no service names a real server (--service …,real=ADDRESS)")];
    }
    for (service, real) in here {
        let family = |v6| if v6 { "IPv6" } else { "IPv4" };
        let what = format!("{} with {} inside {}", service.method, family(service.vip.address.is_ipv6()), family(real.is_ipv6()));
        match opener(facts, setting, service, real) {
            Ok(opener) => drop(opened.insert(opener.link().name.clone())),
            Err((observed, cures)) if said.insert(what.clone()) => {
                findings.push(Finding::fail(format!("{what}: {observed}")).cures(cures));
            }
            Err(_) => {}
        }
    }
    or_pass(findings, format!("opened by {}", Vec::from_iter(opened).join(", ")))
}

/// D-06.
pub(super) fn fou(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let (mut findings, mut said, mut found) = (Vec::new(), BTreeSet::new(), 0);
    for (service, real) in here(facts, setting) {
        let (gue, inner_v6) = (matches!(service.method, Method::Gue | Method::Gue0), service.vip.address.is_ipv6());
        if !gue && service.method != Method::Fou || matches!(opener(facts, setting, service, real), Ok(Opener::Program(_))) {
            continue;
        }
        let ports = setting.ports;
        let (port, inner) = match (gue, inner_v6) {
            (true, _) => (ports.gue, 0),
            (false, false) => (ports.fou_v4, 4),
            (false, true) => (ports.fou_v6, 41),
        };
        let v6 = real.is_ipv6();
        let at: Vec<_> = facts.fou.iter().filter(|fou| fou.port == port && fou.v6 == v6).collect();
        if at.iter().any(|fou| fou.gue == gue && (gue || fou.inner == inner)) {
            found += 1;
            continue;
        }
        let family = if v6 { "-6 " } else { "" };
        let what = if gue { "gue".to_owned() } else { format!("ipproto {inner}") };
        if !said.insert((port, v6, what.clone())) {
            continue;
        }
        if let Some(why) = facts.unread.get("fou") {
            findings.push(Finding::skip(format!("the kernel's ports of FOU cannot be read: {why}")));
            continue;
        }
        let other = facts.fou.iter().find(|fou| fou.port == port);
        let observed = match (at.first(), other) {
            (Some(fou), _) if fou.gue => format!("port {port} is there for GUE"),
            (Some(fou), _) => format!("port {port} is there for FOU with protocol {} inside", fou.inner),
            (None, Some(_)) => format!("port {port} is there, but of {} only", if v6 { "IPv4" } else { "IPv6" }),
            (None, None) => format!("there is no such port: {} ports are known", facts.fou.len()),
        };
        let name = if v6 { "IPv6" } else { "IPv4" };
        let mut finding =
            Finding::fail(format!("the balancer sends {} to UDP {port} over {name}, and {observed}", service.method));
        if !at.is_empty() {
            finding = finding.cure(format!("ip {family}fou del port {port}"));
        }
        findings.push(finding.cure(format!("ip {family}fou add port {port} {what}")));
    }
    if found == 0 && findings.is_empty() {
        return vec![Finding::skip("no FOU or GUE comes to a device of this host")];
    }
    or_pass(findings, format!("{found} services have their port"))
}

/// D-46.
pub(super) fn one_queue(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let plain = |(service, _): &(&Service, IpAddr)| matches!(service.method, Method::Ipip | Method::Gre);
    let here = here(facts, setting);
    if !here.iter().any(plain) {
        return vec![Finding::pass("no IPIP or GRE: the tunnel's own UDP ports spread the flows")];
    }
    if setting.sources.iter().any(|source| !source.is_host()) {
        return vec![Finding::pass("outer sources are crafted per flow")];
    }
    let Some(link) = here.iter().find(|pair| plain(pair)).and_then(|(_, real)| outer_link(facts, *real)) else {
        return vec![Finding::skip("no link has the real's address")];
    };
    let queues = facts.devices.get(&link.name).and_then(|device| device.queues).map_or(link.rx_queues, |(rx, _)| rx);
    if queues <= 1 {
        return vec![Finding::pass(format!("{} has one receive queue", link.name))];
    }
    let observed = format!(
        "{} has {queues} receive queues, and IPIP or GRE from one outer source falls on one of them: one processor does all the work",
        link.name
    );
    let finding = Finding::warn(observed);
    vec![finding.cure(format!("echo ffffffff > /sys/class/net/{}/queues/rx-0/rps_cpus", link.name))]
}

/// D-47.
pub(super) fn zero_checksums(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    if !setting.zero_checksums {
        return vec![Finding::pass("the balancer computes outer UDP checksums")];
    }
    let udp_v6 = |(service, real): &(&Service, IpAddr)| service.method.has_udp() && real.is_ipv6();
    let mut findings = Vec::new();
    for (service, real) in here(facts, setting).iter().filter(|pair| udp_v6(pair)) {
        if let Ok(Opener::Device(link)) = opener(facts, setting, service, *real)
            && link.tunnel.as_ref().is_some_and(|tunnel| link.kind == "geneve" && !tunnel.zero_checksums)
            && findings.is_empty()
        {
            let observed = format!(
                "{} drops UDP over IPv6 without a checksum, which tunnel.udp_checksum = \"where-cheap\" may send",
                link.name
            );
            let inner = if service.ethernet { "" } else { " innerprotoinherit" };
            let cures = [
                format!("ip link del {}", link.name),
                format!("ip link add {} type geneve external{inner} udp6zerocsumrx", link.name),
                format!("ip link set {} up", link.name),
            ];
            findings.push(Finding::fail(observed).cures(cures));
        }
    }
    or_pass(findings, "whoever opens them takes tunnels without a UDP checksum")
}

/// Makers whose networks drop what is neither TCP, UDP nor ICMP, and the drivers of their cards.
const CLOUDS: [&str; 7] =
    ["Amazon EC2", "Google", "Microsoft Corporation Virtual Machine", "Alibaba Cloud", "DigitalOcean", "Hetzner", "OpenStack"];
const CLOUD_DRIVERS: [&str; 3] = ["ena", "gve", "hv_netvsc"];

/// D-13.
pub(super) fn cloud(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let plain: BTreeSet<Method> = setting
        .services
        .iter()
        .map(|service| service.method)
        .filter(|method| matches!(method, Method::Ipip | Method::Gre))
        .collect();
    if plain.is_empty() {
        return vec![Finding::pass("no IPIP or GRE")];
    }
    // Links without a bus, as between namespaces or containers, do not leave the machine.
    let in_cloud = |link: &&Link| {
        let driver = facts.places.get(&link.name).map(|place| place.driver.as_str());
        let is_clouds = CLOUDS.iter().any(|cloud| facts.machine.maker.contains(cloud));
        link.up && driver.is_some_and(|driver| CLOUD_DRIVERS.contains(&driver) || is_clouds)
    };
    match facts.links.iter().find(in_cloud) {
        None => vec![Finding::pass("no card of a public cloud")],
        Some(link) => {
            let driver = facts.places.get(&link.name).map_or("", |place| place.driver.as_str());
            let methods: Vec<String> = plain.iter().map(Method::to_string).collect();
            vec![Finding::warn(format!(
                "{} (driver {driver}, {}): public clouds commonly drop IP protocols 4, 41 and 47, and {} is used; prefer gue, fou or \
                 geneve, and switch the source/destination check of the instances off",
                link.name,
                facts.machine.maker,
                methods.join(" and ")
            ))]
        }
    }
}
