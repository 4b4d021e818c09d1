//! What is served in a lab: the balancer's configuration for it, and which real each connection reaches by that.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, anyhow};
use tandem_backends::config::{self, Plan, Protocol};
use tandem_backends::replay::{Backend, Instance, Tuple};
use tandem_lab::{Host, Topology};

/// Ports that are tried for iperf3 at once: as many rings are built for each protocol.
const CANDIDATES: u16 = 8;

/// A virtual service of the lab; all reals serve it with the same weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Service {
    /// Address and port.
    pub at: SocketAddr,
    /// Its transport.
    pub protocol: Protocol,
    /// The reals are named by their IPv6 addresses, else by their IPv4 addresses.
    pub v6_reals: bool,
    /// All connections of a client reach one real.
    pub one_real: bool,
}

impl Service {
    /// HTTP, balanced by connection over reals of the VIP's own family.
    pub fn http(at: SocketAddr) -> Self {
        Self { at, protocol: Protocol::Tcp, v6_reals: at.is_ipv6(), one_real: false }
    }

    /// The same over IPv6 reals, or over IPv4 reals.
    pub fn over_v6(self, v6_reals: bool) -> Self {
        Self { v6_reals, ..self }
    }

    /// The two of iperf3: all connections of a client reach one real, as a test opens several.
    pub fn iperf3(at: SocketAddr) -> [Self; 2] {
        [Protocol::Tcp, Protocol::Udp].map(|protocol| Self { protocol, one_real: true, ..Self::http(at) })
    }

    /// The name that the balancer counts it under.
    pub fn name(&self) -> String {
        format!("{}/{}", self.at, self.protocol)
    }
}

/// The configuration of a balancer in the lab. It also holds what the host would supply, so that `tandem trace` and `tandem
/// replay` take it anywhere.
pub fn configuration(topology: &Topology, services: &[Service]) -> anyhow::Result<String> {
    let lb = topology.link(Host::Lb)?;
    let mut text = format!(
        r#"# The balancer of the lab `{prefix}`: tandem lab exec --prefix {prefix} lb -- tandem run -c THIS-FILE --name {name}

[node]
interface = "{interface}"
mode = "xdp"                            # or "afxdp"; `tandem mode set` switches live
attach = "native"
# Left out, `tandem run` asks the kernel for these; `tandem trace` and `tandem replay` need them.
next_hop_mac = "{next_hop}"
local_mac = "{local}"

[tunnel]
source_v4 = "{v4}"
source_v6 = "{v6}"

[flows]
capacity = 100_000
"#,
        prefix = topology.spec.prefix,
        name = super::rig::balancer_name(&topology.spec.prefix),
        interface = lb.interface,
        next_hop = lb.router.gateway_mac,
        local = lb.mac,
        v4 = lb.v4,
        v6 = lb.v6,
    );
    for service in services {
        let flags = if service.one_real { r#"["no-source-port"]"# } else { "[]" };
        write!(
            text,
            "\n[[vip]]\naddress = \"{}\"\nport = {}\nprotocol = \"{}\"\nflags = {flags}\n",
            service.at.ip(),
            service.at.port(),
            service.protocol
        )?;
        for real in topology.reals() {
            let address = real.address_like(if service.v6_reals { lb.v6.into() } else { lb.v4.into() });
            write!(text, "[[vip.real]]\naddress = \"{address}\"           # {}\n", real.host)?;
        }
    }
    Ok(text)
}

/// Says which real a connection reaches: what `tandem trace` says, by the very code that forwards.
pub struct Oracle {
    instance: Instance,
    topology: Topology,
}

impl Oracle {
    /// For a balancer of this plan.
    ///
    /// # Errors
    /// The plan lacks what the host would supply, or there is no memory.
    pub fn new(plan: &Plan, topology: &Topology) -> anyhow::Result<Self> {
        // The seed only spreads the flow table; the first frame of a connection is the ring's to decide.
        let instance = Instance::new(Backend::Engine, plan, 0)?;
        Ok(Self { instance, topology: topology.clone() })
    }

    /// The real of a connection.
    ///
    /// # Errors
    /// It reaches none.
    pub fn real_of(&mut self, protocol: Protocol, source: SocketAddr, destination: SocketAddr) -> anyhow::Result<Host> {
        let tuple = Tuple { protocol, source, destination };
        let (decision, _) = self.instance.frame(&tuple.frame())?;
        let none = || anyhow!("{tuple}: no real, {}", decision.reason.map_or("no reason", |reason| reason.name()));
        let (_, address) = decision.real.ok_or_else(none)?;
        let found = self.topology.reals().find(|real| real.address_like(address) == address);
        Ok(found.with_context(|| format!("{tuple}: {address} is no real of the lab"))?.host)
    }
}

/// The first port from 5201 on where the TCP and the UDP connections of the client to a VIP reach the same real, and that real:
/// iperf3 controls its UDP tests over TCP, and protocol and port take part in the choice.
///
/// # Errors
/// There is none.
pub fn iperf3_port(topology: &Topology, vip: IpAddr) -> anyhow::Result<(u16, Host)> {
    // With `no-source-port`, the source port is as good as any.
    let source = SocketAddr::new(topology.link(Host::Client)?.address_like(vip), 40_000);
    for first in (5201..7201).step_by(usize::from(CANDIDATES)) {
        let ports = first..first + CANDIDATES;
        let services: Vec<_> = ports.clone().flat_map(|port| Service::iperf3(SocketAddr::new(vip, port))).collect();
        let text = configuration(topology, &services)?;
        let mut oracle = Oracle::new(&config::parse(&text, "the lab")?.plan, topology)?;
        for port in ports {
            let at = SocketAddr::new(vip, port);
            let tcp = oracle.real_of(Protocol::Tcp, source, at)?;
            if tcp == oracle.real_of(Protocol::Udp, source, at)? {
                return Ok((port, tcp));
            }
        }
    }
    Err(anyhow!("{vip}: TCP and UDP of the client reach different reals on each of 2,000 ports; use fewer reals"))
}
