//! Integers that another CPU, thread or process may change at any time: the only `unsafe` of the core.
//!
//! On the host they are `Relaxed` atomics, which compile to plain loads and stores. rustc's BPF target
//! has no atomics narrower than 64 bits, so there one volatile access does the same: the verifier accepts
//! aligned accesses only, and BPF performs each of them in one instruction.
//!
//! With the feature `interleave`, which the models in `interleave/` alone ask for, each access says that it is about to happen.
#![allow(unsafe_code, reason = "the one file of shared integers")]

/// Where a model of concurrent use lets another thread go on: in the middle of what it runs.
#[cfg(feature = "interleave")]
pub mod point {
    extern crate std;

    /// Called before every access with the integer's address, and whether it is written.
    pub static POINT: std::sync::OnceLock<fn(usize, bool)> = std::sync::OnceLock::new();
}

/// This integer is about to be read, or written.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
fn point<T>(_integer: &T, _writes: bool) {
    #[cfg(feature = "interleave")]
    if let Some(point) = point::POINT.get() {
        point(core::ptr::from_ref(_integer) as usize, _writes);
    }
}

macro_rules! shared {
    ($(#[$doc:meta])* $name:ident, $int:ty, $atomic:ident) => {
        $(#[$doc])*
        #[cfg(not(target_arch = "bpf"))]
        #[repr(transparent)]
        #[derive(Default, Debug)]
        pub struct $name(core::sync::atomic::$atomic);

        #[cfg(not(target_arch = "bpf"))]
        impl $name {
            /// What it holds now.
            #[inline(always)]
            pub fn get(&self) -> $int {
                point(self, false);
                self.0.load(core::sync::atomic::Ordering::Relaxed)
            }
            /// Stores `value`; in no order with other stores.
            #[inline(always)]
            pub fn set(&self, value: $int) {
                point(self, true);
                self.0.store(value, core::sync::atomic::Ordering::Relaxed);
            }
            /// Stores `value` after everything that was stored before.
            #[inline(always)]
            pub fn publish(&self, value: $int) {
                point(self, true);
                self.0.store(value, core::sync::atomic::Ordering::Release);
            }
        }

        $(#[$doc])*
        #[cfg(target_arch = "bpf")]
        #[repr(transparent)]
        pub struct $name(core::cell::UnsafeCell<$int>);

        // SAFETY: every access is one volatile load or store of an aligned integer, which BPF does in one instruction.
        #[cfg(target_arch = "bpf")]
        unsafe impl Sync for $name {}

        #[cfg(target_arch = "bpf")]
        impl $name {
            /// What it holds now.
            #[inline(always)]
            pub fn get(&self) -> $int {
                // SAFETY: the pointer comes from a reference, so it is valid and aligned.
                unsafe { self.0.get().read_volatile() }
            }
            /// Stores `value`.
            #[inline(always)]
            pub fn set(&self, value: $int) {
                // SAFETY: the pointer comes from a reference, so it is valid and aligned; `UnsafeCell` allows the write.
                unsafe { self.0.get().write_volatile(value) }
            }
            /// Stores `value` after everything that was stored before: volatile accesses stay in their order.
            #[inline(always)]
            pub fn publish(&self, value: $int) {
                self.set(value);
            }
        }
    };
}

shared!(
    /// A shared `u16`.
    S16, u16, AtomicU16
);
shared!(
    /// A shared `u32`.
    S32, u32, AtomicU32
);
shared!(
    /// A shared `u64`.
    S64, u64, AtomicU64
);

/// What was read before this was read before what is read after it.
#[inline(always)]
pub fn in_order() {
    // BPF's accesses are volatile, and stay in their order.
    #[cfg(not(target_arch = "bpf"))]
    core::sync::atomic::fence(core::sync::atomic::Ordering::Acquire);
}

impl S64 {
    /// Adds `n` (modulo 2^64) in one step that no other core's comes between. BPF had no other such step before Linux 5.12.
    ///
    /// On x86 it is a full barrier: what is read after it is not older than it.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        #[cfg(not(target_arch = "bpf"))]
        {
            point(self, true);
            self.0.fetch_add(n, core::sync::atomic::Ordering::SeqCst);
        }
        #[cfg(target_arch = "bpf")]
        // SAFETY: the pointer comes from a reference, so it is valid and aligned for as long as that lives; rustc has no
        // such operation for BPF, and the instruction does nothing else.
        unsafe {
            core::arch::asm!("lock *(u64 *)({at} + 0) += {n}", at = in(reg) self.0.get(), n = in(reg) n, options(nostack));
        }
    }
}
