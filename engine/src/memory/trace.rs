//! The trace cell: what was decided for the last frame, and where each decision came from.
//!
//! Written by the data path itself, in both seats, where a load-time constant (kernel) or the memory (userspace) asks for
//! it; otherwise the compiler or the verifier removes every trace of it. `replay` and `trace` read it.

use super::shared::{S32, S64};

/// One cell, 128 bytes. Ids are stored plus one, so that 0 means "not reached".
#[repr(C, align(64))]
#[cfg_attr(not(target_arch = "bpf"), derive(Default, Debug))]
pub struct Trace {
    /// `Reason` plus one.
    pub reason: S32,
    /// VIP id plus one.
    pub vip: S32,
    /// Real id plus one.
    pub real: S32,
    /// A `From` plus one.
    pub from: S32,
    /// Hash that chose the ring's slot.
    pub hash: S32,
    /// Slot of the ring plus one.
    pub slot: S32,
    /// The flow's two sets plus one.
    pub sets: [S32; 2],
    /// Set (plus one) and way where the flow was found.
    pub found: [S32; 2],
    /// Set (plus one) and way that the flow was written to.
    pub written: [S32; 2],
    /// Not 0 if that took another flow's place.
    pub evicted: S32,
    /// The VLAN tag that it came with, as [`crate::vlan`] has it; 0: none was taken off.
    pub vlan: S32,
    /// The flow's print.
    pub print: S64,
    /// Sets (plus one) that the fragments of the packet were looked up in or entered into.
    pub fragment_sets: [S32; 2],
    rest: [S64; 7],
}

const _: () = assert!(size_of::<Trace>() == 128);

#[cfg(not(target_arch = "bpf"))]
impl Trace {
    /// As new, for the next frame.
    pub fn clear(&self) {
        let [s0, s1] = &self.sets;
        let [f0, f1] = &self.found;
        let [w0, w1] = &self.written;
        let cells = [
            &self.reason,
            &self.vip,
            &self.real,
            &self.from,
            &self.hash,
            &self.slot,
            s0,
            s1,
            f0,
            f1,
            w0,
            w1,
            &self.evicted,
            &self.vlan,
        ];
        for cell in cells {
            cell.set(0);
        }
        self.fragment_sets.iter().for_each(|set| set.set(0));
        self.print.set(0);
    }
}
