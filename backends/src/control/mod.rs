//! The control plane over the one memory: from a [`Plan`](crate::config::Plan) to tables, as a difference.
//!
//! Invariant: everything a VIP points at is written before the VIP entry changes, and the entry changes by one store. No
//! packet ever sees a half-written ring. What is unlinked (ring lines, VIP slots, real ids) is used again only after every
//! reader has passed ([`Grace`]) and no flow names it.
//!
//! The tables themselves are the only state: a new process reads from pinned tables what the old one had done.

mod apply;
mod host;
mod probes;
mod report;
mod rings;
mod vip_table;

pub use apply::{Changes, Control, ControlError, Grace, KernelGrace, NoGrace};
pub use host::{Facts, Hops};
pub use probes::marks;
pub use report::{Counters, RealRow, SeatRow, VipRow};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tandem_engine::Addr;
use tandem_engine::memory::VipKey;

use crate::config::Vip;

/// An address as the tables hold it.
pub fn addr_words(address: IpAddr) -> Addr {
    match address {
        IpAddr::V4(v4) => [u64::from(u32::from_ne_bytes(v4.octets())), 0],
        IpAddr::V6(v6) => tandem_engine::wire::ipv6_words(&v6.octets()),
    }
}

/// The address in two words of a table; which family they hold is not in them.
pub fn words_addr(words: Addr, is_v6: bool) -> IpAddr {
    let [a, b] = words;
    if is_v6 {
        let mut octets = [0_u8; 16];
        let (high, low) = octets.split_at_mut(8);
        high.copy_from_slice(&a.to_ne_bytes());
        low.copy_from_slice(&b.to_ne_bytes());
        IpAddr::V6(Ipv6Addr::from(octets))
    } else {
        IpAddr::V4(Ipv4Addr::from((a as u32).to_ne_bytes()))
    }
}

/// What the VIP is found by in the tables.
pub fn vip_key(vip: &Vip) -> VipKey {
    VipKey::new(addr_words(vip.address), vip.port.to_be(), vip.protocol.number())
}

/// A VIP's key as text: `10.200.1.1:80/udp`.
///
/// An IPv4 address fills only the first half of the first word; no IPv6 unicast address that a plan accepts looks like it.
pub fn key_name(key: &VipKey) -> String {
    let [a, b] = key.addr;
    let address = words_addr(key.addr, b != 0 || a >> 32 != 0);
    let protocol = if key.protocol() == tandem_engine::wire::IPPROTO_TCP { "tcp" } else { "udp" };
    format!("{}/{protocol}", SocketAddr::new(address, u16::from_be(key.port_be())))
}
