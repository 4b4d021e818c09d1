//! A network and the length of its prefix.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network whose host bits are zero. Its text is `10.0.0.0/8` or `2001:db8::/32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    network: IpAddr,
    len: u8,
}

impl Prefix {
    /// The network of `len` bits; `None` if the family has not that many, or if bits behind them are set.
    #[must_use]
    pub fn new(network: IpAddr, len: u8) -> Option<Self> {
        let prefix = Self::covering(network, len)?;
        (prefix.network == network).then_some(prefix)
    }

    /// The network of `len` bits that `address` is in; `None` if the family has not that many.
    #[must_use]
    pub fn covering(address: IpAddr, len: u8) -> Option<Self> {
        let network = match address {
            IpAddr::V4(v4) => {
                let free = 32_u32.checked_sub(u32::from(len))?;
                Ipv4Addr::from_bits(v4.to_bits() & u32::MAX.checked_shl(free).unwrap_or(0)).into()
            }
            IpAddr::V6(v6) => {
                let free = 128_u32.checked_sub(u32::from(len))?;
                Ipv6Addr::from_bits(v6.to_bits() & u128::MAX.checked_shl(free).unwrap_or(0)).into()
            }
        };
        Some(Self { network, len })
    }

    /// Its first address.
    #[must_use]
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// Its length in bits.
    #[must_use]
    pub fn bits(&self) -> u8 {
        self.len
    }

    /// Whether `address` is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.network.is_ipv4() == address.is_ipv4() && Self::covering(address, self.len) == Some(*self)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.len)
    }
}
