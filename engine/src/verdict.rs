//! What becomes of a frame, and why. Both enums are closed: every backend turns them into actions by one exhaustive match.

use core::num::NonZeroU32;

/// How the real of a forwarded frame was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum From {
    /// The flow table knew it.
    Flow = 0,
    /// The VIP's ring.
    Ring = 1,
    /// A server id that the packet carries.
    ServerId = 2,
    /// The client's network.
    SourceRoute = 3,
}

impl From {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Flow, Self::Ring, Self::ServerId, Self::SourceRoute];

    /// The name in `replay`'s verdicts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flow => "flow",
            Self::Ring => "ring",
            Self::ServerId => "server-id",
            Self::SourceRoute => "source-route",
        }
    }
}

/// A VIP id that is nobody's: a fragment's, whose VIP only its real tells.
pub const NO_VIP: u32 = u32::MAX;

/// What becomes of a frame, why, and who gets it. Every field always has a value: an enum would leave some of them undefined
/// where a frame is stopped, LLVM would carry them along, and the verifier refuses registers that nobody wrote.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    what: Stop,
    /// The VIP's id; [`NO_VIP`] if it is not known, or the frame was stopped.
    pub vip: u32,
    /// The real's id; 0: the frame was stopped.
    pub real: u32,
    /// Bytes of the client's IP packet; 0 if the frame was stopped.
    pub bytes: u32,
    /// Who chose the real, if one was chosen.
    pub from: From,
}

/// Why a frame goes no further, and what becomes of it. One number that is not 0, so that a result of it is one number, too:
/// what a BPF function returns is in one register, and LLVM finds no undefined halves to put pointers in.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stop(NonZeroU32);

impl Stop {
    /// Stripped, and to be looked at again from its start.
    pub const AGAIN: Self = Self::encode(Reason::Decapsulated, AGAIN);

    /// Nothing is done yet: an unusual frame on the way of the usual ones ([`crate::plain()`]).
    pub const ASIDE: Self = Self::encode(Reason::NotConfigured, ASIDE);

    /// Stops a frame for this reason.
    #[inline(always)]
    pub const fn of(reason: Reason) -> Self {
        Self::encode(reason, 0)
    }

    /// Whether the frame has to take the other way.
    #[inline(always)]
    pub const fn is_aside(self) -> bool {
        self.number() == Self::ASIDE.number()
    }

    /// One number, 0 for none: what a function of the kernel program returns.
    #[inline(always)]
    pub const fn raw(stop: Option<Self>) -> u32 {
        match stop {
            Some(stop) => stop.0.get(),
            None => 0,
        }
    }

    /// The way back.
    #[inline(always)]
    pub const fn of_raw(raw: u32) -> Option<Self> {
        match NonZeroU32::new(raw) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    #[inline(always)]
    const fn encode(reason: Reason, more: u32) -> Self {
        let action = reason.action() as u32;
        // The addition cannot wrap, and makes it not 0.
        match NonZeroU32::new((more | action << ACTION_SHIFT | reason as u32).wrapping_add(1)) {
            Some(number) => Self(number),
            None => Self(NonZeroU32::MAX),
        }
    }

    #[inline(always)]
    const fn number(self) -> u32 {
        self.0.get().wrapping_sub(1)
    }

    /// The index of the reason's counter.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.number() & 0xff
    }

    /// What becomes of the frame.
    #[inline(always)]
    pub const fn action(self) -> Action {
        match self.number() >> ACTION_SHIFT & 3 {
            0 => Action::Tx,
            1 => Action::Pass,
            _ => Action::Drop,
        }
    }
}

#[cfg(not(target_arch = "bpf"))]
impl Stop {
    /// Why.
    pub fn reason(self) -> Reason {
        Reason::from_index(self.index()).unwrap_or(Reason::NotConfigured)
    }
}

const ACTION_SHIFT: u32 = 8;
const AGAIN: u32 = 1 << 16;
const ASIDE: u32 = 1 << 17;

impl Verdict {
    /// Goes to a real: encapsulated ([`Reason::Forwarded`]), or unchanged to this host, which is the real
    /// ([`Reason::LocalDelivery`]).
    #[inline(always)]
    pub(crate) const fn chosen(local: bool, vip: u32, real: u32, bytes: u32, from: From) -> Self {
        let what = if local { Stop::of(Reason::LocalDelivery) } else { Stop::of(Reason::Forwarded) };
        Self { what, vip, real, bytes, from }
    }

    /// Goes to a real, encapsulated: for programs with a choice of their own.
    #[inline(always)]
    pub const fn forward(vip: u32, real: u32, bytes: u32, from: From) -> Self {
        Self::chosen(false, vip, real, bytes, from)
    }

    /// Goes no further.
    #[inline(always)]
    pub const fn stopped(stop: Stop) -> Self {
        Self { what: stop, vip: NO_VIP, real: 0, bytes: 0, from: From::Flow }
    }

    /// Goes no further for this reason.
    #[inline(always)]
    pub const fn stop(reason: Reason) -> Self {
        Self::stopped(Stop::of(reason))
    }

    /// Sent to a real, encapsulated.
    #[inline(always)]
    pub const fn is_forwarded(&self) -> bool {
        self.index() == Reason::Forwarded as u32
    }

    /// Sent back to a client.
    #[inline(always)]
    pub const fn is_reply(&self) -> bool {
        self.index() == Reason::NatReply as u32
    }

    /// Stripped of a tunnel, and to be looked at again from its start.
    #[inline(always)]
    pub const fn is_again(&self) -> bool {
        self.what.number() == Stop::AGAIN.number()
    }

    /// The index of the reason's counter, which moved.
    #[inline(always)]
    pub const fn index(&self) -> u32 {
        self.what.index()
    }

    /// What becomes of the frame.
    #[inline(always)]
    pub const fn action(&self) -> Action {
        self.what.action()
    }
}

#[cfg(not(target_arch = "bpf"))]
impl Verdict {
    /// Why; the counter that moved.
    pub fn reason(&self) -> Reason {
        self.what.reason()
    }
}

/// What a reason does to its frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Action {
    /// Sent on, or back.
    Tx = 0,
    /// Given to the host.
    Pass = 1,
    /// Dropped.
    Drop = 2,
}

impl Action {
    /// The name in `replay`'s verdicts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tx => "tx",
            Self::Pass => "pass",
            Self::Drop => "drop",
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $action:ident, $meaning:literal;)*) => {
        /// Why a frame met its verdict. The discriminant is the index of the counter: each frame moves exactly one.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u32)]
        pub enum Reason {
            $(#[doc = $meaning] $variant,)*
        }

        impl Reason {
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

reasons! {
    Forwarded, "forwarded", Tx, "Encapsulated and sent towards a real.";
    NotConfigured, "not-configured", Pass, "The tables are empty or of another layout.";
    NotIp, "not-ip", Pass, "Neither IPv4 nor IPv6, with or without a VLAN tag: ARP and the like. Profile katran: every tagged frame.";
    TruncatedIp, "truncated-ip", Pass, "The frame ends inside the IP header, or inside a VLAN tag.";
    MalformedIp, "malformed-ip", Pass, "The version is not the EtherType's, or the IPv4 header length is below 20 bytes.";
    ExtensionHeaders, "extension-headers", Pass, "More IPv6 extension headers than are walked, or a malformed one.";
    Fragment, "fragment", Pass, "An IP fragment to an address without VIPs.";
    NotTcpUdp, "not-tcp-udp", Pass, "Neither TCP, UDP nor ICMP follows the IP header.";
    TruncatedL4, "truncated-l4", Pass, "The frame ends inside the TCP or UDP header.";
    NotAVip, "not-a-vip", Pass, "Destination address, port and protocol are no VIP's.";
    FrameTooShort, "frame-too-short", Drop, "Shorter than an Ethernet header.";
    BadLength, "bad-length", Drop, "To a VIP: the IP length is larger than the frame, or too small for the headers it must hold.";
    FrameTooBig, "frame-too-big", Drop, "To a VIP: the frame is larger than tunnel.max_frame.";
    TtlExpired, "ttl-expired", Drop, "To a VIP: TTL or hop limit is 1 or 0 and cannot be decremented.";
    NoRing, "no-ring", Drop, "The VIP has no real that takes new flows.";
    NoReal, "no-real", Drop, "The chosen id names no real. Always 0.";
    NoNextHop, "no-next-hop", Drop, "The MAC of the real's next hop is not known.";
    NoHeadroom, "no-headroom", Drop, "No room in front of the frame for the outer header.";
    EchoReply, "echo-reply", Tx, "A ping, answered here.";
    TooBigReply, "too-big-reply", Tx, "To a VIP and larger than tunnel.max_frame, or than the way to its real takes: answered with ICMP \"too big\".";
    EgressDecap, "egress-decap", Tx, "A tunnel to a decap address with `then = \"egress\"`: stripped and sent on.";
    LocalDelivery, "local-delivery", Pass, "The chosen real is this host.";
    Decapsulated, "decapsulated", Pass, "A tunnel to this host: stripped.";
    NotOurTunnel, "not-our-tunnel", Pass, "A tunnel to another address than this host's (tunnel.decap_strict).";
    Icmp, "icmp", Pass, "ICMP that is neither answered here nor about a flow of a VIP.";
    TruncatedDropped, "truncated-dropped", Drop, "Profile katran: the frame ends inside a header.";
    Ipv4OptionsDropped, "ipv4-options-dropped", Drop, "Profile katran: an IPv4 header with options.";
    FragmentDropped, "fragment-dropped", Drop, "Profile katran: an IP fragment.";
    FragmentUnknown, "fragment-unknown", Drop, "To an address with VIPs: a fragment whose first one was not seen.";
    DecapTtlExpired, "decap-ttl-expired", Drop, "Stripped, and the inner TTL or hop limit is used up.";
    NoSource, "no-source", Drop, "GUE towards a real of a family without tunnel.source_v4 or source_v6.";
    NatReply, "nat-reply", Tx, "From a real behind NAT: translated back and sent to the client.";
    NatFull, "nat-full", Drop, "To a VIP behind NAT: no port or place is free for a new connection.";
    NatUnknown, "nat-unknown", Drop, "To a VIP behind NAT: an ICMP error about no connection that is known.";
    NatUntranslatable, "nat-untranslatable", Drop, "NAT between IPv4 and IPv6: an ICMP error that the other one has not, or the first fragment of a UDP packet without a checksum.";
    VlanStacked, "vlan-stacked", Pass, "Two VLAN tags, or one of a provider's network (802.1ad): not looked into.";
    PathMtu, "path-mtu", Drop, "Larger with its outer headers than the way to its real takes, and its sender is not told (tunnel.too_big, an ICMP error, a later fragment, or the least MTU of its family).";
    IcmpRelayed, "icmp-relayed", Tx, "An ICMP error about a tunnel to a real: sent on to the client, about the packet that was inside.";
    IcmpUnrelayed, "icmp-unrelayed", Pass, "The same, but it quotes too little of the packet that was inside.";
    ControlLost, "control-lost", Pass, "To a VIP, and the control process has been silent for too long: given to the host (node.on_control_loss).";
    ControlLostDropped, "control-lost-dropped", Drop, "The same: dropped (node.on_control_loss).";
    RealRemoved, "real-removed", Drop, "Of a flow whose real was removed from its VIP, or is down (vip.on_removal = \"drop\").";
}

impl Reason {
    /// The reason whose counter has this index.
    pub fn from_index(index: u32) -> Option<Self> {
        Self::ALL.get(index as usize).copied()
    }
}
