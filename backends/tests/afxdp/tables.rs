//! Small tables in plain memory, with one VIP for each kind of real, and the frames that go with them.
//!
//! Who includes this says which [`Tables`] are meant: the library's own, from inside or from outside.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::memory::{LookedUp, Plain, Sizes, Tables};
use tandem_engine::memory::counters::Extent;
use tandem_engine::memory::reals::{Method, Way};
use tandem_engine::memory::vips::{PROBES, table};
use tandem_engine::memory::{RingLine, SeatCounter, Vip, VipKey, counters, root};
use tandem_engine::{Packet, Reason, process, wire};

/// VIP whose reals are IPv4 and whose room is 20.
pub const VIP_V4: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 1);
/// VIP whose reals are IPv6 and whose room is 40.
pub const VIP_V6: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 2);
/// VIP with reals of both families.
pub const VIP_MIXED: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 3);
/// No VIP.
pub const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 99);
/// The port of all VIPs.
pub const PORT: u16 = 5678;

const SETS: u32 = 1024;
const RING: u32 = 61;
/// Slots of the VIP table in use, minus one.
const MASK: u32 = 63;

/// Tables for this many workers.
pub fn make(workers: u32) -> Arc<Tables> {
    let sizes = Sizes {
        vip_slots: MASK + 1,
        extent: Extent { vips: 4, reals: 16 },
        ring_lines: 1 + 3 * RingLine::lines(RING),
        flow_sets: SETS,
        hash_lines: 1,
        blocks: workers,
        id_lines: 1,
        prefix_slots: 2,
        nat_places: 1,
        features: 0,
        looked_up: LookedUp::default(),
    };
    let tables = Tables::plain(sizes).expect("a little memory");
    let root = tables.root();
    root.vip_mask.set(MASK);
    root.flow_mask.set(SETS - 1);
    root.max_frame.set(1514);
    root.craft_v4.set(u32::from_ne_bytes([172, 16, 0, 1]));
    root.local_mac.set(0x0100_0000_0002);
    for (i, key) in root.key.iter().enumerate() {
        key.set(0x9e37_79b9 ^ (i as u32).wrapping_mul(0x0102_0304));
    }
    add(&tables, 1, VIP_V4, 20, &[(1, V4), (2, V4), (3, V4)]);
    add(&tables, 2, VIP_V6, 40, &[(4, V6), (5, V6), (6, V6)]);
    add(&tables, 3, VIP_MIXED, 40, &[(7, V4), (8, V6)]);
    root.publish_vips(0, 0);
    root.set_layout(root::LAYOUT);
    tables
}

/// The family of a real.
const V4: bool = false;
const V6: bool = true;

fn add(tables: &Tables, id: u32, addr: Ipv4Addr, room: u8, reals: &[(u16, bool)]) {
    for &(real, is_v6) in reals {
        let v4 = u64::from(u32::from_ne_bytes([172, 16, 1, real as u8]));
        let addr = if is_v6 { [0xfd00, u64::from(real)] } else { [v4, 0] };
        tables.reals()[usize::from(real)].fill(Some(id), addr, is_v6, &Way::by(Method::Ipip), Some(0x0200_0000_0002));
    }
    let first = 1 + (id - 1) * RingLine::lines(RING);
    let ring: Vec<u16> = reals.iter().map(|r| r.0).cycle().take(RING as usize).collect();
    for (line, ids) in tables.rings().iter().skip(first as usize).zip(ring.chunks(32)) {
        line.fill(ids);
    }
    let vip = Vip { id, flags: Vip::flags_with_room(0, room), ring: first, ring_len: RING, first: 0 };
    let key = key_of(addr);
    let mut slots = (0..PROBES).map(|probe| &tables.vips()[key.slot(table(0, 0), MASK, probe) as usize]);
    slots.find(|slot| slot.is_empty()).expect("a free slot").fill(&key, vip);
}

/// Takes a VIP out.
pub fn remove(tables: &Tables, addr: Ipv4Addr) {
    let key = key_of(addr);
    let slot = tables.vips().iter().find(|slot| slot.entry().is_some_and(|(k, _)| k == key));
    slot.expect("the VIP is there").remove();
}

/// A seat counter, over all workers.
pub fn seat(tables: &Tables, counter: SeatCounter) -> u64 {
    sum(tables, counters::SEAT_LINE, counter as usize)
}

/// A reason's counter, over all workers.
pub fn reason(tables: &Tables, reason: Reason) -> u64 {
    let (line, index) = counters::reason_at(reason as u32);
    sum(tables, line, index)
}

fn sum(tables: &Tables, line: u32, index: usize) -> u64 {
    (0..tables.blocks()).map(|block| tables.block(block)[line as usize].get(index)).sum()
}

fn key_of(addr: Ipv4Addr) -> VipKey {
    VipKey::new([u64::from(u32::from_ne_bytes(addr.octets())), 0], PORT.to_be(), wire::IPPROTO_UDP)
}

/// A UDP frame from client number `client`.
pub fn udp(client: u32, to: Ipv4Addr, payload: usize) -> Vec<u8> {
    let [_, b, c, d] = client.to_be_bytes();
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1])
        .ipv4([10, b, c, d], to.octets(), 64)
        .udp(1024 + (client % 60_000) as u16, PORT)
        .write(&mut frame, &vec![client as u8; payload])
        .expect("a Vec takes everything");
    frame
}

/// A frame with endless room: the plainest `Packet`.
struct Endless(Vec<u8>);

impl Packet for Endless {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn bytes<const N: usize>(&self, at: usize) -> Option<&[u8; N]> {
        self.0.get(at..)?.first_chunk()
    }
    fn bytes_mut<const N: usize>(&mut self, at: usize) -> Option<&mut [u8; N]> {
        self.0.get_mut(at..)?.first_chunk_mut()
    }
    fn grow_head(&mut self, by: usize) -> bool {
        self.0.splice(0..0, std::iter::repeat_n(0, by));
        true
    }
    fn shrink_head(&mut self, by: usize) -> bool {
        let fits = self.0.len() >= by + 14;
        self.0.drain(..if fits { by } else { 0 });
        fits
    }
    fn truncate(&mut self, len: usize) -> bool {
        let fits = len <= self.0.len();
        self.0.truncate(len);
        fits
    }
}

/// What the engine alone makes of these frames, all of them a VIP's, on fresh tables.
pub fn expected(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    expected_on(|_| {}, frames)
}

/// The same on tables that were changed before.
pub fn expected_on(change: impl Fn(&Tables), frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let tables = make(1);
    change(&tables);
    let memory = Plain::new(tables, 0);
    let send = |frame: &Vec<u8>| {
        let mut packet = Endless(frame.clone());
        let verdict = process(&mut packet, &memory);
        assert!(verdict.is_forwarded(), "{verdict:?}");
        packet.0
    };
    frames.iter().map(send).collect()
}
