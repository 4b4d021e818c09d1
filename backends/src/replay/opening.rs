//! The decapsulation of real servers, frame by frame in either seat: `tandem replay --program decap`.

use serde_json::{Map, Value};
use tandem_engine::strip::{COUNTERS, Outcome, Tunnels, counter_names, decapsulate};
use tandem_engine::wire::Ethernet;

use super::buffer::Buffer;
use super::decision::{Action, VerdictRow};
use super::seats::{Backend, ReplayError};
use crate::config::{Plan, Profile};
use crate::xdp::{Decap, LARGEST_TEST_FRAME};

enum Seat {
    Kernel(Box<Decap>),
    Engine(Buffer),
}

/// A real server's decapsulation that is asked frame by frame.
pub struct Opening {
    seat: Seat,
    tunnels: Tunnels,
    /// By the indices of [`counter_names`].
    counts: Vec<u64>,
    /// Of the kernel's counters, when they were last read.
    seen: Vec<u64>,
    too_short: u64,
    out: Vec<u8>,
}

impl Opening {
    /// Sets it up by the plan's profile and GUE port; it opens every kind of tunnel that it knows.
    ///
    /// # Errors
    /// [`ReplayError::Xdp`]: the kernel refuses.
    pub fn new(backend: Backend, plan: &Plan) -> Result<Self, ReplayError> {
        let tunnels = if plan.profile == Profile::Katran {
            Tunnels { gue_port: plan.gue_port, ..Tunnels::katran() }
        } else {
            Tunnels { fou_ports: plan.fou_ports, geneve_port: plan.geneve_port, gue_port: plan.gue_port, ..Tunnels::standard() }
        };
        let seat = match backend {
            Backend::Xdp | Backend::Forwarding => Seat::Kernel(Box::new(Decap::load(&tunnels)?)),
            Backend::Engine => Seat::Engine(Buffer::default()),
        };
        let zero = vec![0; COUNTERS as usize];
        Ok(Self { seat, tunnels, counts: zero.clone(), seen: zero, too_short: 0, out: Vec::new() })
    }

    /// Sends one frame through; gives what became of it, and the frame as it was left.
    ///
    /// # Errors
    /// [`ReplayError::TooLarge`], or what the kernel says.
    pub fn frame(&mut self, number: u64, frame: &[u8]) -> Result<(VerdictRow<'static>, &[u8]), ReplayError> {
        if frame.len() > LARGEST_TEST_FRAME {
            return Err(ReplayError::TooLarge { found: frame.len() });
        }
        if frame.len() < Ethernet::LEN {
            self.too_short += 1;
            self.out.clear();
            self.out.extend_from_slice(frame);
            return Ok((VerdictRow::too_short(number), &self.out));
        }
        let (action, outcome) = match &mut self.seat {
            Seat::Engine(buffer) => {
                buffer.load(frame);
                let counts = &mut self.counts;
                let outcome = decapsulate(buffer, &self.tunnels, |index| {
                    if let Some(count) = counts.get_mut(index as usize) {
                        *count += 1;
                    }
                });
                self.out.clear();
                self.out.extend_from_slice(buffer.frame());
                (Action::of_engine(outcome.action()), outcome)
            }
            Seat::Kernel(program) => {
                let action = program.run_frame(frame, &mut self.out)?;
                let action = Action::of_xdp(action).ok_or(ReplayError::Contradiction { action, reason: None })?;
                let (now, before) = (program.counts()?, std::mem::take(&mut self.seen));
                let grown = now.iter().zip(&before).map(|(now, before)| now - before);
                for (count, by) in self.counts.iter_mut().zip(grown) {
                    *count += by;
                }
                let moved = Outcome::ALL.iter().zip(now.iter().zip(&before)).find(|(_, (now, before))| now != before);
                let outcome = moved.map(|(outcome, _)| *outcome);
                self.seen = now;
                (action, outcome.ok_or(ReplayError::Contradiction { action: action as u32, reason: None })?)
            }
        };
        if Action::of_engine(outcome.action()) != action {
            return Err(ReplayError::Contradiction { action: action as u32, reason: Some(outcome.name()) });
        }
        Ok((VerdictRow::of(number, action, outcome.name(), None), &self.out))
    }

    /// Forgets all counters.
    pub fn start_anew(&mut self) {
        self.counts.fill(0);
        self.too_short = 0;
    }

    /// The counters: the outcomes under `reasons`, what was stripped under `events`.
    pub fn counters(&self) -> Value {
        let mut named = counter_names().zip(&self.counts).map(|(name, count)| (name.to_owned(), Value::from(*count)));
        let mut reasons: Map<String, Value> = named.by_ref().take(Outcome::ALL.len()).collect();
        reasons.insert("frame-too-short".to_owned(), self.too_short.into());
        let events: Map<String, Value> = named.collect();
        serde_json::json!({ "reasons": reasons, "events": events })
    }
}
