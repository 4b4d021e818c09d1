//! What a host's part is: services, tunnels, addresses of the others. From the balancer's configuration, or from options.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tandem_backends::config::{Attach, Encap, GeneveInner, ModeWish, Plan, Protocol, TooBig, Vip};
use tandem_backends::xdp::Tunnels;

use crate::network::Network;

/// Whose checks are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The balancer.
    Lb,
    /// A real server.
    Real,
    /// A router between them, or between them and the clients.
    Router,
    /// A client.
    Client,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lb => "lb",
            Self::Real => "real",
            Self::Router => "router",
            Self::Client => "client",
        })
    }
}

/// How frames get to a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names of `vip.encap`")]
pub enum Method {
    Ipip,
    Gue,
    Gue0,
    Gre,
    Fou,
    Geneve,
    L2,
    Nat,
}

/// Names, as `vip.encap` has them.
const METHODS: [(Method, &str); 8] = [
    (Method::Ipip, "ipip"),
    (Method::Gue, "gue"),
    (Method::Gue0, "gue0"),
    (Method::Gre, "gre"),
    (Method::Fou, "fou"),
    (Method::Geneve, "geneve"),
    (Method::L2, "l2"),
    (Method::Nat, "nat"),
];

impl Method {
    /// Whether there is an outer header.
    #[must_use]
    pub fn is_tunnel(self) -> bool {
        !matches!(self, Self::L2 | Self::Nat)
    }

    /// Whether the tunnel goes over UDP.
    #[must_use]
    pub fn has_udp(self) -> bool {
        matches!(self, Self::Gue | Self::Gue0 | Self::Fou | Self::Geneve)
    }

    fn of(encap: Encap) -> Self {
        match encap {
            Encap::Ipip => Self::Ipip,
            Encap::Gue => Self::Gue,
            Encap::Gue0 => Self::Gue0,
            Encap::Gre => Self::Gre,
            Encap::Fou => Self::Fou,
            Encap::Geneve => Self::Geneve,
            Encap::L2 => Self::L2,
            Encap::Nat => Self::Nat,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(METHODS.iter().find(|(method, _)| method == self).map_or("?", |(_, name)| name))
    }
}

/// A VIP and the real servers that one method leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// UDP, else TCP.
    pub udp: bool,
    /// Address or prefix.
    pub vip: Network,
    /// 0: every port.
    pub port: u16,
    /// The way to its reals.
    pub method: Method,
    /// Of Geneve: the network identifier.
    pub vni: u32,
    /// Of Geneve: frames inside, not packets.
    pub ethernet: bool,
    /// Addresses of its real servers.
    pub reals: Vec<IpAddr>,
}

impl Service {
    fn of(vip: &Vip, encap: Encap) -> Self {
        let host = Network::host(vip.address);
        Self {
            udp: vip.protocol == Protocol::Udp,
            vip: Network { length: vip.prefix_len.unwrap_or(host.length), ..host },
            port: vip.port,
            method: Method::of(encap),
            vni: vip.vni,
            ethernet: encap == Encap::Geneve && vip.geneve_inner == GeneveInner::Ethernet,
            reals: vip.reals.iter().filter(|real| real.encap == encap).map(|real| real.address).collect(),
        }
    }

    /// Bytes of the outer headers towards a real.
    #[must_use]
    pub fn overhead(&self, real: IpAddr) -> u32 {
        let ip = if real.is_ipv6() { 40 } else { 20 };
        match self.method {
            Method::Ipip => ip,
            Method::Gre => ip + 4,
            Method::Fou | Method::Gue => ip + 8,
            Method::Gue0 => ip + 12,
            Method::Geneve => ip + 16 + if self.ethernet { 14 } else { 0 },
            Method::L2 | Method::Nat => 0,
        }
    }

    /// `tcp` or `udp`.
    #[must_use]
    pub fn protocol(&self) -> &'static str {
        if self.udp { "udp" } else { "tcp" }
    }

    /// Address and port, without protocol.
    #[must_use]
    pub fn at(&self) -> String {
        match (self.vip.is_host(), self.vip.address) {
            (true, address) => SocketAddr::new(address, self.port).to_string(),
            (false, IpAddr::V4(_)) => format!("{}:{}", self.vip, self.port),
            (false, IpAddr::V6(_)) => format!("[{}]:{}", self.vip, self.port),
        }
    }
}

/// As `--service` takes it: `tcp,10.200.1.1:80,ipip,real=10.0.0.1`.
impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{}", self.protocol(), self.at(), self.method)?;
        if self.vni != 0 {
            write!(f, ",vni={}", self.vni)?;
        }
        if self.ethernet {
            f.write_str(",ethernet")?;
        }
        self.reals.iter().try_for_each(|real| write!(f, ",real={real}"))
    }
}

/// A text that is no service.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}`: {what}; expected PROTOCOL,VIP:PORT,METHOD[,vni=N][,ethernet][,real=ADDRESS]…, for example tcp,10.200.1.1:80,ipip,real=10.0.0.1"
)]
pub struct NoService {
    text: String,
    what: String,
}

impl FromStr for Service {
    type Err = NoService;

    fn from_str(text: &str) -> Result<Self, NoService> {
        let wrong = |what: String| NoService { text: text.to_owned(), what };
        let mut parts = text.split(',');
        let mut next = |what: &str| parts.next().filter(|part| !part.is_empty()).ok_or_else(|| wrong(format!("no {what}")));
        let udp = match next("protocol")? {
            "tcp" => false,
            "udp" => true,
            other => return Err(wrong(format!("`{other}` is neither tcp nor udp"))),
        };
        let at = next("VIP")?;
        let (vip, port) = at.rsplit_once(':').ok_or_else(|| wrong(format!("`{at}` has no port")))?;
        let vip = vip.trim_start_matches('[').trim_end_matches(']');
        let method = next("method")?;
        let known = METHODS.iter().find(|(_, name)| *name == method);
        let mut service = Self {
            udp,
            vip: vip.parse().map_err(|error| wrong(format!("{error}")))?,
            port: port.parse().map_err(|_| wrong(format!("`{port}` is no port")))?,
            method: known.map(|(method, _)| *method).ok_or_else(|| wrong(format!("`{method}` is no method")))?,
            vni: 0,
            ethernet: false,
            reals: Vec::new(),
        };
        for part in parts {
            match part.split_once('=') {
                None if part == "ethernet" => service.ethernet = true,
                Some(("vni", vni)) => service.vni = vni.parse().map_err(|_| wrong(format!("`{vni}` is no VNI")))?,
                Some(("real", real)) => {
                    service.reals.push(real.parse().map_err(|_| wrong(format!("`{real}` is no address")))?);
                }
                _ => return Err(wrong(format!("`{part}` is not understood"))),
            }
        }
        Ok(service)
    }
}

/// UDP ports of tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names of [tunnel]")]
pub struct Ports {
    pub gue: u16,
    pub fou_v4: u16,
    pub fou_v6: u16,
    pub geneve: u16,
}

impl Default for Ports {
    fn default() -> Self {
        let Tunnels { gue_port, fou_ports: [fou_v4, fou_v6], geneve_port, .. } = Tunnels::standard();
        Self { gue: gue_port, fou_v4, fou_v6, geneve: geneve_port }
    }
}

/// What only the balancer's own configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Balancer {
    /// The file.
    pub file: String,
    /// The balancer's name.
    pub name: String,
    /// Where its traffic arrives and leaves.
    pub interfaces: Vec<String>,
    /// Attached in the driver.
    pub native: bool,
    /// The userspace seat may be asked to forward.
    pub userspace: bool,
    /// `node.next_hop_mac`.
    pub next_hop_mac: Option<String>,
    /// `node.local_mac`.
    pub local_mac: Option<String>,
    /// `node.cores`.
    pub cores: Vec<usize>,
    /// `tunnel.source_v4` and `source_v6`.
    pub sources: Vec<IpAddr>,
    /// `tunnel.source_prefix_v4` and `source_prefix_v6`.
    pub pools: Vec<Network>,
    /// The host has to supply an outer IPv4 source.
    pub needs_source_v4: bool,
    /// The host has to supply an outer IPv6 source.
    pub needs_source_v6: bool,
    /// `tunnel.max_frame`.
    pub max_frame: u32,
    /// `tunnel.path_mtu`.
    pub path_mtu: Option<u32>,
    /// Clients are told of packets that are too big.
    pub tells_too_big: bool,
    /// Socket marks of probes, with the real that each leads to.
    pub marks: Vec<(u32, IpAddr)>,
    /// It is about to be started: that it does not run is no fault.
    pub is_starting: bool,
}

/// One host's part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Whose checks are run.
    pub role: Role,
    /// What is served.
    pub services: Vec<Service>,
    /// Outer sources of the tunnels: addresses, or networks that they are crafted in.
    pub sources: Vec<Network>,
    /// Addresses of the balancers.
    pub balancers: Vec<IpAddr>,
    /// Addresses that stand for the clients.
    pub clients: Vec<IpAddr>,
    /// UDP ports of tunnels.
    pub ports: Ports,
    /// UDP tunnels may come without a checksum.
    pub zero_checksums: bool,
    /// On the balancer.
    pub balancer: Option<Balancer>,
}

/// A client somewhere in the Internet, where none is named: of the documentation's networks (RFC 5737, RFC 3849).
pub const SOMEBODY: [&str; 2] = ["198.51.100.7", "2001:db8::7"];

impl Setting {
    /// Nothing is known but the role.
    #[must_use]
    pub fn of(role: Role) -> Self {
        Self {
            role,
            services: Vec::new(),
            sources: Vec::new(),
            balancers: Vec::new(),
            clients: Vec::new(),
            ports: Ports::default(),
            zero_checksums: false,
            balancer: None,
        }
    }

    /// From the balancer's configuration. `file` and `name` go into the cures.
    #[must_use]
    pub fn of_plan(plan: &Plan, file: &str, name: Option<&str>) -> Self {
        let mut services = Vec::new();
        for vip in &plan.vips {
            let mut encaps: Vec<Encap> = Vec::new();
            for real in &vip.reals {
                if !encaps.contains(&real.encap) {
                    encaps.push(real.encap);
                }
            }
            if encaps.is_empty() {
                encaps.push(vip.encap);
            }
            services.extend(encaps.into_iter().map(|encap| Service::of(vip, encap)));
        }
        let plain = [plan.source_v4.map(IpAddr::from), plan.source_v6.map(IpAddr::from)];
        let pool_v4 = plan.source_prefix_v4.map(|(address, length)| Network { address: address.into(), length });
        let pool_v6 = plan.source_prefix_v6.map(|(address, length)| Network { address: address.into(), length });
        let sources: Vec<IpAddr> = plain.into_iter().flatten().collect();
        let pools: Vec<Network> = pool_v4.into_iter().chain(pool_v6).collect();
        let name = name.map(str::to_owned).or_else(|| plan.interfaces.first().cloned()).unwrap_or_default();
        let balancer = Balancer {
            file: file.to_owned(),
            name,
            interfaces: plan.interfaces.clone(),
            native: plan.attach == Attach::Native,
            userspace: plan.mode != ModeWish::Xdp,
            next_hop_mac: plan.next_hop_mac.map(|mac| mac.to_string()),
            local_mac: plan.local_mac.map(|mac| mac.to_string()),
            cores: plan.cores.clone().unwrap_or_default(),
            sources: sources.clone(),
            pools: pools.clone(),
            needs_source_v4: plan.needs_source_v4(),
            needs_source_v6: plan.needs_source_v6(),
            max_frame: plan.max_frame,
            path_mtu: plan.path_mtu.map(u32::from),
            tells_too_big: plan.too_big == TooBig::Icmp,
            marks: plan.health_encaps.iter().map(|probe| (probe.mark, probe.real)).collect(),
            is_starting: false,
        };
        let [fou_v4, fou_v6] = plan.fou_ports;
        Self {
            services,
            sources: sources.into_iter().map(Network::host).chain(pools).collect(),
            ports: Ports { gue: plan.gue_port, fou_v4, fou_v6, geneve: plan.geneve_port },
            zero_checksums: plan.zero_checksums,
            balancer: Some(balancer),
            ..Self::of(Role::Lb)
        }
    }

    /// The same for another host: what `tandem doctor --for-host` prints. `own`: addresses of the balancer.
    #[must_use]
    pub fn for_host(&self, role: Role, address: IpAddr, own: &[IpAddr]) -> Self {
        let mut other = Self { role, balancer: None, ..self.clone() };
        if role == Role::Real {
            other.services.retain_mut(|service| {
                service.reals.retain(|real| *real == address);
                !service.reals.is_empty()
            });
        }
        let families: BTreeSet<bool> = other.reals().iter().map(IpAddr::is_ipv6).collect();
        other.balancers = own.to_vec();
        // What the configuration leaves to the host is the interface's own address.
        let missing = own.iter().filter(|own| !self.sources.iter().any(|source| source.address.is_ipv6() == own.is_ipv6()));
        other.sources.extend(missing.map(|own| Network::host(*own)));
        other.sources.retain(|source| families.contains(&source.address.is_ipv6()));
        other
    }

    /// The addresses of all reals, each once.
    #[must_use]
    pub fn reals(&self) -> BTreeSet<IpAddr> {
        self.services.iter().flat_map(|service| service.reals.iter().copied()).collect()
    }

    /// VIPs, each once.
    #[must_use]
    pub fn vips(&self) -> BTreeSet<Network> {
        self.services.iter().map(|service| service.vip).collect()
    }

    /// Clients of a family; somebody, if none is named.
    #[must_use]
    pub fn clients_of(&self, v6: bool) -> Vec<IpAddr> {
        let named: Vec<IpAddr> = self.clients.iter().copied().filter(|client| client.is_ipv6() == v6).collect();
        if named.is_empty() {
            SOMEBODY.iter().filter_map(|text| text.parse().ok()).filter(|a: &IpAddr| a.is_ipv6() == v6).collect()
        } else {
            named
        }
    }

    /// The options that make this setting, without the program's name.
    #[must_use]
    pub fn options(&self) -> Vec<String> {
        let mut options = vec![format!("--role {}", self.role)];
        options.extend(self.services.iter().map(|service| format!("--service {}", quoted(&service.to_string()))));
        options.extend(self.sources.iter().map(|source| format!("--source {source}")));
        options.extend(self.balancers.iter().map(|address| format!("--balancer {address}")));
        options.extend(self.clients.iter().map(|address| format!("--client {address}")));
        let usual = Ports::default();
        for (name, port, usual) in [
            ("gue-port", self.ports.gue, usual.gue),
            ("fou-port-v4", self.ports.fou_v4, usual.fou_v4),
            ("fou-port-v6", self.ports.fou_v6, usual.fou_v6),
            ("geneve-port", self.ports.geneve, usual.geneve),
        ] {
            if port != usual {
                options.push(format!("--{name} {port}"));
            }
        }
        if self.zero_checksums {
            options.push("--zero-checksums".to_owned());
        }
        options
    }
}

/// Brackets mean something to some shells.
fn quoted(text: &str) -> String {
    if text.contains('[') { format!("'{text}'") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_read_back_what_they_print() {
        for text in [
            "tcp,10.200.1.1:80,ipip,real=10.0.0.1",
            "udp,[fc00::1]:53,geneve,vni=4242,ethernet,real=fc00:7::1,real=10.0.0.1",
            "tcp,10.9.0.0/24:0,l2",
            "udp,[fc00:1::/96]:443,gue0",
        ] {
            let service: Service = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(service.to_string(), text);
        }
        for wrong in [
            "",
            "tcp",
            "sctp,10.0.0.1:1,ipip",
            "tcp,10.0.0.1,ipip",
            "tcp,10.0.0.1:x,ipip",
            "tcp,10.0.0.1:1,vxlan",
            "tcp,10.0.0.1:1,ipip,x",
        ] {
            assert!(wrong.parse::<Service>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_real_is_told_what_concerns_it() {
        let text = "tunnel.gue_port = 9999\n[[vip]]\naddress = \"10.200.1.1\"\nport = 80\nprotocol = \"tcp\"\nencap = \"gue\"\nreal = [{ address = \"10.0.0.1\" }, { address = \"10.0.0.2\", encap = \"ipip\" }]\n";
        let plan = tandem_backends::config::parse(text, "test").expect("a configuration").plan;
        let setting = Setting::of_plan(&plan, "f", None);
        let own = ["10.0.9.9".parse().unwrap(), "fc00::9".parse().unwrap()];
        let real = setting.for_host(Role::Real, "10.0.0.1".parse().unwrap(), &own);
        let options = real.options().join(" ");
        assert_eq!(
            options,
            "--role real --service tcp,10.200.1.1:80,gue,real=10.0.0.1 --source 10.0.9.9 --balancer 10.0.9.9 --balancer fc00::9 --gue-port 9999"
        );
    }
}
