//! Server ids: what a client's packets carry to name their real. In QUIC connection ids (versions 1 to 3 of Katran's
//! scheme), in front of a UDP payload (stable routing), and in a TCP option.
//!
//! A real's id is 0 where there is none: the functions are not inlined, and a BPF function returns one number.

use crate::memory::counters::{Event, VipCounter, count_event, count_vip};
use crate::memory::{IdKey, Memory, Root};
use crate::packet::Packet;
use crate::parse::Flow;
use crate::wire::{Ethernet, Ipv4, Ipv6, Tcp, Udp};

/// What a QUIC packet says about its real.
enum Quic {
    /// It opens a connection; its connection id is the client's choice.
    Initial,
    /// Nothing.
    Silent,
    /// This server id, of this version.
    Id(u32, Event),
}

/// The real that a QUIC packet names.
#[inline(never)]
pub(crate) fn quic<P: Packet, M: Memory>(packet: &P, memory: &M, root: &Root, katran: bool, flow: &Flow) -> u32 {
    if flow.quoted {
        count_event(memory, Event::QuicIcmp);
        // By the code alone: port and administratively unreachable.
        let ignorable = flow.icmp_code == 3 || flow.icmp_code == if flow.is_v6 { 4 } else { 1 };
        if ignorable {
            count_event(memory, Event::QuicIcmpIgnorable);
        }
        return 0;
    }
    match connection_id(packet, flow, katran) {
        Quic::Initial => {
            count_event(memory, Event::QuicInitial);
            count_vip(memory, flow.vip.id, VipCounter::ServerIdNew);
            0
        }
        Quic::Silent => {
            count_event(memory, Event::QuicRing);
            0
        }
        Quic::Id(id, version) => {
            count_event(memory, version);
            let real = find(memory, root, id);
            if real == 0 {
                count_event(memory, Event::QuicInvalidId);
            }
            count_event(memory, if real != 0 { Event::QuicRouted } else { Event::QuicRing });
            real
        }
    }
}

#[inline(always)]
fn connection_id<P: Packet>(packet: &P, flow: &Flow, katran: bool) -> Quic {
    const LONG: u8 = 0x80;
    const TYPE: u8 = 0x30;
    const HANDSHAKE: u8 = 0x20;
    let at = flow.l4().wrapping_add(Udp::LEN);
    let Some([first]) = packet.bytes_anywhere::<1>(at) else { return Quic::Silent };
    let cid = if first & LONG != 0 {
        // flags, version (4), length of the destination connection id, its first eight bytes (RFC 9000 section 17.2)
        let Some([first, _, _, _, _, len, cid @ ..]) = packet.bytes_anywhere::<14>(at) else { return Quic::Silent };
        if first & TYPE < HANDSHAKE {
            return Quic::Initial;
        }
        if *len < 8 {
            return Quic::Silent;
        }
        *cid
    } else {
        let Some([_, cid @ ..]) = packet.bytes_anywhere::<9>(at) else { return Quic::Silent };
        *cid
    };
    let [c0, c1, c2, c3, c4, ..] = cid;
    let (id, version) = match c0 >> 6 {
        1 => (((c0 & 0x3f) as u32) << 10 | (c1 as u32) << 2 | (c2 >> 6) as u32, Event::QuicV1),
        2 => (u32::from_be_bytes([0, c1, c2, c3]), Event::QuicV2),
        3 => (u32::from_be_bytes([c1, c2, c3, c4]), Event::QuicV3),
        _ => return Quic::Silent,
    };
    // Katran keeps the id in a signed integer, and takes none that is not above 0.
    if id == 0 || katran && id >> 31 != 0 { Quic::Silent } else { Quic::Id(id, version) }
}

/// The real that a UDP datagram names: its payload begins with 0x52 and a server id of 24 bits.
#[inline(never)]
pub(crate) fn stable<P: Packet, M: Memory>(packet: &P, memory: &M, root: &Root, flow: &Flow) -> u32 {
    const HEADER: u8 = 0x52;
    let at = flow.l4().wrapping_add(Udp::LEN);
    let id = match packet.bytes_anywhere::<8>(at) {
        Some([HEADER, a, b, c, ..]) => u32::from_be_bytes([0, *a, *b, *c]),
        _ => {
            count_event(memory, Event::StableInvalidType);
            0
        }
    };
    let real = find(memory, root, id);
    if id != 0 && real == 0 {
        count_event(memory, Event::StableInvalidId);
    }
    count_event(memory, if real != 0 { Event::StableRouted } else { Event::StableRing });
    real
}

/// Whether a TCP segment of a connection has no room for the option: asked before the call, which costs more than the answer.
#[inline(always)]
pub(crate) fn has_no_option(flow: &Flow) -> bool {
    let words = flow.tcp_words >> 4;
    (words == 5 || words == 6) && !flow.quoted && !flow.is_syn()
}

/// The real that a TCP segment names by its option.
#[inline(never)]
pub(crate) fn tcp<P: Packet, M: Memory>(packet: &P, memory: &M, root: &Root, katran: bool, flow: &Flow) -> u32 {
    if flow.is_syn() {
        count_event(memory, Event::TcpIdSyn);
        count_vip(memory, flow.vip.id, VipCounter::ServerIdNew);
        return 0;
    }
    let usual = (if flow.is_v6 { Ethernet::LEN.wrapping_add(Ipv6::LEN) } else { Ethernet::LEN.wrapping_add(Ipv4::LEN) }) as u32;
    // Katran looks where a plain packet has its header, even if the flow is a quoted one.
    let at = if katran { usual } else { flow.l4() as u32 };
    let id = if flow.quoted && !katran { 0 } else { tcp_option(packet, at as usize, katran, root.zero.get()) };
    let real = find(memory, root, id);
    count_event(memory, if real != 0 { Event::TcpIdRouted } else { Event::TcpIdRing });
    real
}

/// The real that a server id leads to; 0: none, or no id.
#[inline(always)]
fn find<M: Memory>(memory: &M, root: &Root, id: u32) -> u32 {
    if id == 0 { 0 } else { memory.id(root, IdKey::server(id)) }
}

/// The server id in the options of the TCP header at `at`; 0: none.
#[inline(always)]
fn tcp_option<P: Packet>(packet: &P, at: usize, katran: bool, unknown: u32) -> u32 {
    const KIND: u8 = 0xb7;
    const LEN: u8 = 6;
    const MOST_OPTIONS: u32 = 15;
    let Some(header) = packet.bytes_anywhere::<{ Tcp::LEN }>(at) else { return 0 };
    let [_, _, _, _, _, _, _, _, _, _, _, _, offset, ..] = *header;
    // In eight bits, as Katran has it: a length below five words becomes a large number.
    let mut left = (offset >> 4).wrapping_mul(4).wrapping_sub(Tcp::LEN as u8);
    if left < LEN || !katran && offset >> 4 < 5 {
        return 0;
    }
    // The verifier would follow every sum of lengths that it knows: it knows none.
    let mut walked = unknown;
    for _ in 0..MOST_OPTIONS {
        if left == 0 {
            return 0;
        }
        let here = at.wrapping_add(Tcp::LEN).wrapping_add((walked & 0xff) as usize);
        let Some([kind]) = packet.bytes_anywhere::<1>(here) else { return 0 };
        let len = match *kind {
            0 => return 0,
            1 => 1,
            _ => {
                let Some([kind, len]) = packet.bytes_anywhere::<2>(here) else { return 0 };
                if left < 2 || *len > left {
                    return 0;
                }
                if *kind == KIND {
                    let Some([_, LEN, a, b, c, d]) = packet.bytes_anywhere::<6>(here) else { return 0 };
                    return u32::from_le_bytes([*a, *b, *c, *d]);
                }
                *len
            }
        };
        walked = walked.wrapping_add(len as u32);
        left = left.wrapping_sub(len);
    }
    0
}
