//! The system calls on an AF_XDP socket that xsk-rs does not offer, or whose answers it hides.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::null_mut;
use std::time::Duration;

use super::Bound;

fn checked(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// One socket to be waited for.
pub(in crate::afxdp) fn awaited(socket: RawFd) -> libc::pollfd {
    libc::pollfd { fd: socket, events: libc::POLLIN, revents: 0 }
}

/// Waits until the RX ring of one of the sockets has something; `false`: the time was up. An error state of a socket is
/// `ENXIO`, with its place.
pub(in crate::afxdp) fn poll(sockets: &mut [libc::pollfd], timeout: Duration) -> Result<bool, (usize, io::Error)> {
    let milliseconds = timeout.as_millis().min(1000) as libc::c_int;
    // SAFETY: a slice of valid pollfds that lives during the call, and its length.
    let ready = checked(unsafe { libc::poll(sockets.as_mut_ptr(), sockets.len() as libc::nfds_t, milliseconds) });
    let ready = ready.map_err(|errno| (0, errno))?;
    let bad = |socket: &libc::pollfd| socket.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0;
    match sockets.iter().position(bad) {
        Some(at) => Err((at, io::Error::from_raw_os_error(libc::ENXIO))),
        None => Ok(ready > 0),
    }
}

/// The index of an interface in the network namespace of the calling thread.
pub(in crate::afxdp) fn index(interface: &str) -> io::Result<u32> {
    let name = std::ffi::CString::new(interface).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: a terminated string that lives during the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// Lets the kernel send what is in the TX ring. xsk-rs does the same, but hides `ENETDOWN`.
pub(in crate::afxdp) fn wake_sender(socket: RawFd) -> io::Result<()> {
    // SAFETY: no buffer and no address are passed, which is how `xsk_sendmsg` is called.
    let sent = unsafe { libc::sendto(socket, null_mut(), 0, libc::MSG_DONTWAIT, null_mut(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets the driver go on receiving, and asks whether the socket is still bound to an interface that is up.
pub(in crate::afxdp) fn wake_receiver(socket: RawFd) -> io::Result<()> {
    // SAFETY: no buffer and no address are passed, which is how `xsk_recvmsg` is called.
    let received = unsafe { libc::recvfrom(socket, null_mut(), 0, libc::MSG_DONTWAIT, null_mut(), null_mut()) };
    if received >= 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        // Before v5.11 (45a86681844e) there was no such call: poll wakes the driver, and sending asks the same question.
        error if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            poll(&mut [awaited(socket)], Duration::ZERO).map_err(|(_, error)| error)?;
            wake_sender(socket)
        }
        error => Err(error),
    }
}

/// Zero-copy or copy (`XDP_OPTIONS`, v5.3).
pub(super) fn mode(socket: RawFd) -> io::Result<Bound> {
    let mut options = libc::xdp_options { flags: 0 };
    let mut size = size_of::<libc::xdp_options>() as libc::socklen_t;
    let into = (&raw mut options).cast();
    // SAFETY: the kernel writes at most `size` bytes, which is what `options` holds.
    checked(unsafe { libc::getsockopt(socket, libc::SOL_XDP, libc::XDP_OPTIONS, into, &raw mut size) })?;
    Ok(if options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0 { Bound::ZeroCopy } else { Bound::Copy })
}

/// Frames that did not get through one socket, counted by the kernel (`struct xdp_statistics`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Received, but dropped: too large for a chunk, or no chunk was free.
    pub rx_dropped: u64,
    /// Received, but dropped: the RX ring was full, the worker is too slow.
    pub rx_ring_full: u64,
    /// Times that the fill ring had no chunk to receive into.
    pub fill_ring_empty: u64,
    /// Entries of the fill ring that the kernel refused; 0 on a healthy system.
    pub rx_invalid: u64,
    /// Entries of the TX ring that the kernel refused; 0 on a healthy system.
    pub tx_invalid: u64,
    /// Times that the kernel looked into an empty TX ring.
    pub tx_ring_empty: u64,
}

/// Reads `XDP_STATISTICS`.
pub(in crate::afxdp) fn statistics(socket: RawFd) -> io::Result<Statistics> {
    // In the order of if_xdp.h; kernels before v5.9 write the first three only.
    let mut counts = [0u64; 6];
    let mut size = size_of_val(&counts) as libc::socklen_t;
    let into = counts.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `size` bytes, which is what `counts` holds.
    checked(unsafe { libc::getsockopt(socket, libc::SOL_XDP, libc::XDP_STATISTICS, into, &raw mut size) })?;
    let [rx_dropped, rx_invalid, tx_invalid, rx_ring_full, fill_ring_empty, tx_ring_empty] = counts;
    Ok(Statistics { rx_dropped, rx_ring_full, fill_ring_empty, rx_invalid, tx_invalid, tx_ring_empty })
}

/// The receive queues that an interface of this thread's network namespace uses now.
///
/// Asked by ioctl: `/sys/class/net` shows the namespace in which it was mounted, and netlink's `IFLA_NUM_RX_QUEUES`
/// counts the queues that are allocated, used or not. A driver without channels has one queue.
///
/// # Errors
/// `ENODEV` if there is no such interface; `EINVAL` if no interface can have this name.
pub fn receive_queues(interface: &str) -> io::Result<u32> {
    if interface.is_empty() || interface.len() >= libc::IFNAMSIZ || interface.contains('\0') {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut channels).cast() },
    };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    // Any socket will do; this kind needs no network.
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    // SAFETY: a terminated name and a pointer to `channels`, which has the layout that the command fills; both live on.
    match checked(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) }) {
        Ok(_) => Ok((channels.rx + channels.combined).max(1)),
        Err(errno) if errno.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(1),
        Err(errno) => Err(errno),
    }
}

/// Of sockios.h.
const SIOCETHTOOL: libc::Ioctl = 0x8946;
/// Of ethtool.h.
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}
