//! What the two seats cost on this host: the measurement behind `tandem mode probe`.
//!
//! A warm flow hit of one and the same frame, in both seats, on tables of the same size and without a NIC: what is compared is
//! the forwarding itself. A NIC adds its driver's cost to both, and in copy mode some hundred nanoseconds to AF_XDP.

use std::time::{Duration, Instant};

use serde::Serialize;
use tandem_engine::handover::VERSION;

use crate::afxdp::Tap;
use crate::afxdp::frame::FrameBuf;
use crate::afxdp::work::{Flows, Outcome, handle};
use crate::config::{Plan, parse};
use crate::control::{Control, Facts, KernelGrace, NoGrace};
use crate::memory::{Plain, Sizes, Tables};
use crate::replay::{ReplayError, Tuple};
use crate::xdp::{Balancer, Role};

/// Frames of a batch, as the workers take them.
const BATCH: usize = 32;
/// Rounds; the fastest counts, since everything else on the host only adds.
const ROUNDS: usize = 41;
const FRAMES_A_ROUND: usize = 64 * BATCH;
/// Bytes of room in front of a frame that was handed over for an IPv4 real.
const ROOM: usize = 20;

/// Nanoseconds for each packet.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Costs {
    /// The kernel seat: the program by `BPF_PROG_TEST_RUN`, less an empty one.
    pub xdp_ns: f64,
    /// The userspace seat: the engine in batches.
    pub afxdp_ns: f64,
}

/// Measures both seats; takes about a second.
///
/// # Errors
/// [`ReplayError`]: no privileges, an old kernel.
pub fn costs() -> Result<Costs, ReplayError> {
    let plan = sample_plan()?;
    let tuple: Tuple = "udp 198.51.100.7:41000 > 10.200.1.1:80".parse().map_err(|e| ReplayError::Facts(format!("{e}")))?;
    let facts = Facts::of_plan(&plan, 0).map_err(ReplayError::Facts)?;
    Ok(Costs { xdp_ns: kernel(&plan, &facts, &tuple.frame())?, afxdp_ns: userspace(&plan, &facts, &tuple.frame())? })
}

fn sample_plan() -> Result<Plan, ReplayError> {
    const TEXT: &str = r#"
        node = { next_hop_mac = "02:00:00:00:00:09", local_mac = "02:00:00:00:00:01" }
        tunnel.source_v4 = "192.0.2.1"
        [[vip]]
        address = "10.200.1.1"
        port = 80
        protocol = "udp"
        real = [{ address = "10.0.0.1" }, { address = "10.0.0.2" }, { address = "10.0.0.3" }]
    "#;
    parse(TEXT, "probe").map(|loaded| loaded.plan).map_err(|e| ReplayError::Facts(e.to_string()))
}

fn kernel(plan: &Plan, facts: &Facts, frame: &[u8]) -> Result<f64, ReplayError> {
    let mut balancer = Balancer::load(&Role::Unpinned, Sizes::for_plan(plan, aya::util::nr_cpus().map_or(1, |n| n as u32)))?;
    Control::adopt(balancer.tables().clone())?.apply(plan, facts, &KernelGrace)?;
    let mut least = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
        let (with, without) = balancer.time_frame(frame, 500)?;
        let [a, b] = &mut least;
        *a = (*a).min(with);
        *b = (*b).min(without);
    }
    let [with, without] = least;
    Ok(with.saturating_sub(without).as_nanos() as f64)
}

fn userspace(plan: &Plan, facts: &Facts, frame: &[u8]) -> Result<f64, ReplayError> {
    let tables = Tables::plain(Sizes::for_plan(plan, 1))?;
    Control::adopt(tables.clone())?.apply(plan, facts, &NoGrace)?;
    let desk = Plain::new(tables, 0);
    let received = [&[ROOM as u8, VERSION, 0, 0], [0; ROOM - 4].as_slice(), frame].concat();
    let mut chunks = vec![vec![0_u8; 2048]; BATCH];
    let mut flows: Flows = std::array::from_fn(|_| tandem_engine::Flow::default());
    let mut outcomes = [Outcome::default(); BATCH];
    let (tap, mut least) = (Tap::default(), Duration::MAX);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..FRAMES_A_ROUND / BATCH {
            for chunk in &mut chunks {
                if let Some(start) = chunk.get_mut(..received.len()) {
                    start.copy_from_slice(&received);
                }
            }
            let mut frames: Vec<_> = chunks.iter_mut().map(|chunk| FrameBuf::received(chunk, received.len())).collect();
            handle(&mut frames, &desk, &mut flows, &mut outcomes, &tap);
            std::hint::black_box(&outcomes);
        }
        least = least.min(start.elapsed());
    }
    Ok(least.as_nanos() as f64 / FRAMES_A_ROUND as f64)
}
