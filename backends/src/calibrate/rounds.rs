//! The rounds: each way to forward in turns, again and again, and what is made of them.

use std::time::{Duration, Instant};

use tandem_engine::memory::Mode;

use super::bed::{Bed, time_of};
use super::traffic::{FLOWS, FRAME};
use super::{CalibrateError, Calibration, Measured};

/// How long a round sends.
const ROUND: Duration = Duration::from_millis(40);
/// How long a way forwards before anything counts: it has seen every flow then.
const WARM: Duration = Duration::from_millis(20);
/// Rounds of each way, while there is time.
const ROUNDS: usize = 5;
/// At least so many, however slow this host is.
const LEAST: usize = 3;
/// The time for all of them.
const BUDGET: Duration = Duration::from_millis(1000);
/// Nothing is under way when nothing has come out for so long: workers nap for a millisecond at most while they send.
const QUIET: Duration = Duration::from_millis(4);
/// The longest wait for it.
const DRAIN: Duration = Duration::from_millis(200);
/// When frames under way are taken for lost.
const STALLED: Duration = Duration::from_millis(10);
/// How long the first frame may take: the generator takes tens of milliseconds to start.
const PATIENCE: Duration = Duration::from_secs(2);
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
            rounds.push(round(bed, way, ROUND)?);
        }
    }
    bed.traffic.check()?;
    if !bed.is_whole() {
        return Err(CalibrateError::Thread("lost its worker"));
    }
    let [bounce, xdp, afxdp] = rounds;
    let sum = |rounds: &[Round], name| sum_up(rounds).ok_or(CalibrateError::Silent(name));
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
    let start = Instant::now();
    let mut seen = 0;
    while seen < u64::from(FLOWS) {
        seen += round(bed, way, WARM)?.forwarded;
        bed.traffic.check()?;
        if start.elapsed() > PATIENCE {
            return Err(CalibrateError::Silent(name));
        }
    }
    Ok(())
}

fn round(bed: &Bed, way: Way, time: Duration) -> Result<Round, CalibrateError> {
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
    let (mut last, mut moved) = (before.back, start);
    while start.elapsed() < time {
        std::thread::sleep(Duration::from_millis(2));
        let back = traffic.passed().back;
        if back != last {
            (last, moved) = (back, Instant::now());
        } else if moved.elapsed() > STALLED {
            moved = Instant::now();
            traffic.refresh();
        }
    }
    traffic.close();
    let (seconds, until_then) = (start.elapsed().as_secs_f64(), traffic.passed().back - before.back);
    settle(bed);
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

/// Waits until nothing is under way.
fn settle(bed: &Bed) {
    let (start, mut last, mut since) = (Instant::now(), bed.traffic.passed().back, Instant::now());
    while start.elapsed() < DRAIN && since.elapsed() < QUIET {
        std::thread::sleep(Duration::from_millis(1));
        let back = bed.traffic.passed().back;
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
