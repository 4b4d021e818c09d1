//! The NAT table: one entry for each connection, found from both sides, shared by all cores and both seats.
//!
//! ```text
//! kept clients | source 1: UDP ports, TCP ports | source 2: ...
//! ```
//!
//! Where the client's address is replaced, an entry's place *is* its port: nobody has to look for a free port, and two
//! connections can never share one. A reply names its entry by the port it is sent to; a client's packet looks at the few
//! places that a keyed hash of the client names. Where the client's address stays, both look there.
//!
//! *Who writes.* A place is taken by [`Nat::claim`], which one core at a time wins. `life` is 0 while its fields change, and
//! `lock` is claimed until they have: who reads ([`Nat::generation`] before and [`Nat::is_as`] after) does not believe a mixture.
//! An entry is taken over only some time after it stopped being found ([`SLACK`]), so that nobody works on it any more. A core that
//! dies between claim and fill leaves its claim behind, which the control plane takes off ([`Nat::release`]).

use super::Addr;
use super::flows::REAL_BITS;
use super::shared::{S32, S64, in_order};

/// Addresses that clients' are replaced by, of both families together.
pub const MAX_SOURCES: usize = 16;
/// Places that a client's connection may be in.
pub const PROBES: u32 = 8;
/// Ticks from when an entry is not found any more until its place is taken.
const SLACK: u32 = 8;

/// Some packet of the connection was forwarded.
const LIVE: u64 = 1;
/// A packet of the real was seen.
const REPLIED: u64 = 1 << 1;
/// The client went on after that.
const OPEN: u64 = 1 << 2;
/// The client said that it has sent all.
const FIN_CLIENT: u64 = 1 << 3;
/// The real said so.
const FIN_REAL: u64 = 1 << 4;
/// One of them aborted it.
const RST: u64 = 1 << 5;
/// It is not TCP.
const UDP: u64 = 1 << 6;
const TICK_SHIFT: u32 = 32;

/// One more core tries to take the place.
const CLAIM: u64 = 1 << 48;
/// Changed by every claim that was won.
const GENERATION: u64 = 1;

const CLIENT_V6: u64 = 1 << 32;
const TCP: u64 = 1 << 33;
const SOURCE_SHIFT: u32 = 40;
const VIP_SHIFT: u32 = 48;
/// Where the real is.
const REAL: u64 = (1 << REAL_BITS) - 1;

/// What the NAT does, in the root.
#[repr(C)]
#[cfg_attr(not(target_arch = "bpf"), derive(Default, Debug))]
pub struct NatRules {
    /// Ticks that a silent connection is kept, by [`Phase`].
    pub idle: [S32; 5],
    /// First source port, in host order.
    pub first_port: S32,
    /// Number of source ports.
    pub ports: S32,
    /// Places for connections whose client's address stays.
    pub kept: S32,
    /// IPv4 addresses among the sources: the first ones.
    pub sources_v4: S32,
    /// IPv6 addresses among them: those after.
    pub sources_v6: S32,
    spare: [S32; 6],
    /// The sources.
    pub sources: [[S64; 2]; MAX_SOURCES],
}

impl NatRules {
    /// Source `index`.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "the mask bounds it")]
    pub fn source(&self, index: u32) -> Addr {
        let [a, b] = &self.sources[index as usize & (MAX_SOURCES - 1)];
        [a.get(), b.get()]
    }
}

/// Places for answers that come in fragments.
pub const ANSWERS: u32 = 1024;

/// An answer that comes in fragments, by which its later ones find their connection: `print << 40 | tick << 28 | place plus one`,
/// a single word, so that nobody reads a mixture. Who reads it compares the addresses with the connection's.
#[repr(transparent)]
#[cfg_attr(not(target_arch = "bpf"), derive(Default, Debug))]
pub struct Answer(S64);

impl Answer {
    const PLACE: u64 = (1 << 28) - 1;
    const TICK: u32 = (1 << 12) - 1;
    const TICK_SHIFT: u32 = 28;
    const PRINT_SHIFT: u32 = 40;

    /// Notes the place (plus one) of its connection.
    #[inline(always)]
    pub fn note(&self, print: u64, place: u32, now: u32) {
        let tick = ((now & Self::TICK) as u64) << Self::TICK_SHIFT;
        self.0.set(print >> Self::PRINT_SHIFT << Self::PRINT_SHIFT | tick | place as u64 & Self::PLACE);
    }

    /// The place (plus one), if it was noted within `idle` ticks; 0: another answer's, or none.
    #[inline(always)]
    pub fn place(&self, print: u64, now: u32, idle: u32) -> u32 {
        let word = self.0.get();
        let age = now.wrapping_sub((word >> Self::TICK_SHIFT) as u32) & Self::TICK;
        let is_it = (word ^ print) >> Self::PRINT_SHIFT == 0 && age <= idle;
        if is_it { (word & Self::PLACE) as u32 } else { 0 }
    }
}

/// How far a connection is: each has its own idle time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Phase {
    /// TCP before the client answered the real.
    Opening = 0,
    /// TCP, established.
    Open = 1,
    /// TCP, one side has sent all.
    HalfClosed = 2,
    /// TCP, both have, or one of them aborted it.
    Closed = 3,
    /// UDP.
    Udp = 4,
}

/// One connection, 128 bytes: what is compared and calculated with, then what only replies need.
#[repr(C, align(64))]
#[cfg_attr(not(target_arch = "bpf"), derive(Default, Debug))]
pub struct Nat {
    client: [S64; 2],
    vip: [S64; 2],
    /// Client's port, VIP's port, real's port, port towards the real: each as on the wire, the first one lowest. The lower
    /// half is what a client's packet has for ports, the upper half what a reply has.
    ports: S64,
    /// `VIP << 48 | source plus one << 40 | flags | real`
    who: S64,
    /// `cores that claim it << 48 | generation`
    lock: S64,
    /// `tick of its last packet << 32 | flags`; 0: nobody's.
    life: S64,
    /// The MAC that the client's packets come from.
    back: S64,
    /// The MAC that they are sent to: ours.
    home: S64,
    /// `interface index << 32 | VLAN tag` that they come by, the tag as [`crate::vlan`] has it.
    arrival: S64,
    rest: [S64; 5],
}

const _: () = assert!(size_of::<Nat>() == 128);

/// What is found in an entry.
pub struct Found {
    /// The client.
    pub client: Addr,
    /// The VIP's address.
    pub vip: Addr,
    /// As in the entry.
    pub ports: u64,
    who: u64,
}

impl Found {
    /// The real's id.
    #[inline(always)]
    pub fn real(&self) -> u32 {
        (self.who & REAL) as u32
    }
    /// The client's address is IPv6, and the VIP's.
    #[inline(always)]
    pub fn client_v6(&self) -> bool {
        self.who & CLIENT_V6 != 0
    }
    /// It is TCP.
    #[inline(always)]
    pub fn is_tcp(&self) -> bool {
        self.who & TCP != 0
    }
    /// Index of the source that the client's address is replaced by, plus one; 0: it stays.
    #[inline(always)]
    pub fn source(&self) -> u32 {
        (self.who >> SOURCE_SHIFT) as u32 & 0xff
    }
}

/// What a new entry says.
pub struct Opening {
    /// The client.
    pub client: Addr,
    /// The VIP's address.
    pub vip: Addr,
    /// As in the entry.
    pub ports: u64,
    /// The real's id.
    pub real: u32,
    /// Index of the source plus one; 0: the client's address stays.
    pub source: u32,
    /// They are IPv6.
    pub client_v6: bool,
    /// It is TCP.
    pub tcp: bool,
}

/// Who sent a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The client.
    Client,
    /// The real.
    Real,
}

#[inline(always)]
fn phase(life: u64) -> Phase {
    if life & UDP != 0 {
        Phase::Udp
    } else if life & RST != 0 || life & (FIN_CLIENT | FIN_REAL) == FIN_CLIENT | FIN_REAL {
        Phase::Closed
    } else if life & (FIN_CLIENT | FIN_REAL) != 0 {
        Phase::HalfClosed
    } else if life & OPEN != 0 {
        Phase::Open
    } else {
        Phase::Opening
    }
}

#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "there are as many as phases")]
fn is_silent(rules: &NatRules, life: u64, now: u32, slack: u32) -> bool {
    let idle = rules.idle[phase(life) as usize].get();
    // Ticks count modulo 2^26, and the other seat's clock may be a little behind.
    let age = (now.wrapping_sub((life >> TICK_SHIFT) as u32) << 6) as i32 >> 6;
    age > idle.wrapping_add(slack) as i32
}

impl Nat {
    /// Nobody has ever been here.
    #[inline(always)]
    pub fn is_unused(&self) -> bool {
        self.life.get() == 0 && self.lock.get() == 0
    }

    /// What is here, if its packets are still expected: [`Nat::is_as`] says whether it can be believed.
    #[inline(always)]
    pub fn seen(&self, rules: &NatRules, now: u32) -> u64 {
        let life = self.life.get();
        if life & LIVE == 0 || is_silent(rules, life, now, 0) { 0 } else { life }
    }

    /// All of it.
    #[inline(always)]
    pub fn read(&self) -> Found {
        let ([a, b], [c, d]) = (&self.client, &self.vip);
        Found { client: [a.get(), b.get()], vip: [c.get(), d.get()], ports: self.ports.get(), who: self.who.get() }
    }

    /// Its real's id.
    #[inline(always)]
    pub fn real(&self) -> u32 {
        (self.who.get() & REAL) as u32
    }

    /// Changes with every connection that is here, and is different while one is being written.
    #[inline(always)]
    pub fn generation(&self) -> u64 {
        let lock = self.lock.get();
        in_order();
        lock
    }

    /// What was read since `generation` belongs together: nobody had the place meanwhile, or has it now.
    #[inline(always)]
    pub fn is_as(&self, generation: u64) -> bool {
        in_order();
        generation < CLAIM && self.lock.get() == generation
    }

    /// The connection is over: a SYN opens another one in its place.
    #[inline(always)]
    pub fn is_over(&self) -> bool {
        matches!(phase(self.life.get()), Phase::Closed)
    }

    /// A packet of `side` was seen, with these flags of TCP.
    #[inline(always)]
    pub fn touch(&self, life: u64, side: Side, tcp_flags: u8, now: u32) {
        const FIN_FLAG: u8 = 1;
        const SYN_FLAG: u8 = 2;
        const RST_FLAG: u8 = 4;
        let mut flags = life as u32 as u64;
        if let Side::Real = side {
            flags |= REPLIED;
        } else if flags & REPLIED != 0 && tcp_flags & SYN_FLAG == 0 {
            flags |= OPEN;
        }
        if tcp_flags & FIN_FLAG != 0 {
            flags |= if let Side::Real = side { FIN_REAL } else { FIN_CLIENT };
        }
        if tcp_flags & RST_FLAG != 0 {
            flags |= RST;
        }
        let new = (now as u64) << TICK_SHIFT | flags;
        // written only when it changes: the line stays shared between cores
        if new != life {
            self.life.set(new);
        }
    }

    /// Takes the place, if nobody's packets are expected here any more (`over`: or if the connection that is here is
    /// over). `true`: it is this core's until [`Nat::fill`].
    #[inline(always)]
    pub fn claim(&self, rules: &NatRules, now: u32, over: bool) -> bool {
        let (lock, life) = (self.lock.get(), self.life.get());
        let free = life & LIVE == 0 || is_silent(rules, life, now, SLACK) || over;
        if !free || lock >= CLAIM {
            return false;
        }
        self.lock.add(CLAIM);
        // Alone, and nobody has come and gone since: two that come at once both see it, and both go.
        if self.lock.get() == lock.wrapping_add(CLAIM) {
            self.life.set(0);
            in_order();
            return true;
        }
        self.lock.add(CLAIM.wrapping_neg());
        false
    }

    /// Writes a claimed entry, and lets it be found.
    #[inline(always)]
    pub fn fill(&self, opening: &Opening, vip: u32, now: u32) {
        let ([a, b], [c, d]) = (&self.client, &self.vip);
        let ([client, client_low], [address, address_low]) = (opening.client, opening.vip);
        a.set(client);
        b.set(client_low);
        c.set(address);
        d.set(address_low);
        self.ports.set(opening.ports);
        let flags = if opening.client_v6 { CLIENT_V6 } else { 0 } | if opening.tcp { TCP } else { 0 };
        let who = (vip as u64) << VIP_SHIFT | (opening.source as u64) << SOURCE_SHIFT | flags | opening.real as u64 & REAL;
        self.who.set(who);
        self.back.set(0);
        self.life.publish((now as u64) << TICK_SHIFT | LIVE | if opening.tcp { 0 } else { UDP });
        self.lock.add(GENERATION.wrapping_sub(CLAIM));
    }

    /// The MAC that the client's packets come from; 0: not known.
    #[inline(always)]
    pub fn back(&self) -> u64 {
        self.back.get()
    }

    /// The MAC that they are sent to.
    #[inline(always)]
    pub fn home(&self) -> u64 {
        self.home.get()
    }

    /// The tag that they have; 0: none.
    #[inline(always)]
    pub fn tag(&self) -> u32 {
        self.arrival.get() as u32
    }

    /// Index of the interface that they come by; 0: there is only one.
    #[inline(always)]
    pub fn interface(&self) -> u32 {
        (self.arrival.get() >> 32) as u32
    }

    /// Notes the way that a packet of the client came by.
    #[inline(always)]
    pub fn set_way_back(&self, from: u64, to: u64, interface: u32, tag: u32) {
        let arrival = (interface as u64) << 32 | tag as u64;
        for (cell, word) in [(&self.back, from), (&self.home, to), (&self.arrival, arrival)] {
            if cell.get() != word {
                cell.set(word);
            }
        }
    }
}

/// The control plane's side.
#[cfg(not(target_arch = "bpf"))]
impl Nat {
    /// The connection that is here, and its phase.
    pub fn entry(&self) -> Option<(Found, Phase)> {
        let life = self.life.get();
        (life & LIVE != 0).then(|| (self.read(), phase(life)))
    }

    /// The claims on it and its generation, if there are claims: [`Nat::release`] takes them off if they are of nobody.
    pub fn claimed(&self) -> Option<u64> {
        let lock = self.lock.get();
        (lock >= CLAIM).then_some(lock)
    }

    /// Takes the claims off that there were when it was `seen`, if they still are the same; every core that may have made them
    /// has passed since, so they are of cores that died.
    pub fn release(&self, seen: u64) -> bool {
        let same = self.lock.get() == seen;
        if same {
            self.lock.add((seen & !(CLAIM.wrapping_sub(1))).wrapping_neg());
        }
        same
    }

    /// Forgets it.
    pub fn forget(&self) {
        self.life.set(0);
    }

    /// The entry as it is.
    pub fn snapshot(&self) -> [u64; 11] {
        let ([a, b], [c, d]) = (&self.client, &self.vip);
        [a, b, c, d, &self.ports, &self.who, &self.lock, &self.life, &self.back, &self.home, &self.arrival].map(S64::get)
    }
}

#[cfg(not(target_arch = "bpf"))]
impl Answer {
    /// The word as it is.
    pub fn snapshot(&self) -> u64 {
        self.0.get()
    }
}
