//! What every frame needs: one entry, written by the control plane.

use super::Addr;
use super::nats::NatRules;
use super::shared::{S32, S64};
#[cfg(not(target_arch = "bpf"))]
use super::vips::table;

/// Identifies this layout of the tables. Another number is another layout: its pins cannot be taken over.
/// Zero (a fresh table) means "not configured", and every frame is passed to the host.
pub const LAYOUT: u32 = 0x7a_000b;

/// The seat that forwards. The whole live switch is one store of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Mode {
    /// The XDP program forwards.
    Xdp = 0,
    /// The XDP program hands the VIPs' frames to the AF_XDP workers.
    Afxdp = 1,
}

/// What becomes of frames to VIPs when nobody controls the tables any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Loss {
    /// They go on as before.
    Keep = 0,
    /// They are given to the host.
    Pass = 1,
    /// They are dropped.
    Drop = 2,
}

/// Where the [`Mode`] is.
const MODE_SHIFT: u32 = 32;
/// Where the [`Loss`] is.
const LOSS_SHIFT: u32 = 30;
/// Ticks are known modulo this.
const TICKS: u32 = 1 << 26;
/// How far the two clocks that one tick is read from may be apart.
const SKEW: u32 = 256;

/// The shared root, 576 bytes: a hot line, the hash key, the rest, the NAT.
#[repr(C, align(64))]
#[cfg_attr(not(target_arch = "bpf"), derive(Default, Debug))]
pub struct Root {
    /// `mode << 32 | layout`: the [`Mode`], and [`LAYOUT`], written last. One load tells whether a frame is forwarded here.
    state: S64,
    /// The VIP table in force: [`vips::table`](super::vips::table). One store replaces the whole table.
    pub vips: S64,
    /// Slots of one half of the VIP table, minus one (a power of two minus one).
    pub vip_mask: S32,
    /// Not 0 if a VIP takes every port.
    pub any_port: S32,
    /// Sets of the flow table minus one (a power of two minus one).
    pub flow_mask: S32,
    /// Ticks after which a silent UDP flow is forgotten; 0: never.
    pub udp_idle: S32,
    /// Largest frame accepted for a VIP: bytes of Ethernet frame without FCS.
    pub max_frame: S32,
    /// Outer IPv4 source of IPIP, as on the wire: the plain one, or the network that sources are crafted in.
    pub craft_v4: S32,
    /// Bits of it that vary with the flow, as on the wire; 0: none.
    pub vary_v4: S32,
    /// Bits of the last four bytes of the outer IPv6 source that vary with the flow, as on the wire; 0: none.
    pub vary_v6: S32,
    /// The source MAC of what is sent: the low 48 bits, first byte lowest.
    pub local_mac: S64,
    /// The clock of replays and tests, in ticks; the data path has its own.
    pub tick: S32,
    /// What the configuration uses: [`features`](super::features).
    pub features: S32,
    /// Key of the flow table's hash; random for each instance.
    pub key: [S32; 16],
    /// Outer IPv6 source of IPIP, as `craft_v4`.
    pub craft_v6: [S64; 2],
    /// This host as the source of tunnels: outer IPv6 source of GUE; 0: none.
    pub source_v6: [S64; 2],
    /// Outer IPv4 source of GUE, as on the wire; 0: none.
    pub source_v4: S32,
    /// UDP port of GUE, as on the wire.
    pub gue_port: S32,
    /// Lines of the id table minus one (a power of two minus one).
    pub id_mask: S32,
    /// New flows that a core enters in one window; above it the ring alone decides. 0: no limit.
    pub guard_limit: S32,
    /// The prefix table in force: `first slot << 32 | slots`. One store replaces the whole table.
    pub prefixes: S64,
    /// The window of the new-flow guard, in ticks.
    pub guard_window: S32,
    /// Always 0: a number that the BPF verifier does not know.
    pub zero: S32,
    /// Not 0: UDP tunnels go without a checksum where it cannot be had from the headers alone.
    pub zero_checksums: S32,
    /// VIPs that a core's counters have room for (a power of two): written when the tables are made.
    pub counted_vips: S32,
    /// UDP ports of the other tunnels, as on the wire: `Geneve << 32 | FOU with IPv6 inside << 16 | FOU with IPv4 inside`.
    pub tunnel_ports: S64,
    /// The tick when the control process was there last.
    pub heart: S32,
    /// What happens without it: `a [`Loss`] << 30 | ticks of silence before`.
    pub loss: S32,
    rest: [S64; 4],
    /// What the NAT does.
    pub nat: NatRules,
}

const _: () = assert!(size_of::<Root>() == 576 && align_of::<Root>() == 64);

impl Root {
    /// Whether the tables are configured, and this seat forwards.
    #[inline(always)]
    pub fn is_in_force(&self, mode: Mode) -> bool {
        self.state.get() == (mode as u64) << MODE_SHIFT | LAYOUT as u64
    }

    /// The layout of the tables; 0: they were never written.
    #[inline(always)]
    pub fn layout(&self) -> u32 {
        self.state.get() as u32
    }

    /// Whether this seat forwards.
    #[inline(always)]
    pub fn is_mode(&self, mode: Mode) -> bool {
        self.state.get() >> MODE_SHIFT == mode as u64
    }

    /// The outer IPv6 source of IPIP.
    #[inline(always)]
    pub fn craft_v6(&self) -> Addr {
        let [high, low] = &self.craft_v6;
        [high.get(), low.get()]
    }

    /// The outer IPv6 source of GUE.
    #[inline(always)]
    pub fn source_v6(&self) -> Addr {
        let [high, low] = &self.source_v6;
        [high.get(), low.get()]
    }

    /// What becomes of frames to VIPs now: a [`Loss`], as a number.
    #[inline(always)]
    pub fn loss(&self, now: u32) -> u32 {
        let (word, silent) = (self.loss.get(), now.wrapping_sub(self.heart.get()) & TICKS.wrapping_sub(1));
        // Nearly all of them: the other clock is a little ahead.
        let lost = silent > (word & ((1 << LOSS_SHIFT) - 1)) && silent < const { TICKS - SKEW };
        if lost { word >> LOSS_SHIFT } else { Loss::Keep as u32 }
    }

    /// First slot and number of slots of the prefix table in force.
    #[inline(always)]
    pub fn prefixes_in_force(&self) -> (u32, u32) {
        let word = self.prefixes.get();
        ((word >> 32) as u32, word as u32)
    }
}

#[cfg(not(target_arch = "bpf"))]
impl Root {
    /// The seat that forwards now.
    pub fn mode(&self) -> Mode {
        if self.is_mode(Mode::Afxdp) { Mode::Afxdp } else { Mode::Xdp }
    }

    /// Says which layout the tables have, after everything that was stored before.
    pub fn set_layout(&self, layout: u32) {
        self.state.publish((self.mode() as u64) << MODE_SHIFT | u64::from(layout));
    }

    /// Says what becomes of frames to VIPs after this many ticks without a [`Self::beat`].
    pub fn set_loss(&self, loss: Loss, ticks: u32) {
        self.loss.publish((loss as u32) << LOSS_SHIFT | ticks.min((1 << LOSS_SHIFT) - 1));
    }

    /// The control process is there.
    pub fn beat(&self, now: u32) {
        self.heart.publish(now);
    }

    /// The live switch.
    pub fn switch(&self, mode: Mode) {
        self.state.publish((mode as u64) << MODE_SHIFT | u64::from(self.layout()));
    }

    /// Puts another VIP table in force: the one that starts at slot `first` and was filled with `seed`.
    pub fn publish_vips(&self, first: u32, seed: u32) {
        self.vips.publish(table(first, seed));
    }

    /// Puts another prefix table in force: `slots` slots (a power of two) from `first` on.
    pub fn publish_prefixes(&self, first: u32, slots: u32) {
        self.prefixes.publish(u64::from(first) << 32 | u64::from(slots));
    }

    /// The first slot of the VIP table in force.
    pub fn first_vip(&self) -> u32 {
        (self.vips.get() >> 32) as u32
    }
}
