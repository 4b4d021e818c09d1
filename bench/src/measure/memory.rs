//! The core alone, in both targets, without an interface: nanoseconds of thread CPU time for a packet whose flow is known, by
//! number of flows. The kernel seat by the wrapper of [`crate::kernel`], the userspace seat in batches on the same tables.

use anyhow::{Result, bail, ensure};
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

/// Sets of the usual table: 1.3 million flows.
const USUAL_SETS: u32 = 1 << 18;

/// One seat with so many flows, on tables of its own: the two know flows by other numbers, and would push each other's out.
pub struct Cores {
    flows: u32,
    balancer: Balancer,
    core: Core,
    rng: Rng,
}

/// What does the work.
enum Core {
    Kernel {
        kernel: Box<Timed>,
        /// The wrapper around nothing, and around a program that makes room: half way between them is what the wrapper costs.
        floor: Box<[Timed; 2]>,
        _references: References,
        _delay: Option<Ebpf>,
    },
    Worker(Seat, Umem),
    #[cfg(feature = "bytecode")]
    Bytecode(crate::bytecode::Bytecode),
}

impl Core {
    /// With nanoseconds that each packet takes longer; every flow is known then.
    fn new(balancer: &Balancer, mode: Mode, flows: u32, delay: Option<f64>) -> Result<Self> {
        match mode {
            Mode::Xdp => Self::kernel(balancer, flows, delay),
            Mode::Afxdp => {
                let tables = balancer.tables();
                // The last block is not a core's.
                let mut seat = Seat::new(tables.clone(), tables.blocks() - 1, turns_for(delay.unwrap_or(0.0)));
                warm_up(&mut seat, flows);
                Ok(Self::Worker(seat, Umem::new()))
            }
            #[cfg(feature = "bytecode")]
            Mode::Bytecode => {
                let mut bytecode = crate::bytecode::Bytecode::new(balancer.tables().clone())?;
                bytecode.with(|machine| machine.warm_up(&scene::udp_v4(vip::PLAIN), flows))?;
                Ok(Self::Bytecode(bytecode))
            }
            other => bail!("{} has no core to be measured alone", other.name()),
        }
    }

    fn kernel(balancer: &Balancer, flows: u32, delay: Option<f64>) -> Result<Self> {
        let mut references = References::load(balancer.tables(), 1)?;
        let frame = scene::udp_v4(vip::PLAIN);
        let (kept, mut kernel) = match delay {
            Some(nanos) => {
                let (ebpf, program) = delayed(balancer.fd()?, nanos)?;
                (Some(ebpf), Timed::new(&program, &frame, Some(flows))?)
            }
            None => (None, Timed::new(balancer.fd()?, &frame, Some(flows))?),
        };
        let mut floor = |name| Timed::new(references.program(name)?, &frame, Some(flows));
        let floor = Box::new([floor("null")?, floor("room")?]);
        // A random flow of n is not seen in 5 n draws once in 148 times.
        let mut left = (u64::from(flows) * 5).max(20_000);
        while left > 0 {
            let rounds = left.min(1_000_000) as u32;
            kernel.run(rounds)?;
            left -= u64::from(rounds);
        }
        Ok(Self::Kernel { kernel: Box::new(kernel), floor, _references: references, _delay: kept })
    }

    /// Nanoseconds a packet, and the packets.
    fn measure(&mut self, flows: u32, rng: &mut Rng) -> Result<(f64, u32)> {
        let mut series = Series::default();
        match self {
            Self::Kernel { kernel, floor, .. } => {
                let time = |timed: &mut Timed| Ok::<_, anyhow::Error>(timed.run(FRAMES)?.as_nanos() as f64 / f64::from(FRAMES));
                let [null, room] = floor.as_mut();
                let floor = f64::midpoint(time(null)?, time(room)?);
                return Ok((time(kernel)? - floor, FRAMES));
            }
            Self::Worker(seat, umem) => measure_once(seat, umem, rng, flows, &mut series)?,
            #[cfg(feature = "bytecode")]
            Self::Bytecode(bytecode) => {
                bytecode.with(|machine| machine.measure(&scene::udp_v4(vip::PLAIN), rng, flows, &mut series))?;
            }
        }
        Ok((series.min(), FRAMES))
    }
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
        let nanos = delay.filter(|(delayed, _)| *delayed == mode).map(|(_, nanos)| nanos);
        let core = Core::new(&balancer, mode, flows, nanos)?;
        Ok(Self { flows, balancer, core, rng: Rng(u64::from(flows)) })
    }

    /// One measurement: nanoseconds a packet, and the share of packets whose flow was known.
    ///
    /// # Errors
    /// Not every packet was forwarded.
    pub fn measure(&mut self) -> Result<(f64, f64)> {
        let before = self.counted();
        let (nanos, packets) = self.core.measure(self.flows, &mut self.rng)?;
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
