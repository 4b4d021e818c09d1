//! Devices of the host (ports of a NIC, say) in place of a lab's own link, for as long as the lab is there.

use std::{
    fs::File,
    io,
    net::IpAddr,
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags, sys::socket::SockaddrStorage};
use serde::{Deserialize, Serialize};

use crate::{LabError, Mac, netlink::Netlink, netns};

/// How long a link may take to come up.
const PATIENCE: Duration = Duration::from_secs(15);
/// The namespace of whoever calls, in messages.
const HERE: &str = "of this process";

/// A device of the host that is in a namespace of a lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Borrowed {
    pub interface: String,
    pub namespace: String,
}

/// What a device has in its new place.
pub(crate) struct Port {
    pub index: u32,
    pub mac: Mac,
}

impl Borrowed {
    /// Makes sure that nobody uses the device.
    pub fn check(&self) -> Result<(), LabError> {
        let interface = &self.interface;
        let spec = |found: String, expected: &str| LabError::Spec { key: "interface", found, expected: expected.to_owned() };
        if Netlink::index(interface).is_none() {
            return Err(spec(interface.clone(), "the name of a device of this network namespace"));
        }
        let addresses = devices(HERE)?.filter(|(name, ..)| name == interface).filter_map(|(_, _, address)| ip_of(&address?));
        let used = addresses.into_iter().find(|address| !is_link_local(address));
        used.map_or(Ok(()), |address| {
            Err(spec(
                format!("{interface}, which has the address {address}"),
                "a device that nobody uses: take its addresses off first",
            ))
        })
    }

    /// Moves the device from the namespace of this process, up and taking every frame.
    pub fn take(&self) -> Result<Port, LabError> {
        let path = netns::path(&self.namespace);
        let namespace = File::open(&path).map_err(LabError::file("open", path))?;
        let index = Netlink::index(&self.interface).ok_or_else(|| self.gone(HERE))?;
        Netlink::open(HERE)?.move_to(index, namespace.as_raw_fd())?;
        netns::enter(&self.namespace, || {
            let netlink = Netlink::open(&self.namespace)?;
            let index = Netlink::index(&self.interface).ok_or_else(|| self.gone(&self.namespace))?;
            netlink.promiscuous(index, true)?;
            netlink.up(index)?;
            let found = devices(&self.namespace)?.find(|(name, _, address)| *name == self.interface && mac_of(address).is_some());
            let mac = found.and_then(|(_, _, address)| mac_of(&address)).ok_or_else(|| self.gone(&self.namespace))?;
            Ok(Port { index, mac })
        })?
    }

    /// Waits for the other end of the cable.
    pub fn wait(&self) -> Result<(), LabError> {
        let until = Instant::now() + PATIENCE;
        netns::enter(&self.namespace, || {
            loop {
                let runs = |(name, flags, _): (String, InterfaceFlags, _)| {
                    name == self.interface && flags.contains(InterfaceFlags::IFF_RUNNING)
                };
                if devices(&self.namespace)?.any(runs) {
                    return Ok(());
                }
                if Instant::now() > until {
                    let doing = format!("wait for the link of {}: is the cable between the two devices?", self.interface);
                    return Err(LabError::Netlink {
                        namespace: self.namespace.clone(),
                        doing,
                        source: io::ErrorKind::TimedOut.into(),
                    });
                }
                thread::sleep(Duration::from_millis(20));
            }
        })?
    }

    /// Moves it back to the namespace of this process. `false`: it is not there any more.
    pub fn give_back(&self) -> Result<bool, LabError> {
        let path = "/proc/self/ns/net";
        let home = File::open(path).map_err(LabError::file("open", path))?;
        if netns::inode(&self.namespace).is_none() || !netns::is_namespace(&self.namespace) {
            return Ok(false);
        }
        netns::enter(&self.namespace, || {
            let Some(index) = Netlink::index(&self.interface) else { return Ok(false) };
            let netlink = Netlink::open(&self.namespace)?;
            netlink.promiscuous(index, false)?;
            netlink.move_to(index, home.as_raw_fd()).map(|()| true)
        })?
    }

    fn gone(&self, namespace: &str) -> LabError {
        let doing = format!("find the device {}", self.interface);
        LabError::Netlink { namespace: namespace.to_owned(), doing, source: io::ErrorKind::NotFound.into() }
    }
}

/// Name, flags and an address of each device of the thread's namespace.
fn devices(namespace: &str) -> Result<impl Iterator<Item = (String, InterfaceFlags, Option<SockaddrStorage>)>, LabError> {
    let all = getifaddrs().map_err(|error| LabError::Netlink {
        namespace: namespace.to_owned(),
        doing: "list the devices".to_owned(),
        source: error.into(),
    })?;
    Ok(all.map(|device| (device.interface_name, device.flags, device.address)))
}

fn mac_of(address: &Option<SockaddrStorage>) -> Option<Mac> {
    address.as_ref()?.as_link_addr()?.addr().map(Mac)
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
}

/// An address that the kernel gives to every device that is up.
fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}
