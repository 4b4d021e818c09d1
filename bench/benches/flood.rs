//! What a flood of new flows leaves to the established in the kernel seat, ten packets of the flood to each of theirs: without a
//! limit of new flows, and above it (`flows.new_flows_per_core`; a flood that takes a core is far above it). The same of the userspace
//! seat is `what_a_flood_leaves` in `engine/tests/oracles/flood.rs`, on a table of the same size.
//!
//! * alone: a hit while nothing else comes; among: a hit while the flood comes, by turns, so that what the flood does to the caches is
//!   in it; flood: a packet of the flood. Net, as in the bench `kernel`.
//! * share: packets a second of a core that has nothing else to do, one of eleven of them the established's, against those of a core
//!   whose packets are all theirs. Below 100 %: the established lose more than the flood's share of the packets.
//!
//! `cargo bench -p tandem-bench --bench flood`, as root.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use tandem_backends::control::{Counters, KernelGrace};
use tandem_backends::memory::Sizes;
use tandem_backends::xdp::{Balancer, Role};
use tandem_bench::kernel::{References, Timed};
use tandem_bench::scene::{self, vip};
use tandem_bench::timing::{Series, is_measurement, stay_on_one_core};
use tandem_engine::Reason;

/// Sets of the flow table, and established flows, which take half of its places.
const SETS: u32 = 4096;
const ESTABLISHED: u32 = 10_000;
/// Flows of the flood: so many that hardly one comes back while it is known.
const MANY: u32 = 1 << 24;
/// Packets of the flood for each of the established.
const TIMES: u32 = 10;
/// Packets of the established in a turn: with fewer, what a turn begins with (cold caches, where others have the core in between) is
/// most of it.
const TURN: u32 = 10_000;

#[derive(Clone, Copy, Debug)]
enum Flood {
    Syn,
    Ack,
    Udp,
}

impl Flood {
    /// From a network that no established flow is from: 198.18.0.0/15 is for tests (RFC 2544).
    fn frame(self) -> Vec<u8> {
        let mut frame = match self {
            Self::Syn => scene::tcp_v4(vip::PLAIN, true),
            Self::Ack => scene::tcp_v4(vip::PLAIN, false),
            Self::Udp => scene::udp_v4(vip::PLAIN),
        };
        for (byte, of) in frame.iter_mut().skip(26).zip([198, 18, 0]) {
            *byte = of;
        }
        frame
    }
}

/// The programs under one kind of frame: what is measured, and the harness alone, with a change of the length and without.
struct Side {
    timed: [Timed; 3],
    series: [Series; 3],
}

impl Side {
    fn new(balancer: &Balancer, references: &mut References, frame: &[u8], flows: u32) -> Result<Self> {
        let flows = Some(flows);
        let timed = [
            Timed::new(balancer.fd()?, frame, flows)?,
            Timed::new(references.program("null")?, frame, flows)?,
            Timed::new(references.program("room")?, frame, flows)?,
        ];
        Ok(Self { timed, series: Default::default() })
    }

    /// The program that is measured.
    fn run(&mut self, rounds: u32, measured: bool) -> Result<()> {
        let [timed, ..] = &mut self.timed;
        let time = timed.run(rounds)?;
        if measured {
            self.series[0].add(time, rounds);
        }
        Ok(())
    }

    fn floors(&mut self, rounds: u32) -> Result<()> {
        for (timed, series) in self.timed.iter_mut().zip(&mut self.series).skip(1) {
            series.add(timed.run(rounds)?, rounds);
        }
        Ok(())
    }

    /// Nanoseconds of `of` without the harness.
    fn net(&self, of: &Series) -> f64 {
        let [_, null, room] = &self.series;
        of.min() - f64::midpoint(null.min(), room.min())
    }
}

/// Forwarded, of these by the ring, and entered into the flow table.
fn counts(balancer: &Balancer) -> [u64; 3] {
    let tables = balancer.tables();
    let counters = Counters::read(tables, 0..tables.blocks());
    let sum = |name: &str| counters.vips.values().filter_map(|row| row.get(name)).sum();
    [counters.reason(Reason::Forwarded), sum("ring"), sum("entered")]
}

fn measure(flood: Flood, guarded: bool, repeats: u32) -> Result<()> {
    let plan = scene::plan()?;
    let blocks = aya::util::nr_cpus().map_err(|(_, e)| e)? as u32;
    let balancer = Balancer::load(&Role::Unpinned, Sizes { flow_sets: SETS, ..Sizes::for_plan(&plan, blocks) })?;
    scene::apply(&plan, balancer.tables(), &KernelGrace)?;
    let mut references = References::load(balancer.tables(), SETS)?;
    let mut known = Side::new(&balancer, &mut references, &scene::tcp_v4(vip::PLAIN, false), ESTABLISHED)?;
    let mut new = Side::new(&balancer, &mut references, &flood.frame(), MANY)?;
    // Each of them more than once, which is what protects its entry.
    known.run(20 * ESTABLISHED, false)?;
    let mut alone = Series::default();
    for _ in 0..repeats {
        known.run(TURN, true)?;
        known.floors(TURN)?;
    }
    std::mem::swap(&mut alone, &mut known.series[0]);
    if guarded {
        let root = balancer.tables().root();
        root.guard_limit.set(1);
        root.guard_window.set(1 << 20);
    }
    // The flood fills what the established leave of the table.
    new.run(200_000, false)?;
    let (mut lost, mut from_ring, mut entered) = (0, 0, 0);
    for _ in 0..repeats {
        let before = counts(&balancer);
        new.run(TIMES * TURN, true)?;
        let between = counts(&balancer);
        known.run(TURN, true)?;
        let after = counts(&balancer);
        let forwarded = [between[0] - before[0], after[0] - between[0]];
        ensure!(forwarded == [TIMES * TURN, TURN].map(u64::from), "{flood:?}: forwarded {forwarded:?}");
        from_ring += between[1] - before[1];
        entered += between[2] - before[2];
        lost += after[1] - between[1];
        new.floors(TIMES * TURN)?;
    }
    let [ours, theirs] = [TURN, TIMES * TURN].map(|turn| u64::from(turn * repeats));
    ensure!(lost * 100 <= ours, "{flood:?}: {lost} of {ours} packets of the established asked the ring");
    ensure!(from_ring >= theirs - theirs / 100, "{flood:?}: only {from_ring} of {theirs} packets of the flood were new");
    let was_entered = if guarded { entered == 0 } else { entered >= theirs - theirs / 100 };
    ensure!(was_entered, "{flood:?}: {entered} of {theirs} packets of the flood were entered");
    let [alone, among] = [&alone, &known.series[0]].map(|series| known.net(series));
    let each = new.net(&new.series[0]);
    let all = (among + f64::from(TIMES) * each) / f64::from(TIMES + 1);
    println!(
        "{:<5} {:<10} {alone:>7.1} {among:>7.1} {each:>7.1} {:>6.0} %",
        format!("{flood:?}"),
        if guarded { "above it" } else { "none" },
        100.0 * alone / all,
    );
    Ok(())
}

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: timing XDP programs takes CAP_BPF and CAP_NET_ADMIN; run it as root");
        return ExitCode::SUCCESS;
    }
    stay_on_one_core();
    let repeats = if is_measurement() { 41 } else { 1 };
    println!("ns of thread CPU time per frame, net, least of {repeats}");
    println!("{:<5} {:<10} {:>7} {:>7} {:>7} {:>8}", "flood", "limit", "alone", "among", "flood", "share");
    let cases = [Flood::Syn, Flood::Ack, Flood::Udp].into_iter().flat_map(|flood| [(flood, false), (flood, true)]);
    let measured = cases.into_iter().try_for_each(|(flood, guarded)| measure(flood, guarded, repeats));
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
