//! A batch against the engine, one frame at a time, on equal tables.

use std::sync::Arc;

use proptest::prelude::*;
use tandem_engine::Packet;
use tandem_engine::handover::VERSION;
use tandem_engine::memory::Real;
use tandem_engine::memory::features::{SEVERAL, VLANS};
use tandem_engine::memory::reals::Out;

use super::*;
use crate::memory::{self, Plain, Tables};
use tables::{STRANGER, VIP_MIXED, VIP_V4, VIP_V6, expected, udp};

#[path = "../../../tests/afxdp/tables.rs"]
mod tables;

/// What the kernel seat would have handed over, at the start of a chunk of `size` bytes.
fn chunk(frame: &[u8], room: u8, version: u8, size: usize) -> (Vec<u8>, usize) {
    let mut chunk = vec![0xee; size];
    chunk[..4].copy_from_slice(&[room, version, 0, 0]);
    chunk[usize::from(room)..][..frame.len()].copy_from_slice(frame);
    (chunk, usize::from(room) + frame.len())
}

struct Batch {
    chunks: Vec<(Vec<u8>, usize)>,
    memory: Plain,
    tables: Arc<Tables>,
    /// Index of the interface that all came by.
    came_by: u32,
}

impl Batch {
    fn new(chunks: Vec<(Vec<u8>, usize)>) -> Self {
        let tables = tables::make(1);
        Self { chunks, memory: Plain::new(tables.clone(), 0), tables, came_by: 0 }
    }

    fn handle(&mut self) -> Vec<Outcome> {
        let mut flows = Box::new([Flow::default(); BATCH]);
        let mut outcomes = [Outcome::Send(usize::MAX); BATCH];
        let came_by = self.came_by;
        let frames = self.chunks.iter_mut().map(|(chunk, length)| FrameBuf::received(chunk, *length));
        let mut frames: Vec<_> = frames.map(|frame| frame.map(|frame| frame.came_by(came_by))).collect();
        handle(&mut frames, &self.memory, &mut flows, &mut outcomes, &Tap::default());
        outcomes[..frames.len()].to_vec()
    }

    fn seat(&self, counter: SeatCounter) -> u64 {
        tables::seat(&self.tables, counter)
    }

    fn reason(&self, reason: Reason) -> u64 {
        tables::reason(&self.tables, reason)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Whatever room was made and whatever the real needs, the bytes that leave are the engine's.
    #[test]
    fn a_batch_is_the_engine_thirty_two_times(
        wanted in prop::collection::vec((0u32..40, 0usize..3, 0usize..1400, prop::bool::ANY), 1..=BATCH),
        tail in 0usize..60,
    ) {
        let vips = [VIP_V4, VIP_V6, VIP_MIXED];
        let frames: Vec<_> = wanted.iter().map(|&(client, vip, payload, _)| udp(client, vips[vip], payload)).collect();
        let rooms = wanted.iter().map(|w| if w.3 { 20u8 } else { 40 });
        let chunks = frames.iter().zip(rooms).map(|(f, room)| chunk(f, room, VERSION, usize::from(room) + f.len() + tail));
        let mut batch = Batch::new(chunks.collect());
        let outcomes = batch.handle();
        let mut moved = 0;
        for ((outcome, (bytes, received)), expected) in outcomes.iter().zip(&batch.chunks).zip(expected(&frames)) {
            match *outcome {
                Outcome::Send(length) => {
                    prop_assert_eq!(&bytes[..length], &expected[..]);
                    moved += u64::from(length != *received);
                }
                Outcome::Release => prop_assert!(expected.len() > bytes.len(), "dropped, though the chunk has room"),
                Outcome::Leave(..) => prop_assert!(false, "there is one interface"),
            }
        }
        prop_assert_eq!(batch.seat(SeatCounter::RoomMoved), moved);
        prop_assert_eq!(batch.seat(SeatCounter::Defect), 0);
        let sent = outcomes.iter().filter(|o| **o != Outcome::Release).count() as u64;
        prop_assert_eq!(batch.reason(Reason::Forwarded), sent);
        prop_assert_eq!(batch.reason(Reason::NoHeadroom), outcomes.len() as u64 - sent);
    }
}

/// Tagged frames leave by every way as the engine says, and only where the way takes the tag off are they moved.
#[test]
fn a_tag_travels_in_the_hand_over() {
    for (vlan, same) in [(Out::SAME_VLAN, true), (0, false), (4094, false)] {
        let set = |tables: &Tables| {
            tables.root().features.set(VLANS);
            tables.reals().iter().for_each(|real| real.set_out(Out { vlan, ..Out::default() }, 0));
        };
        for control in [None, Some([0xb0, 100]), Some([0, 0])] {
            let frame = udp(7, VIP_V4, 100);
            let tag = control.map_or(Vec::new(), |[a, b]| vec![0x81, 0, a, b]);
            let wanted = tables::expected_on(set, &[[&frame[..12], &tag, &frame[12..]].concat()]);
            let room = if vlan == 4094 || same && control.is_some() { 24 } else { 20 };
            let (mut bytes, received) = chunk(&frame, room, VERSION, 1792);
            if let Some([a, b]) = control {
                bytes[1..4].copy_from_slice(&[VERSION | 0x80, b, a]);
            }
            let mut batch = Batch::new(vec![(bytes, received)]);
            set(&batch.tables);
            assert_eq!(batch.handle(), [Outcome::Send(wanted[0].len())], "VLAN {vlan}, tag {control:02x?}");
            assert_eq!(batch.chunks[0].0[..wanted[0].len()], wanted[0], "VLAN {vlan}, tag {control:02x?}");
            assert_eq!(batch.seat(SeatCounter::RoomMoved), 0);
        }
    }
}

/// By the interface of the way to its real, unless that is the one it came by, or there is only one.
#[test]
fn a_frame_leaves_by_its_way() {
    let frame = udp(7, VIP_V4, 100);
    let length = frame.len() + 20;
    for (features, came_by, out, outcome) in [
        (SEVERAL, 3, 4, Outcome::Leave(length, 4)),
        (SEVERAL, 4, 4, Outcome::Send(length)),
        (SEVERAL, 3, 0, Outcome::Send(length)),
        (0, 0, 4, Outcome::Send(length)),
    ] {
        let mut batch = Batch::new(vec![chunk(&frame, 20, VERSION, 1792)]);
        batch.tables.root().features.set(features);
        let set = |real: &Real| real.set_out(Out { interface: out, ..Out::default() }, 0);
        batch.tables.reals().iter().for_each(set);
        batch.came_by = came_by;
        assert_eq!(batch.handle(), [outcome], "{came_by} to {out}");
    }
}

#[test]
fn the_usual_frame_is_not_moved() {
    for (vip, room) in [(VIP_V4, 20), (VIP_V6, 40)] {
        let frame = udp(7, vip, 100);
        let mut batch = Batch::new(vec![chunk(&frame, room, VERSION, 1792)]);
        assert_eq!(batch.handle(), [Outcome::Send(frame.len() + usize::from(room))]);
        assert_eq!(batch.seat(SeatCounter::RoomMoved), 0);
    }
}

#[test]
fn a_removed_vip_is_no_defect() {
    let mut batch =
        Batch::new(vec![chunk(&udp(1, VIP_V4, 10), 20, VERSION, 1792), chunk(&udp(1, VIP_V6, 10), 40, VERSION, 1792)]);
    tables::remove(&batch.tables, VIP_V4);
    assert!(matches!(batch.handle()[..], [Outcome::Release, Outcome::Send(_)]));
    assert_eq!((batch.seat(SeatCounter::VipGone), batch.seat(SeatCounter::Defect)), (1, 0));
    assert_eq!(batch.reason(Reason::NotAVip), 0, "nothing was passed to the host");
}

#[test]
fn what_the_kernel_seat_must_not_hand_over_is_a_defect() {
    let arp = [[0xff; 12].as_slice(), &[8, 6], &[0; 46]].concat();
    let good = udp(1, VIP_V4, 10);
    let bad = [
        chunk(&arp, 20, VERSION, 1792),
        chunk(&good, 0, VERSION, 1792),
        chunk(&good, 3, VERSION, 1792),
        chunk(&good, 20, VERSION + 1, 1792),
        // a room that leaves no Ethernet header, one beyond what was received, and nothing at all
        (chunk(&good, 20, VERSION, 1792).0, 33),
        (chunk(&good, 20, VERSION, 1792).0, 19),
        (vec![20, VERSION, 0], 3),
        (vec![], 0),
        // more than the chunk holds
        (chunk(&good, 20, VERSION, 1792).0, 1793),
    ];
    let count = bad.len();
    let mut batch = Batch::new(bad.to_vec());
    assert_eq!(batch.handle(), vec![Outcome::Release; count]);
    assert_eq!(batch.seat(SeatCounter::Defect), count as u64);
    assert!(Reason::ALL.iter().all(|&reason| batch.reason(reason) == 0));
}

#[test]
fn a_drop_is_counted_once_as_its_reason() {
    let mut expired = udp(1, VIP_V4, 10);
    expired[22] = 1;
    let mut batch = Batch::new(vec![chunk(&expired, 20, VERSION, 1792)]);
    assert_eq!(batch.handle(), [Outcome::Release]);
    assert_eq!(batch.reason(Reason::TtlExpired), 1);
    assert_eq!(batch.seat(SeatCounter::Defect), 0);
}

#[test]
fn strangers_are_the_kernels() {
    let mut batch = Batch::new(vec![chunk(&udp(1, STRANGER, 10), 20, VERSION, 1792)]);
    assert_eq!(batch.handle(), [Outcome::Release]);
    assert_eq!(batch.seat(SeatCounter::VipGone), 1);
}

proptest! {
    /// The frame in its chunk grows and settles like a plain one.
    #[test]
    fn a_frame_grows_like_a_vec(room in 4u8..64, length in 14usize..200, tail in 0usize..64, small in prop::bool::ANY) {
        let frame: Vec<u8> = (0..length).map(|i| i as u8).collect();
        let (mut bytes, received) = chunk(&frame, room, VERSION, usize::from(room) + length + tail);
        let size = bytes.len();
        let mut buf = FrameBuf::received(&mut bytes, received).expect("sane");
        let mut plain = frame;
        let grown = buf.grow_head(if small { 20 } else { 40 });
        let by = if small { 20 } else { 40 };
        prop_assert_eq!(grown, length + by <= size);
        if grown {
            plain.splice(0..0, vec![0; by]);
            if small { *buf.bytes_mut::<20>(0).expect("just made") = [0; 20] } else { *buf.bytes_mut::<40>(0).expect("just made") = [0; 40] }
        }
        prop_assert_eq!(buf.len(), plain.len());
        prop_assert!(buf.bytes::<1>(buf.len()).is_none());
        let settled = buf.settle();
        prop_assert_eq!(buf.was_moved(), by != usize::from(room) || !grown);
        prop_assert_eq!(&bytes[..settled], &plain[..]);
    }
}
