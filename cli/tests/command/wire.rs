//! A private network namespace with links in it, made over netlink, and traffic on them.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::{Handle, LinkUnspec, LinkVeth};
use socket2::{Domain, Socket, Type};
use tandem_lab::{BPFFS, Bpffs, ensure_bpffs};
use tokio::runtime::{Builder, Runtime};

use super::shell::is_privileged;

/// The balancer's end of the veth pair.
pub const NEAR: &str = "near";
/// The client's end.
pub const FAR: &str = "far";
/// The client.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The VIP of [`config`]; nobody has it as an address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
/// Its name in listings.
pub const VIP_NAME: &str = "192.0.2.100:80/udp";

/// A configuration for `interface`, with these lines in its `[node]`.
pub fn config(interface: &str, node: &str) -> String {
    format!(
        "[node]\ninterface = \"{interface}\"\nnext_hop_mac = \"02:00:00:00:00:09\"\nlocal_mac = \"02:00:00:00:00:08\"\n{node}\n\
         [tunnel]\nsource_v4 = \"192.0.2.2\"\n[flows]\ncapacity = 10_000\n\
         [[vip]]\naddress = \"{VIP}\"\nport = 80\nprotocol = \"udp\"\nreal = [{{ address = \"10.0.0.1\" }}, {{ address = \"10.0.0.2\" }}]\n"
    )
}

/// Runs `test` on a thread in a network namespace of its own, with a BPF file system mounted, unless this process may not.
///
/// Processes that the test starts are in the namespace, too.
pub fn in_namespace(test: impl FnOnce(&Links) + Send) {
    if !is_privileged() {
        return;
    }
    let _bpffs = Mounted::new();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            test(&Links::open());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// How many tests need the BPF file system, and the mount if it was made for them.
static MOUNT: Mutex<(usize, Option<Bpffs>)> = Mutex::new((0, None));

struct Mounted;

impl Mounted {
    fn new() -> Self {
        let mut mount = MOUNT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if mount.0 == 0 {
            mount.1 = Some(ensure_bpffs(Path::new(BPFFS)).expect("a BPF file system"));
        }
        mount.0 += 1;
        Self
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let mut mount = MOUNT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        mount.0 -= 1;
        if mount.0 == 0
            && let Some(bpffs) = mount.1.take()
        {
            let _ = bpffs.undo();
        }
    }
}

/// The links of the thread's namespace.
pub struct Links {
    runtime: Runtime,
    handle: Handle,
}

impl Links {
    fn open() -> Self {
        let runtime = Builder::new_current_thread().enable_io().build().expect("a runtime");
        let inside = runtime.enter();
        let (connection, handle, _) = rtnetlink::new_connection().expect("netlink");
        drop(inside);
        runtime.spawn(connection);
        Self { runtime, handle }
    }

    /// A veth pair, both ends up; the client has [`NEAR`]'s side for the way to the VIP.
    pub fn veth(&self) {
        self.runtime.block_on(async {
            let pair = LinkVeth::new(NEAR, FAR).build();
            self.handle.link().add(pair).execute().await.expect("a veth pair");
        });
        let (near, far) = (self.index(NEAR), self.index(FAR));
        self.runtime.block_on(async {
            for index in [near, far] {
                let up = LinkUnspec::new_with_index(index).up().build();
                self.handle.link().change(up).execute().await.expect("up");
            }
            self.handle.address().add(far, CLIENT.into(), 24).execute().await.expect("an address");
            let neighbour = self.handle.neighbours().add(far, IpAddr::V4(VIP));
            let neighbour = neighbour.link_layer_address(&[2, 0, 0, 0, 0, 8]).state(NeighbourState::Permanent);
            neighbour.execute().await.expect("a neighbour");
        });
    }

    /// Brings the loopback interface up: 127.0.0.1 is there.
    pub fn loopback(&self) {
        let up = LinkUnspec::new_with_index(self.index("lo")).up().build();
        self.runtime.block_on(self.handle.link().change(up).execute()).expect("up");
    }

    /// Gives a link an address of its own in the VIP's network, and the way to the VIP.
    pub fn reach(&self, name: &str, address: IpAddr) {
        let index = self.index(name);
        self.runtime.block_on(async {
            self.handle.address().add(index, address, 24).execute().await.expect("an address");
            let neighbour = self.handle.neighbours().add(index, IpAddr::V4(VIP));
            let neighbour = neighbour.link_layer_address(&[2, 0, 0, 0, 0, 7]).state(NeighbourState::Permanent);
            neighbour.execute().await.expect("a neighbour");
        });
    }

    fn message(&self, name: &str) -> LinkMessage {
        self.runtime.block_on(async {
            let mut found = self.handle.link().get().match_name(name.to_owned()).execute();
            found.try_next().await.expect("an answer").expect("a link")
        })
    }

    fn index(&self, name: &str) -> u32 {
        self.message(name).header.index
    }

    /// Removes a link, its peer with it.
    pub fn delete(&self, name: &str) {
        let index = self.index(name);
        self.runtime.block_on(self.handle.link().del(index).execute()).expect("removed");
    }

    /// How an XDP program is attached to the link, and its id.
    pub fn xdp(&self, name: &str) -> (XdpAttached, Option<u32>) {
        let (mut attached, mut program) = (XdpAttached::None, None);
        for attribute in self.message(name).attributes {
            let LinkAttribute::Xdp(facts) = attribute else {
                continue;
            };
            for fact in facts {
                if let LinkXdp::Attached(how) = fact {
                    attached = how;
                } else if let LinkXdp::ProgId(id) = fact {
                    program = Some(id);
                }
            }
        }
        (attached, program)
    }

    /// Asserts that no XDP program is attached, or not any more in a moment: the kernel lets go of a link in deferred work.
    #[track_caller]
    pub fn assert_bare(&self, name: &str) {
        let end = Instant::now() + Duration::from_secs(2);
        while self.xdp(name) != (XdpAttached::None, None) {
            assert!(Instant::now() < end, "{name}: {:?}", self.xdp(name));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The client's socket with this source port. One before it may still be in a process that another test is just starting.
pub fn client(port: u16) -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("a shared port");
    socket.bind(&SocketAddrV4::new(CLIENT, port).into()).expect("a client");
    socket.into()
}

/// Sends datagrams to the VIP, as many flows as there are ports.
pub fn send(ports: std::ops::Range<u16>, each: usize) {
    for port in ports {
        let socket = client(port);
        for _ in 0..each {
            socket.send_to(b"tandem", (VIP, 80)).expect("sent");
        }
    }
}
