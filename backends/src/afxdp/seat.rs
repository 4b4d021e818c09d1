//! The AF_XDP seat: pinned workers. With one interface, one for each receive queue; with several, as many as the interface with the
//! fewest queues has, each with queues of every interface: so a worker can send by all of them, and no queue is left over.

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
use super::tap::Tap;
use super::worker::{Clock, Pace, Shared, Worker, WorkerMemory, WorkerReport};

/// CPUs that an affinity mask can name (`CPU_SETSIZE`).
const CPUS: usize = 1024;
/// How long [`Seat::grace`] waits for workers that are in a batch, which takes microseconds on a free CPU.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to start.
#[derive(Clone, Debug)]
pub struct SeatConfig {
    /// The queues of each worker, of interfaces in the network namespace of the thread that starts the seat.
    pub workers: Vec<Vec<QueueName>>,
    /// The cores to pin the workers to, in their order; with fewer cores than workers they are used again.
    pub cores: Vec<usize>,
    /// Zero-copy or not.
    pub zero_copy: Ask,
    /// UMEM chunks for each queue: a power of two.
    pub frames: u32,
    /// Bytes of a chunk: 2048 or 4096.
    pub chunk: u32,
    /// When workers rest.
    pub pace: Pace,
    /// Who is told of captured frames.
    pub tap: Arc<Tap>,
}

impl SeatConfig {
    /// The usual sizes for these interfaces with their numbers of receive queues ([`super::receive_queues`]), on these cores.
    pub fn new(interfaces: &[(&str, u32)], cores: Vec<usize>) -> Self {
        let workers = Self::workers(interfaces.iter().map(|(_, queues)| *queues));
        let of = |worker: u32| {
            let all = interfaces.iter().flat_map(move |&(interface, queues)| {
                let own = (worker..queues).step_by(workers.max(1) as usize);
                own.map(move |queue| QueueName { interface: interface.to_owned(), queue })
            });
            all.collect()
        };
        let workers = (0..workers).map(of).collect();
        let PortConfig { zero_copy, frames, chunk, .. } = PortConfig::of(Vec::new(), Ask::default());
        Self { workers, cores, zero_copy, frames, chunk, pace: Pace::default(), tap: Arc::default() }
    }

    /// How many workers interfaces with these numbers of receive queues get: as many as each has a queue for.
    pub fn workers(queues: impl Iterator<Item = u32>) -> u32 {
        queues.min().unwrap_or(0)
    }
}

/// Why a seat did not start. Nothing of it is left then.
#[derive(Debug, thiserror::Error)]
pub enum SeatError {
    /// No work for it.
    #[error("no {what} given; an AF_XDP seat needs at least one queue and one core")]
    Nothing {
        /// Queues or cores.
        what: &'static str,
    },
    /// Each worker has counters of its own.
    #[error("{found} memories for {expected} workers; each needs its own")]
    Memories {
        /// Memories given.
        found: usize,
        /// Workers.
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

/// A worker ended by itself. Its queues' frames are forwarded in the kernel from here on.
#[derive(Clone, Debug)]
pub struct Event {
    /// Interfaces and queues.
    pub at: Vec<QueueName>,
    /// Why.
    pub error: Arc<PortError>,
}

/// What a stopped seat leaves behind.
#[derive(Debug, Default)]
pub struct Report {
    /// One for each worker, in their order.
    pub workers: Vec<WorkerReport>,
    /// Workers whose thread panicked, which is a bug.
    pub panicked: Vec<usize>,
}

/// What the seat knows of a worker.
struct Desk {
    queues: Vec<QueueName>,
    core: usize,
    /// One for each queue.
    bound: Vec<Bound>,
    shared: Arc<Shared>,
    /// The sockets, while they are open. Locked by the control plane and, once, by the ending worker; never in its loop.
    sockets: Sockets,
    /// Reports nothing if it did not start.
    thread: Option<JoinHandle<Option<WorkerReport>>>,
}

type Sockets = Arc<Mutex<Vec<RawFd>>>;

/// One line about a worker's socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SocketInfo {
    /// Interface and receive queue.
    pub at: QueueName,
    /// The worker, from 0.
    pub worker: usize,
    /// The core that it is pinned to.
    pub core: usize,
    /// Zero-copy or copy, as the kernel reports it.
    pub bound: Bound,
    /// What the kernel dropped on the way to or from it; `None`: its worker ended.
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
    /// Opens one socket for each queue and starts the pinned workers; `memories` in their order.
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
        let workers = &config.workers;
        if workers.is_empty() || workers.iter().any(Vec::is_empty) {
            return Err(SeatError::Nothing { what: "queues" });
        }
        if config.cores.is_empty() {
            return Err(SeatError::Nothing { what: "cores" });
        }
        if memories.len() != workers.len() {
            return Err(SeatError::Memories { found: memories.len(), expected: workers.len() });
        }
        let (report, events) = bounded(workers.len());
        let mut seat = Self { desks: Vec::with_capacity(workers.len()), events, report };
        let places = workers.iter().zip(config.cores.iter().cycle());
        for (worker, ((queues, &core), (memory, clock))) in places.zip(memories).enumerate() {
            let (zero_copy, frames, chunk) = (config.zero_copy, config.frames, config.chunk);
            let port = PortConfig { queues: queues.clone(), zero_copy, frames, chunk };
            // On an error `seat` is dropped, and stops those before.
            seat.desks.push(Desk::open(
                worker,
                port,
                memory,
                clock,
                (core, config.pace, config.tap.clone()),
                seat.report.clone(),
            )?);
        }
        Ok(seat)
    }

    /// The sockets of the workers that are alive, for the XSKMAP. A socket leaves the map by itself when it is closed.
    pub fn sockets(&self) -> Vec<(QueueName, RawFd)> {
        let of = |desk: &Desk| -> Vec<_> { desk.queues.iter().cloned().zip(desk.sockets().iter().copied()).collect() };
        self.desks.iter().flat_map(of).collect()
    }

    /// The receive queues that were given a worker, whether it is alive or not.
    pub fn queues(&self) -> impl Iterator<Item = &QueueName> {
        self.desks.iter().flat_map(|desk| &desk.queues)
    }

    /// Each worker's sockets, with what the kernel dropped for them.
    pub fn info(&self) -> Vec<SocketInfo> {
        self.desks.iter().enumerate().flat_map(|(worker, desk)| desk.info(worker)).collect()
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
        for (worker, desk) in self.desks.iter_mut().enumerate() {
            match desk.thread.take().map(JoinHandle::join) {
                Some(Ok(worker)) => report.workers.extend(worker),
                Some(Err(_)) => report.panicked.push(worker),
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
        worker: usize,
        port: PortConfig,
        memory: M,
        clock: C,
        (core, pace, tap): (usize, Pace, Arc<Tap>),
        report: Sender<Event>,
    ) -> Result<Self, SeatError>
    where
        M: WorkerMemory + Send + 'static,
        C: Clock + Send + 'static,
    {
        let queues = port.queues.clone();
        let at = queues.first().cloned().unwrap_or_default();
        let (shared, sockets) = (Arc::new(Shared::default()), Sockets::default());
        let (tell, opened) = bounded(1);
        let work = {
            let (queues, shared, sockets) = (queues.clone(), shared.clone(), sockets.clone());
            move || {
                let port = match pinned(&port, core) {
                    Ok(port) => port,
                    Err(error) => {
                        // The other end waits for exactly this.
                        let _ = tell.send(Err(error));
                        return None;
                    }
                };
                *lock(&sockets) = port.fds();
                let bound = (0..port.lanes()).map(|lane| port.bound(lane)).collect();
                let _ = tell.send(Ok(bound));
                let mut worker = Worker::new(port, memory, clock, pace, tap);
                let error = worker.run(&shared).err().map(Arc::new);
                lock(&sockets).clear();
                if let Some(error) = &error {
                    // The channel has room for one event of each worker.
                    let _ = report.try_send(Event { at: queues, error: error.clone() });
                }
                Some(worker.finish(error))
            }
        };
        // The kernel keeps 15 bytes of the name: enough to tell the workers apart in `top -H`.
        let thread = std::thread::Builder::new().name(format!("xsk{worker}-{}", at.interface)).spawn(work);
        let thread = thread.map_err(|errno| SeatError::Thread { at: at.clone(), errno })?;
        match opened.recv() {
            Ok(Ok(bound)) => Ok(Self { queues, core, bound, shared, sockets, thread: Some(thread) }),
            Ok(Err(error)) => {
                // It has nothing to report; when the caller hears of the error, nothing is left of it.
                let _ = thread.join();
                Err(error)
            }
            Err(_) => Err(SeatError::Panicked { at }),
        }
    }

    fn sockets(&self) -> MutexGuard<'_, Vec<RawFd>> {
        lock(&self.sockets)
    }

    fn info(&self, worker: usize) -> Vec<SocketInfo> {
        let sockets = self.sockets();
        let of = |(lane, (at, bound)): (usize, (&QueueName, &Bound))| {
            let statistics = sockets.get(lane).and_then(|fd| kernel::statistics(*fd).ok());
            SocketInfo { at: at.clone(), worker, core: self.core, bound: *bound, statistics }
        };
        self.queues.iter().zip(&self.bound).enumerate().map(of).collect()
    }
}

/// Pins the calling thread, then opens the port.
fn pinned(port: &PortConfig, core: usize) -> Result<Port, SeatError> {
    // A core number beyond the mask is a panic inside libc's CPU_SET.
    if core < CPUS && core_affinity::set_for_current(CoreId { id: core }) {
        Ok(Port::open(port)?)
    } else {
        Err(SeatError::Core { at: port.queues.first().cloned().unwrap_or_default(), core })
    }
}

/// A panic of the other side leaves a whole value behind: it is written at once.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
