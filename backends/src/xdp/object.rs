//! The BPF object that the build made, and how its maps and programs are created.

use std::borrow::Cow;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::maps::{Map, MapData};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_DEVMAP_HASH;
use tandem_engine::handover::INTERFACES;
use tandem_engine::memory::Root;
use tandem_engine::memory::counters::MAX_CPUS;
use tandem_engine::memory::reals::MAX_REALS;
use tandem_engine::memory::root::LAYOUT;
use tandem_engine::memory::vips::SLOTS;

use super::capture::{filtered, room};
use super::clock::KernelClock;
use super::error::{XdpError, chain, errno, load_cure};
use crate::capture::Wish;
use crate::memory::{Area, Shared, Sizes, Source, Tables};

/// The object, as the build made it from `bpf/`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tandem-bpf"));

/// What the benchmarks compare the balancer with, built beside it.
pub static REFERENCES: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tandem-bpf-bench"));

/// What a loaded balancer is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Role {
    /// To forward: per-CPU counters, the kernel's clock, maps pinned in this directory (and taken over from it).
    Forward(PathBuf),
    /// To forward for the life of this process only.
    Unpinned,
    /// To be asked, frame by frame: a clock that stands still, one block of counters, the trace cell written.
    Replay,
}

/// The maps that make up the one memory, and the workers' sockets.
pub(super) const MAPS: [&str; 17] = [
    "ROOT", "VIPS", "RINGS", "REALS", "FLOWS", "HASHES", "COUNTS", "IDS", "PREFIXES", "TREES", "NATS", "ANSWERS", "TRACE",
    "AGAIN", "XSKS", "DEVICES", "LANES",
];

/// The maps that a capture tells by; pinned while it lasts, so that another program goes on with them.
pub(super) const TOLD: &[&str] = &["EVENTS", "CAPTURED"];

/// Creates (or takes over) the maps, and maps them. `capture`: what the program `capturing` is for.
pub(super) fn load(role: &Role, sizes: Sizes, capture: Option<&Wish>) -> Result<(Ebpf, Arc<Tables>), XdpError> {
    let mut sizes = sizes;
    let cpus = aya::util::nr_cpus().map_or(1, |cpus| cpus as u32);
    if cpus > MAX_CPUS {
        return Err(XdpError::TooManyCpus { cpus });
    }
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(VerifierLogLevel::STATS);
    let replay = u32::from(*role == Role::Replay);
    loader.override_global("REPLAY", &replay, true);
    let features = sizes.features;
    loader.override_global("FEATURES", &features, true);
    let Wish { sample, rate, snap, filter } = capture.cloned().unwrap_or_default();
    let (sample, hz) = (sample.max(1), KernelClock::known_hz());
    for (name, value) in [("SAMPLE", &sample), ("RATE", &rate), ("SNAP", &snap), ("HZ", &hz)] {
        loader.override_global(name, value, true);
    }
    if let Some(wish) = capture {
        loader.map_max_entries("EVENTS", room(wish, cpus));
    }
    let object = if filter.is_empty() { Cow::Borrowed(OBJECT) } else { Cow::Owned(filtered(&filter)?) };
    if let Role::Forward(directory) = role {
        if let Some(pinned) = pinned_sizes(directory)? {
            sizes = Sizes { features, ..pinned };
        }
        let told = if capture.is_some() { TOLD } else { &[] };
        for name in MAPS.iter().chain(told) {
            loader.map_pin_path(name, directory.join(name));
        }
        make_devices(&directory.join("DEVICES"))?;
    }
    loader
        .map_max_entries("RINGS", sizes.ring_lines)
        .map_max_entries("FLOWS", sizes.flow_sets)
        .map_max_entries("HASHES", sizes.hash_lines)
        .map_max_entries("COUNTS", sizes.blocks)
        .map_max_entries("IDS", sizes.id_lines)
        .map_max_entries("PREFIXES", 2 * sizes.prefix_slots)
        .map_max_entries("NATS", sizes.nat_places);
    let ebpf = load_object(&mut loader, &object)?;
    let tables = Tables::of(&mut Mapped(&ebpf), sizes)?;
    Ok((ebpf, tables))
}

/// Creates the maps of an object.
pub(super) fn load_object(loader: &mut EbpfLoader<'_>, object: &[u8]) -> Result<Ebpf, XdpError> {
    loader.load(object).map_err(|source| {
        let cure = load_cure(errno(&source));
        XdpError::Load { source: Box::new(source), cure }
    })
}

/// Makes the device map that the loader then finds pinned: with values that are indices alone. The loader's own have room for a
/// program beside them, and before Linux 5.13 no program with such a map could be attached generically (2ea5eabaf04a).
fn make_devices(path: &Path) -> Result<(), XdpError> {
    if path.exists() {
        return Ok(());
    }
    let word = size_of::<u32>() as u32;
    let map = aya_obj::Map::new_from_params(BPF_MAP_TYPE_DEVMAP_HASH as u32, word, word, INTERFACES, 0);
    let pin = |cause| XdpError::Pin {
        path: path.to_owned(),
        what: "cannot make the device map",
        cause,
        cure: "it takes root and a mounted bpffs",
    };
    let map = MapData::create(map, "DEVICES", None).map_err(|e| pin(chain(&e)))?;
    map.pin(path).map_err(|e| pin(chain(&e)))
}

/// Sizes of the maps that are pinned in `directory`; `None` if there are none.
fn pinned_sizes(directory: &Path) -> Result<Option<Sizes>, XdpError> {
    if !directory.join("ROOT").exists() {
        return Ok(None);
    }
    let entries = |name: &'static str| -> Result<u32, XdpError> {
        let path = directory.join(name);
        let pin = |cause| XdpError::Pin { path: path.clone(), what: "cannot open the pinned map", cause, cure: "are you root?" };
        let data = MapData::from_pin(&path).map_err(|e| pin(chain(&e)))?;
        data.info().map(|info| info.max_entries()).map_err(|e| pin(chain(&e)))
    };
    // Before anything that only this version's tables are sure to have.
    let found = pinned_layout(directory)?;
    if found != 0 && found != LAYOUT {
        let why = format!("their layout is {found:#x}, this version has {LAYOUT:#x}");
        return Err(XdpError::Foreign { path: directory.to_owned(), why });
    }
    let (reals, vips) = (entries("REALS")?, entries("VIPS")?);
    if (reals, vips) != (MAX_REALS, 2 * SLOTS) {
        let why = format!("{reals} reals and {vips} VIP slots, expected {MAX_REALS} and {}: another version's", 2 * SLOTS);
        return Err(XdpError::Foreign { path: directory.to_owned(), why });
    }
    Ok(Some(Sizes {
        ring_lines: entries("RINGS")?,
        flow_sets: entries("FLOWS")?,
        hash_lines: entries("HASHES")?,
        blocks: entries("COUNTS")?,
        id_lines: entries("IDS")?,
        prefix_slots: entries("PREFIXES")? / 2,
        nat_places: entries("NATS")?,
        features: 0,
    }))
}

/// The layout of the tables that are pinned in `directory`; 0: they were never written.
fn pinned_layout(directory: &Path) -> Result<u32, XdpError> {
    let path = directory.join("ROOT");
    let pin = |cause| XdpError::Pin { path: path.clone(), what: "cannot open the pinned map", cause, cure: "are you root?" };
    let data = MapData::from_pin(&path).map_err(|e| pin(chain(&e)))?;
    let root: Area<Root> = Area::of_map("ROOT", data.fd().as_fd(), 1)?;
    Ok(root.first().map_or(0, |root| root.layout.get()))
}

/// The maps of a loaded object.
struct Mapped<'a>(&'a Ebpf);

impl Source for Mapped<'_> {
    type Error = XdpError;
    fn area<T: Shared>(&mut self, name: &'static str, len: usize) -> Result<Area<T>, XdpError> {
        let Some(Map::Array(data)) = self.0.map(name) else { return Err(XdpError::Missing { what: "array", name }) };
        Ok(Area::of_map(name, data.fd().as_fd(), len)?)
    }
}

/// The XDP program `name`, loaded into the kernel.
pub(super) fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, XdpError> {
    let missing = || XdpError::Missing { what: "program", name };
    let program: &mut Xdp = ebpf.program_mut(name).ok_or_else(missing)?.try_into().map_err(|_| missing())?;
    accepted(name, program.load())?;
    Ok(program)
}

/// What the kernel said to a program, with the end of the verifier's log.
pub(super) fn accepted(name: &'static str, answer: Result<(), ProgramError>) -> Result<(), XdpError> {
    match answer {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(()),
        Err(ProgramError::LoadError { io_error, verifier_log }) => {
            let log = verifier_log.to_string();
            let last: Vec<&str> = log.lines().rev().take(12).collect();
            let cause = format!("{io_error}\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
            Err(XdpError::Refused { program: name, cause, cure: load_cure(io_error.raw_os_error()) })
        }
        Err(error) => Err(XdpError::Refused { program: name, cause: chain(&error), cure: load_cure(errno(&error)) }),
    }
}
