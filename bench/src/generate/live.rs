//! The generator in the kernel: the program `generator` of the benchmarks' object, run by `BPF_PROG_TEST_RUN` with live
//! frames, which it redirects to an interface.
//!
//! One call runs until a signal ends it: each call takes tens of milliseconds to set up and to tear down, in which nothing
//! is sent. The pace is kept inside the program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use core_affinity::CoreId;
use signal_hook::consts::SIGUSR1;
use tandem_backends::memory::Area;
use tandem_backends::xdp::REFERENCES;
use tandem_engine::memory::Line;
use tandem_lab::{Host, Lab};

use super::{Load, Running};
use crate::frames::{frame_of, schedule_words};
use crate::kernel::area;
use crate::pkt::Protocol;
use crate::scenario::Scenario;
use crate::timing::thread_time;

/// Frames that the kernel prepares, and sends, at a time.
const BATCH: u32 = 64;
/// The longest time that is caught up with after a pause.
const LATE: Duration = Duration::from_millis(2);

/// A loaded generator for one scenario.
pub struct LiveFrames {
    ebpf: Arc<Ebpf>,
    state: Arc<Area<Line>>,
    base: Arc<[u8]>,
}

impl LiveFrames {
    /// Loads the program, with the scenario's sequence.
    ///
    /// # Errors
    /// No privileges, or a kernel that refuses the program.
    pub fn load(scenario: &Scenario) -> Result<Self> {
        let largest = scenario.sequence.iter().max_by_key(|item| item.step.size).context("the scenario sends nothing")?;
        let base = frame_of(scenario, largest);
        let mut header = [0_u32; 14];
        for (word, bytes) in header.iter_mut().zip(base.chunks_exact(4)) {
            *word = bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        }
        let lines = scenario.sequence.len().div_ceil(2).max(1);
        let (v6, tcp) = (u32::from(scenario.traffic.v6), u32::from(scenario.traffic.protocol == Protocol::Tcp));
        let (count, length) = (scenario.sequence.len() as u32, base.len() as u32);
        let mut ebpf = EbpfLoader::new()
            .override_global("GEN_V6", &v6, true)
            .override_global("GEN_TCP", &tcp, true)
            .override_global("GEN_COUNT", &count, true)
            .override_global("GEN_LENGTH", &length, true)
            .override_global("GEN_HEADER", &header, true)
            .map_max_entries("SCHEDULE", lines as u32)
            .load(REFERENCES)
            .context("the benchmarks' object")?;
        let schedule: Area<Line> = area(&ebpf, "SCHEDULE", lines)?;
        for (number, item) in scenario.sequence.iter().enumerate() {
            let Some(line) = schedule.get(number / 2) else { break };
            for (at, word) in schedule_words(scenario, item).into_iter().enumerate() {
                line.set(number % 2 * 4 + at, word);
            }
        }
        let state = Arc::new(area(&ebpf, "GENERATOR", 1)?);
        let program: &mut Xdp = ebpf.program_mut("generator").context("the object has no program generator")?.try_into()?;
        program.load().context("the program generator")?;
        Ok(Self { ebpf: Arc::new(ebpf), state, base: base.into() })
    }

    /// Starts sending from the router's end of the device's link.
    ///
    /// # Errors
    /// No thread, or no such core.
    pub fn start(&self, lab: &Lab, load: &Load) -> Result<Running> {
        let interface = lab.link(Host::Lb)?.router.index;
        let state = self.state.first().context("the generator has no state")?;
        state.clear();
        let gap = load.rate.map_or(0, |rate| (1e9 / rate.max(1.0)) as u64);
        let words = [(2, gap), (3, u64::from(interface)), (6, u64::from(load.stamped)), (7, LATE.as_nanos() as u64)];
        words.into_iter().for_each(|(at, word)| state.set(at, word));
        // A signal without a handler would end the process; what the handler sets, nobody reads.
        signal_hook::flag::register(SIGUSR1, Arc::new(AtomicBool::new(false))).context("cannot catch SIGUSR1")?;
        let stop = Arc::new(AtomicBool::new(false));
        let (ebpf, base, core, stopped) = (self.ebpf.clone(), self.base.clone(), load.core, stop.clone());
        let work = move || send(&ebpf, &base, core, &stopped);
        // A thread that is started inside stays inside.
        let thread = lab.enter(Host::Router, || std::thread::Builder::new().name("generator".to_owned()).spawn(work))?;
        let thread = thread.context("cannot start the generator's thread")?;
        let state = self.state.clone();
        let progress = move || state.first().map_or((0, 0), |state| (state.get(0), state.get(5)));
        Ok(Running::new(thread, stop, true, progress))
    }
}

fn send(ebpf: &Ebpf, base: &[u8], core: usize, stop: &AtomicBool) -> Result<Duration> {
    if !core_affinity::set_for_current(CoreId { id: core }) {
        bail!("cannot pin the generator to core {core}; `taskset -pc $$` lists the cores that are allowed");
    }
    let program: &Xdp = ebpf.program("generator").context("the object has no program generator")?.try_into()?;
    let before = thread_time();
    while !stop.load(Ordering::Relaxed) {
        let attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
        let options = TestRunOptions { data_in: Some(base), repeat: u32::MAX, attrs, ..Default::default() };
        match program.test_run(options) {
            Ok(_) => {}
            Err(error) if is_interrupted(&error) => {}
            Err(error) => return Err(anyhow!(error).context("live frames (Linux 5.18 or newer has them)")),
        }
    }
    Ok(thread_time() - before)
}

/// A signal ends a call with `EINTR`, which is how it is stopped.
fn is_interrupted(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.raw_os_error() == Some(nix::errno::Errno::EINTR as i32);
        }
        next = error.source();
    }
    false
}
