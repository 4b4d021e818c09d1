//! A private network namespace with a veth pair, an XDP program that hands frames over, and a packet socket.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use tandem_backends::afxdp::QueueName;

/// Runs `test` in a network namespace of its own, which goes with its last thread and socket; or says why it does not.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let missing = if !is_root() {
        Some("needs root: it makes a network namespace, loads an XDP program and opens raw sockets")
    } else if Command::new("ip").arg("-V").stdout(Stdio::null()).status().is_err() {
        Some("needs the command `ip` (Debian package iproute2)")
    } else {
        None
    };
    if let Some(why) = missing {
        assert!(std::env::var_os("TANDEM_REQUIRE_KERNEL").is_none(), "required, but {why}");
        println!("SKIPPED: {why}");
        return;
    }
    let run = move || {
        // SAFETY: it takes no pointers, and concerns this thread only.
        let done = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(done, 0, "unshare: {}", io::Error::last_os_error());
        test();
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

fn is_root() -> bool {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Runs `ip` with these words.
pub fn ip(words: &str) {
    let output = Command::new("ip").args(words.split_whitespace()).output().expect("ip runs");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A veth pair, both ends up and silent, with this many queues.
pub fn veth(near: &str, far: &str, queues: u32) {
    let ends = format!("numrxqueues {queues} numtxqueues {queues}");
    ip(&format!("link add {near} {ends} type veth peer name {far} {ends}"));
    for end in [near, far] {
        // Its own announcements would be frames that no test sent.
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6"), "1").expect("no IPv6 on a test link");
        ip(&format!("link set dev {end} arp off up"));
    }
}

/// What the program of [`Steer`] does before it redirects a frame; anything but IPv4 goes to the stack.
#[derive(Clone, Copy)]
pub struct HandOver {
    /// Bytes of room to make.
    pub room: u8,
    /// The version to write.
    pub version: u8,
}

/// An XDP program that hands frames over, attached to an interface for as long as this lives.
pub struct Steer {
    interface: String,
    sockets: OwnedFd,
    _link: OwnedFd,
}

impl Steer {
    /// Loads and attaches it in native mode.
    pub fn attach(interface: &str, what: HandOver) -> Self {
        const XSKMAP: u32 = 17;
        let (create, update_size) = (0, 4u32);
        let sockets = bpf(create, &Attr::new().word(0, XSKMAP).word(4, 4).word(8, update_size).word(12, 64)).expect("map");
        let program = program(sockets.as_raw_fd(), what);
        let mut log = vec![0u8; 1 << 16];
        let (load, xdp) = (5, 6);
        let attr = Attr::new()
            .word(0, xdp)
            .word(4, program.len() as u32)
            .pointer(8, program.as_ptr().cast())
            .pointer(16, c"GPL".as_ptr().cast())
            .word(24, 1)
            .word(28, log.len() as u32)
            .pointer(32, log.as_mut_ptr().cast_const());
        let program = bpf(load, &attr).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&log)));
        let (link_create, attach_xdp, native) = (28, 37, 4);
        let attr = Attr::new().word(0, program.as_raw_fd() as u32).word(4, index(interface)).word(8, attach_xdp).word(12, native);
        Self { interface: interface.to_owned(), sockets, _link: bpf(link_create, &attr).expect("attach") }
    }

    /// Puts those sockets into the map that are the interface's.
    pub fn redirect(&self, sockets: &[(QueueName, RawFd)]) {
        for (QueueName { queue, .. }, socket) in sockets.iter().filter(|(at, _)| at.interface == self.interface) {
            let update = 2;
            let attr = Attr::new()
                .word(0, self.sockets.as_raw_fd() as u32)
                .pointer(8, std::ptr::from_ref(queue).cast())
                .pointer(16, std::ptr::from_ref(socket).cast());
            assert_eq!(call(update, &attr), 0, "XSKMAP: {}", io::Error::last_os_error());
        }
    }

    /// Takes a socket out of the map.
    pub fn forget(&self, queue: u32) {
        let delete = 3;
        let attr = Attr::new().word(0, self.sockets.as_raw_fd() as u32).pointer(8, std::ptr::from_ref(&queue).cast());
        call(delete, &attr);
    }
}

/// `room` and header in front of each IPv4 frame, then XSKMAP[queue]; without a socket the frame is dropped.
fn program(sockets: RawFd, what: HandOver) -> Vec<u64> {
    let op = |code: u8, dst: u8, src: u8, off: i16, imm: i32| {
        u64::from(code) | u64::from(dst | src << 4) << 8 | u64::from(off as u16) << 16 | u64::from(imm as u32) << 32
    };
    let (mov, load32, load16, store32, add, call) = (0xbf, 0x61, 0x69, 0x62, 0x07, 0x85);
    let (jump_above, jump_unequal) = (0x2d, 0x55);
    let header = i32::from(what.room) | i32::from(what.version) << 8;
    vec![
        op(mov, 6, 1, 0, 0),
        op(load32, 2, 6, 0, 0),
        op(load32, 3, 6, 4, 0),
        op(mov, 4, 2, 0, 0),
        op(add, 4, 0, 0, 14),
        op(jump_above, 4, 3, 18, 0), // to pass
        op(load16, 5, 2, 12, 0),
        op(jump_unequal, 5, 0, 16, 8), // to pass, unless 0x0800
        op(mov, 1, 6, 0, 0),
        op(0xb7, 2, 0, 0, -i32::from(what.room)),
        op(call, 0, 0, 0, 44), // bpf_xdp_adjust_head
        op(jump_unequal, 0, 0, 12, 0),
        op(load32, 2, 6, 0, 0),
        op(load32, 3, 6, 4, 0),
        op(mov, 4, 2, 0, 0),
        op(add, 4, 0, 0, 4),
        op(jump_above, 4, 3, 7, 0),
        op(store32, 2, 0, 0, header),
        op(load32, 2, 6, 16, 0), // rx_queue_index
        op(0x18, 1, 1, 0, sockets),
        0,
        op(0xb7, 3, 0, 0, 1),  // XDP_DROP
        op(call, 0, 0, 0, 51), // bpf_redirect_map
        op(0x95, 0, 0, 0, 0),
        op(0xb7, 0, 0, 0, 2), // XDP_PASS
        op(0x95, 0, 0, 0, 0),
    ]
}

/// `union bpf_attr`, by offset.
#[repr(C, align(8))]
struct Attr([u8; 128]);

impl Attr {
    fn new() -> Self {
        Self([0; 128])
    }
    fn word(mut self, at: usize, value: u32) -> Self {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }
    fn pointer(mut self, at: usize, value: *const u8) -> Self {
        self.0[at..at + 8].copy_from_slice(&(value as u64).to_ne_bytes());
        self
    }
}

fn call(command: i32, attr: &Attr) -> i64 {
    // SAFETY: `attr` is as long as is said, and its pointers lead to values of the callers, which live on.
    unsafe { libc::syscall(libc::SYS_bpf, command, attr.0.as_ptr(), attr.0.len()) }
}

fn bpf(command: i32, attr: &Attr) -> io::Result<OwnedFd> {
    let fd = call(command, attr);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the commands that come here return a new descriptor, which is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The index of an interface.
pub fn index(interface: &str) -> u32 {
    let name = CString::new(interface).expect("no zero in a name");
    // SAFETY: a terminated string that lives during the call.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

/// A packet socket on one interface: what it sends goes onto the link, what it receives came from there.
pub struct Wire(OwnedFd);

impl Wire {
    /// Opens it.
    pub fn open(interface: &str) -> Self {
        let all = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: it takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(all)) };
        assert!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
        // SAFETY: just made, nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let wire = Self(fd);
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: all,
            sll_ifindex: index(interface) as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let size = size_of_val(&address) as libc::socklen_t;
        // SAFETY: `address` is a sockaddr_ll of that size.
        let done = unsafe { libc::bind(wire.0.as_raw_fd(), (&raw const address).cast(), size) };
        assert_eq!(done, 0, "bind: {}", io::Error::last_os_error());
        wire.option(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1i32);
        wire.option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &(16i32 << 20));
        wire
    }

    fn option(&self, level: i32, name: i32, value: &i32) {
        let size = size_of_val(value) as libc::socklen_t;
        // SAFETY: `value` is an integer of that size.
        let done = unsafe { libc::setsockopt(self.0.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), size) };
        assert_eq!(done, 0, "setsockopt {name}: {}", io::Error::last_os_error());
    }

    /// Sends one frame; `false`: the link is down or gone.
    pub fn send(&self, frame: &[u8]) -> bool {
        // SAFETY: the buffer is as long as is said.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        sent == frame.len() as isize
    }

    /// The next frame, if one comes in time.
    pub fn receive(&self, patience: Duration) -> Option<Vec<u8>> {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        let ready = unsafe { libc::poll(&raw mut poll, 1, patience.as_millis() as i32) };
        let mut buffer = vec![0u8; 4096];
        // SAFETY: the buffer is as long as is said.
        let length = unsafe { libc::recv(poll.fd, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
        if ready <= 0 || length < 0 {
            return None;
        }
        buffer.truncate(length as usize);
        Some(buffer)
    }
}
