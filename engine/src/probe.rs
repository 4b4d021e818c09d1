//! Encapsulates the probes of health checks: what a checker on this host sends to a VIP, towards one real of its choice.
//!
//! The method and the outer headers are those of data traffic but for what makes no sense for one host's probes: sources are plain,
//! TOS is 0, and the inner TTL stays, since nothing is forwarded (RFC 2003 section 3.1). Lengths are the frame's, not those of its
//! header. UDP source ports are random; over IPv4 there is no outer UDP checksum. There are no probes by NAT, whose real answers a
//! connection that only the balancer knows.
//!
//! Probes are not parsed any further: they are in order as far as this host's stack is.

use crate::checksum::{self, address_sum};
use crate::encap::{NO_CHECKSUM, ROOM_MAX, between, ethertype, gre, own_header, udp};
use crate::memory::reals::{Hop, Method};
use crate::memory::{Addr, Memory, Real, Root, features};
use crate::packet::Packet;
use crate::verdict::Action;
use crate::wire::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Header, IPPROTO_GRE, IPPROTO_IPIP, IPPROTO_IPV6, IPPROTO_TCP, IPPROTO_UDP, Ipv4,
    Ipv6, Tcp, Udp, ipv6_words,
};

/// Bit that Katran sets in every source port, as the machine loads it.
const KATRAN_PORT: u16 = 0x0400;
/// Ports that RFC 6335 leaves to clients.
const DYNAMIC_PORT: u16 = 0xc000;
/// Most bytes of an IP packet behind any outer header.
const LONGEST: usize = 0xffff - ROOM_MAX;

/// A probe's way.
struct Way<'a> {
    root: &'a Root,
    real: &'a Real,
    hop: Hop,
    addr: Addr,
    /// Source MAC of the frame.
    from: u64,
    katran: bool,
    /// The probe is IPv6.
    inner_v6: bool,
    /// Bytes of the IP packet, by the frame's length.
    len: u32,
}

/// Encapsulates the frame towards the real with this id. `whole`: it leaves as one frame, so that the limit of its size holds;
/// what the kernel has still to cut into segments is larger. `random` is asked once, for GUE.
#[inline(always)]
pub fn encapsulate<P: Packet, M: Memory>(
    packet: &mut P,
    memory: &M,
    real: u32,
    whole: bool,
    random: impl FnOnce() -> u32,
) -> Outcome {
    let outcome = match towards(packet, memory, real, whole) {
        Ok(way) => match write(packet, &way, random) {
            Some(()) => Outcome::Processed,
            None => Outcome::NoRoom,
        },
        Err(outcome) => outcome,
    };
    if let Some(trace) = memory.trace() {
        trace.real.set(if outcome == Outcome::Processed { real.wrapping_add(1) } else { 0 });
    }
    outcome
}

#[inline(always)]
fn towards<'m, P: Packet, M: Memory>(packet: &P, memory: &'m M, real: u32, whole: bool) -> Result<Way<'m>, Outcome> {
    let (Some(root), Some(entry)) = (memory.root(), memory.real(real)) else { return Err(Outcome::NoReal) };
    let hop = entry.hop();
    if !hop.is_present() {
        return Err(Outcome::NoReal);
    }
    let katran = memory.has(root, features::KATRAN);
    let inner_v6 = match Ethernet::view(packet, 0).map(|eth| eth.ethertype.get()) {
        Some(ETHERTYPE_IPV4) => false,
        Some(ETHERTYPE_IPV6) => true,
        // The kernel cannot put an IP header before anything else.
        _ if katran => return Err(Outcome::NoRoom),
        _ => return Err(Outcome::Skipped),
    };
    if !katran && !is_whole(packet, inner_v6) {
        return Err(Outcome::Skipped);
    }
    let len = packet.len().wrapping_sub(Ethernet::LEN);
    if len > LONGEST || whole && packet.len() > root.max_frame.get() as usize {
        return Err(Outcome::TooBig);
    }
    if !hop.is_resolved() {
        return Err(Outcome::NoNextHop);
    }
    if hop.is(Method::Nat) {
        return Err(Outcome::Skipped);
    }
    let sourceless = if hop.is_v6() { root.source_v6() == [0, 0] } else { root.source_v4.get() == 0 };
    if sourceless && !katran && !hop.is(Method::L2) {
        return Err(Outcome::NoSource);
    }
    let own = if memory.has(root, features::SEVERAL) { entry.from() } else { 0 };
    let from = if own != 0 { own } else { root.local_mac.get() };
    Ok(Way { root, real: entry, hop, addr: entry.addr(), from, katran, inner_v6, len: len as u32 })
}

/// A whole IP header of the EtherType's version follows.
#[inline(always)]
fn is_whole<P: Packet>(packet: &P, inner_v6: bool) -> bool {
    if inner_v6 {
        Ipv6::view(packet, Ethernet::LEN).is_some_and(|ip| ip.version_class_label.get() >> 28 == 6)
    } else {
        Ipv4::view(packet, Ethernet::LEN).is_some_and(|ip| (0x45..0x50).contains(&ip.version_ihl))
    }
}

#[inline(always)]
fn write<P: Packet>(packet: &mut P, way: &Way<'_>, random: impl FnOnce() -> u32) -> Option<()> {
    const AT_V4: usize = const { Ethernet::LEN + Ipv4::LEN };
    const AT_V6: usize = const { Ethernet::LEN + Ipv6::LEN };
    let hop = way.hop;
    if hop.is(Method::L2) {
        Ethernet::view_mut(packet, 0)?.emit(hop.mac(), way.from, ethertype(way.inner_v6));
        return Some(());
    }
    let is_ipip = hop.is(Method::Ipip);
    let has_udp = !is_ipip && !hop.is(Method::Gre);
    let between = if is_ipip { 0 } else { between(hop) };
    let port = if has_udp { source_port(way, random) } else { 0 };
    let len = way.len.wrapping_add(between as u32);
    let protocol = match (has_udp, is_ipip) {
        (true, _) => IPPROTO_UDP,
        (false, true) => inner_protocol(way),
        (false, false) => IPPROTO_GRE,
    };
    if hop.is_v6() {
        let wants_sum = has_udp && !way.katran;
        let sum = if wants_sum { inner_sum(packet, way.inner_v6).unwrap_or(NO_CHECKSUM) } else { NO_CHECKSUM };
        if !packet.grow_head(const { Ipv6::LEN }.wrapping_add(between)) {
            return None;
        }
        over_v6(packet, way, protocol, len)?;
        let pseudo = address_sum(way.root.source_v6()).wrapping_add(address_sum(way.addr));
        behind::<P, AT_V6>(packet, way, port, len, [sum, pseudo])
    } else {
        if !packet.grow_head(const { Ipv4::LEN }.wrapping_add(between)) {
            return None;
        }
        over_v4(packet, way, protocol, len)?;
        behind::<P, AT_V4>(packet, way, port, len, [NO_CHECKSUM, 0])
    }
}

/// Writes what is behind the outer IP header, `len` bytes of payload to it; `sums`: of the probe, and of the outer addresses.
#[inline(always)]
fn behind<P: Packet, const AT: usize>(
    packet: &mut P,
    way: &Way<'_>,
    port: u16,
    len: u32,
    [inner, pseudo]: [u64; 2],
) -> Option<()> {
    if way.hop.is(Method::Ipip) {
        return Some(());
    }
    if way.hop.is(Method::Gre) {
        return gre(packet, AT, way.inner_v6);
    }
    let own = own_header(packet, way.real, way.hop, way.inner_v6, way.from, const { AT + Udp::LEN })?;
    let to = if way.katran { way.root.gue_port.get() as u16 } else { way.real.port(way.inner_v6) };
    udp(packet, [port, to], AT, len, [inner, pseudo, own])
}

/// Katran writes 4 for any packet in IPv4.
#[inline(always)]
fn inner_protocol(way: &Way<'_>) -> u8 {
    let is_v6 = way.inner_v6 && (way.hop.is_v6() || !way.katran);
    if is_v6 { IPPROTO_IPV6 } else { IPPROTO_IPIP }
}

#[inline(always)]
fn over_v4<P: Packet>(packet: &mut P, way: &Way<'_>, protocol: u8, payload: u32) -> Option<()> {
    // Katran leaves the EtherType of an IPv6 probe as it was.
    let ethertype = if way.katran && way.inner_v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
    Ethernet::view_mut(packet, 0)?.emit(way.hop.mac(), way.from, ethertype);
    let [dst, _] = way.addr;
    let (src, dst) = (way.root.source_v4.get(), dst as u32);
    let ip = Ipv4::view_mut(packet, Ethernet::LEN)?;
    if way.katran {
        ip.emit(src, dst, 0, payload, protocol, 0);
    } else {
        ip.emit_outer(src, dst, 0, payload, protocol);
    }
    Some(())
}

#[inline(always)]
fn over_v6<P: Packet>(packet: &mut P, way: &Way<'_>, protocol: u8, payload: u32) -> Option<()> {
    Ethernet::view_mut(packet, 0)?.emit(way.hop.mac(), way.from, ETHERTYPE_IPV6);
    Ipv6::view_mut(packet, Ethernet::LEN)?.emit_outer(way.root.source_v6(), way.addr, 0, payload, protocol);
    Some(())
}

/// As on the wire. Katran stores the number as the machine has it.
#[inline(always)]
fn source_port(way: &Way<'_>, random: impl FnOnce() -> u32) -> u16 {
    let random = random() as u16;
    if way.katran { random | KATRAN_PORT } else { (random | DYNAMIC_PORT).to_be() }
}

/// What the probe sums up to once its transport checksum is right, whether or not it is filled in yet: its IP header, and the
/// complement of the pseudo header. `None` if that cannot be known: no TCP, UDP without a checksum, fragments, options. (RFC
/// 6935 section 5 allows tunnels over IPv6 to go without a checksum then.)
#[inline(always)]
fn inner_sum<P: Packet>(packet: &P, is_v6: bool) -> Option<u64> {
    let (at, protocol, header, pseudo) = if is_v6 {
        let ip = Ipv6::view(packet, Ethernet::LEN)?;
        let addresses = address_sum(ipv6_words(&ip.src)).wrapping_add(address_sum(ipv6_words(&ip.dst)));
        let header = checksum::sum(packet.bytes::<{ Ipv6::LEN }>(Ethernet::LEN)?);
        let pseudo = addresses.wrapping_add(length_and_protocol(ip.payload_len.get(), ip.next_header));
        (const { Ethernet::LEN + Ipv6::LEN }, ip.next_header, header, pseudo)
    } else {
        let ip = Ipv4::view(packet, Ethernet::LEN)?;
        if ip.version_ihl != 0x45 || ip.is_fragment() {
            return None;
        }
        let addresses = (u32::from_ne_bytes(ip.src) as u64).wrapping_add(u32::from_ne_bytes(ip.dst) as u64);
        let transport = ip.total_len.get().wrapping_sub(Ipv4::LEN as u16);
        let header = checksum::sum(packet.bytes::<{ Ipv4::LEN }>(Ethernet::LEN)?);
        let pseudo = addresses.wrapping_add(length_and_protocol(transport, ip.protocol));
        (const { Ethernet::LEN + Ipv4::LEN }, ip.protocol, header, pseudo)
    };
    let is_known = match protocol {
        IPPROTO_TCP => packet.bytes_anywhere::<{ Tcp::LEN }>(at).is_some(),
        IPPROTO_UDP => {
            let [.., a, b] = packet.bytes_anywhere::<{ Udp::LEN }>(at)?;
            *a != 0 || *b != 0
        }
        _ => false,
    };
    // The complement of a sum of 16 bits is the sum's negative.
    is_known.then(|| header.wrapping_add(checksum::finish(pseudo) as u64))
}

/// The last words of a pseudo header, as on the wire.
#[inline(always)]
fn length_and_protocol(length: u16, protocol: u8) -> u64 {
    (length.to_be() as u64).wrapping_add((protocol as u16).to_be() as u64)
}

/// The next state of the generator that replays take their random numbers from, and the number: SplitMix64 (Steele, Lea and
/// Flood, 2014).
#[inline(always)]
pub const fn next_random(state: u64) -> (u64, u32) {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = state;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (state, (z ^ z >> 31) as u32)
}

macro_rules! outcomes {
    ($($variant:ident, $name:literal, $action:ident, $meaning:literal;)*) => {
        /// What becomes of a frame in the `health_encap` program. The discriminant is the index of its counter: each frame
        /// moves exactly one.
        #[must_use]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u32)]
        pub enum Outcome {
            $(#[doc = $meaning] $variant,)*
        }

        impl Outcome {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The counter's name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it does to the frame; `Tx` is a redirection to the interface's egress.
            pub const fn action(self) -> Action {
                match self { $(Self::$variant => Action::$action,)* }
            }

            /// What it means, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

outcomes! {
    Processed, "processed", Tx, "Encapsulated and sent towards the real of its mark.";
    Skipped, "skipped", Pass, "No mark, a mark that is no probe's, a real behind NAT, or no IP packet; unchanged.";
    TooBig, "too-big", Drop, "A probe that is larger than tunnel.max_frame.";
    NoReal, "no-real", Drop, "The mark's id names no real. Always 0.";
    NoNextHop, "no-next-hop", Drop, "The MAC of the real's next hop is not known.";
    NoSource, "no-source", Drop, "No source address of the real's family is known.";
    NoRoom, "dropped", Drop, "The frame cannot be encapsulated: no memory for the outer header, or (profile katran) no IP packet.";
}

/// How many counters the `health_encap` program has.
pub const COUNTERS: u32 = Outcome::ALL.len() as u32;
