//! The probe on the interface: each seat forwards the traffic that is there for some seconds, in turns, and what it cost is compared.
//!
//! The balancer's loop goes on meanwhile. Whoever sets the mode ends the probe; else the mode is as it was when it is done.

use std::io;
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;
use tandem_engine::memory::SeatCounter;
use tandem_engine::{Action, Reason};

use super::balancer::Running;
use super::error::RunError;
use super::protocol::{ModeName, ProbeWish, Refusal, Reply};
use super::seats::bound_name;
use crate::afxdp::Ask;
use crate::control::Counters;
use crate::decision::{ENOUGH, Turn, judge};
use crate::facts::{named, softirq_time, time_of};

/// Turns of a probe: each seat has two.
pub const TURNS: usize = 4;
/// The longest turn, in seconds: an answer of the API takes at most a minute.
pub const LONGEST_TURN: u32 = 12;
/// Frames that were under way when the mode was switched are forwarded by then.
const SETTLE: Duration = Duration::from_millis(300);

/// A probe that goes on.
pub(super) struct Probe {
    wish: ProbeWish,
    answer: Sender<Result<Reply, Refusal>>,
    /// The mode before, and why it was in force.
    before: (ModeName, String),
    had_workers: bool,
    turns: Vec<Turn>,
    /// When the mode of this turn came into force.
    switched: Instant,
    /// Where this turn began to count.
    first: Option<Sample>,
}

/// What was counted so far.
struct Sample {
    at: Instant,
    sent: u64,
    refused: u64,
    worker: u64,
    queue: u64,
}

impl Probe {
    /// The seat of a turn: as it was, the other one twice, as it was. So what drifts meanwhile is in both alike.
    fn seat(&self) -> ModeName {
        match (self.turns.len(), self.before.0) {
            (1 | 2, ModeName::Xdp) => ModeName::Afxdp,
            (1 | 2, ModeName::Afxdp) => ModeName::Xdp,
            (_, before) => before,
        }
    }
}

impl Running {
    /// Starts a probe; it is answered at its end.
    pub(super) fn start_probe(&mut self, wish: ProbeWish, answer: Sender<Result<Reply, Refusal>>) {
        // A client that did not wait does not get it.
        if let Err(why) = self.may_probe(wish) {
            let _ = answer.send(Err(Refusal::Failed(why)));
            return;
        }
        let before = (self.mode(), self.why.clone());
        let had_workers = self.seat.is_some();
        log::info!("{}: a probe on the interface: {TURNS} turns of {} s", self.interface.name, wish.seconds);
        let probe = Probe { wish, answer, before, had_workers, turns: Vec::new(), switched: Instant::now(), first: None };
        self.probe = Some(probe);
        self.next_turn();
    }

    fn may_probe(&self, wish: ProbeWish) -> Result<(), String> {
        if self.probe.is_some() {
            return Err("a probe on the interface goes on already".to_owned());
        }
        if !(1..=LONGEST_TURN).contains(&wish.seconds) {
            return Err(format!("a turn of {} s; it takes 1 to {LONGEST_TURN}", wish.seconds));
        }
        let host = self.host().map_err(|error| error.to_string())?;
        host.no_copy.map_or(Ok(()), |why| Err(format!("there is nothing to compare, AF_XDP is not possible: {why}")))
    }

    /// Has the seat of the next turn forward.
    fn next_turn(&mut self) {
        let Some(probe) = &mut self.probe else { return };
        (probe.switched, probe.first) = (Instant::now(), None);
        let (seat, why) = (probe.seat(), format!("a probe on the interface: turn {} of {TURNS}", probe.turns.len() + 1));
        if let Err(error) = self.switch(seat, Ask::Prefer, &why) {
            self.end_probe(|_| Err(format!("mode {} cannot be had: {error}", seat.name())));
        }
    }

    /// Looks whether a turn is over.
    pub(super) fn follow_probe(&mut self) {
        let Some(probe) = &self.probe else { return };
        let is_due = match &probe.first {
            None => probe.switched.elapsed() >= SETTLE,
            Some(first) => first.at.elapsed() >= Duration::from_secs(probe.wish.seconds.into()),
        };
        if !is_due {
            return;
        }
        let now = match self.sample() {
            Ok(now) => now,
            Err(error) => return self.end_probe(|_| Err(format!("the CPU time cannot be read: {error}"))),
        };
        let Some(probe) = &mut self.probe else { return };
        let seat = probe.seat();
        let Some(first) = &probe.first else {
            probe.first = Some(now);
            return;
        };
        probe.turns.push(Turn {
            mode: seat,
            forwarded: now.sent.saturating_sub(first.sent),
            lost: now.refused.saturating_sub(first.refused),
            seconds: (now.at - first.at).as_secs_f64(),
            // It has no part in what the kernel forwards; what it does meanwhile is to look.
            worker: if seat == ModeName::Afxdp { now.worker.saturating_sub(first.worker) } else { 0 },
            queue: now.queue.saturating_sub(first.queue),
        });
        // With too few packets the other turns would be for nothing.
        let is_quiet = probe.turns.last().is_some_and(|turn| turn.forwarded < ENOUGH);
        if probe.turns.len() < TURNS && !is_quiet {
            return self.next_turn();
        }
        self.end_probe(|running| {
            let host = running.host().map_err(|error| error.to_string())?;
            let turns = running.probe.as_ref().map_or(&[][..], |probe| &probe.turns);
            let bound = running.seat.as_ref().and_then(|seat| Some(bound_name(seat.info().first()?.bound)));
            judge(&host, turns, bound.unwrap_or("ended"))
        });
    }

    fn sample(&self) -> io::Result<Sample> {
        let tables = self.control.tables();
        let counters = Counters::read(tables, 0..tables.blocks());
        let sent = Reason::ALL.iter().filter(|reason| reason.action() == Action::Tx).map(|reason| counters.reason(*reason));
        let refused = counters.seat(SeatCounter::TxFull);
        // A worker that ended meanwhile has no time any more.
        let worker = named("/proc/self/task", "xsk").filter_map(|thread| time_of(thread).ok()).sum();
        let mut queue = softirq_time()?;
        for interface in &self.interfaces {
            queue += named("/proc", &format!("napi/{}-", interface.name)).filter_map(|thread| time_of(thread).ok()).sum::<u64>();
        }
        Ok(Sample { at: Instant::now(), sent: sent.sum::<u64>().saturating_sub(refused), refused, worker, queue })
    }

    /// Puts the mode back, or the better one in force, and answers.
    fn end_probe(&mut self, outcome: impl FnOnce(&Self) -> Result<crate::decision::Decision, String>) {
        let outcome = outcome(self);
        let Some(Probe { wish, answer, before: (mode, why), had_workers, .. }) = self.probe.take() else { return };
        let name = self.interface.name.clone();
        let (mode, why) = match &outcome {
            Ok(decision) if wish.apply && decision.chosen != mode => (decision.chosen, decision.reason.clone()),
            _ => (mode, why),
        };
        let back = self.switch(mode, Ask::Prefer, &why).and_then(|()| self.let_go(had_workers));
        let reply = match (outcome, back) {
            (Ok(decision), Ok(())) => {
                log::info!("{name}: {}; mode {}", decision.reason, mode.name());
                self.decision = Some(decision);
                Ok(Reply::Mode(self.report()))
            }
            (Err(why), Ok(())) => {
                log::info!("{name}: the probe on the interface found nothing: {why}; mode {} as before", mode.name());
                Err(Refusal::Failed(format!("{why}. The mode is {} as before", mode.name())))
            }
            (_, Err(error)) => {
                log::error!("{name}: after the probe on the interface the mode is {}: {error}", self.mode().name());
                Err(Refusal::Failed(format!("mode {} cannot be had again: {error}; it is {}", mode.name(), self.mode().name())))
            }
        };
        // A client that did not wait does not get it.
        let _ = answer.send(reply);
    }

    /// Ends the workers if they were there for the probe alone.
    fn let_go(&mut self, had_workers: bool) -> Result<(), RunError> {
        if had_workers || self.mode() == ModeName::Afxdp { Ok(()) } else { self.stop_workers() }
    }

    /// Ends a probe that goes on, because somebody wants something else: the mode is theirs.
    pub(super) fn give_up_probe(&mut self, why: &str) {
        let Some(Probe { answer, .. }) = self.probe.take() else { return };
        log::info!("{}: the probe on the interface is given up: {why}", self.interface.name);
        let _ = answer.send(Err(Refusal::Failed(format!("the probe was given up: {why}"))));
    }
}
