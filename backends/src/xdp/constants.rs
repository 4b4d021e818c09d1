//! Load-time constants: immediates of the programs' instructions, which are filled in before aya sees the object.

use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionKind};
use tandem_engine::memory::counters::{Extent, HEAD, MAX_CPUS};
use tandem_engine::memory::features::{DECAP_GUE, DECAP_IPIP, GUARD, NAT, PREFIX_VIPS, TCP_ID, has_usual};
use tandem_engine::memory::{Constant, Line};

use super::direct::Direct;
use super::error::XdpError;
use crate::memory::{LookedUp, Sizes};

/// Bytes of an instruction (RFC 9669, section 3.1).
const SIZE: usize = 8;
/// The load of 64 bits, which takes two places.
const WIDE: u8 = 0x18;
/// Classes of arithmetic, by 32 and by 64 bits, and of jumps; and what distinguishes a register from an immediate.
const ARITHMETIC: [u8; 2] = [0x04, 0x07];
const JUMPS: u8 = 0x05;
const REGISTER: u8 = 0x08;
/// `if x < number goto`, and `if x >= number goto`: no number is below 0.
const IF_BELOW: u8 = 0xa5;
const IF_NOT_BELOW: u8 = 0x35;
/// `call 12`: `bpf_tail_call`.
const TAIL_CALL: [u8; SIZE] = [0x85, 0, 0, 0, 12, 0, 0, 0];
/// `r0 = -1`.
const FAILED: [u8; SIZE] = [0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
/// The map of the tail call, and instructions behind the load of its address that may come before the call.
const AGAIN: &str = "AGAIN";
const NEAR: usize = 8;

/// An object ready to be loaded for tables of these sizes, which are `direct`'s. `replay`: 0 to forward, 1 for
/// [`Role::Replay`](super::Role::Replay), 2 for [`Role::Untraced`](super::Role::Untraced).
///
/// # Errors
/// [`XdpError::Missing`]: it is no object of ours.
pub fn prepare(object: &[u8], sizes: Sizes, replay: u32, direct: &Direct) -> Result<Vec<u8>, XdpError> {
    direct.link(&fill(object, sizes, replay, direct.looked_up())?)
}

/// An object with its constants; what it is pointed at is left to the caller.
///
/// # Errors
/// [`XdpError::Missing`]: it has none of them, or others.
pub fn fill(object: &[u8], sizes: Sizes, replay: u32, looked_up: LookedUp) -> Result<Vec<u8>, XdpError> {
    let missing = || XdpError::Missing { what: "load-time constants of", name: "this version" };
    let parsed = object::File::parse(object).map_err(|_| missing())?;
    let (mut bytes, mut places) = (object.to_vec(), 0);
    for section in parsed.sections().filter(|section| section.kind() == SectionKind::Text) {
        let (start, size) = section.file_range().unwrap_or_default();
        let code = bytes.get_mut(start as usize..(start + size) as usize).ok_or_else(missing)?;
        places += fill_code(code, |constant| value(constant, sizes, replay, looked_up)).ok_or_else(missing)?;
        if sizes.features & (DECAP_IPIP | DECAP_GUE) == 0 {
            let loads = section.relocations().filter(|(_, relocation)| match relocation.target() {
                RelocationTarget::Symbol(index) => parsed.symbol_by_index(index).is_ok_and(|symbol| symbol.name() == Ok(AGAIN)),
                _ => false,
            });
            for (at, _) in loads {
                remove_tail_call(code, at as usize).ok_or(XdpError::Missing { what: "tail call by", name: AGAIN })?;
            }
        }
    }
    if places == 0 { Err(missing()) } else { Ok(bytes) }
}

/// Bytes of a core's counters.
pub(super) fn block_bytes(extent: Extent) -> u32 {
    extent.lines() * size_of::<Line>() as u32
}

/// What stands in the program in a constant's place.
fn value(constant: Constant, sizes: Sizes, replay: u32, looked_up: LookedUp) -> u32 {
    let Sizes { extent, features, .. } = sizes;
    match constant {
        Constant::Replay => replay,
        Constant::Traced => (replay == 1).into(),
        Constant::Features => features,
        // That way has the VIP table's address: looked up, it would take more of the stack than there is.
        Constant::Unusual => (!has_usual(features) || replay == 1 || looked_up.vips).into(),
        Constant::SlotMask => 2 * sizes.vip_slots - 1,
        Constant::RealMask => extent.reals - 1,
        Constant::VipMask => extent.vips - 1,
        Constant::FlowMask => sizes.flow_sets - 1,
        Constant::HashMask => sizes.hash_lines - 1,
        Constant::RingLines => sizes.ring_lines,
        Constant::CpuMask => {
            if replay == 0 {
                MAX_CPUS - 1
            } else {
                0
            }
        }
        Constant::Blocks => sizes.blocks,
        Constant::BlockBytes => block_bytes(extent),
        Constant::RealCounts => (HEAD + extent.vips) * size_of::<Line>() as u32,
        Constant::LookUpVips => looked_up.vips.into(),
        Constant::LookUpRings => looked_up.rings.into(),
        Constant::LookUpFlows => looked_up.flows.into(),
        Constant::LookUpHashes => looked_up.hashes.into(),
        Constant::LookUpCounts => looked_up.counts.into(),
        Constant::Guard => features & GUARD,
        Constant::TcpId => features & TCP_ID,
        Constant::DecapGue => features & DECAP_GUE,
        Constant::PrefixVips => features & PREFIX_VIPS,
        Constant::Nat => features & NAT,
    }
}

/// Fills in the constants of a section; how many there were, `None`: an unknown one.
fn fill_code(code: &mut [u8], value: impl Fn(Constant) -> u32) -> Option<usize> {
    let (mut at, mut places) = (0, 0);
    while let Some(instruction) = code.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<SIZE>()) {
        let [opcode, registers, offset @ .., a, b, c, d] = *instruction;
        at += if opcode == WIDE { 2 * SIZE } else { SIZE };
        let (number, class) = (u32::from_le_bytes([a, b, c, d]), opcode & 7);
        if !Constant::is_one(number) || opcode & REGISTER != 0 || !(ARITHMETIC.contains(&class) || class == JUMPS) {
            continue;
        }
        let value = value(Constant::of(number)?);
        let (opcode, value) = match (opcode, value) {
            // A question: never, or always. A jump without condition would leave what is behind it to nobody, and be refused.
            (IF_BELOW, 0) => (IF_BELOW, 0),
            (IF_BELOW, _) => (IF_NOT_BELOW, 0),
            other => other,
        };
        let ([x, y], [a, b, c, d]) = (offset, value.to_le_bytes());
        *instruction = [opcode, registers, x, y, a, b, c, d];
        places += 1;
    }
    Some(places)
}

/// Where no frame is ever looked at again, the call that would do it is one that has failed. Its mere presence would take six machine
/// instructions at the program's entry, of each frame: whoever calls is counted (`emit_prologue`, arch/x86/net/bpf_jit_comp.c).
fn remove_tail_call(code: &mut [u8], load: usize) -> Option<()> {
    let behind = code.get_mut(load..)?.chunks_exact_mut(SIZE).take(NEAR);
    behind.into_iter().find(|instruction| **instruction == TAIL_CALL)?.copy_from_slice(&FAILED);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(opcode: u8, registers: u8, offset: i16, number: u32) -> [u8; SIZE] {
        let ([x, y], [a, b, c, d]) = (offset.to_le_bytes(), number.to_le_bytes());
        [opcode, registers, x, y, a, b, c, d]
    }

    fn filled(code: &[[u8; SIZE]], value: u32) -> Option<(Vec<[u8; SIZE]>, usize)> {
        let mut bytes = code.concat();
        let places = fill_code(&mut bytes, |_| value)?;
        Some((bytes.chunks_exact(SIZE).map(|chunk| chunk.try_into().unwrap()).collect(), places))
    }

    #[test]
    fn immediates_are_filled_in_and_nothing_else() {
        let number = Constant::FlowMask as u32;
        let code = [
            instruction(0x57, 1, 0, number),
            // Both halves of an address, and a register in the place of the immediate.
            instruction(WIDE, 1, 0, number),
            instruction(0, 0, 0, number),
            instruction(0x5f, 0x21, 0, number),
            instruction(IF_NOT_BELOW, 3, 7, number),
            instruction(0x57, 1, 0, 1234),
        ];
        let (found, places) = filled(&code, 77).unwrap();
        let mut wanted = code;
        (wanted[0], wanted[4]) = (instruction(0x57, 1, 0, 77), instruction(IF_NOT_BELOW, 3, 7, 77));
        assert_eq!((found, places), (wanted.to_vec(), 2));
    }

    #[test]
    fn a_question_is_answered() {
        let question = [instruction(IF_BELOW, 3, -3, Constant::Replay as u32)];
        assert_eq!(filled(&question, 0), Some((vec![instruction(IF_BELOW, 3, -3, 0)], 1)));
        assert_eq!(filled(&question, 2), Some((vec![instruction(IF_NOT_BELOW, 3, -3, 0)], 1)));
    }

    #[test]
    fn an_unknown_constant_is_an_error() {
        let last = Constant::ALL[Constant::ALL.len() - 1] as u32;
        assert!(filled(&[instruction(0x57, 1, 0, last)], 0).is_some());
        assert_eq!(filled(&[instruction(0x57, 1, 0, last + 1)], 0), None);
    }

    #[test]
    fn only_the_call_behind_the_load_is_removed() {
        let (wide, rest, nothing) = (instruction(WIDE, 2, 0, 0), [0; SIZE], instruction(0xb7, 3, 0, 0));
        let mut code = [TAIL_CALL, wide, rest, nothing, TAIL_CALL, TAIL_CALL].concat();
        assert_eq!(remove_tail_call(&mut code, SIZE), Some(()));
        assert_eq!(code, [TAIL_CALL, wide, rest, nothing, FAILED, TAIL_CALL].concat());
        assert_eq!(remove_tail_call(&mut [wide, rest, nothing].concat(), 0), None);
    }
}
