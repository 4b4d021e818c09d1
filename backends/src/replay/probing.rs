//! Health checks' probes, frame by frame in either seat: `tandem replay --program health-encap`.

use std::net::IpAddr;

use serde_json::{Map, Value};
use tandem_engine::probe::{COUNTERS, Outcome, encapsulate, next_random};
use tandem_engine::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ipv4, Ipv6};

use super::decision::{Action, VerdictRow, real_addr};
use super::seats::{Backend, Instance, ReplayError, Seat};
use crate::config::Plan;
use crate::control::marks;
use crate::xdp::LARGEST_TEST_FRAME;

/// `TC_ACT_*` (include/uapi/linux/pkt_cls.h).
const UNSPEC: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;

/// The probes' encapsulation that is asked frame by frame.
pub struct Probing {
    instance: Instance,
    /// Socket mark of all frames, and the id of its real.
    mark: u32,
    real: Option<u32>,
    seed: u64,
    /// The generator of the engine's seat.
    random: u64,
    /// By [`Outcome`].
    counts: Vec<u64>,
    /// Of the kernel's counters, when they were last read.
    seen: Vec<u64>,
    too_short: u64,
    out: Vec<u8>,
}

impl Probing {
    /// Sets up a balancer for `plan`; `seed` makes every random choice.
    ///
    /// # Errors
    /// As [`Instance::new`].
    pub fn new(backend: Backend, plan: &Plan, seed: u64, mark: u32) -> Result<Self, ReplayError> {
        let mut instance = Instance::new(backend, plan, seed)?;
        let marks = marks(plan, instance.tables());
        if let Seat::Kernel(balancer) = &mut instance.seat {
            balancer.set_marks(&marks)?;
            balancer.set_random(seed)?;
        }
        let real = marks.iter().find(|(known, _)| *known == mark).map(|(_, real)| *real);
        let zero = vec![0; COUNTERS as usize];
        Ok(Self { instance, mark, real, seed, random: seed, counts: zero.clone(), seen: zero, too_short: 0, out: Vec::new() })
    }

    /// Sends one frame through; gives what became of it, and the frame as it was left.
    ///
    /// # Errors
    /// [`ReplayError::TooLarge`], or what the kernel says.
    pub fn frame(&mut self, number: u64, frame: &[u8]) -> Result<(VerdictRow<'static>, &[u8]), ReplayError> {
        if frame.len() > LARGEST_TEST_FRAME {
            return Err(ReplayError::TooLarge { found: frame.len() });
        }
        self.out.clear();
        if is_too_short(frame) {
            self.too_short += 1;
            self.out.extend_from_slice(frame);
            return Ok((VerdictRow::too_short(number), &self.out));
        }
        let tables = self.instance.tables().clone();
        tables.trace().clear();
        let (action, outcome) = match &mut self.instance.seat {
            Seat::Engine(desk, buffer) => {
                buffer.load(frame);
                let random = &mut self.random;
                let outcome = match self.real.filter(|_| self.mark != 0) {
                    None => Outcome::Skipped,
                    Some(real) => encapsulate(buffer, desk.as_ref(), real, true, || {
                        let (state, number) = next_random(*random);
                        *random = state;
                        number
                    }),
                };
                self.out.extend_from_slice(buffer.frame());
                (redirected(outcome), outcome)
            }
            Seat::Kernel(balancer) => {
                let action = balancer.run_probe(frame, self.mark, &mut self.out)?;
                let (now, before) = (balancer.probe_counts()?, std::mem::take(&mut self.seen));
                let moved = Outcome::ALL.iter().zip(now.iter().zip(&before)).find(|(_, (now, before))| now != before);
                let outcome = moved.map(|(outcome, _)| *outcome);
                self.seen = now;
                let contradiction =
                    || ReplayError::Contradiction { action: action.cast_unsigned(), reason: outcome.map(Outcome::name) };
                let meant = match action {
                    UNSPEC => Action::Pass,
                    SHOT => Action::Drop,
                    REDIRECT => Action::Redirect,
                    _ => return Err(contradiction()),
                };
                let outcome = outcome.filter(|outcome| redirected(*outcome) == meant).ok_or_else(contradiction)?;
                (meant, outcome)
            }
        };
        if let Some(count) = self.counts.get_mut(outcome as usize) {
            *count += 1;
        }
        let real: Option<IpAddr> = tables.trace().real.get().checked_sub(1).and_then(|id| real_addr(&tables, id));
        Ok((VerdictRow::of(number, action, outcome.name(), real), &self.out))
    }

    /// Forgets all counters, and begins the random numbers anew.
    ///
    /// # Errors
    /// [`ReplayError::Xdp`]: the kernel refuses.
    pub fn start_anew(&mut self) -> Result<(), ReplayError> {
        self.counts.fill(0);
        self.too_short = 0;
        self.random = self.seed;
        if let Seat::Kernel(balancer) = &mut self.instance.seat {
            balancer.set_random(self.seed)?;
        }
        Ok(())
    }

    /// The counters: the outcomes under `reasons`.
    pub fn counters(&self) -> Value {
        let named = Outcome::ALL.iter().zip(&self.counts).map(|(outcome, count)| (outcome.name().to_owned(), (*count).into()));
        let mut reasons: Map<String, Value> = named.collect();
        reasons.insert("frame-too-short".to_owned(), self.too_short.into());
        serde_json::json!({ "reasons": reasons })
    }
}

/// Kernels refuse to run a socket buffer that ends inside the Ethernet header, or inside the IP header that it announces; no
/// stack sends one (`bpf_prog_test_run_skb`, net/bpf/test_run.c).
fn is_too_short(frame: &[u8]) -> bool {
    let Some([high, low]) = frame.get(12..Ethernet::LEN) else { return true };
    let header = match u16::from_be_bytes([*high, *low]) {
        ETHERTYPE_IPV4 => Ipv4::LEN,
        ETHERTYPE_IPV6 => Ipv6::LEN,
        _ => 0,
    };
    frame.len() < Ethernet::LEN + header
}

/// What sends a frame on sends it to another hook here.
fn redirected(outcome: Outcome) -> Action {
    match Action::of_engine(outcome.action()) {
        Action::Tx => Action::Redirect,
        other => other,
    }
}
