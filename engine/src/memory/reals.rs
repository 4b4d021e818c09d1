//! The reals, by id: one entry for each pair of VIP and address, so that what a VIP's real loses is known by its id.
//!
//! An entry's address never changes while a ring or a flow names it; its next hop may, by one store.

use super::Addr;
use super::flows::REAL_BITS;
use super::shared::S64;

/// Reals at most, however large the tables are, id 0 (nobody) included: what an entry of the flow table has room for.
pub const MAX_REALS: u32 = 1 << REAL_BITS;

const MAC: u64 = (1 << 48) - 1;
/// There is a real here.
const PRESENT: u64 = 1 << 48;
/// Its address is IPv6.
const IS_V6: u64 = 1 << 49;
/// The MAC is known.
const RESOLVED: u64 = 1 << 50;
/// It is this host.
const LOCAL: u64 = 1 << 51;
/// It was removed, and its flows are dropped.
const GONE: u64 = 1 << 52;
/// Frames without a tag get one on the way to it.
const TAGGED: u64 = 1 << 54;
/// Some frames are too large for the way to it.
const NARROW: u64 = 1 << 55;
/// Where its [`Method`] is.
const METHOD_SHIFT: u32 = 56;

/// How packets get to a real. Profile katran has the first two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Method {
    /// IP in IP.
    Ipip = 0,
    /// GUE version 1: UDP directly followed by the IP packet.
    Gue = 1,
    /// GRE (RFC 2784) without any option.
    Gre = 2,
    /// UDP directly followed by the IP packet, a port for each inner family.
    Fou = 3,
    /// GUE version 0: a header of 4 bytes behind UDP.
    Gue0 = 4,
    /// Geneve (RFC 8926) without options, an IP packet inside.
    Geneve = 5,
    /// Geneve without options, an Ethernet frame inside.
    GeneveEthernet = 6,
    /// No tunnel: the frame goes to the real's MAC.
    L2 = 7,
    /// Other addresses and ports, and back again for what the real answers.
    Nat = 8,
}

/// What the control plane knows of the way to a real.
#[cfg(not(target_arch = "bpf"))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    /// How packets get there.
    pub method: Method,
    /// It is this host.
    pub local: bool,
    /// Virtual network of Geneve, 24 bits.
    pub vni: u32,
    /// UDP destination port for an IPv4 packet inside, and for an IPv6 packet; in host order. Of NAT the first is the real's
    /// port, 0: the VIP's.
    pub ports: [u16; 2],
    /// Destination of the Ethernet frame inside Geneve: a MAC word ([`crate::wire::mac_word`]).
    pub inner_mac: u64,
}

#[cfg(not(target_arch = "bpf"))]
impl Way {
    /// By a method that needs nothing else.
    pub const fn by(method: Method) -> Self {
        Self { method, local: false, vni: 0, ports: [0, 0], inner_mac: 0 }
    }
}

/// Where frames to a real leave this host.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Out {
    /// Index of the interface; 0: the one that the frame came in by.
    pub interface: u32,
    /// VLAN id; 0: without a tag, [`Out::SAME_VLAN`]: with the tag that the frame came with.
    pub vlan: u16,
    /// Largest IP packet on the way, outer headers included; 0: not known.
    pub mtu: u16,
}

impl Out {
    /// As the frame came.
    pub const SAME_VLAN: u16 = 0xffff;

    #[inline(always)]
    const fn of_word(word: u64) -> Self {
        Self { interface: word as u32, vlan: (word >> 32) as u16, mtu: (word >> 48) as u16 }
    }

    #[cfg(not(target_arch = "bpf"))]
    const fn word(self) -> u64 {
        (self.mtu as u64) << 48 | (self.vlan as u64) << 32 | self.interface as u64
    }
}

/// One real, 64 bytes.
#[repr(C, align(64))]
#[cfg_attr(not(target_arch = "bpf"), derive(Default, Debug))]
pub struct Real {
    addr: [S64; 2],
    /// The next hop's MAC (48 bits, first byte lowest) and the flags above.
    hop: S64,
    /// The VIP's id plus one: for the control plane that takes over pinned tables.
    owner: S64,
    /// `port for IPv6 << 48 | port for IPv4 << 32 | VNI`, ports as on the wire.
    tunnel: S64,
    /// Destination of the Ethernet frame inside Geneve, as `hop` has MACs.
    inner_mac: S64,
    /// `MTU << 48 | VLAN << 32 | interface index`, as [`Out`] has them.
    out: S64,
    /// Source MAC of frames to it, as `hop` has MACs; 0: the root's.
    from: S64,
}

const _: () = assert!(size_of::<Real>() == 64);

/// How a real is reached: one consistent reading.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hop(u64);

impl Hop {
    /// There is such a real.
    #[inline(always)]
    pub fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }
    /// Its address is IPv6.
    #[inline(always)]
    pub fn is_v6(self) -> bool {
        self.0 & IS_V6 != 0
    }
    /// The MAC is known.
    #[inline(always)]
    pub fn is_resolved(self) -> bool {
        self.0 & RESOLVED != 0
    }
    /// It is this host.
    #[inline(always)]
    pub fn is_local(self) -> bool {
        self.0 & LOCAL != 0
    }
    /// It was removed, and its flows are dropped. Its MAC is not known then.
    #[inline(always)]
    pub fn is_gone(self) -> bool {
        self.0 & GONE != 0
    }
    /// Some of the frames that are accepted are too large for the way to it, with their outer headers.
    #[inline(always)]
    pub fn is_narrow(self) -> bool {
        self.0 & NARROW != 0
    }
    /// Its MAC is known, it is reached by IPIP, and its way takes every frame, without a tag: nothing else is to be asked.
    #[inline(always)]
    pub fn is_usual(self) -> bool {
        // Of the upper half: BPF has its constants in the instructions.
        (self.0 >> 48) as u32 & const { (!(MAC | IS_V6 | LOCAL) >> 48) as u32 } == const { ((PRESENT | RESOLVED) >> 48) as u32 }
    }
    /// Its MAC is known, and its frames leave without a tag of its own.
    #[inline(always)]
    pub fn is_ready(self) -> bool {
        self.0 & (PRESENT | RESOLVED | TAGGED) == PRESENT | RESOLVED
    }
    /// It is reached by this method.
    #[inline(always)]
    pub fn is(self, method: Method) -> bool {
        self.0 >> METHOD_SHIFT == method as u64
    }
    /// The next hop's MAC: the low 48 bits, first byte lowest.
    #[inline(always)]
    pub fn mac(self) -> u64 {
        self.0 & MAC
    }
}

impl Real {
    /// Its address.
    #[inline(always)]
    pub fn addr(&self) -> Addr {
        let [a, b] = &self.addr;
        [a.get(), b.get()]
    }

    /// Its address, if that is IPv4.
    #[inline(always)]
    pub fn addr_v4(&self) -> u32 {
        let [word, _] = &self.addr;
        word.get() as u32
    }

    /// How it is reached.
    #[inline(always)]
    pub fn hop(&self) -> Hop {
        Hop(self.hop.get())
    }

    /// UDP destination port for a packet of this family inside, as on the wire.
    #[inline(always)]
    pub fn port(&self, inner_v6: bool) -> u16 {
        let tunnel = self.tunnel.get();
        if inner_v6 { (tunnel >> 48) as u16 } else { (tunnel >> 32) as u16 }
    }

    /// Virtual network of Geneve.
    #[inline(always)]
    pub fn vni(&self) -> u32 {
        self.tunnel.get() as u32
    }

    /// Destination of the Ethernet frame inside Geneve.
    #[inline(always)]
    pub fn inner_mac(&self) -> u64 {
        self.inner_mac.get()
    }

    /// Where frames to it leave this host.
    #[inline(always)]
    pub fn out(&self) -> Out {
        Out::of_word(self.out.get())
    }

    /// Source MAC of frames to it; 0: the root's.
    #[inline(always)]
    pub fn from(&self) -> u64 {
        self.from.get()
    }

    /// The VIP that it belongs to, if it belongs to one.
    #[inline(always)]
    pub fn owner(&self) -> Option<u32> {
        (self.owner.get() as u32).checked_sub(1)
    }
}

/// The control plane's side.
#[cfg(not(target_arch = "bpf"))]
impl Real {
    /// Fills a free entry: the address first, then what makes it present. `owner`: its VIP, if it has one.
    pub fn fill(&self, owner: Option<u32>, addr: Addr, is_v6: bool, way: &Way, mac: Option<u64>) {
        let ([a, b], [x, y]) = (&self.addr, addr);
        a.set(x);
        b.set(y);
        self.owner.set(owner.map_or(0, |vip| u64::from(vip).wrapping_add(1)));
        self.set_tunnel(way);
        self.set_out(Out::default(), 0);
        self.hop.publish(PRESENT | if is_v6 { IS_V6 } else { 0 } | Self::way_bits(way) | Self::mac_bits(mac));
    }

    /// Another way to reach it.
    pub fn set_way(&self, way: &Way) {
        self.set_tunnel(way);
        let kept = PRESENT | IS_V6 | RESOLVED | TAGGED | MAC;
        self.hop.publish(self.hop.get() & kept | Self::way_bits(way));
    }

    /// Its flows are dropped from here on, until [`Self::set_way`] takes it back.
    pub fn set_gone(&self) {
        self.hop.publish(self.hop.get() & !(MAC | RESOLVED) | GONE);
    }

    /// Another way out: `from` is the source MAC of its frames, 0 the root's.
    pub fn set_out(&self, out: Out, from: u64) {
        self.from.set(from & MAC);
        self.out.publish(out.word());
        let tagged = !matches!(out.vlan, 0 | Out::SAME_VLAN);
        self.hop.publish(self.hop.get() & !TAGGED | if tagged { TAGGED } else { 0 });
    }

    /// Whether some frames are too large for its way out.
    pub fn set_narrow(&self, narrow: bool) {
        self.hop.publish(self.hop.get() & !NARROW | if narrow { NARROW } else { 0 });
    }

    fn set_tunnel(&self, way: &Way) {
        let [v4, v6] = way.ports.map(|port| u64::from(port.to_be()));
        self.tunnel.set(v6 << 48 | v4 << 32 | u64::from(way.vni));
        self.inner_mac.set(way.inner_mac);
    }

    fn way_bits(way: &Way) -> u64 {
        u64::from(way.method as u8) << METHOD_SHIFT | if way.local { LOCAL } else { 0 }
    }

    /// Another next hop; `None`: not known (any more).
    pub fn set_mac(&self, mac: Option<u64>) {
        self.hop.publish(self.hop.get() & !(MAC | RESOLVED) | Self::mac_bits(mac));
    }

    /// Frees the entry. Nothing may name it any more.
    pub fn clear(&self) {
        self.hop.publish(0);
    }

    fn mac_bits(mac: Option<u64>) -> u64 {
        mac.map_or(0, |mac| mac & MAC | RESOLVED)
    }
}
