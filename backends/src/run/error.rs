//! Why the balancer cannot run, or go on.

use std::path::PathBuf;

use crate::afxdp::{PortError, SeatError};
use crate::control::ControlError;
use crate::facts::{FactError, Missing};
use crate::xdp::XdpError;

/// Why the balancer cannot run, or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Capabilities.
    #[error(transparent)]
    Privileges(#[from] Missing),
    /// The host.
    #[error(transparent)]
    Facts(#[from] FactError),
    /// The kernel seat.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// The tables.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The userspace seat.
    #[error(transparent)]
    Seat(#[from] SeatError),
    /// A socket of it.
    #[error(transparent)]
    Port(#[from] PortError),
    /// No interface in the configuration.
    #[error("node.interface is not set; name the interface where the VIPs' traffic arrives")]
    NoInterface,
    /// A slot gets frames of one interface.
    #[error(
        "--xdp-root with several interfaces: a slot of a root gets the frames of its interface alone; name one interface, or run \
         without a root"
    )]
    SlotOfSeveral,
    /// Frames of a bond come in by its members' queues, and a socket gets those of its own device alone (`xsk_rcv_check`).
    #[error(
        "{0} is a bond: AF_XDP sockets get none of its frames, which are its members'; set node.mode = \"xdp\", which forwards by the \
         active members"
    )]
    WorkersOfBond(String),
    /// No bpffs.
    #[error("{}: no BPF file system is mounted there; `mount -t bpf bpf {}`", .0.display(), .0.display())]
    NoBpffs(PathBuf),
    /// Something that the configuration has to say on this host.
    #[error("{0}")]
    Lacks(String),
    /// Another process.
    #[error(
        "a balancer is running already: {} is locked{}; stop it, take its place (--take-over), or give this one another --name",
        path.display(), process.map_or_else(String::new, |process| format!(" by process {process}"))
    )]
    Running {
        /// The lock.
        path: PathBuf,
        /// Who has it.
        process: Option<i32>,
    },
    /// The lock.
    #[error("{}: cannot be locked: {source}; are you root?", path.display())]
    Lock {
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The control socket.
    #[error("{}: cannot listen for control requests: {source}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// What was to serve requests cannot.
    #[error("cannot serve requests: {0}")]
    Serve(Box<dyn std::error::Error + Send + Sync>),
    /// The number of RX queues.
    #[error("{interface}: cannot read its number of RX queues: {source}")]
    Queues {
        /// The interface.
        interface: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The interface is gone.
    #[error(
        "{0}: the interface vanished while the balancer was running; what was attached went with it. Start again when it is back"
    )]
    Vanished(String),
    /// Fewer counter blocks than cores and queues.
    #[error(
        "the pinned tables count for {found} cores and queues, this host has {needed}; `tandem detach` removes them (their flows are lost), then start again"
    )]
    Blocks {
        /// In the tables.
        found: u32,
        /// On this host.
        needed: u32,
    },
}
