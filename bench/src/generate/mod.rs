//! Traffic generators: each sends a scenario's sequence again and again, at a rate or as fast as it goes, and counts.

mod afxdp;
mod live;
mod packets;
mod sendmmsg;

use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::pthread::pthread_kill;
use nix::sys::signal::Signal;
use tandem_lab::Lab;

use crate::scenario::Scenario;
use live::LiveFrames;
use packets::Packets;

/// How long one may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which generator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Kind {
    /// In the kernel: live frames of `BPF_PROG_TEST_RUN`.
    #[default]
    Live,
    /// An AF_XDP socket's TX ring.
    Afxdp,
    /// `sendmmsg` on a packet socket: where nothing else works.
    Sendmmsg,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Live, Self::Afxdp, Self::Sendmmsg];

    /// Name, as arguments and results have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "live-frames",
            Self::Afxdp => "af-xdp",
            Self::Sendmmsg => "sendmmsg",
        }
    }
}

/// What a generator is to do.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Load {
    /// Frames per second; `None`: as fast as it goes.
    pub rate: Option<f64>,
    /// Write the time into each frame.
    pub stamped: bool,
    /// The core to run on.
    pub core: usize,
}

/// What a stopped generator says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sent {
    /// Frames sent.
    pub frames: u64,
    /// CPU time that it took.
    pub cpu: Duration,
}

/// A generator that is ready for one scenario.
pub enum Generator {
    /// In the kernel.
    Live(LiveFrames),
    /// In userspace, over AF_XDP.
    Afxdp(Arc<Packets>),
    /// In userspace, over a packet socket.
    Sendmmsg(Arc<Packets>),
}

impl Generator {
    /// Makes a scenario's frames ready.
    ///
    /// # Errors
    /// No privileges, or a kernel that has no live frames.
    pub fn load(kind: Kind, scenario: &Scenario) -> Result<Self> {
        Ok(match kind {
            Kind::Live => Self::Live(LiveFrames::load(scenario)?),
            Kind::Afxdp => Self::Afxdp(Arc::new(Packets::of(scenario))),
            Kind::Sendmmsg => Self::Sendmmsg(Arc::new(Packets::of(scenario))),
        })
    }

    /// Starts sending from the router's end of the device's link.
    ///
    /// # Errors
    /// No thread, no such core, no socket.
    pub fn start(&self, lab: &Lab, load: &Load) -> Result<Running> {
        match self {
            Self::Live(live) => live.start(lab, load),
            Self::Afxdp(packets) => afxdp::start(packets, lab, load),
            Self::Sendmmsg(packets) => sendmmsg::start(packets, lab, load),
        }
    }
}

/// Frames sent, and rounds of the sequence.
type Progress = Box<dyn Fn() -> (u64, u64) + Send + Sync>;

/// A generator that sends.
pub struct Running {
    thread: Option<JoinHandle<Result<Duration>>>,
    stop: Arc<AtomicBool>,
    /// Whether only a signal ends its system call.
    is_deaf: bool,
    progress: Progress,
}

impl Running {
    fn new(
        thread: JoinHandle<Result<Duration>>,
        stop: Arc<AtomicBool>,
        is_deaf: bool,
        progress: impl Fn() -> (u64, u64) + Send + Sync + 'static,
    ) -> Self {
        Self { thread: Some(thread), stop, is_deaf, progress: Box::new(progress) }
    }

    /// Frames sent so far.
    pub fn sent(&self) -> u64 {
        (self.progress)().0
    }

    /// Rounds of the sequence so far.
    pub fn rounds(&self) -> u64 {
        (self.progress)().1
    }

    /// Whether it has ended by itself, which is an error.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops it.
    ///
    /// # Errors
    /// What ended it before.
    pub fn stop(mut self) -> Result<Sent> {
        let cpu = self.end()?;
        Ok(Sent { frames: self.sent(), cpu })
    }

    fn end(&mut self) -> Result<Duration> {
        let Some(thread) = self.thread.take() else { return Ok(Duration::ZERO) };
        self.stop.store(true, Ordering::Relaxed);
        let until = Instant::now() + PATIENCE;
        while !thread.is_finished() {
            if Instant::now() > until {
                bail!("the generator does not stop");
            }
            // A signal that comes between two calls is lost: so again and again.
            if self.is_deaf {
                pthread_kill(thread.as_pthread_t(), Signal::SIGUSR1).context("cannot stop the generator")?;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        thread.join().map_err(|_| anyhow!("the generator panicked"))?
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            log::error!("{error:#}");
        }
    }
}
