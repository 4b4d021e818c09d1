//! What can go wrong between userspace and the kernel seat, with the cure.

use std::io;
use std::path::PathBuf;
use tandem_engine::memory::counters::MAX_CPUS;

use aya::programs::ProgramError;

use crate::afxdp::QueueName;
use crate::capture::FilterError;
use crate::memory::MapError;

/// Why the kernel seat cannot be set up or used.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// The object is not what this program was built with, or the kernel refuses its maps.
    #[error("cannot load the BPF object: {source}; {cure}")]
    Load {
        /// What aya says.
        source: Box<aya::EbpfError>,
        /// What to do.
        cure: &'static str,
    },
    /// The programs keep a place for each CPU.
    #[error(
        "this machine has {cpus} CPUs, and the programs are built for {MAX_CPUS}; raise MAX_CPUS in engine/src/memory/counters.rs and build anew"
    )]
    TooManyCpus {
        /// Possible CPUs.
        cpus: u32,
    },
    /// The verifier or the JIT refused a program.
    #[error("the kernel refuses the program {program}: {cause}; {cure}")]
    Refused {
        /// Its name.
        program: &'static str,
        /// The last lines of the verifier's log, or the system's answer.
        cause: String,
        /// What to do.
        cure: &'static str,
    },
    /// A filter that no program can have.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// What a program tells of captured frames.
    #[error("cannot read what the program tells of captured frames: {cause}; it takes CAP_BPF, and memory that may be locked")]
    Sources {
        /// The system's answer.
        cause: String,
    },
    /// A map or program that the object should have is missing.
    #[error("the BPF object has no {what} {name}: it was built from another version of the source; run `make build`")]
    Missing {
        /// Map or program.
        what: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A map cannot be mapped.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A program cannot be attached.
    #[error("{interface}: cannot attach {program} ({mode}): {source}; {cure}")]
    Attach {
        /// The interface.
        interface: String,
        /// Its name.
        program: &'static str,
        /// `native` or `generic`.
        mode: &'static str,
        /// The system's answer.
        source: io::Error,
        /// What to do.
        cure: &'static str,
    },
    /// A pin cannot be made, opened or removed.
    #[error("{}: {what}: {cause}; {cure}", path.display())]
    Pin {
        /// The path.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The answer.
        cause: String,
        /// What to do.
        cure: &'static str,
    },
    /// An interface that frames cannot leave by.
    #[error("{interface}: frames of the other interfaces cannot be redirected to it: {cause}; is it there? (`ip link`)")]
    Device {
        /// The interface.
        interface: String,
        /// The system's answer.
        cause: String,
    },
    /// The pinned attachment is another interface's.
    #[error(
        "{}: what a balancer before left attached is on another interface than {interface}; `tandem detach {name}` removes it \
         (its flows are lost), or give this one another --name",
        pin.display()
    )]
    Elsewhere {
        /// The pin.
        pin: PathBuf,
        /// The interface that was asked for.
        interface: String,
        /// The balancer's name.
        name: String,
    },
    /// Pinned tables of another layout or of too small a size.
    #[error("{}: the pinned tables cannot be taken over: {why}; `tandem detach` removes them (their flows are lost), then start again", path.display())]
    Foreign {
        /// The directory of pins.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// A slot of a root's program array cannot be used.
    #[error("{}: slot {slot}: {cause}; {cure}", path.display())]
    Slot {
        /// The array's pin.
        path: PathBuf,
        /// The slot's index.
        slot: u32,
        /// What is wrong.
        cause: String,
        /// What to do.
        cure: &'static str,
    },
    /// Socket marks cannot be entered.
    #[error("cannot enter {marks} socket marks of health_encap: {cause}; 4096 is the most")]
    Marks {
        /// How many.
        marks: usize,
        /// The answer.
        cause: String,
    },
    /// The probes' program cannot be attached.
    #[error(
        "{interface}: cannot attach health_encap to its egress: {cause}; it takes a kernel with CONFIG_NET_CLS_ACT and CONFIG_NET_CLS_BPF"
    )]
    AttachProbes {
        /// The interface.
        interface: String,
        /// The answer.
        cause: String,
    },
    /// A socket cannot be put into the XSKMAP.
    #[error("cannot give {at} its AF_XDP socket: {cause}")]
    Socket {
        /// Interface and RX queue.
        at: QueueName,
        /// The answer.
        cause: String,
    },
    /// `BPF_PROG_TEST_RUN` failed.
    #[error("BPF_PROG_TEST_RUN of {program} failed on a frame of {bytes} bytes: {source}")]
    TestRun {
        /// Its name.
        program: &'static str,
        /// Bytes of the frame.
        bytes: usize,
        /// The answer.
        source: Box<ProgramError>,
    },
}

/// The cure for a refusal by errno.
pub(super) fn load_cure(errno: Option<i32>) -> &'static str {
    match errno {
        Some(libc::EPERM | libc::EACCES) => "it takes CAP_BPF and CAP_NET_ADMIN (run as root), and no lockdown of BPF",
        Some(libc::ENOMEM) => "the tables need more memory than there is; lower flows.capacity",
        Some(libc::E2BIG) => {
            "the counters of so many VIPs and reals are too large for Linux before 6.0 (4 MiB for those of a core); take fewer, or a newer one"
        }
        Some(libc::EINVAL | libc::ENOTSUPP) => "it takes Linux 5.10 or newer with CONFIG_BPF_SYSCALL and CONFIG_BPF_JIT",
        _ => "it takes Linux 5.10 or newer and root",
    }
}

/// `ENOTSUPP` of the kernel's own, which libc does not name.
mod libc {
    pub use ::libc::{E2BIG, EACCES, EINVAL, ENOMEM, EPERM};
    pub const ENOTSUPP: i32 = 524;
}

/// Finds the errno in an error's chain of causes.
pub(crate) fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        next = error.source();
    }
    None
}

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
