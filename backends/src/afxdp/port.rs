//! The AF_XDP sockets of one worker over one UMEM, a lane each: one queue of one interface, or of several interfaces. This file and
//! [`kernel`] hold the only `unsafe` of this seat.
//!
//! The sockets load no XDP program: the balancer's is there already, and finds [`Port::fds`] in its XSKMAP. The first one owns
//! the UMEM, the others share it (`XDP_SHARED_UMEM`), each with a fill and a completion ring of its own (v5.10, a1132430c2c5).
//! Kernel side: `Documentation/networking/af_xdp.rst`, `net/xdp/xsk.c`.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use xsk_rs::config::{
    BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig, XDP_UMEM_MIN_CHUNK_SIZE,
};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use super::error::{Attempt, PortError, QueueName, errno_of};
use super::frames::{BATCH, Census, Descriptor, Frame, MOST_LANES, Pool, QUEUED, Rings};

mod config;
pub(super) mod kernel;

pub use config::{Ask, Bound, PortConfig};
pub use kernel::{Statistics, receive_queues};

/// The right to one frame of a [`Port`].
pub type Token = Frame<FrameDesc>;

/// How long a busy queue is given to become free.
const RELEASE: Duration = Duration::from_millis(500);

/// One socket's four rings.
struct Xsk {
    fill: FillQueue,
    rx: RxQueue,
    tx: TxQueue,
    completion: CompQueue,
    tx_size: u32,
    /// What is on its way into a ring; xsk-rs wants a slice.
    scratch: [FrameDesc; QUEUED],
}

impl Descriptor for FrameDesc {
    #[inline]
    fn addr(&self) -> usize {
        FrameDesc::addr(self)
    }
}

impl Xsk {
    /// Opens the socket of one queue over a UMEM, and binds it.
    fn bind(attempt: &Attempt<'_>, ask: Ask, umem: &Umem, size: QueueSize) -> Result<Self, PortError> {
        let fault = |step, errno| attempt.failed(step, errno);
        let name: Result<Interface, _> = attempt.at.interface.parse();
        let name = name.map_err(|_| PortError::NoInterface { at: attempt.at.clone() })?;
        // Without a flag the kernel tries zero-copy and falls back for whatever reason the driver has (xp_assign_dev). libxdp
        // leaves the flags out for sockets after the UMEM's first, whose way of use is theirs.
        let flag = match ask {
            Ask::Require => BindFlags::XDP_ZEROCOPY,
            Ask::Prefer => BindFlags::empty(),
            Ask::Never => BindFlags::XDP_COPY,
        };
        let socket_config = SocketConfig::builder()
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(flag | BindFlags::XDP_USE_NEED_WAKEUP)
            .rx_queue_size(size)
            .tx_queue_size(size)
            .build();
        // SAFETY: no program is loaded by libxdp, and each frame of the UMEM is named by one token of one `Pool`, which all of
        // its sockets belong to: no two rings ever hold it.
        let socket = unsafe { Socket::new(socket_config, umem, &name, attempt.at.queue) };
        let (tx, rx, rings) = socket.map_err(|e| fault("binding the socket", errno_of(&e)))?;
        let (fill, completion) = rings.ok_or_else(|| fault("mapping the rings", io::Error::other("the queue is given twice")))?;
        Ok(Self { fill, rx, tx, completion, tx_size: size.get(), scratch: [FrameDesc::default(); QUEUED] })
    }

    fn gather(&mut self, frames: impl Iterator<Item = Token>) -> usize {
        let mut count = 0;
        for (slot, frame) in self.scratch.iter_mut().zip(frames) {
            *slot = *frame.entry();
            count += 1;
        }
        count
    }

    /// Frames in the TX ring that the kernel has not taken yet.
    fn unsent(&mut self) -> u32 {
        self.tx_size.saturating_sub(self.tx.nb_free_exact())
    }
}

impl Rings for Xsk {
    type Entry = FrameDesc;

    #[inline]
    fn fill_room(&mut self, want: usize) -> usize {
        self.fill.nb_free(want as u32) as usize
    }

    #[inline]
    fn fill(&mut self, frames: impl Iterator<Item = Token>) {
        let count = self.gather(frames);
        // SAFETY: each entry comes from a token consumed by `gather`; only `Pool` makes tokens, one per chunk of this
        // UMEM, so nobody else names these chunks until the kernel hands them back.
        unsafe { self.fill.produce(&self.scratch[..count]) };
    }

    #[inline]
    fn receive(&mut self, into: &mut [FrameDesc; BATCH]) -> usize {
        // SAFETY: the entries are overwritten with what the kernel wrote into this socket's ring, never read.
        unsafe { self.rx.consume(into) }
    }

    #[inline]
    fn send_room(&mut self, want: usize) -> usize {
        self.tx.nb_free(want as u32) as usize
    }

    #[inline]
    fn send(&mut self, frames: impl Iterator<Item = Token>) {
        let count = self.gather(frames);
        // SAFETY: as in `fill`.
        unsafe { self.tx.produce(&self.scratch[..count]) };
    }

    #[inline]
    fn complete(&mut self, into: &mut [FrameDesc; BATCH]) -> usize {
        // SAFETY: as in `receive`.
        unsafe { self.completion.consume(into) }
    }
}

/// One of a port's sockets.
struct Lane {
    at: QueueName,
    /// Index of its interface.
    interface: u32,
    bound: Bound,
}

/// The open AF_XDP sockets of one worker, with their frames.
pub struct Port {
    // Before `umem`: the rings are unmapped by the last of each socket's four queues.
    pool: Pool<Xsk>,
    umem: Umem,
    lanes: Vec<Lane>,
    /// The sockets, to be waited for.
    polled: Vec<libc::pollfd>,
    /// Whether free frames go to the kernel to receive into.
    receives: bool,
}

impl Port {
    /// Opens and binds the sockets in the network namespace of the calling thread, and gives them their first frames.
    ///
    /// # Errors
    /// See [`PortError`]. Copy mode is taken only if [`PortConfig::zero_copy`] allows it.
    pub fn open(config: &PortConfig) -> Result<Self, PortError> {
        let mut port = match Self::bind_patiently(config) {
            // The first driver has zero-copy and took the UMEM for it, and another one has not.
            Err(PortError::NoZeroCopy { .. }) if config.zero_copy == Ask::Prefer => {
                Self::bind_patiently(&PortConfig { zero_copy: Ask::Never, ..config.clone() })?
            }
            bound => bound?,
        };
        for lane in 0..port.lanes() {
            let fd = port.fd(lane);
            let found = kernel::mode(fd).map_err(|e| port.fault(lane, "reading XDP_OPTIONS", e))?;
            if !config.zero_copy.allows(found) {
                let at = port.at(lane).clone();
                return Err(PortError::OtherMode { at, asked: config.zero_copy, found });
            }
            if let Some(lane) = port.lanes.get_mut(lane) {
                lane.bound = found;
            }
            while port.pool.refill(lane) > 0 {}
            // `bind` takes an interface that is down, too.
            port.judge(lane, "asking the socket", kernel::wake_receiver(fd))?;
        }
        Ok(port)
    }

    /// The same for who only sends: its frames stay free, for [`Self::take`].
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_to_send(config: &PortConfig) -> Result<Self, PortError> {
        let mut port = Self::bind_patiently(config)?;
        port.receives = false;
        Ok(port)
    }

    /// A closed socket leaves its queue only when a kernel worker gets to it (`xp_release_deferred`), so a queue that is
    /// busy may be free in a moment.
    fn bind_patiently(config: &PortConfig) -> Result<Self, PortError> {
        let start = Instant::now();
        loop {
            match Self::bind(config) {
                Err(PortError::Busy { .. }) if start.elapsed() < RELEASE => {
                    std::thread::sleep(RELEASE / 50);
                }
                done => return done,
            }
        }
    }

    fn bind(config: &PortConfig) -> Result<Self, PortError> {
        let first = config.queues.first().cloned().unwrap_or_default();
        let attempt = Attempt { at: &first, zero_copy: config.zero_copy == Ask::Require, bytes: config.bytes() };
        let size = |what, found: u32, expected| PortError::Size { at: first.clone(), what, found: found as usize, expected };
        let chunk = FrameSize::new(config.chunk).ok().filter(|c| matches!(c.get(), XDP_UMEM_MIN_CHUNK_SIZE | 4096));
        let chunk = chunk.ok_or_else(|| size("bytes of a chunk", config.chunk, "2048 or 4096"))?;
        let few = || size("frames", config.frames, "a power of two from 64 to 1048576");
        if !(64..=1 << 20).contains(&config.frames) {
            return Err(few());
        }
        if !(1..=MOST_LANES).contains(&config.queues.len()) {
            return Err(size("queues of one worker", config.queues.len() as u32, "1 to 256"));
        }
        // A fill ring takes every frame of its share; the pool lets no more than half of them be on their way out.
        let all = QueueSize::new(config.frames).map_err(|_| few())?;
        let half = QueueSize::new(config.frames / 2).map_err(|_| few())?;
        let umem_config = UmemConfig::builder()
            .frame_size(chunk)
            .fill_queue_size(all)
            .comp_queue_size(half)
            .build()
            .map_err(|_| size("bytes of a chunk", config.chunk, "2048 or 4096"))?;
        let count = std::num::NonZeroU32::new(config.total()).ok_or_else(few)?;
        let failed = |e| attempt.failed("registering frame memory", errno_of(&e));
        let (umem, entries) = Umem::new(umem_config, count, false).map_err(failed)?;
        let (mut rings, mut lanes, mut polled) = (Vec::new(), Vec::<Lane>::new(), Vec::new());
        for at in &config.queues {
            // Those after the first one are bound as that was.
            let is_zero_copy = lanes.first().is_some_and(|lane| lane.bound == Bound::ZeroCopy);
            let attempt = Attempt { at, zero_copy: attempt.zero_copy || is_zero_copy, bytes: attempt.bytes };
            let xsk = Xsk::bind(&attempt, config.zero_copy, &umem, half)?;
            let fd = xsk.rx.fd().as_raw_fd();
            let interface = kernel::index(&at.interface).map_err(|e| attempt.failed("reading its index", e))?;
            let bound = kernel::mode(fd).map_err(|e| attempt.failed("reading XDP_OPTIONS", e))?;
            polled.push(kernel::awaited(fd));
            rings.push(xsk);
            lanes.push(Lane { at: at.clone(), interface, bound });
        }
        let pool = Pool::new(rings, &entries, config.chunk as usize);
        Ok(Self { pool, umem, lanes, polled, receives: true })
    }

    /// How many sockets there are: a lane each, from 0.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Interface and queue of a lane.
    pub fn at(&self, lane: usize) -> &QueueName {
        static NOWHERE: QueueName = QueueName { interface: String::new(), queue: 0 };
        self.lanes.get(lane).map_or(&NOWHERE, |lane| &lane.at)
    }

    /// Index of a lane's interface; 0: no such lane.
    pub fn interface(&self, lane: usize) -> u32 {
        self.lanes.get(lane).map_or(0, |lane| lane.interface)
    }

    /// The lane that a frame leaves by which came in by lane `from` and has to leave by this interface.
    #[inline]
    pub fn lane_to(&self, interface: u32, from: usize) -> Option<usize> {
        if interface == 0 || interface == self.interface(from) {
            return Some(from);
        }
        self.lanes.iter().position(|lane| lane.interface == interface)
    }

    fn fd(&self, lane: usize) -> RawFd {
        self.pool.rings(lane).map_or(-1, |rings| rings.rx.fd().as_raw_fd())
    }

    /// The sockets of the lanes, for the XSKMAP.
    pub fn fds(&self) -> Vec<RawFd> {
        (0..self.lanes()).map(|lane| self.fd(lane)).collect()
    }

    /// Zero-copy or copy, as `XDP_OPTIONS` told.
    pub fn bound(&self, lane: usize) -> Bound {
        self.lanes.get(lane).map_or(Bound::Copy, |lane| lane.bound)
    }

    /// How many frames are where.
    pub fn census(&self) -> Census {
        self.pool.census()
    }

    /// What the kernel dropped for a lane's socket, and why.
    ///
    /// # Errors
    /// If `XDP_STATISTICS` cannot be read.
    pub fn statistics(&self, lane: usize) -> Result<Statistics, PortError> {
        kernel::statistics(self.fd(lane)).map_err(|e| self.fault(lane, "reading XDP_STATISTICS", e))
    }

    /// Adds what was received by a lane to `batch`, at most [`BATCH`] frames; a `batch` with less free capacity gets none.
    #[inline]
    pub fn receive(&mut self, lane: usize, batch: &mut Vec<Token>) -> usize {
        self.pool.receive(lane, batch)
    }

    /// The frame's bytes up to the end of its chunk, and how many of them were received.
    #[inline]
    pub fn bytes<'a>(&'a self, frame: &'a mut Token) -> (&'a mut [u8], usize) {
        if !self.pool.owns(frame) {
            return (&mut [], 0);
        }
        let length = frame.entry().lengths().data();
        // SAFETY: the token is this pool's and exclusively borrowed, so its chunk lies in this UMEM and is nobody else's.
        let mut data = unsafe { self.umem.data_mut(frame.entry_mut()) };
        data.cursor().set_pos(usize::MAX);
        let all = data.contents_mut();
        let (start, size) = (all.as_mut_ptr(), all.len());
        // SAFETY: the slice `contents_mut` gave, for as long as token and UMEM stay borrowed; xsk-rs ties it to a local.
        (unsafe { std::slice::from_raw_parts_mut(start, size) }, length)
    }

    /// Queues the first `length` bytes of a frame to be sent by a lane with the next [`Self::advance`].
    ///
    /// # Errors
    /// Gives the frame back if too many wait already.
    #[inline]
    pub fn send(&mut self, lane: usize, mut frame: Token, length: usize) -> Result<(), Token> {
        if self.pool.owns(&frame) {
            // SAFETY: as in `bytes`.
            let mut data = unsafe { self.umem.data_mut(frame.entry_mut()) };
            data.cursor().set_pos(length);
        }
        self.pool.send(lane, frame)
    }

    /// A free frame, to be written and sent; `None`: all are under way.
    pub fn take(&mut self) -> Option<Token> {
        self.pool.take()
    }

    /// Gives a received frame back unsent.
    #[inline]
    pub fn release(&mut self, frame: Token) {
        self.pool.release(frame);
    }

    /// Hands queued frames to the kernel and wakes it if it sleeps, takes sent frames back, refills the receive side.
    ///
    /// # Errors
    /// If an interface or a socket is gone.
    #[inline]
    pub fn advance(&mut self) -> Result<(), PortError> {
        (0..self.lanes()).try_for_each(|lane| self.advance_lane(lane))
    }

    #[inline]
    fn advance_lane(&mut self, lane: usize) -> Result<(), PortError> {
        self.pool.flush(lane);
        if self.pool.sending(lane) > 0 {
            // Without a look at the flag the kernel would be woken for nothing in zero-copy mode. Copying, it never sends by itself,
            // and kernels before v6.0 keep the flag from sockets that share a UMEM (60240bc26114).
            let copies = self.bound(lane) == Bound::Copy;
            let sleeps = |rings: &mut Xsk| rings.unsent() > 0 && (copies || rings.tx.needs_wakeup());
            if self.pool.rings_mut(lane).is_some_and(sleeps) {
                self.judge(lane, "waking the sender", kernel::wake_sender(self.fd(lane)))?;
            }
            while self.pool.reclaim(lane) == BATCH {}
        }
        if !self.receives {
            return Ok(());
        }
        while self.pool.refill(lane) == BATCH {}
        if !self.pool.rings(lane).is_some_and(|rings| rings.fill.needs_wakeup()) {
            return Ok(());
        }
        self.judge(lane, "waking the receiver", kernel::wake_receiver(self.fd(lane)))
    }

    /// Sleeps until a frame is there or the time (at most a second) is up; the kernel also sends meanwhile.
    ///
    /// # Errors
    /// If an interface or a socket is gone. `poll` alone would not tell: since v5.11 (f5da54187e33) it reports an unbound
    /// socket as an idle one, so silence is followed by a question.
    pub fn wait(&mut self, timeout: Duration) -> Result<(), PortError> {
        match kernel::poll(&mut self.polled, timeout) {
            Ok(true) => Ok(()),
            Ok(false) => {
                let ask = |lane| self.judge(lane, "asking the socket", kernel::wake_receiver(self.fd(lane)));
                (0..self.lanes()).try_for_each(ask)
            }
            Err((lane, errno)) => self.judge(lane, "waiting for frames", Err(errno)),
        }
    }

    /// A kernel that is only busy is asked again in the next round (`xsk_sendmsg`); all else ends the port.
    fn judge(&self, lane: usize, step: &'static str, answer: io::Result<()>) -> Result<(), PortError> {
        let Err(errno) = answer else { return Ok(()) };
        match errno.raw_os_error() {
            Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR) => Ok(()),
            _ => Err(self.fault(lane, step, errno)),
        }
    }

    #[cold]
    fn fault(&self, lane: usize, step: &'static str, errno: io::Error) -> PortError {
        let at = self.at(lane).clone();
        match errno.raw_os_error() {
            // An interface that is being deleted goes down first; this question waits until it is gone (RTNL).
            Some(libc::ENETDOWN) if receive_queues(&at.interface).is_err() => PortError::Vanished { at, errno },
            Some(libc::ENETDOWN) => PortError::Down { at },
            Some(libc::ENXIO | libc::ENODEV) => PortError::Vanished { at, errno },
            _ => PortError::System { at, step, errno },
        }
    }
}
