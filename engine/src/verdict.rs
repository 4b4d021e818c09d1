//! What becomes of a frame, and why. Both enums are closed: every backend turns them into actions by one exhaustive match.

/// How the real of a forwarded frame was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum From {
    /// The flow table knew it.
    Flow = 0,
    /// The VIP's ring.
    Ring = 1,
}

impl From {
    /// The name in `replay`'s verdicts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flow => "flow",
            Self::Ring => "ring",
        }
    }
}

/// What becomes of a frame.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Sent to a real, encapsulated.
    Forward {
        /// The VIP's id.
        vip: u32,
        /// The real's id.
        real: u32,
        /// Bytes of the client's IP packet.
        bytes: u32,
        /// Who chose the real.
        from: From,
    },
    /// Given to the host, unchanged: none of our business.
    Pass(Reason),
    /// Dropped.
    Drop(Reason),
}

impl Verdict {
    /// Why; the counter that moved.
    #[inline(always)]
    pub const fn reason(&self) -> Reason {
        match *self {
            Self::Forward { .. } => Reason::Forwarded,
            Self::Pass(reason) | Self::Drop(reason) => reason,
        }
    }
}

/// What a reason does to its frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Sent on.
    Tx,
    /// Given to the host.
    Pass,
    /// Dropped.
    Drop,
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
    NotIp, "not-ip", Pass, "Neither IPv4 nor IPv6: ARP, VLAN tags and the like.";
    TruncatedIp, "truncated-ip", Pass, "The frame ends inside the IP header.";
    MalformedIp, "malformed-ip", Pass, "The version is not the EtherType's, or the IPv4 header length is below 20 bytes.";
    Ipv4Options, "ipv4-options", Pass, "An IPv4 header with options.";
    Fragment, "fragment", Pass, "An IP fragment.";
    NotTcpUdp, "not-tcp-udp", Pass, "Neither TCP nor UDP follows the IP header.";
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
}

impl Reason {
    /// The reason whose counter has this index.
    pub fn from_index(index: u32) -> Option<Self> {
        Self::ALL.get(index as usize).copied()
    }
}
