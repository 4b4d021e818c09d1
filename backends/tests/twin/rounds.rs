//! Generated frames in rounds, as many at a time as there are cores: each with tables, a plan and a seed of its own.
//!
//! `make twins FRAMES=100000000 SEED=1` is a long run of it, with a line for each round and a verdict at the end.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tandem_backends::config::RealState;
use tandem_backends::xdp::Headroom;
use tandem_engine::Reason;

use crate::frames::Rng;
use crate::oracle::Oracle;
use crate::told::Told;
use crate::{Differ, Twins, frames, nat, plans, rich};

/// Frames of a run unless `TANDEM_FRAMES` says another number: usually, and with `TANDEM_LONG`.
const USUAL: u64 = 200_000;
const LONG: u64 = 20_000_000;
/// Frames of a round at most: then come other plans and empty tables.
const ROUND: u64 = 1_000_000;

/// What a round is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Plans that change, on a flow table of so many sets.
    Changes { sets: u32 },
    /// Everything that can be configured in this profile at once.
    Everything { profile: &'static str },
    /// NAT, with sources of one, both or no family.
    Nat { sources: usize },
}

/// All kinds, and how many of a hundred frames are of it.
const KINDS: [(Kind, u64); 8] = [
    (Kind::Changes { sets: 64 }, 10),
    (Kind::Changes { sets: 1024 }, 25),
    (Kind::Changes { sets: 16_384 }, 15),
    (Kind::Everything { profile: "standard" }, 10),
    (Kind::Everything { profile: "katran" }, 10),
    (Kind::Nat { sources: 0 }, 10),
    (Kind::Nat { sources: 1 }, 10),
    (Kind::Nat { sources: 2 }, 10),
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changes { sets } => write!(f, "changing plans, {sets} sets"),
            Self::Everything { profile } => write!(f, "everything in profile {profile}"),
            Self::Nat { sources: 0 } => write!(f, "NAT"),
            Self::Nat { sources: 1 } => write!(f, "NAT with sources"),
            Self::Nat { .. } => write!(f, "NAT with IPv4 sources"),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Round {
    kind: Kind,
    seed: u64,
    frames: u64,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} frames, round seed {}", self.kind, self.frames, self.seed)
    }
}

/// The rounds of a run. The same seed makes the same ones.
fn rounds(frames: u64, seed: u64) -> Vec<Round> {
    let mut seeds = Rng(seed);
    let mut rounds = Vec::new();
    for (kind, share) in KINDS {
        // Rounded up: as many as were asked for, at least.
        let frames = (frames * share).div_ceil(100);
        let count = frames.div_ceil(ROUND).max(1);
        rounds.extend((0..count).map(|_| Round { kind, seed: seeds.next(), frames: frames.div_ceil(count) }));
    }
    rounds
}

/// What a round does; `None` where the kernel twin cannot be.
type Done = Result<Option<Told>, Differ>;

impl Round {
    /// From frame `each_from` on, the tables are compared after each frame.
    fn run(&self, each_from: u64) -> Done {
        match self.kind {
            Kind::Changes { sets } => self.changes(sets, each_from),
            Kind::Everything { profile } => self.everything(profile, each_from),
            Kind::Nat { sources } => nat::round(sources, self.seed, self.frames, each_from),
        }
    }

    fn changes(&self, sets: u32, each_from: u64) -> Done {
        let mut rng = Rng(self.seed);
        let mut plan = plans::first(&mut rng);
        let Some(mut twins) = Twins::new(&plan, sets) else { return Ok(None) };
        twins.each_from = each_from;
        let mut oracle = Oracle::new(&plan);
        let mut told = Told::default();
        // Grace periods take their time.
        let period = (self.frames / 100).clamp(1500, 10_000);
        let mut tick = 30_000;
        for n in 0..self.frames {
            if n % period == period - 1 {
                twins.check()?;
                plan = plans::change(&mut rng, &plan);
                told.changed(&twins.apply(&plan));
                oracle.plan(&plan);
            }
            // now and then a tick, rarely longer than UDP flows live
            if rng.one_in(50) {
                tick += if rng.one_in(40) { 200 } else { 1 };
                twins.tick(tick);
            }
            let frame = frames::frame(&mut rng, &plan);
            let decision = twins.frame(&frame, Headroom::Usual);
            oracle.check(&frame, &decision);
        }
        told.twins(&mut twins)?;
        told.by_flow = oracle.by_flow;
        Ok(Some(told))
    }

    fn everything(&self, profile: &str, each_from: u64) -> Done {
        let mut rng = Rng(self.seed);
        let mut plan = plans::full(&mut rng, profile);
        let Some(mut twins) = Twins::new(&plan, 1024) else { return Ok(None) };
        twins.each_from = each_from;
        let mut told = Told::default();
        for n in 0..self.frames {
            if n == self.frames / 2 {
                // What is down loses its UDP flows (katran), or all of them (standard).
                for real in plan.vips.iter_mut().flat_map(|vip| &mut vip.reals).step_by(2) {
                    real.state = RealState::Down;
                }
                told.changed(&twins.apply(&plan));
            }
            if n % 400 == 0 {
                twins.tick(30_000 + n as u32 / 400);
            }
            if n % 10_000 == 9_999 {
                twins.check()?;
            }
            twins.frame(&rich::rich_frame(&mut rng, &plan), Headroom::Usual);
        }
        told.twins(&mut twins)?;
        Ok(Some(told))
    }

    /// Runs it; a difference is told, to the frame.
    fn tell(&self) -> Result<Option<Told>, ()> {
        let differ = match catch_unwind(AssertUnwindSafe(|| self.run(u64::MAX))) {
            Ok(Ok(told)) => return Ok(told),
            Ok(Err(differ)) => differ,
            Err(_) => {
                eprintln!("DIFFERENCE in the round of {self}: the frame and what became of it are above");
                return Err(());
            }
        };
        eprintln!(
            "DIFFERENCE in the round of {self}: after frame {}: {}; once more, with a look at all tables after each frame from {} on",
            differ.after, differ.what, differ.alike
        );
        if catch_unwind(AssertUnwindSafe(|| self.run(differ.alike))).is_ok() {
            eprintln!("no frame differed the second time: the round is not repeatable");
        }
        Err(())
    }
}

fn number(variable: &str) -> Option<u64> {
    let wanted = std::env::var(variable).ok()?;
    Some(wanted.parse().unwrap_or_else(|_| panic!("{variable} is a number, not `{wanted}`")))
}

/// Both seats decide alike, whatever comes. `TANDEM_FRAMES=N`: at least so many frames; `TANDEM_SEED=N`: others.
#[test]
fn generated_frames() {
    let usual = if std::env::var_os("TANDEM_LONG").is_some() { LONG } else { USUAL };
    let (wanted, seed) = (number("TANDEM_FRAMES").unwrap_or(usual), number("TANDEM_SEED").unwrap_or(1));
    let rounds = rounds(wanted, seed);
    let (next, started) = (AtomicUsize::new(0), Instant::now());
    let (kinds, skipped) = (Mutex::new(KINDS.map(|_| Told::default())), AtomicUsize::new(0));
    let differences = AtomicUsize::new(0);
    let worker = || {
        // After a difference nothing new is begun.
        while differences.load(Ordering::Relaxed) == 0
            && let number = next.fetch_add(1, Ordering::Relaxed)
            && let Some(round) = rounds.get(number)
        {
            match round.tell() {
                Ok(Some(told)) => {
                    let mut kinds = kinds.lock().unwrap();
                    let at = KINDS.iter().position(|(kind, _)| *kind == round.kind).unwrap();
                    kinds[at].add(&told);
                    let frames: u64 = kinds.iter().map(|told| told.frames).sum();
                    let seconds = started.elapsed().as_secs();
                    eprintln!("round {} of {}: {round}: alike; {frames} frames in {seconds} s", number + 1, rounds.len());
                }
                Ok(None) => drop(skipped.fetch_add(1, Ordering::Relaxed)),
                Err(()) => drop(differences.fetch_add(1, Ordering::Relaxed)),
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(worker))));
    let kinds = kinds.into_inner().unwrap();
    if skipped.into_inner() > 0 {
        return;
    }
    let mut total = Told::default();
    kinds.iter().for_each(|told| total.add(told));
    let (differences, seconds) = (differences.into_inner(), started.elapsed().as_secs_f64());
    eprintln!("reasons: {}", total.reasons_reached());
    eprintln!("verdict: seed {seed}: {total} in {seconds:.0} s; {differences} differences");
    assert_eq!(differences, 0, "see above; the same again: TANDEM_FRAMES={wanted} TANDEM_SEED={seed}");
    assert!(total.frames >= wanted, "{} frames of {wanted}", total.frames);
    if wanted >= USUAL {
        KINDS.iter().zip(&kinds).for_each(|((kind, _), told)| reached(*kind, told));
        changed(&total);
    }
}

/// A round that reaches less than this shows less than it says.
fn reached(kind: Kind, told: &Told) {
    let count = |reason| told.reason(reason);
    match kind {
        Kind::Changes { sets } => {
            assert!(told.by_flow > told.frames / 20, "{kind}: {} by flow", told.by_flow);
            assert!(told.evictions > 0 || sets > 1024, "{kind}: no evictions");
        }
        Kind::Everything { profile } => {
            // Nothing fills the global table here, and frames that cannot be encapsulated are another test's. Katran takes what is
            // in a tunnel over IPv4 for IPv4; in the standard profile no flow stays at a real that is down.
            let other = if profile == "katran" { "egress-decap-v6" } else { "udp-migrated" };
            let mut expected = vec!["encap-failed-v4", "encap-failed-v6", "global-flow-hit", "nat-errors", "nat-opened", other];
            expected.sort_unstable();
            assert_eq!(told.events_missed(), expected, "{kind}: events that were never counted");
        }
        Kind::Nat { .. } => {
            for reason in [Reason::Forwarded, Reason::NatUnknown, Reason::TtlExpired] {
                assert!(count(reason) > 0, "{kind}: no {}", reason.name());
            }
            // In long runs most of what is answered has been closed before.
            assert!(count(Reason::NatReply) > 500, "{kind}: {} answers", count(Reason::NatReply));
            assert!(told.later.iter().all(|count| *count > 10), "{kind}: {:?} later fragments", told.later);
            assert!(told.event("nat-errors") > 0 && told.event("nat-opened") > 0, "{kind}: no errors, or nothing opened");
        }
    }
}

/// What has to have happened to plans.
fn changed(total: &Told) {
    for (what, n) in total.changes() {
        assert!(n > 0, "{what}: none");
    }
}
