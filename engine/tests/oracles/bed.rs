//! The engine's memory as plain vectors, and frames to send through it.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use etherparse::{PacketBuilder, TcpHeader};
use tandem_engine::maglev::{Endpoint, Recipe, Weighting, fill};
use tandem_engine::memory::counters::Extent;
use tandem_engine::memory::nats::ANSWERS;
use tandem_engine::memory::prefixes::SPACES;
use tandem_engine::memory::reals::{Method, Out, Way};
use tandem_engine::memory::rings::SLOTS_PER_LINE;
use tandem_engine::memory::root::LAYOUT;
use tandem_engine::memory::vips::{self, PROBES};
use tandem_engine::memory::{
    Answer, FlowSet, IdLine, Line, Memory, Nat, PrefixSlot, Real, RealLine, RingLine, Root, Trace, Tree, Vip, VipKey, VipSlot,
};
use tandem_engine::wire::mac_word;
use tandem_engine::{Addr, NO_VIP, Packet, Verdict};

/// The next hop of every real, and the balancer itself.
pub const HOP_MAC: [u8; 6] = [0, 0, 0xde, 0xad, 0xbe, 0xaf];
pub const LOCAL_MAC: [u8; 6] = [0, 0xff, 0xde, 0xad, 0xbe, 0xaf];

/// Slots of a half of the VIP table.
const SLOTS: u32 = 64;
/// VIPs and reals that there are counters for.
const EXTENT: Extent = Extent { vips: 16, reals: 64 };

/// Bytes in front of a frame: more than any outer header has.
const HEADROOM: usize = 128;

/// Tables in memory of the test.
pub struct Bed {
    pub root: Root,
    vips: Vec<VipSlot>,
    rings: Vec<RingLine>,
    reals: Vec<Real>,
    pub flows: Vec<FlowSet>,
    counts: Vec<Line>,
    ids: Vec<IdLine>,
    prefixes: Vec<PrefixSlot>,
    trees: Vec<Tree>,
    pub nats: Vec<Nat>,
    answers: Vec<Answer>,
    pub trace: Trace,
    pub now: Cell<u32>,
}

fn table<T: Default>(len: u32) -> Vec<T> {
    (0..len).map(|_| T::default()).collect()
}

impl Bed {
    /// Empty tables: `sets` (a power of two) of flows, room for one ring of `ring` slots and 64 reals.
    pub fn new(sets: u32, ring: u32) -> Self {
        let bed = Self {
            root: Root::default(),
            vips: table(2 * SLOTS),
            rings: table(1 + RingLine::lines(ring)),
            reals: table(EXTENT.reals),
            flows: table(sets),
            counts: table(EXTENT.lines()),
            ids: table(1),
            prefixes: table(4),
            trees: table(2 * SPACES),
            nats: table(1),
            answers: table(ANSWERS),
            trace: Trace::default(),
            now: Cell::new(30_000),
        };
        bed.root.vip_mask.set(SLOTS - 1);
        bed.root.publish_vips(0, 1);
        bed.root.flow_mask.set(sets - 1);
        bed.root.max_frame.set(1514);
        bed.root.local_mac.set(mac_word(LOCAL_MAC));
        bed.root.craft_v4.set(u32::from_ne_bytes([10, 0, 13, 37]));
        let source: Ipv6Addr = "fc00:2307::1337".parse().unwrap();
        for (cell, word) in bed.root.craft_v6.iter().zip(words(source.into())) {
            cell.set(word);
        }
        for (n, key) in bed.root.key.iter().enumerate() {
            key.set((n as u32 + 1).wrapping_mul(0x9e37_79b9));
        }
        bed.root.set_layout(LAYOUT);
        bed
    }

    /// Adds a VIP whose ring, if it is given one, starts at line 1.
    pub fn vip(&self, id: u32, address: IpAddr, port: u16, protocol: u8, flags: u32, ring: u32) {
        self.entry(VipKey::new(words(address), port.to_be(), protocol), Vip { id, flags, ring: 1, ring_len: ring, first: 0 });
    }

    /// Puts an entry into the VIP table.
    pub fn entry(&self, key: VipKey, vip: Vip) {
        let slot = (0..PROBES)
            .map(|probe| &self.vips[key.slot(vips::table(0, 1), SLOTS - 1, probe) as usize])
            .find(|slot| slot.is_empty());
        slot.expect("a handful of VIPs fits").fill(&key, vip);
    }

    /// Sets the reals, ids from 1 on, and fills the ring with those whose weight is above 0.
    pub fn reals(&self, ring: u32, reals: &[(IpAddr, u32)]) {
        let mut endpoints = Vec::new();
        for (id, (address, weight)) in (1..).zip(reals) {
            let mac = Some(mac_word(HOP_MAC));
            self.reals[usize::from(id)].fill(Some(0), words(*address), address.is_ipv6(), &Way::by(Method::Ipip), mac);
            endpoints.push(Endpoint::new(Recipe::Standard, id, *address, *weight));
        }
        let mut slots = vec![0; ring as usize];
        fill(&mut slots, &mut endpoints, Weighting::V2);
        for (line, ids) in self.rings[1..].iter().zip(slots.chunks(SLOTS_PER_LINE as usize)) {
            line.fill(ids);
        }
    }
}

impl Bed {
    /// Adds what is known of an address.
    pub fn address(&self, address: IpAddr, flags: u32) {
        let (key, vip) = (VipKey::address(words(address)), Vip { id: NO_VIP, flags, ..Vip::default() });
        let slot = (0..PROBES)
            .map(|probe| &self.vips[key.slot(vips::table(0, 1), SLOTS - 1, probe) as usize])
            .find(|slot| slot.is_empty());
        slot.expect("a handful of addresses fits").fill(&key, vip);
    }

    /// Another way out to the real with this id.
    pub fn out(&self, id: u16, out: Out) {
        self.reals[usize::from(id)].set_out(out, 0);
    }

    /// Another way to the real with this id.
    pub fn way(&self, id: u16, way: &Way) {
        self.reals[usize::from(id)].set_way(way);
    }

    /// The largest IP packet on the way to the real with this id, smaller than what is accepted.
    pub fn narrow(&self, id: u16, mtu: u16) {
        let real = &self.reals[usize::from(id)];
        real.set_out(Out { mtu, ..Out::default() }, 0);
        real.set_narrow(true);
    }
}

impl Memory for Bed {
    fn root(&self) -> Option<&Root> {
        Some(&self.root)
    }
    fn vip(&self, index: u32) -> Option<&VipSlot> {
        self.vips.get(index as usize)
    }
    fn ring(&self, index: u32) -> Option<&RingLine> {
        self.rings.get(index as usize)
    }
    fn real(&self, id: u32) -> Option<&Real> {
        self.reals.get(id as usize)
    }
    fn flows(&self, index: u64) -> Option<&FlowSet> {
        self.flows.get(index as usize & (self.flows.len() - 1))
    }
    fn ids(&self, index: u32) -> Option<&IdLine> {
        self.ids.get(index as usize)
    }
    fn prefix(&self, index: u32) -> Option<&PrefixSlot> {
        self.prefixes.get(index as usize)
    }
    fn tree(&self, index: u32) -> Option<&Tree> {
        self.trees.get(index as usize)
    }
    fn nat(&self, index: u32) -> Option<&Nat> {
        self.nats.get(index as usize)
    }
    fn answer(&self, index: u32) -> Option<&Answer> {
        self.answers.get(index as usize)
    }
    fn count(&self, index: u32) -> Option<&Line> {
        self.counts.get(index as usize)
    }
    fn vip_count(&self, vip: u32) -> Option<&Line> {
        self.count(EXTENT.vip(vip))
    }
    fn real_count(&self, real: u32) -> Option<&RealLine> {
        let (line, second) = EXTENT.real(real);
        self.count(line)?.real(second)
    }
    fn now(&self) -> u32 {
        self.now.get()
    }
    fn trace(&self) -> Option<&Trace> {
        Some(&self.trace)
    }
}

/// The engine's, once: it is inlined wherever it is called, and compiling it takes long.
#[inline(never)]
pub fn process(frame: &mut Frame, bed: &Bed) -> Verdict {
    tandem_engine::process(frame, bed)
}

/// A frame with [`HEADROOM`].
pub struct Frame {
    bytes: Vec<u8>,
    head: usize,
}

impl Frame {
    pub fn new(frame: &[u8]) -> Self {
        let mut bytes = vec![0; HEADROOM];
        bytes.extend_from_slice(frame);
        Self { bytes, head: HEADROOM }
    }
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.head..]
    }
    fn range<const N: usize>(&self, at: usize) -> Range<usize> {
        self.head + at..self.head + at + N
    }
}

impl Packet for Frame {
    fn len(&self) -> usize {
        self.bytes.len() - self.head
    }
    fn bytes<const N: usize>(&self, at: usize) -> Option<&[u8; N]> {
        self.bytes.get(self.range::<N>(at))?.first_chunk()
    }
    fn bytes_mut<const N: usize>(&mut self, at: usize) -> Option<&mut [u8; N]> {
        let range = self.range::<N>(at);
        self.bytes.get_mut(range)?.first_chunk_mut()
    }
    fn grow_head(&mut self, by: usize) -> bool {
        let grown = self.head.checked_sub(by);
        self.head = grown.unwrap_or(self.head);
        grown.is_some()
    }
    fn shrink_head(&mut self, by: usize) -> bool {
        let fits = self.len() >= by + 14;
        self.head += if fits { by } else { 0 };
        fits
    }
    fn truncate(&mut self, len: usize) -> bool {
        let fits = len <= self.len();
        self.bytes.truncate(self.head + len);
        fits
    }
}

/// An address as the tables hold it: its wire bytes in words of the machine.
pub fn words(address: IpAddr) -> Addr {
    match address {
        IpAddr::V4(v4) => [u32::from_ne_bytes(v4.octets()).into(), 0],
        IpAddr::V6(v6) => tandem_engine::wire::ipv6_words(&v6.octets()),
    }
}

/// What the frames of the tests differ in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: u16,
    pub port: u16,
}

impl Tuple {
    /// The `n`-th client of a VIP, IPv4.
    pub fn numbered(n: u32, destination: Ipv4Addr, port: u16) -> Self {
        Self {
            source: Ipv4Addr::from(0x0a40_0000 | n >> 12).into(),
            destination: destination.into(),
            source_port: 1024 + (n & 0xfff) as u16,
            port,
        }
    }

    fn ip(&self, ttl: u8) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        let eth = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], LOCAL_MAC);
        match (self.source, self.destination) {
            (IpAddr::V4(s), IpAddr::V4(d)) => eth.ipv4(s.octets(), d.octets(), ttl),
            (IpAddr::V6(s), IpAddr::V6(d)) => eth.ipv6(s.octets(), d.octets(), ttl),
            _ => panic!("two families: {self:?}"),
        }
    }

    pub fn udp(&self, ttl: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let packet = self.ip(ttl).udp(self.source_port, self.port);
        packet.write(&mut frame, payload).unwrap();
        frame
    }

    pub fn tcp(&self, ttl: u8, syn: bool, rst: bool, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let mut header = TcpHeader::new(self.source_port, self.port, 7, 1000);
        (header.syn, header.rst, header.ack) = (syn, rst, !syn);
        let packet = self.ip(ttl).tcp_header(header);
        packet.write(&mut frame, payload).unwrap();
        frame
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): the same numbers everywhere.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    /// Below `n`, evenly.
    pub fn below(&mut self, n: u32) -> u32 {
        (((self.next() >> 32) * u64::from(n)) >> 32) as u32
    }
    /// In [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}
