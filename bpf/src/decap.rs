//! For real servers: strips tunnels and passes the client's packet to the stack, so that a real needs no tunnel device.

use crate::frame::Frame;
use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::XdpContext;
use tandem_engine::Action;
use tandem_engine::strip::{COUNTERS, Tunnels, decapsulate};

/// By the indices of `strip::counter_names`.
#[map]
static DECAPS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS, 0);

/// Load-time constant: UDP destination port of GUE, in host order; 0: none.
#[unsafe(no_mangle)]
static DECAP_GUE_PORT: Global<u32> = Global::new(6080);

/// Load-time constants: UDP destination ports of FOU with IPv4 inside and with IPv6 inside, and of Geneve, in host order; 0:
/// none.
#[unsafe(no_mangle)]
static DECAP_FOU_PORTS: Global<[u32; 2]> = Global::new([0; 2]);
#[unsafe(no_mangle)]
static DECAP_GENEVE_PORT: Global<u32> = Global::new(6081);

/// Load-time constant: not 0 for Katran's rules.
#[unsafe(no_mangle)]
static DECAP_KATRAN: Global<u32> = Global::new(0);

/// Strips every tunnel; what is none passes as it is.
#[xdp]
pub fn decap(ctx: XdpContext) -> u32 {
    let katran = DECAP_KATRAN.load() != 0;
    let tunnels = Tunnels {
        ipip: true,
        gre: !katran,
        gue_port: DECAP_GUE_PORT.load() as u16,
        fou_ports: DECAP_FOU_PORTS.load().map(|port| port as u16),
        geneve_port: DECAP_GENEVE_PORT.load() as u16,
        katran,
    };
    let outcome = decapsulate(&mut Frame::<false>::new(ctx.ctx), &tunnels, count);
    match outcome.action() {
        Action::Pass => XDP_PASS,
        Action::Drop => XDP_DROP,
        Action::Tx => XDP_TX,
    }
}

#[inline(always)]
fn count(index: u32) {
    if let Some(count) = DECAPS.get_ptr_mut(index) {
        // SAFETY: the slot is this CPU's own, and programs on one CPU do not interrupt each other.
        unsafe { *count = (*count).wrapping_add(1) };
    }
}
