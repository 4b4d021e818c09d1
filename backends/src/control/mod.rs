//! The control plane over the one memory: from a [`Plan`](crate::config::Plan) to tables, as a difference.
//!
//! Invariant: everything a VIP points at is written before the VIP entry changes, and the entry changes by one store. No
//! packet ever sees a half-written ring. What is unlinked (ring lines, VIP slots, real ids) is used again only after every
//! reader has passed ([`Grace`]) and no flow names it.
//!
//! The tables themselves are the only state: a new process reads from pinned tables what the old one had done.

mod apply;
mod depends;
mod error;
mod exchange;
mod features;
mod grace;
mod host;
mod ids;
mod nat;
mod numbers;
pub mod prefixes;
mod probes;
mod reals;
mod reference;
mod report;
mod rings;
mod runs;
mod vip_table;
mod vips;

pub use apply::{Changes, Control};
pub use depends::{Depending, FlowRow};
pub use error::ControlError;
pub use exchange::{FLOWS_VERSION, FlowExport, FlowRecord, ImportError, Imported, RealName};
pub use features::features;
pub use grace::{Grace, KernelGrace, NoGrace};
pub use host::{Facts, Hops, Reached};
pub use ids::lines as id_lines;
pub use nat::places as nat_places;
pub use numbers::extent;
pub use probes::marks;
pub use reference::reference as counters_reference;
pub use report::{Counters, RealRow, SeatRow, VipRow, frames};
pub use rings::{RingRow, ring_lines};
pub use vip_table::vip_slots;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tandem_engine::Addr;
use tandem_engine::memory::VipKey;
use tandem_engine::memory::prefixes::V4;

use crate::config::Vip;

/// FNV-1a (64 bits): the same in every version and on every machine, where balancers compare what they have.
fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

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
    let (addr, port_be, protocol) = (addr_words(vip.address), vip.port.to_be(), vip.protocol.number());
    match vip.prefix() {
        Some(prefix) => VipKey::prefix(addr, prefixes::key_len(&prefix), port_be, protocol),
        None => VipKey::new(addr, port_be, protocol),
    }
}

/// Whether a key that is no prefix is of an IPv6 address.
fn is_v6(key: &VipKey) -> bool {
    let [a, b] = key.addr;
    b != 0 || a >> 32 != 0
}

/// A VIP's key as text: `10.200.1.1:80/udp`, `[fc00:1::/96]:80/tcp`; that of an address: `10.200.1.1`.
///
/// An IPv4 address fills only the first half of the first word; no IPv6 unicast address that a plan accepts looks like it. The
/// lengths of prefixes say which family they are of.
pub fn key_name(key: &VipKey) -> String {
    let port = u16::from_be(key.port_be());
    let protocol = match key.protocol() {
        tandem_engine::wire::IPPROTO_TCP => "tcp",
        tandem_engine::wire::IPPROTO_UDP => "udp",
        _ => return words_addr(key.addr, is_v6(key)).to_string(),
    };
    match key.prefix_len() {
        Some(len) if len >= V4 => format!("{}/{}:{port}/{protocol}", words_addr(key.addr, false), len - V4),
        Some(len) => format!("[{}/{len}]:{port}/{protocol}", words_addr(key.addr, true)),
        None => format!("{}/{protocol}", SocketAddr::new(words_addr(key.addr, is_v6(key)), port)),
    }
}
