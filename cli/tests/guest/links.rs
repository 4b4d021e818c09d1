//! The balancer itself on devices that only stock kernels have: a VLAN's device and a bond as its interface, and a VLAN's device as
//! the way to its real.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use nix::sched::{CloneFlags, unshare};
use socket2::Socket;
use tandem_backends::config::{Attach, parse};
use tandem_backends::run::{Handle, Life, Options, Reply, Request, Signals, run as balancer};
use tandem_backends::xdp::{Companion, attach_companion};

use super::bed::{ip, on_link, on_thread, sysctl};
use super::report::Report;
use super::start::is_init;

/// An emulated verifier takes its time.
const START: Duration = Duration::from_secs(300);
const WAIT: Duration = Duration::from_secs(10);
const HOP: [u8; 6] = [2, 0, 0, 0, 7, 7];

/// Links, and the balancer on one of them.
struct Stand {
    /// For `ip`.
    lines: &'static str,
    /// Far ends of veth pairs that have to take what XDP sends.
    far: &'static [&'static str],
    interface: &'static str,
    attach: &'static str,
    mode: &'static str,
}

const PLAIN_LINK: &str = "link add lb0 address 02:00:00:00:00:08 type veth peer name far0\nlink set lb0 up\nlink set far0 up\n\
    addr add 10.2.0.2/24 dev lb0\nneigh add 10.2.0.1 lladdr 02:00:00:00:07:07 dev lb0 nud permanent\n";
const ROUTED: &str = "link add lb0 address 02:00:00:00:00:08 type veth peer name far0\n\
    link add link lb0 name lb0.7 type vlan id 7\nlink add link far0 name far0.7 type vlan id 7\n\
    link set lb0 up\nlink set far0 up\nlink set lb0.7 up\nlink set far0.7 up\n\
    addr add 10.2.0.2/24 dev lb0.7\nneigh add 10.2.0.1 lladdr 02:00:00:00:07:07 dev lb0.7 nud permanent\n";
const OWN: &str = "link add lb0 address 02:00:00:00:00:08 type veth peer name far0\n\
    link add link lb0 name lb0.5 type vlan id 5\nlink add link far0 name far0.5 type vlan id 5\n\
    link set lb0 up\nlink set far0 up\nlink set lb0.5 up\nlink set far0.5 up\n\
    addr add 10.2.0.2/24 dev lb0.5\nneigh add 10.2.0.1 lladdr 02:00:00:00:07:07 dev lb0.5 nud permanent\n";
const BOND: &str = "link add s0 type veth peer name f0\nlink add s1 type veth peer name f1\n\
    link add b0 address 02:00:00:00:00:08 type bond mode active-backup miimon 50\n\
    link set s0 master b0\nlink set s1 master b0\nlink set b0 up\nlink set f0 up\nlink set f1 up\n\
    addr add 10.2.0.2/24 dev b0\nneigh add 10.2.0.1 lladdr 02:00:00:00:07:07 dev b0 nud permanent\n";

pub fn run(report: &mut Report) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let plain = Stand { lines: PLAIN_LINK, far: &["far0"], interface: "lb0", attach: "native", mode: "xdp" };
    say(report, "an ordinary device as the interface, to compare", plain.run(comes_back));
    for mode in ["xdp", "afxdp"] {
        let routed = Stand { lines: ROUTED, far: &["far0"], interface: "lb0", attach: "native", mode };
        say(report, &format!("in by another VLAN or none, out by a VLAN's device, mode {mode}"), routed.run(leaves_by_its_vlan));
        let own = Stand { lines: OWN, far: &[], interface: "lb0.5", attach: "generic", mode };
        say(report, &format!("a VLAN's device as the interface, generic, mode {mode}"), own.run(stays_in_its_vlan));
    }
    let native = Stand { lines: OWN, far: &[], interface: "lb0.5", attach: "native", mode: "xdp" };
    say(report, "a VLAN's device as the interface, native: refused by name", refused(native.run(|| Ok(())), "generic"));
    // Native XDP on bonds: 9e2ee5c7e7c3 (v5.15).
    let attach = if release.starts_with("5.10.") { "generic" } else { "native" };
    let bond = Stand { lines: BOND, far: &["f0", "f1"], interface: "b0", attach, mode: "xdp" };
    say(report, &format!("a bond as the interface, {attach}, with a member lost"), bond.run(fails_over));
    let workers = Stand { mode: "afxdp", ..bond };
    say(report, "a bond as the interface, mode afxdp: refused by name", refused(workers.run(|| Ok(())), "node.mode = \"xdp\""));
}

/// A kernel without modules lacks these devices.
fn say(report: &mut Report, name: &str, result: Result<(), String>) {
    match result {
        Err(why) if !is_init() && why.starts_with("ip: ") => report.skip(name, &why),
        result => report.result(name, result),
    }
}

fn refused(result: Result<(), String>, word: &str) -> Result<(), String> {
    match result {
        Err(why) if why.starts_with("ip: ") => Err(why),
        Err(why) if why.contains(word) => Ok(()),
        Err(why) => Err(format!("no word of {word:?}: {why}")),
        Ok(()) => Err("it was taken".to_owned()),
    }
}

/// A pin that goes with the test.
struct Pin(PathBuf);

impl Drop for Pin {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Stand {
    /// In a namespace of its own: the links, the balancer until it is ready, the test, the balancer's end.
    fn run(&self, test: impl FnOnce() -> Result<(), String> + Send) -> Result<(), String> {
        on_thread(|| unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace"), || self.within(test))
    }

    fn within(&self, test: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
        // Nobody announces himself.
        sysctl("ipv6/conf/default/disable_ipv6", "1")?;
        ip(&[], self.lines)?;
        let mut pins = Vec::new();
        for far in self.far {
            let pin = Path::new("/sys/fs/bpf").join(format!("guest-{far}-{}", std::process::id()));
            attach_companion(Companion::Pass, far, Attach::Native, &pin).map_err(|error| error.to_string())?;
            pins.push(Pin(pin));
        }
        let Self { interface, attach, mode, .. } = self;
        let text = format!(
            "[node]\ninterface = \"{interface}\"\nattach = \"{attach}\"\nmode = \"{mode}\"\n[tunnel]\nsource_v4 = \"10.2.0.2\"\n\
             [flows]\ncapacity = 1000\n\
             [[vip]]\naddress = \"10.200.1.1\"\nport = 80\nprotocol = \"udp\"\nreal = [{{ address = \"10.2.0.1\" }}]\n"
        );
        let plan = parse(&text, "guest").map_err(|error| format!("{error:?}"))?.plan;
        let options = Options { name: Some(format!("guest-{}", std::process::id())), ..Options::default() };
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
        let tested = match is_ready.recv_timeout(START) {
            Ok(()) => test().map_err(|why| format!("{why}; {}", counted(&handle))),
            Err(_) => Err("it was not ready in time".to_owned()),
        };
        signals.stop.store(true, Ordering::Relaxed);
        let ended = running.join().unwrap_or_else(|_| Err("it panicked".to_owned()));
        // Why it did not start says more than that it did not.
        ended.and(tested)
    }
}

/// What became of the frames, for who wants to know why.
fn counted(handle: &Receiver<Handle>) -> String {
    let Ok(handle) = handle.try_recv() else { return String::new() };
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

fn wire(link: &str) -> Result<Socket, String> {
    on_link(link).map_err(|error| format!("{link}: {error}"))
}

fn udp(from_port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let eth = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 8]);
    eth.ipv4([10, 1, 0, 1], [10, 200, 1, 1], 64).udp(from_port, 80).write(&mut frame, b"tandem").expect("a frame");
    frame
}

fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    [&frame[..12], &[0x81, 0], &vlan.to_be_bytes(), &frame[12..]].concat()
}

/// Sends until it comes back in IPIP towards the real, by another link.
fn exchange(from: &Socket, to: &mut Socket, frame: &[u8], payload_at: usize) -> Result<(), String> {
    let (until, mut buffer) = (Instant::now() + WAIT, [0; 2048]);
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

const PLAIN: usize = 26;
const TAGGED: usize = PLAIN + 4;

fn comes_back() -> Result<(), String> {
    let mut wire = wire("far0")?;
    let from = wire.try_clone().map_err(|error| error.to_string())?;
    exchange(&from, &mut wire, &udp(5000), PLAIN)
}

fn leaves_by_its_vlan() -> Result<(), String> {
    let (from, mut to) = (wire("far0")?, wire("far0.7")?);
    exchange(&from, &mut to, &udp(5000), PLAIN).map_err(|why| format!("without a tag: {why}"))?;
    exchange(&from, &mut to, &tagged(&udp(5001), 5), TAGGED).map_err(|why| format!("VLAN 5: {why}"))?;
    exchange(&from, &mut to, &tagged(&udp(5002), 7), TAGGED).map_err(|why| format!("VLAN 7: {why}"))
}

fn stays_in_its_vlan() -> Result<(), String> {
    let (from, mut to) = (wire("far0")?, wire("far0.5")?);
    exchange(&from, &mut to, &tagged(&udp(5000), 5), TAGGED)
}

/// What comes by the active member goes back by it; when that one has lost its carrier, by the other.
fn fails_over() -> Result<(), String> {
    let mut first = wire("f0")?;
    let again = first.try_clone().map_err(|error| error.to_string())?;
    exchange(&again, &mut first, &udp(5000), PLAIN).map_err(|why| format!("by the first member: {why}"))?;
    ip(&[], "link set f0 down\n")?;
    let mut second = wire("f1")?;
    let again = second.try_clone().map_err(|error| error.to_string())?;
    exchange(&again, &mut second, &udp(5000), PLAIN).map_err(|why| format!("by the second one: {why}"))
}
