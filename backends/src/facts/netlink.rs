//! Interfaces, routes and neighbours of the current network namespace.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::TryStreamExt;
use hashbrown::HashMap;
use rtnetlink::packet_route::address::{AddressAttribute, AddressScope};
use rtnetlink::packet_route::link::{LinkAttribute, LinkXdp, XdpAttached};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourState};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute};
use rtnetlink::{Handle, RouteMessageBuilder};
use tokio::runtime::{Builder, Runtime};

use crate::config::{Attach, Mac};

/// Why the host cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum FactError {
    /// No netlink.
    #[error("cannot talk to the kernel over netlink: {0}")]
    Netlink(String),
    /// No such interface.
    #[error("there is no interface {name:?} in this network namespace; `ip link` lists them{}", list(known))]
    NoInterface {
        /// Asked for.
        name: String,
        /// What is there.
        known: Vec<String>,
    },
}

fn list(known: &[String]) -> String {
    if known.is_empty() { String::new() } else { format!(": {}", known.join(", ")) }
}

/// One interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its MAC, if it is an Ethernet.
    pub mac: Option<Mac>,
    /// Largest IP packet.
    pub mtu: u32,
    /// Its first global IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// Its first global IPv6 address.
    pub v6: Option<Ipv6Addr>,
    /// The XDP program on it.
    pub xdp: Option<Attached>,
}

/// An XDP program on an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attached {
    /// The program's number.
    pub program: u32,
    /// Where it runs.
    pub attach: Attach,
}

/// Of `IFLA_XDP`; offloaded programs, and several at once, are none of ours.
fn attached(facts: &[LinkXdp]) -> Option<Attached> {
    let attach = facts.iter().find_map(|fact| match fact {
        LinkXdp::Attached(XdpAttached::Driver) => Some(Attach::Native),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(Attach::Generic),
        _ => None,
    })?;
    let program = facts.iter().find_map(|fact| if let LinkXdp::ProgId(id) = fact { Some(*id) } else { None })?;
    Some(Attached { program, attach })
}

/// The next hop towards a real.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextHop {
    /// The gateway, or the real itself.
    pub via: IpAddr,
    /// Its MAC.
    pub mac: Mac,
}

/// Why a real has no next hop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoHop {
    /// No route.
    NoRoute,
    /// The route leaves by another interface.
    Elsewhere(u32),
    /// The gateway (or the real itself) does not answer ARP or neighbour solicitation.
    Silent(IpAddr),
}

impl fmt::Display for NoHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute => f.write_str("there is no route to it; add one (`ip route add`), or set node.next_hop_mac"),
            Self::Elsewhere(index) => write!(
                f,
                "the route to it leaves by another interface (index {index}), and frames can only go back out of the one they came in by; change the route"
            ),
            Self::Silent(via) => write!(f, "its next hop {via} does not answer; is it up? (`ip neigh`)"),
        }
    }
}

/// A connection to the kernel.
pub struct Netlink {
    runtime: Runtime,
    handle: Handle,
}

impl Netlink {
    /// Opens a netlink socket in the current network namespace.
    ///
    /// # Errors
    /// [`FactError::Netlink`].
    pub fn open() -> Result<Self, FactError> {
        let fail = |e: std::io::Error| FactError::Netlink(e.to_string());
        let runtime = Builder::new_current_thread().enable_io().build().map_err(fail)?;
        let inside = runtime.enter();
        let (connection, handle, _) = rtnetlink::new_connection().map_err(fail)?;
        drop(inside);
        runtime.spawn(connection);
        Ok(Self { runtime, handle })
    }

    /// An interface by name.
    ///
    /// # Errors
    /// [`FactError::NoInterface`], with the names that are there.
    pub fn interface(&self, name: &str) -> Result<Interface, FactError> {
        self.runtime.block_on(async {
            let links: Vec<_> = self.handle.link().get().execute().try_collect().await.map_err(netlink)?;
            let name_of = |attributes: &[LinkAttribute]| {
                attributes.iter().find_map(|a| if let LinkAttribute::IfName(name) = a { Some(name.clone()) } else { None })
            };
            let found = links.iter().find(|link| name_of(&link.attributes).as_deref() == Some(name));
            let Some(link) = found else {
                let known = links.iter().filter_map(|link| name_of(&link.attributes)).collect();
                return Err(FactError::NoInterface { name: name.to_owned(), known });
            };
            let index = link.header.index;
            let mut interface = Interface { name: name.to_owned(), index, mac: None, mtu: 0, v4: None, v6: None, xdp: None };
            for attribute in &link.attributes {
                if let LinkAttribute::Address(bytes) = attribute {
                    interface.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac);
                } else if let LinkAttribute::Mtu(mtu) = attribute {
                    interface.mtu = *mtu;
                } else if let LinkAttribute::Xdp(facts) = attribute {
                    interface.xdp = attached(facts);
                }
            }
            let addresses: Vec<_> =
                self.handle.address().get().set_link_index_filter(index).execute().try_collect().await.map_err(netlink)?;
            for address in addresses.iter().filter(|a| a.header.scope == AddressScope::Universe) {
                for attribute in &address.attributes {
                    if let AddressAttribute::Address(found) = attribute {
                        match found {
                            IpAddr::V4(v4) => interface.v4 = interface.v4.or(Some(*v4)),
                            IpAddr::V6(v6) => interface.v6 = interface.v6.or(Some(*v6)),
                        }
                    }
                }
            }
            Ok(interface)
        })
    }

    /// The next hop of each real on `interface`, as the kernel knows it now; those that are not known are asked for, so that
    /// a later call may find them.
    ///
    /// # Errors
    /// [`FactError::Netlink`].
    pub fn next_hops(&self, interface: u32, reals: &[IpAddr]) -> Result<HashMap<IpAddr, Result<NextHop, NoHop>>, FactError> {
        self.runtime.block_on(async {
            let neighbours = self.neighbours(interface).await?;
            let mut hops = HashMap::with_capacity(reals.len());
            for real in reals {
                let hop = match self.route(*real).await {
                    Err(no) => Err(no),
                    Ok((out, _)) if out != interface => Err(NoHop::Elsewhere(out)),
                    Ok((_, via)) => neighbours.get(&via).map(|mac| NextHop { via, mac: *mac }).ok_or(NoHop::Silent(via)),
                };
                if let Err(NoHop::Silent(via)) = hop {
                    self.ask_for(interface, via).await;
                }
                hops.insert(*real, hop);
            }
            Ok(hops)
        })
    }

    /// The same, waiting up to `patience` for silent ones.
    ///
    /// # Errors
    /// [`FactError::Netlink`].
    pub fn next_hops_within(
        &self,
        interface: u32,
        reals: &[IpAddr],
        patience: Duration,
    ) -> Result<HashMap<IpAddr, Result<NextHop, NoHop>>, FactError> {
        const STEP: Duration = Duration::from_millis(50);
        let end = std::time::Instant::now() + patience;
        loop {
            let hops = self.next_hops(interface, reals)?;
            let is_silent = hops.values().any(|hop| matches!(hop, Err(NoHop::Silent(_))));
            if !is_silent || std::time::Instant::now() >= end {
                return Ok(hops);
            }
            std::thread::sleep(STEP);
        }
    }

    async fn neighbours(&self, interface: u32) -> Result<HashMap<IpAddr, Mac>, FactError> {
        let all: Vec<_> = self.handle.neighbours().get().execute().try_collect().await.map_err(netlink)?;
        let mut macs = HashMap::new();
        for neighbour in all.iter().filter(|n| n.header.ifindex == interface) {
            if matches!(neighbour.header.state, NeighbourState::Incomplete | NeighbourState::Failed | NeighbourState::None) {
                continue;
            }
            let (mut address, mut mac) = (None, None);
            for attribute in &neighbour.attributes {
                if let NeighbourAttribute::Destination(to) = attribute {
                    address = neighbour_addr(to);
                } else if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
                    mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac);
                }
            }
            macs.extend(address.zip(mac));
        }
        Ok(macs)
    }

    /// The interface that the route to `to` leaves by, and the gateway (or `to`).
    async fn route(&self, to: IpAddr) -> Result<(u32, IpAddr), NoHop> {
        let query = match to {
            IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(v4, 32).build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(v6, 128).build(),
        };
        let mut routes = self.handle.route().get(query).execute();
        let route = routes.try_next().await.ok().flatten().ok_or(NoHop::NoRoute)?;
        let (mut out, mut via) = (None, to);
        for attribute in &route.attributes {
            if let RouteAttribute::Oif(index) = attribute {
                out = Some(*index);
            } else if let RouteAttribute::Gateway(gateway) = attribute {
                via = route_addr(gateway).unwrap_or(via);
            }
        }
        out.map(|out| (out, via)).ok_or(NoHop::NoRoute)
    }

    /// Has the kernel resolve a neighbour (`NTF_USE`). What it answers does not matter: the next look tells.
    async fn ask_for(&self, interface: u32, via: IpAddr) {
        let request = self.handle.neighbours().add(interface, via).state(NeighbourState::None).flags(NeighbourFlags::Use);
        let _ = request.replace().execute().await;
    }
}

fn netlink(error: rtnetlink::Error) -> FactError {
    FactError::Netlink(error.to_string())
}

fn neighbour_addr(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(v4) => Some((*v4).into()),
        NeighbourAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

fn route_addr(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}
