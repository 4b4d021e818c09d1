//! The validated configuration: types only, no text that still has to be understood.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tandem_engine::strip::Tunnels;

use super::health::{Announce, FIRST_MARK};
use super::mac::Mac;
use super::nat::NatPlan;
use super::prefix::Prefix;
use super::served::ApiPlan;
use super::service::{Encap, Real, RealState, Vip};

/// Most VIPs of one configuration.
pub const MAX_VIPS: usize = tandem_engine::memory::vips::MAX_VIPS as usize;
/// Most VIPs that are prefixes in profile katran.
pub const MAX_PREFIX_VIPS: usize = 256;
/// Most distinct addresses of reals, those included that no VIP names.
pub const MAX_REALS: usize = (1 << 17) - 1;
/// Most reals over all VIPs, those of several VIPs counted for each, and those that no VIP names.
pub const MAX_ALL_REALS: usize = tandem_engine::memory::reals::MAX_REALS as usize - 1;
/// Most destinations of tunnels that are opened inline.
pub const MAX_DECAPS: usize = 512;
/// Largest ring of a VIP, in slots: 2 MiB of memory at two bytes a slot.
pub const MAX_RING_SIZE: u32 = 1 << 20;
/// Ring size of a VIP that names none, in slots.
pub(super) const RING_SIZE: u32 = 65_537;
/// Largest frame accepted for a VIP if none is given, in bytes without FCS: 1,500 of payload and the Ethernet header.
pub(super) const MAX_FRAME: u32 = 1514;
/// Entries of the flow table if none are given.
pub(super) const FLOW_CAPACITY: u32 = 1_000_000;
/// Destination port of GUE if none is given.
pub(super) const GUE_PORT: u16 = Tunnels::standard().gue_port;
/// UDP ports of FOU: those of `ip-fou(8)`'s examples.
pub(super) const FOU_PORTS: [u16; 2] = Tunnels::standard().fou_ports;
/// UDP port of Geneve (RFC 8926 section 3.3).
pub(super) const GENEVE_PORT: u16 = Tunnels::standard().geneve_port;
/// New flows that one core remembers in a second if no number is given.
pub(super) const NEW_FLOWS_PER_CORE: u32 = 125_000;
/// Outer IPv4 sources of profile katran if none are given.
pub(super) const KATRAN_SOURCES_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(172, 16, 0, 0), 16);
/// Outer IPv6 sources of profile katran if none are given: inside the discard prefix (RFC 6666).
pub(super) const KATRAN_SOURCES_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64);
/// Idle time of UDP flows if none is given.
pub(super) const UDP_IDLE: Duration = Duration::from_secs(30);

/// How long the control process may be silent if nothing is said.
pub(super) const CONTROL_LOSS_AFTER: Duration = Duration::from_secs(10);

/// Interfaces at most.
pub const MAX_INTERFACES: usize = 8;

/// A validated configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Plan {
    /// Where VIP traffic arrives and leaves: names, or none if the file names none (enough for `replay` and `trace`, not for
    /// `run`).
    pub interfaces: Vec<String>,
    /// The seat that was asked for.
    pub mode: ModeWish,
    /// How the XDP program is attached.
    pub attach: Attach,
    /// Destination of every forwarded frame; `None`: from the kernel's routes and neighbours, per real.
    pub next_hop_mac: Option<Mac>,
    /// Source of every forwarded frame; `None`: the interface's own.
    pub local_mac: Option<Mac>,
    /// What becomes of frames to VIPs when the control process is gone or hangs.
    pub on_control_loss: OnControlLoss,
    /// How long it may be silent before that.
    pub control_loss_after: Duration,
    /// Whose behaviour is followed.
    pub profile: Profile,
    /// Cores of the forwarding threads, distinct and at least one; `None`: one per receive queue.
    pub cores: Option<Vec<usize>>,
    /// Forwarding method of the reals that belong to no VIP.
    pub encap: Encap,
    /// Source of outer IPv4 headers; `None`: the interface's own.
    pub source_v4: Option<Ipv4Addr>,
    /// Source of outer IPv6 headers; `None`: the interface's own.
    pub source_v6: Option<Ipv6Addr>,
    /// Network (host bits zero) and length that outer IPv4 sources of IPIP are crafted in, per flow; `None`: the plain source.
    /// In profile katran never `None`.
    pub source_prefix_v4: Option<(Ipv4Addr, u8)>,
    /// Network (host bits zero) and length that outer IPv6 sources of IPIP are crafted in, per flow; `None`: the plain source.
    /// In profile katran never `None`.
    pub source_prefix_v6: Option<(Ipv6Addr, u8)>,
    /// UDP destination port of GUE, not 0.
    pub gue_port: u16,
    /// UDP destination ports of FOU with IPv4 inside, and with IPv6 inside; not 0.
    pub fou_ports: [u16; 2],
    /// UDP destination port of Geneve, not 0.
    pub geneve_port: u16,
    /// Whether UDP tunnels go without a checksum where it cannot be had from the headers alone.
    pub zero_checksums: bool,
    /// Tunnels that are opened inline.
    pub decap: DecapKinds,
    /// Whether a tunnel has to end at one of [`Plan::decaps`] or at the balancer's own source address to be opened.
    pub decap_strict: bool,
    /// Whether TCP is routed by its server-id option.
    pub tcp_server_id: bool,
    /// Largest frame accepted for a VIP, in bytes with the Ethernet header and without FCS.
    pub max_frame: u32,
    /// Largest IP packet on the way to a real, outer headers included; `None`: what the kernel's routes say.
    pub path_mtu: Option<u16>,
    /// What becomes of a larger frame, or of one that is too large for the way to its real.
    pub too_big: TooBig,
    /// Entries of the flow table that were asked for; the table rounds up to a power of two of sets of five.
    pub flow_capacity: u32,
    /// How long a UDP flow without packets keeps its real.
    pub udp_idle: Duration,
    /// The file with the key of the flow table's hash, which balancers that exchange flows share; `None`: each start of new
    /// tables makes a key of its own.
    pub key_file: Option<PathBuf>,
    /// New flows that one core remembers in a second; above it the ring alone decides.
    pub new_flows_per_core: u32,
    /// How addresses are translated for the reals with [`Encap::Nat`].
    pub nat: NatPlan,
    /// The real of each server id (not 0); distinct in the id.
    pub server_ids: Vec<(u32, IpAddr)>,
    /// The real for clients of each prefix, in the order of the file; distinct in the prefix.
    pub source_routes: Vec<(Prefix, IpAddr)>,
    /// Where tunnels end, in the order of the file; distinct in the address.
    pub decaps: Vec<Decap>,
    /// The real of each socket mark, in the order of the file; distinct in the mark.
    pub health_encaps: Vec<HealthEncap>,
    /// In the order of the file, distinct in address, prefix, port and protocol.
    pub vips: Vec<Vip>,
    /// Where routes for VIPs with enough healthy reals go; `None`: there are none.
    pub announce: Option<Announce>,
    /// Who may reach the API.
    pub api: ApiPlan,
    /// Where metrics are served; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
}

impl Plan {
    /// Whether the host must supply the source of outer IPv4 headers: `source_v4` is not set, and there is an IPv4 real whose
    /// header is not crafted inside `source_prefix_v4`.
    #[must_use]
    pub fn needs_source_v4(&self) -> bool {
        self.source_v4.is_none() && self.any_plain(IpAddr::is_ipv4, self.source_prefix_v4.is_some())
    }

    /// Whether the host must supply the source of outer IPv6 headers: `source_v6` is not set, and there is an IPv6 real whose
    /// header is not crafted inside `source_prefix_v6`.
    #[must_use]
    pub fn needs_source_v6(&self) -> bool {
        self.source_v6.is_none() && self.any_plain(IpAddr::is_ipv6, self.source_prefix_v6.is_some())
    }

    /// Whether a real of the family needs a plain source: that of a UDP tunnel always does, that of IPIP and GRE if none are
    /// crafted. (Probes of health checks are never crafted.)
    fn any_plain(&self, family: impl Fn(&IpAddr) -> bool, crafted: bool) -> bool {
        let plain = |encap: Encap| encap.has_udp() || !crafted && !matches!(encap, Encap::L2 | Encap::Nat);
        self.vips.iter().flat_map(|vip| &vip.reals).any(|real| family(&real.address) && plain(real.encap))
            || self.unowned_reals().any(|address| family(&address) && plain(self.encap))
            || self.health_encaps.iter().any(|probe| family(&probe.real))
    }

    /// The reals that server ids, source routes and probes name, which need not belong to a VIP; addresses may repeat.
    pub fn unowned_reals(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let ids = self.server_ids.iter().map(|(_, real)| *real);
        let routes = self.source_routes.iter().map(|(_, real)| *real);
        ids.chain(routes).chain(self.health_encaps.iter().map(|probe| probe.real))
    }

    /// The addresses of all reals, in order, each once.
    #[must_use]
    pub fn reals(&self) -> Vec<IpAddr> {
        let of_vips = self.vips.iter().flat_map(|vip| &vip.reals).map(|real| real.address);
        let distinct: BTreeSet<IpAddr> = of_vips.chain(self.unowned_reals()).collect();
        distinct.into_iter().collect()
    }

    /// How packets reach the reals that are no VIP's, where that is not [`Plan::encap`]: as a VIP's do if only probes name it, which
    /// have to resemble its data.
    #[must_use]
    pub fn encaps_of_unowned(&self) -> HashMap<IpAddr, Encap> {
        let mut encaps: HashMap<IpAddr, Encap> = HashMap::new();
        if self.health_encaps.is_empty() {
            return encaps;
        }
        for real in self.vips.iter().flat_map(|vip| &vip.reals) {
            encaps.entry(real.address).or_insert(real.encap);
        }
        let named = self.server_ids.iter().map(|(_, real)| real).chain(self.source_routes.iter().map(|(_, real)| real));
        for real in named {
            encaps.remove(real);
        }
        encaps
    }

    /// The reals of `vip` that take new flows. In profile katran their weight alone decides.
    pub fn in_ring<'p>(&'p self, vip: &'p Vip) -> impl Iterator<Item = &'p Real> {
        vip.reals.iter().filter(|real| self.profile.is_in_ring(real))
    }

    /// The reals of `vip` that keep the flows they have. In profile katran those are all.
    pub fn kept<'p>(&'p self, vip: &'p Vip) -> impl Iterator<Item = &'p Real> {
        vip.reals.iter().filter(|real| self.profile.keeps(real))
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

/// `node.on_control_loss`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnControlLoss {
    /// The kernel forwards them as before.
    Keep,
    /// They are given to the host.
    Pass,
    /// They are dropped.
    Drop,
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

impl Profile {
    /// Whether `real` takes new flows.
    #[must_use]
    pub fn is_in_ring(self, real: &Real) -> bool {
        real.weight > 0 && (self == Self::Katran || real.state == RealState::Up)
    }

    /// Whether `real` keeps the flows it has.
    #[must_use]
    pub fn keeps(self, real: &Real) -> bool {
        self == Self::Katran || real.state != RealState::Down
    }
}

/// `tunnel.decap`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecapKinds {
    /// IP in IP, of both families in both.
    pub ipip: bool,
    /// GUE of version 1, at `tunnel.gue_port`.
    pub gue: bool,
}

impl DecapKinds {
    /// Whether any tunnel is opened.
    #[must_use]
    pub fn any(self) -> bool {
        self.ipip || self.gue
    }
}

/// `tunnel.too_big`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooBig {
    /// The sender is told, by ICMP.
    Icmp,
    /// Nobody is.
    Drop,
}

/// `[[decap]]`: an address at which tunnels end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decap {
    /// The outer destination.
    pub address: IpAddr,
    /// What becomes of the inner packet.
    pub then: Then,
}

/// `decap.then`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It is looked at as any other packet: a VIP's goes to a real.
    Balance,
    /// It is sent on to where it is addressed, as a real's answer on its way out.
    Egress,
}

/// `[[health_encap]]`: a real for probes with a socket mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthEncap {
    /// The mark, not 0.
    pub mark: u32,
    /// The real that is probed.
    pub real: IpAddr,
}

impl HealthEncap {
    /// Whether it is for health checks of the configuration, not for somebody else's.
    #[must_use]
    pub fn is_own(&self) -> bool {
        (FIRST_MARK..FIRST_MARK + MAX_REALS as u32).contains(&self.mark)
    }
}
