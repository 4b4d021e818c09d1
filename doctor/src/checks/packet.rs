//! What the packet filter does with one packet: its rules are run as the kernel runs them, on the packet's bytes.
//!
//! Where a rule asks for something that is not known here (a counter's limit, an extension of iptables), it is not known
//! either what the rule does; then nothing is said about the packet, rather than something wrong.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::facts::{Chain, Element, Filter, FilterRule, Step, Verdict};

/// Hooks of `netfilter.h`.
pub(super) const PREROUTING: u32 = 0;
pub(super) const INPUT: u32 = 1;
pub(super) const FORWARD: u32 = 2;
pub(super) const POSTROUTING: u32 = 4;
/// `NF_CT_STATE_BIT(IP_CT_NEW)` and so on: what connection tracking says of a first packet.
const NEW: u32 = 8;
/// Chains that call each other; the kernel's own limit (`NFT_JUMP_STACK_SIZE`).
const DEPTH: usize = 16;

/// A packet, as the filter sees it.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    /// What it is, in words.
    pub what: String,
    /// How a rule would name it, for `nft`.
    pub rule: String,
    pub from: IpAddr,
    pub to: IpAddr,
    pub protocol: u8,
    /// The transport header.
    pub transport: Vec<u8>,
    /// The device it comes in by, if that is known.
    pub by: Option<String>,
}

impl Packet {
    /// The IP header.
    fn network(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                bytes.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, self.protocol, 0, 0]);
                bytes.extend(from.octets());
                bytes.extend(to.octets());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                bytes.extend([0x60, 0, 0, 0, 0, 40, self.protocol, 64]);
                bytes.extend(from.octets());
                bytes.extend(to.octets());
            }
            _ => {}
        }
        bytes
    }

    fn is_v6(&self) -> bool {
        self.to.is_ipv6()
    }
}

/// What becomes of it in a chain.
enum Outcome {
    /// It goes on: the end of the chain, or an `accept`.
    Passed,
    /// It is back in the calling chain.
    Returned,
    /// It is dropped by this rule; `None`: by the chain's default.
    Dropped(Option<u64>),
    /// A rule cannot be followed.
    Unknown(u64),
}

/// Who drops a packet, or cannot be followed.
pub(super) struct Culprit<'f> {
    /// The base chain that the packet is lost in.
    pub base: &'f Chain,
    /// The rule; `None`: the default of the chain.
    pub handle: Option<u64>,
    /// Whether it is known to drop, or not understood.
    pub is_certain: bool,
}

/// Runs a packet through the base chains of these hooks; who drops it, if anybody does.
pub(super) fn run<'f>(filter: &'f Filter, packet: &Packet, hooks: &[u32]) -> Option<Culprit<'f>> {
    let own = if packet.is_v6() { "ip6" } else { "ip" };
    let mut unknown = None;
    for hook in hooks {
        let is_base =
            |chain: &&Chain| chain.hook.is_some_and(|(at, _)| at == *hook) && (chain.family == "inet" || chain.family == own);
        let mut bases: Vec<&Chain> = filter.chains.iter().filter(is_base).collect();
        bases.sort_by_key(|chain| chain.hook.map(|(_, priority)| priority));
        for base in bases {
            match walk(filter, base, packet, 0) {
                Outcome::Passed => {}
                Outcome::Returned if !base.drops => {}
                Outcome::Returned => return Some(Culprit { base, handle: None, is_certain: true }),
                Outcome::Dropped(handle) => return Some(Culprit { base, handle, is_certain: true }),
                Outcome::Unknown(handle) => {
                    unknown = unknown.or(Some(Culprit { base, handle: Some(handle), is_certain: false }));
                }
            }
        }
    }
    unknown
}

/// The rules of a chain, in their order. The end of a base chain is `Returned`, too.
fn walk(filter: &Filter, chain: &Chain, packet: &Packet, depth: usize) -> Outcome {
    for rule in &chain.rules {
        let Some(verdict) = decide(filter, chain, rule, packet) else {
            // Nobody knows whether it matches. What cannot end the packet's way may be passed over.
            if rule.steps.iter().any(|step| matches!(step, Step::Verdict(Verdict::Accept | Verdict::Continue))) && !chain.drops {
                continue;
            }
            let ends = |step: &Step| matches!(step, Step::Verdict(_) | Step::Lookup { verdicts: true, .. });
            if rule.steps.iter().any(ends) {
                return Outcome::Unknown(rule.handle);
            }
            continue;
        };
        let (called, comes_back) = match verdict {
            Verdict::Continue => continue,
            Verdict::Accept => return Outcome::Passed,
            Verdict::Drop => return Outcome::Dropped(Some(rule.handle)),
            Verdict::Return => return Outcome::Returned,
            Verdict::Jump(name) => (name, true),
            Verdict::Goto(name) => (name, false),
        };
        let is_it = |other: &&Chain| other.family == chain.family && other.table == chain.table && other.name == called;
        let Some(next) = filter.chains.iter().find(is_it).filter(|_| depth < DEPTH) else {
            return Outcome::Unknown(rule.handle);
        };
        match walk(filter, next, packet, depth + 1) {
            Outcome::Returned if comes_back => {}
            other => return other,
        }
    }
    Outcome::Returned
}

/// What one rule says: [`Verdict::Continue`] if it does not match; `None` if that is not known.
fn decide(filter: &Filter, chain: &Chain, rule: &FilterRule, packet: &Packet) -> Option<Verdict> {
    let mut registers: BTreeMap<u32, Option<Vec<u8>>> = BTreeMap::new();
    let mut is_sure = true;
    for step in &rule.steps {
        match step {
            Step::Meta { key, to } => drop(registers.insert(*to, meta(packet, *key))),
            // 0 is the state.
            Step::Ct { key, to } => drop(registers.insert(*to, (*key == 0).then(|| NEW.to_ne_bytes().to_vec()))),
            Step::Payload { base, offset, len, to } => {
                drop(registers.insert(*to, payload(packet, *base, *offset as usize, *len as usize)));
            }
            Step::Bits { from, to, mask, flip } => {
                let value = registers.get(from).cloned().flatten();
                let changed = value.map(|value| {
                    let masks = mask.iter().zip(flip);
                    value.iter().zip(masks).map(|(byte, (mask, flip))| byte & mask ^ flip).collect()
                });
                registers.insert(*to, changed);
            }
            Step::Compare { from, how, value } => match registers.get(from).cloned().flatten() {
                None => is_sure = false,
                Some(found) if holds(&found, *how, value) => {}
                Some(_) => return Some(Verdict::Continue),
            },
            Step::Lookup { from, set, inverted, verdicts } => {
                let found = registers.get(from).cloned().flatten();
                let element = match found.map(|key| look_up(filter, chain, set, &key)) {
                    None | Some(None) => {
                        is_sure = false;
                        if *verdicts {
                            return None;
                        }
                        continue;
                    }
                    Some(Some(element)) => element,
                };
                match (element, verdicts) {
                    (Some(element), true) if is_sure => return element.verdict.clone(),
                    (Some(_), true) => return None,
                    (element, _) if element.is_some() == *inverted => return Some(Verdict::Continue),
                    _ => {}
                }
            }
            Step::Verdict(verdict) => return is_sure.then(|| verdict.clone()),
            Step::Counter(_) => {}
            // Those do not decide whether a rule matches.
            Step::Other(name)
                if matches!(name.as_str(), "log" | "notrack" | "objref" | "immediate" | "meta" | "ct" | "payload") => {}
            Step::Other(name) if matches!(name.as_str(), "nat" | "masq" | "redir" | "tproxy" | "queue") => {
                return is_sure.then_some(Verdict::Accept);
            }
            Step::Other(_) => is_sure = false,
        }
    }
    Some(Verdict::Continue)
}

/// `NFT_CMP_EQ`, `_NEQ`, `_LT`, `_LTE`, `_GT`, `_GTE`.
fn holds(found: &[u8], how: u32, value: &[u8]) -> bool {
    let found = found.get(..value.len()).unwrap_or(found);
    match how {
        0 => found == value,
        1 => found != value,
        2 => found < value,
        3 => found <= value,
        4 => found > value,
        _ => found >= value,
    }
}

/// `NFT_META_*`.
fn meta(packet: &Packet, key: u32) -> Option<Vec<u8>> {
    let name = |name: &str| {
        let mut bytes = name.as_bytes().to_vec();
        bytes.resize(16, 0);
        bytes
    };
    match key {
        1 => Some(if packet.is_v6() { 0x86dd_u16 } else { 0x0800 }.to_be_bytes().to_vec()),
        3 => Some(vec![0; 4]),
        6 => packet.by.as_deref().map(name),
        15 => Some(vec![if packet.is_v6() { 10 } else { 2 }]),
        16 => Some(vec![packet.protocol]),
        _ => None,
    }
}

/// `NFT_PAYLOAD_*`.
fn payload(packet: &Packet, base: u32, offset: usize, len: usize) -> Option<Vec<u8>> {
    let header = match base {
        1 => packet.network(),
        2 => packet.transport.clone(),
        _ => return None,
    };
    Some(header.get(offset..offset.checked_add(len)?)?.to_vec())
}

/// Looks for a key; the outer `None`: the set is of a kind that is not understood.
fn look_up<'f>(filter: &'f Filter, chain: &Chain, set: &str, key: &[u8]) -> Option<Option<&'f Element>> {
    let of = |found: &&crate::facts::Set| found.family == chain.family && found.table == chain.table && found.name == set;
    let set = filter.sets.iter().find(of)?;
    if set.elements.iter().any(|element| element.key.len() != key.len()) {
        return None;
    }
    if !set.intervals {
        return Some(set.elements.iter().find(|element| element.key == key));
    }
    // The nearest element at or below the key begins its interval, or ended the last one.
    let below = set.elements.iter().filter(|element| element.key.as_slice() <= key);
    Some(below.max_by(|a, b| (&a.key, !a.end).cmp(&(&b.key, !b.end))).filter(|element| !element.end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(protocol: u8) -> Packet {
        Packet {
            what: String::new(),
            rule: String::new(),
            from: "10.0.0.1".parse().unwrap(),
            to: "10.0.0.2".parse().unwrap(),
            protocol,
            transport: vec![0x9c, 0x40, 0, 80],
            by: Some("eth0".to_owned()),
        }
    }

    fn filter(drops: bool, rules: Vec<Vec<Step>>, elements: Vec<Element>, intervals: bool) -> Filter {
        let rules = (1..).zip(rules).map(|(handle, steps)| FilterRule { handle, steps }).collect();
        let names = ("inet".to_owned(), "t".to_owned(), "s".to_owned());
        let chain =
            Chain { family: names.0.clone(), table: names.1.clone(), name: "in".into(), hook: Some((1, 0)), drops, rules };
        let set = crate::facts::Set { family: names.0, table: names.1, name: names.2, intervals, elements };
        Filter { chains: vec![chain], sets: vec![set], legacy: vec![] }
    }

    fn protocol_is(protocol: u8) -> Vec<Step> {
        vec![Step::Meta { key: 16, to: 1 }, Step::Compare { from: 1, how: 0, value: vec![protocol] }]
    }

    fn verdict(filter: &Filter, packet: &Packet) -> &'static str {
        match run(filter, packet, &[INPUT]) {
            None => "passed",
            Some(culprit) if culprit.is_certain && culprit.handle.is_none() => "default",
            Some(culprit) if culprit.is_certain => "dropped",
            Some(_) => "unknown",
        }
    }

    #[test]
    fn rules_decide_by_the_packets_bytes() {
        let dropping = [protocol_is(4), vec![Step::Counter(1), Step::Verdict(Verdict::Drop)]].concat();
        let drops = filter(false, vec![dropping.clone()], vec![], false);
        assert_eq!((verdict(&drops, &packet(4)), verdict(&drops, &packet(6))), ("dropped", "passed"));
        let accepts = filter(true, vec![[protocol_is(6), vec![Step::Verdict(Verdict::Accept)]].concat()], vec![], false);
        assert_eq!((verdict(&accepts, &packet(4)), verdict(&accepts, &packet(6))), ("default", "passed"));
        // What is not understood is not guessed.
        let vague = filter(false, vec![[vec![Step::Other("limit".into())], dropping].concat()], vec![], false);
        assert_eq!((verdict(&vague, &packet(4)), verdict(&vague, &packet(6))), ("unknown", "passed"));
    }

    #[test]
    fn ports_are_found_in_sets_and_intervals() {
        let element = |port: u16, end| Element { key: port.to_be_bytes().to_vec(), end, verdict: None };
        let rule = |inverted| {
            vec![
                Step::Payload { base: 2, offset: 2, len: 2, to: 1 },
                Step::Lookup { from: 1, set: "s".into(), inverted, verdicts: false },
                Step::Verdict(Verdict::Drop),
            ]
        };
        let plain = |inverted, port| filter(false, vec![rule(inverted)], vec![element(22, false), element(port, false)], false);
        assert_eq!(verdict(&plain(false, 80), &packet(6)), "dropped");
        assert_eq!(verdict(&plain(false, 81), &packet(6)), "passed");
        assert_eq!(verdict(&plain(true, 80), &packet(6)), "passed");
        let range =
            |from, to| filter(false, vec![rule(false)], vec![element(0, true), element(from, false), element(to, true)], true);
        assert_eq!((verdict(&range(70, 90), &packet(6)), verdict(&range(70, 80), &packet(6))), ("dropped", "passed"));
    }
}
