//! What to build: layout, hosts, VIPs.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::LabError;

/// The prefix of the lab that `tandem lab` uses when none is given.
pub const DEFAULT_PREFIX: &str = "tandem";

/// What names a lab in a `tandem lab` command: ` --prefix NAME` where it is not the default.
#[must_use]
pub fn prefix_option(prefix: &str) -> String {
    if prefix == DEFAULT_PREFIX { String::new() } else { format!(" --prefix {prefix}") }
}

/// Most real servers of one lab: each has a /24 of its own in one /16.
pub const MAX_REALS: u16 = 200;

/// A host of the lab; each is a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// Where the traffic comes from.
    Client,
    /// Between all others; announces the VIPs towards the balancer.
    Router,
    /// The balancer.
    Lb,
    /// A real server, counted from 1.
    Real(u16),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => f.write_str("client"),
            Self::Router => f.write_str("router"),
            Self::Lb => f.write_str("lb"),
            Self::Real(n) => write!(f, "real{n}"),
        }
    }
}

/// A text that names no host.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no host of a lab, expected client, router, lb, real1, real2, …")]
pub struct UnknownHost(String);

impl FromStr for Host {
    type Err = UnknownHost;

    fn from_str(text: &str) -> Result<Self, UnknownHost> {
        let unknown = || UnknownHost(text.to_owned());
        match text {
            "client" => Ok(Self::Client),
            "router" => Ok(Self::Router),
            "lb" => Ok(Self::Lb),
            _ => match text.strip_prefix("real").ok_or_else(unknown)?.parse() {
                Ok(n) if (1..=MAX_REALS).contains(&n) => Ok(Self::Real(n)),
                Ok(_) | Err(_) => Err(unknown()),
            },
        }
    }
}

impl Serialize for Host {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Host {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How the hosts are connected; the crate's first page draws them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Each host on a subnet of its own behind the router.
    #[default]
    Routed,
    /// The classic benchmark's: client 192.168.1.11, balancer 192.168.1.12, VIP 192.168.1.13.
    Classic,
    /// Balancer and real servers on one segment, as direct return by MAC address needs them.
    Segment,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Routed => "routed",
            Self::Classic => "classic",
            Self::Segment => "segment",
        })
    }
}

/// What [`Lab::up`](crate::Lab::up) builds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Names start with it (`PREFIX-client`, `/run/tandem-lab/PREFIX`), so that labs with different prefixes coexist.
    pub prefix: String,
    /// How the hosts are connected.
    pub layout: Layout,
    /// Number of real servers, 1 to [`MAX_REALS`].
    pub reals: u16,
    /// The addresses that the router sends to the balancer and that every real has on `lo`.
    pub vips: Vec<IpAddr>,
    /// RX and TX queues of the balancer's link, at both ends.
    pub lb_queues: u32,
    /// MTU of the client's link, in bytes.
    pub client_mtu: u32,
    /// MTU of the links that carry encapsulated frames (balancer's and reals'), in bytes.
    pub tunnel_mtu: u32,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            prefix: DEFAULT_PREFIX.to_owned(),
            layout: Layout::Routed,
            reals: 3,
            vips: Vec::new(),
            lb_queues: 2,
            client_mtu: 1500,
            tunnel_mtu: 1600,
        }
    }
}

impl Spec {
    /// The routed layout with three reals.
    #[must_use]
    pub fn routed(prefix: &str, vips: &[IpAddr]) -> Self {
        Self { prefix: prefix.to_owned(), vips: vips.to_vec(), ..Self::default() }
    }

    /// The classic benchmark's layout with three reals and its VIP, 192.168.1.13.
    #[must_use]
    pub fn classic(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            layout: Layout::Classic,
            vips: vec![IpAddr::from([192, 168, 1, 13])],
            ..Self::default()
        }
    }

    /// Balancer and three reals on one segment.
    #[must_use]
    pub fn segment(prefix: &str, vips: &[IpAddr]) -> Self {
        Self { layout: Layout::Segment, ..Self::routed(prefix, vips) }
    }

    /// The namespace of a host, as it is found under `/run/netns`.
    #[must_use]
    pub fn namespace(&self, host: Host) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// All hosts, the router first.
    pub fn hosts(&self) -> impl Iterator<Item = Host> {
        [Host::Router, Host::Client, Host::Lb].into_iter().chain((1..=self.reals).map(Host::Real))
    }

    /// Is this a lab that can be built?
    ///
    /// # Errors
    /// [`LabError::Spec`] names the part, its value and what is accepted.
    pub fn check(&self) -> Result<(), LabError> {
        check_prefix(&self.prefix)?;
        let within = |key, found: u32, accepted: std::ops::RangeInclusive<u32>| {
            if accepted.contains(&found) {
                return Ok(());
            }
            let expected = format!("{} to {}", accepted.start(), accepted.end());
            Err(LabError::Spec { key, found: found.to_string(), expected })
        };
        within("reals", self.reals.into(), 1..=MAX_REALS.into())?;
        within("lb_queues", self.lb_queues, 1..=64)?;
        // 1280 is the least that IPv6 runs on (RFC 8200, section 5); the upper end is where veth with XDP ends: one page
        // less headroom and skb_shared_info (drivers/net/veth.c, veth_xdp_set).
        within("client_mtu", self.client_mtu, 1280..=3000)?;
        within("tunnel_mtu", self.tunnel_mtu, self.client_mtu..=3400)?;
        for (at, vip) in self.vips.iter().enumerate() {
            let broadcast = matches!(vip, IpAddr::V4(v4) if v4.is_broadcast());
            let unicast = !(vip.is_unspecified() || vip.is_loopback() || vip.is_multicast() || broadcast);
            if !unicast || self.vips[..at].contains(vip) {
                let expected = "unicast addresses, each once".to_owned();
                return Err(LabError::Spec { key: "vips", found: vip.to_string(), expected });
            }
        }
        Ok(())
    }
}

/// A prefix becomes part of file names and of namespace names.
pub(crate) fn check_prefix(prefix: &str) -> Result<(), LabError> {
    let accepted = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !prefix.is_empty() && prefix.len() <= 32 && prefix.chars().all(accepted) && !prefix.starts_with('-') {
        return Ok(());
    }
    let expected = "1 to 32 of a-z, 0-9 and -, not beginning with -".to_owned();
    Err(LabError::Spec { key: "prefix", found: prefix.to_owned(), expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_read_back_what_they_print() {
        for host in Spec::default().hosts() {
            assert_eq!(host.to_string().parse(), Ok(host));
        }
        for wrong in ["", "real", "real0", "real201", "real-1", "Lb", "clients"] {
            assert!(wrong.parse::<Host>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_mistake_is_named() {
        let right = Spec::routed("t", &[[10, 200, 1, 1].into()]);
        right.check().unwrap();
        let vip = right.vips[0];
        let wrong = [
            ("prefix", Spec { prefix: "../t".into(), ..right.clone() }),
            ("prefix", Spec { prefix: String::new(), ..right.clone() }),
            ("reals", Spec { reals: 0, ..right.clone() }),
            ("reals", Spec { reals: 201, ..right.clone() }),
            ("lb_queues", Spec { lb_queues: 0, ..right.clone() }),
            ("client_mtu", Spec { client_mtu: 1279, ..right.clone() }),
            ("tunnel_mtu", Spec { tunnel_mtu: 1499, ..right.clone() }),
            ("vips", Spec { vips: vec![vip, vip], ..right.clone() }),
            ("vips", Spec { vips: vec![[255; 4].into()], ..right.clone() }),
            ("vips", Spec { vips: vec![[224, 0, 0, 1].into()], ..right.clone() }),
        ];
        for (part, spec) in wrong {
            let error = spec.check().expect_err(part);
            assert!(matches!(error, LabError::Spec { key, .. } if key == part), "{part}: {error}");
        }
    }
}
