//! Programs for measurements: the wrapper that `BPF_PROG_TEST_RUN` repeats, generator and receiver of traffic, and what the
//! balancer is compared with; and the traffic of the calibration behind mode auto.
//! On the host this is an empty binary.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod calibration;
#[cfg(target_arch = "bpf")]
#[path = "../constants.rs"]
mod constants;
#[cfg(target_arch = "bpf")]
#[expect(dead_code, reason = "shared with the balancer, which uses all of it")]
#[path = "../frame.rs"]
mod frame;
#[cfg(target_arch = "bpf")]
mod generator;
#[cfg(target_arch = "bpf")]
mod hashed;
#[cfg(target_arch = "bpf")]
#[path = "../panic.rs"]
mod panic;
#[cfg(target_arch = "bpf")]
mod references;
#[cfg(target_arch = "bpf")]
mod sink;
#[cfg(target_arch = "bpf")]
#[expect(dead_code, reason = "shared with the balancer, which uses all of it")]
#[path = "../tables.rs"]
mod tables;
#[cfg(target_arch = "bpf")]
mod wrapper;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// As the balancer's, so that both may use the same helpers.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
