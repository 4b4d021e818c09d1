//! XDP programs, timed by `BPF_PROG_TEST_RUN` with a wrapper that undoes after every round what the program did.
//!
//! Without the wrapper the kernel's repeat loop would run a program on its own output from the second round on.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, ProgramArray};
use aya::programs::{ProgramFd, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use tandem_backends::memory::{Area, Shared, Tables};
use tandem_backends::xdp::{Direct, REFERENCES, prepare};
use tandem_engine::memory::counters::Extent;
use tandem_engine::memory::reals::{Method, Way};
use tandem_engine::memory::rings::SLOTS_PER_LINE;
use tandem_engine::memory::{Line, Real, RingLine, Root, VipCounter, VipSlot};

use crate::scene;
use crate::timing::thread_time;

/// The programs that the balancer is compared with.
pub struct References {
    ebpf: Ebpf,
    counts: Area<Line>,
    extent: Extent,
}

impl References {
    /// Loads them; `tables` fill the rival's, which has room for `flows` flows.
    ///
    /// # Errors
    /// No privileges, or a kernel that refuses the programs.
    pub fn load(tables: &Tables, flows: u32) -> Result<Self> {
        let sizes = tables.sizes();
        let extent = sizes.extent;
        let direct = Direct::make(sizes, None)?;
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("FLOW_HASH", flows)
            .load(&prepare(REFERENCES, sizes, 0, &direct)?)
            .context("the benchmarks' object")?;
        copy(tables, &mut ebpf, &direct)?;
        let counts = direct.area("COUNTS", sizes.blocks as usize * extent.lines() as usize)?;
        for name in ["null", "room", "fixed", "hashed"] {
            program(&mut ebpf, name)?.load().with_context(|| format!("the program {name}"))?;
        }
        Ok(Self { ebpf, counts, extent })
    }

    /// One of `null`, `room`, `fixed`, `hashed`.
    ///
    /// # Errors
    /// No such program.
    pub fn program(&mut self, name: &str) -> Result<&ProgramFd> {
        Ok(program(&mut self.ebpf, name)?.fd()?)
    }

    /// A counter of the rival, summed over all blocks: line and index as the engine numbers them.
    pub fn count(&self, line: u32, index: usize) -> u64 {
        self.counts.iter().skip(line as usize).step_by(self.extent.lines() as usize).map(|line| line.get(index)).sum()
    }

    /// A counter of all its VIPs, summed over all blocks.
    pub fn count_of_vips(&self, counter: VipCounter) -> u64 {
        (0..self.extent.vips).map(|vip| self.count(self.extent.vip(vip), counter as usize)).sum()
    }
}

/// Fills the rival's tables from the balancer's.
fn copy(tables: &Tables, ebpf: &mut Ebpf, direct: &Direct) -> Result<()> {
    let (from, to) = (tables.root(), direct.area::<Root>("ROOT", 1)?);
    for to in to.iter() {
        to.any_port.set(from.any_port.get());
        to.udp_idle.set(from.udp_idle.get());
        to.max_frame.set(from.max_frame.get());
        to.craft_v4.set(from.craft_v4.get());
        to.vary_v4.set(from.vary_v4.get());
        to.vary_v6.set(from.vary_v6.get());
        to.local_mac.set(from.local_mac.get());
        for (to, word) in to.craft_v6.iter().zip(from.craft_v6()) {
            to.set(word);
        }
        to.set_layout(from.layout());
    }
    for (to, from) in direct.area::<RingLine>("RINGS", tables.rings().len())?.iter().zip(tables.rings()) {
        let numbers: Vec<u16> = (0..SLOTS_PER_LINE).map(|slot| from.get(slot) as u16).collect();
        to.fill(&numbers);
    }
    for (to, from) in direct.area::<Real>("REALS", tables.reals().len())?.iter().zip(tables.reals()) {
        if let Some(owner) = from.owner() {
            to.fill(Some(owner), from.addr(), from.hop().is_v6(), &Way::by(Method::Ipip), Some(from.hop().mac()));
        }
    }
    let map = ebpf.map_mut("VIP_HASH").context("the object has no VIP_HASH")?;
    let mut vips: HashMap<_, [u64; 3], [u32; 5]> = map.try_into()?;
    for (key, vip) in tables.vips().iter().filter_map(VipSlot::entry) {
        let [a, b] = key.addr;
        let word = u64::from(key.protocol()) << 16 | u64::from(key.port_be());
        vips.insert([a, b, word], [vip.id, vip.flags, vip.ring, vip.ring_len, vip.first], 0)?;
    }
    Ok(())
}

/// An array of an object, mapped.
///
/// # Errors
/// No such array.
pub fn area<T: Shared>(ebpf: &Ebpf, name: &'static str, len: usize) -> Result<Area<T>> {
    let Some(Map::Array(data)) = ebpf.map(name) else { anyhow::bail!("the object has no array {name}") };
    Ok(Area::of_map(name, data.fd().as_fd(), len)?)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?.try_into()?)
}

/// A wrapper with a program in its slot, for one frame.
pub struct Timed {
    ebpf: Ebpf,
    state: Area<Line>,
    frame: Arc<[u8]>,
}

/// What the wrapper saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Rounds that found the frame longer or shorter than it has to be.
    pub changed: u64,
    /// Rounds that came to no end.
    pub failed: u64,
}

impl Timed {
    /// Wraps `program` for `frame`; with `flows` (at most 2^24) every round has a random one of so many.
    ///
    /// # Errors
    /// No privileges, or programs that do not fit together.
    pub fn new(program_fd: &ProgramFd, frame: &[u8], flows: Option<u32>) -> Result<Self> {
        let byte = |at: usize| frame.get(at).copied().unwrap_or(0);
        let word = |at: usize| u32::from_le_bytes([byte(at), byte(at + 1), byte(at + 2), byte(at + 3)]);
        let is_v6 = byte(14) >> 4 == 6;
        let (length, macs) = (frame.len() as u32, [word(0), word(4), word(8)]);
        let (v6, ttl) = if is_v6 { (1, u32::from(byte(21))) } else { (0_u32, word(22)) };
        // Only NAT replaces more than that; what nobody replaces is not written, so that the other rows are as they were.
        let by_nat = scene::METHODS.iter().any(|(method, vip)| *method == "nat" && frame.get(30..34) == Some(&vip.octets()[..]));
        let body = if by_nat { [word(26), word(30), word(34), word(38)] } else { [0; 4] };
        let flows = flows.unwrap_or(0);
        let mut ebpf = EbpfLoader::new()
            .override_global("LENGTH", &length, true)
            .override_global("MACS", &macs, true)
            .override_global("IS_V6", &v6, true)
            .override_global("TTL", &ttl, true)
            .override_global("BODY", &body, true)
            .override_global("FLOW_COUNT", &flows, true)
            .load(REFERENCES)
            .context("the benchmarks' object")?;
        program(&mut ebpf, "wrapper")?.load().context("the wrapper")?;
        let mut slot: ProgramArray<_> = ebpf.map_mut("SLOT").context("the object has no SLOT")?.try_into()?;
        slot.set(0, program_fd, 0).context("the wrapper's slot")?;
        let state = area(&ebpf, "STATE", 1)?;
        Ok(Self { ebpf, state, frame: frame.into() })
    }

    /// Runs it `rounds` times in one call; gives the thread's time.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn run(&mut self, rounds: u32) -> Result<Duration> {
        let wrapper = program(&mut self.ebpf, "wrapper")?;
        let options = TestRunOptions { data_in: Some(&self.frame), repeat: rounds, ..Default::default() };
        let before = thread_time();
        wrapper.test_run(options)?;
        Ok(thread_time() - before)
    }

    /// The frame as `rounds` rounds leave it, and the program's last answer.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn output(&mut self, rounds: u32) -> Result<(Vec<u8>, u32)> {
        let wrapper = program(&mut self.ebpf, "wrapper")?;
        let mut out = vec![0; self.frame.len() + 256];
        let options =
            TestRunOptions { data_in: Some(&self.frame), data_out: Some(&mut out), repeat: rounds, ..Default::default() };
        let result = wrapper.test_run(options)?;
        out.truncate(result.data_size_out as usize);
        Ok((out, result.return_value))
    }

    /// Checks that every round did what a single one does.
    ///
    /// # Errors
    /// If the program's output depends on how often it ran.
    pub fn check_repeatable(&mut self) -> Result<()> {
        let (once, often) = (self.output(1)?, self.output(1000)?);
        ensure!(once == often, "after 1,000 rounds: {often:02x?}, after one: {once:02x?}");
        Ok(())
    }

    /// What the wrapper saw so far.
    pub fn seen(&self) -> Seen {
        let count = |index| self.state.first().map_or(0, |line| line.get(index));
        Seen { changed: count(0), failed: count(2) }
    }
}

/// Nanoseconds that one turn of the program `delay` takes, on this machine, now.
///
/// # Errors
/// No privileges.
pub fn time_of_turn() -> Result<f64> {
    const TURNS: u32 = 1000;
    let mut times = [Duration::MAX; 2];
    for (time, turns) in times.iter_mut().zip([0, TURNS]) {
        let mut ebpf =
            EbpfLoader::new().override_global("TURNS", &turns, true).load(REFERENCES).context("the benchmarks' object")?;
        let delay = program(&mut ebpf, "delay")?;
        delay.load().context("the program delay")?;
        for _ in 0..5 {
            let before = thread_time();
            delay.test_run(TestRunOptions { data_in: Some(&[0; 64]), repeat: 10_000, ..Default::default() })?;
            *time = (*time).min(thread_time() - before);
        }
    }
    let [without, with] = times;
    Ok(with.saturating_sub(without).as_nanos() as f64 / 10_000.0 / f64::from(TURNS))
}

/// A program that takes so many nanoseconds and then calls `next`; what is timed instead of `next` to see whether a comparison
/// finds the difference.
///
/// # Errors
/// No privileges.
pub fn delayed(next: &ProgramFd, nanos: f64) -> Result<(Ebpf, ProgramFd)> {
    let turns = if nanos > 0.0 { (nanos / time_of_turn()?).round() as u32 } else { 0 };
    let mut ebpf = EbpfLoader::new().override_global("TURNS", &turns, true).load(REFERENCES).context("the benchmarks' object")?;
    let delay = program(&mut ebpf, "delay")?;
    delay.load().context("the program delay")?;
    let fd = delay.fd()?.try_clone()?;
    let mut slots: ProgramArray<_> = ebpf.map_mut("ROOT_SLOTS").context("the object has no ROOT_SLOTS")?.try_into()?;
    slots.set(1, next, 0).context("the slot behind the delay")?;
    Ok((ebpf, fd))
}
