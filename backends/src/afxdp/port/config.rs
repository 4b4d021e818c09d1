//! What to open, and how it was bound.

use crate::afxdp::error::QueueName;

/// Whether to insist on zero-copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Ask {
    /// Zero-copy or an error.
    Require,
    /// Zero-copy if the driver has it, else copy.
    #[default]
    Prefer,
    /// Copy.
    Never,
}

impl Ask {
    pub(super) fn allows(self, found: Bound) -> bool {
        match self {
            Self::Require => found == Bound::ZeroCopy,
            Self::Prefer => true,
            Self::Never => found == Bound::Copy,
        }
    }
}

/// How frames travel between driver and UMEM, as the kernel reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bound {
    /// The NIC writes into the UMEM.
    ZeroCopy,
    /// The kernel copies each frame in and out.
    Copy,
}

/// What to open.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// The queues of one worker, a socket each, over one UMEM.
    pub queues: Vec<QueueName>,
    /// Zero-copy or not. One UMEM is used in one way: with [`Ask::Prefer`] and a driver among several that cannot, all copy.
    pub zero_copy: Ask,
    /// Chunks of the UMEM for each queue: a power of two, at least 64.
    pub frames: u32,
    /// Bytes of a chunk: 2048 or 4096. 256 of them are the XDP program's headroom.
    pub chunk: u32,
}

impl PortConfig {
    /// One queue with the usual sizes: 4096 chunks of 2048 bytes, which hold frames of up to 1792 bytes.
    pub fn new(interface: &str, queue: u32, zero_copy: Ask) -> Self {
        Self::of(vec![QueueName { interface: interface.to_owned(), queue }], zero_copy)
    }

    /// The same for several queues.
    pub fn of(queues: Vec<QueueName>, zero_copy: Ask) -> Self {
        Self { queues, zero_copy, frames: 4096, chunk: 2048 }
    }

    /// Chunks of the UMEM.
    pub(super) fn total(&self) -> u32 {
        self.frames.saturating_mul(self.queues.len() as u32)
    }

    /// Bytes of the UMEM.
    pub(super) fn bytes(&self) -> usize {
        self.total() as usize * self.chunk as usize
    }
}
