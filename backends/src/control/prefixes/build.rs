//! From prefixes to what one half of the table holds: prefixes and markers with their values, each in a slot.

use tandem_engine::Addr;
use tandem_engine::memory::prefixes::{PER_BUCKET, SPACES, Space};
use tandem_engine::memory::{PrefixKey, PrefixSlot, Tree};

use super::tree::Order;

/// All spaces, in the order of their trees.
const ALL: [Space; SPACES as usize] = [Space::SourceV4, Space::SourceV6, Space::VipV4, Space::VipV6];

/// One prefix, before the table has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Entry {
    /// What else has to be equal; 0 in the spaces of sources.
    pub tag: u32,
    /// The network, first bit highest; of IPv4 the upper 32 bits.
    pub bits: u128,
    /// The length of the prefix.
    pub len: u8,
    /// What a search finds: not 0. (0 is a marker that nothing covers.)
    pub value: u32,
}

impl Entry {
    fn covers(&self, other: &Self) -> bool {
        let mask = u128::MAX.checked_shl(128 - u32::from(self.len)).unwrap_or(0);
        self.tag == other.tag && self.len <= other.len && other.bits & mask == self.bits
    }

    fn addr(&self) -> Addr {
        [((self.bits >> 64) as u64).to_be(), (self.bits as u64).to_be()]
    }
}

/// The contents of one half.
#[derive(Debug)]
pub struct Contents {
    /// Prefixes and markers, all different.
    keys: Vec<(PrefixKey, u32)>,
    /// The lengths and the value of length 0 of each space.
    trees: Vec<(Order, u32)>,
}

/// A number that no index of a key has.
const FREE: u32 = u32::MAX;
/// Keys moved for one that has no place before giving up; at nine tenths full a few hundred are enough.
const MOVES: u32 = 10_000;
/// How often a half that its keys do not fit into is doubled.
const GROWTH: u32 = 4;

impl Contents {
    /// What the prefixes of each space make: in any order, no two with the same tag, network and length in a space.
    pub fn new(spaces: [Vec<Entry>; SPACES as usize]) -> Self {
        let mut contents = Self { keys: Vec::new(), trees: Vec::new() };
        for (space, entries) in ALL.into_iter().zip(spaces) {
            contents.add(space, entries);
        }
        contents
    }

    fn add(&mut self, space: Space, mut entries: Vec<Entry>) {
        let mut counts = [0; 129];
        for entry in &entries {
            counts.get_mut(usize::from(entry.len)).into_iter().for_each(|count| *count += 1);
        }
        let order = Order::new(&counts);
        // A search for another tag finds the value, too; what it leads to is looked up with the tag.
        let default = entries.iter().find(|entry| entry.len == 0).map_or(0, |entry| entry.value);
        entries.retain(|entry| entry.len != 0);
        entries.sort_unstable();
        let markers = markers(&entries, &order);
        entries.extend(markers);
        // Networks before those inside them; a prefix before the marker in the same place.
        entries.sort_unstable_by_key(|entry| (entry.tag, entry.bits, entry.len, entry.value == 0));
        entries.dedup_by_key(|entry| (entry.tag, entry.bits, entry.len));
        cover(&mut entries, default);
        let key = |entry: &Entry| (PrefixKey::new(space, entry.tag, entry.addr(), u32::from(entry.len)), entry.value);
        self.keys.extend(entries.iter().map(key));
        self.trees.push((order, default));
    }

    /// Prefixes and markers.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether a search finds nothing, whatever it is for.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.trees.iter().all(|(_, default)| *default == 0)
    }

    /// Slots of a half that holds them with room for more, a power of two.
    pub fn slots(&self) -> u32 {
        // At most four fifths full: with two buckets of two slots, nine tenths is where it stops to work (Erlingsson,
        // Manasse and McSherry, 2006). Of a few dozen keys that is true of most only: three may share both buckets.
        let least = (self.len() * 5 / 4).next_power_of_two().max(PER_BUCKET as usize);
        let size = |doublings: u32| u32::try_from(least << doublings).unwrap_or(1 << 31);
        // Keys that no size spreads are refused when they are written.
        (0..GROWTH).map(size).find(|&slots| self.places(slots).is_some()).unwrap_or_else(|| size(GROWTH))
    }

    /// The key of each slot; `None`: they do not fit.
    fn places(&self, slots: u32) -> Option<Vec<u32>> {
        if self.len() > slots as usize || slots < PER_BUCKET {
            return None;
        }
        let mut places = vec![FREE; slots as usize];
        // Any numbers do that do not repeat soon (xorshift, Marsaglia 2003).
        let mut random = 0x9e37_79b9_u32;
        for index in 0..self.len() as u32 {
            let mut index = index;
            let mut moves = 0;
            while let Some(out) = self.put(&mut places, index, random) {
                index = out;
                random ^= random << 13;
                random ^= random >> 17;
                random ^= random << 5;
                moves += 1;
                if moves == MOVES {
                    return None;
                }
            }
        }
        Some(places)
    }

    /// Gives the key a slot, a free one if there is one; gives the key that had to leave.
    fn put(&self, places: &mut [u32], index: u32, random: u32) -> Option<u32> {
        let (key, _) = self.keys.get(index as usize)?;
        let buckets = key.buckets(0, places.len() as u32);
        let mut slots = buckets.into_iter().flat_map(|bucket| (0..PER_BUCKET).map(move |way| (bucket + way) as usize));
        let free = slots.clone().find(|&slot| places.get(slot) == Some(&FREE));
        let slot = free.or_else(|| slots.nth((random % (2 * PER_BUCKET)) as usize))?;
        let before = std::mem::replace(places.get_mut(slot)?, index);
        (before != FREE).then_some(before)
    }

    /// Fills a half that nobody reads; `false`: they do not fit, and the half is as it was.
    pub fn write(&self, slots: &[PrefixSlot], trees: &[Tree]) -> bool {
        let Some(places) = self.places(slots.len() as u32) else { return false };
        for (slot, place) in slots.iter().zip(places) {
            match self.keys.get(place as usize) {
                Some((key, value)) => slot.fill(key, *value),
                None => slot.clear(),
            }
        }
        for (tree, (order, default)) in trees.iter().zip(&self.trees) {
            tree.fill(order.heap(), *default);
        }
        true
    }

    /// Whether a half holds exactly this.
    pub fn is_in(&self, slots: &[PrefixSlot], trees: &[Tree]) -> bool {
        let same = |(tree, (order, default)): (&Tree, &(Order, u32))| {
            let (heap, value) = tree.read();
            heap == order.heap() && value == *default
        };
        let used = slots.iter().filter(|slot| slot.entry().is_some()).count();
        trees.iter().zip(&self.trees).all(same) && used == self.len() && self.keys.iter().all(|key| holds(slots, key))
    }
}

fn holds(slots: &[PrefixSlot], (key, value): &(PrefixKey, u32)) -> bool {
    let buckets = key.buckets(0, slots.len() as u32);
    let mut places = buckets.into_iter().flat_map(|bucket| (0..PER_BUCKET).map(move |way| (bucket + way) as usize));
    places.any(|place| slots.get(place).and_then(PrefixSlot::entry) == Some((*key, *value)))
}

/// The markers that the search for each entry needs; of entries in order, so that neighbours share theirs.
fn markers(entries: &[Entry], order: &Order) -> Vec<Entry> {
    let mut last = [None; 129];
    let mut markers = Vec::new();
    for entry in entries {
        for len in order.markers(entry.len) {
            let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
            let marker = Entry { bits: entry.bits & mask, len, value: 0, ..*entry };
            if let Some(before) = last.get_mut(usize::from(len))
                && *before != Some(marker)
            {
                *before = Some(marker);
                markers.push(marker);
            }
        }
    }
    markers
}

/// Gives each marker the value of the longest prefix that covers it; `entries` in order, networks before those inside them.
fn cover(entries: &mut [Entry], default: u32) {
    let mut above: Vec<Entry> = Vec::new();
    for entry in entries {
        while above.last().is_some_and(|last| !last.covers(entry)) {
            above.pop();
        }
        if entry.value == 0 {
            entry.value = above.last().map_or(default, |last| last.value);
        } else {
            above.push(*entry);
        }
    }
}
