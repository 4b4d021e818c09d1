//! Flows from one balancer to another, or from a file: what makes an entry of the flow table worth carrying is that it differs
//! from the ring, and so would be another real's elsewhere.
//!
//! An entry holds a print of its flow, not the flow. Both balancers must have the same key (`flows.key_file`), and a VIP the
//! same id in both, which is part of what is hashed; with a key file ids follow from the VIPs themselves. A real is named by its
//! VIP and address.

use std::net::IpAddr;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use tandem_engine::memory::flows::{FIRST, NEAR, TIME, Worth, silence};
use tandem_engine::memory::{HashLine, Tag, Vip};

use super::apply::Control;
use super::{fnv, is_v6, key_name, vip_table, words_addr};

/// The version of a [`FlowExport`]. Version 1 had four more bits of each print, which are not looked at any more. Before version 3 prints
/// of IPv6 flows had their destination in them, which those of VIPs that are one address have no more. Since version 4 the set of a flow
/// is the one that its print names, or one near it.
pub const FLOWS_VERSION: u32 = 4;

/// Flows of a balancer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowExport {
    /// [`FLOWS_VERSION`], or one before it.
    pub version: u32,
    /// A fingerprint of the key that prints are made with.
    pub key: u64,
    /// Sets of the flow table, minus one.
    pub mask: u32,
    /// Milliseconds of a tick.
    pub tick_ms: u32,
    /// The reals that flows name by their place here.
    pub reals: Vec<RealName>,
    /// The flows.
    pub flows: Vec<FlowRecord>,
}

impl FlowExport {
    /// Parts of at most `most` flows that can each be imported, with the reals that they name; at least one.
    pub fn parts(self, most: usize) -> Vec<Self> {
        let empty = Self { reals: Vec::new(), flows: Vec::new(), ..self };
        if self.flows.is_empty() {
            return vec![empty];
        }
        let part = |flows: &[FlowRecord]| {
            let (mut part, mut places) = (empty.clone(), HashMap::new());
            for flow in flows {
                let real = *places.entry(flow.real).or_insert_with(|| match self.reals.get(flow.real as usize) {
                    // Whoever imports it says so.
                    None => u32::MAX,
                    Some(name) => {
                        part.reals.push(name.clone());
                        part.reals.len() as u32 - 1
                    }
                });
                part.flows.push(FlowRecord { real, ..*flow });
            }
            part
        };
        self.flows.chunks(most).map(part).collect()
    }
}

/// A real, by what is the same everywhere.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct RealName {
    /// Its VIP, as listings have it.
    pub vip: String,
    /// The VIP's id, which is part of each print.
    pub vip_id: u32,
    /// Its address.
    pub real: IpAddr,
}

/// One flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowRecord {
    /// Its place in [`FlowExport::reals`].
    pub real: u32,
    /// Its print: the bits that an entry keeps.
    pub print: u64,
    /// The set that it was in.
    pub set: u32,
    /// What it asked the ring by; 0: a server id or the client's network named the real.
    pub hash: u32,
    /// Ticks since its last packet, at most 2^15.
    pub age: u16,
    /// It was seen more than once.
    pub again: bool,
}

/// What became of the flows of an import.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Imported {
    /// Entered.
    pub entered: u64,
    /// Known here already: left as they are.
    pub known: u64,
    /// Their VIP is not here, or not with this real.
    pub no_real: u64,
    /// Their VIP has another id here, or the version that exported them made other prints, so that they fit nothing.
    pub other_id: u64,
    /// Longer silent than a stamp can tell.
    pub too_old: u64,
}

/// Why flows cannot be imported.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ImportError {
    /// Another version.
    #[error("the flows are of version {found}, this balancer reads versions up to {FLOWS_VERSION}; export them with its version")]
    Version {
        /// Found.
        found: u32,
    },
    /// Another key.
    #[error(
        "the flows were exported by a balancer with another key (fingerprint {found:016x}, here {here:016x}): their prints fit \
         nothing here; give both the same flows.key_file"
    )]
    Key {
        /// Of the export.
        found: u64,
        /// Of this balancer.
        here: u64,
    },
}

/// Ages of imported flows have to stay in a stamp's range for a while.
const OLDEST: u64 = (TIME / 2) as u64;

impl Control {
    /// A fingerprint of the key of the flow table.
    pub fn key_print(&self) -> u64 {
        // 64 bits of 512: enough to tell keys apart, and no help in finding one.
        fnv(self.tables.root().key.iter().flat_map(|cell| cell.get().to_le_bytes()))
    }

    /// All flows of VIPs, or only those whose real is not what the ring says now. `now` is in ticks of `tick_ms`.
    pub fn export_flows(&self, only_depending: bool, now: u32, tick_ms: u32) -> FlowExport {
        let tables = &self.tables;
        let vips: HashMap<u32, (String, Vip)> =
            vip_table::vips(tables).map(|(key, vip)| (vip.id, (key_name(&key), vip))).collect();
        let (mut reals, mut places) = (Vec::new(), HashMap::<u32, Option<(u32, Vip)>>::new());
        let mut flows = Vec::new();
        for (at, set) in tables.flows().iter().enumerate() {
            for (way, print, real, again, stamp) in set.entries() {
                let place = *places.entry(real).or_insert_with(|| {
                    let entry = tables.reals().get(real as usize)?;
                    let (name, vip) = vips.get(&entry.owner().filter(|_| entry.hop().is_present())?)?;
                    let real = words_addr(entry.addr(), entry.hop().is_v6());
                    reals.push(RealName { vip: name.clone(), vip_id: vip.id, real });
                    Some((reals.len() as u32 - 1, *vip))
                });
                let Some((place, vip)) = place else { continue };
                let hash = tables.hashes().get(at).map_or(HashLine::NONE, |line| line.get(way));
                if only_depending && !self.differs(&vip, hash, real) {
                    continue;
                }
                let age = silence(now, stamp);
                flows.push(FlowRecord { real: place, print, set: at as u32, hash, age, again });
            }
        }
        let mask = tables.sizes().flow_sets - 1;
        FlowExport { version: FLOWS_VERSION, key: self.key_print(), mask, tick_ms, reals, flows }
    }

    /// Enters flows that are not known here. The data path goes on meanwhile.
    ///
    /// # Errors
    /// [`ImportError`]: nothing was entered.
    pub fn import_flows(&self, import: &FlowExport, now: u32, tick_ms: u32) -> Result<Imported, ImportError> {
        if !(1..=FLOWS_VERSION).contains(&import.version) {
            return Err(ImportError::Version { found: import.version });
        }
        let here = self.key_print();
        if import.key != here {
            return Err(ImportError::Key { found: import.key, here });
        }
        // Their ids, and whether the prints of their flows are others since version 3.
        let vips: HashMap<String, (u32, bool)> =
            self.vips.iter().map(|(key, id)| (key_name(key), (*id, is_v6(key) && key.prefix_len().is_none()))).collect();
        let mut done = Imported::default();
        for flow in &import.flows {
            let Some(name) = usize::try_from(flow.real).ok().and_then(|at| import.reals.get(at)) else {
                done.no_real += 1;
                continue;
            };
            let Some((vip, changed)) = vips.get(&name.vip) else {
                done.no_real += 1;
                continue;
            };
            if *vip != name.vip_id || *changed && import.version < 3 {
                done.other_id += 1;
                continue;
            }
            let Some(real) = self.reals.get(&(Some(*vip), name.real)) else {
                done.no_real += 1;
                continue;
            };
            let age = u64::from(flow.age) * u64::from(import.tick_ms) / u64::from(tick_ms.max(1));
            if age > OLDEST {
                done.too_old += 1;
                continue;
            }
            match self.enter(import, flow, *real, now.wrapping_sub(age as u32)) {
                true => done.entered += 1,
                false => done.known += 1,
            }
        }
        Ok(done)
    }

    /// `false`: it is known already.
    fn enter(&self, import: &FlowExport, flow: &FlowRecord, real: u32, then: u32) -> bool {
        let tables = &self.tables;
        let here = u64::from(tables.sizes().flow_sets - 1);
        // Its first set follows from the print; its second one only if it lay there, in a table where sets were near each other, and
        // if that had enough of them to say which of the near ones it is.
        let knows = import.version >= 4 && here.min(NEAR - 1) <= import.mask.into();
        let second = if knows { Tag::of_second(flow.print, flow.set, import.mask) } else { None };
        let tag = second.unwrap_or(Tag { print: flow.print });
        let first = tag.first() & here;
        let other = second.map_or(first, |tag| tag.second() & here);
        let at = |set: u64| tables.flows().get(set as usize);
        let (Some(one), Some(two)) = (at(first), at(other)) else { return false };
        if one.peek(&tag).is_some() || two.peek(&tag).is_some() {
            return false;
        }
        let worth = two.place(&tag, then, 0, one.place(&tag, then, FIRST, Worth::NONE));
        let (set, at) = if worth.is_second() { (two, other) } else { (one, first) };
        set.write(worth.way(), &tag, real, then);
        if let Some(line) = tables.hashes().get(at as usize) {
            line.set(worth.way(), flow.hash);
        }
        if flow.again {
            // The second packet of a flow protects it.
            set.get(&tag, then, 0);
        }
        true
    }
}
