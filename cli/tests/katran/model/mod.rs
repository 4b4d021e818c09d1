//! Katran's behaviour as the reference text states it, sections 1 to 7, executable: plain data, byte vectors and maps, one
//! rule after the other, each with its number. Slow, and nothing like an engine: it is what the engine is compared with.
//!
//! One CPU, a connection table that never evicts, and a clock that stands still, as in `tandem replay`. Where Katran has
//! a build switch, a key of the configuration decides.

mod choice;
mod decap;
mod encap;
pub mod hash;
mod icmp;
mod parse;
pub mod ring;
mod rules;
mod server_ids;
pub mod sums;
mod tally;

use std::collections::HashMap;
use std::net::IpAddr;

use crate::settings::Settings;
use rules::Rules;
pub use tally::Tally;

/// What became of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// `tx`, `pass` or `drop`.
    pub action: &'static str,
    /// The product's name for it.
    pub reason: &'static str,
    pub vip: Option<String>,
    pub real: Option<IpAddr>,
    /// `flow`, `ring`, `server-id`, `source-route` or `none`.
    pub from: &'static str,
    /// As it was left.
    pub frame: Vec<u8>,
}

/// How a pass over a frame ends, other than by getting to the next rule.
enum End {
    Tx(&'static str),
    Pass(&'static str),
    Drop(&'static str),
    /// Decapsulated, and once more from the start.
    Again,
}

/// A rule's result: something for the next one, or the end.
type Rule<T> = Result<T, End>;

/// A key of the connection table: source, destination, ports as on the wire, protocol.
type Key = ([u8; 16], [u8; 16], [u8; 4], u8);

/// An entry of the connection table (section 2). Time stands still, so that an `atime` is 0 or now.
#[derive(Clone, Copy)]
struct Entry {
    real: IpAddr,
    has_time: bool,
}

/// Packet flags and flow (section 0).
#[derive(Clone, Default)]
struct Packet {
    v6: bool,
    /// IPv4 in the first four bytes, the others 0.
    src: [u8; 16],
    dst: [u8; 16],
    sport: [u8; 2],
    dport: [u8; 2],
    proto: u8,
    tos: u8,
    /// `pkt_bytes`: the length field of the IP header.
    bytes: u16,
    /// The flow was taken from a quoted packet.
    icmp: bool,
    syn: bool,
    rst: bool,
}

impl Packet {
    /// Section 1.1: where the fourth layer begins; further behind for quoted packets.
    fn l4(&self) -> usize {
        match (self.v6, self.icmp) {
            (false, false) => 34,
            (true, false) => 54,
            (false, true) => 62,
            (true, true) => 102,
        }
    }

    fn key(&self) -> Key {
        let ports = [self.sport[0], self.sport[1], self.dport[0], self.dport[1]];
        (self.src, self.dst, ports, self.proto)
    }
}

/// A balancer with one CPU.
pub struct Model {
    rules: Rules,
    table: HashMap<Key, Entry>,
    /// NEW_CONN_RATE (2.7): the count of the window, which never ends.
    window: u64,
    tally: Tally,
}

/// One frame on its way through the rules.
struct Walk<'m> {
    model: &'m mut Model,
    frame: Vec<u8>,
    vip: Option<usize>,
    real: Option<IpAddr>,
    from: &'static str,
}

impl Model {
    pub fn new(settings: &Settings) -> Self {
        Self { rules: Rules::new(settings), table: HashMap::new(), window: 0, tally: Tally::default() }
    }

    /// Another configuration; flows and counters stay.
    pub fn configure(&mut self, settings: &Settings) {
        self.rules = Rules::new(settings);
    }

    /// Counters so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// One frame.
    pub fn frame(&mut self, frame: &[u8]) -> Outcome {
        let mut walk = Walk { model: self, frame: frame.to_vec(), vip: None, real: None, from: "none" };
        let (action, reason) = walk.all_passes();
        let Walk { frame, vip, real, from, .. } = walk;
        *self.tally.reasons.entry(reason).or_default() += 1;
        let vip = vip.map(|vip| self.rules.vips[vip].name.clone());
        Outcome { action, reason, vip, real, from, frame }
    }
}

/// Tail calls that the kernel makes at most (`MAX_TAIL_CALL_CNT`).
const TAIL_CALLS: usize = 33;

impl Walk<'_> {
    /// Section 1, rules 1, 2 and 4.
    fn all_passes(&mut self) -> (&'static str, &'static str) {
        if self.frame.len() < 14 {
            return ("drop", "frame-too-short");
        }
        for pass in 0.. {
            let length = self.frame.len() as u64;
            self.event("frames", 1);
            self.event("bytes", length);
            let end = match self.one_pass() {
                Err(End::Again) if pass < TAIL_CALLS => continue,
                Err(End::Again) => End::Pass("decapsulated"),
                Err(end) => end,
                Ok(reason) => End::Tx(reason),
            };
            let (action, reason, bytes) = match end {
                End::Tx(reason) => ("tx", reason, "tx-bytes"),
                End::Drop(reason) => ("drop", reason, "drop-bytes"),
                End::Pass(reason) => ("pass", reason, "pass-bytes"),
                End::Again => unreachable!("handled above"),
            };
            self.event(bytes, length);
            return (action, reason);
        }
        unreachable!("the passes are bounded")
    }

    /// Section 1, rule 3 and everything behind it.
    fn one_pass(&mut self) -> Rule<&'static str> {
        let mut packet = self.parse()?;
        let vip = self.lookup(&mut packet).ok_or(End::Pass("not-a-vip"))?;
        self.vip = Some(vip);
        self.size(&packet)?;
        self.forward(packet, vip)
    }

    /// Section 1.5. May set the destination port to 0.
    fn lookup(&self, packet: &mut Packet) -> Option<usize> {
        let rules = &self.model.rules;
        let exact = |port| rules.exact(&packet.dst, port, packet.proto);
        if let Some(vip) = exact(packet.dport) {
            return Some(vip);
        }
        let prefix = |port| rules.longest_prefix(packet.v6, &packet.dst, port, packet.proto);
        let vip = prefix(packet.dport).or_else(|| exact([0; 2])).or_else(|| prefix([0; 2]))?;
        // Also when a prefix matched with the packet's own port.
        if !rules.has(vip, "hash-dport-only") && !rules.has(vip, "hash-src-dst-port") {
            packet.dport = [0; 2];
        }
        Some(vip)
    }

    /// Section 1.6.
    fn size(&mut self, packet: &Packet) -> Rule<()> {
        let tunnel = &self.model.rules.tunnel;
        if self.frame.len() <= tunnel.max_frame {
            return Ok(());
        }
        if tunnel.too_big == "drop" {
            return Err(End::Drop("frame-too-big"));
        }
        let mtu = tunnel.max_frame - 14;
        self.event(if packet.v6 { "too-big-v6" } else { "too-big-v4" }, 1);
        self.frame = icmp::too_big(&self.frame, packet.v6, mtu);
        Err(End::Tx("too-big-reply"))
    }

    fn event(&mut self, name: &'static str, by: u64) {
        *self.model.tally.events.entry(name).or_default() += by;
    }

    /// A counter of the VIP.
    fn vip_event(&mut self, vip: usize, name: &'static str, by: u64) {
        let name_of_vip = self.model.rules.vips[vip].name.clone();
        *self.model.tally.vips.entry((name_of_vip, name)).or_default() += by;
    }

    /// A counter of the real, over all VIPs.
    fn real_event(&mut self, real: IpAddr, name: &'static str, by: u64) {
        *self.model.tally.reals.entry((real, name)).or_default() += by;
    }

    /// These bytes of the frame, if it has them.
    fn at(&self, at: usize, len: usize) -> Option<&[u8]> {
        self.frame.get(at..at + len)
    }
}
