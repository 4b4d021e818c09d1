//! The tables that every frame asks, by numbers that it has calculated: where the kernel lets it, a frame looks nothing up in them.
//!
//! The kernel lets a program have the address of an array that has one value (`BPF_PSEUDO_MAP_VALUE`; Linux 5.2, d8eca5bbb2be), which is
//! how programs have variables. So these tables are arrays of one value each, in sections that programs have variables in; what
//! aya makes of those cannot be mapped by a process. So the arrays are made here, and the instructions are pointed at them
//! before aya sees the object.
//!
//! Before Linux 6.0 a value has at most 4 MiB, and no program may add as much as 512 MiB to an address. Beyond, a table has entries,
//! which the program looks up. Its bytes are the same, and constants tell the program which it is; a pinned one stays what it is.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use aya::EbpfError;
use aya::maps::MapData;
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY;
use object::elf::{FileHeader64, SHF_EXECINSTR, SHT_SYMTAB};
use object::read::elf::{FileHeader, Rel, SectionHeader, Sym};
use object::{LittleEndian, SectionIndex, SymbolIndex};
use tandem_engine::memory::{FlowSet, HashLine, Real, RingLine, Root, VipSlot};

use super::constants::block_bytes;
use super::error::{XdpError, chain, errno, load_cure};
use crate::memory::{Area, LookedUp, Shared, Sizes};

/// The tables, by the names of their pins. The object has an address of each in a section `.bss.NAME`, and beside it what is looked
/// up, in `.bss.NAME.map`.
pub(super) const DIRECT: [&str; TABLES] = ["ROOT", "VIPS", "RINGS", "REALS", "FLOWS", "HASHES", "COUNTS"];
const TABLES: usize = 7;
const SECTION: &str = ".bss.";
const LOOKED_UP: &str = ".map";
/// `BPF_F_MMAPABLE` (Linux 5.5).
const MMAPABLE: u32 = 1 << 10;
/// `BPF_PSEUDO_MAP_VALUE` and `BPF_PSEUDO_MAP_FD`: what a load has in its source register, here beside the destination.
const MAP_VALUE: u8 = 2 << 4;
const MAP: u8 = 1 << 4;
/// Bytes of an entry of a section of relocations (`Elf64_Rel`).
const ENTRY: u64 = 16;
/// Bytes that a value may have at most: `BPF_MAX_VAR_OFF` of the verifier, and `KMALLOC_MAX_SIZE` before Linux 6.0.
const LARGEST: u64 = 1 << 29;
const LARGEST_ONCE: u64 = 4 << 20;

/// An array with a table in it.
#[derive(Debug)]
struct Table {
    name: &'static str,
    data: MapData,
    /// It has entries, not one value.
    looked_up: bool,
}

/// The arrays. They have to live until the programs are loaded.
#[derive(Debug)]
pub struct Direct([Table; TABLES]);

impl Direct {
    /// Makes the arrays, or takes them over from their pins in `pins`.
    ///
    /// # Errors
    /// [`XdpError::Load`]: no privileges, no memory, or counters of a core that are too large for this kernel; [`XdpError::Pin`].
    pub fn make(sizes: Sizes, pins: Option<&Path>) -> Result<Self, XdpError> {
        let slot = size_of::<VipSlot>() as u32;
        let (real, set) = (size_of::<Real>() as u32, size_of::<FlowSet>() as u32);
        let (line, hashed) = (size_of::<RingLine>() as u32, size_of::<HashLine>() as u32);
        let [root, vips, rings, reals, flows, hashes, counts] = DIRECT;
        let as_told = sizes.looked_up;
        let make = |name, entry, len, looked_up| Table::make(name, entry, len, looked_up, sizes, pins);
        Ok(Self([
            make(root, size_of::<Root>() as u32, 1, false)?,
            make(vips, slot, 2 * sizes.vip_slots, as_told.vips)?,
            make(rings, line, sizes.ring_lines, as_told.rings)?,
            make(reals, real * sizes.extent.reals, 1, false)?,
            make(flows, set, sizes.flow_sets, as_told.flows)?,
            make(hashes, hashed, sizes.hash_lines, as_told.hashes)?,
            make(counts, block_bytes(sizes.extent), sizes.blocks, as_told.counts)?,
        ]))
    }

    fn table(&self, name: &str) -> Option<&Table> {
        self.0.iter().find(|table| table.name == name)
    }

    /// Which of them are looked up.
    pub fn looked_up(&self) -> LookedUp {
        let [_, vips, rings, _, flows, hashes, counts] = self.0.each_ref().map(|table| table.looked_up);
        LookedUp { vips, rings, flows, hashes, counts }
    }

    /// The table, mapped: `len` entries.
    ///
    /// # Errors
    /// [`XdpError::Missing`], [`XdpError::Map`].
    pub fn area<T: Shared>(&self, name: &'static str, len: usize) -> Result<Area<T>, XdpError> {
        let table = self.table(name).ok_or(XdpError::Missing { what: "array", name })?;
        Ok(Area::of_map(name, table.data.fd().as_fd(), len)?)
    }

    /// The object with its programs pointed at the arrays.
    ///
    /// # Errors
    /// [`XdpError::Missing`]: it is no object of ours.
    pub fn link(&self, object: &[u8]) -> Result<Vec<u8>, XdpError> {
        let missing = || XdpError::Missing { what: "relocations of", name: "ROOT" };
        self.linked(object).filter(|(_, places)| *places > 0).map(|(bytes, _)| bytes).ok_or_else(missing)
    }

    /// The same, and how many instructions there were.
    fn linked(&self, object: &[u8]) -> Option<(Vec<u8>, usize)> {
        let header = FileHeader64::<LittleEndian>::parse(object).ok()?;
        let endian = header.endian().ok()?;
        let sections = header.sections(endian, object).ok()?;
        let symbols = sections.symbols(endian, object, SHT_SYMTAB).ok()?;
        let (mut bytes, mut places) = (object.to_vec(), 0);
        for section in sections.iter() {
            let Some((entries, _)) = section.rel(endian, object).ok()? else { continue };
            let code = sections.section(SectionIndex(section.sh_info(endian) as usize)).ok()?;
            if code.sh_flags(endian) & u64::from(SHF_EXECINSTR) == 0 {
                continue;
            }
            for (entry, at) in entries.iter().zip((section.sh_offset(endian)..).step_by(ENTRY as usize)) {
                let symbol = symbols.symbol(SymbolIndex(entry.r_sym(endian) as usize)).ok()?;
                let Ok(home) = sections.section(SectionIndex(symbol.st_shndx(endian) as usize)) else { continue };
                let name = sections.section_name(endian, home).ok()?;
                let Some(name) = std::str::from_utf8(name).ok().and_then(|name| name.strip_prefix(SECTION)) else { continue };
                let (name, is_looked_up) = name.strip_suffix(LOOKED_UP).map_or((name, false), |name| (name, true));
                let Some(table) = self.table(name) else { continue };
                let instruction = (code.sh_offset(endian) + entry.r_offset(endian)) as usize;
                let load = bytes.get_mut(instruction..instruction + 16)?;
                // Of an address and a lookup one is never reached; but the kernel looks at both, and an array of entries has no address.
                let is_map = is_looked_up || table.looked_up;
                point(load, table.data.fd().as_fd().as_raw_fd(), is_map, symbol.st_value(endian))?;
                // Nobody else's: in no section, so that the loader leaves it.
                bytes.get_mut(at as usize..at as usize + 8)?.fill(0xff);
                places += 1;
            }
        }
        Some((bytes, places))
    }
}

/// Makes the load of an address one of the array's value, from this byte on, or of the array.
fn point(load: &mut [u8], fd: i32, is_map: bool, offset: u64) -> Option<()> {
    let (first, second) = load.split_at_mut_checked(8)?;
    let (registers, addend) = (*first.get(1)?, i32::from_le_bytes(first.get(4..8)?.try_into().ok()?));
    let (source, offset) = if is_map { (MAP, 0) } else { (MAP_VALUE, addend.wrapping_add(offset as i32)) };
    *first.get_mut(1)? = registers & 0xf | source;
    first.get_mut(4..8)?.copy_from_slice(&fd.to_le_bytes());
    second.get_mut(4..8)?.copy_from_slice(&offset.to_le_bytes());
    Some(())
}

impl Table {
    /// An array for `len` entries of so many bytes, new or from its pin.
    fn make(
        name: &'static str,
        entry: u32,
        len: u32,
        looked_up: bool,
        sizes: Sizes,
        pins: Option<&Path>,
    ) -> Result<Self, XdpError> {
        let pin = pins.map(|pins| pins.join(name));
        let fail = |what, cause| XdpError::Pin {
            path: pin.clone().unwrap_or_default(),
            what,
            cause,
            cure: "it takes root and a mounted bpffs",
        };
        if let Some(path) = pin.as_ref().filter(|path| path.exists()) {
            let open = |cause| fail("cannot open the pinned map", cause);
            let data = MapData::from_pin(path).map_err(|error| open(chain(&error)))?;
            let entries = data.info().map_err(|error| open(chain(&error)))?.max_entries();
            return Ok(Self { name, data, looked_up: entries > 1 });
        }
        let (data, looked_up) = new(name, entry, len, looked_up).map_err(|source| {
            let cure = load_cure(errno(&source));
            XdpError::Load { source: Box::new(source), cure }
        })?;
        if name == "ROOT" {
            // Before it is pinned: without it, nobody can say how large a block of counters is.
            let root: Area<Root> = Area::of_map(name, data.fd().as_fd(), 1)?;
            root.iter().for_each(|root| root.counted_vips.publish(sizes.extent.vips));
        }
        if let Some(path) = &pin {
            data.pin(path).map_err(|error| fail("cannot pin the map", chain(&error)))?;
        }
        Ok(Self { name, data, looked_up })
    }
}

/// A new array, and whether it is looked up: in one value if that may be.
fn new(name: &'static str, entry: u32, len: u32, looked_up: bool) -> Result<(MapData, bool), EbpfError> {
    let create = |value_size, entries| {
        let map =
            aya_obj::Map::new_from_params(BPF_MAP_TYPE_ARRAY as u32, size_of::<u32>() as u32, value_size, entries, MMAPABLE);
        MapData::create(map, name, None).map_err(EbpfError::from)
    };
    let bytes = u64::from(entry) * u64::from(len);
    if len == 1 || !looked_up && bytes < LARGEST {
        match create(bytes as u32, 1) {
            Err(error) if len > 1 && bytes > LARGEST_ONCE && is_too_large(&error) => {}
            made => return Ok((made?, false)),
        }
    }
    Ok((create(entry, len)?, true))
}

/// Whether the kernel may refuse an array for the size of its value.
fn is_too_large(error: &EbpfError) -> bool {
    matches!(errno(error), Some(libc::E2BIG | libc::EINVAL | libc::ENOMEM))
}
