//! Counters: plain additions, so each core (a CPU's kernel seat, a worker) has a block of its own.
//!
//! ```text
//! block:  reasons, 4 to a line | seat, 1 line | events, 8 lines | guard, 1 line | VIPs, 1 line each | reals, 2 to a line
//!         ---------------------------- [`Block`] -----------------------------  ------------ [`Extent`] -------------
//! ```
//!
//! How many VIPs and reals a block has room for is known when the tables are made ([`Extent`]).

use super::Memory;
use super::shared::S64;
use crate::verdict::Reason;

/// Eight counters, 64 bytes.
#[repr(C, align(64))]
#[cfg_attr(not(target_arch = "bpf"), derive(Default, Debug))]
pub struct Line {
    c: [S64; PER_LINE],
}

const _: () = assert!(size_of::<Line>() == 64);

/// CPUs that the kernel programs may run on (a power of two).
pub const MAX_CPUS: u32 = 1024;

/// One core's counters, but for those of VIPs and reals, which lie behind it.
#[repr(transparent)]
pub struct Block([Line; HEAD as usize]);

impl Block {
    /// Line `index`.
    #[inline(always)]
    pub fn line(&self, index: u32) -> Option<&Line> {
        self.0.get(index as usize)
    }
}

const PER_LINE: usize = 8;
/// Lines of a block that count frames and their bytes by [`Reason`], side by side: one lookup counts both.
const REASON_LINES: u32 = 12;
const PER_REASON: u32 = 2;
/// The line of [`SeatCounter`]s.
pub const SEAT_LINE: u32 = REASON_LINES;
const EVENT_LINES: u32 = SEAT_LINE + 1;
/// The line of the new-flow guard: flows of this window, and the tick when it began.
pub const GUARD_LINE: u32 = EVENT_LINES + 8;
/// Lines of a [`Block`].
pub const HEAD: u32 = GUARD_LINE + 1;
const REALS_PER_LINE: u32 = 2;
/// Counters of a real.
pub const PER_REAL: usize = 4;

const _: () = assert!(Reason::ALL.len() * PER_REASON as usize <= REASON_LINES as usize * PER_LINE);
const _: () = assert!(Event::ALL.len() <= (GUARD_LINE - EVENT_LINES) as usize * PER_LINE);

/// The counters of one real, by [`RealCounter`].
pub type RealLine = [S64; PER_REAL];

/// VIPs and reals that a block has room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// VIPs: a power of two, above all ids.
    pub vips: u32,
    /// Reals: a power of two, above all ids.
    pub reals: u32,
}

impl Extent {
    /// Lines of a core's block, all in all.
    #[inline(always)]
    pub const fn lines(self) -> u32 {
        self.first_real().wrapping_add(self.reals / REALS_PER_LINE)
    }

    /// Room for so many VIPs and reals, if a block can have that.
    #[cfg(not(target_arch = "bpf"))]
    pub fn of(vips: u32, reals: u32) -> Option<Self> {
        (vips.is_power_of_two() && reals.is_power_of_two() && reals >= REALS_PER_LINE).then_some(Self { vips, reals })
    }

    #[inline(always)]
    const fn first_real(self) -> u32 {
        HEAD.wrapping_add(self.vips)
    }

    /// Line of a VIP's counters in a core's block.
    #[inline(always)]
    pub const fn vip(self, vip: u32) -> u32 {
        HEAD.wrapping_add(vip & self.vips.wrapping_sub(1))
    }

    /// Line of a real's counters in a core's block, and whether they are its second half.
    #[inline(always)]
    pub const fn real(self, real: u32) -> (u32, bool) {
        let real = real & self.reals.wrapping_sub(1);
        (self.first_real().wrapping_add(real / REALS_PER_LINE), real & 1 != 0)
    }
}

/// Adds `n` to a real's counter. Only the block's own core may.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "there are as many as counters")]
pub fn add_real(line: &RealLine, counter: RealCounter, n: u64) {
    let c = &line[counter as usize];
    c.set(c.get().wrapping_add(n));
}

impl Line {
    /// Adds `n` to counter `i` (modulo 8). Only the block's own core may.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "the mask bounds it")]
    pub fn add(&self, i: usize, n: u64) {
        let c = &self.c[i & (PER_LINE - 1)];
        c.set(c.get().wrapping_add(n));
    }

    /// Counter `i` (modulo 8).
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "the mask bounds it")]
    pub fn get(&self, i: usize) -> u64 {
        self.c[i & (PER_LINE - 1)].get()
    }

    /// Sets counter `i` (modulo 8). Only the block's own core may.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "the mask bounds it")]
    pub fn set(&self, i: usize, value: u64) {
        self.c[i & (PER_LINE - 1)].set(value);
    }

    /// The counters of the first, or the second, real of a line.
    #[cfg(not(target_arch = "bpf"))]
    #[inline(always)]
    pub fn real(&self, second: bool) -> Option<&RealLine> {
        let (halves, _) = self.c.as_chunks();
        halves.get(usize::from(second))
    }

    /// Sets all to 0; for one that nobody counts in.
    #[cfg(not(target_arch = "bpf"))]
    pub fn clear(&self) {
        for c in &self.c {
            c.set(0);
        }
    }
}

/// What is counted for each VIP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum VipCounter {
    /// Frames forwarded.
    Packets = 0,
    /// Bytes of their IP packets, before encapsulation.
    Bytes = 1,
    /// Of these frames: those whose real was chosen anew, by the ring or by the client's network.
    Ring = 2,
    /// Flows entered into the flow table (or written anew by a SYN), or into that of NAT.
    Entered = 3,
    /// Of these: those that took the place of another flow.
    Evicted = 4,
    /// Connections that began at a VIP whose packets carry server ids.
    ServerIdNew = 5,
    /// Server ids that named another real than the flow table.
    ServerIdMismatch = 6,
    /// Packets for it that came in a tunnel to this host, stripped for the host.
    Decap = 7,
}

impl VipCounter {
    /// All, with the names that listings use.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::Packets, "packets"),
        (Self::Bytes, "bytes"),
        (Self::Ring, "ring"),
        (Self::Entered, "entered"),
        (Self::Evicted, "evicted"),
        (Self::ServerIdNew, "server-id-new"),
        (Self::ServerIdMismatch, "server-id-mismatch"),
        (Self::Decap, "decap"),
    ];
}

/// What is counted for each real of a VIP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum RealCounter {
    /// Frames forwarded.
    Packets = 0,
    /// Bytes of their IP packets, before encapsulation.
    Bytes = 1,
    /// Of these frames: those whose real was chosen anew, by the ring or by the client's network.
    Ring = 2,
    /// Of these frames: TCP resets, and ICMP errors about what the real sent. A real with a larger share than the others is in trouble.
    Refused = 3,
}

impl RealCounter {
    /// All, with the names that listings use.
    pub const ALL: [(Self, &'static str); PER_REAL] =
        [(Self::Packets, "packets"), (Self::Bytes, "bytes"), (Self::Ring, "ring"), (Self::Refused, "refused")];
}

macro_rules! events {
    ($($variant:ident, $name:literal, $meaning:literal;)*) => {
        /// What happens to frames on their way, beside the reason of their verdict.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u32)]
        pub enum Event {
            $(#[doc = $meaning] $variant,)*
        }

        impl Event {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The counter's name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it counts, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

events! {
    MissTcpSyn, "miss-tcp-syn", "TCP SYNs whose real the ring or the client's network had to choose.";
    MissTcpOther, "miss-tcp-other", "Other TCP packets that neither a server id nor the flow table knew.";
    RingDecisions, "ring-decisions", "Choices by the ring or by the client's network.";
    Guarded, "guarded", "Such choices above flows.new_flows_per_core: not entered into the flow table.";
    SourceRouteMiss, "source-route-miss", "Clients of a VIP with source-routing that are in no configured network.";
    SourceRouteHit, "source-route-hit", "Clients whose network named the real.";
    TooBigV4, "too-big-v4", "IPv4 frames to a VIP above tunnel.max_frame.";
    TooBigV6, "too-big-v6", "IPv6 frames to a VIP above tunnel.max_frame.";
    DecapDestination, "decap-destination", "Tunnels to a configured decap address.";
    DecapV4, "decap-v4", "Tunnels stripped whose outer header was IPv4.";
    DecapV6, "decap-v6", "Tunnels stripped whose outer header was IPv6 (profile katran: every IPIP).";
    DecapBalancedV4, "decap-balanced-v4", "IPv4 packets from tunnels that were balanced.";
    DecapBalancedV6, "decap-balanced-v6", "IPv6 packets from tunnels that were balanced.";
    EgressDecapV4, "egress-decap-v4", "IPv4 packets from tunnels that were sent on.";
    EgressDecapV6, "egress-decap-v6", "IPv6 packets from tunnels that were sent on.";
    EncapFailedV4, "encap-failed-v4", "Frames that could not be encapsulated towards an IPv4 real.";
    EncapFailedV6, "encap-failed-v6", "Frames that could not be encapsulated towards an IPv6 real.";
    GlobalFlowHit, "global-flow-hit", "Packets whose real the global flow table knew.";
    PtbV4, "ptb-v4", "ICMP fragmentation needed.";
    PtbV4Low, "ptb-v4-low", "Of these: with an MTU below 1280.";
    PtbV6, "ptb-v6", "ICMPv6 packet too big.";
    PtbV6Low, "ptb-v6-low", "Of these: with an MTU below 1280.";
    UdpMigrated, "udp-migrated", "UDP flows that left a real that is down.";
    QuicIcmp, "quic-icmp", "ICMP errors about flows of a QUIC VIP.";
    QuicIcmpIgnorable, "quic-icmp-ignorable", "Of these: with a code that QUIC servers ignore.";
    QuicRing, "quic-ring", "QUIC packets without a server id that leads anywhere.";
    QuicInitial, "quic-initial", "QUIC packets that open a connection.";
    QuicInvalidId, "quic-invalid-id", "QUIC packets whose server id is not configured.";
    QuicRouted, "quic-routed", "QUIC packets whose server id chose the real.";
    QuicV1, "quic-v1", "Server ids of 16 bits (connection-id version 1).";
    QuicV2, "quic-v2", "Server ids of 24 bits (version 2).";
    QuicV3, "quic-v3", "Server ids of 32 bits (version 3).";
    QuicMatch, "quic-match", "Server ids that agree with the flow table.";
    QuicMismatch, "quic-mismatch", "Server ids that changed the flow table.";
    QuicNotFound, "quic-not-found", "Server ids of flows that the flow table did not know.";
    StableRing, "stable-ring", "UDP stable routing: packets without a server id that leads anywhere.";
    StableRouted, "stable-routed", "UDP stable routing: packets whose server id chose the real.";
    StableInvalidId, "stable-invalid-id", "UDP stable routing: server ids that are not configured.";
    StableInvalidType, "stable-invalid-type", "UDP stable routing: packets without its header.";
    TcpIdRing, "tcp-id-ring", "TCP packets without a server id that leads anywhere.";
    TcpIdMismatch, "tcp-id-mismatch", "TCP server ids that changed the flow table.";
    TcpIdRouted, "tcp-id-routed", "TCP packets whose server id chose the real.";
    TcpIdSyn, "tcp-id-syn", "TCP SYNs while TCP is routed by server id.";
    AgainFrames, "again-frames", "Frames that were looked at again after their tunnel was stripped.";
    AgainBytes, "again-bytes", "Bytes of these frames with their tunnel.";
    NatOpened, "nat-opened", "Connections that NAT began to translate.";
    NatErrors, "nat-errors", "ICMP errors about connections of NAT, translated in either direction.";
}

/// What a seat counts of its own work: not part of the verdict, and not equal in both seats.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum SeatCounter {
    /// Kernel: frames handed to a worker.
    HandedOver = 0,
    /// Kernel: mode afxdp, but the queue has no socket; the frame was forwarded here.
    NoSocket = 1,
    /// Worker: a frame was moved inside its UMEM chunk, because its real needed another room than was made.
    RoomMoved = 2,
    /// Worker: the frame's VIP was removed while it was under way.
    VipGone = 3,
    /// Worker: a frame that must not come here (the core passes it), or a bad hand-over header. Always 0.
    Defect = 4,
    /// Worker: a frame was dropped because the TX ring stayed full.
    TxFull = 5,
    /// Either: a frame was dropped because its way leaves by an interface that is none of the balancer's.
    NoInterface = 6,
}

impl SeatCounter {
    /// All, with the names that listings use.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::HandedOver, "handed-over"),
        (Self::NoSocket, "no-socket"),
        (Self::RoomMoved, "room-moved"),
        (Self::VipGone, "vip-gone"),
        (Self::Defect, "defect"),
        (Self::TxFull, "tx-full"),
        (Self::NoInterface, "no-interface"),
    ];
}

/// Line and index of the frames of the reason with this index; the next one counts their bytes, as they came.
#[inline(always)]
pub fn reason_at(index: u32) -> (u32, usize) {
    at(index.wrapping_mul(PER_REASON))
}

/// Line and index of an event's counter.
#[inline(always)]
pub fn event_at(event: Event) -> (u32, usize) {
    let (line, index) = at(event as u32);
    (line.wrapping_add(EVENT_LINES), index)
}

#[inline(always)]
const fn at(i: u32) -> (u32, usize) {
    (i >> PER_LINE.trailing_zeros(), i as usize & (PER_LINE - 1))
}

/// Counts an event.
#[inline(always)]
pub fn count_event<M: Memory>(memory: &M, event: Event) {
    add_event(memory, event, 1);
}

/// Adds `n` to an event's counter.
#[inline(always)]
pub fn add_event<M: Memory>(memory: &M, event: Event, n: u64) {
    let (line, index) = event_at(event);
    if let Some(line) = memory.count(line) {
        line.add(index, n);
    }
}

/// Counts something of a VIP's.
#[inline(always)]
pub fn count_vip<M: Memory>(memory: &M, vip: u32, counter: VipCounter) {
    if let Some(line) = memory.vip_count(vip) {
        line.add(counter as usize, 1);
    }
}

/// Adds `n` to one of this core's seat counters.
#[inline(always)]
pub fn count_seat<M: Memory>(memory: &M, counter: SeatCounter, n: u64) {
    if let Some(line) = memory.seat() {
        line.add(counter as usize, n);
    }
}
