//! The flow table: two sets of five ways for each flow, one cache line a set, shared by all cores and both seats.
//!
//! ```text
//! x[5] u64: upper 44 bits of the print, 20 bits of real | check[5] u16: lowest 16 bits of the print
//! stamp[5] u16: held bit, 15 bits of tick | 4 B spare                                            = 64 B
//! ```
//!
//! *Where.* Both sets follow from the print: the first from bits that an entry keeps (so that flows can be carried into a larger
//! table), the second is one of the [`NEAR`] sets of the first one's page of memory. A table of millions of flows is far larger than
//! what a TLB covers: a flow takes one walk of the page tables there, not two. A page has 320 ways, and pages fill as evenly as sets
//! of so many ways do: at a load of 0.8, 256 of them with a deviation of 16.
//!
//! *What is compared*: 60 bits of the print, of which one is always set. What lies in its own first set agrees in the index of that
//! before anything is compared: of 2^18 sets 41 bits are left (and in the second, which bits that are not kept are part of, 44). In
//! full sets, half of them entered as second, a packet of a flow that is not in the table is taken for another's about once in
//! 2^41 / 2.8, or 8 * 10^11, packets: at 100,000 new flows a second once in 90 days. It goes to that flow's real then. (The SYN of TCP
//! never asks; one that hits takes the other's entry, as rarely.) A flow behind one that has the same word, but another check, is not
//! found, and goes where the ring says: among a million flows there are two with the same word in every eighteenth table.
//!
//! *Torn entries.* Several CPUs and threads write without a lock. Real and 44 bits of the print are one word, and never those of
//! two writes: whoever matches them is given the real that was written for them. A check of another write makes the entry
//! nobody's (or leaves 44 bits to tell it, for as long as it lies there), a torn stamp only makes it look older or younger.
//!
//! *Who goes.* A flow's second packet sets its held bit. A new flow takes its own entry, else a free way, else the oldest
//! that was seen once, else the oldest: a flood of one-packet flows churns one way of a set and leaves the rest alone.
//! Ways fill from the first, so the lower free way is in the emptier of the two sets (power of two choices).

use super::shared::{S16, S32, S64};

/// Bits of a real's id.
pub const REAL_BITS: u32 = 20;
/// A real's id in the word of an entry.
const REAL: u64 = (1 << REAL_BITS) - 1;
/// What is beside it: these bits of the print.
pub const PRINT: u64 = !REAL;
/// And these are kept apart.
pub const CHECK: u64 = 0xffff;
/// Ways of a set.
pub const WAYS: usize = 5;
/// Bytes that one entry of a full table takes, rounded up.
pub const BYTES_PER_FLOW: usize = 13;
/// The stamp's bit of a flow that was seen more than once.
const HELD: u16 = 1 << 15;
/// The stamp's bits of time.
pub const TIME: u16 = HELD - 1;
/// Ticks that another seat's clock may be ahead: a stamp so little in the future is as young as one can be.
const AHEAD: u16 = 8;

/// Sets that are near each other: those of one page of 4 KiB, which is what the kernel maps these tables by.
pub const NEAR: u64 = 4096 / size_of::<FlowSet>() as u64;
/// Where the print says which of the near sets is the second one: from here on, in bits of which an entry keeps only the upper two.
const OFFSET: u32 = 16;

/// What a flow looks like to the table: a keyed hash.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Tag {
    /// 63 bits of hash, of which an entry keeps 59 ([`PRINT`] and [`CHECK`]); the top bit is set, so that no print looks like an
    /// empty way.
    pub print: u64,
}

impl Tag {
    /// Index of its first set, to be taken modulo their number: 40 bits, as nobody has to cut them off before that.
    #[inline(always)]
    pub const fn first(&self) -> u64 {
        self.print >> 24
    }
    /// Index of its second set, to be taken modulo their number: near the first, and never the same (but in a table of one set).
    #[inline(always)]
    pub const fn second(&self) -> u64 {
        self.first() ^ (self.print >> OFFSET & const { NEAR.wrapping_sub(1) } | 1)
    }
}

/// How little is lost by taking a way, in the upper bits; the way in the lowest four (8 and up: the first set, so that
/// it is taken where both are worth the same).
///
/// One number, so that the verifier follows as few states as there are ways.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Worth(u64);

/// Seen once: goes before every flow that was seen again. The place of [`HELD`], so that it is the stamp's bit, inverted.
const ONCE: u64 = HELD as u64;
const FREE: u64 = 1 << 16;
const ITSELF: u64 = 1 << 17;
/// Ways of the first set are numbered from here, those of the second from 0.
pub const FIRST: u64 = 8;

impl Worth {
    /// Less than any way.
    pub const NONE: Self = Self(0);

    /// Whether it is a way of the second set.
    #[inline(always)]
    pub fn is_second(self) -> bool {
        self.0 & FIRST == 0
    }
    /// Whether another flow loses its place.
    #[inline(always)]
    pub fn evicts(self) -> bool {
        self.0 >> 4 < FREE
    }
    /// The way in its set.
    #[inline(always)]
    pub fn way(self) -> u32 {
        self.0 as u32 & 7
    }
}

/// What a set knows of a flow: its real and its way, or nothing. One number, no part of which is undefined when there is
/// nothing: LLVM would carry that part along, and the verifier refuses a register that nobody wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hit(u32);

/// Where a [`Hit`] has its way: in the top three bits. LLVM knows that a way is small and leaves out the mask; the verifiers
/// of Linux 5.10 and 6.1 lose what they knew of a spilled register, and then see what the shift leaves.
const WAY: u32 = 29;

impl Hit {
    /// Not found.
    pub const NONE: Self = Self(0);

    #[inline(always)]
    fn new(real: u64, way: usize) -> Self {
        Self((way as u32) << WAY | real as u32)
    }

    /// Whether the flow was found.
    #[inline(always)]
    pub fn is_some(self) -> bool {
        self.0 != 0
    }
    /// Its real; 0: not found.
    #[inline(always)]
    pub fn real(self) -> u32 {
        self.0 & REAL as u32
    }
    /// Its way in the set.
    #[inline(always)]
    pub fn way(self) -> u32 {
        self.0 >> WAY
    }
}

/// Ticks since a stamp, and [`AHEAD`].
#[inline(always)]
fn age(now: u32, stamp: u16) -> u16 {
    (now as u16).wrapping_add(AHEAD).wrapping_sub(stamp) & TIME
}

/// Ticks since a stamp: 0 for one that is a little ahead of `now`, which another clock set, or a packet after `now` was read.
#[inline(always)]
pub fn silence(now: u32, stamp: u16) -> u16 {
    age(now, stamp).saturating_sub(AHEAD)
}

/// One set, 64 bytes.
#[repr(C, align(64))]
#[cfg_attr(not(target_arch = "bpf"), derive(Default, Debug))]
pub struct FlowSet {
    x: [S64; WAYS],
    check: [S16; WAYS],
    stamp: [S16; WAYS],
    spare: S32,
}

const _: () = assert!(size_of::<FlowSet>() == 64);

impl FlowSet {
    /// Finds the flow, renews its entry and protects it.
    ///
    /// An entry older than `idle` ticks (0: no limit) is a miss. Ages are known modulo 2^15 ticks, and another seat's clock may be a little ahead.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "the loop's bound is the arrays' length")]
    pub fn get(&self, tag: &Tag, now: u32, idle: u32) -> Hit {
        let print = tag.print & PRINT;
        for way in 0..WAYS {
            let real = self.x[way].get() ^ print;
            if real <= REAL {
                let old = self.stamp[way].get();
                // Another flow's word, or a torn entry: the ways behind are not looked at, which saves instructions everywhere.
                if self.check[way].get() != tag.print as u16 || idle != 0 && age(now, old) > (idle as u16).wrapping_add(AHEAD) {
                    return Hit::NONE;
                }
                let new = now as u16 | HELD;
                // written only when it changes: the line stays shared between cores
                if old != new {
                    self.stamp[way].set(new);
                }
                return Hit::new(real, way);
            }
        }
        Hit::NONE
    }

    /// The better of `best` and this set's best place for the flow; ways are numbered from `first`.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "the loop's bound is the arrays' length")]
    pub fn place(&self, tag: &Tag, now: u32, first: u64, best: Worth) -> Worth {
        let (mut best, print) = (best.0, tag.print & PRINT);
        for way in 0..WAYS {
            let (x, stamp) = (self.x[way].get(), self.stamp[way].get());
            let worth = if x ^ print <= REAL && self.check[way].get() == tag.print as u16 {
                ITSELF
            } else if x == 0 {
                FREE.wrapping_add(FIRST).wrapping_sub(way as u64)
            } else {
                age(now, stamp) as u64 | !stamp as u64 & ONCE
            };
            let worth = worth << 4 | first.wrapping_add(way as u64);
            if worth > best {
                best = worth;
            }
        }
        Worth(best)
    }

    /// Finds the flow, however old its entry is; nothing is renewed.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "the loop's bound is the arrays' length")]
    pub fn peek(&self, tag: &Tag) -> Hit {
        let print = tag.print & PRINT;
        for way in 0..WAYS {
            let real = self.x[way].get() ^ print;
            if real <= REAL && self.check[way].get() == tag.print as u16 {
                return Hit::new(real, way);
            }
        }
        Hit::NONE
    }

    /// Another real for the flow in this way; its age stays.
    #[inline(always)]
    pub fn rewrite(&self, way: u32, tag: &Tag, real: u32) {
        let way = (way & 7) as usize;
        if let (Some(x), Some(check)) = (self.x.get(way), self.check.get(way)) {
            x.set(word(tag, real));
            check.set(tag.print as u16);
        }
    }

    /// Writes the flow into a way.
    #[inline(always)]
    pub fn write(&self, way: u32, tag: &Tag, real: u32, now: u32) {
        let way = (way & 7) as usize;
        if let (Some(x), Some(check), Some(stamp)) = (self.x.get(way), self.check.get(way), self.stamp.get(way)) {
            x.set(word(tag, real));
            check.set(tag.print as u16);
            stamp.set(now as u16 & TIME);
        }
    }
}

#[inline(always)]
fn word(tag: &Tag, real: u32) -> u64 {
    tag.print & PRINT | real as u64 & REAL
}

/// What the flows of a set asked the ring by, in the order of their ways: a table beside that of the flows, which nothing but
/// the entering of a flow writes, and the data path never reads.
#[repr(C, align(32))]
#[cfg_attr(not(target_arch = "bpf"), derive(Default, Debug))]
pub struct HashLine {
    hash: [S32; WAYS],
    spare: [S32; 3],
}

const _: () = assert!(size_of::<HashLine>() == 32);

impl HashLine {
    /// Not from the ring: a server id or the client's network named the real, or it is no flow. One hash in 2^32 is this, too:
    /// its flow counts as one that depends on its entry, which is the safe side.
    pub const NONE: u32 = 0;

    /// Keeps the hash of the flow in this way, or [`Self::NONE`].
    #[inline(always)]
    pub fn set(&self, way: u32, hash: u32) {
        if let Some(cell) = self.hash.get((way & 7) as usize) {
            cell.set(hash);
        }
    }

    /// The hash of the flow in this way, or [`Self::NONE`].
    #[inline(always)]
    pub fn get(&self, way: usize) -> u32 {
        self.hash.get(way).map_or(Self::NONE, S32::get)
    }
}

/// The control plane's side.
#[cfg(not(target_arch = "bpf"))]
impl Tag {
    /// The tag of an entry, by what it keeps of its print and by the set that it lies in, in a table with this mask.
    ///
    /// In its second set that says the rest of the print; in its first, nothing does: then the second is not known ([`None`]).
    pub fn of_second(kept: u64, set: u32, mask: u32) -> Option<Self> {
        let kept = kept & (PRINT | CHECK);
        let offset = (u64::from(set) ^ Self { print: kept }.first()) & u64::from(mask) & (NEAR - 1);
        (offset != 0).then_some(Self { print: kept | offset << OFFSET & !(PRINT | CHECK) })
    }
}

/// The control plane's side.
#[cfg(not(target_arch = "bpf"))]
impl FlowSet {
    /// The entries in use: way, print (what is kept of it), real, seen again, tick (15 bits).
    pub fn entries(&self) -> impl Iterator<Item = (usize, u64, u32, bool, u16)> + '_ {
        self.x.iter().zip(&self.check).zip(&self.stamp).enumerate().filter_map(|(way, ((x, check), stamp))| {
            let (x, check, stamp) = (x.get(), check.get(), stamp.get());
            let print = x & PRINT | u64::from(check);
            (x != 0).then_some((way, print, (x & REAL) as u32, stamp & HELD != 0, stamp & TIME))
        })
    }

    /// Forgets the flows of every real that `gone` names; gives their number.
    pub fn forget(&self, gone: impl Fn(u32) -> bool) -> u32 {
        let mut n = 0_u32;
        for x in &self.x {
            let word = x.get();
            if word != 0 && gone((word & REAL) as u32) {
                x.set(0);
                n = n.wrapping_add(1);
            }
        }
        n
    }

    /// The set as it is, all 64 bytes.
    pub fn snapshot(&self) -> [u64; 8] {
        let four = |a: u16, b: u16, c: u16, d: u16| u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(d) << 48;
        let [x0, x1, x2, x3, x4] = self.x.each_ref().map(S64::get);
        let [c0, c1, c2, c3, c4] = self.check.each_ref().map(S16::get);
        let [s0, s1, s2, s3, s4] = self.stamp.each_ref().map(S16::get);
        let rest = u64::from(s3) | u64::from(s4) << 16 | u64::from(self.spare.get()) << 32;
        [x0, x1, x2, x3, x4, four(c0, c1, c2, c3), four(c4, s0, s1, s2), rest]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_that_is_a_little_ahead_is_of_now() {
        let of = |now: u32, stamp: u32| silence(now, stamp as u16 & TIME);
        assert_eq!((of(100, 100), of(100, 93), of(100, 101), of(100, 108)), (0, 7, 0, 0));
        assert_eq!((of(3, TIME.into()), of(TIME.into(), 0x8000 + 3)), (4, 0), "around the end of the clock");
    }

    /// Two writers of one way, caught between any of their stores: every mixture of their fields, of flows whose prints differ in
    /// the word, in the check, in both.
    #[test]
    fn a_torn_entry_is_nobody_elses() {
        let tag = |print: u64| Tag { print: print | 1 << 63 };
        for other in [0x1234_5678 ^ 1 << 20, 0x1234_5679, 0x9876_4321] {
            let (a, b) = ((tag(0x1234_5678), 0xf_fff7_u32), (tag(other), 8_u32));
            for torn in 0..8 {
                let set = FlowSet::default();
                let of = |bit: u32| if torn >> bit & 1 == 0 { a } else { b };
                let ((x, real), (check, _)) = (of(0), of(1));
                set.x[2].set(word(&x, real));
                set.check[2].set(check.print as u16);
                set.stamp[2].set(of(2).1 as u16);
                for (tag, own) in [a, b] {
                    let found = set.get(&tag, 100, 0).real();
                    let is_in = |bits: u64, other: &Tag| (other.print ^ tag.print) & bits == 0;
                    assert_eq!(found, if is_in(PRINT, &x) && is_in(CHECK, &check) { real } else { 0 }, "{torn} of {other:#x}");
                    assert!(found == 0 || found == own || is_in(PRINT, &x), "{torn} of {other:#x}: {own} was given {found}");
                    if x == check {
                        assert_eq!(found, if x == tag { own } else { 0 }, "{torn} of {other:#x}");
                    }
                }
            }
        }
    }

    /// What an entry in a flow's second set keeps, and where it lies, say all that a larger or smaller table has to know of it.
    #[test]
    fn sets_are_near_and_come_back() {
        let of_second = |kept, set: u64, mask: u64| Tag::of_second(kept, set as u32, mask as u32);
        for n in 0..10_000_u64 {
            let tag = Tag { print: (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 63 };
            let (first, second) = (tag.first(), tag.second());
            assert!(first != second && first / NEAR == second / NEAR, "{tag:?}");
            for mask in [u32::MAX.into(), (1 << 18) - 1, NEAR - 1, 7] {
                let kept = tag.print & (PRINT | CHECK);
                let back = of_second(kept, second & mask, mask).expect("it is no first set");
                assert_eq!((back.first(), back.second() & mask), (first, second & mask), "{tag:?}, mask {mask:#x}");
                assert!(back.second() == second || mask < NEAR - 1, "{tag:?}, mask {mask:#x}");
                assert_eq!(back.print & (PRINT | CHECK), kept);
                assert_eq!(of_second(kept, first & mask, mask), None);
            }
        }
    }

    /// Flows whose words agree, as those of one first set may: each has an entry of its own, none is given another's
    /// real; those behind the first are not found.
    #[test]
    fn flows_that_differ_in_the_check_alone_do_not_meet() {
        let set = FlowSet::default();
        let flow = |n: u64| Tag { print: 1 << 63 | 7 << 20 | n };
        for n in 0..3 {
            let worth = set.place(&flow(n), 5, 0, Worth::NONE);
            assert!(!worth.evicts());
            set.write(worth.way(), &flow(n), 10 + n as u32, 5);
        }
        assert_eq!(set.entries().count(), 3);
        for n in 0..3 {
            assert_eq!(set.get(&flow(n), 5, 0).real(), if n == 0 { 10 } else { 0 });
            assert_eq!(set.peek(&flow(n)).real(), 10 + n as u32);
            assert_eq!(set.place(&flow(n), 5, 0, Worth::NONE).way(), n as u32, "its own");
        }
    }

    /// The whole range of ids, in every way, and what is known of an entry again.
    #[test]
    fn ids_and_prints_come_back() {
        let set = FlowSet::default();
        let flow = |way: u32| (Tag { print: 1 << 63 | u64::from(way + 1) << 20 | 0xfeed }, (1 << REAL_BITS) - 1 - way);
        for way in 0..WAYS as u32 {
            let (tag, real) = flow(way);
            set.write(way, &tag, real, 7);
            let hit = set.get(&tag, 7, 0);
            assert_eq!((hit.real(), hit.way()), (real, way));
            assert_eq!(set.peek(&tag), hit);
            assert_eq!(set.get(&Tag { print: tag.print ^ 1 }, 7, 0), Hit::NONE, "the check is compared");
            assert_eq!(set.get(&Tag { print: tag.print ^ 1 << 40 }, 7, 0), Hit::NONE, "and the word");
        }
        let entries: Vec<_> = set.entries().map(|(way, print, real, ..)| (way as u32, print, real)).collect();
        assert_eq!(entries, [0, 1, 2, 3, 4].map(|way| (way, flow(way).0.print, flow(way).1)));
        assert_eq!(set.forget(|real| real == flow(3).1), 1);
        assert_eq!(set.entries().count(), WAYS - 1);
    }
}
