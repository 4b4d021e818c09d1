//! The lab: network namespaces, the links between them and real servers inside, shared by `tandem lab`, `tandem demo`,
//! the tests and the benchmark. Built by netlink, removed by dropping a [`Lab`]. It knows nothing of BPF: whoever needs
//! XDP programs in it attaches them inside [`Lab::enter`].
//!
//! # Layouts
//!
//! Requests go client, router, balancer, router, real; answers go real, router, client, past the balancer. Every real
//! has the VIPs on `lo`. The router sends the VIPs to the balancer, and only those.
//!
//! [`Layout::Routed`], each link a subnet of its own; the last octet of the router is 1, that of the host 2:
//!
//! ```text
//!                    10.90.1.0/24            ┌──────────┐           10.90.2.0/24
//!    ┌────────┐      fd90:0:0:1::/64         │          │           fd90:0:0:2::/64   ┌────┐
//!    │ client ├──────────────────────────────┤          ├─────────────────────────────┤ lb │
//!    └────────┘      mtu 1500                │          │           mtu 1600          └────┘
//!                                            │  router  │           2 queues
//!    ┌────────┐      10.90.11.0/24           │          │
//!    │ real1  ├──────────────────────────────┤          │           VIP/32  via 10.90.2.2
//!    │ lo VIP │      fd90:0:0:b::/64         │          │           VIP/128 via fd90:0:0:2::2
//!    └────────┘      mtu 1600                │          │
//!    ┌────────┐      10.90.12.0/24           │          │
//!    │ real2  ├──────────────────────────────┤          │
//!    │ lo VIP │      fd90:0:0:c::/64         └──────────┘
//!    └────────┘      mtu 1600                      …
//! ```
//!
//! [`Layout::Classic`], the addresses of the classic benchmark: client and balancer on one segment (a bridge of the
//! router's), the VIP inside its subnet and reached through the balancer, the reals behind the router:
//!
//! ```text
//!    ┌────────┐ .11           192.168.1.0/24, fd92:0:0:1::/64              .12 ┌────┐
//!    │ client ├──────────────────────────┬─────────────────────────────────────┤ lb │
//!    └────────┘ mtu 1500                 │ .1                         mtu 1600 └────┘
//!     192.168.1.13 (VIP)            ┌────┴─────┐                      2 queues
//!       via 192.168.1.12            │  router  │
//!                                   └─┬──────┬─┘
//!               192.168.11.0/24    .1 │      │ .1   192.168.12.0/24
//!               fd92:0:0:b::/64    .2 │      │ .2   fd92:0:0:c::/64    …
//!                                ┌────┴───┐ ┌┴───────┐
//!                                │ real1  │ │ real2  │ mtu 1600
//!                                │ lo VIP │ │ lo VIP │
//!                                └────────┘ └────────┘
//! ```
//!
//! [`Layout::Segment`], for direct return without a tunnel: balancer and reals on one segment (a bridge of the router's), the
//! client elsewhere. A frame reaches a real by its link-layer address alone; the reals answer no ARP for the VIPs:
//!
//! ```text
//!    ┌────────┐   10.90.1.0/24            ┌──────────┐
//!    │ client ├───────────────────────────┤  router  │  VIP via 10.90.2.2
//!    └────────┘   fd90:0:0:1::/64, 1500   └────┬─────┘
//!                                              │ .1       10.90.2.0/24, fd90:0:0:2::/64, mtu 1600
//!                       ┌──────────────────────┼───────────────────────┐
//!                    .2 │ ::2              .11 │ ::b               .12 │ ::c    …
//!                    ┌──┴─┐               ┌────┴───┐              ┌────┴───┐
//!                    │ lb │ 2 queues      │ real1  │              │ real2  │
//!                    └────┘               │ lo VIP │              │ lo VIP │
//!                                         └────────┘              └────────┘
//! ```
//!
//! # What makes XDP work on it
//!
//! * The client's link has the usual MTU of 1500, the links that carry encapsulated frames 1600: a full frame of the
//!   client's and two outer IPv6 headers fit, so nothing has to be fragmented and no route MTU lowered.
//! * Checksum and segmentation offloads and GRO are off at the client, at the balancer and at the router's ends of all
//!   links: what reaches an XDP program is a frame of at most the MTU with complete checksums. The reals' own offloads
//!   are on, as their answers pass no XDP program.
//! * A veth takes frames back from its peer's XDP program (`XDP_TX`, or a redirect) only while it has an XDP program of
//!   its own; one that answers `XDP_PASS` will do. The caller attaches it to [`RouterPort::interface`] of the balancer's
//!   link, in [`Host::Router`].
//! * Reverse path filters are off everywhere, duplicate address detection too; neighbours are told to the kernel as if
//!   they had just answered, and age like others.
//! * Source ports up to 60999 are never chosen by the client's kernel: connections with a chosen port do not collide.
//!
//! # Never
//!
//! Nothing outside the lab's namespaces is changed, but for the names in `/run/netns`, the state in `/run/tandem-lab`
//! and, where asked for, the mount of [`ensure_bpffs`]; all are removed with the (last) lab. Processes are ended only
//! when number and start time are those that were noted, or when they carry the lab's mark in their environment.
//!
//! ```no_run
//! use tandem_lab::{Host, Lab, Spec};
//! # fn main() -> Result<(), tandem_lab::LabError> {
//! let lab = Lab::up(Spec::routed("example", &[[10, 200, 1, 1].into()]))?;
//! let real = std::net::SocketAddr::from((lab.link(Host::Real(1))?.v4, 80));
//! let answer = lab.enter(Host::Client, || std::net::TcpStream::connect(real).map(|_| ()))?;
//! assert!(answer.is_err(), "nothing listens yet");
//! # Ok(())
//! # }
//! ```

mod bpffs;
mod construct;
mod error;
pub mod http;
mod interrupt;
pub mod iperf3;
mod lab;
mod netlink;
mod netns;
mod offload;
mod ports;
mod process;
mod program;
mod servers;
mod spec;
mod state;
mod sysctl;
mod teardown;
mod topology;
pub mod transfer;

pub use bpffs::{BPFFS, Bpffs, ensure_bpffs};
pub use error::LabError;
pub use interrupt::Interrupt;
pub use lab::{Lab, ProcessStatus, Status, check_permitted};
pub use netns::own_mounts;
pub use offload::{switch_gro_on, switch_off};
pub use process::{MARKER, Process, ProcessId};
pub use program::{find as find_program, wait_listening};
pub use servers::{Blob, Digest, Nginx, Servers, Services, digest_of};
pub use spec::{DEFAULT_PREFIX, Host, Layout, MAX_REALS, Spec, UnknownHost, prefix_option};
pub use state::ProcessRecord;
pub use teardown::Removed;
pub use topology::{Link, Mac, NoMac, RouterPort, Topology};
