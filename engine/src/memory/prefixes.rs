//! The prefix table: longest match by a binary search over the prefix lengths that are in use (Waldvogel et al.,
//! SIGCOMM 1997), each step one look into a hash table. For client networks (source routing) and VIPs that are prefixes.
//!
//! A step that finds an entry goes on with longer lengths, one that does not with shorter ones. So that every prefix is
//! found, the builder puts a *marker* at each length where the search for it has to go on longer. Every entry, marker or
//! prefix, holds the value of the longest prefix that covers it (its own, if it is one), so the search never goes back.
//!
//! ```text
//! slot: address, 16 B | word: used, space, tag, length | value     = 32 B; two slots a bucket, two buckets for each key
//! tree: lengths as a heap, 255 B | value of length 0
//! ```
//!
//! Two halves, as the VIP table has: the builder fills the one that is not in force, and one store to [`Root::prefixes`]
//! puts it there.

use super::shared::S64;
use super::{Addr, Memory, Root};

/// What is looked for; each has a [`Tree`] of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum Space {
    /// Client networks, IPv4. The value is a real's id.
    SourceV4 = 0,
    /// Client networks, IPv6.
    SourceV6 = 1,
    /// VIPs, IPv4; the tag is `protocol << 16 | port as on the wire`, the value [`V4`] and the prefix's length, plus one.
    VipV4 = 2,
    /// VIPs, IPv6; the same without [`V4`].
    VipV6 = 3,
}

/// What the lengths of IPv4 prefixes have on top where both families meet, in the keys of VIPs: `10.0.0.0/8` and `a00::/8`
/// have the same words.
pub const V4: u32 = 129;
/// Spaces, and trees of a half.
pub const SPACES: u32 = 4;
/// Steps of a search at most: 128 lengths.
pub const STEPS: u32 = 8;
/// Slots of a bucket.
pub const PER_BUCKET: u32 = 2;
/// Marks a slot in use.
const USED: u64 = 1 << 63;

/// What a slot is found by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PrefixKey {
    /// The network: everything after the prefix is 0.
    pub addr: Addr,
    word: u64,
}

impl PrefixKey {
    /// The key of the network that `addr` is in.
    #[inline(always)]
    pub fn new(space: Space, tag: u32, addr: Addr, len: u32) -> Self {
        let word = USED | (space as u64) << 40 | (len as u64 & 0xff) << 32 | tag as u64;
        Self { addr: mask(addr, len), word }
    }

    /// First slots of both buckets of the key, among `slots` (a power of two) that begin at `first`.
    #[inline(always)]
    pub fn buckets(&self, first: u32, slots: u32) -> [u32; 2] {
        let [a, b] = self.addr;
        // One factor for each word, so that networks whose words differ in the same way do not meet.
        let h = a
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(b.wrapping_mul(0xc2b2_ae3d_27d4_eb4f))
            .wrapping_add(self.word.wrapping_mul(0xd6e8_feb8_6659_fd93));
        let h = (h ^ h >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let h = h ^ h >> 29;
        let mask = slots.wrapping_sub(PER_BUCKET);
        [((h >> 8) as u32 & mask).wrapping_add(first), ((h >> 36) as u32 & mask).wrapping_add(first)]
    }
}

/// The first `len` bits of an address, the others 0. ([`V4`] on top of the length changes nothing.)
#[inline(always)]
pub fn mask(addr: Addr, len: u32) -> Addr {
    let len = if len >= V4 { len.wrapping_sub(V4) } else { len };
    let [a, b] = addr;
    let cut = |word: u64, len: u32| match len {
        0 => 0,
        1..=63 => (u64::from_be(word) & (!0_u64).wrapping_shl(64_u32.wrapping_sub(len))).to_be(),
        _ => word,
    };
    [cut(a, len), cut(b, len.saturating_sub(64))]
}

/// One slot, 32 bytes.
#[repr(C, align(32))]
#[cfg_attr(not(target_arch = "bpf"), derive(Default, Debug))]
pub struct PrefixSlot {
    addr: [S64; 2],
    word: S64,
    value: S64,
}

const _: () = assert!(size_of::<PrefixSlot>() == 32);

impl PrefixSlot {
    #[inline(always)]
    fn holds(&self, key: &PrefixKey) -> bool {
        let ([a, b], [x, y]) = (&self.addr, key.addr);
        self.word.get() == key.word && a.get() == x && b.get() == y
    }
}

/// Nodes of a tree: [`STEPS`] levels.
pub const NODES: usize = 255;

/// The lengths that a search tries, 320 bytes.
#[repr(C, align(64))]
#[cfg_attr(not(target_arch = "bpf"), derive(Default, Debug))]
pub struct Tree {
    /// Eight lengths a word, lowest byte first: a binary heap whose node `n` leads to `2n + 1` (shorter) and `2n + 2`
    /// (longer). 0: the end.
    lengths: [S64; 32],
    /// The value of the prefix of length 0; 0: there is none.
    default: S64,
    spare: [S64; 7],
}

const _: () = assert!(size_of::<Tree>() == 320);

impl Tree {
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "the mask bounds it")]
    fn length(&self, node: u32) -> u32 {
        let word = self.lengths[(node >> 3) as usize & 31].get();
        (word >> ((node & 7) << 3)) as u32 & 0xff
    }
}

/// The value of the longest prefix that covers `addr`; 0 if none does.
#[inline(never)]
pub fn find<M: Memory>(memory: &M, root: &Root, space: Space, tag: u32, addr: Addr) -> u32 {
    let (first, slots) = root.prefixes_in_force();
    let half = if first == 0 { 0 } else { SPACES };
    let Some(tree) = memory.tree(half.wrapping_add(space as u32)) else { return 0 };
    let mut best = tree.default.get() as u32;
    let mut node = 0_u32;
    for _ in 0..STEPS {
        let len = tree.length(node);
        if len == 0 {
            break;
        }
        let found = look(memory, &PrefixKey::new(space, tag, addr, len), first, slots);
        node = node.wrapping_mul(2).wrapping_add(if found.is_some() { 2 } else { 1 });
        if let Some(value) = found
            && value != 0
        {
            best = value;
        }
    }
    best
}

#[inline(always)]
fn look<M: Memory>(memory: &M, key: &PrefixKey, first: u32, slots: u32) -> Option<u32> {
    for bucket in key.buckets(first, slots) {
        for way in 0..PER_BUCKET {
            let slot = memory.prefix(bucket.wrapping_add(way))?;
            if slot.holds(key) {
                return Some(slot.value.get() as u32);
            }
        }
    }
    None
}

/// The control plane's side.
#[cfg(not(target_arch = "bpf"))]
impl PrefixSlot {
    /// What is here, if anything is.
    pub fn entry(&self) -> Option<(PrefixKey, u32)> {
        let ([a, b], word) = (&self.addr, self.word.get());
        (word & USED != 0).then(|| (PrefixKey { addr: [a.get(), b.get()], word }, self.value.get() as u32))
    }

    /// Fills the slot; for a half that is not in force. `value` 0: a marker that no prefix covers.
    pub fn fill(&self, key: &PrefixKey, value: u32) {
        let ([a, b], [x, y]) = (&self.addr, key.addr);
        a.set(x);
        b.set(y);
        self.value.set(u64::from(value));
        self.word.publish(key.word);
    }

    /// Empties it; for a half that is not in force.
    pub fn clear(&self) {
        self.word.publish(0);
    }
}

#[cfg(not(target_arch = "bpf"))]
impl Tree {
    /// The lengths in heap order (0 where a node is missing), and the value of length 0.
    pub fn read(&self) -> ([u8; NODES], u32) {
        (core::array::from_fn(|node| self.length(node as u32) as u8), self.default.get() as u32)
    }

    /// Sets the lengths (in heap order, at most [`NODES`], 0 where a node is missing) and the value of length 0.
    pub fn fill(&self, heap: &[u8], default: u32) {
        for (cell, at) in self.lengths.iter().zip((0_usize..).step_by(8)) {
            let byte = |i: usize| u64::from(heap.get(at.wrapping_add(i)).copied().unwrap_or(0));
            cell.set((0..8).fold(0, |word, i| word | byte(i) << (i << 3)));
        }
        self.default.set(u64::from(default));
    }
}
