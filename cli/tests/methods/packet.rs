//! Addresses of packet sockets (packet(7)), which the library does not make.

use nix::libc;
use socket2::{SockAddr, SockAddrStorage};

/// An interface, and what kind of frames (in network order; 0: none, to send only).
pub fn on_interface(index: u32, kind: u16) -> SockAddr {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: kind,
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: it is one of the addresses that the storage is for, and plain numbers.
    *unsafe { storage.view_as::<libc::sockaddr_ll>() } = address;
    // SAFETY: what was just written has this length and names its family.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}
