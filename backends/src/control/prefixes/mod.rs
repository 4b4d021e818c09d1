//! The prefix table, written: client networks and VIPs that are prefixes, as one half that one store puts in force.

mod build;
mod tree;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use tandem_engine::memory::prefixes::{SPACES, V4};

pub use build::{Contents, Entry};

use crate::config::{Plan, Prefix};
use crate::memory::Tables;

/// Fewest slots of a half.
const LEAST: u32 = 1024;

/// The prefixes of each space.
pub type Spaces = [Vec<Entry>; SPACES as usize];

/// Slots of a half that a plan's prefixes and their markers need, a power of two.
pub fn slots(plan: &Plan) -> u32 {
    // The number of markers does not depend on the values.
    Contents::new(spaces(plan, |_| Some(1))).slots().max(LEAST)
}

/// The prefixes of a plan; `real` gives the id of a real that belongs to no VIP.
pub fn spaces(plan: &Plan, real: impl Fn(IpAddr) -> Option<u32>) -> Spaces {
    let mut spaces = Spaces::default();
    let [source_v4, source_v6, vip_v4, vip_v6] = &mut spaces;
    for (prefix, address) in &plan.source_routes {
        let Some(id) = real(*address) else { continue };
        let space = if prefix.network().is_ipv4() { &mut *source_v4 } else { &mut *source_v6 };
        space.push(entry(0, prefix, id));
    }
    for vip in &plan.vips {
        let Some(prefix) = vip.prefix() else { continue };
        let tag = u32::from(vip.protocol.number()) << 16 | u32::from(vip.port.to_be());
        let space = if prefix.network().is_ipv4() { &mut *vip_v4 } else { &mut *vip_v6 };
        space.push(entry(tag, &prefix, key_len(&prefix) + 1));
    }
    spaces
}

/// The length of a VIP's prefix in its key.
pub(super) fn key_len(prefix: &Prefix) -> u32 {
    u32::from(prefix.bits()) + if prefix.network().is_ipv4() { V4 } else { 0 }
}

fn entry(tag: u32, prefix: &Prefix, value: u32) -> Entry {
    let bits = match prefix.network() {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    Entry { tag, bits, len: prefix.bits(), value }
}

/// What became of the prefixes of a plan.
pub(super) enum Written {
    /// They are in force already.
    Same,
    /// They are in force now; the half before may be written to after a grace period.
    Published,
    /// They do not fit: so many prefixes and markers.
    Full(usize),
}

/// Knows what this process put in force last, so that it need not look.
#[derive(Default, Debug)]
pub(super) struct Last(Option<u64>);

impl Last {
    /// Puts the prefixes in force, if they are not.
    pub(super) fn write(&mut self, tables: &Tables, spaces: Spaces) -> Written {
        let mut hasher = DefaultHasher::new();
        spaces.hash(&mut hasher);
        let print = Some(hasher.finish());
        if self.0 == print {
            return Written::Same;
        }
        let contents = Contents::new(spaces);
        let half = tables.prefixes().len() / 2;
        let (first, slots) = tables.root().prefixes_in_force();
        let is_empty = slots == 0 && contents.is_empty();
        if is_empty || slots != 0 && is_in_force(tables, &contents) {
            self.0 = print;
            return Written::Same;
        }
        let other = if slots == 0 || first != 0 { 0 } else { half };
        let (Some(slots), Some(trees)) = (tables.prefixes().get(other..other + half), trees(tables, other)) else {
            return Written::Full(contents.len());
        };
        if !contents.write(slots, trees) {
            return Written::Full(contents.len());
        }
        tables.root().publish_prefixes(other as u32, half as u32);
        self.0 = print;
        Written::Published
    }
}

fn is_in_force(tables: &Tables, contents: &Contents) -> bool {
    let (first, slots) = tables.root().prefixes_in_force();
    let (first, slots) = (first as usize, slots as usize);
    match (tables.prefixes().get(first..first + slots), trees(tables, first)) {
        (Some(slots), Some(trees)) => contents.is_in(slots, trees),
        _ => false,
    }
}

/// The trees of the half that begins with slot `first`.
fn trees(tables: &Tables, first: usize) -> Option<&[tandem_engine::memory::Tree]> {
    let from = if first == 0 { 0 } else { SPACES as usize };
    tables.trees().get(from..from + SPACES as usize)
}
