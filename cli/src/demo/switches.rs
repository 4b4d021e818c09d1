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

/// Size of each transfer: time for twice the switches, on a machine that is slow at them, and for the first megabyte or two,
/// which go out at once.
pub fn blob(switches: u32) -> u64 {
    let milliseconds = PAUSE.as_millis() as u64 * u64::from(switches) * 2 + 1000;
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

/// Runs transfers in both directions and of both families, and switches to and fro for as long as all of them run.
pub fn run(stage: &Stage, switches: u32) -> anyhow::Result<Switched> {
    let before = stage.counters()?;
    let step = Step::begin(format!("Live switches during {} transfers", plans().len()), switches.into());
    let transfers =
        plans().into_iter().map(|plan| Transfer::start(&stage.lab, &stage.servers, plan)).collect::<Result<Vec<_>, _>>()?;
    let (mut during, mut slowest) = (0, Duration::ZERO);
    let mut due = Instant::now();
    // The mode before is afxdp.
    for (mode, _) in SEATS.iter().cycle() {
        due += PAUSE;
        stage.wait(due.saturating_duration_since(Instant::now()).max(LEAST))?;
        if !transfers.iter().all(Transfer::running) {
            break;
        }
        let start = Instant::now();
        stage.set_mode(*mode)?;
        slowest = slowest.max(start.elapsed());
        during += u32::from(transfers.iter().all(Transfer::running));
        step.advance();
    }
    let outcomes = finish(stage, transfers)?;
    let after = stage.counters()?;
    let packets = |seat| long().iter().map(|service| after.packets(seat, service) - before.packets(seat, service)).sum();
    let good = outcomes.iter().filter(|outcome| outcome.fault.is_none()).count();
    step.end(&format!("{during} switches, {good} of {} transfers arrived whole", outcomes.len()));
    Ok(Switched { during, outcomes, frames: SEATS.map(|(_, seat)| packets(seat)), slowest })
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

fn finish(stage: &Stage, transfers: Vec<Transfer>) -> anyhow::Result<Vec<Outcome>> {
    let until = Instant::now() + MOST + Duration::from_secs(5);
    while transfers.iter().any(Transfer::running) {
        stage.wait(Duration::from_millis(20))?;
        if Instant::now() > until {
            bail!("the transfers do not end");
        }
    }
    Ok(transfers.into_iter().map(|transfer| transfer.finish(&stage.lab, &stage.servers)).collect::<Result<_, _>>()?)
}
