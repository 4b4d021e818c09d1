//! The core alone, in both targets, without an interface: nanoseconds of thread CPU time for a packet whose flow is known, by
//! number of flows. The kernel seat by the wrapper of [`crate::kernel`], the userspace seat in batches on the same tables.

use anyhow::{Result, ensure};
use aya::Ebpf;
use tandem_backends::control::{Counters, KernelGrace};
use tandem_backends::memory::Sizes;
use tandem_backends::xdp::{Balancer, Role};
use tandem_engine::Reason;
use tandem_engine::memory::flows::WAYS;

use crate::batches::{FRAMES, Seat, Umem, measure_once, turns_for, warm_up};
use crate::device::Mode;
use crate::kernel::{References, Timed, delayed};
use crate::scenario::Rng;
use crate::scene::{self, vip};
use crate::timing::Series;

/// Rounds of one measurement in the kernel.
const ROUNDS: u32 = 100_000;
/// Sets of the usual table: 1.3 million flows.
const USUAL_SETS: u32 = 1 << 18;

/// One seat with so many flows, on tables of its own: the two know flows by other numbers, and would push each other's out.
pub struct Cores {
    flows: u32,
    mode: Mode,
    balancer: Balancer,
    kernel: Timed,
    /// The wrapper around nothing, and around a program that makes room: half way between them is what the wrapper costs.
    floor: [Timed; 2],
    seat: Seat,
    umem: Umem,
    rng: Rng,
    _references: References,
    _delay: Option<Ebpf>,
}

impl Cores {
    /// Loads the balancer and lets the seat see every flow. `delay` is a seat with nanoseconds that each packet takes longer.
    ///
    /// # Errors
    /// No privileges, or no memory.
    pub fn new(flows: u32, mode: Mode, delay: Option<(Mode, f64)>) -> Result<Self> {
        let plan = scene::plan()?;
        let cpus = aya::util::nr_cpus().map_err(|(_, e)| e)? as u32;
        // A load of three quarters: fewer than one flow in a hundred finds both its sets full.
        let sets = USUAL_SETS.max((u64::from(flows) * 4 / 3 / WAYS as u64).next_power_of_two() as u32);
        let balancer = Balancer::load(&Role::Unpinned, Sizes { flow_sets: sets, ..Sizes::for_plan(&plan, cpus + 1) })?;
        scene::apply(&plan, balancer.tables(), &KernelGrace)?;
        let mut references = References::load(balancer.tables(), 1)?;
        let frame = scene::udp_v4(vip::PLAIN);
        let nanos = |mode| delay.filter(|(delayed, _)| *delayed == mode).map(|(_, nanos)| nanos);
        let (kept, mut kernel) = match nanos(Mode::Xdp) {
            Some(nanos) => {
                let (ebpf, program) = delayed(balancer.fd()?, nanos)?;
                (Some(ebpf), Timed::new(&program, &frame, Some(flows))?)
            }
            None => (None, Timed::new(balancer.fd()?, &frame, Some(flows))?),
        };
        let mut floor = |name| Timed::new(references.program(name)?, &frame, Some(flows));
        let floor = [floor("null")?, floor("room")?];
        // A random flow of n is not seen in 5 n draws once in 148 times.
        let mut left = if mode == Mode::Xdp { (u64::from(flows) * 5).max(20_000) } else { 0 };
        while left > 0 {
            let rounds = left.min(1_000_000) as u32;
            kernel.run(rounds)?;
            left -= u64::from(rounds);
        }
        let mut seat = Seat::new(balancer.tables().clone(), cpus, turns_for(nanos(Mode::Afxdp).unwrap_or(0.0)));
        if mode == Mode::Afxdp {
            warm_up(&mut seat, flows);
        }
        let (umem, rng) = (Umem::new(), Rng(u64::from(flows)));
        Ok(Self { flows, mode, balancer, kernel, floor, seat, umem, rng, _references: references, _delay: kept })
    }

    /// One measurement: nanoseconds a packet, and the share of packets whose flow was known.
    ///
    /// # Errors
    /// Not every packet was forwarded.
    pub fn measure(&mut self) -> Result<(f64, f64)> {
        let before = self.counted();
        let (nanos, packets) = if self.mode == Mode::Afxdp {
            let mut series = Series::default();
            measure_once(&mut self.seat, &mut self.umem, &mut self.rng, self.flows, &mut series)?;
            (series.min(), FRAMES)
        } else {
            let time = |timed: &mut Timed| Ok::<_, anyhow::Error>(timed.run(ROUNDS)?.as_nanos() as f64 / f64::from(ROUNDS));
            let [null, room] = &mut self.floor;
            let floor = f64::midpoint(time(null)?, time(room)?);
            (time(&mut self.kernel)? - floor, ROUNDS)
        };
        let after = self.counted();
        let forwarded = after.0 - before.0;
        ensure!(forwarded == u64::from(packets), "{forwarded} of {packets} packets were forwarded");
        Ok((nanos, 1.0 - (after.1 - before.1) as f64 / f64::from(packets)))
    }

    /// Packets forwarded, and those of them whose real was chosen anew.
    fn counted(&self) -> (u64, u64) {
        let tables = self.balancer.tables();
        let counters = Counters::read(tables, 0..tables.blocks());
        let anew = counters.vips.values().filter_map(|row| row.get("ring")).sum();
        (counters.reason(Reason::Forwarded), anew)
    }
}
