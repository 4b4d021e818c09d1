//! What changed between two looks, for each second.

use std::collections::HashMap;

use tandem_api::wire;

/// Rates of one VIP, real, reason or core, for each second.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Rate {
    /// Packets, or frames.
    pub packets: f64,
    /// Bits of IP packets.
    pub bits: f64,
    /// Packets whose real the ring chose: new flows, mostly.
    pub new: f64,
}

impl Rate {
    /// The share of packets whose flow was known; `None` without packets.
    pub fn hit_ratio(&self) -> Option<f64> {
        (self.packets > 0.0).then(|| (1.0 - self.new / self.packets).clamp(0.0, 1.0))
    }
}

/// All rates between two looks.
#[derive(Default)]
pub struct Rates {
    /// By VIP.
    pub vips: HashMap<String, Rate>,
    /// By VIP and real.
    pub reals: HashMap<(String, String), Rate>,
    /// Frames dropped, by reason.
    pub drops: HashMap<String, f64>,
    /// Frames, by core.
    pub cores: HashMap<String, f64>,
    /// All VIPs together.
    pub all: Rate,
}

impl Rates {
    /// The rates from `before` to `after`; empty if no time passed.
    pub fn between(before: &wire::Stats, after: &wire::Stats) -> Self {
        let milliseconds = after.at_ms.saturating_sub(before.at_ms);
        if milliseconds == 0 {
            return Self::default();
        }
        // A counter that is smaller than before began anew: its VIP was removed and came back.
        let per_second = |before: u64, after: u64| after.saturating_sub(before) as f64 * 1000.0 / milliseconds as f64;
        let rate = |before: [u64; 3], after: [u64; 3]| {
            let [packets, bytes, new] = std::array::from_fn(|i| per_second(before[i], after[i]));
            Rate { packets, bits: bytes * 8.0, new }
        };
        let mut rates = Self::default();
        let known: HashMap<&str, &wire::VipStats> = before.vips.iter().map(|vip| (vip.vip.as_str(), vip)).collect();
        for vip in &after.vips {
            let old = known.get(vip.vip.as_str()).copied();
            let was = old.map_or([0; 3], |old| [old.packets, old.bytes, old.ring]);
            let of_vip = rate(was, [vip.packets, vip.bytes, vip.ring]);
            rates.all.packets += of_vip.packets;
            rates.all.bits += of_vip.bits;
            rates.all.new += of_vip.new;
            for real in &vip.reals {
                let was = old.and_then(|old| old.reals.iter().find(|other| other.real == real.real));
                let was = was.map_or([0; 3], |old| [old.packets, old.bytes, old.ring]);
                let of_real = rate(was, [real.packets, real.bytes, real.ring]);
                rates.reals.insert((vip.vip.clone(), real.real.clone()), of_real);
            }
            rates.vips.insert(vip.vip.clone(), of_vip);
        }
        let drops = after.drops.iter();
        rates.drops = drops
            .map(|(reason, count)| (reason.clone(), per_second(before.drops.get(reason).copied().unwrap_or(0), *count)))
            .collect();
        let was = |core: &str| before.cores.iter().find(|row| row.core == core).map_or(0, |row| row.frames);
        rates.cores = after.cores.iter().map(|row| (row.core.clone(), per_second(was(&row.core), row.frames))).collect();
        rates
    }
}
