//! Frames as they come in and as they leave, for somebody who looks: what is asked for, and what is told.
//!
//! ```text
//! run/capture: the session  >  xdp: the program `capturing` in the place of `balancer`, its filter, its buffers
//!                           >  afxdp/tap: what workers tell of the frames that the program marked
//! ```
//!
//! The kernel seat chooses the frames, by filter, sampling and rate, and marks those that it hands over: so both sights of a frame
//! are there, or none. Nothing here ever waits for who reads: what he has no room for is counted as lost.

mod filter;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use tandem_engine::{From as ChosenBy, Reason};

pub use filter::{Classic, FilterError, translated};
pub use tandem_engine::capture::MOST;

/// Frames a second and CPU, if nothing else is asked for.
pub const RATE: u32 = 1000;

/// What shall be captured.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Wish {
    /// Frames, as they come in, that this program takes; empty: all.
    pub filter: Vec<Classic>,
    /// One of so many of these; at least 1.
    pub sample: u32,
    /// So many a second at most, for each CPU.
    pub rate: u32,
    /// Bytes of each at most; less than 8 are none.
    pub snap: u32,
}

impl Default for Wish {
    fn default() -> Self {
        Self { filter: Vec::new(), sample: 1, rate: RATE, snap: u32::MAX }
    }
}

/// What became of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fate {
    /// Why: the counter that moved.
    pub reason: Reason,
    /// The real that was chosen.
    pub real: Option<IpAddr>,
    /// Who chose it.
    pub from: Option<ChosenBy>,
}

/// One sight of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// What it is known by: the same as it came in and as it left.
    pub mark: u64,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Index of the interface; 0: that which it came in by.
    pub interface: u32,
    /// The receive queue that it came from.
    pub queue: u32,
    /// None: it comes in.
    pub fate: Option<Fate>,
    /// Its length.
    pub len: u32,
    /// Its first bytes; none if it leaves by no interface.
    pub bytes: Vec<u8>,
}

/// What a capture did so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Frames that passed the filter.
    pub accepted: u64,
    /// Of these, after sampling: those that the rate was too low for.
    pub limited: u64,
    /// Of these: those that were captured.
    pub captured: u64,
    /// Sights of these that nobody had room for.
    pub lost: u64,
}

/// A part of what is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// In no order; those of one CPU in theirs.
    pub frames: Vec<Frame>,
    /// So far.
    pub counts: Counts,
    /// Nanoseconds since 1970: what was seen before is in this part or in one before it, or is lost. 0: the next part says it.
    pub now: u64,
}
