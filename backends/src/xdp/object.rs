//! The BPF object that the build made, and how its maps and programs are created.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::maps::{Map, MapData, MapInfo};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_DEVMAP_HASH;
use tandem_engine::handover::INTERFACES;
use tandem_engine::memory::counters::{Extent, MAX_CPUS};
use tandem_engine::memory::root::LAYOUT;
use tandem_engine::memory::{FlowSet, HashLine, IdLine, Nat, PrefixSlot, Real, RingLine, Root, VipSlot};

use super::balancer::remove;
use super::capture::{put_filter, room};
use super::clock::KernelClock;
use super::constants::{block_bytes, prepare};
use super::direct::{DIRECT, Direct};
use super::error::{XdpError, chain, errno, load_cure};
use crate::capture::Wish;
use crate::memory::{Area, LookedUp, Shared, Sizes, Source, Tables};

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
    let mut pins = None;
    if let Role::Forward(directory) = role {
        pins = Some(directory.as_path());
        match pinned_sizes(directory)? {
            Some(pinned) => sizes = Sizes { features, ..pinned },
            // What somebody who was killed had not removed yet is of other sizes.
            None => MAPS.iter().try_for_each(|name| remove(Some(&directory.join(name))))?,
        }
        let told = if capture.is_some() { TOLD } else { &[] };
        for name in MAPS.iter().chain(told) {
            loader.map_pin_path(name, directory.join(name));
        }
        make_devices(&directory.join("DEVICES"))?;
    }
    let direct = Direct::make(sizes, pins)?;
    let mut object = prepare(OBJECT, sizes, replay, &direct)?;
    if !filter.is_empty() {
        // Last: a filter may have any number in it.
        put_filter(&mut object, &filter)?;
    }
    loader
        .map_max_entries("IDS", sizes.id_lines)
        .map_max_entries("PREFIXES", 2 * sizes.prefix_slots)
        .map_max_entries("NATS", sizes.nat_places);
    let ebpf = load_object(&mut loader, &object)?;
    let tables = Tables::of(&mut Mapped(&ebpf, &direct), sizes)?;
    Ok((ebpf, direct, tables))
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
    // Before anything that only this version's tables are sure to have.
    let root = pinned_root(directory)?;
    let (found, vips) = root.first().map_or((0, 0), |root| (root.layout(), root.counted_vips.get()));
    let foreign = |why| XdpError::Foreign { path: directory.to_owned(), why };
    if found != 0 && found != LAYOUT {
        return Err(foreign(format!("their layout is {found:#x}, this version has {LAYOUT:#x}")));
    }
    let bytes = |name| info(name).map(|info| u64::from(info.max_entries()) * u64::from(info.value_size()));
    let len = |name, entry: usize| bytes(name).map(|bytes| (bytes / entry as u64) as u32);
    let (reals, counts) = (len("REALS", size_of::<Real>())?, bytes("COUNTS")?);
    let extent = Extent::of(vips, reals).filter(|extent| counts > 0 && counts.is_multiple_of(block_bytes(*extent).into()));
    let extent = extent.ok_or_else(|| {
        foreign(format!("{vips} VIPs, {reals} reals and {counts} bytes of counters do not fit together: another version's"))
    })?;
    Ok(Some(Sizes {
        vip_slots: len("VIPS", size_of::<VipSlot>())? / 2,
        extent,
        ring_lines: len("RINGS", size_of::<RingLine>())?,
        flow_sets: len("FLOWS", size_of::<FlowSet>())?,
        hash_lines: len("HASHES", size_of::<HashLine>())?,
        blocks: (counts / u64::from(block_bytes(extent))) as u32,
        id_lines: len("IDS", size_of::<IdLine>())?,
        prefix_slots: len("PREFIXES", size_of::<PrefixSlot>())? / 2,
        nat_places: len("NATS", size_of::<Nat>())?,
        features: 0,
        looked_up: LookedUp::default(),
    }))
}

/// The root of the tables that are pinned in `directory`.
fn pinned_root(directory: &Path) -> Result<Area<Root>, XdpError> {
    let path = directory.join("ROOT");
    let pin = |cause| XdpError::Pin { path: path.clone(), what: "cannot open the pinned map", cause, cure: "are you root?" };
    let data = MapData::from_pin(&path).map_err(|e| pin(chain(&e)))?;
    Ok(Area::of_map("ROOT", data.fd().as_fd(), 1)?)
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
