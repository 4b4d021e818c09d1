//! What the start says of the ways to the reals: MTUs that are too small, and sources that nothing comes back to.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tandem_engine::memory::{Real, VipSlot, features};
use tandem_engine::overhead;
use tandem_engine::wire::Ethernet;

use crate::config::{Plan, TooBig};
use crate::control::words_addr;
use crate::facts::{Interface, Netlink};
use crate::memory::Tables;

/// What fits into `tunnel.max_frame` has to fit into the MTU of the way to its real with its outer headers, too.
pub(super) fn warn_of_narrow_ways(plan: &Plan, interface: &Interface, tables: &Tables) {
    let reals = || tables.reals().iter().filter(|real| real.hop().is_resolved());
    if tables.root().features.get() & features::PATH_MTU == 0 || reals().any(|real| real.out().mtu == 0) {
        return warn_of_large_frames(plan, interface, tables);
    }
    let accepted = plan.max_frame - Ethernet::LEN as u32;
    let mut narrow: BTreeMap<(u16, u32), Vec<&Real>> = BTreeMap::new();
    for real in reals().filter(|real| real.hop().is_narrow()) {
        narrow.entry((real.out().mtu, overhead(real.hop(), true))).or_default().push(real);
    }
    for ((mtu, headers), reals) in narrow {
        let Some(first) = reals.first() else { continue };
        let (fits, becomes) = (u32::from(mtu).saturating_sub(headers), what_becomes(plan.too_big));
        log::warn!(
            "the way to {n} reals ({first}) has MTU {mtu}, and the largest packets accepted (tunnel.max_frame = {}) need {} with {headers} \
             bytes of outer headers: packets above {fits} bytes {becomes}; raise the MTU of the way to the reals",
            plan.max_frame,
            accepted + headers,
            n = reals.len(),
            first = words_addr(first.addr(), first.hop().is_v6()),
        );
    }
}

fn what_becomes(too_big: TooBig) -> &'static str {
    match too_big {
        TooBig::Icmp => "are answered with ICMP \"too big\", so that clients send smaller ones",
        TooBig::Drop => "are dropped and counted as path-mtu",
    }
}

/// The MTUs of the ways are not known: the interface's is all that can be said. The driver drops what does not fit, and
/// nobody is told.
fn warn_of_large_frames(plan: &Plan, interface: &Interface, tables: &Tables) {
    let room = tables.vips().iter().filter_map(VipSlot::entry).map(|(_, vip)| vip.room()).max().unwrap_or(0);
    let ethernet = Ethernet::LEN as u32;
    let (needed, fits) = (plan.max_frame - ethernet + room, (interface.mtu + ethernet).saturating_sub(room));
    if interface.mtu < needed {
        log::warn!(
            "{name} has MTU {mtu}, and the largest frames accepted (tunnel.max_frame = {}) need {needed} with {room} bytes of outer \
             headers: the driver drops those above {fits}; raise the MTU of the way to the reals (`ip link set {name} mtu {needed}`), \
             or set tunnel.max_frame = {fits}, and clients are told to send smaller ones",
            plan.max_frame,
            name = interface.name,
            mtu = interface.mtu,
        );
    }
}

/// ICMP errors from the way to the reals are addressed to the outer source: one that is not this host's gets none.
pub(super) fn warn_of_strange_sources(plan: &Plan, plain: [Option<IpAddr>; 2], netlink: &Netlink) {
    let [v4, v6] = plain;
    let prefix_v4 = plan.source_prefix_v4.map(|(network, _)| IpAddr::from(network));
    let prefix_v6 = plan.source_prefix_v6.map(|(network, _)| IpAddr::from(network));
    for (source, key) in [(v4, "source_v4"), (v6, "source_v6"), (prefix_v4, "source_prefix_v4"), (prefix_v6, "source_prefix_v6")]
    {
        let Some(source) = source.filter(|source| !netlink.is_local(*source)) else { continue };
        log::warn!(
            "tunnel.{key}: {source} is no address of this host; unless the network routes it here all the same, ICMP errors from the \
             way to the reals do not come back, and clients are not told of a small MTU there (`ip route add local`)"
        );
    }
}
