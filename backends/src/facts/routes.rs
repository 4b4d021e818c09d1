//! Links, neighbours and routes, as far as the way to a real needs them: dumps of the kernel's tables, and the two ways to have
//! it ask a neighbour.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use hashbrown::HashMap;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVlan, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHopFlags, RouteType, RouteVia,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::FactError;
use super::netlink::netlink;
use crate::config::Mac;

/// A device.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Link {
    pub name: String,
    pub mac: Option<Mac>,
    /// Largest IP packet.
    pub mtu: u32,
    /// Of a VLAN device: the device below it, and the VLAN's id.
    pub vlan: Option<(u32, u16)>,
}

impl Link {
    fn of(message: &LinkMessage) -> Self {
        let mut link = Self::default();
        let (mut parent, mut id, mut is_vlan) = (None, None, false);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(bytes) => link.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Link(index) => parent = Some(*index),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(kind) => is_vlan = *kind == InfoKind::Vlan,
                            LinkInfo::Data(InfoData::Vlan(data)) => {
                                id = data.iter().find_map(|fact| if let InfoVlan::Id(id) = fact { Some(*id) } else { None });
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        link.vlan = parent.zip(id).filter(|_| is_vlan);
        link
    }
}

/// What the kernel knows of a neighbour's MAC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Neighbour {
    /// It answered once; whether it still does has to be asked now and then.
    Answered(Mac),
    /// An administrator said so, or the link has no such question.
    Fixed(Mac),
    /// It is being asked for the first time, or again.
    Asked,
    /// It was asked, and did not answer.
    Failed,
}

impl Neighbour {
    /// The MAC to send to.
    pub(super) fn mac(self) -> Option<Mac> {
        match self {
            Self::Answered(mac) | Self::Fixed(mac) => Some(mac),
            Self::Asked | Self::Failed => None,
        }
    }

    fn of(message: &NeighbourMessage) -> Option<(IpAddr, Self)> {
        let (mut address, mut mac) = (None, None);
        for attribute in &message.attributes {
            if let NeighbourAttribute::Destination(to) = attribute {
                address = match to {
                    NeighbourAddress::Inet(v4) => Some((*v4).into()),
                    NeighbourAddress::Inet6(v6) => Some((*v6).into()),
                    _ => None,
                };
            } else if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
                mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac);
            }
        }
        let known = match (message.header.state, mac) {
            (NeighbourState::None, _) => return None,
            (NeighbourState::Failed, _) => Self::Failed,
            (NeighbourState::Permanent | NeighbourState::Noarp, Some(mac)) => Self::Fixed(mac),
            (NeighbourState::Incomplete, _) | (_, None) => Self::Asked,
            (_, Some(mac)) => Self::Answered(mac),
        };
        Some((address?, known))
    }
}

/// One next hop of a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Step {
    /// The device it leaves by.
    pub device: u32,
    /// The gateway, or the destination itself.
    pub via: IpAddr,
    /// The route's own MTU.
    pub mtu: Option<u32>,
}

/// What the kernel would do with a packet now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Route {
    pub step: Step,
    /// The table that said so.
    pub table: u32,
    /// It ends on this host.
    pub is_local: bool,
}

/// One entry of a route table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub table: u32,
    pub destination: Option<IpAddr>,
    pub length: u8,
    pub metric: u32,
    pub steps: Vec<(u32, Option<IpAddr>)>,
    pub mtu: Option<u32>,
}

impl Entry {
    fn of(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        if header.kind != RouteType::Unicast {
            return None;
        }
        let mut entry = Self {
            table: table(message),
            destination: None,
            length: header.destination_prefix_length,
            metric: 0,
            steps: Vec::new(),
            mtu: mtu(message),
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(to) => entry.destination = address(to),
                RouteAttribute::Priority(metric) => entry.metric = *metric,
                RouteAttribute::MultiPath(hops) => {
                    let dead = RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown;
                    let alive = hops.iter().filter(|hop| !hop.flags.intersects(dead));
                    entry.steps.extend(alive.map(|hop| (hop.interface_index, gateway(&hop.attributes))));
                }
                _ => {}
            }
        }
        if let (Some(device), false) = (device(message), header.flags.intersects(RouteFlags::Dead | RouteFlags::Linkdown)) {
            entry.steps.insert(0, (device, gateway(&message.attributes)));
        }
        Some(entry)
    }

    /// Whether the destination is in it.
    fn covers(&self, to: IpAddr) -> bool {
        match (self.destination, to) {
            (None, _) => self.length == 0,
            (Some(IpAddr::V4(net)), IpAddr::V4(to)) => {
                (u32::from(net) ^ u32::from(to)).leading_zeros() >= u32::from(self.length.min(32))
            }
            (Some(IpAddr::V6(net)), IpAddr::V6(to)) => {
                (u128::from(net) ^ u128::from(to)).leading_zeros() >= u32::from(self.length.min(128))
            }
            _ => false,
        }
    }
}

/// All next hops that the entries of this table have for a destination: those of its longest prefix, the lower metric first.
pub(super) fn steps(entries: &[Entry], table: u32, to: IpAddr) -> Vec<Step> {
    let mut found: Vec<&Entry> = entries.iter().filter(|entry| entry.table == table && entry.covers(to)).collect();
    let longest = found.iter().map(|entry| entry.length).max();
    found.retain(|entry| Some(entry.length) == longest);
    found.sort_by_key(|entry| entry.metric);
    let of = |entry: &&Entry| {
        let mtu = entry.mtu;
        entry.steps.clone().into_iter().map(move |(device, via)| Step { device, via: via.unwrap_or(to), mtu })
    };
    found.iter().flat_map(of).collect()
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

/// The gateway, of either family.
fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(gateway) => address(gateway),
        RouteAttribute::Via(RouteVia::Inet(v4)) => Some((*v4).into()),
        RouteAttribute::Via(RouteVia::Inet6(v6)) => Some((*v6).into()),
        _ => None,
    })
}

fn device(message: &RouteMessage) -> Option<u32> {
    message.attributes.iter().find_map(|a| if let RouteAttribute::Oif(index) = a { Some(*index) } else { None })
}

fn table(message: &RouteMessage) -> u32 {
    let long = message.attributes.iter().find_map(|a| if let RouteAttribute::Table(table) = a { Some(*table) } else { None });
    long.unwrap_or_else(|| u32::from(message.header.table))
}

fn mtu(message: &RouteMessage) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => {
            metrics.iter().find_map(|metric| if let RouteMetric::Mtu(mtu) = metric { Some(*mtu) } else { None })
        }
        _ => None,
    })
}

/// All devices, by index.
pub(super) async fn links(handle: &Handle) -> Result<HashMap<u32, Link>, FactError> {
    let all: Vec<_> = handle.link().get().execute().try_collect().await.map_err(netlink)?;
    Ok(all.iter().map(|message| (message.header.index, Link::of(message))).collect())
}

/// All neighbours, by device and address.
pub(super) async fn neighbours(handle: &Handle) -> Result<HashMap<(u32, IpAddr), Neighbour>, FactError> {
    let all: Vec<_> = handle.neighbours().get().execute().try_collect().await.map_err(netlink)?;
    let known = all.iter().filter_map(|message| Neighbour::of(message).map(|(to, known)| ((message.header.ifindex, to), known)));
    Ok(known.collect())
}

/// What the kernel would do with a packet to `to`; `None`: nothing.
pub(super) async fn route(handle: &Handle, to: IpAddr) -> Option<Route> {
    let query = match to {
        IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(v4, 32).build(),
        IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(v6, 128).build(),
    };
    let mut routes = handle.route().get(query).execute();
    let route = routes.try_next().await.ok().flatten()?;
    let step = Step { device: device(&route)?, via: gateway(&route.attributes).unwrap_or(to), mtu: mtu(&route) };
    Some(Route { step, table: table(&route), is_local: route.header.kind == RouteType::Local })
}

/// Every entry of every route table of this family.
pub(super) async fn entries(handle: &Handle, v6: bool) -> Result<Vec<Entry>, FactError> {
    let query = if v6 { RouteMessageBuilder::<Ipv6Addr>::new().build() } else { RouteMessageBuilder::<Ipv4Addr>::new().build() };
    let all: Vec<_> = handle.route().get(query).execute().try_collect().await.map_err(netlink)?;
    Ok(all.iter().filter_map(Entry::of).collect())
}

/// Has the kernel resolve a neighbour (`NTF_USE`). What it answers does not matter: the next look tells.
pub(super) async fn resolve(handle: &Handle, (device, via): (u32, IpAddr)) {
    let request = handle.neighbours().add(device, via).state(NeighbourState::None).flags(NeighbourFlags::Use);
    let _ = request.replace().execute().await;
}

/// Has the kernel ask a neighbour whose MAC it knows whether that is still so: by unicast and at once (`NUD_PROBE`), where
/// `NTF_USE` would trust it for five more seconds. The MAC is left out, so that one learned meanwhile stays.
pub(super) async fn confirm(handle: &Handle, (device, via): (u32, IpAddr)) {
    let _ = handle.neighbours().add(device, via).state(NeighbourState::Probe).replace().execute().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(table: u32, net: &str, length: u8, metric: u32, vias: &[&str]) -> Entry {
        let steps = vias.iter().map(|via| (2, Some(via.parse().unwrap()))).collect();
        Entry { table, destination: Some(net.parse().unwrap()), length, metric, steps, mtu: None }
    }

    #[test]
    fn the_longest_prefix_then_the_lower_metric() {
        let mut entries = vec![
            entry(254, "10.0.0.0", 8, 0, &["192.0.2.9"]),
            entry(254, "10.1.0.0", 16, 200, &["192.0.2.3"]),
            entry(254, "10.1.0.0", 16, 100, &["192.0.2.1", "192.0.2.2"]),
            entry(7, "10.1.2.0", 24, 0, &["192.0.2.8"]),
        ];
        entries.push(Entry { destination: None, ..entry(254, "0.0.0.0", 0, 0, &["192.0.2.7"]) });
        let vias = |to: &str| -> Vec<String> {
            steps(&entries, 254, to.parse().unwrap()).iter().map(|step| step.via.to_string()).collect()
        };
        assert_eq!(vias("10.1.2.3"), ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        assert_eq!(vias("10.2.2.3"), ["192.0.2.9"]);
        assert_eq!(vias("11.2.2.3"), ["192.0.2.7"]);
        assert_eq!(vias("fd00::1"), ["192.0.2.7"], "families are dumped apart");
    }
}
