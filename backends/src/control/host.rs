//! What the tables need to know of the host; found out elsewhere, given here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use hashbrown::HashMap;
use tandem_engine::memory::reals::Out;
use tandem_engine::memory::{Loss, Root};
use tandem_engine::wire::mac_word;

use crate::config::{Mac, OnControlLoss, Plan, Profile};

/// Where frames to a real go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reached {
    /// The next hop's MAC.
    pub mac: Mac,
    /// Where they leave this host.
    pub out: Out,
    /// Their source MAC, as a word; 0: [`Facts::local_mac`].
    pub from: u64,
}

impl From<Mac> for Reached {
    /// By the interface and in the VLAN that the frame came in by.
    fn from(mac: Mac) -> Self {
        Self { mac, out: Out { vlan: Out::SAME_VLAN, ..Out::default() }, from: 0 }
    }
}

/// The way to each real; `None`, or not in it: not known.
pub type Hops = HashMap<IpAddr, Option<Reached>>;

/// Facts of one host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Source MAC of what is sent.
    pub local_mac: Mac,
    /// Source of outer IPv4 headers: that of GUE, and of IPIP unless a prefix is configured.
    pub source_v4: Option<Ipv4Addr>,
    /// Source of outer IPv6 headers: that of GUE, and of IPIP unless a prefix is configured.
    pub source_v6: Option<Ipv6Addr>,
    /// Ticks that `flows.udp_idle` takes.
    pub udp_idle_ticks: u32,
    /// Ticks that silent connections of NAT are kept, by phase.
    pub nat_idle_ticks: [u32; 5],
    /// Ticks that the control process may be silent.
    pub control_loss_ticks: u32,
    /// Ticks of a second.
    pub second_ticks: u32,
    /// Key of the flow table's hash: used only if the tables are new.
    pub key: [u32; 16],
    /// Where each real is reached.
    pub hops: Hops,
}

impl Facts {
    /// Facts that come from the configuration and a seed alone, for `replay` and `trace`: every real is reached by
    /// `node.next_hop_mac`.
    ///
    /// # Errors
    /// Names the key that the configuration lacks.
    pub fn of_plan(plan: &Plan, seed: u64) -> Result<Self, String> {
        let lacks = |key: &str| format!("{key} is not set; without an interface it has to come from the configuration");
        let next_hop = plan.next_hop_mac.ok_or_else(|| lacks("node.next_hop_mac"))?;
        let local_mac = plan.local_mac.ok_or_else(|| lacks("node.local_mac"))?;
        // Katran starts without a source and drops what needs one.
        let strict = plan.profile == Profile::Standard;
        if strict && plan.needs_source_v4() {
            return Err(lacks("tunnel.source_v4"));
        }
        if strict && plan.needs_source_v6() {
            return Err(lacks("tunnel.source_v6"));
        }
        let out = Out { mtu: plan.path_mtu.unwrap_or(0), ..Reached::from(next_hop).out };
        let reached = Some(Reached { out, ..Reached::from(next_hop) });
        let hops = plan.reals().into_iter().map(|real| (real, reached)).collect();
        Ok(Self {
            local_mac,
            source_v4: plan.source_v4,
            source_v6: plan.source_v6,
            udp_idle_ticks: replay_ticks(plan.udp_idle),
            nat_idle_ticks: plan.nat.idle.map(replay_ticks),
            control_loss_ticks: replay_ticks(plan.control_loss_after),
            second_ticks: replay_ticks(Duration::from_secs(1)),
            key: key_of_seed(seed),
            hops,
        })
    }

    /// Writes what every frame needs, but for the tables, the features, the layout and the mode.
    pub(super) fn write(&self, plan: &Plan, root: &Root) {
        root.local_mac.set(mac_word(self.local_mac.0));
        root.max_frame.set(plan.max_frame);
        root.udp_idle.set(self.udp_idle_ticks);
        root.gue_port.set(u32::from(plan.gue_port.to_be()));
        let [fou_v4, fou_v6] = plan.fou_ports.map(|port| u64::from(port.to_be()));
        root.tunnel_ports.set(u64::from(plan.geneve_port.to_be()) << 32 | fou_v6 << 16 | fou_v4);
        root.zero_checksums.set(u32::from(plan.zero_checksums));
        root.guard_limit.set(plan.new_flows_per_core);
        // A window ends with the first tick that is more than this many after its first.
        root.guard_window.set(self.second_ticks.saturating_sub(1));
        let loss = match plan.on_control_loss {
            OnControlLoss::Keep => Loss::Keep,
            OnControlLoss::Pass => Loss::Pass,
            OnControlLoss::Drop => Loss::Drop,
        };
        root.set_loss(loss, self.control_loss_ticks);
        let plain_v4 = self.source_v4.unwrap_or(Ipv4Addr::UNSPECIFIED);
        root.source_v4.set(u32::from_ne_bytes(plain_v4.octets()));
        let plain_v6 = self.source_v6.unwrap_or(Ipv6Addr::UNSPECIFIED);
        for (cell, word) in root.source_v6.iter().zip(super::addr_words(plain_v6.into())) {
            cell.set(word);
        }
        let (base, vary) = match plan.source_prefix_v4 {
            Some((network, length)) => (network, host_bits(length, 32)),
            None => (plain_v4, 0),
        };
        root.craft_v4.set(u32::from_ne_bytes(base.octets()));
        root.vary_v4.set(vary.to_be());
        let (base, vary) = match plan.source_prefix_v6 {
            Some((network, length)) => (network, host_bits(length, 128)),
            None => (plain_v6, 0),
        };
        for (cell, word) in root.craft_v6.iter().zip(super::addr_words(base.into())) {
            cell.set(word);
        }
        root.vary_v6.set(vary.to_be());
    }
}

/// The lowest host bits of a prefix of `length` out of `bits`, 32 at most.
fn host_bits(length: u8, bits: u8) -> u32 {
    match bits.saturating_sub(length) {
        free @ 0..32 => (1 << free) - 1,
        _ => u32::MAX,
    }
}

/// Ticks of replays, where 256 ms are a tick as on a kernel of 250 Hz.
fn replay_ticks(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(256)).unwrap_or(u32::MAX).max(1)
}

/// SplitMix64 (Steele, Lea and Flood, 2014): from a seed to a key.
fn key_of_seed(seed: u64) -> [u32; 16] {
    let mut state = seed;
    std::array::from_fn(|_| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) as u32
    })
}
