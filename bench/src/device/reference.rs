//! The programs that the balancer is compared with, attached.

use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::ProgramArray;
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use tandem_backends::memory::Area;
use tandem_backends::xdp::REFERENCES;
use tandem_engine::memory::Line;
use tandem_lab::{Host, Lab};

use super::{Delay, Mode};
use crate::kernel::{area, time_of_turn};
use crate::wire;

/// Attaches the program of a reference to the balancer's end; gives what keeps it there, and its counter.
pub(super) fn attach(mode: Mode, lab: &Lab) -> Result<(Ebpf, Area<Line>)> {
    let name = match mode {
        Mode::Drop => "drop",
        Mode::Bounce => "bounce",
        Mode::FixedHeader => "limit",
        Mode::AfxdpPlain => "steer",
        Mode::Xdp | Mode::Afxdp | Mode::Program | Mode::Bytecode => anyhow::bail!("{} is no reference", mode.name()),
    };
    let mut ebpf = EbpfLoader::new().load(REFERENCES).context("the benchmarks' object")?;
    let reached = area(&ebpf, "REACHED", 1)?;
    let interface = lab.link(Host::Lb)?.interface.clone();
    wire::attach(lab, Host::Lb, &mut ebpf, name, &interface, XdpMode::Driver)?;
    Ok((ebpf, reached))
}

/// Puts the delay into slot 0 of a root, in front of slot 1.
pub(super) fn delay(array: &Path, delay: Delay) -> Result<Ebpf> {
    let turns = if delay.nanos > 0.0 { (delay.nanos / time_of_turn()?).round() as u32 } else { 0 };
    let mut loader = EbpfLoader::new();
    loader.override_global("TURNS", &turns, true).map_pin_path("ROOT_SLOTS", array);
    let mut ebpf = loader.load(REFERENCES).context("the benchmarks' object")?;
    let program: &mut Xdp = ebpf.program_mut("delay").context("the object has no program delay")?.try_into()?;
    program.load().context("the program delay")?;
    let fd = program.fd()?.try_clone()?;
    let mut slots: ProgramArray<_> = ebpf.map_mut("ROOT_SLOTS").context("the object has no ROOT_SLOTS")?.try_into()?;
    slots.set(0, &fd, 0).context("the root's slot 0")?;
    Ok(ebpf)
}
