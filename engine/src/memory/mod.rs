//! The one memory: every table of the data path is an array of cache lines that the kernel program and userspace both see.
//!
//! The same bytes are a BPF array to the kernel and a mapping of it (or plain memory) to userspace. Nobody ever holds a
//! `&mut` to them: all fields are shared integers ([`shared`]), so several writers may work on one table at once.
//! A zeroed table routes nothing: id 0 is nobody, line 0 of the rings stays zero.

pub mod constants;
pub mod counters;
pub mod features;
pub mod flows;
pub mod ids;
pub mod nats;
pub mod prefixes;
pub mod reals;
pub mod rings;
pub mod root;
pub mod shared;
pub mod trace;
pub mod vips;

pub use constants::Constant;
pub use counters::{Line, RealLine, SeatCounter, VipCounter};
pub use flows::{FlowSet, HashLine, Tag};
pub use ids::{IdKey, IdLine};
pub use nats::{Answer, Nat, NatRules};
pub use prefixes::{PrefixKey, PrefixSlot, Space, Tree};
pub use reals::Real;
pub use rings::RingLine;
pub use root::{Loss, Mode, Root};
pub use trace::Trace;
pub use vips::{Vip, VipKey, VipSlot};

use crate::nat;
use crate::parse::Flow;
use crate::select;

/// An address as it is on the wire, in two words of the machine's byte order; an IPv4 address fills the first half of the first word.
pub type Addr = [u64; 2];

/// The tables as one core (one CPU in the kernel, one worker in userspace) sees them.
///
/// An index outside a table gives `None`, never a panic. All methods take `&self`: the memory is shared.
pub trait Memory {
    /// What every frame needs.
    fn root(&self) -> Option<&Root>;
    /// Slot `index` of the VIP table, over both halves.
    fn vip(&self, index: u32) -> Option<&VipSlot>;
    /// Line `index` of the rings: 32 slots.
    fn ring(&self, index: u32) -> Option<&RingLine>;
    /// The real with this id; id 0 is nobody.
    fn real(&self, id: u32) -> Option<&Real>;
    /// Set `index` of the flow table, modulo their number.
    fn flows(&self, index: u64) -> Option<&FlowSet>;
    /// What the flows of set `index`, modulo the number of sets, asked the ring by ([`features::RING_HASHES`]).
    #[inline(always)]
    fn hashes(&self, _index: u64) -> Option<&HashLine> {
        None
    }
    /// Line `index` of the id table.
    fn ids(&self, index: u32) -> Option<&IdLine>;
    /// Slot `index` of the prefix table, over both halves.
    fn prefix(&self, index: u32) -> Option<&PrefixSlot>;
    /// The tree of a space: `half * SPACES + space`.
    fn tree(&self, index: u32) -> Option<&Tree>;
    /// Place `index` of the NAT table.
    fn nat(&self, index: u32) -> Option<&Nat>;
    /// Place `index` of the answers that come in fragments.
    fn answer(&self, index: u32) -> Option<&Answer>;
    /// [`nat::place`].
    #[inline(always)]
    fn nat_place(&self, root: &Root, flow: &Flow, ask: nat::Ask, real: u32) -> u32
    where
        Self: Sized,
    {
        nat::place(self, root, flow, ask, real)
    }
    /// [`select::enter`].
    #[inline(always)]
    fn enter(&self, tag: &Tag, real: u32, hash: u32, now: u32) -> u64
    where
        Self: Sized,
    {
        select::enter(self, tag, real, hash, now)
    }
    /// Whether the configuration uses a feature ([`features`]). The kernel knows at load time what it can leave out.
    #[inline(always)]
    fn has(&self, root: &Root, feature: u32) -> bool {
        root.features.get() & feature != 0
    }
    /// As [`Self::has`], where something rarer is asked for after it: the kernel only looks at what it knows at load time.
    #[inline(always)]
    fn can(&self, feature: u32) -> bool {
        self.root().is_some_and(|root| self.has(root, feature))
    }
    /// The value of a key in the id table; 0 if it is not there.
    #[inline(always)]
    fn id(&self, root: &Root, key: IdKey) -> u32 {
        ids::find(self, root, key)
    }
    /// The value of the longest prefix that covers `addr`; 0 if none does.
    #[inline(always)]
    fn longest(&self, root: &Root, space: Space, tag: u32, addr: Addr) -> u32 {
        prefixes::find(self, root, space, tag, addr)
    }
    /// Line `index` of this core's own [`Block`](counters::Block) of counters.
    fn count(&self, index: u32) -> Option<&Line>;
    /// Whether this is a VIP's id, not [`NO_VIP`](crate::NO_VIP); no question where every frame has one.
    #[inline(always)]
    fn is_vip(&self, vip: u32) -> bool {
        vip != crate::NO_VIP
    }
    /// This core's counters of a VIP.
    fn vip_count(&self, vip: u32) -> Option<&Line>;
    /// This core's counters of a real.
    fn real_count(&self, real: u32) -> Option<&RealLine>;
    /// The coarse clock in ticks of 64 jiffies, modulo 2^26: the same in both seats, but for a tick or so.
    fn now(&self) -> u32;
    /// Asks for a flow set to be near soon; the kernel cannot.
    #[inline(always)]
    fn soon(&self, _set: u64) {}
    /// Where each decision is written down, when somebody wants to know.
    #[inline(always)]
    fn trace(&self) -> Option<&Trace> {
        None
    }
    /// This core's line of seat counters.
    #[inline(always)]
    fn seat(&self) -> Option<&Line> {
        self.count(counters::SEAT_LINE)
    }
}
