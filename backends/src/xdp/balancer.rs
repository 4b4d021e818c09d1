//! The balancer program: loaded, attached, asked.

use std::fs;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{DevMapHash, HashMap, ProgramArray, XskMap};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, ProgramFd, TestRun, TestRunOptions, Xdp};

use tandem_engine::handover::QUEUES;

use super::attach::attach;
use super::capture::Sources;
use super::clock::KernelClock;
use super::direct::Direct;
use super::error::{XdpError, chain};
use super::left::{self, Left};
use super::object::{MAPS, Role, TOLD, load, program};
use super::probes;
use super::slots::{self, SlotWish};
use crate::afxdp::QueueName;
use crate::capture::Wish;
use crate::config::Attach;
use crate::facts::Interface;
use crate::memory::{Sizes, Tables};

/// Largest frame that `BPF_PROG_TEST_RUN` takes: a page, less the headroom and what the kernel keeps at its end.
pub const LARGEST_TEST_FRAME: usize = 3498;

const BALANCER: &str = "balancer";
/// The same while somebody captures.
const CAPTURING: &str = "capturing";

/// Bytes in front of a frame (`XDP_PACKET_HEADROOM`).
const HEADROOM: usize = 256;
/// Metadata that leaves no headroom: 256 bytes, less the 40 that the kernel keeps for itself (`struct xdp_frame`).
const ALL_METADATA: u32 = 216;

/// What is in front of a frame that is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Headroom {
    /// What a driver leaves.
    Usual,
    /// Nothing: metadata takes all of it. Linux 6.8 or newer (older ones refuse so much metadata).
    None,
}

/// The size of a loaded program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// Instructions after the verifier's rewriting.
    pub translated: u32,
    /// Bytes of machine code.
    pub jitted: u32,
    /// Instructions that the verifier followed.
    pub verified: u32,
}

/// The balancer in the kernel, with its memory.
pub struct Balancer {
    pub(super) ebpf: Ebpf,
    /// The programs that are not loaded yet know them by their numbers.
    _direct: Direct,
    tables: Arc<Tables>,
    pub(super) directory: Option<PathBuf>,
    clock: KernelClock,
    features: u32,
    /// What is captured.
    capture: Option<Wish>,
}

impl Balancer {
    /// Creates the maps (or takes them over from their pins) and loads the program. Nothing is attached yet.
    ///
    /// # Errors
    /// [`XdpError`]: no privileges, a kernel that is too old, pins of another version.
    pub fn load(role: &Role, sizes: Sizes) -> Result<Self, XdpError> {
        Self::load_for(role, sizes, None)
    }

    /// The same with the program that captures, if something shall be captured.
    ///
    /// # Errors
    /// As [`Self::load`]; [`XdpError::Filter`].
    pub fn load_for(role: &Role, sizes: Sizes, capture: Option<Wish>) -> Result<Self, XdpError> {
        let directory = match role {
            Role::Forward(directory) => {
                make_directory(directory)?;
                Some(directory.clone())
            }
            Role::Unpinned | Role::Replay | Role::Untraced => None,
        };
        let (mut ebpf, direct, tables) = load(role, sizes, capture.as_ref())?;
        put_again(&mut ebpf, name_of(&capture))?;
        let clock = KernelClock::calibrate(program(&mut ebpf, "clock")?)?;
        Ok(Self { ebpf, _direct: direct, tables, directory, clock, features: sizes.features, capture })
    }

    /// The [`features`](tandem_engine::memory::features) that the program is loaded for.
    pub fn features(&self) -> u32 {
        self.features
    }

    /// Loads the program for other features, over the same tables. What is attached stays in force until [`Self::attach`] or
    /// [`Self::enter`] puts this one into its place.
    ///
    /// # Errors
    /// [`XdpError`]: the kernel refuses it, and nothing has changed. Without pins the tables cannot be taken over.
    pub fn renew(&mut self, features: u32) -> Result<(), XdpError> {
        self.renew_for(features, self.capture.clone())
    }

    /// The same to capture, or not any more.
    ///
    /// # Errors
    /// As [`Self::renew`]; [`XdpError::Filter`].
    pub fn capture(&mut self, capture: Option<Wish>) -> Result<(), XdpError> {
        self.renew_for(self.features, capture)
    }

    /// Opens what the program tells by while it captures: once, after it was loaded for that.
    ///
    /// # Errors
    /// [`XdpError::Sources`].
    pub fn sources(&mut self) -> Result<Sources, XdpError> {
        Sources::open(&mut self.ebpf)
    }

    fn renew_for(&mut self, features: u32, capture: Option<Wish>) -> Result<(), XdpError> {
        let missing = XdpError::Missing { what: "directory of pins", name: BALANCER };
        let directory = self.directory.clone().ok_or(missing)?;
        if self.capture.is_none() {
            // What a process that was killed left: of another size, with other counts.
            remove_told(&directory)?;
        }
        let sizes = Sizes { features, ..self.tables.sizes() };
        let (mut ebpf, direct, _) = load(&Role::Forward(directory.clone()), sizes, capture.as_ref())?;
        put_again(&mut ebpf, name_of(&capture))?;
        program(&mut ebpf, "clock")?;
        (self.ebpf, self._direct, self.features, self.capture) = (ebpf, direct, features, capture);
        if self.capture.is_none() {
            remove_told(&directory)?;
        }
        Ok(())
    }

    /// The one memory.
    pub fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    /// The kernel's coarse clock, as userspace reads it.
    pub fn clock(&self) -> KernelClock {
        self.clock.clone()
    }

    /// Measures the clock again, for all who read it.
    ///
    /// # Errors
    /// [`XdpError::TestRun`].
    pub fn recalibrate(&mut self) -> Result<(), XdpError> {
        self.clock.recalibrate(program(&mut self.ebpf, "clock")?)
    }

    /// The program's name in the object.
    fn name(&self) -> &'static str {
        name_of(&self.capture)
    }

    fn program(&self) -> Result<&Xdp, XdpError> {
        let missing = XdpError::Missing { what: "program", name: self.name() };
        self.ebpf.program(self.name()).and_then(|p| p.try_into().ok()).ok_or(missing)
    }

    /// The loaded program, for whoever calls it (the benchmarks' wrapper does).
    ///
    /// # Errors
    /// [`XdpError::Missing`] if it is not loaded.
    pub fn fd(&self) -> Result<&ProgramFd, XdpError> {
        let missing = |_| XdpError::Missing { what: "loaded program", name: BALANCER };
        self.program()?.fd().map_err(missing)
    }

    /// How large the loaded program is.
    ///
    /// # Errors
    /// [`XdpError::Missing`] if the kernel does not say.
    pub fn budget(&self) -> Result<Budget, XdpError> {
        let missing = || XdpError::Missing { what: "size of the program", name: BALANCER };
        let info = self.program()?.info().map_err(|_| missing())?;
        Ok(Budget {
            translated: info.size_translated().ok_or_else(missing)? / 8,
            jitted: info.size_jitted(),
            verified: info.verified_instruction_count().ok_or_else(missing)?,
        })
    }

    /// Whether what is pinned in `directory` may be taken over for these interfaces: to be asked before anything is changed.
    ///
    /// # Errors
    /// [`XdpError::Elsewhere`]: it is attached to another interface. [`XdpError::Pin`]: it is in a slot.
    pub fn check_left(directory: &Path, interfaces: &[Interface]) -> Result<(), XdpError> {
        slots::check_none(directory)?;
        left::pins(directory).iter().try_for_each(|pin| left::look(pin, interfaces).map(|_| ()))
    }

    /// The same for a slot of a root's program array, which also must be one that may be used.
    ///
    /// # Errors
    /// [`XdpError::Slot`].
    pub fn check_slot(directory: &Path, wish: &SlotWish, interface: &Interface) -> Result<(), XdpError> {
        slots::check(wish, interface, Some(directory)).map(|_| ())
    }

    /// Whether a former process left its program attached, or in a slot.
    pub fn is_left(directory: &Path) -> bool {
        !left::pins(directory).is_empty() || directory.join(slots::PROGRAM).exists()
    }

    /// Attaches the balancer to interfaces of the current network namespace, or puts it in the place of the programs that
    /// a former process left there, without a gap.
    ///
    /// # Errors
    /// [`XdpError::Attach`]: the driver has no native XDP, another program is there, the interface is gone.
    /// [`XdpError::Elsewhere`]: what was left is on another interface.
    pub fn attach(&mut self, interfaces: &[Interface], mode: Attach) -> Result<(), XdpError> {
        let (directory, name) = (self.directory.clone(), self.name());
        let program = program(&mut self.ebpf, name)?;
        let mut taken = Vec::new();
        for pin in directory.as_deref().map_or_else(Vec::new, left::pins) {
            match left::look(&pin, interfaces)? {
                Left::Here(at, link, found) if found == mode => {
                    let replaced = XdpLink::try_from(link).ok().and_then(|link| program.attach_to_link(link).ok());
                    if replaced.is_none() {
                        remove(Some(&pin))?;
                        continue;
                    }
                    let names = interfaces.get(at).map(|interface| interface.name.as_str());
                    log::info!("{}: took the place of the program that was attached", names.unwrap_or_default());
                    taken.push(at);
                }
                Left::Here(_, link, found) => {
                    log::info!("{}: what was attached is {found:?}, {mode:?} is asked for: attaching it anew", pin.display());
                    remove(Some(&pin))?;
                    drop(link);
                }
                Left::Dead => remove(Some(&pin))?,
            }
        }
        for (_, interface) in interfaces.iter().enumerate().filter(|(at, _)| !taken.contains(at)) {
            let pin = directory.as_deref().and_then(left::free_pin);
            attach(program, name, &interface.name, mode, pin.as_deref())?;
        }
        Ok(())
    }

    /// Says by which interfaces frames may leave, by their indices.
    ///
    /// # Errors
    /// [`XdpError::Device`]: one of them is gone, or cannot be redirected to.
    pub fn set_devices(&mut self, interfaces: &[Interface]) -> Result<(), XdpError> {
        let missing = || XdpError::Missing { what: "map", name: "DEVICES" };
        let map = self.ebpf.map_mut("DEVICES").ok_or_else(missing)?;
        let mut devices: DevMapHash<_> = map.try_into().map_err(|_| missing())?;
        let left: Vec<u32> = devices.keys().filter_map(Result::ok).collect();
        for index in left.into_iter().filter(|index| !interfaces.iter().any(|interface| interface.index == *index)) {
            // One that is gone is as good.
            let _ = devices.remove(index);
        }
        for interface in interfaces {
            let fail = |cause| XdpError::Device { interface: interface.name.clone(), cause };
            devices.insert(interface.index, interface.index, None, 0).map_err(|e| fail(chain(&e)))?;
        }
        self.set_lanes(interfaces)
    }

    /// Says where the places of each interface in the XSKMAP begin.
    fn set_lanes(&mut self, interfaces: &[Interface]) -> Result<(), XdpError> {
        let missing = || XdpError::Missing { what: "map", name: "LANES" };
        let map = self.ebpf.map_mut("LANES").ok_or_else(missing)?;
        let mut lanes: HashMap<_, u32, u32> = map.try_into().map_err(|_| missing())?;
        let left: Vec<u32> = lanes.keys().filter_map(Result::ok).collect();
        for index in left.into_iter().filter(|index| !interfaces.iter().any(|interface| interface.index == *index)) {
            // One that is gone is as good.
            let _ = lanes.remove(&index);
        }
        for (place, interface) in interfaces.iter().enumerate() {
            let fail = |cause| XdpError::Device { interface: interface.name.clone(), cause };
            lanes.insert(interface.index, place as u32 * QUEUES, 0).map_err(|e| fail(chain(&e)))?;
        }
        Ok(())
    }

    /// Puts the balancer into a slot of a root's program array instead of attaching it, or into the place of the program that
    /// a former process left there.
    ///
    /// # Errors
    /// [`XdpError::Slot`]: no such slot, another program is in it, no root on the interface that calls it, or a former process
    /// left the balancer attached or in another slot.
    pub fn enter(&mut self, wish: &SlotWish, interface: &Interface) -> Result<(), XdpError> {
        let name = self.name();
        slots::enter(wish, interface, program(&mut self.ebpf, name)?, self.directory.as_deref())
    }

    /// Puts a worker's socket into the XSKMAP: from now on its queue's frames go there in mode afxdp. `interface`: its place
    /// among those that [`Self::set_devices`] was told, 0 of a single one.
    ///
    /// # Errors
    /// [`XdpError::Socket`]: no place for it, or a socket of another interface.
    pub fn set_socket(&mut self, interface: usize, at: &QueueName, socket: RawFd) -> Result<(), XdpError> {
        let fail = |cause| XdpError::Socket { at: at.clone(), cause };
        if at.queue >= QUEUES {
            return Err(fail(format!("only the first {QUEUES} queues can have one; `ethtool -L` makes them fewer")));
        }
        let place = interface as u32 * QUEUES + at.queue;
        self.sockets()?.set(place, socket, 0).map_err(|e| fail(chain(&e)))
    }

    /// Takes a queue's socket out of the XSKMAP; its frames are forwarded in the kernel from here on.
    ///
    /// # Errors
    /// [`XdpError::Missing`]: no XSKMAP in the object.
    pub fn unset_socket(&mut self, interface: usize, queue: u32) -> Result<(), XdpError> {
        // An empty slot is as good.
        let _ = self.sockets()?.unset(interface as u32 * QUEUES + queue);
        Ok(())
    }

    fn sockets(&mut self) -> Result<XskMap<&mut aya::maps::MapData>, XdpError> {
        let missing = XdpError::Missing { what: "map", name: "XSKS" };
        self.ebpf.map_mut("XSKS").and_then(|map| XskMap::try_from(map).ok()).ok_or(missing)
    }

    /// Runs one frame through the loaded program; gives the XDP action and the frame as it was left.
    ///
    /// # Errors
    /// [`XdpError::TestRun`]: a frame that is shorter than an Ethernet header or longer than [`LARGEST_TEST_FRAME`].
    pub fn run_frame(&self, frame: &[u8], headroom: Headroom, out: &mut Vec<u8>) -> Result<u32, XdpError> {
        // What the kernel does not write is cut off below.
        out.resize(frame.len() + HEADROOM, 0);
        let failed = |source| XdpError::TestRun { program: BALANCER, bytes: frame.len(), source: Box::new(source) };
        let program = self.program()?;
        let result = match headroom {
            Headroom::Usual => {
                let options = TestRunOptions { data_in: Some(frame), data_out: Some(out), repeat: 1, ..Default::default() };
                program.test_run(options).map_err(failed)?
            }
            Headroom::None => {
                let with_metadata = [&[0; ALL_METADATA as usize], frame].concat();
                let context = [ALL_METADATA, with_metadata.len() as u32, 0, 0, 0, 0].map(u32::to_ne_bytes).concat();
                let options = TestRunOptions {
                    data_in: Some(&with_metadata),
                    data_out: Some(out),
                    ctx_in: Some(&context),
                    repeat: 1,
                    ..Default::default()
                };
                program.test_run(options).map_err(failed)?
            }
        };
        out.truncate(result.data_size_out as usize);
        if headroom == Headroom::None {
            out.drain(..(ALL_METADATA as usize).min(out.len()));
        }
        Ok(result.return_value)
    }

    /// Times `runs` runs of one frame, and of an empty program; gives the shortest of each.
    ///
    /// One run at a time: a repeated run would see the frame as the run before left it.
    ///
    /// # Errors
    /// [`XdpError::TestRun`].
    pub fn time_frame(&mut self, frame: &[u8], runs: u32) -> Result<(Duration, Duration), XdpError> {
        program(&mut self.ebpf, "pass")?;
        let time = |name: &'static str| -> Result<Duration, XdpError> {
            let missing = || XdpError::Missing { what: "program", name };
            let program: &Xdp = self.ebpf.program(name).and_then(|p| p.try_into().ok()).ok_or_else(missing)?;
            let mut least = Duration::MAX;
            for _ in 0..runs {
                let options = TestRunOptions { data_in: Some(frame), repeat: 1, ..Default::default() };
                let failed = |source| XdpError::TestRun { program: name, bytes: frame.len(), source: Box::new(source) };
                least = least.min(program.test_run(options).map_err(failed)?.duration);
            }
            Ok(least)
        };
        Ok((time(self.name())?, time("pass")?))
    }

    /// Detaches the program and removes all pins: the host is as it was.
    ///
    /// # Errors
    /// [`XdpError::Pin`]: a pin cannot be removed.
    pub fn remove(self) -> Result<(), XdpError> {
        match &self.directory {
            Some(directory) => remove_pins(directory),
            None => Ok(()),
        }
    }

    /// Detaches and removes what a balancer left in `directory`; `false` if nothing was there.
    ///
    /// # Errors
    /// [`XdpError::Pin`]: a pin cannot be removed.
    pub fn remove_left(directory: &Path) -> Result<bool, XdpError> {
        let was_there = directory.exists();
        if was_there {
            remove_pins(directory)?;
        }
        Ok(was_there)
    }
}

/// The name of the program that captures this.
fn name_of(capture: &Option<Wish>) -> &'static str {
    if capture.is_some() { CAPTURING } else { BALANCER }
}

/// Lets the balancer call itself for what was in a tunnel.
fn put_again(ebpf: &mut Ebpf, name: &'static str) -> Result<(), XdpError> {
    let missing = || XdpError::Missing { what: "program array", name: "AGAIN" };
    let balancer = program(ebpf, name)?.fd().and_then(|fd| fd.try_clone().map_err(ProgramError::from));
    let balancer = balancer.map_err(|_| XdpError::Missing { what: "loaded program", name })?;
    let mut array: ProgramArray<_> = ebpf.map_mut("AGAIN").and_then(|map| map.try_into().ok()).ok_or_else(missing)?;
    array.set(0, &balancer, 0).map_err(|_| missing())
}

pub(super) fn make_directory(directory: &Path) -> Result<(), XdpError> {
    fs::create_dir_all(directory).map_err(|e| XdpError::Pin {
        path: directory.to_owned(),
        what: "cannot make the directory of pins",
        cause: e.to_string(),
        cure: "it takes root and a mounted bpffs (`mount -t bpf bpf /sys/fs/bpf`)",
    })
}

fn remove_pins(directory: &Path) -> Result<(), XdpError> {
    slots::leave(directory)?;
    probes::remove_left(directory)?;
    for pin in left::pins(directory) {
        remove(Some(&pin))?;
    }
    for name in MAPS {
        remove(Some(&directory.join(name)))?;
    }
    remove_told(directory)?;
    remove_directory(directory)
}

/// Removes the pins of what a capture told by.
fn remove_told(directory: &Path) -> Result<(), XdpError> {
    TOLD.iter().try_for_each(|name| remove(Some(&directory.join(name))))
}

/// Removes an empty directory of pins, and the one that it is in if that was the last.
pub(super) fn remove_directory(directory: &Path) -> Result<(), XdpError> {
    let fail = |e: std::io::Error| XdpError::Pin {
        path: directory.to_owned(),
        what: "cannot remove the directory of pins",
        cause: e.to_string(),
        cure: "remove what else is in it",
    };
    fs::remove_dir(directory).map_err(fail)?;
    if let Some(parent) = directory.parent().filter(|p| p.ends_with("tandem") || p.ends_with("tandem-decap")) {
        let _ = fs::remove_dir(parent);
    }
    Ok(())
}

/// Removes a pin; one that is not there is fine.
pub(super) fn remove(pin: Option<&Path>) -> Result<(), XdpError> {
    let Some(pin) = pin else { return Ok(()) };
    match fs::remove_file(pin) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(XdpError::Pin {
            path: pin.to_owned(),
            what: "cannot remove the pin",
            cause: e.to_string(),
            cure: "are you root?",
        }),
        _ => Ok(()),
    }
}
