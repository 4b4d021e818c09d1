//! What a configuration uses, a bit each. The kernel program is loaded for these bits: what they leave out, the verifier
//! removes, so that an unused feature costs nothing.

/// Everything is done as Katran does it.
pub const KATRAN: u32 = 1;
/// A VIP routes by QUIC connection ids.
pub const QUIC: u32 = 1 << 1;
/// A VIP routes UDP by the server id in front of the payload.
pub const STABLE: u32 = 1 << 2;
/// TCP is routed by the server-id option.
pub const TCP_ID: u32 = 1 << 3;
/// IPIP to this host is stripped.
pub const DECAP_IPIP: u32 = 1 << 4;
/// GUE to this host is stripped.
pub const DECAP_GUE: u32 = 1 << 5;
/// Only tunnels to an address of this host are stripped.
pub const DECAP_STRICT: u32 = 1 << 6;
/// A VIP is a prefix.
pub const PREFIX_VIPS: u32 = 1 << 7;
/// A VIP routes by the client's network.
pub const SOURCE_ROUTES: u32 = 1 << 8;
/// A real is reached by another tunnel than IPIP.
pub const TUNNELS: u32 = 1 << 9;
/// Frames that are too large are answered by ICMP.
pub const TOO_BIG: u32 = 1 << 10;
/// A VIP has UDP flow migration.
pub const MIGRATE: u32 = 1 << 11;
/// A VIP delivers to a real on this host.
pub const LOCAL: u32 = 1 << 12;
/// A VIP looks flows up in the global table, too.
pub const GLOBAL: u32 = 1 << 13;
/// A VIP hashes something else than addresses and ports.
pub const HASH_FLAGS: u32 = 1 << 14;
/// The number of new flows is limited.
pub const GUARD: u32 = 1 << 15;
/// A real is reached without a tunnel.
pub const L2: u32 = 1 << 16;
/// A real is reached by NAT.
pub const NAT: u32 = 1 << 17;
/// Frames come and leave with VLAN tags.
pub const VLANS: u32 = 1 << 18;
/// Frames come in by several interfaces, and may leave by another one.
pub const SEVERAL: u32 = 1 << 19;

/// The way to a real may take less than `tunnel.max_frame`.
pub const PATH_MTU: u32 = 1 << 20;
/// ICMP errors about tunnels are relayed to the client.
pub const RELAY: u32 = 1 << 21;
/// Frames to VIPs are no longer forwarded when the control process has been silent for too long.
pub const CONTROL_LOSS: u32 = 1 << 22;
/// What a flow asked the ring by is kept beside its entry.
pub const RING_HASHES: u32 = 1 << 23;
/// A VIP may have usual frames ([`crate::plain()`]): it has no flag of [`SPECIAL`](super::vips::SPECIAL).
pub const USUAL: u32 = 1 << 24;

/// What the way of the usual frames ([`crate::plain()`]) has to do with: what the standard profile has without being asked, and what
/// is only looked at there to leave a frame to the other way.
pub const PLAIN: u32 = GUARD | RING_HASHES | DECAP_GUE | TCP_ID | PREFIX_VIPS | NAT;
/// Of these, what it does not ask for: it is taken where they are used.
pub const PLAIN_ALWAYS: u32 = RING_HASHES | USUAL;
/// Where one of these is used, no frame is usual.
pub const PLAIN_NEVER: u32 = KATRAN | SEVERAL | CONTROL_LOSS;

/// Whether a program that is loaded for these features takes the way of the usual frames.
pub const fn has_usual(features: u32) -> bool {
    features & (PLAIN_NEVER | PLAIN_ALWAYS) == PLAIN_ALWAYS
}

/// What [`KATRAN`] excludes.
pub const STANDARD: u32 = L2 | NAT | VLANS | PATH_MTU | RELAY | RING_HASHES | USUAL;
/// All of them but [`KATRAN`].
pub const ALL: u32 = (1 << 25) - 2;
