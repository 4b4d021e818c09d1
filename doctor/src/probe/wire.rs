//! Every frame of every link of the calling thread's network namespace, and frames of our own: a packet socket (packet(7)).

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// A frame, and how it was seen.
pub(super) struct Frame {
    /// The link.
    pub interface: String,
    /// It came in, else it went out.
    pub incoming: bool,
    /// With its Ethernet header.
    pub bytes: Vec<u8>,
}

/// Between two looks at the time.
const PAUSE: Duration = Duration::from_millis(50);
/// Larger than any frame of a link with an MTU of 9,000.
const LARGEST: usize = 16_384;

/// Sees every frame from when it is opened on.
pub(super) struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

/// An address of a packet socket: of the link with this index; 0: to be filled in.
fn at_link(index: u32) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    }
}

fn open() -> io::Result<OwnedFd> {
    let everything = i32::from((libc::ETH_P_ALL as u16).to_be());
    // SAFETY: a system call without pointers; its answer is checked.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, everything) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given this descriptor to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let limit = libc::timeval { tv_sec: 0, tv_usec: i64::from(PAUSE.subsec_micros()) };
    let len = size_of::<libc::timeval>() as libc::socklen_t;
    // SAFETY: the value is as long as is said, and lives until the call returns.
    let answer =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const limit).cast(), len) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

impl Socket {
    /// Opens one.
    ///
    /// # Errors
    /// No CAP_NET_RAW.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { fd: open()?, buffer: vec![0_u8; LARGEST] })
    }

    /// Gives each frame until a time.
    ///
    /// # Errors
    /// What the kernel says; that a link went down is none.
    pub(super) fn frames(&mut self, until: Instant, mut each: impl FnMut(Frame)) -> io::Result<()> {
        while Instant::now() < until {
            let mut from = at_link(0);
            let mut len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            let (fd, at, most) = (self.fd.as_raw_fd(), (&raw mut from).cast(), self.buffer.len());
            // SAFETY: the kernel writes at most `most` bytes into the buffer and `len` into the address; both live until then.
            let read = unsafe { libc::recvfrom(fd, self.buffer.as_mut_ptr().cast(), most, 0, at, &raw mut len) };
            let Ok(read) = usize::try_from(read) else {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => continue,
                    // A link went down under the socket; the others are still there.
                    _ if error.raw_os_error() == Some(libc::ENETDOWN) => continue,
                    _ => return Err(error),
                }
            };
            let interface = name(from.sll_ifindex.cast_unsigned());
            let incoming = from.sll_pkttype != libc::PACKET_OUTGOING;
            each(Frame { interface, incoming, bytes: self.buffer.get(..read).unwrap_or_default().to_vec() });
        }
        Ok(())
    }

    /// Sends a frame, with its Ethernet header, out of the link with this index.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn send(&self, index: u32, frame: &[u8]) -> io::Result<()> {
        let to = at_link(index);
        let (fd, len) = (self.fd.as_raw_fd(), size_of::<libc::sockaddr_ll>() as libc::socklen_t);
        // SAFETY: frame and address are as long as is said, and live until the call returns.
        let sent = unsafe { libc::sendto(fd, frame.as_ptr().cast(), frame.len(), 0, (&raw const to).cast(), len) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Has a socket's packets go out as they are, whatever is known of the way's MTU: not cut into fragments, and with the mark that
/// forbids it on the way (`IP_PMTUDISC_PROBE` of ip(7)).
pub(super) fn go_whole(socket: &UdpSocket) -> io::Result<()> {
    let (level, option) = match socket.local_addr()? {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    };
    let (value, len) = (libc::IP_PMTUDISC_PROBE, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: the value is as long as is said, and lives until the call returns.
    let answer = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), len) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The name of a link; its index, if it is gone.
fn name(index: u32) -> String {
    let mut name = [0_u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the length that the call asks for.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) };
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(0);
    if found.is_null() { index.to_string() } else { String::from_utf8_lossy(name.get(..end).unwrap_or_default()).into_owned() }
}
