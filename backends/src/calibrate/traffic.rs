//! Generator and receiver of the calibration (`bpf/src/bench/calibration.rs`): as many frames under way as are allowed, and no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aya::maps::Map;
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use core_affinity::CoreId;
use etherparse::PacketBuilder;
use nix::sys::pthread::pthread_kill;
use nix::sys::signal::Signal;
use signal_hook::SigId;
use signal_hook::consts::SIGURG;
use std::os::fd::AsFd;
use std::os::unix::thread::JoinHandleExt;
use tandem_engine::memory::Line;

use super::{CalibrateError, Feed, sockets};
use crate::memory::Area;
use crate::xdp::{REFERENCES, errno};

/// Where the traffic goes.
pub(super) const VIP: &str = "10.200.1.1";
pub(super) const VIP_PORT: u16 = 80;
/// Flows: a power of two.
pub(super) const FLOWS: u32 = 1024;
/// Bytes of a frame without its FCS: the smallest.
pub(super) const FRAME: usize = 60;
/// Frames under way: less than a veth's ring takes (256), more than a batch of anybody.
const WINDOW: u64 = 192;
/// Frames that the kernel makes, and sends, at a time.
const BATCH: u32 = 64;
/// Frames of a call, sent or not: 0.1 s or so. While one runs, no grace period of RCU ends on a preemptible kernel (seen on 7.2: the call
/// leaves its read side only when it finds that it should be scheduled, and is preempted before it finds that).
const CALL: u32 = 1 << 21;
/// How long the generator may take to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// Words of the sender's line, and of the receiver's.
pub(super) const SENT: usize = 0;
pub(super) const CREDIT: usize = 1;
pub(super) const INTERFACE: usize = 2;
pub(super) const BACK: usize = 0;
const PORT_AT: usize = 2;
/// Where the destination port is in a frame of the traffic.
const DESTINATION_AT: usize = 36;

/// The traffic.
pub(super) struct Traffic {
    ebpf: Arc<Ebpf>,
    lines: Arc<Area<Line>>,
    frame: Arc<[u8]>,
    sending: Option<Sending>,
    by_sockets: Arc<AtomicBool>,
}

/// The thread that sends.
struct Sending {
    thread: JoinHandle<Result<(), CalibrateError>>,
    stop: Arc<AtomicBool>,
    /// A signal without a handler is no interruption; what the handler sets, nobody reads.
    handler: SigId,
}

/// Frames sent, and come back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passed {
    pub sent: u64,
    pub back: u64,
}

impl Traffic {
    pub fn load() -> Result<Self, CalibrateError> {
        let frame = frame();
        let mut head = [0_u32; 11];
        for (word, bytes) in head.iter_mut().zip(frame.chunks_exact(4)) {
            *word = bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        }
        let (flows, port) = (FLOWS - 1, u32::from(VIP_PORT.to_be()));
        let mut loader = EbpfLoader::new();
        loader.override_global("CIRCLE_FRAME", &head, true).override_global("CIRCLE_FLOWS", &flows, true);
        // What only benchmarks need is made as small as it can be.
        loader.override_global("CIRCLE_PORT", &port, true).map_max_entries("LATENCIES", 1);
        let mut ebpf = loader.load(REFERENCES).map_err(|error| CalibrateError::Generator(error.to_string()))?;
        let missing = |what: &str| CalibrateError::Plan(format!("the object has no {what}"));
        let Some(Map::Array(data)) = ebpf.map("CIRCLE") else { return Err(missing("array CIRCLE")) };
        let lines = Arc::new(Area::of_map("CIRCLE", data.fd().as_fd(), 2)?);
        let program: Option<&mut Xdp> = ebpf.program_mut("circle_send").and_then(|program| program.try_into().ok());
        let program = program.ok_or_else(|| missing("program circle_send"))?;
        program.load().map_err(|error| CalibrateError::Generator(error.to_string()))?;
        Ok(Self { ebpf: Arc::new(ebpf), lines, frame: frame.into(), sending: None, by_sockets: Arc::default() })
    }

    /// The object, before it sends.
    pub fn object(&mut self) -> Result<&mut Ebpf, CalibrateError> {
        Arc::get_mut(&mut self.ebpf).ok_or(CalibrateError::Thread("sends already"))
    }

    /// Starts the generator on a core, in the kernel unless `feed` says otherwise or the kernel cannot; it sends nothing before
    /// [`Self::open`]. `ends` are the interfaces that it may send by.
    pub fn start(&mut self, core: usize, feed: Feed, ends: Vec<(u32, String)>) -> Result<(), CalibrateError> {
        let handler = signal_hook::flag::register(SIGURG, Arc::default())
            .map_err(|error| CalibrateError::Generator(format!("SIGURG cannot be caught: {error}")))?;
        let (ebpf, frame, stop) = (self.ebpf.clone(), self.frame.clone(), Arc::new(AtomicBool::new(false)));
        let (stopped, lines, by_sockets) = (stop.clone(), self.lines.clone(), self.by_sockets.clone());
        let thread = std::thread::Builder::new().name("generator".to_owned()).spawn(move || {
            // Where it may not be pinned it runs wherever it may.
            core_affinity::set_for_current(CoreId { id: core });
            let live = match feed {
                Feed::LiveFrames => send(&ebpf, &frame, &stopped),
                Feed::Sockets => Err(CalibrateError::Generator("sockets are asked for".to_owned())),
            };
            live.or_else(|_| {
                by_sockets.store(true, Ordering::Relaxed);
                sockets::send(&ends, &lines, &frame, &stopped)
            })
        });
        match thread {
            Ok(thread) => self.sending = Some(Sending { thread, stop, handler }),
            Err(_) => {
                signal_hook::low_level::unregister(handler);
                return Err(CalibrateError::Thread("cannot start another one"));
            }
        }
        Ok(())
    }

    /// Who made the frames.
    pub fn feed(&self) -> Feed {
        if self.by_sockets.load(Ordering::Relaxed) { Feed::Sockets } else { Feed::LiveFrames }
    }

    fn word(&self, line: usize, word: usize) -> u64 {
        self.lines.get(line).map_or(0, |line| line.get(word))
    }

    fn set(&self, line: usize, word: usize, value: u64) {
        if let Some(line) = self.lines.get(line) {
            line.set(word, value);
        }
    }

    /// Frames so far.
    pub fn passed(&self) -> Passed {
        // In this order, or more could have come back than were sent.
        let back = self.word(1, BACK);
        Passed { sent: self.word(0, SENT), back }
    }

    /// Sends by an interface from here on; what comes back is longer by so many bytes.
    pub fn open(&self, interface: u32, longer: usize) {
        self.set(0, INTERFACE, u64::from(interface));
        self.set(1, PORT_AT, (DESTINATION_AT + longer) as u64);
        // What is under way from before is lost.
        let Passed { sent, back } = self.passed();
        self.set(0, CREDIT, sent.saturating_sub(back) + WINDOW);
    }

    /// Sends nothing any more.
    pub fn close(&self) {
        self.set(0, CREDIT, 0);
    }

    /// Why the generator ended by itself, if it did.
    pub fn check(&mut self) -> Result<(), CalibrateError> {
        if self.sending.as_ref().is_some_and(|sending| sending.thread.is_finished()) { self.stop() } else { Ok(()) }
    }

    /// Ends the generator.
    fn stop(&mut self) -> Result<(), CalibrateError> {
        let Some(Sending { thread, stop, handler }) = self.sending.take() else { return Ok(()) };
        stop.store(true, Ordering::Relaxed);
        let until = Instant::now() + PATIENCE;
        while !thread.is_finished() && Instant::now() < until {
            // A signal that comes between two calls is lost: so again and again.
            let _ = pthread_kill(thread.as_pthread_t(), Signal::SIGURG);
            std::thread::sleep(Duration::from_millis(1));
        }
        let ended = if thread.is_finished() { thread.join().ok() } else { None };
        signal_hook::low_level::unregister(handler);
        ended.unwrap_or(Err(CalibrateError::Thread("cannot end the generator")))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.close();
        if let Err(error) = self.stop() {
            log::debug!("calibration: {error}");
        }
    }
}

/// Few calls, as each takes tens of milliseconds to set up and to tear down; a signal ends one before its time.
fn send(ebpf: &Ebpf, frame: &[u8], stop: &AtomicBool) -> Result<(), CalibrateError> {
    let program: Option<&Xdp> = ebpf.program("circle_send").and_then(|program| program.try_into().ok());
    let program = program.ok_or_else(|| CalibrateError::Generator("it is gone".to_owned()))?;
    while !stop.load(Ordering::Relaxed) {
        let attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
        let options = TestRunOptions { data_in: Some(frame), repeat: CALL, attrs, ..Default::default() };
        match program.test_run(options) {
            Err(error) if errno(&error) != Some(libc::EINTR) => {
                return Err(CalibrateError::Generator(error.to_string()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A datagram to the VIP, of the first flow; without a checksum of layer 4, since flows differ in their ports.
fn frame() -> Vec<u8> {
    const HEADERS: usize = 42;
    let (client, vip) = ([198, 51, 100, 7], [10, 200, 1, 1]);
    let packet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]).ipv4(client, vip, 64).udp(1024, VIP_PORT);
    let mut frame = Vec::with_capacity(FRAME);
    // Writing into a vector cannot fail, and the payload fits its header.
    let _ = packet.write(&mut frame, &[0; FRAME - HEADERS]);
    if let Some(sum) = frame.get_mut(HEADERS - 2..HEADERS) {
        sum.fill(0);
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The program writes the source port at 34 and looks for the destination port where this says.
    #[test]
    fn the_frame_is_as_the_program_wants_it() {
        let frame = frame();
        assert_eq!(frame.len(), FRAME);
        assert_eq!(frame[34..36], 1024_u16.to_be_bytes());
        assert_eq!(frame[DESTINATION_AT..DESTINATION_AT + 2], VIP_PORT.to_be_bytes());
        assert_eq!(frame[30..34], VIP.parse::<std::net::Ipv4Addr>().unwrap().octets());
        assert_eq!(frame[40..42], [0, 0]);
        assert!(FLOWS.is_power_of_two());
    }
}
