//! The VIP table: open addressing, at most [`PROBES`] slots looked at.
//!
//! Two halves: the control plane can fill the other half and put it in force by one store to [`super::Root::vips`].
//! A removed VIP leaves [`REMOVED`] behind, so that later slots of its chain are still found.

use super::shared::S64;
use super::{Addr, Memory, Root};

/// Slots looked at for one key.
pub const PROBES: u32 = 4;
/// VIPs at most, however large the tables are; their ids are below it.
pub const MAX_VIPS: u32 = 1 << 16;

/// VIP flag: the source port takes no part in anything.
pub const NO_SOURCE_PORT: u32 = 1;
/// VIP flag: the ring alone decides, the flow table is neither read nor written.
pub const BYPASS_FLOW_TABLE: u32 = 1 << 1;
/// VIP flag: the server id in a QUIC connection id decides.
pub const QUIC: u32 = 1 << 2;
/// VIP flag: the ring is asked by the destination port alone.
pub const HASH_DPORT_ONLY: u32 = 1 << 3;
/// VIP flag: the client's network decides for new flows.
pub const SOURCE_ROUTING: u32 = 1 << 4;
/// VIP flag: what reaches a real on this host is given to the host.
pub const LOCAL: u32 = 1 << 5;
/// VIP flag: flows are looked up in the global table, too.
pub const GLOBAL_FLOW_TABLE: u32 = 1 << 6;
/// VIP flag: the destination port stays in the flow of a VIP of every port.
pub const HASH_SRC_DST_PORT: u32 = 1 << 7;
/// VIP flag: the server id in front of a UDP payload decides.
pub const UDP_STABLE_ROUTING: u32 = 1 << 8;
/// VIP flag: UDP flows leave reals that are down.
pub const UDP_FLOW_MIGRATION: u32 = 1 << 9;
/// VIP flag: an IPv4 real of it is reached by NAT.
pub const NAT_V4: u32 = 1 << 10;
/// VIP flag: an IPv6 real of it is reached by NAT.
pub const NAT_V6: u32 = 1 << 11;
/// Flags of a VIP whose frames are not usual ([`crate::plain()`]): all of these but [`NO_SOURCE_PORT`].
pub const SPECIAL: u32 = (1 << 12) - 1 - NO_SOURCE_PORT;
/// Flag of an address: it has VIPs.
pub const HAS_VIPS: u32 = 1 << 16;
/// Flag of an address: tunnels to it are stripped and what was in them is balanced.
pub const DECAP: u32 = 1 << 17;
/// Flag of an address, beside [`DECAP`]: what was in the tunnel is sent on instead.
pub const EGRESS: u32 = 1 << 18;
/// Flag of an address: clients' addresses are replaced by it; its index among them is in the place of the ring.
pub const NAT_SOURCE: u32 = 1 << 20;
/// VIP flag: a real's frames have the tag that they came with, so that tagged ones need [`TAG_LEN`](crate::wire::TAG_LEN) more
/// room.
pub const SAME_TAG: u32 = 1 << 19;
/// VIP flag: it is a prefix, so its id does not say which address a flow is to.
pub const PREFIX: u32 = 1 << 21;
/// Where the VIP's room (bytes before the inner packet, at most 255) sits in the flags.
const ROOM_SHIFT: u32 = 24;

/// Marks a slot in use, in the word that is compared: beside the protocol, where BPF has it in the instruction.
const USED: u64 = 1 << 24;
const LENGTH_SHIFT: u32 = 40;
/// The compared word of a slot whose VIP was removed: equal to no key, and not empty.
#[cfg(not(target_arch = "bpf"))]
const REMOVED: u64 = 1 << 33;

/// What a VIP is found by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VipKey {
    /// Destination address.
    pub addr: Addr,
    /// `prefix length plus one << 40 | USED | protocol << 16 | port as on the wire`.
    word: u64,
}

impl VipKey {
    /// The key of `addr`, a port as it is on the wire (two bytes in memory order, 0: every port) and an IP protocol number.
    #[inline(always)]
    pub fn new(addr: Addr, port_be: u16, protocol: u8) -> Self {
        Self { addr, word: USED | (protocol as u64) << 16 | port_be as u64 }
    }

    /// The key of a VIP that is a prefix: `network` with its host bits 0, and its length.
    #[inline(always)]
    pub fn prefix(network: Addr, len: u32, port_be: u16, protocol: u8) -> Self {
        let key = Self::new(network, port_be, protocol);
        Self { addr: key.addr, word: key.word | (len as u64).wrapping_add(1) << LENGTH_SHIFT }
    }

    /// The key of what is known of an address itself: [`HAS_VIPS`], [`DECAP`], [`EGRESS`].
    #[inline(always)]
    pub fn address(addr: Addr) -> Self {
        Self::new(addr, 0, 0)
    }

    /// The length of a VIP that is a prefix.
    #[inline(always)]
    pub fn prefix_len(&self) -> Option<u32> {
        ((self.word >> LENGTH_SHIFT) as u32).checked_sub(1)
    }

    /// The destination port as on the wire; 0: every port.
    #[inline(always)]
    pub fn port_be(&self) -> u16 {
        self.word as u16
    }

    /// The IP protocol number.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        (self.word >> 16) as u8
    }

    #[inline(always)]
    fn hash(&self, table: u64) -> u32 {
        let [a, b] = self.addr;
        let h = (a ^ b.rotate_left(32) ^ table)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(self.word.wrapping_mul(0xd6e8_feb8_6659_fd93));
        (h >> 32) as u32
    }

    /// The `probe`-th slot for this key in a [`table`] of `mask` plus one slots.
    #[inline(always)]
    pub fn slot(&self, table: u64, mask: u32, probe: u32) -> u32 {
        (self.hash(table).wrapping_add(probe) & mask).wrapping_add((table >> 32) as u32)
    }
}

/// A table in one word: its first slot, and the seed that it was filled with.
#[inline(always)]
pub const fn table(first: u32, seed: u32) -> u64 {
    (first as u64) << 32 | seed as u64
}

/// What the data path knows of a VIP.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Vip {
    /// Its number, below [`MAX_VIPS`].
    pub id: u32,
    /// The flags above, and the room in the top byte.
    pub flags: u32,
    /// First line of its ring; 0 (with length 0) if it has none.
    pub ring: u32,
    /// Slots of its ring.
    pub ring_len: u32,
    /// What the numbers in its ring are counted from: the id of a real is the sum of this and its number.
    pub first: u32,
}

impl Vip {
    /// `flags` with `room`, the bytes that the largest outer header of its reals needs.
    pub const fn flags_with_room(flags: u32, room: u8) -> u32 {
        flags | (room as u32) << ROOM_SHIFT
    }

    /// Bytes that the largest outer header of its reals needs.
    #[inline(always)]
    pub fn room(&self) -> u32 {
        self.flags >> ROOM_SHIFT
    }
}

/// One slot, 64 bytes. The key word is written last when a VIP appears and first when it goes.
#[repr(C, align(64))]
#[cfg_attr(not(target_arch = "bpf"), derive(Default, Debug))]
pub struct VipSlot {
    addr: [S64; 2],
    word: S64,
    /// `flags << 32 | id`
    what: S64,
    /// `ring_len << 32 | ring`
    ring: S64,
    /// What the ring's numbers are counted from. It never changes while the VIP is here: so it need not be of one store with the ring.
    first: S64,
    spare: [S64; 2],
}

const _: () = assert!(size_of::<VipSlot>() == 64);

impl VipSlot {
    #[inline(always)]
    fn holds(&self, key: &VipKey) -> bool {
        let ([a, b], [x, y]) = (&self.addr, key.addr);
        self.word.get() == key.word && a.get() == x && b.get() == y
    }

    /// Never used since the table was made.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.word.get() == 0
    }

    /// All that is known of it.
    #[inline(always)]
    pub(crate) fn read(&self) -> Vip {
        let (what, ring, first) = (self.what(), self.ring.get(), self.first.get());
        Vip { ring: ring as u32, ring_len: (ring >> 32) as u32, first: first as u32, ..what }
    }

    /// Its id and flags alone.
    #[inline(always)]
    pub(crate) fn what(&self) -> Vip {
        let what = self.what.get();
        Vip { id: what as u32, flags: (what >> 32) as u32, ..Vip::default() }
    }
}

/// Looks `key` up in the table in force.
#[inline(always)]
pub fn find<M: Memory>(memory: &M, root: &Root, key: &VipKey) -> Option<Vip> {
    slot(memory, root, key).map(VipSlot::read)
}

/// The slot that has `key` in the table in force.
#[inline(always)]
pub(crate) fn slot<'m, M: Memory>(memory: &'m M, root: &Root, key: &VipKey) -> Option<&'m VipSlot> {
    let (table, mask) = (root.vips.get(), root.vip_mask.get());
    for probe in 0..PROBES {
        let slot = memory.vip(key.slot(table, mask, probe))?;
        if slot.holds(key) {
            return Some(slot);
        }
        if slot.is_empty() {
            return None;
        }
    }
    None
}

/// The control plane's side.
#[cfg(not(target_arch = "bpf"))]
impl VipSlot {
    /// The VIP that is here, if one is.
    pub fn entry(&self) -> Option<(VipKey, Vip)> {
        let word = self.word.get();
        let [a, b] = &self.addr;
        (word & USED != 0).then(|| (VipKey { addr: [a.get(), b.get()], word }, self.read()))
    }

    /// Puts a VIP into a free slot.
    pub fn fill(&self, key: &VipKey, vip: Vip) {
        let ([a, b], [x, y]) = (&self.addr, key.addr);
        a.set(x);
        b.set(y);
        self.set_what(vip);
        self.first.set(vip.first.into());
        self.set_ring(vip.ring, vip.ring_len);
        self.word.publish(key.word);
    }

    /// Changes flags or room.
    pub fn set_what(&self, vip: Vip) {
        self.what.publish(u64::from(vip.flags) << 32 | u64::from(vip.id));
    }

    /// The switch to another ring: one store.
    pub fn set_ring(&self, line: u32, len: u32) {
        self.ring.publish(u64::from(len) << 32 | u64::from(line));
    }

    /// Takes the VIP out.
    pub fn remove(&self) {
        self.word.publish(REMOVED);
    }

    /// Makes the slot as new; for a half that is not in force.
    pub fn clear(&self) {
        self.word.publish(0);
    }
}
