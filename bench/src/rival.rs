//! The usual way to keep flows in userspace: a hash map under the exact key, and a list in order of use. Parsing, ring,
//! reals, encapsulation and counters are the engine's.

use hashbrown::HashMap;
use tandem_engine::memory::rings::{SLOTS_PER_LINE, slot_of};
use tandem_engine::memory::vips::BYPASS_FLOW_TABLE;
use tandem_engine::memory::{Memory, Vip, VipKey};
use tandem_engine::wire::IPPROTO_UDP;
use tandem_engine::{Flow, From, Packet, Reason, Stop, Verdict, account, hash, steps};

/// Both addresses, then VIP, protocol and ports.
type Key = [u64; 5];

const NOBODY: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Entry {
    key: Key,
    real: u32,
    tick: u32,
    newer: u32,
    older: u32,
}

/// A balancer with its flows in `hashbrown`.
pub struct Rival {
    vips: HashMap<VipKey, Vip>,
    flows: HashMap<Key, u32>,
    entries: Vec<Entry>,
    capacity: usize,
    newest: u32,
    oldest: u32,
    /// Packets whose flow was known.
    pub hits: u64,
}

impl Rival {
    /// Room for `capacity` flows; VIPs as the tables have them.
    pub fn new(vips: impl IntoIterator<Item = (VipKey, Vip)>, capacity: usize) -> Self {
        Self {
            vips: vips.into_iter().collect(),
            flows: HashMap::with_capacity(capacity),
            entries: Vec::with_capacity(capacity),
            capacity,
            newest: NOBODY,
            oldest: NOBODY,
            hits: 0,
        }
    }

    /// One usual frame, all the way.
    #[inline]
    pub fn process<P: Packet, M: Memory>(&mut self, packet: &mut P, memory: &M) -> Verdict {
        let mut flow = Flow::default();
        if memory.root().and_then(|root| steps::read(packet, memory, root, &mut flow)).is_none() {
            return Verdict::stop(Reason::NotConfigured);
        }
        let verdict = self.forward(packet, memory, &mut flow).unwrap_or_else(Verdict::stopped);
        account(&verdict, &flow, memory);
        verdict
    }

    #[inline]
    fn forward<P: Packet, M: Memory>(&mut self, packet: &mut P, memory: &M, flow: &mut Flow) -> Result<Verdict, Stop> {
        let root = memory.root().ok_or(Stop::of(Reason::NotConfigured))?;
        let key = VipKey::new(flow.dst, (flow.ports >> 16) as u16, flow.protocol);
        flow.vip = *self.vips.get(&key).ok_or(Stop::of(Reason::NotAVip))?;
        let ([s0, s1], [d0, d1]) = (flow.src, flow.dst);
        let rest = u64::from(flow.vip.id) << 40 | u64::from(flow.protocol) << 32 | u64::from(flow.ports);
        let (key, now) = ([s0, s1, d0, d1, rest], memory.now());
        let idle = if flow.protocol == IPPROTO_UDP { root.udp_idle.get() } else { 0 };
        let (real, from) = match self.find(&key, flow, now, idle) {
            Some(real) => (real, From::Flow),
            None => (ring(memory, flow)?, From::Ring),
        };
        steps::send(packet, memory, root, flow, real)?;
        if from == From::Ring {
            self.enter(key, real, now);
        }
        Ok(Verdict::forward(flow.vip.id, real, flow.len, from))
    }

    #[inline]
    fn find(&mut self, key: &Key, flow: &Flow, now: u32, idle: u32) -> Option<u32> {
        if flow.vip.flags & BYPASS_FLOW_TABLE != 0 || flow.is_syn() {
            return None;
        }
        let at = *self.flows.get(key)?;
        let entry = self.entries.get_mut(at as usize)?;
        if idle != 0 && now.wrapping_sub(entry.tick) > idle {
            return None;
        }
        entry.tick = now;
        let real = entry.real;
        self.hits += 1;
        if at != self.newest {
            self.unlink(at);
            self.link_newest(at);
        }
        Some(real)
    }

    fn enter(&mut self, key: Key, real: u32, now: u32) {
        let entry = Entry { key, real, tick: now, newer: NOBODY, older: NOBODY };
        let known = self.flows.get(&key).copied();
        let at = match known {
            Some(at) => {
                self.unlink(at);
                at
            }
            None if self.entries.len() < self.capacity => {
                self.entries.push(entry);
                self.entries.len() as u32 - 1
            }
            None => {
                let at = self.oldest;
                self.unlink(at);
                self.flows.remove(&self.entries[at as usize].key);
                at
            }
        };
        self.entries[at as usize] = entry;
        self.flows.insert(key, at);
        self.link_newest(at);
    }

    fn unlink(&mut self, at: u32) {
        let Entry { newer, older, .. } = self.entries[at as usize];
        match self.entries.get_mut(newer as usize) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
        match self.entries.get_mut(older as usize) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn link_newest(&mut self, at: u32) {
        let before = std::mem::replace(&mut self.newest, at);
        match self.entries.get_mut(before as usize) {
            Some(entry) => entry.newer = at,
            None => self.oldest = at,
        }
        let entry = &mut self.entries[at as usize];
        (entry.newer, entry.older) = (NOBODY, before);
    }
}

#[inline]
fn ring<M: Memory>(memory: &M, flow: &Flow) -> Result<u32, Stop> {
    let slot = slot_of(hash::packet(flow), flow.vip.ring_len);
    let line = memory.ring(flow.vip.ring.wrapping_add(slot / SLOTS_PER_LINE));
    match line.map_or(0, |line| line.get(slot)) {
        0 => Err(Stop::of(Reason::NoRing)),
        number => Ok(flow.vip.first.wrapping_add(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(rival: &Rival) -> Vec<u64> {
        let mut order = Vec::new();
        let mut at = rival.newest;
        while let Some(entry) = rival.entries.get(at as usize) {
            order.push(entry.key[0]);
            at = entry.older;
        }
        order
    }

    /// A rival that forgot too much or too little would be an easy one.
    #[test]
    fn keeps_the_most_recent() {
        let mut rival = Rival::new([], 3);
        let flow = Flow::default();
        for n in [1, 2, 3] {
            rival.enter([n, 0, 0, 0, 0], n as u32, 0);
        }
        assert_eq!(rival.find(&[1, 0, 0, 0, 0], &flow, 0, 0), Some(1));
        assert_eq!(order(&rival), [1, 3, 2]);
        rival.enter([4, 0, 0, 0, 0], 4, 0);
        rival.enter([3, 0, 0, 0, 0], 5, 0);
        assert_eq!(order(&rival), [3, 4, 1]);
        assert_eq!(rival.find(&[2, 0, 0, 0, 0], &flow, 0, 0), None);
        assert_eq!(rival.find(&[3, 0, 0, 0, 0], &flow, 9, 5), None, "silent for too long");
        assert_eq!(rival.find(&[3, 0, 0, 0, 0], &flow, 5, 5), Some(5));
        assert_eq!((rival.flows.len(), rival.hits), (3, 2));
    }
}
