//! For real servers: strips IPIP and passes the client's packet to the stack, so that a real needs no tunnel device.

use crate::frame::Frame;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::XdpContext;
use tandem_engine::Packet;
use tandem_engine::wire::{self, Ethernet, Header, Ipv4, Ipv6};

/// Stripped, not a tunnel, failed.
#[map]
static DECAPS: PerCpuArray<u64> = PerCpuArray::with_max_entries(3, 0);

enum Outcome {
    Stripped = 0,
    NotATunnel = 1,
    Failed = 2,
}

/// Strips 4in4, 6in4, 4in6 and 6in6; everything else passes as it is.
#[xdp]
pub fn decap(ctx: XdpContext) -> u32 {
    let outcome = strip(&mut Frame::new(ctx.ctx));
    let action = match outcome {
        Outcome::Stripped | Outcome::NotATunnel => XDP_PASS,
        Outcome::Failed => XDP_DROP,
    };
    if let Some(count) = DECAPS.get_ptr_mut(outcome as u32) {
        // SAFETY: the slot is this CPU's own, and programs on one CPU do not interrupt each other.
        unsafe { *count += 1 };
    }
    action
}

#[inline(always)]
fn strip(frame: &mut Frame) -> Outcome {
    let Some((outer, protocol)) = tunnel(frame) else { return Outcome::NotATunnel };
    let ethertype = match protocol {
        wire::IPPROTO_IPIP => wire::ETHERTYPE_IPV4,
        wire::IPPROTO_IPV6 => wire::ETHERTYPE_IPV6,
        _ => return Outcome::NotATunnel,
    };
    let Some(&eth) = Ethernet::view(frame, 0) else { return Outcome::NotATunnel };
    let shorter = if outer == Ipv4::LEN { frame.move_head(Ipv4::LEN as i32) } else { frame.move_head(Ipv6::LEN as i32) };
    if !shorter {
        return Outcome::Failed;
    }
    match Ethernet::view_mut(frame, 0) {
        Some(header) => {
            header.macs = eth.macs;
            header.ethertype = ethertype.into();
            Outcome::Stripped
        }
        None => Outcome::Failed,
    }
}

/// Length of the outer IP header and what it carries.
#[inline(always)]
fn tunnel<P: Packet>(frame: &P) -> Option<(usize, u8)> {
    match Ethernet::view(frame, 0)?.ethertype.get() {
        wire::ETHERTYPE_IPV4 => {
            let ip = Ipv4::view(frame, Ethernet::LEN)?;
            (ip.version_ihl == 0x45 && !ip.is_fragment()).then_some((Ipv4::LEN, ip.protocol))
        }
        wire::ETHERTYPE_IPV6 => Ipv6::view(frame, Ethernet::LEN).map(|ip| (Ipv6::LEN, ip.next_header)),
        _ => None,
    }
}
