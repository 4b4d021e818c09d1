//! Load-time constants: immediates of the programs' instructions. The object has their numbers there
//! ([`tandem_engine::memory::constants`]), and the loader puts the values.

use core::arch::asm;

use tandem_engine::memory::Constant;

pub const REPLAY: u32 = Constant::Replay as u32;
pub const TRACED: u32 = Constant::Traced as u32;
pub const FEATURES: u32 = Constant::Features as u32;
pub const UNUSUAL: u32 = Constant::Unusual as u32;
pub const SLOT_MASK: u32 = Constant::SlotMask as u32;
pub const REAL_MASK: u32 = Constant::RealMask as u32;
pub const VIP_MASK: u32 = Constant::VipMask as u32;
pub const FLOW_MASK: u32 = Constant::FlowMask as u32;
pub const HASH_MASK: u32 = Constant::HashMask as u32;
pub const RING_LINES: u32 = Constant::RingLines as u32;
pub const CPU_MASK: u32 = Constant::CpuMask as u32;
pub const BLOCKS: u32 = Constant::Blocks as u32;
pub const BLOCK_BYTES: u32 = Constant::BlockBytes as u32;
pub const REAL_COUNTS: u32 = Constant::RealCounts as u32;
pub const LOOK_UP_VIPS: u32 = Constant::LookUpVips as u32;
pub const LOOK_UP_RINGS: u32 = Constant::LookUpRings as u32;
pub const LOOK_UP_FLOWS: u32 = Constant::LookUpFlows as u32;
pub const LOOK_UP_HASHES: u32 = Constant::LookUpHashes as u32;
pub const LOOK_UP_COUNTS: u32 = Constant::LookUpCounts as u32;
pub const GUARD: u32 = Constant::Guard as u32;
pub const TCP_ID: u32 = Constant::TcpId as u32;
pub const DECAP_GUE: u32 = Constant::DecapGue as u32;
pub const PREFIX_VIPS: u32 = Constant::PrefixVips as u32;
pub const NAT: u32 = Constant::Nat as u32;

/// A load-time constant: the number stands in the instruction, and the loader puts the value there. Not `pure`, or LLVM would keep it in
/// a register or on the stack. In 64 bits, because older verifiers forget what they know of anything shorter.
#[inline(always)]
pub fn constant<const NUMBER: u32>() -> u64 {
    let value: u64;
    // SAFETY: a register is set, and no memory is touched.
    unsafe { asm!("{value} = {number}", value = out(reg) value, number = const NUMBER, options(nomem, nostack)) };
    value
}

/// The same, which the compiler may keep: it then knows that questions about it have one answer.
#[inline(always)]
pub fn known<const NUMBER: u32>() -> u64 {
    let value: u64;
    // SAFETY: as in `constant`.
    unsafe { asm!("{value} = {number}", value = out(reg) value, number = const NUMBER, options(pure, nomem, nostack)) };
    value
}

/// Whether a load-time constant is not 0. Any number is asked: the loader makes the comparison one that no number passes, or every one,
/// and the verifier, which sees that, removes it. It costs nothing where what is behind it is reached from here alone.
#[inline(always)]
pub fn is<const NUMBER: u32>(any: u64) -> bool {
    // SAFETY: nothing is done but to go on in one place or the other.
    unsafe {
        asm!(
            "if {any} < {number} goto {yes}", any = in(reg) any, number = const NUMBER, yes = label { return true },
            options(nomem, nostack)
        );
    }
    false
}

/// The same where there is no number.
#[inline(always)]
pub fn is_set<const NUMBER: u32>() -> bool {
    is::<NUMBER>(constant::<NUMBER>())
}

/// Whether `value` is below a load-time constant.
#[inline(always)]
pub fn is_below<const NUMBER: u32>(value: u64) -> bool {
    // SAFETY: as in `is`.
    unsafe {
        asm!(
            "if {value} >= {number} goto {no}", value = in(reg) value, number = const NUMBER, no = label { return false },
            options(nomem, nostack)
        );
    }
    true
}

/// `value`, of which no more is left than this mask has: then the verifier knows how large it is.
#[inline(always)]
pub fn masked<const NUMBER: u32>(mut value: u64) -> u64 {
    // SAFETY: as in `constant`.
    unsafe { asm!("{value} &= {number}", value = inout(reg) value, number = const NUMBER, options(nomem, nostack)) };
    value
}

/// `value` times a load-time constant.
#[inline(always)]
pub fn times<const NUMBER: u32>(mut value: u64) -> u64 {
    // SAFETY: as in `constant`.
    unsafe { asm!("{value} *= {number}", value = inout(reg) value, number = const NUMBER, options(nomem, nostack)) };
    value
}

/// The address so many bytes behind another one.
#[inline(always)]
pub fn behind<const NUMBER: u32>(mut address: *const u8) -> *const u8 {
    // SAFETY: as in `constant`.
    unsafe { asm!("{address} += {number}", address = inout(reg) address, number = const NUMBER, options(nomem, nostack)) };
    address
}
