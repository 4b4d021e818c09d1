//! A generator over a packet socket: the slowest, and there on every kernel.

use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockType, sendmmsg, socket};
use tandem_lab::{Host, Lab};

use super::packets::{Pacer, Packets, start as start_thread};
use super::{Load, Running};

/// Frames of a system call.
const BATCH: usize = 64;
/// The largest frame.
const LARGEST: usize = 1514;

/// Starts it on the router's end of the device's link.
pub fn start(packets: &Arc<Packets>, lab: &Lab, load: &Load) -> Result<Running> {
    let interface = lab.link(Host::Lb)?.router.interface.clone();
    start_thread(packets, lab, load, move |pacer| send(&interface, pacer))
}

/// The interface's link-layer address, which carries its index.
fn address(interface: &str) -> Result<LinkAddr> {
    let found =
        getifaddrs()?.find_map(|found| (found.interface_name == interface).then(|| found.address?.as_link_addr().copied())?);
    found.ok_or_else(|| anyhow!("{interface} has no link-layer address"))
}

fn send(interface: &str, mut pacer: Pacer) -> Result<()> {
    let to = [Some(address(interface)?); BATCH];
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).context("a packet socket")?;
    let mut buffers = vec![[0_u8; LARGEST]; BATCH];
    let mut headers = MultiHeaders::<LinkAddr>::preallocate(BATCH, None);
    // What the kernel had no room for is offered again.
    let mut kept: Vec<usize> = Vec::with_capacity(BATCH);
    while pacer.goes_on() {
        if kept.is_empty() {
            for buffer in buffers.iter_mut().take(pacer.due(BATCH)) {
                kept.push(pacer.write(buffer).context("a frame of the scenario is larger than 1514 bytes")?);
            }
        }
        if kept.is_empty() {
            continue;
        }
        let slices: Vec<[IoSlice<'_>; 1]> =
            buffers.iter().zip(&kept).map(|(buffer, length)| [IoSlice::new(buffer.get(..*length).unwrap_or_default())]).collect();
        let to = to.get(..slices.len()).unwrap_or_default();
        let sent = match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, to, [], MsgFlags::empty()) {
            Ok(sent) => sent.count(),
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => 0,
            Err(error) => return Err(error).context("sendmmsg"),
        };
        drop(slices);
        pacer.sent(sent);
        let left = kept.len() - sent;
        for at in 0..left {
            buffers.swap(at, at + sent);
        }
        kept.drain(..sent);
    }
    Ok(())
}
