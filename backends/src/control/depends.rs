//! The flows that would go to another real if the flow table were lost now: those whose entry differs from today's ring.

use hashbrown::HashMap;
use tandem_engine::memory::flows::TIME;
use tandem_engine::memory::rings::{SLOTS_PER_LINE, slot_of};
use tandem_engine::memory::{HashLine, Vip};
use tandem_engine::wire::IPPROTO_UDP;

use super::apply::Control;
use super::vip_table;

/// What of the flow table the rings would not give again.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize, serde::Deserialize)]
pub struct Depending {
    /// Flows in the table; of UDP only those that are not idle for too long, of TCP also those that ended and were not
    /// overwritten yet.
    pub flows: u64,
    /// Of these: those that the ring would send to another real now, or to none.
    pub on_state: u64,
}

impl Control {
    /// Walks the whole flow table, some 10 ms for a million flows; `now`: the coarse clock.
    ///
    /// Flows whose real a server id or the client's network named are found again without the table; they are not among
    /// [`Depending::on_state`], and fragments are no flows. `None`: the tables do not keep what flows asked their ring by
    /// (profile katran, or tables that were made under it).
    pub fn depending(&self, now: u32) -> Option<Depending> {
        let tables = &self.tables;
        if tables.hashes().len() < tables.flows().len() {
            return None;
        }
        let entries: HashMap<u32, (u8, Vip)> =
            vip_table::vips(tables).map(|(key, vip)| (vip.id, (key.protocol(), vip))).collect();
        let idle = tables.root().udp_idle.get();
        let vips: Vec<Option<(u8, Vip)>> =
            tables.reals().iter().map(|real| entries.get(&real.owner().filter(|_| real.hop().is_present())?).copied()).collect();
        let mut found = Depending::default();
        for (set, line) in tables.flows().iter().zip(tables.hashes()) {
            for (way, _, real, _, stamp) in set.entries() {
                let hash = line.get(way);
                let Some((protocol, vip)) = vips.get(usize::from(real)).copied().flatten() else { continue };
                let age = u32::from((now as u16).wrapping_sub(stamp) & TIME);
                if hash == HashLine::NONE || protocol == IPPROTO_UDP && idle != 0 && age > idle {
                    continue;
                }
                found.flows += 1;
                found.on_state += u64::from(self.differs(&vip, hash, real));
            }
        }
        Some(found)
    }

    /// Whether the ring would send a flow of this real elsewhere now.
    pub(super) fn differs(&self, vip: &Vip, hash: u32, real: u16) -> bool {
        let slot = slot_of(hash, vip.ring_len);
        let line = self.tables.rings().get((vip.ring + slot / SLOTS_PER_LINE) as usize);
        hash != HashLine::NONE && line.is_none_or(|line| line.get(slot) != u32::from(real))
    }
}
