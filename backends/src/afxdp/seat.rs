//! The AF_XDP seat of one interface: a pinned worker for each receive queue.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use core_affinity::CoreId;
use crossbeam::channel::{Receiver, Sender, bounded};

use super::epoch::grace;
use super::error::{PortError, QueueName};
use super::port::{Ask, Bound, Port, PortConfig, Statistics, kernel};
use super::worker::{Clock, Pace, Shared, Worker, WorkerMemory, WorkerReport};

/// CPUs that an affinity mask can name (`CPU_SETSIZE`).
const CPUS: usize = 1024;
/// How long [`Seat::grace`] waits for workers that are in a batch, which takes microseconds on a free CPU.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to start.
#[derive(Clone, Debug)]
pub struct SeatConfig {
    /// The interface, in the network namespace of the thread that starts the seat.
    pub interface: String,
    /// Its receive queues, one worker each; see [`super::receive_queues`].
    pub queues: Vec<u32>,
    /// The cores to pin the workers to, in the order of the queues; with fewer cores than queues they are used again.
    pub cores: Vec<usize>,
    /// Zero-copy or not.
    pub zero_copy: Ask,
    /// UMEM chunks of each queue: a power of two.
    pub frames: u32,
    /// Bytes of a chunk: 2048 or 4096.
    pub chunk: u32,
    /// When workers rest.
    pub pace: Pace,
}

impl SeatConfig {
    /// The usual sizes on these queues and cores.
    pub fn new(interface: &str, queues: Vec<u32>, cores: Vec<usize>) -> Self {
        let PortConfig { at, zero_copy, frames, chunk } = PortConfig::new(interface, 0, Ask::default());
        Self { interface: at.interface, queues, cores, zero_copy, frames, chunk, pace: Pace::default() }
    }
}

/// Why a seat did not start. Nothing of it is left then.
#[derive(Debug, thiserror::Error)]
pub enum SeatError {
    /// No work for it.
    #[error("{interface}: no {what} given; an AF_XDP seat needs at least one queue and one core")]
    Nothing {
        /// The interface.
        interface: String,
        /// Queues or cores.
        what: &'static str,
    },
    /// Each worker has counters of its own.
    #[error("{interface}: {found} memories for {expected} queues; each worker needs its own")]
    Memories {
        /// The interface.
        interface: String,
        /// Memories given.
        found: usize,
        /// Queues.
        expected: usize,
    },
    /// A socket.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A thread.
    #[error("{at}: cannot start its thread: {errno}; look at the limits of processes and memory (`ulimit -u`)")]
    Thread {
        /// Interface and queue.
        at: QueueName,
        /// The system's answer.
        errno: io::Error,
    },
    /// A bug.
    #[error("{at}: its thread panicked before it started; the message is on standard error, please report it")]
    Panicked {
        /// Interface and queue.
        at: QueueName,
    },
    /// A core that is not there, or not ours.
    #[error("{at}: cannot pin its worker to core {core}; `taskset -pc $$` lists the cores that are allowed")]
    Core {
        /// Interface and queue.
        at: QueueName,
        /// The core.
        core: usize,
    },
}

/// A worker ended by itself. Its queue's frames are forwarded in the kernel from here on.
#[derive(Clone, Debug)]
pub struct Event {
    /// Interface and queue.
    pub at: QueueName,
    /// Why.
    pub error: Arc<PortError>,
}

/// What a stopped seat leaves behind.
#[derive(Debug, Default)]
pub struct Report {
    /// One for each worker, in the order of the queues.
    pub workers: Vec<WorkerReport>,
    /// Queues whose thread panicked, which is a bug.
    pub panicked: Vec<u32>,
}

/// What the seat knows of a worker.
struct Desk {
    queue: u32,
    core: usize,
    bound: Bound,
    shared: Arc<Shared>,
    /// The socket, while it is open. Locked by the control plane and, once, by the ending worker; never in its loop.
    socket: Arc<Mutex<Option<RawFd>>>,
    /// Reports nothing if it did not start.
    thread: Option<JoinHandle<Option<WorkerReport>>>,
}

/// One line about a worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WorkerInfo {
    /// Receive queue.
    pub queue: u32,
    /// The core it is pinned to.
    pub core: usize,
    /// Zero-copy or copy, as the kernel reports it.
    pub bound: Bound,
    /// What the kernel dropped on the way to or from it; `None`: it ended.
    pub statistics: Option<Statistics>,
}

/// The running seat. Stops its workers when dropped.
pub struct Seat {
    desks: Vec<Desk>,
    events: Receiver<Event>,
    /// For the workers. Kept, so that the channel of a seat whose workers all ended is silent, not closed.
    report: Sender<Event>,
}

impl Seat {
    /// Opens one socket for each queue and starts the pinned workers; `memories` in the order of the queues.
    ///
    /// No frame arrives before [`Self::sockets`] are in the XSKMAP.
    ///
    /// # Errors
    /// See [`SeatError`]; all workers that were started have ended then.
    pub fn start<M, C>(config: &SeatConfig, memories: Vec<(M, C)>) -> Result<Self, SeatError>
    where
        M: WorkerMemory + Send + 'static,
        C: Clock + Send + 'static,
    {
        let interface = || config.interface.clone();
        let nothing = |what| SeatError::Nothing { interface: interface(), what };
        if config.queues.is_empty() {
            return Err(nothing("queues"));
        }
        if config.cores.is_empty() {
            return Err(nothing("cores"));
        }
        if memories.len() != config.queues.len() {
            let (found, expected) = (memories.len(), config.queues.len());
            return Err(SeatError::Memories { interface: interface(), found, expected });
        }
        let (report, events) = bounded(config.queues.len());
        let desks = Vec::with_capacity(config.queues.len());
        let mut seat = Self { desks, events, report };
        let places = config.queues.iter().zip(config.cores.iter().cycle());
        for ((&queue, &core), (memory, clock)) in places.zip(memories) {
            let at = QueueName { interface: interface(), queue };
            let port = PortConfig { at, zero_copy: config.zero_copy, frames: config.frames, chunk: config.chunk };
            // On an error `seat` is dropped, and stops those before.
            seat.desks.push(Desk::open(port, memory, clock, core, config.pace, seat.report.clone())?);
        }
        Ok(seat)
    }

    /// Queue and socket of each worker that is alive, for the XSKMAP. A socket leaves the map by itself when it is closed.
    pub fn sockets(&self) -> Vec<(u32, RawFd)> {
        self.desks.iter().filter_map(|d| Some((d.queue, (*d.socket())?))).collect()
    }

    /// Receive queues that were given a worker, whether it is alive or not.
    pub fn queues(&self) -> u32 {
        self.desks.len() as u32
    }

    /// The workers, with what the kernel dropped for them.
    pub fn workers(&self) -> Vec<WorkerInfo> {
        self.desks.iter().map(Desk::info).collect()
    }

    /// Waits until each worker has let go of what it read from the tables before this call; at once for idle workers.
    ///
    /// `false`: a worker did not come round within 5 s; what was unlinked must not be used again yet.
    #[must_use = "memory may be used again only if all workers have passed"]
    pub fn grace(&self) -> bool {
        grace(self.desks.iter().map(|d| &d.shared.epoch), PATIENCE)
    }

    /// Where workers tell that they ended by themselves. Silent, but open, when no worker is left.
    pub fn events(&self) -> &Receiver<Event> {
        &self.events
    }

    /// Ends all workers and closes their sockets. Frames under way are forwarded first; take the sockets out of the
    /// XSKMAP before, or the kernel keeps sending some for as long as [`Pace::drain`].
    pub fn stop(mut self) -> Report {
        self.end()
    }

    fn end(&mut self) -> Report {
        for desk in &self.desks {
            desk.shared.stop.store(true, Ordering::Relaxed);
        }
        let mut report = Report::default();
        for desk in &mut self.desks {
            match desk.thread.take().map(JoinHandle::join) {
                Some(Ok(worker)) => report.workers.extend(worker),
                Some(Err(_)) => report.panicked.push(desk.queue),
                None => {}
            }
        }
        report
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.end();
    }
}

impl Desk {
    /// Starts a thread that pins itself, and opens its port after that: so the frames lie near its core.
    fn open<M, C>(
        port: PortConfig,
        memory: M,
        clock: C,
        core: usize,
        pace: Pace,
        report: Sender<Event>,
    ) -> Result<Self, SeatError>
    where
        M: WorkerMemory + Send + 'static,
        C: Clock + Send + 'static,
    {
        let (at, queue) = (port.at.clone(), port.at.queue);
        let (shared, socket) = (Arc::new(Shared::default()), Arc::new(Mutex::new(None)));
        let (tell, opened) = bounded(1);
        let work = {
            let (at, shared, socket) = (at.clone(), shared.clone(), socket.clone());
            move || {
                let port = match pinned(&port, core) {
                    Ok(port) => port,
                    Err(error) => {
                        // The other end waits for exactly this.
                        let _ = tell.send(Err(error));
                        return None;
                    }
                };
                *lock(&socket) = Some(port.fd());
                let _ = tell.send(Ok(port.bound()));
                let mut worker = Worker::new(port, memory, clock, pace);
                let error = worker.run(&shared).err().map(Arc::new);
                *lock(&socket) = None;
                if let Some(error) = &error {
                    // The channel has room for one event of each worker.
                    let _ = report.try_send(Event { at, error: error.clone() });
                }
                Some(worker.finish(error))
            }
        };
        // The kernel keeps 15 bytes of the name: enough to tell the workers apart in `top -H`.
        let thread = std::thread::Builder::new().name(format!("xsk{queue}-{}", at.interface)).spawn(work);
        let thread = thread.map_err(|errno| SeatError::Thread { at: at.clone(), errno })?;
        match opened.recv() {
            Ok(Ok(bound)) => Ok(Self { queue, core, bound, shared, socket, thread: Some(thread) }),
            Ok(Err(error)) => {
                // It has nothing to report; when the caller hears of the error, nothing is left of it.
                let _ = thread.join();
                Err(error)
            }
            Err(_) => Err(SeatError::Panicked { at }),
        }
    }

    fn socket(&self) -> MutexGuard<'_, Option<RawFd>> {
        lock(&self.socket)
    }

    fn info(&self) -> WorkerInfo {
        let statistics = self.socket().and_then(|fd| kernel::statistics(fd).ok());
        WorkerInfo { queue: self.queue, core: self.core, bound: self.bound, statistics }
    }
}

/// Pins the calling thread, then opens the port.
fn pinned(port: &PortConfig, core: usize) -> Result<Port, SeatError> {
    // A core number beyond the mask is a panic inside libc's CPU_SET.
    if core < CPUS && core_affinity::set_for_current(CoreId { id: core }) {
        Ok(Port::open(port)?)
    } else {
        Err(SeatError::Core { at: port.at.clone(), core })
    }
}

/// A panic of the other side leaves a whole value behind: it is one word.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
