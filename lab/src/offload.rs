//! Switching off what a device would leave to hardware that is not there.
//!
//! A veth never computes a checksum: a frame leaves with a partial one and the mark "fill in later". XDP sees the frame,
//! not the mark, so a balancer would forward wrong checksums; and it would be handed one 64 KiB segment instead of frames.

use std::{
    ffi::{c_char, c_ulong},
    io,
    os::fd::AsRawFd,
};

use socket2::{Domain, Socket, Type};

/// `SIOCETHTOOL` of `linux/sockios.h`.
const SIOCETHTOOL: c_ulong = 0x8946;

/// `ETHTOOL_SGRO` of `linux/ethtool.h`.
const GRO: u32 = 0x2c;
/// The features to switch off and their commands of `linux/ethtool.h`: `ETHTOOL_STXCSUM`, `_STSO`, `_SGSO`, `_SGRO`.
const FEATURES: [(&str, u32); 4] = [("tx", 0x17), ("tso", 0x1f), ("gso", 0x24), ("gro", GRO)];

/// `struct ethtool_value` of `linux/ethtool.h`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Switches checksum and segmentation offloads and GRO of a device of this thread's namespace off.
///
/// # Errors
/// The feature that could not be switched, and why.
pub fn switch_off(interface: &str) -> Result<(), (&'static str, io::Error)> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).map_err(|e| ("all", e))?;
    for (feature, command) in FEATURES {
        set(&socket, interface, command, 0).map_err(|e| (feature, e))?;
    }
    Ok(())
}

/// Switches GRO of a device of this thread's namespace on. A veth without an XDP program of the driver's has receive queues
/// (NAPI), and takes frames that its peer redirects to it, only then.
///
/// # Errors
/// What the kernel says.
pub fn switch_gro_on(interface: &str) -> io::Result<()> {
    set(&Socket::new(Domain::IPV4, Type::DGRAM, None)?, interface, GRO, 1)
}

fn set(socket: &Socket, interface: &str, command: u32, data: u32) -> io::Result<()> {
    let mut value = Value { command, data };
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut value).cast() },
    };
    // One byte stays 0: the kernel wants a terminated name.
    if interface.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the name is longer than 15 bytes"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    // SAFETY: the descriptor is open (`socket` is borrowed), SIOCETHTOOL reads an `ifreq` and, for the commands of
    // FEATURES, reads one `ethtool_value` behind `ifru_data`; both live on this stack until after the call.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
