//! An address with a prefix length.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A network, or a single address (length 32 or 128).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// Any address of it.
    pub address: IpAddr,
    /// Bits that all its addresses have in common.
    pub length: u8,
}

/// A text that is neither an address nor a network.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither an IP address nor a network such as 172.16.0.0/16")]
pub struct NoNetwork(String);

impl Network {
    /// A single address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self { address, length: width(address) }
    }

    /// Whether it is one address only.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.length == width(self.address)
    }

    /// Whether the address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(at)) => {
                (u32::from(net) ^ u32::from(at)).leading_zeros() >= u32::from(self.length.min(32))
            }
            (IpAddr::V6(net), IpAddr::V6(at)) => {
                (u128::from(net) ^ u128::from(at)).leading_zeros() >= u32::from(self.length.min(128))
            }
            _ => false,
        }
    }

    /// Whether they have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        if self.length <= other.length { self.contains(other.address) } else { other.contains(self.address) }
    }

    /// `inet` or `inet6`, as an option of `ip`.
    #[must_use]
    pub fn ip_option(&self) -> &'static str {
        if self.address.is_ipv6() { "-6 " } else { "" }
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv6() { 128 } else { 32 }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_host() { self.address.fmt(f) } else { write!(f, "{}/{}", self.address, self.length) }
    }
}

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let wrong = || NoNetwork(text.to_owned());
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let Some(length) = length else { return Ok(Self::host(address)) };
        let length: u8 = length.parse().map_err(|_| wrong())?;
        if length > width(address) { Err(wrong()) } else { Ok(Self { address, length }) }
    }
}

impl Serialize for Network {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Network {
        text.parse().expect("a network")
    }

    #[test]
    fn networks_contain_and_overlap() {
        assert!(net("172.16.0.0/12").contains("172.17.0.1".parse().unwrap()));
        assert!(!net("172.16.0.0/16").contains("172.17.0.1".parse().unwrap()));
        assert!(net("0.0.0.0/0").contains("1.2.3.4".parse().unwrap()));
        assert!(!net("0.0.0.0/0").contains("::1".parse().unwrap()));
        assert!(net("100::/64").overlaps(&net("100::5")));
        assert!(net("10.0.0.5").overlaps(&net("10.0.0.0/8")));
        assert!(!net("10.0.0.5").overlaps(&net("10.0.0.6")));
    }

    #[test]
    fn texts_read_back() {
        for text in ["10.0.0.1", "172.16.0.0/16", "100::/64", "fc00::1"] {
            assert_eq!(net(text).to_string(), text);
        }
        for wrong in ["", "10.0.0.1/33", "10.0.0/8", "::/129", "a", "1.2.3.4/x"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}
