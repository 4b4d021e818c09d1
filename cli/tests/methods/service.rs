//! What is served: every method between every pair of families.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tandem_lab::{Host, Lab};

pub const VIP_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 200, 1, 1));
pub const VIP_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfc00, 0x200, 0, 0, 0, 0, 0, 1));
pub const REAL: Host = Host::Real(1);
const FIRST_PORT: u16 = 7000;
const L2_PORT: u16 = 7090;

/// A method as the configuration has it, what else its VIPs and its reals need, and what a frame has between the outer IP
/// header and the client's, by the names of Wireshark's dissectors.
#[derive(Debug)]
pub struct Method {
    pub name: &'static str,
    pub of_vip: &'static str,
    pub of_real: &'static str,
    pub between: &'static [&'static str],
}

const fn method(name: &'static str, between: &'static [&'static str]) -> Method {
    Method { name, of_vip: "", of_real: "", between }
}

/// The tunnels.
pub const METHODS: [Method; 7] = [
    method("ipip", &[]),
    method("gre", &["gre"]),
    method("fou", &["udp"]),
    method("gue", &["udp", "gue"]),
    method("gue0", &["udp", "gue"]),
    Method { of_vip: "vni = 4242", ..method("geneve", &["udp", "geneve"]) },
    Method {
        of_vip: "vni = 4242\ngeneve_inner = \"ethernet\"",
        of_real: "inner_mac = \"02:00:00:00:77:77\"",
        ..method("geneve", &["udp", "geneve", "eth", "ethertype"])
    },
];
/// No tunnel: families agree.
pub const L2: Method = method("l2", &[]);

/// One method between two families.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    pub method: &'static Method,
    pub vip: IpAddr,
    pub v6_real: bool,
    port: u16,
}

impl Service {
    /// Every tunnel between every pair of families.
    pub fn tunnels() -> Vec<Self> {
        let pairs = [(VIP_V4, false), (VIP_V4, true), (VIP_V6, false), (VIP_V6, true)];
        let ports = (FIRST_PORT..).step_by(2);
        let each = METHODS.iter().zip(ports);
        each.flat_map(|(method, port)| pairs.map(|(vip, v6_real)| Self { method, vip, v6_real, port: port + u16::from(v6_real) }))
            .collect()
    }

    /// L2 of both families.
    pub fn l2() -> Vec<Self> {
        [(VIP_V4, false), (VIP_V6, true)].map(|(vip, v6_real)| Self { method: &L2, vip, v6_real, port: L2_PORT }).into()
    }

    pub fn at(&self) -> SocketAddr {
        SocketAddr::new(self.vip, self.port)
    }

    /// The name that the balancer counts it under.
    pub fn name(&self, protocol: &str) -> String {
        format!("{}/{protocol}", self.at())
    }

    /// What its frames are on the real's link, as Wireshark names the layers.
    pub fn layers(&self, protocol: &str) -> String {
        let ip = |v6| if v6 { "ipv6" } else { "ip" };
        let mut layers = vec!["eth", "ethertype", ip(self.v6_real)];
        layers.extend(self.method.between);
        if self.method.name != L2.name {
            layers.push(ip(self.vip.is_ipv6()));
        }
        layers.push(protocol);
        layers.join(":")
    }
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let real = if self.v6_real { "IPv6" } else { "IPv4" };
        write!(f, "{} {} to {} over {real}", self.method.name, self.method.of_vip.replace('\n', " "), self.at())
    }
}

/// The balancer's configuration.
pub fn configuration(lab: &Lab, services: &[Service]) -> String {
    let (lb, real) = (lab.link(Host::Lb).expect("a link"), lab.link(REAL).expect("a link"));
    let node = format!("interface = \"{}\"\nmode = \"xdp\"\n", lb.interface);
    text(&node, "", [lb.v4.into(), lb.v6.into()], [real.v4.into(), real.v6.into()], services)
}

/// The same for any host: lines of `[node]` and of `[tunnel]`, sources of tunnels and addresses of the real, IPv4 first.
pub fn text(node: &str, tunnel: &str, sources: [IpAddr; 2], real: [IpAddr; 2], services: &[Service]) -> String {
    let [v4, v6] = sources;
    let mut text =
        format!("[node]\n{node}\n[tunnel]\nsource_v4 = \"{v4}\"\nsource_v6 = \"{v6}\"\n{tunnel}\n[flows]\ncapacity = 10_000\n");
    for service in services {
        let Method { name, of_vip, of_real, .. } = service.method;
        for protocol in ["tcp", "udp"] {
            write!(
                text,
                "[[vip]]\naddress = \"{}\"\nport = {}\nprotocol = \"{protocol}\"\nencap = \"{name}\"\nring_size = 127\n{of_vip}\n[[vip.real]]\naddress = \"{}\"\n{of_real}\n",
                service.vip,
                service.port,
                real[usize::from(service.v6_real)],
            )
            .expect("a String takes everything");
        }
    }
    text
}
