//! What must come back, and how often the flow table must know a flow: the engine says it, on tables of its own.

use std::collections::HashMap;

use anyhow::Result;
use etherparse::{NetSlice, SlicedPacket};
use tandem_backends::config::Plan;
use tandem_backends::replay::{Backend, Instance};
use tandem_engine::From;

use crate::device::Mode;
use crate::frames::{frame, frame_of, payload_at, transport_at};
use crate::pkt::Step;
use crate::scenario::{Item, Scenario};
use crate::wire::{SAMPLE_BYTES, Sample};

/// Frames of one pass when a hit ratio is worked out.
const PASS: usize = 200_000;

/// The engine with the balancer's configuration.
pub struct Oracle {
    instance: Instance,
}

/// How sampled frames compare.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Compared {
    /// Frames compared.
    pub compared: u64,
    /// What is wrong with some of them.
    pub wrong: Vec<String>,
}

impl Oracle {
    /// An engine with tables for `plan`.
    ///
    /// # Errors
    /// No memory, or the plan lacks addresses.
    pub fn new(plan: &Plan) -> Result<Self> {
        Ok(Self { instance: Instance::new(Backend::Engine, plan, 0)? })
    }

    /// Compares sampled frames with what the device must have made of the scenario's, with `overhead` bytes of outer headers. Of a
    /// program that is not ours only the client's packet is looked for.
    ///
    /// # Errors
    /// The engine does not take a frame.
    pub fn compare(&mut self, scenario: &Scenario, mode: Mode, overhead: usize, samples: &[Sample]) -> Result<Compared> {
        let inputs: HashMap<(u16, u16, usize), &Item> = scenario
            .sequence
            .iter()
            .filter(|item| !item.churn)
            .map(|item| ((item.step.src_port, item.step.src_ip as u16, item.step.size as usize - 4), item))
            .collect();
        let mut result = Compared::default();
        for sample in samples {
            let Some((port, client)) = client_of(sample, overhead, scenario.traffic.v6) else {
                result.wrong.push(format!("a frame of {} bytes holds no packet of the scenario's", sample.length));
                result.compared += 1;
                continue;
            };
            let Some(item) = inputs.get(&(port, client, sample.length.wrapping_sub(overhead))) else {
                // Another client of a flow that churns has no frame of its own to be compared with.
                if !scenario.churns() {
                    result.wrong.push(format!("source port {port}, {} bytes: the scenario has no such frame", sample.length));
                    result.compared += 1;
                }
                continue;
            };
            result.compared += 1;
            let mut input = frame_of(scenario, item);
            // The stamp is the generator's, and nobody's business.
            let at = payload_at(&scenario.traffic);
            let stamp = sample.bytes.get(at + overhead..at + overhead + 16);
            if let (Some(to), Some(stamp)) = (input.get_mut(at..at + 16), stamp) {
                to.copy_from_slice(stamp);
            }
            if let Some(what) = self.difference(mode, &input, sample)? {
                result.wrong.push(what);
            }
        }
        Ok(result)
    }

    fn difference(&mut self, mode: Mode, input: &[u8], sample: &Sample) -> Result<Option<String>> {
        let expected = match mode {
            Mode::Xdp | Mode::Afxdp => self.instance.frame(input)?.1.to_vec(),
            Mode::Bounce | Mode::AfxdpPlain => input.to_vec(),
            Mode::FixedHeader => return Ok(fixed_header(input, sample)),
            Mode::Drop | Mode::Program | Mode::Bytecode => return Ok(None),
        };
        if sample.length != expected.len() {
            return Ok(Some(format!("{} bytes, expected {}", sample.length, expected.len())));
        }
        let differs = sample.bytes.iter().zip(&expected).take(SAMPLE_BYTES).position(|(found, expected)| found != expected);
        Ok(differs.map(|at| {
            let (found, expected) = (sample.bytes.get(at).copied(), expected.get(at).copied());
            format!("byte {at} is {found:02x?}, expected {expected:02x?}")
        }))
    }

    /// The share of packets whose flow must be known once each was seen, in tables of the plan's capacity.
    ///
    /// # Errors
    /// The engine does not take a frame.
    pub fn expected_hit_ratio(plan: &Plan, scenario: &Scenario) -> Result<f64> {
        let mut instance = Instance::new(Backend::Engine, plan, 0)?;
        let (mut packets, mut hits) = (0_u32, 0_u32);
        for round in 0..3_u16 {
            for item in scenario.sequence.iter().take(PASS) {
                let bytes = if item.churn {
                    let client = (item.step.src_ip as u16).wrapping_add(round);
                    let src_ip = item.step.src_ip & !0xffff | u128::from(client);
                    frame(&scenario.traffic, &Step { src_ip, ..item.step }, item.syn)
                } else {
                    frame_of(scenario, item)
                };
                let (decision, _) = instance.frame(&bytes)?;
                if round == 2 {
                    packets += 1;
                    hits += u32::from(decision.from == Some(From::Flow));
                }
            }
        }
        Ok(f64::from(hits) / f64::from(packets.max(1)))
    }
}

/// Source port and the last two bytes of the client's address.
fn client_of(sample: &Sample, overhead: usize, v6: bool) -> Option<(u16, u16)> {
    let at = overhead + transport_at(v6);
    let half = |at: usize| sample.bytes.get(at..at + 2)?.first_chunk().map(|half| u16::from_be_bytes(*half));
    Some((half(at)?, half(at - if v6 { 18 } else { 6 })?))
}

/// The fixed header's one address, and the client's packet behind it with one hop less.
fn fixed_header(input: &[u8], sample: &Sample) -> Option<String> {
    let is_right = (|| {
        let packet = SlicedPacket::from_ethernet(&sample.bytes).ok()?;
        let NetSlice::Ipv4(outer) = packet.net? else { return None };
        let header = outer.header();
        let inner = sample.bytes.get(34..)?;
        let ttl = input.get(22)?.wrapping_sub(1);
        let kept = (inner.get(..8)?, inner.get(12..)?) == (input.get(14..22)?, input.get(26..)?.get(..inner.len() - 12)?);
        Some(header.protocol().0 == 4 && header.destination() == [10, 0, 0, 1] && *inner.get(8)? == ttl && kept)
    })();
    (is_right != Some(true)).then(|| "it is not the client's packet behind the fixed header".to_owned())
}
