//! The rounds: each way to forward in turns, again and again, and what is made of them.

use std::time::{Duration, Instant};

use tandem_engine::memory::Mode;

use super::bed::{Bed, time_of};
use super::traffic::{FLOWS, FRAME, Passed};
use super::{CalibrateError, Calibration, Measured};

/// How long a round sends, and for how long at most where fewer frames than there are flows come out in it.
const ROUND: Duration = Duration::from_millis(40);
const LONGEST: Duration = Duration::from_millis(400);
/// Rounds of each way, while there is time.
const ROUNDS: usize = 5;
/// At least so many, however slow this host is.
const LEAST: usize = 3;
/// The time for all of them.
const BUDGET: Duration = Duration::from_millis(1000);
/// What does not come out for so long is lost, though workers nap for a millisecond at most while they send: others want the CPU, too.
const QUIET: Duration = Duration::from_millis(50);
/// The longest wait for it.
const DRAIN: Duration = Duration::from_millis(500);
/// How long the first frames of a way may take: the generator takes tens of milliseconds to start.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of the outer header.
const OUTER: usize = 20;

/// A way to forward.
#[derive(Clone, Copy)]
enum Way {
    Bounce,
    Seat(Mode),
}

const WAYS: [(&str, Way); 3] = [("bounce", Way::Bounce), ("xdp", Way::Seat(Mode::Xdp)), ("afxdp", Way::Seat(Mode::Afxdp))];

/// What one round did.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    forwarded: u64,
    lost: u64,
    queue: u64,
    worker: u64,
    /// Until the sender stopped.
    seconds: f64,
    /// Frames that had come out by then.
    until_then: u64,
}

pub(super) fn run(bed: &mut Bed) -> Result<Calibration, CalibrateError> {
    for (name, way) in WAYS {
        warm(bed, name, way)?;
    }
    let (start, mut rounds) = (Instant::now(), [const { Vec::new() }; WAYS.len()]);
    for number in 0..ROUNDS {
        if number >= LEAST && start.elapsed() > BUDGET {
            break;
        }
        for ((_, way), rounds) in WAYS.into_iter().zip(&mut rounds) {
            rounds.push(round(bed, way, ROUND, LONGEST)?);
        }
    }
    bed.traffic.check()?;
    if !bed.is_whole() {
        return Err(CalibrateError::Thread("lost its worker"));
    }
    let [bounce, xdp, afxdp] = rounds;
    let sum = |rounds: &[Round], name| sum_up(rounds).ok_or(CalibrateError::Silent { name, seen: 0 });
    Ok(Calibration {
        bounce: sum(&bounce, "bounce")?,
        xdp: sum(&xdp, "xdp")?,
        afxdp: sum(&afxdp, "afxdp")?,
        flows: FLOWS,
        frame: FRAME as u32,
        core: bed.core,
        feed: bed.traffic.feed(),
    })
}

/// Has a way forward until it has seen every flow.
fn warm(bed: &mut Bed, name: &'static str, way: Way) -> Result<(), CalibrateError> {
    let seen = round(bed, way, Duration::ZERO, PATIENCE)?.forwarded;
    bed.traffic.check()?;
    if seen < u64::from(FLOWS) { Err(CalibrateError::Silent { name, seen }) } else { Ok(()) }
}

/// Forwards for a time, and until every flow has passed, but no longer than `longest`.
fn round(bed: &Bed, way: Way, time: Duration, longest: Duration) -> Result<Round, CalibrateError> {
    let (pair, longer) = match way {
        Way::Bounce => (&bed.bounced, 0),
        Way::Seat(mode) => {
            bed.switch(mode);
            (&bed.balanced, OUTER)
        }
    };
    let (traffic, before) = (&bed.traffic, bed.traffic.passed());
    let times = || -> Result<[u64; 2], CalibrateError> { Ok([time_of(pair.queue)?, time_of(bed.worker)?]) };
    let first = times()?;
    let start = Instant::now();
    traffic.open(pair.far, longer);
    let is_done = |passed: u64| start.elapsed() >= time && passed >= u64::from(FLOWS);
    while !is_done(traffic.passed().back - before.back) && start.elapsed() < longest {
        std::thread::sleep(Duration::from_millis(2));
    }
    traffic.close();
    let (seconds, until_then) = (start.elapsed().as_secs_f64(), traffic.passed().back - before.back);
    settle(bed, before);
    let ([queue, worker], after) = (times()?, traffic.passed());
    let [queue_before, worker_before] = first;
    let forwarded = after.back - before.back;
    Ok(Round {
        forwarded,
        lost: (after.sent - before.sent).saturating_sub(forwarded),
        queue: queue.saturating_sub(queue_before),
        // It has no part in what the kernel forwards; what it does meanwhile is to look.
        worker: if matches!(way, Way::Seat(Mode::Afxdp)) { worker.saturating_sub(worker_before) } else { 0 },
        seconds,
        until_then,
    })
}

/// Waits until nothing is under way, but for what was lost before.
fn settle(bed: &Bed, before: Passed) {
    let (start, lost) = (Instant::now(), before.sent.saturating_sub(before.back));
    let (mut last, mut since) = (bed.traffic.passed().back, start);
    while start.elapsed() < DRAIN && since.elapsed() < QUIET {
        // Whoever forwarded the last one goes to sleep meanwhile.
        std::thread::sleep(Duration::from_millis(2));
        let Passed { sent, back } = bed.traffic.passed();
        if sent.saturating_sub(back) <= lost {
            return;
        }
        if back != last {
            (last, since) = (back, Instant::now());
        }
    }
}

/// What rounds say together; `None`: nothing came out in any of them.
fn sum_up(rounds: &[Round]) -> Option<Measured> {
    let per_frame = |round: &Round, nanos: u64| nanos as f64 / round.forwarded as f64;
    let cost = |round: &&Round| per_frame(round, round.queue + round.worker);
    let mut sorted: Vec<&Round> = rounds.iter().filter(|round| round.forwarded > 0).collect();
    sorted.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
    let (best, median) = (*sorted.first()?, *sorted.get(sorted.len() / 2)?);
    Some(Measured {
        ns: cost(&best),
        queue_ns: per_frame(best, best.queue),
        worker_ns: per_frame(best, best.worker),
        spread_ns: cost(&median) - cost(&best),
        pps: rounds.iter().map(|round| round.until_then as f64 / round.seconds.max(1e-3)).fold(0.0, f64::max),
        forwarded: rounds.iter().map(|round| round.forwarded).sum(),
        lost: rounds.iter().map(|round| round.lost).sum(),
        rounds: rounds.len() as u32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_round_counts_and_the_others_say_how_sure_it_is() {
        let round =
            |forwarded, queue, worker, lost| Round { forwarded, lost, queue, worker, seconds: 0.5, until_then: forwarded };
        let rounds = [round(1000, 300_000, 100_000, 0), round(2000, 500_000, 100_000, 7), round(1000, 900_000, 0, 1)];
        let found = sum_up(&rounds).unwrap();
        assert_eq!((found.ns, found.queue_ns, found.worker_ns, found.spread_ns), (300.0, 250.0, 50.0, 100.0));
        assert_eq!((found.forwarded, found.lost, found.rounds, found.pps), (4000, 8, 3, 4000.0));
    }

    #[test]
    fn a_round_in_which_nothing_came_out_says_nothing() {
        let dead = Round { lost: 10, queue: 5, seconds: 0.5, ..Round::default() };
        assert_eq!(sum_up(&[dead]), None);
        let alive = Round { forwarded: 10, queue: 1000, seconds: 0.5, until_then: 10, ..Round::default() };
        let found = sum_up(&[dead, alive]).unwrap();
        assert_eq!((found.ns, found.lost, found.rounds), (100.0, 10, 2));
    }
}
