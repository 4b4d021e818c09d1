//! What VIPs and reals did, both seats together.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;
use std::time::Instant;

use tandem_backends::config::Vip;
use tandem_backends::run::SeatCounters;
use tandem_engine::{Action, Reason};

use crate::document::EditError;
use crate::health::Board;
use crate::names::{self, Service};
use crate::provision::{Provision, ProvisionError};
use crate::wire;

/// What the clock of [`wire::Stats::at_ms`] counts from.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The stats of all VIPs, or of `only`.
pub(crate) fn of(provision: &Provision, only: Option<Service>) -> Result<wire::Stats, ProvisionError> {
    // Before the first difference is taken.
    LazyLock::force(&START);
    let now = provision.in_force()?;
    let counters = provision.counters()?;
    let sums = Sums::of(&counters, provision.board());
    let wanted = now.plan.vips.iter().filter(|vip| only.is_none_or(|only| Service::of(vip) == only));
    let vips: Vec<wire::VipStats> = wanted.map(|vip| sums.vip(vip)).collect();
    if let (Some(only), true) = (only, vips.is_empty()) {
        return Err(EditError::NoVip(only).into());
    }
    let cores = provision.cores()?.into_iter().filter(|row| row.frames != 0);
    Ok(wire::Stats {
        vips,
        drops: drops(&counters),
        at_ms: u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX),
        cores: cores.map(|row| wire::CoreStats { core: row.core, frames: row.frames }).collect(),
    })
}

/// Frames dropped, by reason; those that moved.
fn drops(counters: &SeatCounters) -> BTreeMap<String, u64> {
    let drops = Reason::ALL.iter().filter(|reason| reason.action() == Action::Drop);
    let sums = drops.map(|reason| (reason.name().to_owned(), counters.xdp.reason(*reason) + counters.afxdp.reason(*reason)));
    sums.filter(|(_, count)| *count != 0).collect()
}

/// Counters of both seats, to be looked up.
struct Sums<'c> {
    counters: &'c SeatCounters,
    board: &'c Board,
    /// Packets, bytes, choices by the ring and refusals, by VIP and real.
    reals: HashMap<(&'c str, &'c str), [u64; 4]>,
}

impl<'c> Sums<'c> {
    fn of(counters: &'c SeatCounters, board: &'c Board) -> Self {
        let mut reals: HashMap<(&str, &str), [u64; 4]> = HashMap::new();
        for row in counters.xdp.reals.iter().chain(&counters.afxdp.reals) {
            let Some(vip) = &row.vip else { continue };
            let sum = reals.entry((vip, &row.real)).or_default();
            for (sum, count) in sum.iter_mut().zip([row.packets, row.bytes, row.ring, row.refused]) {
                *sum = sum.wrapping_add(count);
            }
        }
        Self { counters, board, reals }
    }

    fn vip(&self, vip: &Vip) -> wire::VipStats {
        let name = vip.to_string();
        let sum = |counter: &str| -> u64 {
            let seats = [&self.counters.xdp, &self.counters.afxdp];
            seats.iter().filter_map(|seat| seat.vips.get(&name)?.get(counter)).sum()
        };
        let reals = vip.reals.iter().map(|real| {
            let address = real.address.to_string();
            let [packets, bytes, ring, refused] = self.reals.get(&(name.as_str(), address.as_str())).copied().unwrap_or_default();
            let (weight, state) = (real.weight, names::state_to_wire(real.state).into());
            let health = self.board.of(&name, real.address).unwrap_or_default().to_owned();
            wire::RealStats { real: address, weight, state, packets, bytes, ring, health, refused }
        });
        wire::VipStats {
            packets: sum("packets"),
            bytes: sum("bytes"),
            ring: sum("ring"),
            entered: sum("entered"),
            evicted: sum("evicted"),
            reals: reals.collect(),
            vip: name,
        }
    }
}
