//! Slots of a pinned program array, as a root program calls them: another way than attachment to get frames.

use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData, PerCpuArray, ProgramArray};
use aya::programs::{ProgramFd, ProgramInfo, Xdp, loaded_programs};
use serde::Serialize;

use super::balancer::remove;
use super::error::{XdpError, chain};
use super::left;
use crate::facts::Interface;

/// `BPF_MAP_LOOKUP_ELEM` (`enum bpf_cmd`, include/uapi/linux/bpf.h).
const LOOKUP: libc::c_int = 1;

/// A slot of a pinned program array.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotWish {
    /// The array's pin.
    pub path: PathBuf,
    /// Its index.
    pub slot: u32,
}

/// The balancer's program, pinned beside its tables: whose the slot is.
pub(super) const PROGRAM: &str = "program";
/// Name of the second pin of an array, beside the balancer's tables; the slot follows.
const PIN: &str = "slot";

/// Whether the balancer whose pins are in `directory` may enter the slot.
///
/// # Errors
/// [`XdpError::Slot`]: no such slot, another program is in it, no root on the interface that calls it, or a former process left
/// the balancer attached or in another slot.
pub(super) fn check(wish: &SlotWish, interface: &Interface, directory: Option<&Path>) -> Result<Slot, XdpError> {
    let slot = Slot::open(wish)?;
    slot.check_root(interface)?;
    if directory.is_some_and(|directory| !left::pins(directory).is_empty()) {
        let cause = "a balancer before was left attached to an interface itself".to_owned();
        return Err(slot.fail(cause, "`tandem detach` removes it (its flows are lost), then start again"));
    }
    let ours = directory.map_or(Ok(None), left_program)?;
    if ours.is_some() && !directory.is_some_and(|directory| slot_pin(directory, wish.slot).exists()) {
        let cause = "a balancer before was left in another slot".to_owned();
        return Err(slot.fail(cause, "name that one, or `tandem detach` removes it (its flows are lost)"));
    }
    match slot.occupant()? {
        Some(there) if Some(there) != ours => {
            let cause = format!("another program (number {there}) is in it");
            Err(slot.fail(cause, "take it out, or name another slot"))
        }
        _ => Ok(slot),
    }
}

/// Puts the balancer's program into a slot.
///
/// # Errors
/// As [`check`].
pub(super) fn enter(wish: &SlotWish, interface: &Interface, program: &mut Xdp, directory: Option<&Path>) -> Result<(), XdpError> {
    let slot = check(wish, interface, directory)?;
    if let Some(directory) = directory {
        let (array, own) = (slot_pin(directory, wish.slot), directory.join(PROGRAM));
        if !array.exists() {
            slot.pin(&array)?;
        }
        remove(Some(&own))?;
        program.pin(&own).map_err(|e| slot.fail(chain(&e), "it takes root and a mounted bpffs"))?;
    }
    let missing = |_| XdpError::Missing { what: "loaded program", name: "balancer" };
    slot.put(program.fd().map_err(missing)?)
}

/// That no former process left the balancer in a slot.
///
/// # Errors
/// [`XdpError::Pin`]: it did.
pub(super) fn check_none(directory: &Path) -> Result<(), XdpError> {
    let path = directory.join(PROGRAM);
    if !path.exists() {
        return Ok(());
    }
    Err(XdpError::Pin {
        path,
        what: "cannot attach the balancer",
        cause: "a balancer before was left in a slot of a root".to_owned(),
        cure: "name that one (--xdp-root, --xdp-slot), or `tandem detach` removes it (its flows are lost)",
    })
}

fn slot_pin(directory: &Path, slot: u32) -> PathBuf {
    directory.join(format!("{PIN}{slot}"))
}

/// Takes the balancer's program out of its slot, and the pins away.
///
/// # Errors
/// [`XdpError`]: a pin cannot be opened or removed.
pub(super) fn leave(directory: &Path) -> Result<(), XdpError> {
    let ours = left_program(directory)?;
    let entries = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    for entry in entries {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PIN)).and_then(|slot| slot.parse().ok());
        let Some(slot) = number else { continue };
        let wish = SlotWish { path: entry.path(), slot };
        if let Some(program) = ours {
            Slot::open(&wish)?.clear(program)?;
        }
        remove(Some(&wish.path))?;
    }
    remove(Some(&directory.join(PROGRAM)))
}

/// The number of the program that a former process put into a slot.
fn left_program(directory: &Path) -> Result<Option<u32>, XdpError> {
    let path = directory.join(PROGRAM);
    if !path.exists() {
        return Ok(None);
    }
    let fail = |cause| XdpError::Pin { path: path.clone(), what: "cannot open the pinned program", cause, cure: "are you root?" };
    let info = ProgramInfo::from_pin(&path).map_err(|e| fail(chain(&e)))?;
    Ok(Some(info.id()))
}

/// A slot, as a listing shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SlotRow {
    /// Its index.
    pub slot: u32,
    /// The number of the program in it.
    pub program: Option<u32>,
    /// The program's name, as far as the kernel keeps it (15 bytes).
    pub name: Option<String>,
    /// Frames that it counted, if it is a `tap`.
    pub frames: Option<u64>,
}

/// All slots of an array.
///
/// # Errors
/// [`XdpError::Slot`]: nothing is pinned there, or it is no program array.
pub fn list_slots(path: &Path) -> Result<Vec<SlotRow>, XdpError> {
    let first = Slot::open(&SlotWish { path: path.to_owned(), slot: 0 })?;
    let slots = first.array.info().map_err(|e| first.fail(chain(&e), "are you root?"))?.max_entries();
    let known: Vec<ProgramInfo> = loaded_programs().filter_map(Result::ok).collect();
    let row = |slot| {
        let program = Slot::open(&SlotWish { path: path.to_owned(), slot })?.occupant()?;
        let info = program.and_then(|number| known.iter().find(|info| info.id() == number));
        let name = info.and_then(|info| info.name_as_str()).map(str::to_owned);
        Ok(SlotRow { slot, program, name, frames: info.and_then(tapped) })
    };
    (0..slots).map(row).collect()
}

/// What a `tap` counted.
fn tapped(program: &ProgramInfo) -> Option<u64> {
    let maps = program.map_ids().ok().flatten()?.into_iter().filter_map(|id| MapData::from_id(id).ok());
    let counts = maps.into_iter().find(|map| map.info().is_ok_and(|info| info.name_as_str() == Some("TAPPED")))?;
    let counts: PerCpuArray<MapData, u64> = Map::PerCpuArray(counts).try_into().ok()?;
    Some(counts.get(&0, 0).ok()?.iter().sum())
}

/// An open array, and the slot in it.
pub(super) struct Slot {
    wish: SlotWish,
    array: MapData,
}

impl Slot {
    /// Opens the array.
    ///
    /// # Errors
    /// [`XdpError::Slot`]: nothing is pinned there, it is no program array, or it has no such slot.
    pub fn open(wish: &SlotWish) -> Result<Self, XdpError> {
        let fail = |cause: String, cure| XdpError::Slot { path: wish.path.clone(), slot: wish.slot, cause, cure };
        let cure = "it is the pin of a root's program array: `tandem root attach` makes one, and says where";
        if !wish.path.exists() {
            return Err(fail("nothing is pinned there".to_owned(), cure));
        }
        let array = MapData::from_pin(&wish.path).map_err(|e| fail(format!("cannot open the pin: {}", chain(&e)), cure))?;
        let info = array.info().map_err(|e| fail(chain(&e), cure))?;
        match info.map_type() {
            Ok(aya::maps::MapType::ProgramArray) => {}
            other => return Err(fail(format!("a map of type {other:?}, not a program array"), cure)),
        }
        if wish.slot >= info.max_entries() {
            let found = format!("the array has slots 0 to {}", info.max_entries().saturating_sub(1));
            return Err(fail(found, "name one of these"));
        }
        Ok(Self { wish: wish.clone(), array })
    }

    /// The number of the program in the slot.
    ///
    /// # Errors
    /// [`XdpError::Slot`]: the kernel does not say.
    pub fn occupant(&self) -> Result<Option<u32>, XdpError> {
        #[repr(C)]
        struct Lookup {
            map: u32,
            padding: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        let (key, mut value) = (self.wish.slot, 0_u32);
        let map = self.array.fd().as_fd().as_raw_fd().cast_unsigned();
        let mut lookup = Lookup { map, padding: 0, key: (&raw const key) as u64, value: (&raw mut value) as u64, flags: 0 };
        // SAFETY: the attributes are those of the command (`union bpf_attr`), and its key and value are 4 bytes each, as the
        // kernel asks of every program array.
        let answer = unsafe { libc::syscall(libc::SYS_bpf, LOOKUP, &raw mut lookup, size_of::<Lookup>()) };
        match std::io::Error::last_os_error() {
            _ if answer == 0 => Ok(Some(value)),
            error if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            error => Err(self.fail(error.to_string(), "are you root?")),
        }
    }

    /// Puts a program into the slot, in one step: there is no moment without one.
    ///
    /// # Errors
    /// [`XdpError::Slot`]: the array is one of programs of another type.
    pub fn put(self, program: &ProgramFd) -> Result<(), XdpError> {
        let (path, slot) = (self.wish.path, self.wish.slot);
        let fail = |cause| XdpError::Slot { path, slot, cause, cure: "is it an array of XDP programs? `bpftool map` shows it" };
        let mut array = match ProgramArray::try_from(Map::ProgramArray(self.array)) {
            Ok(array) => array,
            Err(error) => return Err(fail(chain(&error))),
        };
        array.set(slot, program, 0).map_err(|e| fail(chain(&e)))
    }

    /// Empties the slot if this program is in it.
    ///
    /// # Errors
    /// [`XdpError::Slot`]: the kernel refuses.
    pub fn clear(self, program: u32) -> Result<(), XdpError> {
        if self.occupant()? != Some(program) {
            return Ok(());
        }
        let (path, slot) = (self.wish.path, self.wish.slot);
        let fail = |cause| XdpError::Slot { path, slot, cause, cure: "are you root?" };
        let mut array = match ProgramArray::try_from(Map::ProgramArray(self.array)) {
            Ok(array) => array,
            Err(error) => return Err(fail(chain(&error))),
        };
        array.clear_index(&slot).map_err(|e| fail(chain(&e)))
    }

    /// Pins the array once more.
    ///
    /// # Errors
    /// [`XdpError::Slot`]: the kernel refuses.
    pub fn pin(&self, path: &Path) -> Result<(), XdpError> {
        self.array.pin(path).map_err(|e| self.fail(chain(&e), "it takes root and a mounted bpffs"))
    }

    /// Whether frames of the interface can get into the array.
    ///
    /// # Errors
    /// [`XdpError::Slot`]: no program is attached to the interface, or one that does not call this array.
    pub fn check_root(&self, interface: &Interface) -> Result<(), XdpError> {
        let name = &interface.name;
        let Some(attached) = interface.xdp else {
            let cause = format!("no XDP program is attached to {name} that could call it");
            return Err(self.fail(cause, "attach the root first (`tandem root attach`)"));
        };
        let array = self.array.info().map_err(|e| self.fail(chain(&e), "are you root?"))?.id();
        let found = loaded_programs().filter_map(Result::ok).find(|program| program.id() == attached.program);
        let calls = found.and_then(|program| program.map_ids().ok().flatten()).is_none_or(|maps| maps.contains(&array));
        if calls {
            return Ok(());
        }
        let cause = format!("the XDP program on {name} (number {}) does not call this array", attached.program);
        Err(self.fail(cause, "name the array of the root that is attached there"))
    }

    fn fail(&self, cause: String, cure: &'static str) -> XdpError {
        XdpError::Slot { path: self.wish.path.clone(), slot: self.wish.slot, cause, cure }
    }
}
