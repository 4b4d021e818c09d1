//! Tables whose addresses are in the program: a frame looks nothing up in them.
//!
//! The kernel lets a program have the address of an array that has one value (`BPF_PSEUDO_MAP_VALUE`; Linux 5.2, d8eca5bbb2be), which is
//! how programs have variables. So these tables are arrays of one value each, in sections that programs have variables in; what
//! aya makes of those cannot be mapped by a process. So the arrays are made here, and the instructions are pointed at them
//! before aya sees the object.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use aya::EbpfError;
use aya::maps::MapData;
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY;
use object::elf::{FileHeader64, SHF_EXECINSTR, SHT_SYMTAB};
use object::read::elf::{FileHeader, Rel, SectionHeader, Sym};
use object::{LittleEndian, SectionIndex, SymbolIndex};
use tandem_engine::memory::{Real, Root, VipSlot};

use super::error::{XdpError, chain, errno, load_cure};
use crate::memory::{Area, Shared, Sizes};

/// The tables, by the names of their pins; the object has each in a section `.bss.NAME`.
pub(super) const DIRECT: [&str; 3] = ["ROOT", "VIPS", "REALS"];
const SECTION: &str = ".bss.";
/// `BPF_F_MMAPABLE` (Linux 5.5).
const MMAPABLE: u32 = 1 << 10;
/// `BPF_PSEUDO_MAP_VALUE`: what the load of an address has in its source register, here beside the destination.
const MAP_VALUE: u8 = 2 << 4;
/// Bytes of an entry of a section of relocations (`Elf64_Rel`).
const ENTRY: u64 = 16;

/// The arrays. They have to live until the programs are loaded.
#[derive(Debug)]
pub struct Direct([(&'static str, MapData); 3]);

impl Direct {
    /// Makes the arrays, or takes them over from their pins in `pins`.
    ///
    /// # Errors
    /// [`XdpError::Load`]: no privileges, no memory, or more than Linux before 6.0 has in one value; [`XdpError::Pin`].
    pub fn make(sizes: Sizes, pins: Option<&Path>) -> Result<Self, XdpError> {
        let bytes = [
            size_of::<Root>(),
            2 * size_of::<VipSlot>() * sizes.vip_slots as usize,
            size_of::<Real>() * sizes.extent.reals as usize,
        ];
        let [a, b, c] = DIRECT;
        let [root, vips, reals] = bytes;
        Ok(Self([(a, array(a, root, pins)?), (b, array(b, vips, pins)?), (c, array(c, reals, pins)?)]))
    }

    /// The table, mapped: `len` entries.
    ///
    /// # Errors
    /// [`XdpError::Missing`], [`XdpError::Map`].
    pub fn area<T: Shared>(&self, name: &'static str, len: usize) -> Result<Area<T>, XdpError> {
        let found = self.0.iter().find(|(of, _)| *of == name);
        let (_, data) = found.ok_or(XdpError::Missing { what: "array", name })?;
        Ok(Area::of_map(name, data.fd().as_fd(), len)?)
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
                let table = self.0.iter().find(|(table, _)| name.strip_prefix(SECTION.as_bytes()) == Some(table.as_bytes()));
                let Some((_, data)) = table else { continue };
                let instruction = (code.sh_offset(endian) + entry.r_offset(endian)) as usize;
                point(bytes.get_mut(instruction..instruction + 16)?, data.fd().as_fd().as_raw_fd(), symbol.st_value(endian))?;
                // Nobody else's: in no section, so that the loader leaves it.
                bytes.get_mut(at as usize..at as usize + 8)?.fill(0xff);
                places += 1;
            }
        }
        Some((bytes, places))
    }
}

/// Makes the load of an address one of the array's value, from this byte on.
fn point(load: &mut [u8], fd: i32, offset: u64) -> Option<()> {
    let (first, second) = load.split_at_mut_checked(8)?;
    let (registers, addend) = (*first.get(1)?, i32::from_le_bytes(first.get(4..8)?.try_into().ok()?));
    *first.get_mut(1)? = registers & 0xf | MAP_VALUE;
    first.get_mut(4..8)?.copy_from_slice(&fd.to_le_bytes());
    second.get_mut(4..8)?.copy_from_slice(&addend.wrapping_add(offset as i32).to_le_bytes());
    Some(())
}

/// An array of one value, new or from its pin.
fn array(name: &'static str, bytes: usize, pins: Option<&Path>) -> Result<MapData, XdpError> {
    let pin = pins.map(|pins| pins.join(name));
    let fail = |what, cause| XdpError::Pin {
        path: pin.clone().unwrap_or_default(),
        what,
        cause,
        cure: "it takes root and a mounted bpffs",
    };
    if let Some(path) = pin.as_ref().filter(|path| path.exists()) {
        return MapData::from_pin(path).map_err(|error| fail("cannot open the pinned map", chain(&error)));
    }
    let map = aya_obj::Map::new_from_params(BPF_MAP_TYPE_ARRAY as u32, size_of::<u32>() as u32, bytes as u32, 1, MMAPABLE);
    let data = MapData::create(map, name, None).map_err(|source| {
        let source = EbpfError::from(source);
        let cure = load_cure(errno(&source));
        XdpError::Load { source: Box::new(source), cure }
    })?;
    if let Some(path) = &pin {
        data.pin(path).map_err(|error| fail("cannot pin the map", chain(&error)))?;
    }
    Ok(data)
}
