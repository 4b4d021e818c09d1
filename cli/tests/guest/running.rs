//! A balancer on devices of this kernel, as `tandem run` runs it, with frames sent at the far end of its wire.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use nix::sched::{CloneFlags, unshare};
use socket2::Socket;
use tandem_backends::config::{Attach, Plan, parse};
use tandem_backends::run::{Handle, Life, Options, Reply, Request, Signals, run as balancer};
use tandem_backends::xdp::{Companion, attach_companion};

use super::bed::{ip, on_link, on_thread, sysctl};

/// An emulated verifier takes its time.
const START: Duration = Duration::from_secs(300);
const WAIT: Duration = Duration::from_secs(10);
const HOP: [u8; 6] = [2, 0, 0, 0, 7, 7];

/// Links, and the balancer on one of them.
pub struct Stand {
    /// For `ip`.
    pub lines: &'static str,
    /// Far ends of veth pairs that have to take what XDP sends.
    pub far: &'static [&'static str],
    pub interface: &'static str,
    pub attach: &'static str,
    /// Further lines of the configuration's `[node]`.
    pub node: &'static str,
    pub mode: &'static str,
}

/// One wire.
pub const PLAIN_LINK: &str = "link add lb0 address 02:00:00:00:00:08 type veth peer name far0\nlink set lb0 up\nlink set far0 up\n\
    addr add 10.2.0.2/24 dev lb0\nneigh add 10.2.0.1 lladdr 02:00:00:00:07:07 dev lb0 nud permanent\n";

/// A pin that goes with the test.
struct Pin(PathBuf);

impl Drop for Pin {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Stand {
    /// In a namespace of its own: the links, then the test.
    pub fn set_up(&self, test: impl FnOnce() -> Result<(), String> + Send) -> Result<(), String> {
        on_thread(
            || unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace"),
            || {
                // Nobody announces himself.
                sysctl("ipv6/conf/default/disable_ipv6", "1")?;
                ip(&[], self.lines)?;
                let mut pins = Vec::new();
                for far in self.far {
                    let pin = Path::new("/sys/fs/bpf").join(format!("guest-{far}-{}", std::process::id()));
                    attach_companion(Companion::Pass, far, Attach::Native, &pin).map_err(|error| error.to_string())?;
                    pins.push(Pin(pin));
                }
                test()
            },
        )
    }

    /// The links, the balancer until it is ready, the test, the balancer's end.
    pub fn run(&self, test: impl FnOnce(&Handle) -> Result<(), String> + Send) -> Result<(), String> {
        self.set_up(|| self.balance(false, test))
    }

    pub fn plan(&self) -> Result<Plan, String> {
        let Self { interface, attach, node, mode, .. } = self;
        let text = format!(
            "[node]\ninterface = \"{interface}\"\nattach = \"{attach}\"\nmode = \"{mode}\"\n{node}[tunnel]\nsource_v4 = \"10.2.0.2\"\n\
             [flows]\ncapacity = 1000\n\
             [[vip]]\naddress = \"10.200.1.1\"\nport = 80\nprotocol = \"udp\"\nreal = [{{ address = \"10.2.0.1\" }}]\n"
        );
        Ok(parse(&text, "guest").map_err(|error| format!("{error:?}"))?.plan)
    }

    /// The balancer until it is ready, the test, the balancer's end: with everything left in place, or taken away.
    pub fn balance(&self, leave: bool, test: impl FnOnce(&Handle) -> Result<(), String>) -> Result<(), String> {
        self.balance_by(Options { leave_attached: leave, ..Options::default() }, test)
    }

    /// The same, run otherwise.
    pub fn balance_by(&self, options: Options, test: impl FnOnce(&Handle) -> Result<(), String>) -> Result<(), String> {
        let plan = self.plan()?;
        let options = Options { name: Some(format!("guest-{}", std::process::id())), ..options };
        let (signals, (ready, is_ready), (handles, handle)) = (Signals::default(), channel(), channel());
        let running = std::thread::spawn({
            let signals = signals.clone();
            let tell = move |life| {
                if life == Life::Ready {
                    let _ = ready.send(());
                }
            };
            let serve = move |handle, _| Ok(handles.send(handle)?);
            move || balancer(&plan, &options, &signals, tell, serve).map_err(|error| error.to_string())
        });
        let tested = match (is_ready.recv_timeout(START), handle.try_recv()) {
            (Ok(()), Ok(handle)) => test(&handle).map_err(|why| format!("{why}; {}", counted(&handle))),
            _ => Err("it was not ready in time".to_owned()),
        };
        signals.stop.store(true, Ordering::Relaxed);
        let ended = running.join().unwrap_or_else(|_| Err("it panicked".to_owned()));
        // Why it did not start says more than that it did not.
        ended.and(tested)
    }
}

/// What became of the frames, for who wants to know why.
fn counted(handle: &Handle) -> String {
    let mut said = Vec::new();
    if let Ok(Reply::Counters(seats)) = handle.ask(Request::Counters) {
        for (seat, counters) in [("xdp", &seats.xdp), ("afxdp", &seats.afxdp)] {
            let moved = counters.reasons.iter().filter(|(_, count)| **count > 0);
            said.extend(moved.map(|(reason, count)| format!("{seat} {reason} {count}")));
        }
    }
    if let Ok(Reply::Mode(report)) = handle.ask(Request::Mode) {
        said.extend(report.unreachable.iter().map(|row| format!("{row:?}")));
    }
    said.join(", ")
}

/// Frames that each seat has forwarded: kernel, workers.
pub fn forwarded(handle: &Handle) -> Result<[u64; 2], String> {
    match handle.ask(Request::Counters) {
        Ok(Reply::Counters(seats)) => {
            Ok([&seats.xdp, &seats.afxdp].map(|counters| counters.reasons.get("forwarded").copied().unwrap_or(0)))
        }
        other => Err(format!("no counters: {other:?}")),
    }
}

pub fn wire(link: &str) -> Result<Socket, String> {
    on_link(link).map_err(|error| format!("{link}: {error}"))
}

pub fn udp(from_port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let eth = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 8]);
    eth.ipv4([10, 1, 0, 1], [10, 200, 1, 1], 64).udp(from_port, 80).write(&mut frame, b"tandem").expect("a frame");
    frame
}

/// Sends until it comes back in IPIP towards the real, by another link.
pub fn exchange(from: &Socket, to: &mut Socket, frame: &[u8], payload_at: usize) -> Result<(), String> {
    exchange_within(WAIT, from, to, frame, payload_at)
}

/// The same, for some time.
pub fn exchange_within(most: Duration, from: &Socket, to: &mut Socket, frame: &[u8], payload_at: usize) -> Result<(), String> {
    let (until, mut buffer) = (Instant::now() + most, [0; 2048]);
    let is_it = |out: &[u8]| {
        out.len() > 46
            && out[..12] == [HOP, [2, 0, 0, 0, 0, 8]].concat()
            && out[12..14] == [8, 0]
            && out[30..34] == [10, 2, 0, 1]
            && out[46..] == frame[payload_at..]
    };
    let mut seen = Vec::new();
    while Instant::now() < until {
        from.send(frame).map_err(|error| format!("sending: {error}"))?;
        std::thread::sleep(Duration::from_millis(50));
        while let Ok(len) = to.read(&mut buffer) {
            if is_it(&buffer[..len]) {
                return Ok(());
            }
            seen = buffer[..len].to_vec();
        }
    }
    Err(format!("it does not come; the last frame there: {seen:02x?}"))
}

/// Where what the client sent begins behind its TTL and checksum, which change on the way.
pub const PLAIN: usize = 26;

/// A frame comes back by the plain wire.
pub fn comes_back(from_port: u16) -> Result<(), String> {
    let mut wire = wire("far0")?;
    let from = wire.try_clone().map_err(|error| error.to_string())?;
    exchange(&from, &mut wire, &udp(from_port), PLAIN)
}
