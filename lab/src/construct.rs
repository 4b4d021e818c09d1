//! Builds what a [`Topology`] describes, in the order in which nothing has to be waited for.

use std::{fs::File, net::IpAddr, os::fd::AsRawFd};

use crate::{
    Host, LabError, Layout, Link, Mac, Topology,
    netlink::{End, Netlink},
    netns, offload, sysctl,
    topology::BRIDGE,
};

/// Makes namespaces, links, addresses, routes and neighbours; fills in the device indices.
pub(crate) fn build(topology: &mut Topology) -> Result<(), LabError> {
    for host in topology.spec.hosts() {
        let namespace = topology.spec.namespace(host);
        netns::create(&namespace)?;
        netns::enter(&namespace, || {
            sysctl::apply(host)?;
            Netlink::open(&namespace)?.up(index_of(&namespace, "lo")?)
        })??;
    }
    let router = topology.spec.namespace(Host::Router);
    netns::enter(&router, || make_links(topology, &router))??;
    for at in 0..topology.links.len() {
        let index = netns::enter(&topology.links[at].namespace, || finish_host(topology, &topology.links[at]))??;
        topology.links[at].index = index;
    }
    netns::enter(&router, || finish_router(topology, &router))??;
    Ok(())
}

fn index_of(namespace: &str, name: &str) -> Result<u32, LabError> {
    Netlink::index(name).ok_or_else(|| LabError::Netlink {
        namespace: namespace.to_owned(),
        doing: format!("find the device {name}"),
        source: std::io::ErrorKind::NotFound.into(),
    })
}

/// In the router: the bridge, then one veth a host with its far end in the host's namespace.
fn make_links(topology: &mut Topology, router: &str) -> Result<(), LabError> {
    let netlink = Netlink::open(router)?;
    let bridged = topology.links.iter().find(|link| link.router.bridge.is_some());
    let bridge = bridged.map(|link| link.router.gateway_mac).map(|mac| make_bridge(&netlink, router, mac)).transpose()?;
    for link in &mut topology.links {
        let path = netns::path(&link.namespace);
        let namespace = File::open(&path).map_err(LabError::file("open", path))?;
        let end = |name, mac| End { name, mac, mtu: link.mtu, queues: link.queues };
        let here = end(&link.router.interface, link.router.mac);
        let there = end(&link.interface, link.mac);
        netlink.add_veth(&here, &there, namespace.as_raw_fd())?;
        link.router.index = index_of(router, &link.router.interface)?;
        if let Some(bridge) = bridge.filter(|_| link.router.bridge.is_some()) {
            netlink.enslave(link.router.index, bridge)?;
        }
        netlink.up(link.router.index)?;
    }
    Ok(())
}

fn make_bridge(netlink: &Netlink, router: &str, mac: Mac) -> Result<u32, LabError> {
    netlink.add_bridge(BRIDGE, mac)?;
    let index = index_of(router, BRIDGE)?;
    netlink.up(index)?;
    Ok(index)
}

/// In a host: its device, addresses, default routes and the neighbours it begins with. Returns the device's index.
fn finish_host(topology: &Topology, link: &Link) -> Result<u32, LabError> {
    let netlink = Netlink::open(&link.namespace)?;
    let index = index_of(&link.namespace, &link.interface)?;
    if matches!(link.host, Host::Client | Host::Lb) {
        switch_off(&link.namespace, &link.interface)?;
    }
    netlink.up(index)?;
    for (address, len) in [(IpAddr::from(link.v4), link.v4_len), (IpAddr::from(link.v6), link.v6_len)] {
        netlink.add_address(index, address, len)?;
        let gateway = link.gateway_like(address);
        netlink.add_neighbour(index, gateway, link.router.gateway_mac)?;
        netlink.add_route(None, gateway)?;
    }
    let vips = &topology.spec.vips;
    if let Host::Real(_) = link.host {
        let lo = index_of(&link.namespace, "lo")?;
        for vip in vips {
            netlink.add_address(lo, *vip, if vip.is_ipv4() { 32 } else { 128 })?;
        }
    }
    // Nobody waits for the first answer of a real on the balancer's own link.
    if topology.spec.layout == Layout::Segment && link.host == Host::Lb {
        for real in topology.reals() {
            netlink.add_neighbour(index, real.v4.into(), real.mac)?;
            netlink.add_neighbour(index, real.v6.into(), real.mac)?;
        }
    }
    // The VIP is inside the client's own subnet and nobody answers for it there.
    if topology.spec.layout == Layout::Classic && link.host == Host::Client {
        let lb = topology.link(Host::Lb)?;
        for address in [IpAddr::from(lb.v4), IpAddr::from(lb.v6)] {
            netlink.add_neighbour(index, address, lb.mac)?;
        }
        for vip in vips {
            netlink.add_route(Some(*vip), lb.address_like(*vip))?;
        }
    }
    Ok(index)
}

/// In the router: its addresses, the hosts as neighbours, the VIPs' routes.
fn finish_router(topology: &Topology, router: &str) -> Result<(), LabError> {
    let netlink = Netlink::open(router)?;
    let mut addressed = Vec::new();
    for link in &topology.links {
        let port = &link.router;
        switch_off(router, &port.interface)?;
        let device = port.bridge.as_deref().unwrap_or(&port.interface);
        let index = index_of(router, device)?;
        if !addressed.contains(&index) {
            netlink.add_address(index, port.gateway_v4.into(), link.v4_len)?;
            netlink.add_address(index, port.gateway_v6.into(), link.v6_len)?;
            addressed.push(index);
        }
        netlink.add_neighbour(index, link.v4.into(), link.mac)?;
        netlink.add_neighbour(index, link.v6.into(), link.mac)?;
    }
    let lb = topology.link(Host::Lb)?;
    for vip in &topology.spec.vips {
        netlink.add_route(Some(*vip), lb.address_like(*vip))?;
    }
    Ok(())
}

fn switch_off(namespace: &str, interface: &str) -> Result<(), LabError> {
    offload::switch_off(interface).map_err(|(feature, source)| LabError::Offload {
        namespace: namespace.to_owned(),
        interface: interface.to_owned(),
        feature,
        source,
    })
}
