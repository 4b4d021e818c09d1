//! A virtual service and its servers, as the plan has them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use bitflags::bitflags;

use super::health::Health;
use super::mac::Mac;
use super::prefix::Prefix;

/// Transport protocol of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The number in the IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// How weights shape the Maglev ring: the two ways of Katran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Weighting {
    /// A real takes as many turns in a row as its weight.
    V1,
    /// Turns are spread over the rounds in proportion to the weight.
    V2,
}

impl Weighting {
    /// As the configuration calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "maglev-v1",
            Self::V2 => "maglev-v2",
        }
    }
}

/// How packets reach a real.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encap {
    /// IP in IP, of both families in both (RFC 2003, 2473, 4213).
    Ipip,
    /// GUE of version 1: UDP, and the packet right behind it (draft-ietf-intarea-gue).
    Gue,
    /// GUE of version 0: UDP, and a header of four bytes.
    Gue0,
    /// GRE without options (RFC 2784).
    Gre,
    /// UDP, and the packet right behind it; a port for each family inside.
    Fou,
    /// Geneve without options (RFC 8926).
    Geneve,
    /// No tunnel: the frame goes to the MAC of the real, which has the address of the VIP.
    L2,
    /// Addresses and ports are replaced, in both directions.
    Nat,
}

impl Encap {
    /// As the configuration calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        super::sections::ENCAPS.iter().find(|(_, encap)| *encap == self).map_or("", |(name, _)| name)
    }

    /// Whether it has UDP behind the outer IP header.
    #[must_use]
    pub fn has_udp(self) -> bool {
        matches!(self, Self::Gue | Self::Gue0 | Self::Fou | Self::Geneve)
    }
}

/// What is inside Geneve: `vip.geneve_inner`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeneveInner {
    /// The IP packet.
    Ip,
    /// An Ethernet frame with it.
    Ethernet,
}

bitflags! {
    /// `vip.flags`. The values are those of Katran, so that its lists of flags can be compared with ours.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct VipFlags: u32 {
        /// The source port takes no part in anything: all flows of one client reach one real.
        const NO_SOURCE_PORT = 1;
        /// The ring alone decides, flows are not remembered.
        const BYPASS_FLOW_TABLE = 2;
        /// The server id of a QUIC connection id comes first.
        const QUIC = 4;
        /// Only the destination port is hashed: all clients of a port reach one real.
        const HASH_DPORT_ONLY = 8;
        /// Clients of a `[[source_route]]` get its real.
        const SOURCE_ROUTING = 16;
        /// Packets of a real that is this machine are passed to the host as they are.
        const LOCAL = 32;
        /// A flow that is not remembered is looked for in the table that the control plane fills.
        const GLOBAL_FLOW_TABLE = 64;
        /// If the VIP takes every port, the destination port is hashed none the less.
        const HASH_SRC_DST_PORT = 128;
        /// The server id in the payload of UDP comes first.
        const UDP_STABLE_ROUTING = 256;
        /// UDP flows of a real that is down move to another.
        const UDP_FLOW_MIGRATION = 512;
    }
}

impl VipFlags {
    /// As the configuration calls them.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        super::vips::FLAGS.iter().filter(|(_, flag)| self.contains(*flag)).map(|(name, _)| *name).collect()
    }
}

/// One virtual service. Its text is `10.200.1.1:80/udp` or `[fc00:1::1]:80/tcp`, that of a prefix `10.200.0.0/16:80/udp` or
/// `[fc00:1::/96]:80/tcp`; port 0 stands for every port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// A unicast address, or the network of a prefix.
    pub address: IpAddr,
    /// The length of a prefix; `None`: a single address. (A prefix that is as long as the address comes after the address.)
    pub prefix_len: Option<u8>,
    /// 0: every port.
    pub port: u16,
    /// Its transport.
    pub protocol: Protocol,
    /// How weights shape its ring.
    pub weighting: Weighting,
    /// Slots of its ring: a prime, at least the number of reals; 65537 in profile katran.
    pub ring_size: u32,
    /// Forwarding method of its reals that name none.
    pub encap: Encap,
    /// The virtual network of Geneve, 24 bits.
    pub vni: u32,
    /// What is inside Geneve.
    pub geneve_inner: GeneveInner,
    /// What becomes of the flows of a real that is removed from it, or down.
    pub on_removal: OnRemoval,
    /// What is different from other VIPs.
    pub flags: VipFlags,
    /// In the order of the file, distinct in their address; may be empty.
    pub reals: Vec<Real>,
    /// How they are checked; `None`: not.
    pub health: Option<Health>,
}

impl Vip {
    /// The prefix, if it is one.
    #[must_use]
    pub fn prefix(&self) -> Option<Prefix> {
        Prefix::new(self.address, self.prefix_len?)
    }
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, port, protocol, .. } = self;
        match (self.prefix_len, address) {
            (None, _) => write!(f, "{}/{protocol}", SocketAddr::new(*address, *port)),
            (Some(len), IpAddr::V4(v4)) => write!(f, "{v4}/{len}:{port}/{protocol}"),
            (Some(len), IpAddr::V6(v6)) => write!(f, "[{v6}/{len}]:{port}/{protocol}"),
        }
    }
}

/// `vip.on_removal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRemoval {
    /// They go to another real, which does not know them: its reset tells the client at once.
    Reselect,
    /// They stay until they are idle.
    Keep,
    /// They are dropped.
    Drop,
}

/// One server of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Real {
    /// A unicast address of either family.
    pub address: IpAddr,
    /// Share of the ring relative to the other reals; 0: no share.
    pub weight: u32,
    /// Whether it is in the ring, and whether its flows stay; in profile katran only whether it is down.
    pub state: RealState,
    /// Whether it is this machine.
    pub local: bool,
    /// How packets reach it.
    pub encap: Encap,
    /// Destination of the Ethernet frame inside Geneve.
    pub inner_mac: Option<Mac>,
    /// The server's port, if NAT replaces it.
    pub port: Option<u16>,
}

/// `vip.real.state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RealState {
    /// In the ring.
    Up,
    /// Not in the ring; keeps the flows it has.
    Drain,
    /// Not in the ring; its flows follow the removal policy.
    Down,
}
