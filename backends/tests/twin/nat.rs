//! Frames of connections behind NAT: clients', what their reals answer to what they got, and errors about both.

use std::collections::VecDeque;

use tandem_backends::config::{Encap, Plan, parse};
use tandem_backends::replay::Decision;
use tandem_backends::xdp::Headroom;
use tandem_engine::Reason;

use crate::frames::{self, Rng};
use crate::told::Told;
use crate::{Differ, Twins, plans};

/// Sources of one, both or no family.
const SOURCES: [&str; 3] =
    ["", "sources_v4 = [\"10.0.13.40\", \"10.0.13.41\"]\nsources_v6 = [\"fc00:2307::40\"]", "sources_v4 = [\"10.0.13.40\"]"];

/// Nearly all reals by NAT, and few ports.
pub fn plan(rng: &mut Rng, sources: usize) -> Plan {
    let mut plan = plans::first(rng);
    let text = format!("[nat]\nports = 300\ncapacity = 500\ntcp_opening = \"2s\"\n{}", SOURCES[sources]);
    plan.nat = parse(&text, "nat").unwrap().plan.nat;
    let nat = plan.nat.clone();
    for vip in &mut plan.vips {
        let v4 = vip.address.is_ipv4();
        for real in &mut vip.reals {
            if rng.below(12) > 0 && (nat.replaces(real.address) || real.address.is_ipv4() == v4) {
                real.encap = Encap::Nat;
                real.port = rng.one_in(2).then_some(8080);
            }
        }
    }
    plan
}

/// What was forwarded last: what was sent, and what came out.
#[derive(Default)]
pub struct Talk {
    last: VecDeque<(Vec<u8>, Vec<u8>)>,
    /// Later fragments that were translated: clients', and answers.
    later: [u64; 2],
}

impl Talk {
    /// The next frame: a client's, an answer to what came out, or an error about either.
    pub fn next(&self, rng: &mut Rng, plan: &Plan) -> Vec<u8> {
        let about = (!self.last.is_empty()).then(|| &self.last[rng.below(self.last.len() as u64) as usize]);
        let Some((sent, out)) = about.filter(|_| rng.below(5) > 1).cloned() else { return frames::frame(rng, plan) };
        let mut frame = match rng.below(8) {
            0 => error(rng, &out),
            1 => error(rng, &turned(&sent)),
            2 | 3 => sent,
            _ => turned(&out),
        };
        let l4 = frames::l4(&frame);
        if frame.len() > l4 + 14 && rng.one_in(4) {
            // Flags of TCP; the checksum is wrong then, which nobody here looks at.
            frame[l4 + 13] = *rng.pick(&[0x02, 0x10, 0x11, 0x12, 0x14, 0x04, 0x01]);
        }
        if rng.one_in(5) {
            frame = fragment(rng, frame);
        }
        if rng.one_in(30) {
            let at = 14 + rng.below(frame.len() as u64 - 14) as usize;
            frame[at] ^= 1 << rng.below(8);
        }
        frame
    }

    /// Remembers what came of it.
    pub fn note(&mut self, frame: &[u8], out: &[u8], decision: &Decision) {
        if is_later(frame) {
            self.later[0] += u64::from(decision.reason == Some(Reason::Forwarded));
            self.later[1] += u64::from(decision.reason == Some(Reason::NatReply));
        }
        let plain = |frame: &[u8]| matches!(frame[12..14], [8, 0] | [0x86, 0xdd]);
        if decision.reason == Some(Reason::Forwarded) && frame.len() < 300 && plain(frame) && plain(out) {
            if self.last.len() > 200 {
                self.last.pop_front();
            }
            self.last.push_back((frame.to_vec(), out.to_vec()));
        }
    }
}

/// From the receiver back to the sender: a sum does not know which of two addresses comes first.
fn turned(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let l4 = frames::l4(&frame);
    let (start, len) = if l4 == 54 { (22, 16) } else { (26, 4) };
    for i in 0..len {
        frame.swap(start + i, start + len + i);
    }
    for i in 0..2 {
        frame.swap(l4 + i, l4 + 2 + i);
    }
    (0..6).for_each(|i| frame.swap(i, 6 + i));
    frame
}

/// A fragment of it, of one of few packets, so that first and later ones of the same packet come by.
fn fragment(rng: &mut Rng, mut frame: Vec<u8>) -> Vec<u8> {
    let (id, at) = (rng.below(3) as u8, *rng.pick(&[1_u16, 8 << 3 | 1, 24 << 3]));
    if frames::l4(&frame) == 34 {
        let [high, low] = (at >> 3 | (at & 1) << 13).to_be_bytes();
        frame[18..22].copy_from_slice(&[0, id, high, low]);
    } else {
        let [high, low] = at.to_be_bytes();
        let len = u16::from_be_bytes([frame[18], frame[19]]).wrapping_add(8);
        frame[18..20].copy_from_slice(&len.to_be_bytes());
        let protocol = std::mem::replace(&mut frame[20], 44);
        frame.splice(54..54, [protocol, 0, high, low, 0, 0, 0, id]);
    }
    frame
}

/// Whether it is a later fragment.
fn is_later(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([8, 0]) => frame.len() > 21 && (frame[20] & 0x1f != 0 || frame[21] != 0),
        _ => frame.len() > 57 && frame[20] == 44 && (frame[56] != 0 || frame[57] & 0xf8 != 0),
    }
}

/// An ICMP error about `frame`, from a router to who sent it.
fn error(rng: &mut Rng, frame: &[u8]) -> Vec<u8> {
    let v6 = frames::l4(frame) == 54;
    let quote = &frame[14..frame.len() - rng.below(20) as usize];
    let eth = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
    let mut out = Vec::new();
    let word = [0, 0, 5, rng.below(256) as u8];
    let to = if v6 { &frame[22..38] } else { &frame[26..30] };
    if v6 {
        let kinds = [(2, 0), (1, 0), (1, 1), (1, 4), (3, 0), (4, 1), (4, 0)];
        let &(kind, code) = rng.pick(&kinds);
        let builder = eth.ipv6([9; 16], to.try_into().unwrap(), 60);
        builder.icmpv6_raw(kind, code, word).write(&mut out, quote).unwrap();
    } else {
        let kinds = [(3, 4), (3, 0), (3, 2), (3, 3), (3, 13), (11, 0), (12, 0), (3, 15)];
        let &(kind, code) = rng.pick(&kinds);
        let builder = eth.ipv4([9; 4], to.try_into().unwrap(), 60);
        builder.icmpv4_raw(kind, code, word).write(&mut out, quote).unwrap();
    }
    out
}

/// Sends `count` frames through both seats.
pub fn talk(rng: &mut Rng, plan: &Plan, twins: &mut Twins, count: u64) -> Result<Talk, Differ> {
    let mut talk = Talk::default();
    for n in 0..count {
        if n % 100 == 0 {
            twins.tick(30_000 + n as u32 / 100);
        }
        if n % 10_000 == 9_999 {
            twins.check()?;
        }
        let frame = talk.next(rng, plan);
        let (decision, out) = twins.frame_and_bytes(&frame, Headroom::Usual);
        talk.note(&frame, out, &decision);
    }
    Ok(talk)
}

/// A round of such frames; then reals go, and their connections with them.
pub fn round(sources: usize, seed: u64, frames: u64, each_from: u64) -> Result<Option<Told>, Differ> {
    let mut rng = Rng(seed);
    let plan = plan(&mut rng, sources);
    let Some(mut twins) = Twins::new(&plan, 64) else { return Ok(None) };
    twins.each_from = each_from;
    let talked = talk(&mut rng, &plan, &mut twins, frames)?;
    let mut told = Told::default();
    told.later = talked.later;
    twins.check()?;
    let mut fewer = plan.clone();
    for vip in &mut fewer.vips {
        vip.reals.pop();
    }
    let changes = twins.apply(&fewer);
    assert!(changes.reals_removed > 0);
    told.changed(&changes);
    talk(&mut rng, &fewer, &mut twins, 3000)?;
    told.twins(&mut twins)?;
    // What starts anew knows of no connection.
    for twin in twins.seats() {
        let open = || twin.tables().nats().iter().filter(|nat| nat.entry().is_some()).count();
        assert!(open() > 0);
        twin.start_anew();
        assert_eq!(open(), 0);
    }
    Ok(Some(told))
}
