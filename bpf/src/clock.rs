//! The kernel's coarse clock, for userspace to set its own by.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

/// Returns the low 32 bits of jiffies.
#[xdp]
pub fn clock(_ctx: XdpContext) -> u32 {
    // SAFETY: the helper only reads a counter of the kernel.
    (unsafe { bpf_jiffies64() }) as u32
}

/// Passes everything. A veth sends XDP_TX and AF_XDP frames only to a peer that has a program itself.
#[xdp]
pub fn pass(_ctx: XdpContext) -> u32 {
    XDP_PASS
}
