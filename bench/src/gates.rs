//! What makes a measurement worthless, by name. Pure: the evidence comes from elsewhere, so that a test can supply any.

use serde::{Deserialize, Serialize};

use crate::host::HostState;

/// How far a hit ratio may be from what was expected.
const HIT_TOLERANCE: f64 = 0.01;
/// A paced generator must reach this share of the rate asked for.
const LEAST_OFFERED: f64 = 0.98;
/// Share of the frames that the device sent and the receiver may miss.
const LOST_OUTSIDE: f64 = 0.005;
/// Change of a core's frequency between begin and end that is too much.
const FREQUENCY_TOLERANCE: f64 = 0.05;

/// A named reason to cross a measurement out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// The wire did not carry the declared flows.
    DeclaredFlows,
    /// The flow table did not behave as spread, order and capacity say.
    HitRatio,
    /// The generator was slower than it was asked to be.
    GeneratorSlow,
    /// A receive queue was served on another core than the forwarding ones.
    QueueCore,
    /// The kernel bound otherwise than asked.
    BoundMode,
    /// A core's frequency changed, or it was throttled.
    Frequency,
    /// Another XDP program is on the interface.
    OtherProgram,
    /// Frames were lost behind the device under test.
    OutsideDrops,
    /// Frames are not what the engine says they must be.
    WrongFrames,
    /// Another seat than the one asked for forwarded frames.
    OtherSeat,
    /// A forwarding core is on another NUMA node than the NIC.
    OtherNode,
}

impl Gate {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::DeclaredFlows,
        Self::HitRatio,
        Self::GeneratorSlow,
        Self::QueueCore,
        Self::BoundMode,
        Self::Frequency,
        Self::OtherProgram,
        Self::OutsideDrops,
        Self::WrongFrames,
        Self::OtherSeat,
        Self::OtherNode,
    ];
}

/// A closed gate, and what was found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reason {
    /// Which.
    pub gate: Gate,
    /// Found and expected.
    pub what: String,
}

/// What is known of a measurement.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Evidence {
    /// Distinct flows that the scenario declares.
    pub declared_flows: u64,
    /// Distinct flows that came back; `None`: nothing comes back from this device.
    pub seen_flows: Option<u64>,
    /// Flows differ from round to round: there may be more.
    pub churns: bool,
    /// Share of packets whose flow must be known.
    pub expected_hit: Option<f64>,
    /// Share of packets whose flow was known.
    pub hit: Option<f64>,
    /// Frames per second asked for; `None`: as many as possible.
    pub asked_pps: Option<f64>,
    /// Frames per second sent.
    pub offered_pps: f64,
    /// Cores that served the receive queues.
    pub queue_cores: Vec<usize>,
    /// Cores that may forward.
    pub forwarding_cores: Vec<usize>,
    /// How it was to be bound; `None`: however the driver can.
    pub bound_asked: Option<String>,
    /// How it was bound.
    pub bound: String,
    /// The host before and after.
    pub host: Option<(HostState, HostState)>,
    /// The XDP program that was on the interface, and the one that should be.
    pub programs: Option<(Option<u32>, u32)>,
    /// Frames that the device sent; `None`: it does not count.
    pub device_sent: Option<u64>,
    /// Frames that the receiver got.
    pub came_back: u64,
    /// Sampled frames, and those of them that were wrong; with the first difference.
    pub compared: u64,
    /// See `compared`.
    pub wrong: Vec<String>,
    /// Frames that came to the receiver, but not as they should.
    pub others: u64,
    /// Frames that another seat forwarded.
    pub elsewhere: u64,
    /// The NUMA node of the NIC, if it has one.
    pub device_node: Option<u32>,
    /// Those of the forwarding cores, as far as the kernel says.
    pub core_nodes: Vec<(usize, u32)>,
}

/// The closed gates.
pub fn judge(evidence: &Evidence) -> Vec<Reason> {
    let checks: [fn(&Evidence) -> Option<Reason>; 11] =
        [flows, hit_ratio, generator, queue_core, bound, frequency, program, outside, frames, seat, node];
    checks.iter().filter_map(|check| check(evidence)).collect()
}

fn closed(gate: Gate, what: String) -> Option<Reason> {
    Some(Reason { gate, what })
}

fn flows(evidence: &Evidence) -> Option<Reason> {
    let (declared, seen) = (evidence.declared_flows, evidence.seen_flows?);
    let is_right = if evidence.churns { seen >= declared } else { seen == declared };
    if is_right {
        return None;
    }
    closed(Gate::DeclaredFlows, format!("{seen} distinct flows were seen, the scenario declares {declared}"))
}

fn hit_ratio(evidence: &Evidence) -> Option<Reason> {
    let (expected, found) = (evidence.expected_hit?, evidence.hit?);
    if (expected - found).abs() <= HIT_TOLERANCE {
        return None;
    }
    closed(Gate::HitRatio, format!("{:.2} % of the packets had a known flow, expected {:.2} %", found * 100.0, expected * 100.0))
}

fn generator(evidence: &Evidence) -> Option<Reason> {
    if evidence.offered_pps <= 0.0 {
        return closed(Gate::GeneratorSlow, "the generator sent nothing".to_owned());
    }
    let asked = evidence.asked_pps?;
    if evidence.offered_pps >= asked * LEAST_OFFERED {
        return None;
    }
    closed(Gate::GeneratorSlow, format!("{:.0} frames/s were offered, {asked:.0} were asked for", evidence.offered_pps))
}

fn queue_core(evidence: &Evidence) -> Option<Reason> {
    let wrong = evidence.queue_cores.iter().find(|core| !evidence.forwarding_cores.contains(core));
    let Some(wrong) = wrong else {
        let unknown = evidence.queue_cores.is_empty();
        return unknown.then(|| Reason { gate: Gate::QueueCore, what: "no thread serves the receive queue".to_owned() });
    };
    let cores = &evidence.forwarding_cores;
    closed(Gate::QueueCore, format!("the receive queue was served on core {wrong}, the forwarding cores are {cores:?}"))
}

fn bound(evidence: &Evidence) -> Option<Reason> {
    let asked = evidence.bound_asked.as_ref()?;
    if *asked == evidence.bound {
        return None;
    }
    closed(Gate::BoundMode, format!("{asked} was asked for, the kernel bound {}", evidence.bound))
}

fn frequency(evidence: &Evidence) -> Option<Reason> {
    let (before, after) = evidence.host.as_ref()?;
    if after.throttled > before.throttled {
        let times = after.throttled - before.throttled;
        return closed(Gate::Frequency, format!("cores were throttled {times} times"));
    }
    for (core, (before, after)) in before.kilohertz.iter().zip(&after.kilohertz).enumerate() {
        let (low, high) = (before.min(after), before.max(after));
        if *low > 0 && (high - low) as f64 > *low as f64 * FREQUENCY_TOLERANCE {
            return closed(Gate::Frequency, format!("core {core} went from {} to {} MHz", before / 1000, after / 1000));
        }
    }
    None
}

fn program(evidence: &Evidence) -> Option<Reason> {
    let (found, expected) = evidence.programs?;
    match found {
        Some(found) if found == expected => None,
        Some(found) => closed(Gate::OtherProgram, format!("XDP program {found} is on the interface, expected {expected}")),
        None => closed(Gate::OtherProgram, format!("no XDP program is on the interface, expected {expected}")),
    }
}

fn outside(evidence: &Evidence) -> Option<Reason> {
    let sent = evidence.device_sent?;
    let lost = sent.saturating_sub(evidence.came_back);
    if lost as f64 <= sent as f64 * LOST_OUTSIDE {
        return None;
    }
    closed(Gate::OutsideDrops, format!("{lost} of {sent} frames that the device sent did not reach the receiver"))
}

fn frames(evidence: &Evidence) -> Option<Reason> {
    if let Some(first) = evidence.wrong.first() {
        let (wrong, compared) = (evidence.wrong.len(), evidence.compared);
        return closed(Gate::WrongFrames, format!("{wrong} of {compared} sampled frames are wrong: {first}"));
    }
    // A frame now and then is the host's own (IPv6 neighbours).
    if evidence.others > evidence.came_back / 1000 + 100 {
        let others = evidence.others;
        return closed(Gate::WrongFrames, format!("{others} frames came back that are not of this traffic, or not encapsulated"));
    }
    if evidence.seen_flows.is_some() && evidence.came_back > 10_000 && evidence.compared == 0 {
        return closed(Gate::WrongFrames, "no frame was sampled".to_owned());
    }
    None
}

fn seat(evidence: &Evidence) -> Option<Reason> {
    let frames = evidence.elsewhere;
    if frames == 0 {
        return None;
    }
    closed(Gate::OtherSeat, format!("{frames} frames were forwarded in the kernel, for their queue had no worker"))
}

fn node(evidence: &Evidence) -> Option<Reason> {
    let device = evidence.device_node?;
    let (core, node) = evidence.core_nodes.iter().find(|(_, node)| *node != device)?;
    closed(Gate::OtherNode, format!("core {core} is on NUMA node {node}, the interface on node {device}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Evidence {
        Evidence {
            declared_flows: 101,
            seen_flows: Some(101),
            expected_hit: Some(1.0),
            hit: Some(0.9999),
            asked_pps: Some(100_000.0),
            offered_pps: 99_990.0,
            queue_cores: vec![1],
            forwarding_cores: vec![1],
            bound_asked: Some("native".to_owned()),
            bound: "native".to_owned(),
            host: Some((
                HostState { kilohertz: vec![3_000_000; 2], throttled: 7 },
                HostState { kilohertz: vec![3_010_000; 2], throttled: 7 },
            )),
            programs: Some((Some(5), 5)),
            device_sent: Some(100_000),
            came_back: 100_000,
            compared: 24,
            ..Evidence::default()
        }
    }

    #[test]
    fn what_is_right_is_valid() {
        assert_eq!(judge(&good()), []);
        assert_eq!(judge(&Evidence { seen_flows: Some(500), churns: true, ..good() }), []);
        assert_eq!(judge(&Evidence { others: 12, ..good() }), []);
    }

    /// Each gate by evidence as it would be recorded; those that a machine can be made to provoke are also provoked in
    /// `cli/tests/bench`.
    #[test]
    fn each_gate_closes_for_its_own_reason() {
        let state = |mhz: u64, throttled| HostState { kilohertz: vec![mhz * 1000; 2], throttled };
        let cases = [
            (
                Gate::DeclaredFlows,
                "32 distinct flows were seen, the scenario declares 101",
                Evidence { seen_flows: Some(32), ..good() },
            ),
            (Gate::HitRatio, "40.00 % of the packets had a known flow, expected 100.00 %", Evidence { hit: Some(0.4), ..good() }),
            (
                Gate::GeneratorSlow,
                "80000 frames/s were offered, 100000 were asked for",
                Evidence { offered_pps: 80_000.0, ..good() },
            ),
            (Gate::QueueCore, "served on core 0, the forwarding cores are [1]", Evidence { queue_cores: vec![1, 0], ..good() }),
            (Gate::QueueCore, "no thread serves", Evidence { queue_cores: vec![], ..good() }),
            (
                Gate::BoundMode,
                "native was asked for, the kernel bound generic",
                Evidence { bound: "generic".to_owned(), ..good() },
            ),
            // Recorded: this machine says nothing of frequencies.
            (
                Gate::Frequency,
                "core 0 went from 3700 to 2900 MHz",
                Evidence { host: Some((state(3700, 0), state(2900, 0))), ..good() },
            ),
            (Gate::Frequency, "throttled 3 times", Evidence { host: Some((state(3700, 1), state(3700, 4))), ..good() }),
            (
                Gate::OtherProgram,
                "XDP program 9 is on the interface, expected 5",
                Evidence { programs: Some((Some(9), 5)), ..good() },
            ),
            (Gate::OtherProgram, "no XDP program", Evidence { programs: Some((None, 5)), ..good() }),
            (Gate::OutsideDrops, "1000 of 100000 frames that the device sent", Evidence { came_back: 99_000, ..good() }),
            (Gate::WrongFrames, "1 of 24 sampled frames are wrong: TTL", Evidence { wrong: vec!["TTL".to_owned()], ..good() }),
            (Gate::WrongFrames, "5000 frames came back that are not", Evidence { others: 5000, ..good() }),
            (Gate::WrongFrames, "no frame was sampled", Evidence { compared: 0, ..good() }),
            // Recorded: this machine has one node.
            (
                Gate::OtherNode,
                "core 1 is on NUMA node 1, the interface on node 0",
                Evidence { device_node: Some(0), core_nodes: vec![(0, 0), (1, 1)], ..good() },
            ),
            (Gate::OtherSeat, "3 frames were forwarded in the kernel", Evidence { elsewhere: 3, ..good() }),
        ];
        for (gate, what, evidence) in cases {
            let reasons = judge(&evidence);
            assert_eq!(reasons.iter().map(|reason| reason.gate).collect::<Vec<_>>(), [gate], "{what}");
            assert!(reasons[0].what.contains(what), "{:?}", reasons[0]);
        }
    }
}
