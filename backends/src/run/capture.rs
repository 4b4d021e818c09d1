//! A capture: one at a time, by a program in the place of the balancer's, until nobody listens any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Sender, TrySendError, bounded};
use tandem_engine::capture::Sight;
use tandem_engine::{From as ChosenBy, Reason};

use super::balancer::Running;
use super::error::RunError;
use super::protocol::{CaptureStream, CaptureWish, Refusal};
use crate::afxdp::Tap;
use crate::afxdp::tap::monotonic;
use crate::capture::{Counts, Fate, Frame, Part};
use crate::memory::Tables;
use crate::replay::real_addr;
use crate::xdp::Sources;

/// How often the buffers are looked at.
const LOOK: Duration = Duration::from_millis(10);
/// How often something is told, also if nothing comes: so it is known whether somebody listens.
const BEAT: Duration = Duration::from_millis(200);
/// Frames of a part: far less than the 4 MiB that a client takes.
const FRAMES: usize = 256;
/// Parts that wait for who listens.
const PARTS: usize = 64;

/// A capture that runs.
pub(super) struct Session {
    who: String,
    since: Instant,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Counts>,
}

impl Running {
    /// Puts the program that captures into the place of the other one.
    pub(super) fn start_capture(&mut self, asked: CaptureWish) -> Result<CaptureStream, Refusal> {
        self.follow_capture();
        if let Some(Session { who, since, .. }) = &self.capture {
            let seconds = since.elapsed().as_secs();
            let text =
                format!("{who} has been capturing for {seconds} s; there can be one capture at a time: end that one first");
            return Err(Refusal::Failed(text));
        }
        let CaptureWish { wish, who } = asked;
        self.tap.open(wish.snap);
        let started = self.balancer.capture(Some(wish)).map_err(RunError::from).and_then(|()| {
            let sources = self.balancer.sources()?;
            self.put_in_place()?;
            Ok(sources)
        });
        let sources = started.map_err(|error| {
            self.put_plain_program();
            Refusal::Failed(format!("nothing is captured: {error}"))
        })?;
        let (to, parts) = bounded(PARTS);
        let stop = Arc::new(AtomicBool::new(false));
        let teller = Teller {
            sources,
            tap: self.tap.clone(),
            tables: self.control.tables().clone(),
            counts: Counts::default(),
            unread: 0,
            offset: wall().wrapping_sub(monotonic()),
            to,
        };
        let thread = std::thread::Builder::new().name("capture".to_owned()).spawn({
            let stop = stop.clone();
            move || teller.run(&stop)
        });
        let thread = thread.map_err(|error| {
            self.put_plain_program();
            Refusal::Failed(format!("nothing is captured: no thread for it: {error}"))
        })?;
        log::info!("{}: {who} captures", self.interface.name);
        self.capture = Some(Session { who, since: Instant::now(), stop, thread });
        let interfaces = self.interfaces.iter().map(|interface| (interface.index, interface.name.clone()));
        Ok(CaptureStream { parts, interfaces: interfaces.collect() })
    }

    /// Puts the plain program back once nobody listens.
    pub(super) fn follow_capture(&mut self) {
        if self.capture.as_ref().is_some_and(|session| session.thread.is_finished()) {
            self.end_capture(true);
        }
    }

    /// Ends a capture, if there is one; `forwards`: the program goes on forwarding.
    pub(super) fn end_capture(&mut self, forwards: bool) {
        let Some(Session { who, stop, thread, .. }) = self.capture.take() else { return };
        stop.store(true, Ordering::Relaxed);
        let Counts { captured, limited, lost, .. } = thread.join().unwrap_or_default();
        let name = &self.interface.name;
        log::info!("{name}: {who} captured {captured} frames; {limited} were over the rate, {lost} sights were lost");
        if forwards {
            self.put_plain_program();
        }
    }

    fn put_plain_program(&mut self) {
        let done = self.balancer.capture(None).map_err(RunError::from).and_then(|()| self.put_in_place());
        if let Err(error) = done {
            log::error!("{}: the program that captures stays, and forwards as before: {error}", self.interface.name);
        }
    }
}

/// Nanoseconds since 1970.
fn wall() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

/// From the seats to who listens.
struct Teller {
    sources: Sources,
    tap: Arc<Tap>,
    tables: Arc<Tables>,
    counts: Counts,
    /// Sights that workers had no place for, or who listens no time.
    unread: u64,
    /// From the monotonic clock to the time since 1970. Measured once: so no two sights change places.
    offset: u64,
    to: Sender<Part>,
}

impl Teller {
    /// Goes on until it is told to stop or nobody listens.
    fn run(mut self, stop: &AtomicBool) -> Counts {
        let mut told = Instant::now();
        loop {
            let is_last = stop.load(Ordering::Relaxed);
            // Before the look: what comes meanwhile is later.
            let before = monotonic();
            let (mut frames, is_all) = self.look();
            let now = if is_all { before } else { 0 };
            if !frames.is_empty() || told.elapsed() >= BEAT || is_last {
                told = Instant::now();
                while frames.len() > FRAMES {
                    let rest = frames.split_off(FRAMES);
                    // The time of a part is for all of a look.
                    self.tell(frames, 0);
                    frames = rest;
                }
                if !self.tell(frames, now) || is_last {
                    return self.counts;
                }
            }
            std::thread::sleep(LOOK);
        }
    }

    /// What is there now, and whether that is all.
    fn look(&mut self) -> (Vec<Frame>, bool) {
        let Self { sources, tap, tables, offset, .. } = self;
        let mut frames = Vec::new();
        let mut note = |sight: &Sight, bytes: &[u8]| frames.push(frame(sight, bytes, *offset, tables));
        let is_all = sources.read(&mut note);
        self.unread += tap.read(&mut note);
        self.counts = sources.counts();
        self.counts.lost += self.unread;
        (frames, is_all)
    }

    /// `false`: nobody listens.
    fn tell(&mut self, frames: Vec<Frame>, now: u64) -> bool {
        let now = if now == 0 { 0 } else { now.wrapping_add(self.offset) };
        match self.to.try_send(Part { frames, counts: self.counts, now }) {
            Ok(()) => true,
            Err(TrySendError::Full(part)) => {
                self.unread += part.frames.len() as u64;
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

fn frame(sight: &Sight, bytes: &[u8], offset: u64, tables: &Tables) -> Frame {
    let reason = sight.reason.checked_sub(1).and_then(Reason::from_index);
    let chosen = Some(sight.real).filter(|real| *real != 0);
    let fate = reason.map(|reason| Fate {
        reason,
        real: chosen.and_then(|real| real_addr(tables, real)),
        from: chosen.and_then(|_| ChosenBy::ALL.into_iter().find(|from| *from as u32 == sight.from)),
    });
    Frame {
        mark: sight.mark,
        time: sight.time.wrapping_add(offset),
        interface: sight.interface,
        queue: sight.queue,
        fate,
        len: sight.len,
        bytes: bytes.to_vec(),
    }
}
