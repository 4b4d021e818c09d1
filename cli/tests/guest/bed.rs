//! A real server: a network namespace, a link to it, sockets in it. Goes with the value.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use etherparse::{SlicedPacket, TransportSlice};
use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Domain, Protocol, Socket, Type};

use super::cases::{BALANCER_MAC, REAL, REAL_MAC};
use super::packet::on_interface;
use super::service::{Service, VIP_V4, VIP_V6};
use super::setups::Setup;

/// `UDP_NO_CHECK6_RX` of `linux/udp.h`.
const NO_CHECK6_RX: libc::c_int = 102;
/// A link's carrier is noticed within a second.
const LINK_UP: Duration = Duration::from_secs(5);
/// No two links of the balancer's have one name: a namespace goes some time after its last user.
static LINKS: AtomicU32 = AtomicU32::new(0);

/// The namespace of the calling thread.
pub fn own_namespace() -> File {
    File::open("/proc/thread-self/ns/net").expect("procfs")
}

/// Runs a closure on a thread of its own that has gone into a namespace first.
pub fn on_thread<T: Send>(enter: impl FnOnce() + Send, work: impl FnOnce() -> T + Send) -> T {
    let both = || {
        enter();
        work()
    };
    std::thread::scope(|scope| scope.spawn(both).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// `ip -batch`, in this thread's namespace.
pub fn ip(options: &[&str], lines: &str) -> Result<(), String> {
    if lines.trim().is_empty() {
        return Ok(());
    }
    let mut command = Command::new("ip");
    let child = command.args(options).args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = child.spawn().map_err(|error| format!("ip (package iproute2): {error}"))?;
    child.stdin.take().expect("a pipe").write_all(lines.as_bytes()).map_err(|error| error.to_string())?;
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let failed = String::from_utf8_lossy(&output.stderr).lines().map(str::trim).collect::<Vec<_>>().join("; ");
    Err(format!("ip: {failed}"))
}

/// What was delivered, or answered.
#[derive(PartialEq, Eq, Debug)]
pub struct Arrived {
    pub service: usize,
    pub payload: Vec<u8>,
}

pub struct Bed {
    namespace: File,
    sockets: Vec<UdpSocket>,
    _listeners: Vec<TcpListener>,
    sender: Socket,
}

impl Bed {
    /// Builds it; what the kernel or `ip` refuses is an error.
    pub fn new(setup: &Setup, services: &[Service]) -> Result<Self, String> {
        let balancer = own_namespace();
        let namespace = on_thread(|| unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace"), own_namespace);
        let link = format!("t{}", LINKS.fetch_add(1, Ordering::Relaxed));
        let make = format!(
            "link set lo up\nlink add r0 mtu 1600 address {REAL_MAC} type veth peer name {link} mtu 1600 address {BALANCER_MAC} \
             netns /proc/{}/fd/{}\nlink set r0 up\n",
            std::process::id(),
            balancer.as_raw_fd()
        );
        let inside = |work: &(dyn Fn() -> Result<(), String> + Sync)| {
            on_thread(|| setns(&namespace, CloneFlags::CLONE_NEWNET).expect("a namespace"), work)
        };
        inside(&|| {
            for key in ["all", "default"] {
                sysctl(&format!("ipv4/conf/{key}/rp_filter"), "0")?;
                sysctl(&format!("ipv6/conf/{key}/accept_dad"), "0")?;
                sysctl(&format!("ipv6/conf/{key}/disable_ipv6"), "0")?;
            }
            ip(&[], &make)
        })?;
        // The far end first: without a carrier there is no address.
        ip(&[], &format!("link set {link} up\n"))?;
        inside(&|| {
            let (v6, any): (Vec<_>, Vec<_>) = setup.lines().partition(|line| line.starts_with("-6 "));
            let lines = |of: &[&str]| of.iter().map(|line| format!("{}\n", line.trim_start_matches("-6 "))).collect::<String>();
            ip(&[], &lines(&any))?;
            ip(&["-6"], &lines(&v6))?;
            ip(&[], &addresses(setup.device))?;
            setup.sysctls.iter().try_for_each(|(key, value)| sysctl(key, value))
        })?;
        let sender = on_link(&link).map_err(|error| format!("{link}: {error}"))?;
        let (sockets, listeners) = on_thread(
            || setns(&namespace, CloneFlags::CLONE_NEWNET).expect("a namespace"),
            || services.iter().map(sockets).collect::<Result<Vec<_>, _>>(),
        )
        .map_err(|error| format!("sockets: {error}"))?
        .into_iter()
        .unzip();
        Ok(Self { namespace, sockets, _listeners: listeners, sender })
    }

    /// Sends a frame to the real.
    pub fn send(&self, frame: &[u8]) {
        let until = Instant::now() + LINK_UP;
        loop {
            match self.sender.send(frame) {
                Ok(_) => return,
                // The other end was down for a moment (a bond took it), and this one has not been told yet.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => panic!("the balancer's link: {error}"),
            }
        }
    }

    /// The datagrams that have come to the sockets.
    pub fn datagrams(&self) -> Vec<Arrived> {
        let (mut arrived, mut buffer) = (Vec::new(), [0; 2048]);
        for (service, socket) in self.sockets.iter().enumerate() {
            while let Ok(len) = socket.recv(&mut buffer) {
                arrived.push(Arrived { service, payload: buffer[..len].to_vec() });
            }
        }
        arrived
    }

    /// The sequence numbers of first segments that the real has answered.
    pub fn answered(&mut self) -> Vec<u32> {
        let (mut answered, mut buffer) = (Vec::new(), [0; 2048]);
        loop {
            match self.sender.read(&mut buffer) {
                Ok(len) => answered.extend(answer(&buffer[..len])),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return answered,
                Err(error) => panic!("the balancer's link: {error}"),
            }
        }
    }

    /// Whether a frame of a kind comes from the real within a time.
    pub fn hears(&mut self, is_it: impl Fn(&[u8]) -> bool, most: Duration) -> bool {
        let (until, mut buffer) = (Instant::now() + most, [0; 2048]);
        while Instant::now() < until {
            match self.sender.read(&mut buffer) {
                Ok(len) if is_it(&buffer[..len]) => return true,
                Ok(_) => {}
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        false
    }

    /// Does something in the real.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_thread(|| setns(&self.namespace, CloneFlags::CLONE_NEWNET).expect("a namespace"), work)
    }

    /// What the namespace has counted, for who wants to know why.
    pub fn counted(&self) -> String {
        on_thread(
            || setns(&self.namespace, CloneFlags::CLONE_NEWNET).expect("a namespace"),
            || std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap_or_default(),
        )
    }
}

/// All frames of a link of this thread's namespace, and nothing of others.
pub fn on_link(link: &str) -> std::io::Result<Socket> {
    const EVERYTHING: u16 = 0x0003_u16.to_be();
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(EVERYTHING))))?;
    socket.set_nonblocking(true)?;
    socket.bind(&on_interface(nix::net::if_::if_nametoindex(link)?, EVERYTHING))?;
    Ok(socket)
}

/// A segment with SYN and ACK, and what it acknowledges.
fn answer(frame: &[u8]) -> Option<u32> {
    match SlicedPacket::from_ethernet(frame).ok()?.transport? {
        TransportSlice::Tcp(tcp) if tcp.syn() && tcp.ack() => Some(tcp.acknowledgment_number().wrapping_sub(1)),
        _ => None,
    }
}

pub fn sysctl(key: &str, value: &str) -> Result<(), String> {
    std::fs::write(format!("/proc/sys/net/{key}"), value).map_err(|error| format!("{key}: {error}"))
}

/// What makes `device` the real's way to everywhere.
fn addresses(device: &str) -> String {
    let [v4, v6] = REAL;
    format!(
        "addr add {v4}/24 dev {device}\naddr add {v6}/64 dev {device} nodad\n\
         addr add {VIP_V4}/32 dev lo\naddr add {VIP_V6}/128 dev lo nodad\n\
         neigh add 192.168.7.254 lladdr {BALANCER_MAC} dev {device} nud permanent\n\
         neigh add fd00:7::fe lladdr {BALANCER_MAC} dev {device} nud permanent\n\
         route add default via 192.168.7.254 dev {device}\nroute add ::/0 via fd00:7::fe dev {device}\n"
    )
}

fn sockets(service: &Service) -> std::io::Result<(UdpSocket, TcpListener)> {
    let udp = UdpSocket::bind(service.at())?;
    udp.set_nonblocking(true)?;
    let (on, len): (libc::c_int, _) = (1, size_of::<libc::c_int>() as libc::socklen_t);
    if service.vip.is_ipv6() {
        // SAFETY: the value is as long as is said, and lives until the call returns.
        let answer = unsafe { libc::setsockopt(udp.as_raw_fd(), libc::IPPROTO_UDP, NO_CHECK6_RX, (&raw const on).cast(), len) };
        if answer != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok((udp, TcpListener::bind(service.at())?))
}

/// Until everything that is under way has arrived.
pub const SETTLE: Duration = Duration::from_millis(150);
