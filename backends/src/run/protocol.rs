//! What can be asked of a running balancer, and the handle that whoever serves it asks through.
//!
//! Everything goes through one channel to the balancer's loop, one request after the other: there is one writer of the tables.

use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};

use crate::capture::{Part, Wish};
use crate::config::{ConfigError, Plan};
use crate::control::{Changes, Counters, Depending, FlowExport, FlowRow, Imported, RingRow};
use crate::decision::Decision;

/// A seat, as people name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModeName {
    /// The kernel seat.
    Xdp,
    /// The userspace seat.
    Afxdp,
}

impl ModeName {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Afxdp => "afxdp",
        }
    }
}

/// What can be asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Request {
    /// The mode in force, and why: [`Reply::Mode`].
    Mode,
    /// The live switch: [`Reply::Mode`].
    SetMode(ModeName),
    /// Both seats in turns, on the interface under the traffic that is there: [`Reply::Mode`] when it is done.
    ProbeMode(ProbeWish),
    /// All counters: [`Reply::Counters`].
    Counters,
    /// The plan in force: [`Reply::Plan`].
    #[serde(skip)]
    Plan,
    /// Another plan, all of it or nothing: [`Reply::Applied`]. A mode that was set by hand stays.
    #[serde(skip)]
    Apply(Box<Plan>),
    /// The configuration file, read again and applied: [`Reply::Applied`].
    Reload,
    /// How many flows each real has: [`Reply::FlowRows`].
    FlowRows,
    /// The flows that the flow table holds: [`Reply::Flows`].
    ExportFlows {
        /// Only those that the ring would send to another real now: what another balancer cannot know by itself.
        only_depending: bool,
    },
    /// Flows of another balancer: [`Reply::Imported`].
    ImportFlows(Box<FlowExport>),
    /// What each VIP's ring says, to be compared between balancers: [`Reply::Rings`].
    Rings,
    /// What each core did: [`Reply::Cores`].
    Cores,
    /// Frames as they come in and leave, until nobody listens any more: [`Reply::Capture`].
    Capture(CaptureWish),
}

/// An answer.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "a few are made each second, and none is kept")]
pub enum Reply {
    /// The mode in force.
    Mode(ModeReport),
    /// All counters.
    Counters(Box<SeatCounters>),
    /// The plan in force.
    #[serde(skip)]
    Plan(Arc<Plan>),
    /// What another plan changed.
    Applied(Changes),
    /// How many flows each real has.
    FlowRows(Vec<FlowRow>),
    /// Flows.
    Flows(Box<FlowExport>),
    /// What became of imported flows.
    Imported(Imported),
    /// Each VIP's ring.
    Rings(Vec<RingRow>),
    /// What each core did.
    Cores(Vec<CoreRow>),
    /// Frames.
    #[serde(skip)]
    Capture(CaptureStream),
}

/// Why something that was asked for is not done. Nothing has changed then, unless the message says so.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Nobody answers any more.
    #[error("the balancer is stopping")]
    Stopping,
    /// The configuration file has mistakes, one a line.
    #[error("{0}")]
    Config(String),
    /// The plan differs in what only a start can change.
    #[error(
        "not without a restart: {} changed; nothing was applied. With --leave-attached a restart loses neither packets nor flows", .0.join(", ")
    )]
    Restart(Vec<&'static str>),
    /// The host or the kernel refuses.
    #[error("{0}")]
    Failed(String),
}

impl From<ConfigError> for Refusal {
    fn from(error: ConfigError) -> Self {
        Self::Config(error.to_string())
    }
}

/// A probe on the interface that is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProbeWish {
    /// Seconds of a turn, 1 to [`LONGEST_TURN`](super::LONGEST_TURN); there are [`TURNS`](super::TURNS).
    pub seconds: u32,
    /// Whether the better seat shall forward from then on, and not the one that did before.
    pub apply: bool,
}

/// A capture that is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CaptureWish {
    /// Of what.
    pub wish: Wish,
    /// By whom: said to whoever asks while it runs.
    pub who: String,
}

/// A capture that runs until this is dropped.
#[derive(Clone, Debug)]
pub struct CaptureStream {
    /// What is told; disconnected when the balancer ends.
    pub parts: Receiver<Part>,
    /// The interfaces' indices and names.
    pub interfaces: Vec<(u32, String)>,
}

impl PartialEq for CaptureStream {
    fn eq(&self, other: &Self) -> bool {
        self.parts.same_channel(&other.parts)
    }
}

/// The counters of each seat.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SeatCounters {
    /// The kernel's.
    pub xdp: Counters,
    /// The workers'.
    pub afxdp: Counters,
}

/// What a core did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CoreRow {
    /// `cpu 3`: the kernel seat there; `queue 3`: that queue's worker.
    pub core: String,
    /// Frames that it decided about.
    pub frames: u64,
}

/// A request on its way to the loop, and where its answer goes.
pub(super) struct Asked {
    pub request: Request,
    pub answer: Sender<Result<Reply, Refusal>>,
}

/// Asks a running balancer, from any thread of its process.
#[derive(Clone, Debug)]
pub struct Handle {
    requests: Sender<Asked>,
}

impl Handle {
    /// A handle, and where its requests come out.
    pub(super) fn new() -> (Self, Receiver<Asked>) {
        let (requests, asked) = bounded(16);
        (Self { requests }, asked)
    }

    /// Asks, and waits for the answer: milliseconds as a rule, seconds where a plan with many VIPs is applied or a next hop
    /// is silent. Requests are answered in their order.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn ask(&self, request: Request) -> Result<Reply, Refusal> {
        let (answer, wait) = bounded(1);
        self.requests.send(Asked { request, answer }).map_err(|_| Refusal::Stopping)?;
        wait.recv().unwrap_or(Err(Refusal::Stopping))
    }
}

/// The mode in force.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ModeReport {
    /// The seat that forwards.
    pub mode: ModeName,
    /// Who chose it.
    pub why: String,
    /// The interface.
    pub interface: String,
    /// `native` or `generic`.
    pub attach: String,
    /// The workers' sockets, if the userspace seat is up.
    pub workers: Vec<WorkerRow>,
    /// How mode auto was decided, or what the last probe on the interface found; none if there was neither.
    #[serde(default)]
    pub decision: Option<Decision>,
    /// The flows that live by the flow table alone; none in profile katran.
    #[serde(default)]
    pub flows: Option<Depending>,
    /// The reals without a next hop.
    #[serde(default)]
    pub unreachable: Vec<UnreachableRow>,
}

/// A real whose frames are dropped as `no-next-hop`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnreachableRow {
    /// Its address.
    pub real: String,
    /// What is missing, and the cure.
    pub why: String,
}

/// One worker's socket.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WorkerRow {
    /// Its interface.
    #[serde(default)]
    pub interface: String,
    /// RX queue.
    pub queue: u32,
    /// Its worker's core.
    pub core: usize,
    /// `copy` or `zero-copy`; `ended` if it is gone.
    pub bound: String,
}
