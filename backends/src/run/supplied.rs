//! What the host supplies to a plan: addresses, MACs, next hops, a key.

use std::time::Duration;

use tandem_engine::memory::reals::Out;
use tandem_engine::wire::mac_word;

use super::error::RunError;
use super::hops::tell;
use crate::config::{Encap, Plan};
use crate::control::{Facts, Reached};
use crate::facts::{Found, Interface, Netlink, Ways};
use crate::memory::Tables;
use crate::xdp::Balancer;

/// How long next hops that do not answer are waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the tables need to know of the host for this plan. `known`: the ways that a running balancer follows already.
pub(super) fn facts(
    plan: &Plan,
    interfaces: &[Interface],
    netlink: &Netlink,
    balancer: &Balancer,
    known: Option<Ways>,
) -> Result<(Facts, Option<Ways>), RunError> {
    let interface = interfaces.first().ok_or(RunError::NoInterface)?;
    let name = &interface.name;
    let lacks = |what: &str, key: &str| {
        RunError::Lacks(format!("{name} has no {what}, and the configuration does not say one; set {key}"))
    };
    let local_mac = plan.local_mac.or(interface.mac).ok_or_else(|| lacks("MAC", "node.local_mac"))?;
    let source_v4 = plan.source_v4.or(interface.v4);
    let source_v6 = plan.source_v6.or(interface.v6);
    if plan.needs_source_v4() && source_v4.is_none() {
        return Err(lacks("IPv4 address", "tunnel.source_v4"));
    }
    if plan.needs_source_v6() && source_v6.is_none() {
        return Err(lacks("IPv6 address", "tunnel.source_v6"));
    }
    let reals = plan.reals();
    let (hops, ways) = match plan.next_hop_mac {
        Some(mac) => {
            // Without a MAC of its own, a frame leaves with that of the interface it came in by.
            let from = plan.local_mac.filter(|_| interfaces.len() > 1).map_or(0, |mac| mac_word(mac.0));
            let out = Out { mtu: plan.path_mtu.unwrap_or(0), ..Reached::from(mac).out };
            (reals.iter().map(|real| (*real, Some(Reached { from, out, ..Reached::from(mac) }))).collect(), None)
        }
        None => {
            let new = || Ways::new(interfaces.iter().map(|interface| interface.index).collect(), local_mac);
            let mut ways = known.unwrap_or_else(new);
            let before = ways.found().clone();
            ways.look_within(netlink, &reals, PATIENCE)?;
            for (real, hop) in ways.found() {
                tell(*real, before.get(real), hop);
            }
            no_gateway_to_l2(plan, ways.found())?;
            (ways.hops(plan.path_mtu), Some(ways))
        }
    };
    let udp_idle_ticks = balancer.clock().ticks(plan.udp_idle);
    let nat_idle_ticks = plan.nat.idle.map(|idle| balancer.clock().ticks(idle));
    let control_loss_ticks = balancer.clock().ticks(plan.control_loss_after);
    let second_ticks = balancer.clock().ticks(Duration::from_secs(1));
    let facts = Facts {
        local_mac,
        source_v4,
        source_v6,
        udp_idle_ticks,
        nat_idle_ticks,
        control_loss_ticks,
        second_ticks,
        key: key(plan)?,
        hops,
    };
    Ok((facts, ways))
}

/// A frame without a tunnel has to go to the real itself: a gateway would route it by its destination, back to us.
fn no_gateway_to_l2(plan: &Plan, hops: &Found) -> Result<(), RunError> {
    let reals = plan.vips.iter().flat_map(|vip| &vip.reals).filter(|real| real.encap == Encap::L2);
    let behind = reals.filter_map(|real| Some((real.address, hops.get(&real.address)?.as_ref().ok()?.via)));
    match behind.into_iter().find(|(real, via)| real != via) {
        Some((real, via)) => Err(RunError::Lacks(format!(
            "real {real} has encap \"l2\" and is behind the gateway {via}; put it on the interface's own network, or choose a tunnel"
        ))),
        None => Ok(()),
    }
}

/// The key of the flow table: that of the file, or a new one.
fn key(plan: &Plan) -> Result<[u32; 16], RunError> {
    let Some(path) = &plan.key_file else { return random_key() };
    let lacks = |what: String| RunError::Lacks(format!("flows.key_file: {}: {what}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| lacks(format!("{error}; `openssl rand -hex 64` makes a key")))?;
    let digits = text.trim();
    let word = |at: usize| digits.get(at * 8..at * 8 + 8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let words: Option<Vec<u32>> = (0..16).map(word).collect();
    let is_hex = digits.len() == 128 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let words = words.filter(|_| is_hex).and_then(|words| words.try_into().ok());
    words.ok_or_else(|| {
        lacks(format!(
            "{} characters, expected 128 hexadecimal digits; `openssl rand -hex 64` makes a key",
            digits.chars().count()
        ))
    })
}

/// Whether tables that were taken over have the key of the plan.
///
/// # Errors
/// [`RunError::Lacks`]: they have another one, and would find no flow of a balancer with this one.
pub(super) fn check_key(plan: &Plan, facts: &Facts, tables: &Tables) -> Result<(), RunError> {
    let same = tables.root().key.iter().zip(facts.key).all(|(cell, word)| cell.get() == word);
    match &plan.key_file {
        Some(path) if !same => Err(RunError::Lacks(format!(
            "flows.key_file: {}: the pinned tables were made with another key; `tandem detach` removes them (their flows are lost), \
             then start again",
            path.display()
        ))),
        _ => Ok(()),
    }
}

fn random_key() -> Result<[u32; 16], RunError> {
    let mut key = [0_u32; 16];
    let bytes = size_of_val(&key);
    // SAFETY: the buffer is `bytes` long and any contents are valid integers.
    let got = unsafe { libc::getrandom(key.as_mut_ptr().cast(), bytes, 0) };
    if usize::try_from(got) == Ok(bytes) { Ok(key) } else { Err(RunError::Lacks("the kernel gave no random numbers".to_owned())) }
}
