//! The flows that would go to another real if the flow table were lost now: those whose entry differs from today's ring.

use std::net::IpAddr;

use hashbrown::HashMap;
use tandem_engine::memory::flows::silence;
use tandem_engine::memory::rings::{SLOTS_PER_LINE, slot_of};
use tandem_engine::memory::{HashLine, Vip};
use tandem_engine::wire::IPPROTO_UDP;

use super::apply::Control;
use super::{key_name, vip_table, words_addr};

/// What of the flow table the rings would not give again.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize, serde::Deserialize)]
pub struct Depending {
    /// Flows in the table; of UDP only those that are not idle for too long, of TCP also those that ended and were not
    /// overwritten yet.
    pub flows: u64,
    /// Of these: those that the ring would send to another real now, or to none.
    pub on_state: u64,
}

/// The flows of a VIP's real.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct FlowRow {
    /// The VIP, as listings have it.
    pub vip: String,
    /// The real's address.
    pub real: IpAddr,
    /// Its flows.
    pub flows: Depending,
}

impl Control {
    /// Walks the whole flow table, some 10 ms for a million flows; `now`: the coarse clock.
    ///
    /// Flows whose real a server id or the client's network named are found again without the table; they are not among
    /// [`Depending::on_state`], and fragments are no flows. `None`: the tables do not keep what flows asked their ring by
    /// (profile katran, or tables that were made under it).
    pub fn depending(&self, now: u32) -> Option<Depending> {
        let sum =
            |sum: Depending, row: Depending| Depending { flows: sum.flows + row.flows, on_state: sum.on_state + row.on_state };
        Some(self.by_real(now)?.into_iter().fold(Depending::default(), sum))
    }

    /// The same for each real that has flows, by VIP and address.
    pub fn flow_rows(&self, now: u32) -> Option<Vec<FlowRow>> {
        let names: HashMap<u32, String> = vip_table::vips(&self.tables).map(|(key, vip)| (vip.id, key_name(&key))).collect();
        let found = self.tables.reals().iter().zip(self.by_real(now)?).filter(|(_, row)| row.flows != 0);
        let rows = found.filter_map(|(real, flows)| {
            let vip = names.get(&real.owner()?)?.clone();
            Some(FlowRow { vip, real: words_addr(real.addr(), real.hop().is_v6()), flows })
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_unstable_by(|a, b| (&a.vip, a.real).cmp(&(&b.vip, b.real)));
        Some(rows)
    }

    /// Whether the tables keep what [`Self::depending`] needs.
    pub fn knows_depending(&self) -> bool {
        self.tables.hashes().len() >= self.tables.flows().len()
    }

    /// By the ids of the reals.
    fn by_real(&self, now: u32) -> Option<Vec<Depending>> {
        if !self.knows_depending() {
            return None;
        }
        let tables = &self.tables;
        let entries: HashMap<u32, (u8, Vip)> =
            vip_table::vips(tables).map(|(key, vip)| (vip.id, (key.protocol(), vip))).collect();
        let idle = tables.root().udp_idle.get();
        let vips: Vec<Option<(u8, Vip)>> =
            tables.reals().iter().map(|real| entries.get(&real.owner().filter(|_| real.hop().is_present())?).copied()).collect();
        let mut found = vec![Depending::default(); vips.len()];
        for (set, line) in tables.flows().iter().zip(tables.hashes()) {
            for (way, _, real, _, stamp) in set.entries() {
                let (hash, at) = (line.get(way), real as usize);
                let (Some(Some((protocol, vip))), Some(found)) = (vips.get(at), found.get_mut(at)) else { continue };
                let age = u32::from(silence(now, stamp));
                if hash == HashLine::NONE || *protocol == IPPROTO_UDP && idle != 0 && age > idle {
                    continue;
                }
                found.flows += 1;
                found.on_state += u64::from(self.differs(vip, hash, real));
            }
        }
        Some(found)
    }

    /// Whether the ring would send a flow of this real elsewhere now.
    pub(super) fn differs(&self, vip: &Vip, hash: u32, real: u32) -> bool {
        let slot = slot_of(hash, vip.ring_len);
        let line = self.tables.rings().get((vip.ring + slot / SLOTS_PER_LINE) as usize);
        let number = line.map_or(0, |line| line.get(slot));
        hash != HashLine::NONE && (number == 0 || vip.first + number != real)
    }
}
