//! What the data path wrote down about one frame.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;
use tandem_engine::vlan::PRESENT;
use tandem_engine::{From, Reason, Verdict};

use crate::control::words_addr;
use crate::memory::Tables;

/// The names of VIPs by id, read when a plan is applied: to look for one in its table takes longer than most frames.
pub(super) type Names = BTreeMap<u32, Arc<str>>;

/// What happened to a frame; the numbers are XDP's (`enum xdp_action`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Dropped.
    Drop = 1,
    /// Given to the host.
    Pass = 2,
    /// Sent out of the interface it came from.
    Tx = 3,
    /// Sent elsewhere.
    Redirect = 4,
}

impl Action {
    /// Of a program's return value.
    pub fn of_xdp(action: u32) -> Option<Self> {
        [Self::Drop, Self::Pass, Self::Tx, Self::Redirect].into_iter().find(|a| *a as u32 == action)
    }

    /// Of the engine's verdict.
    pub fn of_verdict(verdict: &Verdict) -> Self {
        Self::of_reason(verdict.reason())
    }

    /// Of a reason.
    pub fn of_reason(reason: Reason) -> Self {
        Self::of_engine(reason.action())
    }

    /// Of the engine's action.
    pub fn of_engine(action: tandem_engine::Action) -> Self {
        match action {
            tandem_engine::Action::Tx => Self::Tx,
            tandem_engine::Action::Pass => Self::Pass,
            tandem_engine::Action::Drop => Self::Drop,
        }
    }

    /// The name in verdicts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Pass => "pass",
            Self::Tx => "tx",
            Self::Redirect => "redirect",
        }
    }
}

/// Everything that was decided about one frame, in the order in which it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// What happened.
    pub action: Action,
    /// Why: the counter that moved.
    pub reason: Option<Reason>,
    /// The VLAN tag that was taken off: its control information.
    pub vlan: Option<u16>,
    /// The VIP's id, and its name.
    pub vip: Option<(u32, Arc<str>)>,
    /// The real's id, and its address.
    pub real: Option<(u32, IpAddr)>,
    /// Who chose the real.
    pub from: Option<From>,
    /// The flow's sets in the flow table, and its print.
    pub sets: [Option<u32>; 2],
    /// Hash of the flow in the flow table.
    pub print: u64,
    /// Set and way where the flow was found.
    pub found: Option<(u32, u32)>,
    /// Hash and slot of the ring.
    pub ring: Option<(u32, u32)>,
    /// Set and way that the flow was entered into, and whether another flow lost it.
    pub entered: Option<(u32, u32, bool)>,
}

impl Decision {
    /// Reads the trace cell.
    pub(super) fn read(tables: &Tables, names: &Names, action: Action) -> Self {
        let cell = tables.trace();
        let index = |value: u32| value.checked_sub(1);
        let name = |id| names.get(&id).cloned().unwrap_or_else(|| format!("vip {id}").into());
        let vip = index(cell.vip.get()).map(|id| (id, name(id)));
        let real = index(cell.real.get()).and_then(|id| Some((id, real_addr(tables, id)?)));
        let place = |cells: &[tandem_engine::memory::shared::S32; 2]| {
            let [set, way] = cells;
            index(set.get()).map(|set| (set, way.get()))
        };
        Self {
            action,
            reason: index(cell.reason.get()).and_then(Reason::from_index),
            vlan: Some(cell.vlan.get()).filter(|tag| tag & PRESENT != 0).map(|tag| tag as u16),
            vip,
            real,
            from: index(cell.from.get()).and_then(|from| From::ALL.into_iter().find(|f| *f as u32 == from)),
            sets: cell.sets.each_ref().map(|set| index(set.get())),
            print: cell.print.get(),
            found: place(&cell.found),
            ring: index(cell.slot.get()).map(|slot| (cell.hash.get(), slot)),
            entered: place(&cell.written).map(|(set, way)| (set, way, cell.evicted.get() != 0)),
        }
    }

    /// A frame without an Ethernet header, which no program runs on.
    pub(super) fn too_short() -> Self {
        Self {
            action: Action::Drop,
            reason: Some(Reason::FrameTooShort),
            vlan: None,
            vip: None,
            real: None,
            from: None,
            sets: [None; 2],
            print: 0,
            found: None,
            ring: None,
            entered: None,
        }
    }

    /// The line of `--verdicts`.
    pub fn row(&self, frame: u64) -> VerdictRow<'_> {
        VerdictRow {
            frame,
            action: self.action.name(),
            reason: self.reason.map(Reason::name),
            vip: self.vip.as_ref().map(|(_, name)| &**name),
            real: self.real.map(|(_, address)| address),
            from: self.from.map_or("none", From::name),
        }
    }
}

/// One line of `--verdicts`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct VerdictRow<'a> {
    /// Number of the frame in the capture, from 0.
    pub frame: u64,
    /// `tx`, `pass`, `drop` or `redirect`.
    pub action: &'static str,
    /// Name of the counter that moved.
    pub reason: Option<&'static str>,
    /// The VIP, if there was one.
    pub vip: Option<&'a str>,
    /// The real, if there was one.
    pub real: Option<IpAddr>,
    /// Who chose the real.
    pub from: &'static str,
}

impl VerdictRow<'static> {
    /// What a companion program did.
    pub(super) fn of(frame: u64, action: Action, reason: &'static str, real: Option<IpAddr>) -> Self {
        Self { frame, action: action.name(), reason: Some(reason), vip: None, real, from: "none" }
    }

    /// A frame without an Ethernet header, which no program runs on.
    pub(super) fn too_short(frame: u64) -> Self {
        Self::of(frame, Action::Drop, Reason::FrameTooShort.name(), None)
    }
}

pub(crate) fn real_addr(tables: &Tables, id: u32) -> Option<IpAddr> {
    let real = tables.reals().get(id as usize)?;
    Some(words_addr(real.addr(), real.hop().is_v6()))
}
