//! Takes outer headers off: those of every tunnel that is put on here, each with both families inside both.
//!
//! [`find`] only reads, [`Tunnel::strip`] only removes; [`decapsulate`] is the whole of the `decap` program of real servers,
//! in both seats. None of them decrements a TTL: that is for whoever forwards the inner packet.
//!
//! Outer checksums and lengths are not checked: the stack, or whoever gets the inner packet, checks that one's own.

use crate::encap::{GENEVE, GENEVE_ETHERNET, SHORT};
use crate::packet::Packet;
use crate::verdict::Action;
use crate::vlan;
use crate::wire::{
    ETHERTYPE_ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, Ethernet, Header, IPPROTO_FRAGMENT, IPPROTO_GRE,
    IPPROTO_IPIP, IPPROTO_IPV6, IPPROTO_UDP, Ipv4, Ipv6, Udp,
};

/// Which tunnels are opened, and by whose rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunnels {
    /// IP protocols 4 and 41.
    pub ipip: bool,
    /// IP protocol 47.
    pub gre: bool,
    /// UDP destination port of GUE, in host order; 0: none. Both versions, but for Katran, which only knows 1.
    pub gue_port: u16,
    /// UDP destination ports of FOU with IPv4 inside, and with IPv6 inside; 0: none.
    pub fou_ports: [u16; 2],
    /// UDP destination port of Geneve; 0: none.
    pub geneve_port: u16,
    /// Katran's rules: IPv4 options and fragments are dropped, nothing about the inner packet is checked, and IPv4 outer
    /// headers are taken for those of its usual inner family.
    pub katran: bool,
}

/// A tunnel's outer headers, found but not yet taken off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunnel {
    /// The outer header is IPv6.
    pub outer_v6: bool,
    /// The inner packet is IPv6.
    pub inner_v6: bool,
    /// Its kind.
    pub kind: Kind,
    header_len: u8,
}

impl Tunnels {
    /// All of them, at the ports that are used where nobody says others: IANA's for GUE and Geneve, for FOU those of
    /// `ip-fou(8)`.
    pub const fn standard() -> Self {
        Self { ipip: true, gre: true, gue_port: 6080, fou_ports: [5555, 5556], geneve_port: 6081, katran: false }
    }

    /// Those that Katran opens, by its rules.
    pub const fn katran() -> Self {
        Self { ipip: true, gre: false, gue_port: 6080, fou_ports: [0, 0], geneve_port: 0, katran: true }
    }

    /// Whether any of them has UDP.
    #[inline(always)]
    fn any_udp(&self) -> bool {
        let [v4, v6] = self.fou_ports;
        self.gue_port != 0 || v4 != 0 || v6 != 0 || self.geneve_port != 0
    }

    /// Whether any of them has this UDP destination port.
    #[inline(always)]
    fn has_port(&self, port: u16) -> bool {
        let [v4, v6] = self.fou_ports;
        port != 0 && (port == self.gue_port || port == v4 || port == v6 || port == self.geneve_port)
    }
}

/// The kind of a tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// IP in IP.
    Ipip,
    /// GRE.
    Gre,
    /// FOU.
    Fou,
    /// GUE, either version.
    Gue,
    /// Geneve, with IP or Ethernet inside.
    Geneve,
}

impl Tunnel {
    /// Bytes between the Ethernet header and the inner packet: 20 to 70.
    #[inline(always)]
    pub const fn header_len(&self) -> usize {
        self.header_len as usize
    }

    /// Whether a whole IP header follows the outer headers; only Katran's rules find a tunnel where none does.
    #[inline(always)]
    pub fn is_whole<P: Packet>(&self, packet: &P) -> bool {
        let at = const { Ethernet::LEN }.wrapping_add(self.header_len());
        if self.inner_v6 { Ipv6::view(packet, at).is_some() } else { Ipv4::view(packet, at).is_some() }
    }

    /// Takes the outer headers off; the MACs stay. `false`: less than an Ethernet header would be left, or the room in front
    /// of the frame cannot take it, and nothing changed.
    #[inline(always)]
    pub fn strip<P: Packet>(&self, packet: &mut P) -> bool {
        let Some(&Ethernet { macs, .. }) = Ethernet::view(packet, 0) else { return false };
        if !packet.shrink_head(self.header_len()) {
            return false;
        }
        let Some(eth) = Ethernet::view_mut(packet, 0) else { return false };
        eth.macs = macs;
        eth.ethertype = (if self.inner_v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 }).into();
        true
    }
}

const IPIP_V4: usize = Ipv4::LEN;
const IPIP_V6: usize = Ipv6::LEN;

/// What a frame is carried in, or why it stays as it is.
///
/// # Errors
/// What becomes of the frame instead: any [`Outcome`] but `Decapsulated` and `DecapFailed`.
#[inline(always)]
pub fn find<P: Packet>(packet: &P, tunnels: &Tunnels) -> Result<Tunnel, Outcome> {
    let eth = Ethernet::view(packet, 0).ok_or(Outcome::NotATunnel)?;
    match eth.ethertype.get() {
        ETHERTYPE_IPV4 => in_ipv4(packet, tunnels),
        ETHERTYPE_IPV6 => in_ipv6(packet, tunnels),
        _ => Err(Outcome::NotATunnel),
    }
}

/// What a frame looks like at first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Looks {
    /// No tunnel by any of the rules of [`find`].
    Usual,
    /// It can be IPIP, or GUE.
    Tunnel,
    /// It has no IP header, at least not without a tag.
    NotIp,
}

/// Whether a frame can be IPIP, or GUE to this port (as on the wire).
#[inline(always)]
pub(crate) fn looks<P: Packet>(packet: &P, gue_port: u16) -> Looks {
    let Some(eth) = Ethernet::view(packet, 0) else { return Looks::NotIp };
    let may_be = match eth.ethertype.get() {
        ETHERTYPE_IPV4 => match Ipv4::view(packet, Ethernet::LEN) {
            Some(ip) => may_carry::<P, { Ethernet::LEN + Ipv4::LEN }>(packet, ip.protocol, gue_port),
            None => false,
        },
        ETHERTYPE_IPV6 => match Ipv6::view(packet, Ethernet::LEN) {
            Some(ip) => may_carry::<P, { Ethernet::LEN + Ipv6::LEN }>(packet, ip.next_header, gue_port),
            None => false,
        },
        _ => return Looks::NotIp,
    };
    if may_be { Looks::Tunnel } else { Looks::Usual }
}

/// `AT`: where UDP is behind an IP header without options, as all tunnels have.
#[inline(always)]
fn may_carry<P: Packet, const AT: usize>(packet: &P, protocol: u8, gue_port: u16) -> bool {
    match protocol {
        IPPROTO_IPIP | IPPROTO_IPV6 => true,
        IPPROTO_UDP => packet.bytes::<4>(AT).is_some_and(|[_, _, a, b]| u16::from_ne_bytes([*a, *b]) == gue_port),
        _ => false,
    }
}

#[inline(always)]
fn in_ipv4<P: Packet>(packet: &P, tunnels: &Tunnels) -> Result<Tunnel, Outcome> {
    let ip = Ipv4::view(packet, Ethernet::LEN).ok_or(truncated(tunnels))?;
    if tunnels.katran {
        if ip.version_ihl & 0xf != 5 {
            return Err(Outcome::Ipv4OptionsDropped);
        }
        if ip.is_fragment() {
            return Err(Outcome::FragmentDropped);
        }
    } else if ip.version_ihl != 0x45 || ip.is_fragment() {
        return Err(unusual(packet, tunnels, ip));
    }
    match ip.protocol {
        IPPROTO_IPIP if tunnels.ipip => inner(packet, tunnels, false, false, IPIP_V4),
        // Katran takes the header before an IPv6 packet for an IPv6 one.
        IPPROTO_IPV6 if tunnels.ipip && tunnels.katran => inner(packet, tunnels, false, true, IPIP_V6),
        IPPROTO_IPV6 if tunnels.ipip => inner(packet, tunnels, false, true, IPIP_V4),
        IPPROTO_GRE if tunnels.gre => gre(packet, tunnels, false),
        IPPROTO_UDP if tunnels.any_udp() => in_udp(packet, tunnels, false),
        _ => Err(Outcome::NotATunnel),
    }
}

#[inline(always)]
fn in_ipv6<P: Packet>(packet: &P, tunnels: &Tunnels) -> Result<Tunnel, Outcome> {
    let ip = Ipv6::view(packet, Ethernet::LEN).ok_or(truncated(tunnels))?;
    if !tunnels.katran && ip.version_class_label.get() >> 28 != 6 {
        return Err(Outcome::NotATunnel);
    }
    match ip.next_header {
        IPPROTO_IPIP if tunnels.ipip => inner(packet, tunnels, true, false, IPIP_V6),
        IPPROTO_IPV6 if tunnels.ipip => inner(packet, tunnels, true, true, IPIP_V6),
        IPPROTO_GRE if tunnels.gre => gre(packet, tunnels, true),
        IPPROTO_UDP if tunnels.any_udp() => in_udp(packet, tunnels, true),
        IPPROTO_FRAGMENT if tunnels.katran => Err(Outcome::FragmentDropped),
        _ => Err(Outcome::NotATunnel),
    }
}

/// IPv4 with options, or a fragment, or no IPv4 at all: the host's own business, counted where it is a tunnel's.
#[inline(always)]
fn unusual<P: Packet>(packet: &P, tunnels: &Tunnels, ip: &Ipv4) -> Outcome {
    if !(0x45..0x50).contains(&ip.version_ihl) {
        return Outcome::NotATunnel;
    }
    let bare =
        tunnels.ipip && (ip.protocol == IPPROTO_IPIP || ip.protocol == IPPROTO_IPV6) || tunnels.gre && ip.protocol == IPPROTO_GRE;
    if ip.is_fragment() {
        return if bare { Outcome::TunnelFragment } else { Outcome::NotATunnel };
    }
    let words = (ip.version_ihl & 0xf) as usize;
    let at = const { Ethernet::LEN }.wrapping_add(words.wrapping_mul(4));
    let in_udp = ip.protocol == IPPROTO_UDP && Udp::view(packet, at).is_some_and(|udp| tunnels.has_port(destination(udp)));
    if bare || in_udp { Outcome::TunnelOptions } else { Outcome::NotATunnel }
}

/// GRE without checksum, key or sequence number, and with an IP packet.
#[inline(always)]
fn gre<P: Packet>(packet: &P, tunnels: &Tunnels, outer_v6: bool) -> Result<Tunnel, Outcome> {
    let at = const { Ethernet::LEN }.wrapping_add(if outer_v6 { Ipv6::LEN } else { Ipv4::LEN });
    let &[flags, version, a, b] = packet.bytes::<SHORT>(at).ok_or(truncated(tunnels))?;
    if flags != 0 || version != 0 {
        return Err(Outcome::TunnelOptions);
    }
    let inner_v6 = family(u16::from_be_bytes([a, b])).ok_or(Outcome::NotATunnel)?;
    let tunnel = inner(packet, tunnels, outer_v6, inner_v6, headers(outer_v6, SHORT))?;
    Ok(Tunnel { kind: Kind::Gre, ..tunnel })
}

#[inline(always)]
fn in_udp<P: Packet>(packet: &P, tunnels: &Tunnels, outer_v6: bool) -> Result<Tunnel, Outcome> {
    let at = const { Ethernet::LEN }.wrapping_add(if outer_v6 { Ipv6::LEN } else { Ipv4::LEN });
    let udp = Udp::view(packet, at).ok_or(truncated(tunnels))?;
    let (port, [fou_v4, fou_v6]) = (destination(udp), tunnels.fou_ports);
    if !tunnels.has_port(port) {
        return Err(Outcome::NotATunnel);
    }
    let at = at.wrapping_add(Udp::LEN);
    let (kind, tunnel) = if port == tunnels.gue_port {
        (Kind::Gue, gue(packet, tunnels, outer_v6, at)?)
    } else if port == tunnels.geneve_port {
        (Kind::Geneve, geneve(packet, tunnels, outer_v6, at)?)
    } else if port == fou_v4 || port == fou_v6 {
        (Kind::Fou, inner(packet, tunnels, outer_v6, port != fou_v4, headers(outer_v6, Udp::LEN))?)
    } else {
        return Err(Outcome::NotATunnel);
    };
    Ok(Tunnel { kind, ..tunnel })
}

/// Behind UDP: an IP packet (version 1), or a header without optional fields (version 0).
#[inline(always)]
fn gue<P: Packet>(packet: &P, tunnels: &Tunnels, outer_v6: bool, at: usize) -> Result<Tunnel, Outcome> {
    let first = match packet.bytes::<1>(at) {
        Some([first]) => *first,
        // Katran asks where the tunnel leads before it looks into it.
        None if tunnels.katran => 0,
        None => return Err(Outcome::MalformedTunnel),
    };
    if !tunnels.katran && first >> 6 == 0 {
        let &[first, protocol, flags, more] = packet.bytes::<SHORT>(at).ok_or(Outcome::MalformedTunnel)?;
        if first != 0 || flags != 0 || more != 0 {
            return Err(Outcome::TunnelOptions);
        }
        let inner_v6 = match protocol {
            IPPROTO_IPIP => false,
            IPPROTO_IPV6 => true,
            _ => return Err(Outcome::NotATunnel),
        };
        return inner(packet, tunnels, outer_v6, inner_v6, headers(outer_v6, const { Udp::LEN + SHORT }));
    }
    let inner_v6 = if tunnels.katran { outer_v6 && first & 0x30 != 0 } else { first >> 4 == 6 };
    inner(packet, tunnels, outer_v6, inner_v6, headers(outer_v6, Udp::LEN))
}

/// Behind UDP: eight bytes, then an IP packet or an Ethernet frame with one.
#[inline(always)]
fn geneve<P: Packet>(packet: &P, tunnels: &Tunnels, outer_v6: bool, at: usize) -> Result<Tunnel, Outcome> {
    let &[options, flags, a, b, ..] = packet.bytes::<GENEVE>(at).ok_or(Outcome::MalformedTunnel)?;
    if options != 0 || flags != 0 {
        return Err(Outcome::TunnelOptions);
    }
    let ethertype = u16::from_be_bytes([a, b]);
    if ethertype != ETHERTYPE_ETHERNET {
        let inner_v6 = family(ethertype).ok_or(Outcome::NotATunnel)?;
        return inner(packet, tunnels, outer_v6, inner_v6, headers(outer_v6, const { Udp::LEN + GENEVE }));
    }
    let eth = Ethernet::view(packet, at.wrapping_add(GENEVE)).ok_or(Outcome::MalformedTunnel)?;
    let inner_v6 = family(eth.ethertype.get()).ok_or(Outcome::NotATunnel)?;
    inner(packet, tunnels, outer_v6, inner_v6, headers(outer_v6, const { Udp::LEN + GENEVE_ETHERNET }))
}

/// Whether an EtherType is IPv6; `None`: not IP.
#[inline(always)]
fn family(ethertype: u16) -> Option<bool> {
    match ethertype {
        ETHERTYPE_IPV4 => Some(false),
        ETHERTYPE_IPV6 => Some(true),
        _ => None,
    }
}

/// Bytes of an outer IP header and of what follows it.
#[inline(always)]
fn headers(outer_v6: bool, more: usize) -> usize {
    (if outer_v6 { Ipv6::LEN } else { Ipv4::LEN }).wrapping_add(more)
}

#[inline(always)]
fn destination(udp: &Udp) -> u16 {
    let [_, _, high, low] = udp.ports;
    u16::from_be_bytes([high, low])
}

/// The tunnel, if a whole IP header of the right version follows.
#[inline(always)]
fn inner<P: Packet>(packet: &P, tunnels: &Tunnels, outer_v6: bool, inner_v6: bool, header_len: usize) -> Result<Tunnel, Outcome> {
    let at = const { Ethernet::LEN }.wrapping_add(header_len);
    let sane = tunnels.katran
        || if inner_v6 {
            Ipv6::view(packet, at).is_some_and(|ip| ip.version_class_label.get() >> 28 == 6)
        } else {
            Ipv4::view(packet, at).is_some_and(|ip| (0x45..0x50).contains(&ip.version_ihl))
        };
    if !sane {
        return Err(Outcome::MalformedTunnel);
    }
    Ok(Tunnel { outer_v6, inner_v6, kind: Kind::Ipip, header_len: header_len as u8 })
}

#[inline(always)]
const fn truncated(tunnels: &Tunnels) -> Outcome {
    if tunnels.katran { Outcome::TruncatedDropped } else { Outcome::NotATunnel }
}

/// Strips what is found. `count` is told the [`counter_names`]' indices of the outcome, and of the kinds of what was stripped.
#[inline(always)]
pub fn decapsulate<P: Packet>(packet: &mut P, tunnels: &Tunnels, mut count: impl FnMut(u32)) -> Outcome {
    count(Extra::Total.index());
    let outcome = strip_behind_tag(packet, tunnels, &mut count);
    count(outcome as u32);
    outcome
}

/// A VLAN tag is taken off before, and put on again. Katran knows none.
#[inline(always)]
fn strip_behind_tag<P: Packet>(packet: &mut P, tunnels: &Tunnels, count: &mut impl FnMut(u32)) -> Outcome {
    let is_tagged = !tunnels.katran && Ethernet::view(packet, 0).is_some_and(|eth| eth.ethertype.get() == ETHERTYPE_VLAN);
    let tag = if is_tagged { packet.take_tag() } else { 0 };
    let outcome = strip_found(packet, tunnels, count);
    if tag & vlan::PRESENT != 0 && outcome.action() != Action::Drop && !packet.put_tag(tag) {
        return Outcome::DecapFailed;
    }
    outcome
}

#[inline(always)]
fn strip_found<P: Packet>(packet: &mut P, tunnels: &Tunnels, count: &mut impl FnMut(u32)) -> Outcome {
    match find(packet, tunnels) {
        Ok(tunnel) if !tunnel.is_whole(packet) => Outcome::TruncatedDropped,
        Ok(tunnel) if tunnel.strip(packet) => {
            count(if tunnel.outer_v6 { Extra::OuterV6 } else { Extra::OuterV4 }.index());
            count(if tunnel.inner_v6 { Extra::InnerV6 } else { Extra::InnerV4 }.index());
            match tunnel.kind {
                Kind::Ipip => {}
                Kind::Gue => count(Extra::Gue.index()),
                Kind::Gre => count(Extra::Gre.index()),
                Kind::Fou => count(Extra::Fou.index()),
                Kind::Geneve => count(Extra::Geneve.index()),
            }
            Outcome::Decapsulated
        }
        Ok(_) => Outcome::DecapFailed,
        Err(outcome) => outcome,
    }
}

macro_rules! outcomes {
    ($($variant:ident, $name:literal, $action:ident, $meaning:literal;)*) => {
        /// What becomes of a frame in the `decap` program. The discriminant is the index of its counter: each frame moves
        /// exactly one of these.
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

            /// What it does to the frame.
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
    Decapsulated, "decapsulated", Pass, "The outer headers were taken off.";
    NotATunnel, "not-a-tunnel", Pass, "No tunnel that is opened here: the host's own business, unchanged.";
    TunnelOptions, "tunnel-options", Pass, "The outer IPv4 header or the tunnel's own has options or fields that are not opened; unchanged.";
    TunnelFragment, "tunnel-fragment", Pass, "A fragment of an outer IPv4 packet of IPIP or GRE; unchanged.";
    MalformedTunnel, "malformed-tunnel", Pass, "No complete IP header of the right version follows the outer headers; unchanged.";
    Ipv4OptionsDropped, "ipv4-options-dropped", Drop, "Profile katran: an IPv4 header that is not of 20 bytes.";
    FragmentDropped, "fragment-dropped", Drop, "Profile katran: an IP fragment.";
    TruncatedDropped, "truncated-dropped", Drop, "Profile katran: the frame ends inside a header that had to be read.";
    DecapFailed, "decap-failed", Drop, "The outer headers could not be taken off: too little would be left of the frame.";
}

macro_rules! extras {
    ($($variant:ident, $name:literal, $meaning:literal;)*) => {
        /// What is counted beside the outcomes.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        pub enum Extra {
            $(#[doc = $meaning] $variant,)*
        }

        impl Extra {
            /// All of them, in the order of their counters, which follow those of the outcomes.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The counter's name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it means, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

extras! {
    Total, "total", "Frames seen.";
    OuterV4, "v4", "Stripped, the outer header was IPv4.";
    OuterV6, "v6", "Stripped, the outer header was IPv6.";
    InnerV4, "inner-v4", "Stripped, an IPv4 packet was inside.";
    InnerV6, "inner-v6", "Stripped, an IPv6 packet was inside.";
    Gue, "gue", "Stripped, it was GUE.";
    Gre, "gre", "Stripped, it was GRE.";
    Fou, "fou", "Stripped, it was FOU.";
    Geneve, "geneve", "Stripped, it was Geneve.";
}

impl Extra {
    #[inline(always)]
    const fn index(self) -> u32 {
        (Outcome::ALL.len() as u32).wrapping_add(self as u32)
    }
}

/// How many counters the `decap` program has.
pub const COUNTERS: u32 = const { (Outcome::ALL.len() + Extra::ALL.len()) as u32 };

/// Their names, in the order of their indices.
pub fn counter_names() -> impl Iterator<Item = &'static str> {
    Outcome::ALL.iter().map(|outcome| outcome.name()).chain(Extra::ALL.iter().map(|extra| extra.name()))
}
