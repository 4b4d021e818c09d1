//! Takes outer headers off: IPIP (4in4, 6in4, 4in6, 6in6) and GUE version 1 (UDP directly followed by the IP packet).
//!
//! [`find`] only reads, [`Tunnel::strip`] only removes; [`decapsulate`] is the whole of the `decap` program of real servers,
//! in both seats. None of them decrements a TTL: that is for whoever forwards the inner packet.
//!
//! Outer checksums and lengths are not checked: the stack, or whoever gets the inner packet, checks that one's own.

use crate::packet::Packet;
use crate::verdict::Action;
use crate::wire::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Header, IPPROTO_FRAGMENT, IPPROTO_IPIP, IPPROTO_IPV6, IPPROTO_UDP, Ipv4, Ipv6, Udp,
};

/// Which tunnels are opened, and by whose rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunnels {
    /// IP protocols 4 and 41.
    pub ipip: bool,
    /// UDP destination port of GUE, in host order; 0: none.
    pub gue_port: u16,
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
    /// GUE, not IPIP.
    pub gue: bool,
    header_len: u8,
}

impl Tunnel {
    /// Bytes between the Ethernet header and the inner packet: 20, 28, 40 or 48.
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
        let shorter = match self.header_len() {
            IPIP_V4 => packet.shrink_head::<IPIP_V4>(),
            GUE_V4 => packet.shrink_head::<GUE_V4>(),
            IPIP_V6 => packet.shrink_head::<IPIP_V6>(),
            GUE_V6 => packet.shrink_head::<GUE_V6>(),
            _ => false,
        };
        if !shorter {
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
const GUE_V4: usize = const { Ipv4::LEN + Udp::LEN };
const GUE_V6: usize = const { Ipv6::LEN + Udp::LEN };

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
        IPPROTO_UDP if tunnels.gue_port != 0 => gue(packet, tunnels, false),
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
        IPPROTO_UDP if tunnels.gue_port != 0 => gue(packet, tunnels, true),
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
    let ipip = tunnels.ipip && (ip.protocol == IPPROTO_IPIP || ip.protocol == IPPROTO_IPV6);
    if ip.is_fragment() {
        return if ipip { Outcome::TunnelFragment } else { Outcome::NotATunnel };
    }
    let words = (ip.version_ihl & 0xf) as usize;
    let at = const { Ethernet::LEN }.wrapping_add(words.wrapping_mul(4));
    let gue = ip.protocol == IPPROTO_UDP && Udp::view(packet, at).is_some_and(|udp| leads_to(udp, tunnels.gue_port));
    if ipip || gue { Outcome::TunnelOptions } else { Outcome::NotATunnel }
}

#[inline(always)]
fn gue<P: Packet>(packet: &P, tunnels: &Tunnels, outer_v6: bool) -> Result<Tunnel, Outcome> {
    let (ip_len, header_len) = if outer_v6 { (Ipv6::LEN, GUE_V6) } else { (Ipv4::LEN, GUE_V4) };
    let udp = Udp::view(packet, const { Ethernet::LEN }.wrapping_add(ip_len)).ok_or(truncated(tunnels))?;
    if !leads_to(udp, tunnels.gue_port) {
        return Err(Outcome::NotATunnel);
    }
    let first = match packet.bytes::<1>(const { Ethernet::LEN }.wrapping_add(header_len)) {
        Some([first]) => *first,
        // Katran asks where the tunnel leads before it looks into it.
        None if tunnels.katran => 0,
        None => return Err(Outcome::MalformedTunnel),
    };
    let inner_v6 = if tunnels.katran { outer_v6 && first & 0x30 != 0 } else { first >> 4 == 6 };
    let mut tunnel = inner(packet, tunnels, outer_v6, inner_v6, header_len)?;
    tunnel.gue = true;
    Ok(tunnel)
}

/// The port is not 0 unless no tunnel has it.
#[inline(always)]
fn leads_to(udp: &Udp, gue_port: u16) -> bool {
    let [_, _, high, low] = udp.ports;
    gue_port != 0 && u16::from_be_bytes([high, low]) == gue_port
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
    Ok(Tunnel { outer_v6, inner_v6, gue: false, header_len: header_len as u8 })
}

#[inline(always)]
const fn truncated(tunnels: &Tunnels) -> Outcome {
    if tunnels.katran { Outcome::TruncatedDropped } else { Outcome::NotATunnel }
}

/// Strips what is found. `count` is told the [`counter_names`]' indices of the outcome, and of the kinds of what was stripped.
#[inline(always)]
pub fn decapsulate<P: Packet>(packet: &mut P, tunnels: &Tunnels, mut count: impl FnMut(u32)) -> Outcome {
    count(Kind::Total.index());
    let outcome = match find(packet, tunnels) {
        Ok(tunnel) if !tunnel.is_whole(packet) => Outcome::TruncatedDropped,
        Ok(tunnel) if tunnel.strip(packet) => {
            count(if tunnel.outer_v6 { Kind::OuterV6 } else { Kind::OuterV4 }.index());
            count(if tunnel.inner_v6 { Kind::InnerV6 } else { Kind::InnerV4 }.index());
            if tunnel.gue {
                count(Kind::Gue.index());
            }
            Outcome::Decapsulated
        }
        Ok(_) => Outcome::DecapFailed,
        Err(outcome) => outcome,
    };
    count(outcome as u32);
    outcome
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
    TunnelOptions, "tunnel-options", Pass, "The outer IPv4 header has options; unchanged.";
    TunnelFragment, "tunnel-fragment", Pass, "A fragment of an outer IPv4 packet of IPIP; unchanged.";
    MalformedTunnel, "malformed-tunnel", Pass, "No complete IP header of the right version follows the outer headers; unchanged.";
    Ipv4OptionsDropped, "ipv4-options-dropped", Drop, "Profile katran: an IPv4 header that is not of 20 bytes.";
    FragmentDropped, "fragment-dropped", Drop, "Profile katran: an IP fragment.";
    TruncatedDropped, "truncated-dropped", Drop, "Profile katran: the frame ends inside a header that had to be read.";
    DecapFailed, "decap-failed", Drop, "The outer headers could not be taken off: too little would be left of the frame.";
}

macro_rules! kinds {
    ($($variant:ident, $name:literal, $meaning:literal;)*) => {
        /// What is counted beside the outcomes.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        pub enum Kind {
            $(#[doc = $meaning] $variant,)*
        }

        impl Kind {
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

kinds! {
    Total, "total", "Frames seen.";
    OuterV4, "v4", "Stripped, the outer header was IPv4.";
    OuterV6, "v6", "Stripped, the outer header was IPv6.";
    InnerV4, "inner-v4", "Stripped, an IPv4 packet was inside.";
    InnerV6, "inner-v6", "Stripped, an IPv6 packet was inside.";
    Gue, "gue", "Stripped, it was GUE.";
}

impl Kind {
    #[inline(always)]
    const fn index(self) -> u32 {
        (Outcome::ALL.len() as u32).wrapping_add(self as u32)
    }
}

/// How many counters the `decap` program has.
pub const COUNTERS: u32 = const { (Outcome::ALL.len() + Kind::ALL.len()) as u32 };

/// Their names, in the order of their indices.
pub fn counter_names() -> impl Iterator<Item = &'static str> {
    Outcome::ALL.iter().map(|outcome| outcome.name()).chain(Kind::ALL.iter().map(|kind| kind.name()))
}
