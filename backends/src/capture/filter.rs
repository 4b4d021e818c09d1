//! A filter of tcpdump's, for the kernel seat: classic BPF, as libpcap makes it, to the instructions of an XDP program.
//!
//! The kernel does the same for sockets (`bpf_convert_filter`, net/core/filter.c). Here every load is compared with the frame's
//! end, which the verifier asks for; one beyond it ends the filter with "no", as it does in classic BPF.

use serde::{Deserialize, Serialize};

/// One instruction of classic BPF (`struct sock_filter`, include/uapi/linux/filter.h).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Classic {
    /// What to do.
    pub code: u16,
    /// Instructions to leave out if a condition holds.
    pub jt: u8,
    /// The same if it does not.
    pub jf: u8,
    /// Its number.
    pub k: u32,
}

/// Why a filter cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FilterError {
    /// Too many instructions.
    #[error("the filter takes {found} instructions, and there is room for {most}; make it simpler")]
    Long {
        /// So many.
        found: usize,
        /// So many are possible.
        most: usize,
    },
    /// An instruction that there is not, or not for frames.
    #[error(
        "instruction {at} of the filter, {code:#x} with {k}, is none of classic BPF for Ethernet frames, or reads behind byte {MOST}"
    )]
    Unknown {
        /// Its place.
        at: usize,
        /// What it says.
        code: u16,
        /// Its number.
        k: u32,
    },
    /// It leads out of the filter.
    #[error("instruction {at} of the filter leads out of it")]
    Open {
        /// Its place.
        at: usize,
    },
}

/// The last byte of a frame that can be asked for.
const MOST: u32 = 0x7fff;
/// Words of a filter's memory (`BPF_MEMWORDS`).
const WORDS: u32 = 16;

/// A register: A and X of classic BPF, the frame's start and end, one for addresses, the context, the frame pointer.
const A: u8 = 0;
const CONTEXT: u8 = 1;
const X: u8 = 2;
const START: u8 = 3;
const END: u8 = 4;
const AT: u8 = 5;
const STACK: u8 = 10;

/// Opcodes (RFC 9669): `K` has a number, `R` another register; 64 bits if nothing else is said.
const ADD_K: u8 = 0x07;
const ADD_R: u8 = 0x0f;
const SUB_R: u8 = 0x1f;
const MOV_R: u8 = 0xbf;
const ALU_32: u8 = 0x04;
const MOV_32_K: u8 = 0xb4;
const MOV_32_R: u8 = 0xbc;
const BIG_ENDIAN: u8 = 0xdc;
const LOAD_32: u8 = 0x61;
const LOAD_16: u8 = 0x69;
const LOAD_8: u8 = 0x71;
const STORE_32: u8 = 0x63;
const CLEAR_64: u8 = 0x7a;
const JUMP: u8 = 0x05;
const JUMP_GREATER_K: u8 = 0x25;
const JUMP_GREATER_R: u8 = 0x2d;
const JUMP_EQUAL_32_K: u8 = 0x16;
const JUMP_32: u8 = 0x06;
const EXIT: u8 = 0x95;
/// In the code of a jump or of arithmetic, classic or not: by a register.
const BY_REGISTER: u8 = 0x08;

/// Where a jump leads.
#[derive(Clone, Copy)]
enum Target {
    /// An instruction of the filter.
    Classic(usize),
    /// "No".
    No,
}

/// The instructions so far.
#[derive(Default)]
struct Code {
    out: Vec<[u8; 8]>,
    jumps: Vec<(usize, Target)>,
}

impl Code {
    fn put(&mut self, code: u8, dst: u8, src: u8, off: i16, imm: u32) {
        let ([a, b], [c, d, e, f]) = (off.to_le_bytes(), imm.to_le_bytes());
        self.out.push([code, src << 4 | dst, a, b, c, d, e, f]);
    }

    fn jump(&mut self, code: u8, dst: u8, src: u8, imm: u32, to: Target) {
        self.jumps.push((self.out.len(), to));
        self.put(code, dst, src, 0, imm);
    }

    /// Reads into `dst` the bytes that end at [`AT`].
    fn read(&mut self, dst: u8, size: u8) {
        self.jump(JUMP_GREATER_R, AT, END, 0, Target::No);
        let load = [LOAD_8, LOAD_16, LOAD_32][usize::from(size / 2)];
        self.put(load, dst, AT, -i16::from(size), 0);
        if size > 1 {
            self.put(BIG_ENDIAN, dst, 0, 0, u32::from(size) * 8);
        }
    }

    fn read_at(&mut self, dst: u8, k: u32, size: u8) {
        self.put(MOV_R, AT, START, 0, 0);
        self.put(ADD_K, AT, 0, 0, k + u32::from(size));
        self.read(dst, size);
    }

    fn read_behind_x(&mut self, k: u32, size: u8) {
        self.put(MOV_32_R, AT, X, 0, 0);
        self.put(ALU_32, AT, 0, 0, k);
        self.jump(JUMP_GREATER_K, AT, 0, MOST, Target::No);
        self.put(ADD_R, AT, START, 0, 0);
        self.put(ADD_K, AT, 0, 0, size.into());
        self.read(A, size);
    }

    fn answer(&mut self, takes: bool) {
        self.put(MOV_32_K, A, 0, 0, takes.into());
        self.put(EXIT, 0, 0, 0, 0);
    }

    /// One instruction of the filter; `None`: there is no such.
    fn add(&mut self, Classic { code, jt, jf, k }: Classic, next: usize) -> Option<()> {
        let at = |word: u32| (word < WORDS).then(|| -4 * (word as i16 + 1));
        let low = code as u8;
        match code {
            0x20 | 0x28 | 0x30 if k < MOST - 4 => self.read_at(A, k, size(low)),
            0x40 | 0x48 | 0x50 => self.read_behind_x(k, size(low)),
            0x00 | 0x01 => self.put(MOV_32_K, if code == 0 { A } else { X }, 0, 0, k),
            0x80 | 0x81 => {
                let to = if code == 0x80 { A } else { X };
                self.put(MOV_R, to, END, 0, 0);
                self.put(SUB_R, to, START, 0, 0);
                self.put(MOV_32_R, to, to, 0, 0);
            }
            0x60 | 0x61 => self.put(LOAD_32, if code == 0x60 { A } else { X }, STACK, at(k)?, 0),
            0x02 | 0x03 => self.put(STORE_32, STACK, if code == 0x02 { A } else { X }, at(k)?, 0),
            // The length of an IPv4 header.
            0xb1 if k < MOST - 4 => {
                self.read_at(X, k, 1);
                self.put(ALU_32 | AND, X, 0, 0, 0xf);
                self.put(ALU_32 | LEFT, X, 0, 0, 2);
            }
            0x07 => self.put(MOV_32_R, X, A, 0, 0),
            0x87 => self.put(MOV_32_R, A, X, 0, 0),
            0x06 => self.answer(k != 0),
            0x16 => self.put(EXIT, 0, 0, 0, 0),
            0x05 => self.jump(JUMP, 0, 0, 0, Target::Classic(next.checked_add(usize::try_from(k).ok()?)?)),
            _ => match (low & 7, low & 0xf0, low & BY_REGISTER != 0) {
                _ if code > 0xff => return None,
                (0x04, operation, by_x) if operation <= EXCLUSIVE => self.calculate(operation, by_x, k)?,
                (0x05, condition @ 0x10..=0x40, by_x) => {
                    let [t, f] = [jt, jf].map(|over| Target::Classic(next + usize::from(over)));
                    self.branch(condition, by_x, k, (jt, t), (jf, f));
                }
                _ => return None,
            },
        }
        Some(())
    }

    /// 32 bits, as in classic BPF, whose codes are the same.
    fn calculate(&mut self, operation: u8, by_x: bool, k: u32) -> Option<()> {
        let divides = operation == DIVIDE || operation == REMAINDER;
        let shifts = operation == LEFT || operation == RIGHT;
        match (operation, by_x) {
            (NEGATE, _) => self.put(ALU_32 | NEGATE, A, 0, 0, 0),
            (_, false) if divides && k == 0 || shifts && k >= u32::BITS => return None,
            (_, false) => self.put(ALU_32 | operation, A, 0, 0, k),
            (_, true) => {
                if divides {
                    self.jump(JUMP_EQUAL_32_K, X, 0, 0, Target::No);
                }
                self.put(ALU_32 | operation | BY_REGISTER, A, X, 0, 0);
            }
        }
        Some(())
    }

    fn branch(&mut self, condition: u8, by_x: bool, k: u32, (jt, t): (u8, Target), (jf, f): (u8, Target)) {
        let (by, src, k) = if by_x { (BY_REGISTER, X, 0) } else { (0, 0, k) };
        // Equal, greater, greater or equal: what is the opposite of each.
        let opposite = match condition {
            0x10 => Some(0x50),
            0x20 => Some(0xb0),
            0x30 => Some(0xa0),
            _ => None,
        };
        match (jt, opposite) {
            (0, Some(opposite)) => self.jump(JUMP_32 | opposite | by, A, src, k, f),
            _ => {
                self.jump(JUMP_32 | condition | by, A, src, k, t);
                if jf > 0 {
                    self.jump(JUMP, 0, 0, 0, f);
                }
            }
        }
    }
}

/// In the code of arithmetic: what is calculated.
const DIVIDE: u8 = 0x30;
const AND: u8 = 0x50;
const LEFT: u8 = 0x60;
const RIGHT: u8 = 0x70;
const NEGATE: u8 = 0x80;
const REMAINDER: u8 = 0x90;
const EXCLUSIVE: u8 = 0xa0;

/// Bytes that a classic load reads.
fn size(code: u8) -> u8 {
    match code & 0x18 {
        0x00 => 4,
        0x08 => 2,
        _ => 1,
    }
}

/// The filter as a function of an XDP context, in exactly `room` instructions: what is too many of them leads to the first one.
///
/// # Errors
/// [`FilterError`].
pub fn translated(filter: &[Classic], room: usize) -> Result<Vec<u8>, FilterError> {
    let mut code = Code::default();
    code.put(LOAD_32, START, CONTEXT, 0, 0);
    code.put(LOAD_32, END, CONTEXT, 4, 0);
    code.put(MOV_32_K, A, 0, 0, 0);
    code.put(MOV_32_K, X, 0, 0, 0);
    if filter.iter().any(|instruction| matches!(instruction.code, 0x60 | 0x61)) {
        (1..=8).for_each(|pair| code.put(CLEAR_64, STACK, 0, -8 * pair, 0));
    }
    let mut places = Vec::with_capacity(filter.len());
    for (at, instruction) in filter.iter().enumerate() {
        places.push(code.out.len());
        let unknown = FilterError::Unknown { at, code: instruction.code, k: instruction.k };
        code.add(*instruction, at + 1).ok_or(unknown)?;
    }
    if !filter.last().is_some_and(|last| matches!(last.code, 0x06 | 0x16)) {
        return Err(FilterError::Open { at: filter.len().saturating_sub(1) });
    }
    let no = code.out.len();
    if code.jumps.iter().any(|(_, to)| matches!(to, Target::No)) {
        code.answer(false);
    }
    let Code { mut out, jumps } = code;
    if out.len() > room {
        return Err(FilterError::Long { found: out.len(), most: room });
    }
    for (at, to) in jumps {
        let place = match to {
            Target::No => Some(no),
            Target::Classic(index) => places.get(index).copied(),
        };
        let from = places.iter().rposition(|place| *place <= at).unwrap_or(0);
        let distance = place.and_then(|place| i16::try_from(place.checked_sub(at + 1)?).ok());
        let [low, high] = distance.ok_or(FilterError::Open { at: from })?.to_le_bytes();
        if let Some([_, _, a, b, ..]) = out.get_mut(at) {
            (*a, *b) = (low, high);
        }
    }
    let padding = std::iter::repeat_n([JUMP, 0, 0, 0, 0, 0, 0, 0], room - out.len());
    Ok(padding.chain(out).flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classic(code: u16, jt: u8, jf: u8, k: u32) -> Classic {
        Classic { code, jt, jf, k }
    }

    const TAKE: Classic = Classic { code: 0x06, jt: 0, jf: 0, k: 262_144 };

    #[test]
    fn it_fills_its_room() {
        let bytes = translated(&[TAKE], 20).expect("a filter");
        assert_eq!(bytes.len(), 20 * 8);
        let (padding, rest) = bytes.split_at(14 * 8);
        assert!(padding.chunks(8).all(|place| place == [0x05, 0, 0, 0, 0, 0, 0, 0]), "{padding:x?}");
        assert_eq!(rest[4 * 8..], [0xb4, 0, 0, 0, 1, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(translated(&[TAKE], 5), Err(FilterError::Long { found: 6, most: 5 }));
    }

    /// `ip`: the word at 12 is 0x0800.
    #[test]
    fn jumps_lead_where_they_led() {
        let filter = [classic(0x28, 0, 0, 12), classic(0x15, 0, 1, 0x800), TAKE, classic(0x06, 0, 0, 0)];
        let bytes = translated(&filter, 16).expect("a filter");
        let places: Vec<&[u8]> = bytes.chunks(8).collect();
        // Too short a frame, and another type, to the two answers "no", which are the last and the last but one.
        let too_short = places.iter().position(|place| place[0] == JUMP_GREATER_R).expect("a comparison");
        let other = places.iter().position(|place| place[0] == 0x56).expect("the opposite of equal");
        assert_eq!(too_short + 1 + usize::from(places[too_short][2]), 14);
        assert_eq!(other + 1 + usize::from(places[other][2]), 12);
        assert_eq!(places[other][4..], 0x800_u32.to_le_bytes());
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        let refused = |filter: &[Classic]| translated(filter, 100).expect_err("no filter");
        assert_eq!(refused(&[]), FilterError::Open { at: 0 });
        assert_eq!(refused(&[classic(0x28, 0, 0, 12)]), FilterError::Open { at: 0 });
        assert_eq!(refused(&[classic(0x15, 9, 0, 1), TAKE]), FilterError::Open { at: 0 });
        assert_eq!(refused(&[classic(0x05, 0, 0, u32::MAX), TAKE]), FilterError::Open { at: 0 });
        // The kernel's extensions, a division by nothing, a word of memory that there is not, another code.
        for (code, k) in [(0x28, 0xffff_f000), (0x34, 0), (0x60, 16), (0x64, 32), (0xb4, 0), (0x107, 0), (0x0e, 0)] {
            assert_eq!(refused(&[classic(code, 0, 0, k), TAKE]), FilterError::Unknown { at: 0, code, k });
        }
    }
}
