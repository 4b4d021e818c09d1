//! The balancer program: loaded, attached, asked.

use std::fs;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{DevMapHash, HashMap, ProgramArray, XskMap};
use aya::programs::links::FdLink;
use aya::programs::xdp::{XdpLink, XdpLinkId};
use aya::programs::{ProgramError, ProgramFd, TestRun, TestRunOptions, Xdp, XdpMode};

use tandem_engine::handover::QUEUES;

use super::clock::KernelClock;
use super::error::{XdpError, chain, errno};
use super::left::{self, Left};
use super::object::{MAPS, Role, load, program};
use super::probes;
use super::slots::{self, SlotWish};
use crate::afxdp::QueueName;
use crate::config::Attach;
use crate::facts::Interface;
use crate::memory::{Sizes, Tables};

/// Largest frame that `BPF_PROG_TEST_RUN` takes: a page, less the headroom and what the kernel keeps at its end.
pub const LARGEST_TEST_FRAME: usize = 3498;

const BALANCER: &str = "balancer";

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
    tables: Arc<Tables>,
    pub(super) directory: Option<PathBuf>,
    clock: KernelClock,
    features: u32,
}

impl Balancer {
    /// Creates the maps (or takes them over from their pins) and loads the program. Nothing is attached yet.
    ///
    /// # Errors
    /// [`XdpError`]: no privileges, a kernel that is too old, pins of another version.
    pub fn load(role: &Role, sizes: Sizes) -> Result<Self, XdpError> {
        let directory = match role {
            Role::Forward(directory) => {
                make_directory(directory)?;
                Some(directory.clone())
            }
            Role::Unpinned | Role::Replay => None,
        };
        let (mut ebpf, tables) = load(role, sizes)?;
        put_again(&mut ebpf)?;
        let clock = KernelClock::calibrate(program(&mut ebpf, "clock")?)?;
        Ok(Self { ebpf, tables, directory, clock, features: sizes.features })
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
        let missing = XdpError::Missing { what: "directory of pins", name: BALANCER };
        let directory = self.directory.clone().ok_or(missing)?;
        let sizes = Sizes { features, ..self.tables.sizes() };
        let (mut ebpf, _) = load(&Role::Forward(directory), sizes)?;
        put_again(&mut ebpf)?;
        program(&mut ebpf, "clock")?;
        self.ebpf = ebpf;
        self.features = features;
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

    fn program(&self) -> Result<&Xdp, XdpError> {
        let missing = XdpError::Missing { what: "program", name: BALANCER };
        self.ebpf.program(BALANCER).and_then(|p| p.try_into().ok()).ok_or(missing)
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
        let directory = self.directory.clone();
        let program = program(&mut self.ebpf, BALANCER)?;
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
            attach(program, BALANCER, &interface.name, mode, pin.as_deref())?;
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
        slots::enter(wish, interface, program(&mut self.ebpf, BALANCER)?, self.directory.as_deref())
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
        out.clear();
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
        Ok((time(BALANCER)?, time("pass")?))
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

/// Lets the balancer call itself for what was in a tunnel.
fn put_again(ebpf: &mut Ebpf) -> Result<(), XdpError> {
    let missing = || XdpError::Missing { what: "program array", name: "AGAIN" };
    let balancer = program(ebpf, BALANCER)?.fd().and_then(|fd| fd.try_clone().map_err(ProgramError::from));
    let balancer = balancer.map_err(|_| XdpError::Missing { what: "loaded program", name: BALANCER })?;
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
    remove_directory(directory)
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

/// Attaches a loaded program, and pins the link if a path is given.
pub(super) fn attach(
    program: &mut Xdp,
    name: &'static str,
    interface: &str,
    mode: Attach,
    pin: Option<&Path>,
) -> Result<(), XdpError> {
    let (mode, mode_name) = match mode {
        Attach::Native => (XdpMode::Driver, "native"),
        Attach::Generic => (XdpMode::Skb, "generic"),
    };
    let link = attach_patiently(program, interface, mode).map_err(|error| {
        let number = errno(&error);
        let source = number.map_or_else(|| std::io::Error::other(chain(&error)), std::io::Error::from_raw_os_error);
        let interface = interface.to_owned();
        XdpError::Attach { interface, program: name, mode: mode_name, source, cure: attach_cure(number, mode == XdpMode::Driver) }
    })?;
    let Some(pin) = pin else { return Ok(()) };
    let fail = |cause| XdpError::Pin {
        path: pin.to_owned(),
        what: "cannot pin the attachment",
        cause,
        cure: "it takes root and a mounted bpffs (`mount -t bpf bpf /sys/fs/bpf`)",
    };
    let link = program.take_link(link).map_err(|e| fail(chain(&e)))?;
    let link = FdLink::try_from(link).map_err(|e| fail(format!("{}; bpf_link needs Linux 5.9", chain(&e))))?;
    link.pin(pin).map_err(|e| fail(chain(&e)))?;
    Ok(())
}

/// Attaches once what was attached before is gone: the kernel lets go of a link whose pin was removed a moment later, in
/// deferred work (`bpf_link_put`).
fn attach_patiently(program: &mut Xdp, interface: &str, mode: XdpMode) -> Result<XdpLinkId, ProgramError> {
    const PATIENCE: Duration = Duration::from_millis(300);
    let start = Instant::now();
    loop {
        match program.attach(interface, mode) {
            Err(error) if errno(&error) == Some(libc::EBUSY) && start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            done => return done,
        }
    }
}

fn attach_cure(errno: Option<i32>, native: bool) -> &'static str {
    match errno {
        Some(libc::EOPNOTSUPP | libc::EINVAL) if native => {
            "the driver has no native XDP, or not at this MTU; set node.attach = \"generic\" (slower), or lower the MTU"
        }
        Some(libc::EBUSY | libc::EEXIST) => {
            "another XDP program is attached; `ip link show` names it, `ip link set dev IF xdp off` removes it, or whoever holds its link (`bpftool link`)"
        }
        Some(libc::EPERM | libc::EACCES) => "it takes CAP_NET_ADMIN and CAP_BPF (run as root)",
        Some(libc::ENODEV) | None => "is there an interface of this name in this network namespace? `ip link` lists them",
        Some(libc::ERANGE) => "the interface's MTU is too large for native XDP; lower it or set node.attach = \"generic\"",
        _ => "`dmesg | tail` may say more",
    }
}
