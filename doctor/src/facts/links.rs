//! Links and their addresses, by `RTM_GETLINK` and `RTM_GETADDR`.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::exchange::{Attributes, Exchange, address};

const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The kind that `ip link` would make it with (`veth`, `ipip`, `geneve`); empty for hardware.
    pub kind: String,
    /// Whether it is up.
    pub up: bool,
    /// Whether it is the loopback device.
    pub loopback: bool,
    /// Its MAC, if it is an Ethernet.
    pub mac: Option<String>,
    /// Largest IP packet.
    pub mtu: u32,
    /// Index of the bridge or bond that it is a port of.
    pub master: Option<u32>,
    /// Index of the device below it.
    pub below: Option<u32>,
    /// Of a VLAN device: the VLAN's id.
    pub vlan: Option<u16>,
    /// Receive queues it was made with.
    pub rx_queues: u32,
    /// Of a tunnel device: what it opens.
    pub tunnel: Option<Tunnel>,
    /// The XDP program on it.
    pub xdp: Option<Xdp>,
    /// The device's name on its bus, and the bus (`0000:00:1f.6`, `pci`).
    pub device: Option<(String, String)>,
    /// How often its carrier went or came.
    pub carrier_changes: u32,
    /// Frames lost, by the names of `ip -s -s link`.
    pub losses: BTreeMap<String, u64>,
}

/// A tunnel device, as far as it decides what the device opens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tunnel {
    /// Own end, if it has one.
    pub local: Option<IpAddr>,
    /// Other end, if it has one.
    pub remote: Option<IpAddr>,
    /// IP protocol inside: 0 any, 4 IPv4, 41 IPv6.
    pub inner: u8,
    /// It takes every packet of its protocol (`external`).
    pub external: bool,
    /// Of Geneve: the network identifier.
    pub vni: Option<u32>,
    /// Of Geneve: the UDP port.
    pub port: Option<u16>,
    /// Of Geneve: IP packets inside, not frames.
    pub inner_ip: bool,
    /// Of Geneve: UDP over IPv6 without a checksum is taken.
    pub zero_checksums: bool,
}

/// An XDP program on a link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Xdp {
    /// `native`, `generic`, `offload` or `several`.
    pub mode: String,
    /// The program's number.
    pub program: u32,
    /// Its name, where this process may ask.
    pub name: Option<String>,
}

/// An address of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Index of its link.
    pub link: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of its subnet.
    pub length: u8,
    /// `tentative` or `dadfailed`, if it cannot be used.
    pub state: Option<String>,
}

/// All links, in the order of their indices.
pub(super) fn links(exchange: &mut Exchange) -> io::Result<Vec<Link>> {
    let mut links: Vec<Link> = exchange.dump(RTM_GETLINK, &[0; 16])?.iter().filter_map(|m| link(m)).collect();
    links.sort_by_key(|link| link.index);
    Ok(links)
}

/// `struct ifinfomsg` and `IFLA_*` of `if_link.h`.
fn link(message: &[u8]) -> Option<Link> {
    let index = u32::from_ne_bytes(*message.get(4..)?.first_chunk()?);
    let flags = u32::from_ne_bytes(*message.get(8..)?.first_chunk()?);
    let kind_of_link = u16::from_ne_bytes(*message.get(2..)?.first_chunk()?);
    let attributes = Attributes::behind(message, 16);
    let info = attributes.nested(libc::IFLA_LINKINFO);
    let (kind, data) = (info.text(1).unwrap_or_default(), info.nested(2));
    let is_ethernet = kind_of_link == libc::ARPHRD_ETHER;
    Some(Link {
        index,
        name: attributes.text(libc::IFLA_IFNAME)?,
        up: flags & 1 != 0,
        loopback: flags & 8 != 0,
        mac: attributes.get(libc::IFLA_ADDRESS).filter(|bytes| is_ethernet && bytes.len() == 6).map(mac),
        mtu: attributes.u32(libc::IFLA_MTU).unwrap_or(0),
        master: attributes.u32(libc::IFLA_MASTER),
        below: attributes.u32(libc::IFLA_LINK),
        vlan: (kind == "vlan").then(|| data.u16(1)).flatten(),
        rx_queues: attributes.u32(libc::IFLA_NUM_RX_QUEUES).unwrap_or(1),
        tunnel: tunnel(&kind, data),
        xdp: xdp(attributes.nested(libc::IFLA_XDP)),
        device: attributes.text(56).zip(attributes.text(57)),
        carrier_changes: attributes.u32(libc::IFLA_CARRIER_CHANGES).unwrap_or(0),
        losses: attributes.get(libc::IFLA_STATS64).map(losses).unwrap_or_default(),
        kind,
    })
}

/// The usual text of a MAC.
pub(super) fn mac(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.join(":")
}

/// `IFLA_IPTUN_*`, `IFLA_GRE_*` of `if_tunnel.h`, `IFLA_GENEVE_*` of `if_link.h`.
fn tunnel(kind: &str, data: Attributes<'_>) -> Option<Tunnel> {
    let end = |kind| data.address(kind).filter(|address| !address.is_unspecified());
    Some(match kind {
        "ipip" | "sit" | "ip6tnl" => {
            Tunnel { local: end(2), remote: end(3), inner: data.u8(9).unwrap_or(0), external: data.has(19), ..Tunnel::default() }
        }
        "gre" | "ip6gre" => Tunnel { local: end(6), remote: end(7), external: data.has(18), ..Tunnel::default() },
        "geneve" => Tunnel {
            remote: end(2).or(end(7)),
            external: data.has(6),
            vni: data.u32(1),
            port: data.be16(5),
            inner_ip: data.has(14),
            zero_checksums: data.u8(10) == Some(1),
            ..Tunnel::default()
        },
        _ => return None,
    })
}

/// `IFLA_XDP_ATTACHED`, `IFLA_XDP_PROG_ID`.
fn xdp(of: Attributes<'_>) -> Option<Xdp> {
    let mode = match of.u8(2)? {
        1 => "native",
        2 => "generic",
        3 => "offload",
        4 => "several",
        _ => return None,
    };
    // Of several, the driver's.
    let program = of.u32(4).or(of.u32(5)).or(of.u32(6)).unwrap_or(0);
    Some(Xdp { mode: mode.to_owned(), program, name: None })
}

/// Those of `struct rtnl_link_stats64` that tell of lost frames, by their places.
const LOSSES: [(&str, usize); 8] = [
    ("rx_errors", 4),
    ("tx_errors", 5),
    ("rx_dropped", 6),
    ("tx_dropped", 7),
    ("rx_over_errors", 11),
    ("rx_crc_errors", 12),
    ("rx_fifo_errors", 14),
    ("rx_missed_errors", 15),
];

fn losses(bytes: &[u8]) -> BTreeMap<String, u64> {
    let at = |place: usize| Some(u64::from_ne_bytes(*bytes.get(place * 8..)?.first_chunk()?));
    LOSSES.iter().filter_map(|(name, place)| Some(((*name).to_owned(), at(*place)?))).collect()
}

/// All addresses.
pub(super) fn addresses(exchange: &mut Exchange) -> io::Result<Vec<Address>> {
    Ok(exchange.dump(RTM_GETADDR, &[0; 8])?.iter().filter_map(|m| host_address(m)).collect())
}

/// `struct ifaddrmsg` and `IFA_*` of `if_addr.h`.
fn host_address(message: &[u8]) -> Option<Address> {
    let length = *message.get(1)?;
    let link = u32::from_ne_bytes(*message.get(4..)?.first_chunk()?);
    let attributes = Attributes::behind(message, 8);
    // IFA_LOCAL is the own address of a point-to-point link, where IFA_ADDRESS is the other end's.
    let address = attributes.get(2).or(attributes.get(1)).and_then(address)?;
    let flags = attributes.u32(8).unwrap_or(u32::from(*message.get(2)?));
    let state = if flags & 0x08 != 0 {
        Some("dadfailed")
    } else if flags & 0x40 != 0 && flags & 0x04 == 0 {
        Some("tentative")
    } else {
        None
    };
    Some(Address { link, address, length, state: state.map(str::to_owned) })
}
