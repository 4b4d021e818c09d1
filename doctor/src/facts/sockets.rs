//! Sockets that wait for clients, by `SOCK_DIAG_BY_FAMILY`: structures and numbers of `inet_diag.h`.

use std::io;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::exchange::{AF_INET, AF_INET6, Attributes, Exchange, address};

/// `NETLINK_SOCK_DIAG`.
const PROTOCOL: isize = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// Length of `struct inet_diag_msg`.
const MESSAGE: usize = 72;
const INET_DIAG_SKV6ONLY: u16 = 11;
/// State of a listening TCP socket, and of a UDP socket that is not connected (`tcp_states.h`).
const LISTEN: u32 = 1 << 10;
const CLOSE: u32 = 1 << 7;

/// A socket that takes connections, or datagrams from anybody.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listener {
    /// UDP, else TCP.
    pub udp: bool,
    /// The address it is bound to.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// An IPv6 socket on the unspecified address takes IPv4 as well, unless this is set.
    pub v6_only: bool,
}

impl Listener {
    /// Whether it gets what is addressed to this address and port.
    #[must_use]
    pub fn takes(&self, address: IpAddr, port: u16) -> bool {
        let family = self.address.is_ipv6() == address.is_ipv6() || self.address.is_ipv6() && !self.v6_only;
        self.port == port && (self.address == address || self.address.is_unspecified() && family)
    }
}

/// All of them, TCP and UDP, each once.
pub(super) fn listeners() -> io::Result<Vec<Listener>> {
    let mut exchange = Exchange::open(PROTOCOL)?;
    let mut found = Vec::new();
    for (family, (protocol, state)) in
        [AF_INET, AF_INET6].into_iter().flat_map(|family| [(family, (6, LISTEN)), (family, (17, CLOSE))])
    {
        let mut body = vec![family, protocol, 0, 0];
        body.extend(state.to_ne_bytes());
        // `struct inet_diag_sockid`: any, and no cookie.
        body.extend([0; 40]);
        body.extend([0xff; 8]);
        found.extend(exchange.dump(SOCK_DIAG_BY_FAMILY, &body)?.iter().filter_map(|message| listener(message, protocol == 17)));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn listener(message: &[u8], udp: bool) -> Option<Listener> {
    let width = if *message.first()? == AF_INET6 { 16 } else { 4 };
    let port = u16::from_be_bytes(*message.get(4..)?.first_chunk()?);
    let address = address(message.get(8..8 + width)?)?;
    let v6_only = Attributes::behind(message, MESSAGE).u8(INET_DIAG_SKV6ONLY) == Some(1);
    Some(Listener { udp, address, port, v6_only })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_take_what_is_theirs() {
        let any = |address: &str, v6_only| Listener { udp: false, address: address.parse().unwrap(), port: 80, v6_only };
        let (v4, v6): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "fc00::1".parse().unwrap());
        assert!(any("0.0.0.0", false).takes(v4, 80) && !any("0.0.0.0", false).takes(v6, 80));
        assert!(any("::", false).takes(v4, 80) && any("::", false).takes(v6, 80));
        assert!(!any("::", true).takes(v4, 80) && any("::", true).takes(v6, 80));
        assert!(any("10.0.0.1", false).takes(v4, 80) && !any("10.0.0.2", false).takes(v4, 80));
        assert!(!any("0.0.0.0", false).takes(v4, 81));
    }

    #[test]
    fn the_kernel_lists_a_listener() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("its address");
        let found = listeners().expect("a list");
        assert!(found.iter().any(|found| !found.udp && found.takes(at.ip(), at.port())), "{at}: {found:?}");
    }
}
