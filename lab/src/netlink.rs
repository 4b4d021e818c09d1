//! Links, addresses, routes and neighbours of one namespace: blocking calls over rtnetlink.

use std::{fmt::Display, future::Future, io, net::IpAddr, os::fd::RawFd};

use rtnetlink::{
    Error, Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection,
    packet_route::{
        address::AddressHeaderFlags,
        link::{InfoData, InfoVeth, LinkAttribute, LinkMessage},
        neighbour::NeighbourState,
    },
};
use tokio::runtime::{Builder, Runtime};

use crate::{LabError, Mac};

/// One end of a veth pair that is to be made.
pub(crate) struct End<'a> {
    pub name: &'a str,
    pub mac: Mac,
    pub mtu: u32,
    pub queues: u32,
}

impl End<'_> {
    fn attributes(&self) -> [LinkAttribute; 4] {
        [
            LinkAttribute::Address(self.mac.0.to_vec()),
            LinkAttribute::Mtu(self.mtu),
            LinkAttribute::NumTxQueues(self.queues),
            LinkAttribute::NumRxQueues(self.queues),
        ]
    }
}

/// A netlink socket in the namespace of the thread that opened it.
pub(crate) struct Netlink {
    namespace: String,
    runtime: Runtime,
    handle: Handle,
}

impl Netlink {
    /// Opens a socket; `namespace` is the name of the thread's namespace, for errors.
    pub fn open(namespace: &str) -> Result<Self, LabError> {
        let failed =
            |source| LabError::Netlink { namespace: namespace.to_owned(), doing: "open a netlink socket".to_owned(), source };
        let runtime = Builder::new_current_thread().enable_io().build().map_err(failed)?;
        let inside = runtime.enter();
        let (connection, handle, _) = new_connection().map_err(failed)?;
        drop(inside);
        runtime.spawn(connection);
        Ok(Self { namespace: namespace.to_owned(), runtime, handle })
    }

    fn run<T>(&self, doing: impl Display, request: impl Future<Output = Result<T, Error>>) -> Result<T, LabError> {
        self.runtime.block_on(request).map_err(|error| LabError::Netlink {
            namespace: self.namespace.clone(),
            doing: doing.to_string(),
            source: if let Error::NetlinkError(answer) = error { answer.to_io() } else { io::Error::other(error.to_string()) },
        })
    }

    /// Makes a veth pair: `here` in this namespace, `there` in the one behind the descriptor.
    pub fn add_veth(&self, here: &End, there: &End, namespace: RawFd) -> Result<(), LabError> {
        let mut peer = LinkUnspec::new_with_name(there.name).setns_by_fd(namespace);
        for attribute in there.attributes() {
            peer = peer.append_extra_attribute(attribute);
        }
        let mut link = LinkVeth::new(here.name, there.name).set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
        for attribute in here.attributes() {
            link = link.append_extra_attribute(attribute);
        }
        self.run(format_args!("make the veth {}", here.name), self.handle.link().add(link.build()).execute())
    }

    /// Makes a bridge that forwards at once (no spanning tree) and floods multicast.
    pub fn add_bridge(&self, name: &str, mac: Mac) -> Result<(), LabError> {
        let bridge = LinkBridge::new(name).mcast_snooping(false).address(mac.0.to_vec()).build();
        self.run(format_args!("make the bridge {name}"), self.handle.link().add(bridge).execute())
    }

    /// Makes `port` a port of the bridge with the index `bridge`.
    pub fn enslave(&self, port: u32, bridge: u32) -> Result<(), LabError> {
        self.change("add a port to the bridge", LinkUnspec::new_with_index(port).controller(bridge).build())
    }

    /// Moves a link to the namespace behind the descriptor.
    pub fn move_to(&self, index: u32, namespace: RawFd) -> Result<(), LabError> {
        self.change("move the link", LinkUnspec::new_with_index(index).setns_by_fd(namespace).build())
    }

    /// Has a link take every frame, or its own alone.
    pub fn promiscuous(&self, index: u32, all: bool) -> Result<(), LabError> {
        self.change("have the link take every frame", LinkUnspec::new_with_index(index).promiscuous(all).build())
    }

    /// Sets a link up.
    pub fn up(&self, index: u32) -> Result<(), LabError> {
        self.change("set the link up", LinkUnspec::new_with_index(index).up().build())
    }

    fn change(&self, doing: &str, message: LinkMessage) -> Result<(), LabError> {
        self.run(doing, self.handle.link().change(message).execute())
    }

    /// Removes a link.
    pub fn delete(&self, index: u32) -> Result<(), LabError> {
        self.run("remove a link", self.handle.link().del(index).execute())
    }

    /// Adds an address, usable at once (IPv6: no duplicate address detection).
    pub fn add_address(&self, index: u32, address: IpAddr, len: u8) -> Result<(), LabError> {
        let mut request = self.handle.address().add(index, address, len);
        if address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        self.run(format_args!("add the address {address}/{len}"), request.execute())
    }

    /// Adds a route to one address, or the default route of the gateway's family.
    pub fn add_route(&self, to: Option<IpAddr>, gateway: IpAddr) -> Result<(), LabError> {
        let (to, len) = match (to, gateway) {
            (Some(to), _) => (to, if to.is_ipv4() { 32 } else { 128 }),
            (None, IpAddr::V4(_)) => (IpAddr::from([0; 4]), 0),
            (None, IpAddr::V6(_)) => (IpAddr::from([0; 16]), 0),
        };
        let doing = format!("add the route {to}/{len} via {gateway}");
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to, len)
            .and_then(|route| route.gateway(gateway))
            .map_err(|error| LabError::Netlink {
                namespace: self.namespace.clone(),
                doing: doing.clone(),
                source: io::Error::new(io::ErrorKind::InvalidInput, error.to_string()),
            })?;
        self.run(doing, self.handle.route().add(route.build()).execute())
    }

    /// Tells the kernel a neighbour as if it had just answered; it ages and is asked again like any other.
    pub fn add_neighbour(&self, index: u32, address: IpAddr, mac: Mac) -> Result<(), LabError> {
        let request = self.handle.neighbours().add(index, address);
        let request = request.link_layer_address(&mac.0).state(NeighbourState::Reachable).replace();
        self.run(format_args!("add the neighbour {address}"), request.execute())
    }

    /// The index of a device of this namespace; `None` if there is none of the name.
    ///
    /// Asked through an ordinary socket of the calling thread, which is in the namespace.
    pub fn index(name: &str) -> Option<u32> {
        nix::net::if_::if_nametoindex(name).ok()
    }
}
