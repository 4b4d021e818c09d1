//! What generic netlink tells: ports of FOU and GUE, features, rings and channels of devices, and what XDP they can do.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde::{Deserialize, Serialize};

use super::exchange::{AF_INET6, Attributes, Exchange, put, put_nested};

/// `NETLINK_GENERIC`.
const PROTOCOL: isize = 16;
/// Length of `struct genlmsghdr`.
const HEADER: usize = 4;

/// A port of FOU or GUE (`ip fou show`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FouPort {
    /// The UDP port.
    pub port: u16,
    /// Of IPv6.
    pub v6: bool,
    /// GUE, else FOU.
    pub gue: bool,
    /// IP protocol inside FOU: 4 or 41.
    pub inner: u8,
}

/// What ethtool and netdev know of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Names of the features that are on (`ethtool -k`).
    pub features: BTreeSet<String>,
    /// Receive ring: entries now, and at most.
    pub ring: Option<(u32, u32)>,
    /// Queues that receive, and that send.
    pub queues: Option<(u32, u32)>,
    /// `NETDEV_XDP_ACT_*` of `netdev.h`.
    pub xdp_features: Option<u64>,
}

/// A generic netlink family.
struct Family {
    exchange: Exchange,
    number: u16,
}

impl Family {
    fn open(name: &str) -> io::Result<Self> {
        // GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME and _ID of `genetlink.h`.
        let mut exchange = Exchange::open(PROTOCOL)?;
        let mut body = vec![3, 1, 0, 0];
        put(&mut body, 2, &[name.as_bytes(), b"\0"].concat());
        let answers = exchange.ask(16, &body)?;
        let number = answers.iter().find_map(|message| Attributes::behind(message, HEADER).u16(1));
        number.map(|number| Self { exchange, number }).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn dump(&mut self, command: u8, attributes: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let body = [&[command, 1, 0, 0], attributes].concat();
        self.exchange.dump(self.number, &body)
    }
}

/// The ports of FOU and GUE; none if the kernel has no `fou`. `FOU_CMD_GET`, `FOU_ATTR_*` of `fou.h`.
pub(super) fn fou() -> io::Result<Vec<FouPort>> {
    let mut family = match Family::open("fou") {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        other => other?,
    };
    let port = |message: &Vec<u8>| {
        let of = Attributes::behind(message, HEADER);
        let (port, v6) = (of.be16(1)?, of.u8(2)? == AF_INET6);
        Some(FouPort { port, v6, gue: of.u8(4)? == 2, inner: of.u8(3).unwrap_or(0) })
    };
    Ok(family.dump(3, &[])?.iter().filter_map(port).collect())
}

/// What ethtool says of all devices of the namespace, by name. Numbers of `ethtool_netlink.h`.
pub(super) fn ethtool() -> io::Result<BTreeMap<String, Device>> {
    const FEATURES_GET: u8 = 11;
    const RINGS_GET: u8 = 15;
    const CHANNELS_GET: u8 = 17;
    let mut family = Family::open("ethtool")?;
    let mut devices: BTreeMap<String, Device> = BTreeMap::new();
    let mut header = Vec::new();
    put_nested(&mut header, 1, &[]);
    let named = |message: &[u8]| Attributes::behind(message, HEADER).nested(1).text(2);
    for message in family.dump(FEATURES_GET, &header)? {
        let Some(name) = named(&message) else { continue };
        let bits = Attributes::behind(&message, HEADER).nested(4).nested(3);
        let features = bits.each().filter_map(|(_, bit)| Attributes(bit).text(2)).collect();
        devices.insert(name, Device { features, ..Device::default() });
    }
    // A driver without rings or channels is left out of these dumps; a kernel without the requests refuses them.
    for message in family.dump(RINGS_GET, &header).unwrap_or_default() {
        let of = Attributes::behind(&message, HEADER);
        if let (Some(name), Some(now), Some(most)) = (named(&message), of.u32(6), of.u32(2)) {
            devices.entry(name).or_default().ring = Some((now, most));
        }
    }
    for message in family.dump(CHANNELS_GET, &header).unwrap_or_default() {
        let of = Attributes::behind(&message, HEADER);
        let (rx, tx, both) = (of.u32(6).unwrap_or(0), of.u32(7).unwrap_or(0), of.u32(9).unwrap_or(0));
        if let Some(name) = named(&message) {
            devices.entry(name).or_default().queues = Some((rx + both, tx + both));
        }
    }
    Ok(devices)
}

/// XDP features by the index of the device (Linux 6.3). `NETDEV_CMD_DEV_GET`, `NETDEV_A_DEV_*` of `netdev.h`.
pub(super) fn xdp_features() -> io::Result<BTreeMap<u32, u64>> {
    let mut family = Family::open("netdev")?;
    let device = |message: &Vec<u8>| {
        let of = Attributes::behind(message, HEADER);
        Some((of.u32(1)?, of.u64(3)?))
    };
    Ok(family.dump(1, &[])?.iter().filter_map(device).collect())
}
