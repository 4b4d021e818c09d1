//! What the seats cost on this host: both forward real frames in a private network namespace.
//!
//! ```text
//!  generator's core                        forwarding core
//!  live frames ── redirect ──> veth ═════> napi thread: the balancer  ── mode xdp: XDP_TX ──────────┐
//!  (kernel)                                └ mode afxdp ──> worker: the engine ── TX ───────────────┤
//!                              veth <═════ napi thread: the receiver counts and drops <═════════════┘
//! ```
//!
//! Program, tables, sockets and workers are those of production. A second veth pair has a program that sends frames back as they are:
//! what receiving and sending cost there without a balancer.
//!
//! *CPU time is counted by thread*: the receive queue of the balancer is served by a kernel thread of its own (threaded NAPI), and
//! so is the receiver's; the generator is a thread, too. So the number of a seat is made up of its queue's thread and its worker,
//! and nothing of generator and receiver is in it. It is read while nothing is under way, when the kernel's accounts are exact.
//!
//! Kernels before 5.18 have no live frames: there a socket makes them ([`sockets`]).
//!
//! Nothing is left, however it ends: the namespace has no name, and goes with the threads in it.

mod bed;
mod obtain;
mod record;
mod rounds;
mod sockets;
mod traffic;

use std::io;
use std::sync::{Mutex, PoisonError};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

pub use obtain::Calibrated;
pub use record::{Record, RecordError};

use crate::afxdp::SeatError;
use crate::config::Attach;
use crate::control::ControlError;
use crate::facts::{FactError, may_make_namespaces, may_open_sockets};
use crate::memory::MapError;
use crate::xdp::XdpError;
use bed::Bed;

/// What was measured of one way to forward.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// CPU nanoseconds for each frame that was forwarded, in the best round.
    pub ns: f64,
    /// Of these: those of the thread that serves the receive queue.
    pub queue_ns: f64,
    /// And those of the worker.
    pub worker_ns: f64,
    /// By how much the median of the rounds is above the best one, in nanoseconds: smaller differences are noise.
    pub spread_ns: f64,
    /// Frames that came out each second, in the round with most.
    pub pps: f64,
    /// Frames that came out, in all rounds.
    pub forwarded: u64,
    /// Frames that were sent and did not come out, in all rounds.
    pub lost: u64,
    /// Rounds.
    pub rounds: u32,
}

/// Who makes the frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feed {
    /// A program in the kernel, which redirects them as those of a driver (Linux 5.18).
    LiveFrames,
    /// A socket of AF_XDP in userspace.
    Sockets,
}

/// What the seats cost here.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Calibration {
    /// Receiving and sending alone.
    pub bounce: Measured,
    /// The kernel seat, attached natively.
    pub xdp: Measured,
    /// The userspace seat, copying.
    pub afxdp: Measured,
    /// Flows of the traffic.
    pub flows: u32,
    /// Bytes of its frames.
    pub frame: u32,
    /// The core that forwarded.
    pub core: usize,
    /// Who made the frames.
    pub feed: Feed,
}

/// Why nothing was measured; the message ends with a cure where there is one.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// A capability.
    #[error(
        "this process lacks {0}; `tandem mode probe --save --name NAME` as root measures once for all starts until the next boot (the \
         systemd unit does so before each start)"
    )]
    Lacks(&'static str),
    /// Generic attachment.
    #[error(
        "only native attachment can be measured so, and node.attach is \"generic\"; set node.attach = \"native\" if the driver has it"
    )]
    Generic,
    /// No namespace.
    #[error("cannot {doing} for a private network namespace: {source}; does a container or seccomp forbid it?")]
    Namespace {
        /// What was tried.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The links in it.
    #[error("{step}: {cause}; {cure}")]
    Link {
        /// What was tried.
        step: String,
        /// The system's answer.
        cause: String,
        /// What to do.
        cure: &'static str,
    },
    /// The generator.
    #[error("the generator does not send: {0}")]
    Generator(String),
    /// Nothing came out.
    #[error("{name}: {seen} frames came out in 5 s, too few to say anything; is this host idle otherwise?")]
    Silent {
        /// The way to forward.
        name: &'static str,
        /// Frames.
        seen: u64,
    },
    /// The kernel seat.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// The tables.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Mapped memory.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The userspace seat.
    #[error(transparent)]
    Seat(#[from] SeatError),
    /// Netlink.
    #[error(transparent)]
    Facts(#[from] FactError),
    /// The traffic's own configuration: a defect.
    #[error("{0}")]
    Plan(String),
    /// A defect.
    #[error("the thread that calibrates {0}; please report it")]
    Thread(&'static str),
}

/// One at a time in a process: they would measure each other.
static ALONE: Mutex<()> = Mutex::new(());

/// Measures both seats, on the last of `cores` (`None`: all that this process may use); takes 1 to 2 s.
///
/// # Errors
/// [`CalibrateError`]; nothing is left then.
pub fn calibrate(attach: Attach, cores: Option<&[usize]>) -> Result<Calibration, CalibrateError> {
    calibrate_fed_by(Feed::LiveFrames, attach, cores)
}

/// The same with frames of this maker; where the kernel has no live frames, sockets make them in any case.
///
/// # Errors
/// As [`calibrate`].
pub fn calibrate_fed_by(feed: Feed, attach: Attach, cores: Option<&[usize]>) -> Result<Calibration, CalibrateError> {
    if attach == Attach::Generic {
        return Err(CalibrateError::Generic);
    }
    if !may_make_namespaces() {
        return Err(CalibrateError::Lacks("CAP_SYS_ADMIN, which a private network namespace takes"));
    }
    if !may_open_sockets() {
        return Err(CalibrateError::Lacks("CAP_NET_RAW, which sockets of AF_XDP take"));
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let cores = cores.map_or_else(Vec::new, <[usize]>::to_vec);
    let work = move || {
        leave()?;
        rounds::run(&mut Bed::make(&cores, feed)?)
    };
    // A thread that changed its namespace must not go back to other work.
    let thread = std::thread::Builder::new().name("calibrate".to_owned()).spawn(work);
    let thread = thread.map_err(|_| CalibrateError::Thread("cannot be started"))?;
    thread.join().unwrap_or(Err(CalibrateError::Thread("panicked")))
}

/// Takes the thread into a network namespace of its own, with a `/sys` that shows it: that shows the namespace of who mounted it.
fn leave() -> Result<(), CalibrateError> {
    let failed = |doing| move |errno: nix::Error| CalibrateError::Namespace { doing, source: errno.into() };
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).map_err(failed("leave the host's namespaces"))?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).map_err(failed("make the mounts private"))?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), nothing).map_err(failed("mount sysfs"))
}
