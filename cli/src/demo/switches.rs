//! Live switches in the middle of running transfers.

use std::time::{Duration, Instant};

use anyhow::bail;
use tandem_lab::transfer::{Direction, Outcome, Plan, Transfer};

use super::progress::Step;
use super::stage::{SEATS, Stage, long};

/// Between the times of two switches.
const PAUSE: Duration = Duration::from_millis(300);
/// At least, on a machine that cannot keep these times: each seat is to have its turn.
const LEAST: Duration = Duration::from_millis(100);
/// Bytes a second of each transfer.
const RATE: u64 = 3 << 19;
/// First source port of the transfers.
const FIRST_PORT: u16 = 1500;
/// Longest that a transfer may take.
const MOST: Duration = Duration::from_secs(60);

/// Size of each transfer: time for twice the switches, on a machine that is slow at them or at starting the transfers, and for
/// the first megabyte or two, which go out at once.
pub fn blob(switches: u32) -> u64 {
    let milliseconds = PAUSE.as_millis() as u64 * u64::from(switches) * 2 + 3000;
    RATE * milliseconds / 1000
}

/// What the switches did to the transfers.
pub struct Switched {
    /// Switches with all transfers running before and after.
    pub during: u32,
    /// The transfers.
    pub outcomes: Vec<Outcome>,
    /// Frames of the transfers by seat, in the order of [`SEATS`].
    pub frames: [u64; 2],
    /// Longest that a switch took, as seen by who asked for it.
    pub slowest: Duration,
}

/// Runs transfers in both directions and of both families, and switches to and fro meanwhile.
pub fn run(stage: &Stage, switches: u32) -> anyhow::Result<Switched> {
    let before = stage.counters()?;
    let step = Step::begin(format!("Live switches during {} transfers", plans().len()), switches.into());
    let start = |plan| Transfer::start(&stage.lab, &stage.servers, plan);
    let begin = Instant::now();
    let transfers = plans().into_iter().map(start).collect::<Result<Vec<_>, _>>()?;
    let (during, slowest) = switch(stage, &transfers, begin, &step)?;
    let finish = |transfer: Transfer| transfer.finish(&stage.lab, &stage.servers);
    let outcomes = transfers.into_iter().map(finish).collect::<Result<Vec<_>, _>>()?;
    let after = stage.counters()?;
    let packets = |seat| long().iter().map(|service| after.packets(seat, service) - before.packets(seat, service)).sum();
    let good = outcomes.iter().filter(|outcome| outcome.fault.is_none()).count();
    step.end(&format!("{during} switches, {good} of {} transfers arrived whole", outcomes.len()));
    Ok(Switched { during, outcomes, frames: SEATS.map(|(_, seat)| packets(seat)), slowest })
}

/// Switches until the last transfer ends, so that both seats have their part of all of them. Returns how many switches had all
/// transfers running before and after, and how long the slowest took. What starting them took since `begin` is made up for:
/// the first of them ends that much earlier.
fn switch(stage: &Stage, transfers: &[Transfer], begin: Instant, step: &Step) -> anyhow::Result<(u32, Duration)> {
    let all_run = || transfers.iter().all(Transfer::running);
    let (mut during, mut slowest) = (0, Duration::ZERO);
    let mut due = begin;
    // The mode before is afxdp.
    for (mode, _) in SEATS.iter().cycle() {
        due += PAUSE;
        stage.wait(due.saturating_duration_since(Instant::now()).max(LEAST))?;
        if !transfers.iter().any(Transfer::running) {
            break;
        }
        if begin.elapsed() > MOST + Duration::from_secs(5) {
            bail!("the transfers do not end: curl was to give up after {} s", MOST.as_secs());
        }
        let ran = all_run();
        let start = Instant::now();
        stage.set_mode(*mode)?;
        slowest = slowest.max(start.elapsed());
        if ran && all_run() {
            during += 1;
            step.advance();
        }
    }
    Ok((during, slowest))
}

/// An upload and a download of each family, and one more upload, as only uploads send many frames through the balancer.
fn plans() -> Vec<Plan> {
    let [v4, v6] = long().map(|service| service.at);
    let wanted = [
        (Direction::Upload, v4),
        (Direction::Upload, v6),
        (Direction::Download, v4),
        (Direction::Download, v6),
        (Direction::Upload, v4),
        (Direction::Upload, v6),
    ];
    let plan = |(source_port, (direction, target))| Plan { direction, target, source_port, rate: RATE, most: MOST };
    (FIRST_PORT..).zip(wanted).map(plan).collect()
}
