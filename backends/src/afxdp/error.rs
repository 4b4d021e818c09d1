//! What can go wrong with an AF_XDP socket, in words: where, what it means, what to do.

use std::fmt;
use std::io;

use super::port::{Ask, Bound, receive_queues};

/// One receive queue of one interface: what an AF_XDP socket is bound to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct QueueName {
    /// The interface's name in this network namespace.
    pub interface: String,
    /// The queue, from 0.
    pub queue: u32,
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} queue {}", self.interface, self.queue)
    }
}

/// Why a port could not be opened, or ended. All name interface and queue.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// `ENODEV` at the start.
    #[error("{at}: no such interface in this network namespace; `ip link` lists those there are")]
    NoInterface {
        /// Where.
        at: QueueName,
    },
    /// `EINVAL` from `bind`: xsk_bind refuses a queue that is not there.
    #[error("{at}: the queue does not exist: the interface has {queues}, numbered from 0; `ethtool -L` changes their number")]
    NoQueue {
        /// Where.
        at: QueueName,
        /// Receive queues in use.
        queues: u32,
    },
    /// `EBUSY`.
    #[error("{at}: another AF_XDP socket holds this queue (EBUSY); `ss --xdp -p` names its process, stop that first")]
    Busy {
        /// Where.
        at: QueueName,
    },
    /// `EOPNOTSUPP` while zero-copy was required.
    #[error("{at}: the driver has no AF_XDP zero-copy mode (EOPNOTSUPP); allow copy mode, or use a NIC whose driver has it")]
    NoZeroCopy {
        /// Where.
        at: QueueName,
    },
    /// `XDP_OPTIONS` tells another mode than `bind` accepted.
    #[error(
        "{at}: zero-copy: asked to {asked:?}, but the kernel bound it with {found:?} (XDP_OPTIONS): a fault of its driver; ask for the other"
    )]
    OtherMode {
        /// Where.
        at: QueueName,
        /// What was asked for.
        asked: Ask,
        /// What `getsockopt` tells.
        found: Bound,
    },
    /// `EAFNOSUPPORT` or `EPROTONOSUPPORT`, or `EOPNOTSUPP` in copy mode.
    #[error("{at}: the kernel has no AF_XDP sockets ({errno}); it must be built with CONFIG_XDP_SOCKETS")]
    NoAfXdp {
        /// Where.
        at: QueueName,
        /// The kernel's answer.
        errno: io::Error,
    },
    /// `EPERM` or `EACCES`.
    #[error("{at}: not allowed ({errno}); run as root, or give the process CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF")]
    Forbidden {
        /// Where.
        at: QueueName,
        /// The kernel's answer.
        errno: io::Error,
    },
    /// `ENOBUFS` or `ENOMEM`: xdp_umem_account_pages answers ENOBUFS above RLIMIT_MEMLOCK.
    #[error("{at}: cannot lock {bytes} bytes for frames ({errno}); raise `ulimit -l`, give CAP_IPC_LOCK, or use fewer frames")]
    NoMemory {
        /// Where.
        at: QueueName,
        /// Size of the UMEM.
        bytes: usize,
        /// The kernel's answer.
        errno: io::Error,
    },
    /// `ENETDOWN`.
    #[error("{at}: the interface is down (ENETDOWN); `ip link set dev {} up`", at.interface)]
    Down {
        /// Where.
        at: QueueName,
    },
    /// `ENXIO`, `ENODEV` or `POLLERR` while running: the kernel unbinds the socket of an interface that goes.
    #[error("{at}: the interface vanished while its socket was in use ({errno}); bring it back and start this queue again")]
    Vanished {
        /// Where.
        at: QueueName,
        /// The kernel's answer.
        errno: io::Error,
    },
    /// Sizes that no kernel accepts.
    #[error("{at}: {what}: found {found}, expected {expected}")]
    Size {
        /// Where.
        at: QueueName,
        /// Which size.
        what: &'static str,
        /// What was asked for.
        found: usize,
        /// What is possible.
        expected: &'static str,
    },
    /// Everything else.
    #[error("{at}: {step} failed: {errno}; `dmesg` may say more")]
    System {
        /// Where.
        at: QueueName,
        /// The step that failed.
        step: &'static str,
        /// The kernel's answer.
        errno: io::Error,
    },
}

/// What is being opened when the kernel refuses.
pub(super) struct Attempt<'a> {
    pub at: &'a QueueName,
    pub zero_copy: bool,
    pub bytes: usize,
}

impl Attempt<'_> {
    /// What the kernel's answer to `step` means.
    pub fn failed(&self, step: &'static str, errno: io::Error) -> PortError {
        let at = self.at.clone();
        match errno.raw_os_error() {
            Some(libc::ENODEV | libc::ENXIO) => PortError::NoInterface { at },
            Some(libc::EBUSY) => PortError::Busy { at },
            Some(libc::EOPNOTSUPP) if self.zero_copy => PortError::NoZeroCopy { at },
            Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT) => PortError::NoAfXdp { at, errno },
            Some(libc::EPERM | libc::EACCES) => PortError::Forbidden { at, errno },
            Some(libc::ENOBUFS | libc::ENOMEM) => PortError::NoMemory { at, bytes: self.bytes, errno },
            Some(libc::ENETDOWN) => PortError::Down { at },
            Some(libc::EINVAL) => match receive_queues(&at.interface) {
                Ok(queues) if at.queue >= queues => PortError::NoQueue { at, queues },
                Ok(_) | Err(_) => PortError::System { at, step, errno },
            },
            _ => PortError::System { at, step, errno },
        }
    }
}

/// The kernel's answer inside an error of xsk-rs.
pub(super) fn errno_of(error: &(dyn std::error::Error + 'static)) -> io::Error {
    let inner = error.source().and_then(|e| e.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error);
    inner.map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}
