//! The validated configuration: types only, no text that still has to be understood.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::mac::Mac;

/// Most VIPs of one configuration.
pub const MAX_VIPS: usize = 512;
/// Most distinct addresses of reals over all VIPs: ids are 12 bits wide and 0 is nobody.
pub const MAX_REALS: usize = 4095;
/// Largest ring of a VIP, in slots: 2 MiB of memory at two bytes a slot.
pub const MAX_RING_SIZE: u32 = 1 << 20;
/// Ring size of a VIP that names none, in slots.
pub(super) const RING_SIZE: u32 = 65_537;
/// Largest frame accepted for a VIP if none is given, in bytes without FCS: 1,500 of payload and the Ethernet header.
pub(super) const MAX_FRAME: u32 = 1514;
/// Entries of the flow table if none are given.
pub(super) const FLOW_CAPACITY: u32 = 1_000_000;
/// Idle time of UDP flows if none is given.
pub(super) const UDP_IDLE: Duration = Duration::from_secs(30);

/// A validated configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Plan {
    /// Where VIP traffic arrives: one name, or none if the file names none (enough for `replay` and `trace`, not for `run`).
    pub interfaces: Vec<String>,
    /// The seat that was asked for.
    pub mode: ModeWish,
    /// How the XDP program is attached.
    pub attach: Attach,
    /// Destination of every forwarded frame; `None`: from the kernel's routes and neighbours, per real.
    pub next_hop_mac: Option<Mac>,
    /// Source of every forwarded frame; `None`: the interface's own.
    pub local_mac: Option<Mac>,
    /// Whose behaviour is followed.
    pub profile: Profile,
    /// Cores of the forwarding threads, distinct and at least one; `None`: one per receive queue.
    pub cores: Option<Vec<usize>>,
    /// Source of outer IPv4 headers; `None`: the interface's own.
    pub source_v4: Option<Ipv4Addr>,
    /// Source of outer IPv6 headers; `None`: the interface's own.
    pub source_v6: Option<Ipv6Addr>,
    /// Network (host bits zero) and length that outer IPv4 sources are crafted in, per flow; `None`: the plain source.
    pub source_prefix_v4: Option<(Ipv4Addr, u8)>,
    /// Network (host bits zero) and length that outer IPv6 sources are crafted in, per flow; `None`: the plain source.
    pub source_prefix_v6: Option<(Ipv6Addr, u8)>,
    /// Largest frame accepted for a VIP, in bytes with the Ethernet header and without FCS.
    pub max_frame: u32,
    /// Entries of the flow table that were asked for; the table rounds up to a power of two of sets of five.
    pub flow_capacity: u32,
    /// How long a UDP flow without packets keeps its real.
    pub udp_idle: Duration,
    /// UDP port of GUE.
    pub gue_port: u16,
    /// The real of each socket mark, in the order of the file; distinct in the mark.
    pub health_encaps: Vec<HealthEncap>,
    /// In the order of the file, distinct in address, port and protocol.
    pub vips: Vec<Vip>,
}

impl Plan {
    /// Whether the host must supply the source of outer IPv4 headers: there is an IPv4 real, and neither `source_v4` nor
    /// `source_prefix_v4`.
    #[must_use]
    pub fn needs_source_v4(&self) -> bool {
        self.source_v4.is_none() && self.source_prefix_v4.is_none() && self.any_real(IpAddr::is_ipv4)
    }

    /// Whether the host must supply the source of outer IPv6 headers: there is an IPv6 real, and neither `source_v6` nor
    /// `source_prefix_v6`.
    #[must_use]
    pub fn needs_source_v6(&self) -> bool {
        self.source_v6.is_none() && self.source_prefix_v6.is_none() && self.any_real(IpAddr::is_ipv6)
    }

    fn any_real(&self, family: impl Fn(&IpAddr) -> bool) -> bool {
        self.vips.iter().flat_map(|vip| &vip.reals).any(|real| family(&real.address))
    }
}

/// `node.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModeWish {
    /// Whichever suits the host.
    Auto,
    /// In the kernel.
    Xdp,
    /// In userspace, over AF_XDP.
    Afxdp,
}

/// `node.attach`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// In the driver; an error on one without XDP.
    Native,
    /// In the network stack, on any interface, slower.
    Generic,
}

/// `node.profile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Tandem's own behaviour.
    Standard,
    /// Katran's, byte by byte.
    Katran,
}

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighting {
    /// A real takes as many turns in a row as its weight.
    V1,
    /// Turns are spread over the rounds in proportion to the weight.
    V2,
}

/// One virtual service. Its text is `10.200.1.1:80/udp` or `[fc00:1::1]:80/tcp`; port 0 stands for every port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// A unicast address.
    pub address: IpAddr,
    /// 0: every port.
    pub port: u16,
    /// Its transport.
    pub protocol: Protocol,
    /// How weights shape its ring.
    pub weighting: Weighting,
    /// Slots of its ring: a prime, at least the number of reals.
    pub ring_size: u32,
    /// The source port takes no part in the choice: all flows of one client reach one real.
    pub no_source_port: bool,
    /// The ring alone decides, flows are not remembered.
    pub bypass_flow_table: bool,
    /// In the order of the file, distinct in their address; may be empty.
    pub reals: Vec<Real>,
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let socket = SocketAddr::new(self.address, self.port);
        write!(f, "{socket}/{}", self.protocol)
    }
}

/// One server of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Real {
    /// A unicast address of either family.
    pub address: IpAddr,
    /// Share of the ring relative to the other reals; 0: no share.
    pub weight: u32,
    /// Whether it is in the ring.
    pub state: RealState,
}

impl Real {
    /// Whether it can get new flows.
    #[must_use]
    pub fn is_in_ring(&self) -> bool {
        self.state == RealState::Up && self.weight > 0
    }
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

/// `[[health_encap]]`: a real for probes with a socket mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthEncap {
    /// The mark, not 0.
    pub mark: u32,
    /// The real that is probed.
    pub real: IpAddr,
}
