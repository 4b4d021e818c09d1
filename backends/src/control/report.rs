//! Counters, summed and named.

use std::collections::BTreeMap;

use serde::Serialize;
use tandem_engine::memory::counters::{Event, RealCounter, SEAT_LINE, event_at, reason_at};
use tandem_engine::memory::shared::S64;
use tandem_engine::memory::{SeatCounter, VipCounter};
use tandem_engine::{Action, Reason};

use super::{key_name, vip_table, words_addr};
use crate::memory::Tables;

/// What is counted for a VIP, by name.
pub type VipRow = BTreeMap<&'static str, u64>;
/// What a seat counted of its own work, by name.
pub type SeatRow = BTreeMap<&'static str, u64>;

/// What is counted for a VIP's real.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RealRow {
    /// The VIP; none for a real that server ids, source routes or probes name.
    pub vip: Option<String>,
    /// The real's address.
    pub real: String,
    /// Frames forwarded.
    pub packets: u64,
    /// Bytes of their IP packets, before encapsulation.
    pub bytes: u64,
    /// Of these frames: those whose real was chosen anew, by the ring or by the client's network.
    pub ring: u64,
    /// Of these frames: TCP resets, and ICMP errors about what the real sent.
    pub refused: u64,
}

/// All counters of some blocks, summed over them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counters {
    /// Frames by reason; each frame moved exactly one.
    pub reasons: BTreeMap<&'static str, u64>,
    /// What happened to frames on their way, and sums over frames and bytes.
    pub events: BTreeMap<&'static str, u64>,
    /// By VIP.
    pub vips: BTreeMap<String, VipRow>,
    /// By VIP and real.
    pub reals: Vec<RealRow>,
    /// The seats' own.
    pub seat: SeatRow,
}

/// What follows from other counters: frames and bytes seen, bytes by what became of them, packets to VIPs.
fn sums(
    reasons: &BTreeMap<&'static str, u64>,
    bytes: impl Fn(Action) -> u64,
    events: &BTreeMap<&'static str, u64>,
) -> [(&'static str, u64); 6] {
    let event = |event: Event| events.get(event.name()).copied().unwrap_or(0);
    let [tx, pass, drop] = [Action::Tx, Action::Pass, Action::Drop].map(bytes);
    // A frame without an Ethernet header never comes to a program.
    let reason = |reason: Reason| reasons.get(reason.name()).copied().unwrap_or(0);
    let seen = reasons.values().sum::<u64>() - reason(Reason::FrameTooShort);
    // Everything after the size check ends in one of these.
    let to_vips = [
        Reason::Forwarded,
        Reason::LocalDelivery,
        Reason::NoRing,
        Reason::NoReal,
        Reason::NoNextHop,
        Reason::RealRemoved,
        Reason::NoHeadroom,
        Reason::NoSource,
    ];
    let to_vips = to_vips.into_iter().map(reason).sum();
    [
        ("frames", seen + event(Event::AgainFrames)),
        ("bytes", tx + pass + drop + event(Event::AgainBytes)),
        ("tx-bytes", tx),
        ("pass-bytes", pass),
        ("drop-bytes", drop),
        ("vip-packets", to_vips),
    ]
}

/// Frames that the core of a block decided about.
pub fn frames(tables: &Tables, block: u32) -> u64 {
    let lines = tables.block(block);
    let of = |reason: &Reason| {
        let (line, index) = reason_at(*reason as u32);
        lines.get(line as usize).map_or(0, |line| line.get(index))
    };
    Reason::ALL.iter().map(of).fold(0, u64::wrapping_add)
}

impl Counters {
    /// Sums up `blocks` of the tables.
    pub fn read(tables: &Tables, blocks: impl Iterator<Item = u32> + Clone) -> Self {
        let sum = |line: u32, index: usize| -> u64 {
            blocks.clone().filter_map(|block| Some(tables.block(block).get(line as usize)?.get(index))).fold(0, u64::wrapping_add)
        };
        let reasons = Reason::ALL.iter().map(|reason| {
            let (line, index) = reason_at(*reason as u32);
            (reason.name(), sum(line, index))
        });
        let entries: Vec<_> = vip_table::vips(tables).collect();
        let extent = tables.extent();
        let row =
            |id: u32| VipCounter::ALL.iter().map(|(counter, name)| (*name, sum(extent.vip(id), *counter as usize))).collect();
        let vips = entries.iter().map(|(key, vip)| (key_name(key), row(vip.id))).collect();
        let names: BTreeMap<u32, String> = entries.iter().map(|(key, vip)| (vip.id, key_name(key))).collect();
        let mut reals: Vec<RealRow> = tables
            .reals()
            .iter()
            .enumerate()
            .filter_map(|(id, real)| {
                let hop = real.hop();
                let vip = match hop.is_present().then(|| real.owner())? {
                    Some(owner) => Some(names.get(&owner)?.clone()),
                    None => None,
                };
                let of = |counter: RealCounter| {
                    let lines = blocks.clone().filter_map(|block| tables.real_count(block, id as u32));
                    lines.filter_map(|line| line.get(counter as usize)).map(S64::get).fold(0, u64::wrapping_add)
                };
                Some(RealRow {
                    vip,
                    real: words_addr(real.addr(), hop.is_v6()).to_string(),
                    packets: of(RealCounter::Packets),
                    bytes: of(RealCounter::Bytes),
                    ring: of(RealCounter::Ring),
                    refused: of(RealCounter::Refused),
                })
            })
            .collect();
        reals.sort_unstable_by(|a, b| (&a.vip, &a.real).cmp(&(&b.vip, &b.real)));
        let seat = SeatCounter::ALL.iter().map(|(counter, name)| (*name, sum(SEAT_LINE, *counter as usize))).collect();
        let reasons: BTreeMap<_, _> = reasons.collect();
        let at = |(line, index)| sum(line, index);
        let mut events: BTreeMap<_, _> = Event::ALL.iter().map(|event| (event.name(), at(event_at(*event)))).collect();
        // the bytes of a reason are counted behind its frames
        let bytes = |reason: &Reason| {
            let (line, index) = reason_at(*reason as u32);
            sum(line, index + 1)
        };
        let bytes_by = |action| Reason::ALL.iter().filter(|reason| reason.action() == action).map(bytes).sum();
        events.extend(sums(&reasons, bytes_by, &events));
        Self { reasons, events, vips, reals, seat }
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
