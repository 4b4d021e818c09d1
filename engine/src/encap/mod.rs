//! From the real to the frame as it leaves: one file a forwarding method.

mod gue;
mod ipip;
mod l2;
mod tunnel;

pub(crate) use ipip::encapsulate as in_ip;
pub(crate) use l2::forward as in_frame;
pub(crate) use tunnel::{GENEVE, GENEVE_ETHERNET, NO_CHECKSUM, SHORT, between, ethertype, gre, own_header, udp};

use crate::classify::as_it_came;
use crate::memory::counters::{Event, count_event};
use crate::memory::reals::{Hop, Method};
use crate::memory::{Memory, Real, Root, features};
use crate::nat;
use crate::packet::Packet;
use crate::parse::{Flow, Part};
use crate::verdict::{Action, Reason, Stop};
use crate::vlan;
use crate::wire::{Ethernet, FragmentHeader, Header, Ipv4, Ipv6, Udp};

/// The most bytes that any method puts in front of the client's packet.
pub const ROOM_MAX: usize = const { Ipv6::LEN + Udp::LEN + tunnel::GENEVE_ETHERNET };

/// Bytes that a method puts in front of the client's packet for a real of this family.
pub const fn room_for(real_is_v6: bool, method: Method) -> u8 {
    if let Method::L2 = method {
        return 0;
    }
    if let Method::Nat = method {
        // A fragment, from IPv4 to IPv6.
        return if real_is_v6 { const { (Ipv6::LEN - Ipv4::LEN + FragmentHeader::LEN) as u8 } } else { 0 };
    }
    let ip = if real_is_v6 { Ipv6::LEN } else { Ipv4::LEN };
    // 70 at most
    ip.wrapping_add(tunnel::behind_ip(method)) as u8
}

/// The same for a real's entry; `whole`: in front of a packet that is no fragment.
#[inline(always)]
pub fn overhead(hop: Hop, whole: bool) -> u32 {
    let ip = if hop.is_v6() { Ipv6::LEN } else { Ipv4::LEN };
    let all = if hop.is(Method::L2) {
        0
    } else if hop.is(Method::Nat) {
        let header = if whole { 0 } else { FragmentHeader::LEN };
        if hop.is_v6() { const { Ipv6::LEN - Ipv4::LEN }.wrapping_add(header) } else { 0 }
    } else if hop.is(Method::Ipip) {
        ip
    } else {
        ip.wrapping_add(tunnel::between(hop))
    };
    all as u32
}

/// Whether the client's packet and its outer headers are within the MTU of the way to its real. If not, its sender is told as
/// by any router (RFC 1191 section 4, RFC 8201 section 4), but never an ICMP error's or a later fragment's (RFC 1122 section
/// 3.2.2), and never of less than its family always takes.
#[inline(always)]
fn fits_the_way<P: Packet>(packet: &mut P, flow: &Flow, hop: Hop, mtu: u16, answers: bool) -> Result<(), Stop> {
    let fits = room_in(flow, hop, mtu);
    if fits_mtu(flow, hop, mtu) {
        return Ok(());
    }
    let told = fits.max(if flow.is_v6 { 1280 } else { 68 });
    let answers = answers && !flow.quoted && flow.part != Part::Later && flow.len > told;
    Err(if answers { crate::answer::too_big(packet, flow, told) } else { Stop::of(Reason::PathMtu) })
}

/// Whether the client's packet and its outer headers are within an MTU; 0: it is not known, and they are.
#[inline(always)]
pub(crate) fn fits_mtu(flow: &Flow, hop: Hop, mtu: u16) -> bool {
    mtu == 0 || flow.len <= room_in(flow, hop, mtu)
}

/// Bytes of the largest packet that they are within it with.
#[inline(always)]
fn room_in(flow: &Flow, hop: Hop, mtu: u16) -> u32 {
    let headers = if hop.is(Method::Nat) && flow.is_v6 { 0 } else { overhead(hop, flow.part == Part::Whole) };
    (mtu as u32).saturating_sub(headers)
}

/// The same, if the way may be too narrow.
#[inline(always)]
pub(crate) fn fits_way<P: Packet, M: Memory>(
    packet: &mut P,
    memory: &M,
    root: &Root,
    flow: &Flow,
    real: &Real,
) -> Result<(), Stop> {
    if !memory.has(root, features::PATH_MTU) || memory.has(root, features::KATRAN) || !real.hop().is_narrow() {
        return Ok(());
    }
    done(narrow(packet, flow, real, memory.has(root, features::TOO_BIG)))
}

/// Gives a raw [`Stop`], 0: it fits. What has become an answer gets its tag back. Not inlined: off the usual way, and asked
/// for in several places.
#[inline(never)]
fn narrow<P: Packet>(packet: &mut P, flow: &Flow, real: &Real, answers: bool) -> u32 {
    let stop = match fits_the_way(packet, flow, real.hop(), real.out().mtu, answers) {
        Err(stop) if stop.action() == Action::Tx => as_it_came(packet, flow).err().or(Some(stop)),
        other => other.err(),
    };
    Stop::raw(stop)
}

/// Where an outer header leads.
pub(crate) struct Path<'a> {
    pub root: &'a Root,
    pub hop: Hop,
    pub real: &'a Real,
    pub katran: bool,
    /// Source MAC of the frame.
    pub from: u64,
    /// The client's port, as sources are crafted from it.
    pub port: u32,
}

impl<'r> Path<'r> {
    /// The way of usual frames: no profile of another balancer's, one interface, outer sources that no port is in.
    #[inline(always)]
    pub fn plain(root: &'r Root, real: &'r Real, hop: Hop) -> Self {
        Self { root, hop, real, katran: false, from: root.local_mac.get(), port: 0 }
    }

    /// Writes the Ethernet header of the new frame.
    #[inline(always)]
    fn emit(&self, eth: &mut Ethernet, ethertype: u16) {
        eth.emit(self.hop.mac(), self.from, ethertype);
    }

    /// Flags of outer IPv4 headers: "don't fragment", which Katran leaves out.
    #[inline(always)]
    fn fragment(&self) -> u16 {
        if self.katran { 0 } else { crate::wire::DONT_FRAGMENT }
    }
}

/// Source MAC of a frame to a real. One that leaves by whichever of several interfaces it came in by has the MAC that it came
/// to, unless the real's way has one.
#[inline(always)]
pub(crate) fn source<P: Packet, M: Memory>(packet: &P, memory: &M, root: &Root, real: &Real, katran: bool) -> u64 {
    // Katran answers with the MAC that it was called by.
    if katran {
        return called(packet);
    }
    if memory.has(root, features::SEVERAL) {
        let own = real.from();
        if own != 0 || real.out().interface == 0 {
            return if own != 0 { own } else { called(packet) };
        }
    }
    root.local_mac.get()
}

/// The MAC that the frame came to.
#[inline(always)]
pub(crate) fn called<P: Packet>(packet: &P) -> u64 {
    Ethernet::view(packet, 0).map_or(0, Ethernet::destination)
}

/// Encapsulates the frame towards a real. `port`: the client's source port as the VIP's flags leave it, as on the wire.
#[inline(always)]
pub fn deliver<P: Packet, M: Memory>(
    packet: &mut P,
    memory: &M,
    root: &Root,
    flow: &mut Flow,
    id: u32,
    port: u32,
) -> Result<(), Stop> {
    let real = memory.real(id).ok_or(Stop::of(Reason::NoReal))?;
    let hop = real.hop();
    let usual = hop.is_usual();
    if !usual {
        if !hop.is_present() {
            return Err(Stop::of(Reason::NoReal));
        }
        if memory.has(root, features::NAT) && hop.is(Method::Nat) && hop.is_resolved() {
            return nat::send(packet, memory, root, flow, id);
        }
        if hop.is_resolved() {
            fits_way(packet, memory, root, flow, real)?;
        }
    }
    let done = if !usual && !hop.is_resolved() {
        Err(Stop::of(if hop.is_gone() { Reason::RealRemoved } else { Reason::NoNextHop }))
    } else if !usual && memory.has(root, features::TUNNELS) && !hop.is(Method::Ipip) && !hop.is(Method::L2) {
        done(packet.tunnel(memory, root, flow, id, port))
    } else {
        let path = path(packet, memory, root, real, port);
        let sent = if !usual && memory.has(root, features::L2) && hop.is(Method::L2) {
            l2::forward(packet, flow, &path)
        } else {
            ipip::encapsulate(packet, flow, &path)
        };
        sent.ok_or(Stop::of(Reason::NoHeadroom))
    };
    let done = done.and_then(|()| if usual && flow.vlan == 0 { Ok(()) } else { tag(packet, memory, flow, real) });
    done.inspect_err(|_| count_failed(memory, hop))
}

/// Counts a frame that could not be encapsulated.
#[inline(always)]
pub(crate) fn count_failed<M: Memory>(memory: &M, hop: Hop) {
    count_event(memory, if hop.is_v6() { Event::EncapFailedV6 } else { Event::EncapFailedV4 });
}

/// Puts the tag on that the way to the real has.
#[inline(always)]
pub(crate) fn tag<P: Packet, M: Memory>(packet: &mut P, memory: &M, flow: &Flow, real: &Real) -> Result<(), Stop> {
    let tag = if memory.can(features::VLANS) { vlan::leaving(flow.vlan, real.out().vlan) } else { 0 };
    if tag == 0 || packet.put_tag(tag) { Ok(()) } else { Err(Stop::of(Reason::NoHeadroom)) }
}

/// What a raw [`Stop`] says.
#[inline(always)]
pub(crate) fn done(raw: u32) -> Result<(), Stop> {
    match Stop::of_raw(raw) {
        None => Ok(()),
        Some(stop) => Err(stop),
    }
}

#[inline(always)]
fn path<'r, P: Packet, M: Memory>(packet: &P, memory: &M, root: &'r Root, real: &'r Real, port: u32) -> Path<'r> {
    let katran = memory.has(root, features::KATRAN);
    let from = source(packet, memory, root, real, katran);
    Path { root, hop: real.hop(), real, katran, from, port }
}

/// Puts the frame into a tunnel to the real with this id that is neither IPIP nor none. `port` as in [`deliver`]. Gives a raw
/// [`Stop`], 0: it is done.
#[inline(always)]
pub fn tunnel<P: Packet, M: Memory>(packet: &mut P, memory: &M, root: &Root, flow: &Flow, id: u32, port: u32) -> u32 {
    let Some(real) = memory.real(id) else { return Stop::raw(Some(Stop::of(Reason::NoReal))) };
    let path = path(packet, memory, root, real, port);
    let done = if path.katran { gue::encapsulate(packet, flow, &path) } else { tunnel::encapsulate(packet, flow, &path) };
    Stop::raw(done.err().map(Stop::of))
}
