//! Counters, summed and named.

use std::collections::BTreeMap;

use serde::Serialize;
use tandem_engine::Reason;
use tandem_engine::memory::counters::{SEAT_LINE, real_at, reason_at, vip_at};
use tandem_engine::memory::{SeatCounter, VipCounter};

use super::{key_name, vip_table, words_addr};
use crate::memory::Tables;

/// What is counted for a VIP, by name.
pub type VipRow = BTreeMap<&'static str, u64>;
/// What a seat counted of its own work, by name.
pub type SeatRow = BTreeMap<&'static str, u64>;

/// What is counted for a VIP's real.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RealRow {
    /// The VIP.
    pub vip: String,
    /// The real's address.
    pub real: String,
    /// Frames forwarded.
    pub packets: u64,
    /// Bytes of their IP packets, before encapsulation.
    pub bytes: u64,
}

/// All counters of some blocks, summed over them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counters {
    /// Frames by reason; each frame moved exactly one.
    pub reasons: BTreeMap<&'static str, u64>,
    /// By VIP.
    pub vips: BTreeMap<String, VipRow>,
    /// By VIP and real.
    pub reals: Vec<RealRow>,
    /// The seats' own.
    pub seat: SeatRow,
}

impl Counters {
    /// Sums up `blocks` of the tables.
    pub fn read(tables: &Tables, blocks: impl Iterator<Item = u32> + Clone) -> Self {
        let sum = |line: u32, index: usize| -> u64 {
            blocks.clone().filter_map(|block| Some(tables.block(block).get(line as usize)?.get(index))).fold(0, u64::wrapping_add)
        };
        let reasons = Reason::ALL.iter().map(|reason| {
            let (line, index) = reason_at(*reason);
            (reason.name(), sum(line, index))
        });
        let entries = vip_table::entries(tables);
        let row = |id: u32| VipCounter::ALL.iter().map(|(counter, name)| (*name, sum(vip_at(id), *counter as usize))).collect();
        let vips = entries.iter().map(|(key, vip)| (key_name(key), row(vip.id))).collect();
        let names: BTreeMap<u32, String> = entries.iter().map(|(key, vip)| (vip.id, key_name(key))).collect();
        let mut reals: Vec<RealRow> = tables
            .reals()
            .iter()
            .enumerate()
            .filter_map(|(id, real)| {
                let hop = real.hop();
                let vip = hop.is_present().then(|| real.owner())?.and_then(|owner| names.get(&owner))?.clone();
                let (line, index) = real_at(id as u32);
                let (packets, bytes) = (sum(line, index), sum(line, index + 1));
                Some(RealRow { vip, real: words_addr(real.addr(), hop.is_v6()).to_string(), packets, bytes })
            })
            .collect();
        reals.sort_unstable_by(|a, b| (&a.vip, &a.real).cmp(&(&b.vip, &b.real)));
        let seat = SeatCounter::ALL.iter().map(|(counter, name)| (*name, sum(SEAT_LINE, *counter as usize))).collect();
        Self { reasons: reasons.collect(), vips, reals, seat }
    }

    /// The count of a reason.
    pub fn reason(&self, reason: Reason) -> u64 {
        self.reasons.get(reason.name()).copied().unwrap_or(0)
    }

    /// One of the seats' own counters.
    pub fn seat(&self, counter: SeatCounter) -> u64 {
        SeatCounter::ALL.iter().find(|(c, _)| *c == counter).and_then(|(_, name)| self.seat.get(name)).copied().unwrap_or(0)
    }
}
