//! The interfaces of the current network namespace, and the connection that everything else is asked by.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_route::address::{AddressAttribute, AddressScope};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkXdp, XdpAttached};
use tokio::runtime::{Builder, Runtime};

use super::routes;
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
    /// It is a bond: what it receives, its members receive.
    pub is_bond: bool,
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
            let name = name.to_owned();
            let mut interface = Interface { name, index, mac: None, mtu: 0, v4: None, v6: None, xdp: None, is_bond: false };
            for attribute in &link.attributes {
                if let LinkAttribute::Address(bytes) = attribute {
                    interface.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac);
                } else if let LinkAttribute::Mtu(mtu) = attribute {
                    interface.mtu = *mtu;
                } else if let LinkAttribute::Xdp(facts) = attribute {
                    interface.xdp = attached(facts);
                } else if let LinkAttribute::LinkInfo(facts) = attribute {
                    interface.is_bond = facts.contains(&LinkInfo::Kind(InfoKind::Bond));
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

    /// Whether packets to an address end on this host.
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.run(async |handle: &Handle| routes::route(handle, address).await.is_some_and(|route| route.is_local))
    }

    /// Runs requests to their end.
    pub(crate) fn run<T>(&self, work: impl AsyncFnOnce(&Handle) -> T) -> T {
        self.runtime.block_on(work(&self.handle))
    }
}

pub(super) fn netlink(error: rtnetlink::Error) -> FactError {
    FactError::Netlink(error.to_string())
}
