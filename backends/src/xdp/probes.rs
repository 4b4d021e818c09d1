//! The encapsulation of health checks' probes: a TC program at the interface's egress, over the balancer's tables.

use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{self, SchedClassifierLink};
use aya::programs::{SchedClassifier, TcAttachType, TestRun, TestRunOptions};
use aya::util::KernelVersion;
use tandem_engine::handover::INTERFACES;

use super::balancer::Balancer;
use super::companion::counts;
use super::error::{XdpError, chain};
use super::object::accepted;
use crate::facts::Interface;

const PROBES: &str = "health_encap";
/// Its pin beside those of the balancer.
pub(super) const PIN: &str = "health_encap";
/// Bytes of `struct __sk_buff`, and where its mark is.
const CONTEXT: usize = 192;
const MARK: std::ops::Range<usize> = 8..12;
const ROOM: usize = 256;

impl Balancer {
    /// Says which real each socket mark leads to, by its id; other marks are nobody's from here on.
    ///
    /// # Errors
    /// [`XdpError::Marks`]: more than the table holds.
    pub fn set_marks(&mut self, marks: &[(u32, u32)]) -> Result<(), XdpError> {
        let fail = |cause| XdpError::Marks { marks: marks.len(), cause };
        let missing = || XdpError::Missing { what: "map", name: "HEALTH_MARKS" };
        let map = self.ebpf.map_mut("HEALTH_MARKS").ok_or_else(missing)?;
        let mut table: HashMap<&mut MapData, u32, u32> = map.try_into().map_err(|_| missing())?;
        let known: Vec<u32> = table.keys().filter_map(Result::ok).collect();
        for mark in known.into_iter().filter(|mark| !marks.iter().any(|(kept, _)| kept == mark)) {
            table.remove(&mark).map_err(|e| fail(chain(&e)))?;
        }
        for (mark, real) in marks {
            table.insert(mark, real, 0).map_err(|e| fail(chain(&e)))?;
        }
        Ok(())
    }

    /// Attaches the program to the egress of interfaces, or puts it in the place of the ones that a former process left.
    ///
    /// # Errors
    /// [`XdpError::AttachProbes`]: no clsact or tcx in this kernel, an interface is gone.
    pub fn attach_probes(&mut self, interfaces: &[Interface]) -> Result<(), XdpError> {
        let directory = self.directory.clone();
        for (n, interface) in interfaces.iter().enumerate() {
            attach(probes(&mut self.ebpf)?, &interface.name, directory.as_ref().map(|directory| directory.join(pin(n))))?;
        }
        Ok(())
    }

    /// Detaches the program from interfaces; nothing happens where it is not.
    ///
    /// # Errors
    /// [`XdpError::Pin`]: a pin cannot be removed.
    pub fn detach_probes(&mut self, interfaces: &[Interface]) -> Result<(), XdpError> {
        for interface in interfaces.iter().filter(|_| !has_tcx()) {
            let _ = tc::qdisc_detach_program(&interface.name, TcAttachType::Egress, PROBES);
        }
        self.directory.as_deref().map_or(Ok(()), remove_left)
    }

    /// Runs one frame of a socket with this mark; gives the TC action and the frame as it was left.
    ///
    /// # Errors
    /// [`XdpError::TestRun`]: a frame that is shorter than an Ethernet header or longer than the kernel takes.
    pub fn run_probe(&mut self, frame: &[u8], mark: u32, out: &mut Vec<u8>) -> Result<i32, XdpError> {
        let program = probes(&mut self.ebpf)?;
        out.clear();
        out.resize(frame.len() + ROOM, 0);
        let mut context = [0; CONTEXT];
        if let Some(field) = context.get_mut(MARK) {
            field.copy_from_slice(&mark.to_ne_bytes());
        }
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(out), ctx_in: Some(&context), ..Default::default() };
        let failed = |source| XdpError::TestRun { program: PROBES, bytes: frame.len(), source: Box::new(source) };
        let result = program.test_run(options).map_err(failed)?;
        out.truncate(result.data_size_out as usize);
        Ok(result.return_value.cast_signed())
    }

    /// The state of the generator that replays take their random numbers from.
    ///
    /// # Errors
    /// [`XdpError::Missing`]: the object has none.
    pub fn set_random(&mut self, state: u64) -> Result<(), XdpError> {
        let missing = || XdpError::Missing { what: "array", name: "HEALTH_RANDOM" };
        let map = self.ebpf.map_mut("HEALTH_RANDOM").ok_or_else(missing)?;
        let mut array: Array<&mut MapData, u64> = map.try_into().map_err(|_| missing())?;
        array.set(0, state, 0).map_err(|_| missing())
    }

    /// The program's counters, by [`tandem_engine::probe::Outcome`], summed over CPUs.
    ///
    /// # Errors
    /// [`XdpError::Missing`]: the object has no such counters.
    pub fn probe_counts(&self) -> Result<Vec<u64>, XdpError> {
        counts(&self.ebpf, "HEALTH_COUNTS")
    }
}

/// Whether programs at an interface's egress have links (e420bed02507, v6.6).
fn has_tcx() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0))
}

/// The program, loaded into the kernel.
fn probes(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, XdpError> {
    let missing = || XdpError::Missing { what: "program", name: PROBES };
    let program: &mut SchedClassifier = ebpf.program_mut(PROBES).ok_or_else(missing)?.try_into().map_err(|_| missing())?;
    accepted(PROBES, if program.fd().is_ok() { Ok(()) } else { program.load() })?;
    Ok(program)
}

/// The pin of the program at the `n`-th interface.
fn pin(n: usize) -> String {
    if n == 0 { PIN.to_owned() } else { format!("{PIN}{n}") }
}

fn attach(program: &mut SchedClassifier, interface: &str, pin: Option<PathBuf>) -> Result<(), XdpError> {
    let fail = |cause| XdpError::AttachProbes { interface: interface.to_owned(), cause };
    if let Some(pin) = pin.as_ref().filter(|pin| pin.exists()) {
        let left = PinnedLink::from_pin(pin).map(FdLink::from).map_err(|e| fail(chain(&e)))?;
        let replaced = SchedClassifierLink::try_from(left).ok().and_then(|link| program.attach_to_link(link).ok());
        if replaced.is_some() {
            return Ok(());
        }
        // Its interface is gone.
        std::fs::remove_file(pin).map_err(|e| fail(e.to_string()))?;
    }
    if !has_tcx() {
        // Filters have no links there, and one of a former process may be there still. An existing clsact is as good.
        let _ = tc::qdisc_add_clsact(interface);
        let _ = tc::qdisc_detach_program(interface, TcAttachType::Egress, PROBES);
    }
    let link = program.attach(interface, TcAttachType::Egress).map_err(|e| fail(chain(&e)))?;
    let link = program.take_link(link).map_err(|e| fail(chain(&e)))?;
    match (pin, FdLink::try_from(link)) {
        (Some(pin), Ok(link)) => link.pin(&pin).map(|_| ()).map_err(|e| fail(chain(&e))),
        _ => Ok(()),
    }
}

/// Removes what a balancer left at interfaces' egress.
pub(super) fn remove_left(directory: &Path) -> Result<(), XdpError> {
    (0..INTERFACES as usize).try_for_each(|n| super::balancer::remove(Some(&directory.join(pin(n)))))
}
