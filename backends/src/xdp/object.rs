//! The BPF object that the build made, and how its maps and programs are created.

use std::borrow::Cow;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::maps::{Map, MapData, MapInfo};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_DEVMAP_HASH;
use aya_obj::maps::bpf_map_def;
use object::{Object, ObjectSection, ObjectSymbol};
use tandem_engine::handover::INTERFACES;
use tandem_engine::memory::counters::{Extent, MAX_CPUS};
use tandem_engine::memory::features::has_usual;
use tandem_engine::memory::root::LAYOUT;
use tandem_engine::memory::{Line, Real, Root, VipSlot};

use super::capture::{filtered, room};
use super::clock::KernelClock;
use super::direct::{DIRECT, Direct};
use super::error::{XdpError, chain, errno, load_cure};
use crate::capture::Wish;
use crate::memory::{Area, Shared, Sizes, Source, Tables};

/// The object, as the build made it from `bpf/`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tandem-bpf"));

/// What the benchmarks compare the balancer with, and the traffic of measurements, built beside it.
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
    /// The same without the trace cell, on the way that forwarding takes.
    Untraced,
}

/// The maps that make up the one memory, and the workers' sockets.
pub(super) const MAPS: [&str; 17] = [
    "ROOT", "VIPS", "RINGS", "REALS", "FLOWS", "HASHES", "COUNTS", "IDS", "PREFIXES", "TREES", "NATS", "ANSWERS", "TRACE",
    "AGAIN", "XSKS", "DEVICES", "LANES",
];

/// The maps that a capture tells by; pinned while it lasts, so that another program goes on with them.
pub(super) const TOLD: &[&str] = &["EVENTS", "CAPTURED"];

/// Creates (or takes over) the maps, and maps them. `capture`: what the program `capturing` is for.
pub(super) fn load(role: &Role, sizes: Sizes, capture: Option<&Wish>) -> Result<(Ebpf, Direct, Arc<Tables>), XdpError> {
    let mut sizes = sizes;
    let cpus = aya::util::nr_cpus().map_or(1, |cpus| cpus as u32);
    if cpus > MAX_CPUS {
        return Err(XdpError::TooManyCpus { cpus });
    }
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(VerifierLogLevel::STATS);
    let replay = match role {
        Role::Forward(_) | Role::Unpinned => 0_u32,
        Role::Replay => 1,
        Role::Untraced => 2,
    };
    let features = sizes.features;
    let Wish { sample, rate, snap, filter } = capture.cloned().unwrap_or_default();
    let (sample, hz) = (sample.max(1), KernelClock::known_hz());
    for (name, value) in [("SAMPLE", &sample), ("RATE", &rate), ("SNAP", &snap), ("HZ", &hz)] {
        loader.override_global(name, value, true);
    }
    if let Some(wish) = capture {
        loader.map_max_entries("EVENTS", room(wish, cpus));
    }
    let object = if filter.is_empty() { Cow::Borrowed(OBJECT) } else { Cow::Owned(filtered(&filter)?) };
    let mut pins = None;
    if let Role::Forward(directory) = role {
        pins = Some(directory.as_path());
        if let Some(pinned) = pinned_sizes(directory)? {
            sizes = Sizes { features, ..pinned };
        }
        let told = if capture.is_some() { TOLD } else { &[] };
        for name in MAPS.iter().chain(told) {
            loader.map_pin_path(name, directory.join(name));
        }
        make_devices(&directory.join("DEVICES"))?;
    }
    let direct = Direct::make(sizes, pins)?;
    let object = direct.link(&with_extent(&object, sizes.extent)?)?;
    let constants = constants(sizes, replay);
    for (name, value) in &constants {
        loader.override_global(name, value, true);
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
    let tables = Tables::of(&mut Mapped(&ebpf, &direct), sizes)?;
    Ok((ebpf, direct, tables))
}

/// The programs' constants for tables of these sizes. `replay`: 0 to forward, 1 for [`Role::Replay`], 2 for [`Role::Untraced`].
pub fn constants(sizes: Sizes, replay: u32) -> [(&'static str, u32); 6] {
    let usual = has_usual(sizes.features) && replay != 1;
    [
        ("REPLAY", replay),
        ("FEATURES", sizes.features),
        ("USUAL", usual.into()),
        // Numbers of a core's counters of VIPs, of reals, of slots of the VIP table, each less one.
        ("VIP_MASK", sizes.extent.vips - 1),
        ("REAL_MASK", sizes.extent.reals - 1),
        ("SLOT_MASK", 2 * sizes.vip_slots - 1),
    ]
}

/// Bytes of a core's counters.
pub fn block_bytes(extent: Extent) -> u32 {
    extent.lines() * size_of::<Line>() as u32
}

/// An object whose programs count in blocks with room for this: the loader knows numbers of entries, not their sizes.
///
/// # Errors
/// [`XdpError::Missing`]: it has no such map.
pub fn with_extent(object: &[u8], extent: Extent) -> Result<Vec<u8>, XdpError> {
    let missing = || XdpError::Missing { what: "map", name: "COUNTS" };
    let parsed = object::File::parse(object).map_err(|_| missing())?;
    let symbol = parsed.symbol_by_name("COUNTS").ok_or_else(missing)?;
    let section = symbol.section_index().and_then(|index| parsed.section_by_index(index).ok()).ok_or_else(missing)?;
    let (start, _) = section.file_range().ok_or_else(missing)?;
    let at = (start + symbol.address()) as usize + std::mem::offset_of!(bpf_map_def, value_size);
    let mut bytes = object.to_vec();
    bytes.get_mut(at..at + 4).ok_or_else(missing)?.copy_from_slice(&block_bytes(extent).to_le_bytes());
    Ok(bytes)
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
    let info = |name: &'static str| -> Result<MapInfo, XdpError> {
        let path = directory.join(name);
        let pin = |cause| XdpError::Pin { path: path.clone(), what: "cannot open the pinned map", cause, cure: "are you root?" };
        let data = MapData::from_pin(&path).map_err(|e| pin(chain(&e)))?;
        data.info().map_err(|e| pin(chain(&e)))
    };
    let entries = |name| info(name).map(|info| info.max_entries());
    // Before anything that only this version's tables are sure to have.
    let found = pinned_layout(directory)?;
    if found != 0 && found != LAYOUT {
        let why = format!("their layout is {found:#x}, this version has {LAYOUT:#x}");
        return Err(XdpError::Foreign { path: directory.to_owned(), why });
    }
    let of_value = |name, entry: usize| info(name).map(|info| info.value_size() / entry as u32);
    let (reals, block) = (of_value("REALS", size_of::<Real>())?, info("COUNTS")?.value_size());
    let extent = Extent::of(block / size_of::<Line>() as u32, reals).ok_or_else(|| {
        let why = format!("{reals} reals and {block} bytes of counters for each core do not fit together: another version's");
        XdpError::Foreign { path: directory.to_owned(), why }
    })?;
    Ok(Some(Sizes {
        vip_slots: of_value("VIPS", size_of::<VipSlot>())? / 2,
        extent,
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
struct Mapped<'a>(&'a Ebpf, &'a Direct);

impl Source for Mapped<'_> {
    type Error = XdpError;
    fn area<T: Shared>(&mut self, name: &'static str, len: usize) -> Result<Area<T>, XdpError> {
        if DIRECT.contains(&name) {
            return self.1.area(name, len);
        }
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
