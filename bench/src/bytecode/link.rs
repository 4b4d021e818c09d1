//! The balancer's object, linked to memory of this process: maps become areas, functions get a stack frame each.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aya_obj::Object;
use aya_obj::generated::bpf_insn;
use tandem_backends::memory::{LookedUp, Tables};
use tandem_backends::xdp::{OBJECT, fill};

/// Bytes of a function's stack (`MAX_BPF_STACK` of the kernel), with room for a register below, and frames at most
/// (`MAX_CALL_FRAMES`).
const STACK: i16 = 512;
const FRAME: usize = 1024;
const FRAMES: usize = 8;
/// Of an instruction.
const SIZE: usize = 8;

const LOAD_64: u8 = 0x18;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const ADD_64: u8 = 0x07;
const ADD_64_REGISTER: u8 = 0x0f;
const SUBTRACT_64: u8 = 0x17;
const AND_32: u8 = 0x54;
const MOVE_32_REGISTER: u8 = 0xbc;
const MOVE_64_REGISTER: u8 = 0xbf;
const READ_64: u8 = 0x79;
const WRITE_64: u8 = 0x7b;
const ATOMIC_64: u8 = 0xdb;
/// The classes of jumps, by 64 and by 32 bits.
const JUMPS: [u8; 2] = [0x05, 0x06];
/// Where a load of 64 bits has a map, or a value in one (`BPF_PSEUDO_MAP_FD`, `BPF_PSEUDO_MAP_VALUE`), and a call a function
/// of the program (`BPF_PSEUDO_CALL`).
const MAP: u8 = 1;
const VALUE: u8 = 2;
const LOCAL: u8 = 1;
/// The frame pointer.
const R10: u8 = 10;

/// The entries of one map.
pub(super) struct Area {
    start: u64,
    entry: u32,
    len: u32,
}

impl Area {
    /// The address of an entry; 0: there is none.
    #[inline]
    pub(super) fn entry(&self, index: u32) -> u64 {
        if index < self.len { self.start + u64::from(index) * u64::from(self.entry) } else { 0 }
    }
}

/// What the program has the addresses of.
pub(super) struct Parts {
    _areas: Box<[Area]>,
    /// Its constants and variables.
    _values: Vec<Box<[u64]>>,
    _stack: Box<[u64]>,
}

/// The program's instructions, and what they point to.
pub(super) fn link(tables: &Arc<Tables>) -> Result<(Vec<u8>, Parts)> {
    let filled = fill(OBJECT, tables.sizes(), 0, LookedUp::default()).context("the balancer's constants")?;
    let mut object = Object::parse(&filled).context("the balancer's object")?;
    let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    let maps: Vec<(String, aya_obj::Map)> = object.maps.drain().collect();
    let numbered = maps.iter().zip(0..).map(|((name, map), number)| (name.as_str(), number, map));
    object.relocate_maps(numbered, &text).context("the balancer's maps")?;
    object.relocate_calls(&text).context("the balancer's functions")?;
    let program = object.programs.get("balancer").context("the object has no balancer")?;
    let function = object.functions.get(&program.function_key()).context("the balancer has no instructions")?;

    let words = |map: &aya_obj::Map| -> Box<[u64]> {
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        map.data().chunks(8).map(word).collect()
    };
    let values: Vec<Box<[u64]>> = maps.iter().map(|(_, map)| words(map)).collect();
    let areas: Box<[Area]> = maps.iter().map(|(name, map)| area(tables, name, map)).collect();
    let stack: Box<[u64]> = vec![0; FRAME * FRAMES / 8].into();
    let mut instructions: Vec<Instruction> = function.instructions.iter().map(Instruction::of).collect();
    resolve(&mut instructions, &areas, &values)?;
    let adapted = adapted(&instructions, stack.as_ptr_range().end as u64)?;
    let bytes = adapted.iter().flat_map(|instruction| instruction.bytes()).collect();
    Ok((bytes, Parts { _areas: areas, _values: values, _stack: stack }))
}

/// The table of a map; an empty area for what has none: maps of programs, sockets and interfaces.
fn area(tables: &Tables, name: &str, map: &aya_obj::Map) -> Area {
    fn of<T>(entries: &[T]) -> (u64, usize) {
        (entries.as_ptr() as u64, size_of_val(entries))
    }
    let (start, bytes) = match name {
        ".bss.ROOT" => of(std::slice::from_ref(tables.root())),
        ".bss.VIPS" => of(tables.vips()),
        ".bss.RINGS" => of(tables.rings()),
        ".bss.REALS" => of(tables.reals()),
        ".bss.FLOWS" => of(tables.flows()),
        ".bss.HASHES" => of(tables.hashes()),
        ".bss.COUNTS" => {
            let (start, bytes) = of(tables.block(0));
            (start, bytes * tables.blocks() as usize)
        }
        "IDS" => of(tables.ids()),
        "PREFIXES" => of(tables.prefixes()),
        "TREES" => of(tables.trees()),
        "NATS" => of(tables.nats()),
        "ANSWERS" => of(tables.answers()),
        "TRACE" => of(std::slice::from_ref(tables.trace())),
        _ => (0, 0),
    };
    let entry = map.value_size().next_multiple_of(8).max(8);
    Area { start, entry, len: (bytes / entry as usize) as u32 }
}

/// An instruction (RFC 9669, section 3).
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    dst: u8,
    src: u8,
    off: i16,
    imm: i32,
}

impl Instruction {
    fn of(insn: &bpf_insn) -> Self {
        Self { code: insn.code, dst: insn.dst_reg(), src: insn.src_reg(), off: insn.off, imm: insn.imm }
    }

    fn bytes(&self) -> [u8; SIZE] {
        let ([a, b], [c, d, e, f]) = (self.off.to_le_bytes(), self.imm.to_le_bytes());
        [self.code, self.src << 4 | self.dst, a, b, c, d, e, f]
    }

    fn is_local_call(&self) -> bool {
        self.code == CALL && self.src == LOCAL
    }

    fn is_jump(&self) -> bool {
        JUMPS.contains(&(self.code & 7)) && self.code != CALL && self.code != EXIT
    }

    /// Both halves of a load of 64 bits.
    fn load(dst: u8, word: u64) -> [Self; 2] {
        let half = |code, dst, imm: u64| Self { code, dst, src: 0, off: 0, imm: imm as u32 as i32 };
        [half(LOAD_64, dst, word), half(0, 0, word >> 32)]
    }

    fn stack_pointer(code: u8) -> Self {
        Self { code, dst: R10, src: 0, off: 0, imm: FRAME as i32 }
    }

    /// What rbpf is given in its place, and which of them is the instruction itself if it jumps or calls.
    fn expanded(self) -> Result<(Vec<Self>, usize)> {
        let with = |code, dst, src, off, imm| Self { code, dst, src, off, imm };
        Ok(match self.code {
            // rbpf's compiler leaves the frame pointer where it is: so the program moves it.
            CALL if self.src == LOCAL => (vec![Self::stack_pointer(SUBTRACT_64), self, Self::stack_pointer(ADD_64)], 1),
            // Nor does it clear the upper half.
            MOVE_32_REGISTER => (vec![with(MOVE_64_REGISTER, self.dst, self.src, 0, 0), with(AND_32, self.dst, 0, 0, -1)], 0),
            // It has no atomic instructions, and nobody else is here.
            ATOMIC_64 => {
                ensure!(self.imm == 0, "an atomic operation {:#x}, which is not an addition", self.imm);
                let spare = (0..6).find(|register| ![self.dst, self.src].contains(register)).context("no spare register")?;
                let place = -STACK - SIZE as i16;
                let addition = vec![
                    with(WRITE_64, R10, spare, place, 0),
                    with(READ_64, spare, self.dst, self.off, 0),
                    with(ADD_64_REGISTER, spare, self.src, 0, 0),
                    with(WRITE_64, self.dst, spare, self.off, 0),
                    with(READ_64, spare, R10, place, 0),
                ];
                (addition, 0)
            }
            _ => (vec![self], 0),
        })
    }
}

/// Puts addresses where numbers of maps are.
fn resolve(instructions: &mut [Instruction], areas: &[Area], values: &[Box<[u64]>]) -> Result<()> {
    let mut at = 0;
    while let Some(&[first, second]) = instructions.get(at..at + 2).and_then(|pair| pair.first_chunk::<2>()) {
        if first.code != LOAD_64 {
            at += 1;
            continue;
        }
        let number = first.imm as usize;
        let word = match first.src {
            MAP => Some(std::ptr::from_ref(areas.get(number).context("a map without area")?) as u64),
            VALUE => {
                let area = areas.get(number).map_or(0, |area| area.start);
                let values = values.get(number).context("a map without values")?.as_ptr() as u64;
                Some(if area != 0 { area } else { values } + second.imm as u64)
            }
            _ => None,
        };
        if let (Some(word), Some(pair)) = (word, instructions.get_mut(at..at + 2)) {
            pair.copy_from_slice(&Instruction::load(first.dst, word));
        }
        at += 2;
    }
    Ok(())
}

/// The program as rbpf can run it, on a stack that ends at `top`.
fn adapted(instructions: &[Instruction], top: u64) -> Result<Vec<Instruction>> {
    let mut out = Instruction::load(R10, top).to_vec();
    // Where each instruction went, and those whose targets move with it.
    let (mut places, mut targets) = (Vec::with_capacity(instructions.len()), Vec::new());
    let mut is_second_half = false;
    for (index, instruction) in (0_i64..).zip(instructions) {
        places.push(out.len() as i64);
        if is_second_half {
            out.push(*instruction);
            is_second_half = false;
            continue;
        }
        let (expanded, itself) = instruction.expanded()?;
        if instruction.is_local_call() {
            targets.push((out.len() + itself, index + 1 + i64::from(instruction.imm)));
        } else if instruction.is_jump() {
            targets.push((out.len() + itself, index + 1 + i64::from(instruction.off)));
        }
        out.extend(expanded);
        is_second_half = instruction.code == LOAD_64;
    }
    for (at, target) in targets {
        let place = usize::try_from(target).ok().and_then(|target| places.get(target)).context("a jump out of the program")?;
        let distance = place - (at as i64 + 1);
        if let Some(instruction) = out.get_mut(at) {
            if instruction.is_jump() { instruction.off = distance.try_into()? } else { instruction.imm = distance.try_into()? }
        }
    }
    Ok(out)
}
