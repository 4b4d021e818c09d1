//! The id table: 64-bit keys to 32-bit values, for what only some configurations need. Two lines of five for each key.
//!
//! Server ids (QUIC connection ids, UDP stable routing, the TCP option) lead to reals; pairs of VIP and real say which
//! reals are down for it.
//!
//! ```text
//! key[5] u64 | value[5] u32 | 4 B spare     = 64 B
//! ```
//!
//! A key is written after its value and never changes while it is there, so a reader finds the right value or none.

use super::shared::{S32, S64};
use super::{Memory, Root};

/// Keys of a line.
pub const PER_LINE: usize = 5;

/// One line, 64 bytes.
#[repr(C, align(64))]
#[cfg_attr(not(target_arch = "bpf"), derive(Default, Debug))]
pub struct IdLine {
    key: [S64; PER_LINE],
    value: [S32; PER_LINE],
    spare: S32,
}

const _: () = assert!(size_of::<IdLine>() == 64);

/// What a value is found by: its kind in the top byte, so that no key is 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct IdKey(u64);

impl IdKey {
    /// A server id; its value is a real's id.
    #[inline(always)]
    pub const fn server(id: u32) -> Self {
        Self(1 << 56 | id as u64)
    }

    /// A VIP and one of the reals that are down for it (katran profile); its value is 1.
    #[inline(always)]
    pub const fn down(vip: u32, real: u32) -> Self {
        Self(2 << 56 | (vip as u64) << 32 | real as u64)
    }

    /// The key that [`Self::number`] gave the number of.
    #[inline(always)]
    pub const fn of_number(number: u64) -> Self {
        Self(number)
    }

    /// The key as a number.
    #[inline(always)]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Both lines of the key among `mask + 1` lines (a power of two).
    #[inline(always)]
    pub const fn lines(self, mask: u32) -> [u32; 2] {
        let h = (self.0 ^ self.0 >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let h = (h ^ h >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        [(h >> 8) as u32 & mask, (h >> 40) as u32 & mask]
    }
}

/// The value of a key; 0 if it is not there.
#[inline(always)]
pub fn find<M: Memory + ?Sized>(memory: &M, root: &Root, key: IdKey) -> u32 {
    let [one, two] = key.lines(root.id_mask.get());
    let look = |line: u32| memory.ids(line).and_then(|line| line.get(key)).unwrap_or(0);
    match look(one) {
        0 => look(two),
        value => value,
    }
}

impl IdLine {
    /// The value of a key, if it is in this line.
    #[inline(always)]
    pub fn get(&self, key: IdKey) -> Option<u32> {
        self.key.iter().zip(&self.value).find(|(k, _)| k.get() == key.0).map(|(_, value)| value.get())
    }
}

/// The control plane's side.
#[cfg(not(target_arch = "bpf"))]
impl IdLine {
    /// Keys in use.
    pub fn used(&self) -> usize {
        self.key.iter().filter(|key| key.get() != 0).count()
    }

    /// What is in it: kind, payload of the key, value.
    pub fn entries(&self) -> impl Iterator<Item = (IdKey, u32)> + '_ {
        self.key.iter().zip(&self.value).map(|(key, value)| (IdKey(key.get()), value.get())).filter(|(key, _)| key.0 != 0)
    }

    /// Puts a key in, or changes its value. `false`: no place.
    pub fn put(&self, key: IdKey, value: u32) -> bool {
        let same = self.key.iter().zip(&self.value).find(|(k, _)| k.get() == key.0);
        let free = || self.key.iter().zip(&self.value).find(|(k, _)| k.get() == 0);
        match same.or_else(free) {
            Some((place, cell)) => {
                cell.set(value);
                place.publish(key.0);
                true
            }
            None => false,
        }
    }

    /// Takes a key out; whether it was here.
    pub fn remove(&self, key: IdKey) -> bool {
        let found = self.key.iter().find(|k| k.get() == key.0);
        found.inspect(|k| k.publish(0)).is_some()
    }
}
