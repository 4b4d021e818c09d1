//! Names, addresses and sizes of everything in a lab, worked out before anything is made.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{Host, LabError, Layout, Spec};

/// The router's bridge in the classic layout.
pub(crate) const BRIDGE: &str = "segment";

/// A link-layer address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A text that is no link-layer address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no link-layer address, expected the form 02:00:00:00:00:01")]
pub struct NoMac(String);

impl FromStr for Mac {
    type Err = NoMac;

    fn from_str(text: &str) -> Result<Self, NoMac> {
        let wrong = || NoMac(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Self(octets)) }
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The router's end of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterPort {
    /// The device's name in the router, the host's own name.
    pub interface: String,
    /// Its index in the router's namespace.
    pub index: u32,
    /// Its link-layer address.
    pub mac: Mac,
    /// The bridge it is a port of; `None`: it is routed itself.
    pub bridge: Option<String>,
    /// The router's IPv4 address on the link's subnet, the host's gateway.
    pub gateway_v4: Ipv4Addr,
    /// The router's IPv6 address on the link's subnet, the host's gateway.
    pub gateway_v6: Ipv6Addr,
    /// Where frames to the gateway go: `mac`, or the bridge's.
    pub gateway_mac: Mac,
}

/// A veth pair between a host and the router, described from the host's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Whose link this is.
    pub host: Host,
    /// The host's namespace.
    pub namespace: String,
    /// The device's name in the host.
    pub interface: String,
    /// Its index in the host's namespace.
    pub index: u32,
    /// Its link-layer address.
    pub mac: Mac,
    /// The host's IPv4 address.
    pub v4: Ipv4Addr,
    /// Prefix length of the link's IPv4 subnet.
    pub v4_len: u8,
    /// The host's IPv6 address.
    pub v6: Ipv6Addr,
    /// Prefix length of the link's IPv6 subnet.
    pub v6_len: u8,
    /// MTU of both ends, in bytes.
    pub mtu: u32,
    /// RX and TX queues of both ends.
    pub queues: u32,
    /// The other end.
    pub router: RouterPort,
}

impl Link {
    /// The host's address of the same family as `like`.
    #[must_use]
    pub fn address_like(&self, like: IpAddr) -> IpAddr {
        if like.is_ipv4() { self.v4.into() } else { self.v6.into() }
    }

    /// The gateway's address of the same family as `like`.
    #[must_use]
    pub fn gateway_like(&self, like: IpAddr) -> IpAddr {
        if like.is_ipv4() { self.router.gateway_v4.into() } else { self.router.gateway_v6.into() }
    }
}

/// A lab on paper; device indices are 0 until it is built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// What was asked for.
    #[serde(flatten)]
    pub spec: Spec,
    /// One link a host, in the order client, lb, real1, real2, …
    pub links: Vec<Link>,
}

impl Topology {
    /// Works out names and addresses.
    ///
    /// # Errors
    /// [`LabError::Spec`] for what cannot be built, also for a VIP that is the address of a host.
    pub fn new(spec: Spec) -> Result<Self, LabError> {
        spec.check()?;
        let links: Vec<_> = spec.hosts().filter(|host| *host != Host::Router).map(|host| link(&spec, host)).collect();
        for vip in &spec.vips {
            let taken = |link: &&Link| link.address_like(*vip) == *vip || link.gateway_like(*vip) == *vip;
            if let Some(link) = links.iter().find(taken) {
                let expected = format!("an address that is not on the link of {}", link.host);
                return Err(LabError::Spec { key: "vips", found: vip.to_string(), expected });
            }
        }
        Ok(Self { spec, links })
    }

    /// The link of a host.
    ///
    /// # Errors
    /// [`LabError::NoHost`] for the router, which has one to each, and for reals that the lab does not have.
    pub fn link(&self, host: Host) -> Result<&Link, LabError> {
        self.links.iter().find(|link| link.host == host).ok_or_else(|| LabError::NoHost {
            host,
            expected: self.links.iter().map(|link| link.host.to_string()).collect::<Vec<_>>().join(", "),
        })
    }

    /// The namespaces, the router's first.
    pub fn namespaces(&self) -> impl Iterator<Item = String> {
        self.spec.hosts().map(|host| self.spec.namespace(host))
    }

    /// The hosts that are real servers.
    pub fn reals(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(|link| matches!(link.host, Host::Real(_)))
    }
}

/// Subnet number of a host: third octet of its IPv4 subnet, fourth group of its IPv6 subnet.
fn subnet(layout: Layout, host: Host) -> u8 {
    match (layout, host) {
        (_, Host::Client | Host::Router) | (Layout::Classic, Host::Lb) => 1,
        (Layout::Routed, Host::Lb) | (Layout::Segment, Host::Lb | Host::Real(_)) => 2,
        (_, Host::Real(n)) => number(n),
    }
}

/// A real's subnet, part of its link-layer address, or its place on the segment.
fn number(real: u16) -> u8 {
    // At most MAX_REALS = 200, which `Spec::check` has seen to.
    10 + u8::try_from(real).unwrap_or(u8::MAX - 10)
}

fn link(spec: &Spec, host: Host) -> Link {
    let subnet = subnet(spec.layout, host);
    let (net_v4, net_v6) = match spec.layout {
        Layout::Routed | Layout::Segment => ([10, 90, subnet], 0xfd90),
        Layout::Classic => ([192, 168, subnet], 0xfd92),
    };
    let v4 = |last| Ipv4Addr::new(net_v4[0], net_v4[1], net_v4[2], last);
    let v6 = |last| Ipv6Addr::new(net_v6, 0, 0, subnet.into(), 0, 0, 0, last);
    // On the classic segment the hosts have the benchmark's addresses; else the host is .2 and ::2 of its subnet.
    let (last_v4, last_v6) = match (spec.layout, host) {
        (Layout::Classic, Host::Client) => (11, 0x11),
        (Layout::Classic, Host::Lb) => (12, 0x12),
        (Layout::Segment, Host::Real(n)) => (number(n), u16::from(number(n))),
        _ => (2, 2),
    };
    let bridged = match spec.layout {
        Layout::Routed => false,
        Layout::Classic => matches!(host, Host::Client | Host::Lb),
        Layout::Segment => matches!(host, Host::Lb | Host::Real(_)),
    };
    // Locally administered; the last octet tells the ends, the one before it the host.
    let own = match host {
        Host::Client | Host::Router => 1,
        Host::Lb => 2,
        Host::Real(n) => number(n),
    };
    let mac = |end| Mac([0x02, 0x74, 0x64, 0x6d, own, end]);
    let router_mac = mac(1);
    Link {
        host,
        namespace: spec.namespace(host),
        interface: "eth0".to_owned(),
        index: 0,
        mac: mac(2),
        v4: v4(last_v4),
        v4_len: 24,
        v6: v6(last_v6),
        v6_len: 64,
        mtu: if host == Host::Client { spec.client_mtu } else { spec.tunnel_mtu },
        queues: if host == Host::Lb { spec.lb_queues } else { 1 },
        router: RouterPort {
            interface: host.to_string(),
            index: 0,
            mac: router_mac,
            bridge: bridged.then(|| BRIDGE.to_owned()),
            gateway_v4: v4(1),
            gateway_v6: v6(1),
            gateway_mac: if bridged { Mac([0x02, 0x74, 0x64, 0x6d, 0, 1]) } else { router_mac },
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn macs_read_back_what_they_print() {
        let mac = Mac([2, 0, 0xab, 0xcd, 0xef, 1]);
        assert_eq!(mac.to_string(), "02:00:ab:cd:ef:01");
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for wrong in ["", "02:00:00:00:00", "02:00:00:00:00:00:00", "2:0:0:0:0:0", "02:00:00:00:00:0g"] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_are_unique_in_the_largest_lab() {
        for layout in [Layout::Routed, Layout::Classic, Layout::Segment] {
            let lab = Topology::new(Spec { layout, reals: 200, ..Spec::default() }).unwrap();
            assert_eq!(lab.links.len(), 202);
            let macs: HashSet<_> = lab.links.iter().flat_map(|l| [l.mac, l.router.mac]).collect();
            let v4: HashSet<_> = lab.links.iter().map(|l| l.v4).collect();
            let v6: HashSet<_> = lab.links.iter().map(|l| l.v6).collect();
            assert_eq!((macs.len(), v4.len(), v6.len()), (404, 202, 202));
        }
    }

    #[test]
    fn classic_has_the_benchmarks_addresses() {
        let lab = Topology::new(Spec::classic("t")).unwrap();
        let at = |host| lab.link(host).unwrap().v4.to_string();
        assert_eq!((at(Host::Client).as_str(), at(Host::Lb).as_str()), ("192.168.1.11", "192.168.1.12"));
        assert_eq!(lab.spec.vips, [IpAddr::from([192, 168, 1, 13])]);
        assert!(lab.reals().all(|real| real.router.bridge.is_none()));
    }

    #[test]
    fn a_vip_on_a_host_is_refused() {
        let spec = Spec::routed("t", &[[10, 90, 11, 2].into()]);
        let error = Topology::new(spec).unwrap_err().to_string();
        assert!(error.contains("10.90.11.2") && error.contains("real1"), "{error}");
    }
}
