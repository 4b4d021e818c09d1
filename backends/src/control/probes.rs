//! The reals of health checks' probes.

use std::net::IpAddr;

use tandem_engine::memory::Real;

use crate::config::Plan;
use crate::control::addr_words;
use crate::memory::Tables;

/// Each socket mark, and the id of the real that its probes go to. Those whose real is in no table are left out.
pub fn marks(plan: &Plan, tables: &Tables) -> Vec<(u32, u32)> {
    let marks = plan.health_encaps.iter().map(|probe| (probe.mark, find(tables, probe.real)));
    marks.filter_map(|(mark, real)| Some((mark, real?))).collect()
}

/// The id of a real by its address: a VIP's, whose data traffic its probes have to resemble, else one that belongs to none.
fn find(tables: &Tables, address: IpAddr) -> Option<u32> {
    let words = addr_words(address);
    let is_it = |real: &Real| real.hop().is_present() && real.hop().is_v6() == address.is_ipv6() && real.addr() == words;
    let of = |owned: bool| tables.reals().iter().position(|real| is_it(real) && real.owner().is_some() == owned);
    u32::try_from(of(true).or_else(|| of(false))?).ok()
}
