//! Section 10: what is counted, under the product's names.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// All counters that ever moved.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    pub reasons: BTreeMap<&'static str, u64>,
    pub events: BTreeMap<&'static str, u64>,
    pub vips: BTreeMap<(String, &'static str), u64>,
    /// By address: Katran counts by the real's index, whichever VIP led to it.
    pub reals: BTreeMap<(IpAddr, &'static str), u64>,
}

impl Tally {
    /// As `reason.NAME`, `event.NAME`, `vip.VIP.NAME` and `real.ADDRESS.NAME`; without those that never moved.
    pub fn rows(&self) -> BTreeMap<String, u64> {
        let reasons = self.reasons.iter().map(|(name, n)| (format!("reason.{name}"), *n));
        let events = self.events.iter().map(|(name, n)| (format!("event.{name}"), *n));
        let vips = self.vips.iter().map(|((vip, name), n)| (format!("vip.{vip}.{name}"), *n));
        let reals = self.reals.iter().map(|((real, name), n)| (format!("real.{real}.{name}"), *n));
        reasons.chain(events).chain(vips).chain(reals).filter(|(_, n)| *n > 0).collect()
    }
}
