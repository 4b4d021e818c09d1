//! The reals of health checks' probes.

use std::net::IpAddr;

use hashbrown::HashMap;

use crate::config::Plan;
use crate::control::words_addr;
use crate::memory::Tables;

/// Each socket mark, and the id of the real that its probes go to: a VIP's, whose data traffic its probes have to resemble, else one
/// that belongs to none. Those whose real is in no table are left out.
pub fn marks(plan: &Plan, tables: &Tables) -> Vec<(u32, u32)> {
    if plan.health_encaps.is_empty() {
        return Vec::new();
    }
    let mut reals: HashMap<IpAddr, (bool, u32)> = HashMap::new();
    for (id, real) in (0..).zip(tables.reals()).filter(|(_, real)| real.hop().is_present()) {
        let found = (real.owner().is_none(), id);
        let known = reals.entry(words_addr(real.addr(), real.hop().is_v6())).or_insert(found);
        *known = found.min(*known);
    }
    let marks = plan.health_encaps.iter().map(|probe| (probe.mark, reals.get(&probe.real)));
    marks.filter_map(|(mark, real)| Some((mark, real?.1))).collect()
}
