//! One AF_XDP socket on one queue of one interface, with its own UMEM. This file and [`kernel`] hold the only `unsafe`
//! of this seat.
//!
//! The socket loads no XDP program: the balancer's is there already, and finds [`Port::fd`] in its XSKMAP.
//! Kernel side: `Documentation/networking/af_xdp.rst`, `net/xdp/xsk.c`.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use xsk_rs::config::{
    BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig, XDP_UMEM_MIN_CHUNK_SIZE,
};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use super::error::{Attempt, PortError, QueueName, errno_of};
use super::frames::{BATCH, Census, Descriptor, Frame, Pool, QUEUED, Rings};

mod config;
pub(super) mod kernel;

pub use config::{Ask, Bound, PortConfig};
pub use kernel::{Statistics, receive_queues};

/// The right to one frame of a [`Port`].
pub type Token = Frame<FrameDesc>;

/// How long a busy queue is given to become free.
const RELEASE: Duration = Duration::from_millis(500);

/// The socket's four rings.
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

/// An open AF_XDP socket with its frames.
pub struct Port {
    // Before `umem`: the rings are unmapped by the last of the four queues.
    pool: Pool<Xsk>,
    umem: Umem,
    at: QueueName,
    bound: Bound,
    /// Whether free frames go to the kernel to receive into.
    receives: bool,
}

impl Port {
    /// Opens and binds the socket in the network namespace of the calling thread, and gives it its first frames.
    ///
    /// # Errors
    /// See [`PortError`]. Copy mode is taken only if [`PortConfig::zero_copy`] allows it.
    pub fn open(config: &PortConfig) -> Result<Self, PortError> {
        let mut port = Self::bind_patiently(config)?;
        let found = kernel::mode(port.fd()).map_err(|e| port.fault("reading XDP_OPTIONS", e))?;
        if !config.zero_copy.allows(found) {
            return Err(PortError::OtherMode { at: port.at, asked: config.zero_copy, found });
        }
        port.bound = found;
        while port.pool.refill() > 0 {}
        // `bind` takes an interface that is down, too.
        port.judge("asking the socket", kernel::wake_receiver(port.fd()))?;
        Ok(port)
    }

    /// The same for who only sends: its frames stay free, for [`Self::take`].
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_to_send(config: &PortConfig) -> Result<Self, PortError> {
        let mut port = Self::bind_patiently(config)?;
        port.bound = kernel::mode(port.fd()).map_err(|e| port.fault("reading XDP_OPTIONS", e))?;
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
        let attempt = Attempt { at: &config.at, zero_copy: config.zero_copy == Ask::Require, bytes: config.bytes() };
        let fault = |step, errno| attempt.failed(step, errno);
        let size = |what, found: u32, expected| PortError::Size { at: config.at.clone(), what, found: found as usize, expected };
        let chunk = FrameSize::new(config.chunk).ok().filter(|c| matches!(c.get(), XDP_UMEM_MIN_CHUNK_SIZE | 4096));
        let chunk = chunk.ok_or_else(|| size("bytes of a chunk", config.chunk, "2048 or 4096"))?;
        let few = || size("frames", config.frames, "a power of two from 64 to 1048576");
        if !(64..=1 << 20).contains(&config.frames) {
            return Err(few());
        }
        // The fill ring takes every frame; the pool lets no more than half be on their way out.
        let all = QueueSize::new(config.frames).map_err(|_| few())?;
        let half = QueueSize::new(config.frames / 2).map_err(|_| few())?;
        let name: Interface = config.at.interface.parse().map_err(|_| PortError::NoInterface { at: config.at.clone() })?;

        let umem_config = UmemConfig::builder()
            .frame_size(chunk)
            .fill_queue_size(all)
            .comp_queue_size(half)
            .build()
            .map_err(|_| size("bytes of a chunk", config.chunk, "2048 or 4096"))?;
        let count = std::num::NonZeroU32::new(config.frames).ok_or_else(few)?;
        let (umem, entries) =
            Umem::new(umem_config, count, false).map_err(|e| fault("registering frame memory", errno_of(&e)))?;

        // Without a flag the kernel tries zero-copy and falls back for whatever reason the driver has (xp_assign_dev).
        let flag = match config.zero_copy {
            Ask::Require => BindFlags::XDP_ZEROCOPY,
            Ask::Prefer => BindFlags::empty(),
            Ask::Never => BindFlags::XDP_COPY,
        };
        let socket_config = SocketConfig::builder()
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(flag | BindFlags::XDP_USE_NEED_WAKEUP)
            .rx_queue_size(half)
            .tx_queue_size(half)
            .build();
        // SAFETY: the UMEM is new and shared with no other socket, and no program is loaded by libxdp.
        let socket = unsafe { Socket::new(socket_config, &umem, &name, config.at.queue) };
        let (tx, rx, rings) = socket.map_err(|e| fault("binding the socket", errno_of(&e)))?;
        let (fill, completion) =
            rings.ok_or_else(|| fault("mapping the rings", io::Error::other("no fill and completion ring")))?;

        let scratch = [FrameDesc::default(); QUEUED];
        let pool = Pool::new(Xsk { fill, rx, tx, completion, tx_size: half.get(), scratch }, &entries, config.chunk as usize);
        Ok(Self { pool, umem, at: config.at.clone(), bound: Bound::Copy, receives: true })
    }

    /// Interface and queue.
    pub fn at(&self) -> &QueueName {
        &self.at
    }

    /// The socket, for the XSKMAP.
    pub fn fd(&self) -> RawFd {
        self.pool.rings().rx.fd().as_raw_fd()
    }

    /// Zero-copy or copy, as `XDP_OPTIONS` told.
    pub fn bound(&self) -> Bound {
        self.bound
    }

    /// How many frames are where.
    pub fn census(&self) -> Census {
        self.pool.census()
    }

    /// What the kernel dropped for this socket, and why.
    ///
    /// # Errors
    /// If `XDP_STATISTICS` cannot be read.
    pub fn statistics(&self) -> Result<Statistics, PortError> {
        kernel::statistics(self.fd()).map_err(|e| self.fault("reading XDP_STATISTICS", e))
    }

    /// Adds what was received to `batch`, at most [`BATCH`] frames; a `batch` with less free capacity gets none.
    #[inline]
    pub fn receive(&mut self, batch: &mut Vec<Token>) -> usize {
        self.pool.receive(batch)
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

    /// Queues the first `length` bytes of a frame to be sent by [`Self::advance`].
    ///
    /// # Errors
    /// Gives the frame back if too many wait already.
    #[inline]
    pub fn send(&mut self, mut frame: Token, length: usize) -> Result<(), Token> {
        if self.pool.owns(&frame) {
            // SAFETY: as in `bytes`.
            let mut data = unsafe { self.umem.data_mut(frame.entry_mut()) };
            data.cursor().set_pos(length);
        }
        self.pool.send(frame)
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
    /// If interface or socket are gone.
    #[inline]
    pub fn advance(&mut self) -> Result<(), PortError> {
        self.pool.flush();
        if self.pool.census().sending > 0 {
            let rings = self.pool.rings_mut();
            // Without a look at the flag the kernel would be woken for nothing in zero-copy mode.
            if rings.unsent() > 0 && rings.tx.needs_wakeup() {
                self.judge("waking the sender", kernel::wake_sender(self.fd()))?;
            }
            while self.pool.reclaim() == BATCH {}
        }
        if !self.receives {
            return Ok(());
        }
        while self.pool.refill() == BATCH {}
        if !self.pool.rings().fill.needs_wakeup() {
            return Ok(());
        }
        self.judge("waking the receiver", kernel::wake_receiver(self.fd()))
    }

    /// Sleeps until a frame is there or the time (at most a second) is up; the kernel also sends meanwhile.
    ///
    /// # Errors
    /// If interface or socket are gone. `poll` alone would not tell: since v5.11 (f5da54187e33) it reports an unbound
    /// socket as an idle one, so silence is followed by a question.
    pub fn wait(&mut self, timeout: Duration) -> Result<(), PortError> {
        match kernel::poll(self.fd(), timeout) {
            Ok(true) => Ok(()),
            Ok(false) => self.judge("asking the socket", kernel::wake_receiver(self.fd())),
            Err(errno) => self.judge("waiting for frames", Err(errno)),
        }
    }

    /// A kernel that is only busy is asked again in the next round (`xsk_sendmsg`); all else ends the port.
    fn judge(&self, step: &'static str, answer: io::Result<()>) -> Result<(), PortError> {
        let Err(errno) = answer else { return Ok(()) };
        match errno.raw_os_error() {
            Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR) => Ok(()),
            _ => Err(self.fault(step, errno)),
        }
    }

    #[cold]
    fn fault(&self, step: &'static str, errno: io::Error) -> PortError {
        let at = self.at.clone();
        match errno.raw_os_error() {
            // An interface that is being deleted goes down first; this question waits until it is gone (RTNL).
            Some(libc::ENETDOWN) if receive_queues(&at.interface).is_err() => PortError::Vanished { at, errno },
            Some(libc::ENETDOWN) => PortError::Down { at },
            Some(libc::ENXIO | libc::ENODEV) => PortError::Vanished { at, errno },
            _ => PortError::System { at, step, errno },
        }
    }
}
