//! What has one name on the wire and another in the configuration: services, seats, states.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::Serializer;
use tandem_backends::config::{Prefix, Protocol, RealState, Vip};
use tandem_backends::run::ModeName;

use crate::wire;

/// What tells VIPs apart. Its text is that of listings: `10.200.1.1:80/udp`, `[fc00:1::/96]:80/tcp`; without brackets a
/// prefix of IPv4 is `10.200.0.0/16:80/udp`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Service {
    /// An address, or the network of a prefix.
    pub address: IpAddr,
    /// The length of a prefix.
    pub prefix_len: Option<u8>,
    /// 0: every port.
    pub port: u16,
    /// The transport.
    pub protocol: Protocol,
}

/// A text that names no service.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "not a VIP: {what} (found {found:?}); write it as 10.200.1.1:80/tcp or [fc00:1::1]:80/udp, a prefix as [fc00:1::/96]:80/tcp"
)]
pub struct NotAService {
    found: String,
    what: &'static str,
}

impl Service {
    /// The service of `vip`.
    #[must_use]
    pub fn of(vip: &Vip) -> Self {
        Self { address: vip.address, prefix_len: vip.prefix_len, port: vip.port, protocol: vip.protocol }
    }

    /// From the address or prefix as text, a port and a protocol.
    ///
    /// # Errors
    /// [`NotAService`], with what is wrong about the address.
    pub fn new(address: &str, port: u16, protocol: Protocol) -> Result<Self, NotAService> {
        let wrong = |what| NotAService { found: address.to_owned(), what };
        let (address, prefix_len) = match address.split_once('/') {
            None => (address.parse().map_err(|_| wrong("no IP address"))?, None),
            Some((network, len)) => {
                let network: IpAddr = network.parse().map_err(|_| wrong("no IP address before the `/`"))?;
                let len: u8 = len.parse().map_err(|_| wrong("no length of a prefix behind the `/`"))?;
                Prefix::new(network, len).ok_or_else(|| wrong("bits behind the prefix are set, or it is too long"))?;
                (network, Some(len))
            }
        };
        Ok(Self { address, prefix_len, port, protocol })
    }

    /// The address as the configuration has it: `10.200.1.1`, `fc00:1::/96`.
    #[must_use]
    pub fn address_text(&self) -> String {
        match self.prefix_len {
            None => self.address.to_string(),
            Some(len) => format!("{}/{len}", self.address),
        }
    }

    /// From the wire.
    ///
    /// # Errors
    /// [`NotAService`].
    pub fn from_wire(key: Option<&wire::VipKey>) -> Result<Self, NotAService> {
        let wrong = |found: String, what| NotAService { found, what };
        let key = key.ok_or_else(|| wrong(String::new(), "none is named"))?;
        let port = u16::try_from(key.port).map_err(|_| wrong(key.port.to_string(), "a port above 65535"))?;
        let protocol = match key.protocol() {
            wire::Protocol::Tcp => Protocol::Tcp,
            wire::Protocol::Udp => Protocol::Udp,
            wire::Protocol::Unspecified => return Err(wrong(key.protocol.to_string(), "no protocol, tcp or udp")),
        };
        Self::new(&key.address, port, protocol)
    }

    /// To the wire.
    #[must_use]
    pub fn to_wire(&self) -> wire::VipKey {
        let protocol = match self.protocol {
            Protocol::Tcp => wire::Protocol::Tcp,
            Protocol::Udp => wire::Protocol::Udp,
        };
        wire::VipKey { address: self.address_text(), port: self.port.into(), protocol: protocol.into() }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, port, protocol, .. } = self;
        match (self.prefix_len, address) {
            (None, _) => write!(f, "{}/{protocol}", SocketAddr::new(*address, *port)),
            (Some(len), IpAddr::V4(v4)) => write!(f, "{v4}/{len}:{port}/{protocol}"),
            (Some(len), IpAddr::V6(v6)) => write!(f, "[{v6}/{len}]:{port}/{protocol}"),
        }
    }
}

impl FromStr for Service {
    type Err = NotAService;

    fn from_str(text: &str) -> Result<Self, NotAService> {
        let wrong = |what| NotAService { found: text.to_owned(), what };
        let (rest, protocol) = text.rsplit_once('/').ok_or_else(|| wrong("no `/tcp` or `/udp` at the end"))?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(wrong("no `/tcp` or `/udp` at the end")),
        };
        let (address, port) = rest.rsplit_once(':').ok_or_else(|| wrong("no port"))?;
        let port = port.parse().map_err(|_| wrong("no port, 0 to 65535"))?;
        let address = match address.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').ok_or_else(|| wrong("no `]`"))?,
            None if address.contains(':') => return Err(wrong("an IPv6 address without brackets")),
            None => address,
        };
        Self::new(address, port, protocol).map_err(|error| wrong(error.what))
    }
}

/// The state on the wire.
#[must_use]
pub fn state_to_wire(state: RealState) -> wire::RealState {
    match state {
        RealState::Up => wire::RealState::Up,
        RealState::Drain => wire::RealState::Drain,
        RealState::Down => wire::RealState::Down,
    }
}

/// The state as the configuration calls it.
#[must_use]
pub fn state_name(state: wire::RealState) -> &'static str {
    match state {
        wire::RealState::Up | wire::RealState::Unspecified => "up",
        wire::RealState::Drain => "drain",
        wire::RealState::Down => "down",
    }
}

/// The seat on the wire.
#[must_use]
pub fn seat_to_wire(mode: ModeName) -> wire::Seat {
    match mode {
        ModeName::Xdp => wire::Seat::Xdp,
        ModeName::Afxdp => wire::Seat::Afxdp,
    }
}

/// The seat as `tandem mode` calls it.
#[must_use]
pub fn seat_name(seat: wire::Seat) -> &'static str {
    match seat {
        wire::Seat::Xdp => "xdp",
        wire::Seat::Afxdp => "afxdp",
        wire::Seat::Unspecified => "unknown",
    }
}

pub(crate) fn seat<S: Serializer>(seat: &i32, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(seat_name(wire::Seat::try_from(*seat).unwrap_or_default()))
}

pub(crate) fn state<S: Serializer>(state: &i32, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(state_name(wire::RealState::try_from(*state).unwrap_or_default()))
}

pub(crate) fn protocol<S: Serializer>(protocol: &i32, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(match wire::Protocol::try_from(*protocol).unwrap_or_default() {
        wire::Protocol::Tcp => "tcp",
        wire::Protocol::Udp => "udp",
        wire::Protocol::Unspecified => "unknown",
    })
}

/// A number that readers of JSON would round.
pub(crate) fn hex<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{number:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_the_plan() {
        for text in ["10.200.1.1:80/udp", "[fc00:1::1]:443/tcp", "[fc00:1::/96]:80/tcp", "10.200.0.0/16:0/udp"] {
            let service: Service = text.parse().expect(text);
            assert_eq!(service.to_string(), text);
            assert_eq!(Service::from_wire(Some(&service.to_wire())), Ok(service));
        }
    }

    #[test]
    fn what_names_no_service_is_said() {
        for (text, what) in [
            ("10.200.1.1:80", "at the end"),
            ("10.200.1.1:80/sctp", "at the end"),
            ("10.200.1.1/tcp", "no port"),
            ("10.200.1.1:70000/tcp", "no port"),
            ("fc00::1:80/tcp", "without brackets"),
            ("[fc00::1:80/tcp", "`]`"),
            ("10.200.1.1/8:80/tcp", "bits behind"),
            ("10.200.1.1/x:80/tcp", "no length"),
            ("web:80/tcp", "no IP address"),
        ] {
            let error = text.parse::<Service>().expect_err(text).to_string();
            assert!(error.contains(what) && error.contains(text), "{text}: {error}");
        }
    }
}
