//! A balancer with two interfaces, behind each of them clients and a real server, in both seats.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, gettid};
use rtnetlink::packet_route::link::XdpAttached;
use serde_json::Value;
use tandem_backends::config::Attach;
use tandem_backends::run::Paths;
use tandem_backends::xdp::{Companion, attach_companion};
use tandem_lab::{BPFFS, switch_off};

use super::capture::{self, Capturing, Contents, Frame};
use super::shell::{Balancer, Scratch, assert_gone, balancer_name, tandem, was_ended_by};
use super::wire::{Links, in_namespace};

/// The balancer's interfaces, and the hosts behind them: 10.N.0.1 -- 10.N.0.2 (balancer).
const NEAR: [&str; 2] = ["front", "back"];
const FAR: [&str; 2] = ["left", "right"];
/// What the host behind the other interface serves, by a tunnel, and by NAT.
const TUNNEL: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 200, 1, 1), Ipv4Addr::new(10, 200, 1, 2)];
const NAT: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 200, 2, 1), Ipv4Addr::new(10, 200, 2, 2)];
const REAL_PORT: u16 = 8080;
const TIMEOUT: Duration = Duration::from_secs(20);

/// A thread in a network namespace of its own, which goes with it.
struct Place {
    thread: Pid,
    jobs: Sender<Box<dyn FnOnce() + Send>>,
}

impl Place {
    fn new() -> Self {
        let (jobs, todo) = channel::<Box<dyn FnOnce() + Send>>();
        let (tell, told) = channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            tell.send(gettid()).expect("somebody waits");
            todo.into_iter().for_each(|job| job());
        });
        Self { thread: told.recv().expect("a thread"), jobs }
    }

    /// Does this there; what it panics with is passed on.
    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = channel();
        let job = move || {
            let _ = tell.send(std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)));
        };
        self.jobs.send(Box::new(job)).expect("the thread is there");
        told.recv().expect("an answer").unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn ip(words: &str) {
    let output = Command::new("ip").args(words.split_whitespace()).output().expect("ip runs");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Two hosts with the balancer's namespace, which is the test's, between them.
struct Stand {
    hosts: [Place; 2],
    pins: Vec<PathBuf>,
}

impl Stand {
    fn new() -> Self {
        let stand =
            Self { hosts: [Place::new(), Place::new()], pins: (0..2).map(|_| Path::new(BPFFS).join(balancer_name())).collect() };
        // Reals answer clients by way of the balancer's own stack. (procfs shows the namespace of who opens it.)
        for (key, value) in [("ip_forward", "1"), ("conf/all/rp_filter", "0"), ("conf/default/rp_filter", "0")] {
            std::fs::write(format!("/proc/sys/net/ipv4/{key}"), value).expect("a setting");
        }
        for (n, host) in stand.hosts.iter().enumerate() {
            let (near, far, net) = (NEAR[n], FAR[n], n + 1);
            // Not the same number of queues: there are as many workers as the fewer.
            let queues = format!("numrxqueues {net} numtxqueues {net}");
            ip(&format!("link add {near} mtu 1600 {queues} type veth peer name {far} mtu 1600 {queues}"));
            switch_off(near).expect("offloads");
            ip(&format!("link set dev {far} netns {}", host.thread));
            ip(&format!("addr add 10.{net}.0.2/24 dev {near}"));
            ip(&format!("link set dev {near} up"));
            let pin = stand.pins[n].clone();
            host.run(move || settle(n, &pin));
        }
        stand
    }

    /// `connections` transfers from each host to what the other one serves, each compared byte by byte.
    fn transfers(&self, connections: usize) {
        for n in 0..2 {
            self.hosts[n].run(move || transfers(1 - n, connections));
        }
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.pins.iter().for_each(|pin| drop(std::fs::remove_file(pin)));
    }
}

/// Makes host `n`, on its own thread: its addresses, its server, a program that opens tunnels.
fn settle(n: usize, pin: &Path) {
    let (far, net, vip) = (FAR[n], n + 1, TUNNEL[n]);
    switch_off(far).expect("offloads");
    ip("link set dev lo up");
    ip(&format!("addr add {vip}/32 dev lo"));
    ip(&format!("addr add 10.{net}.0.1/24 dev {far}"));
    ip(&format!("link set dev {far} up"));
    // A tunnel's headers fit behind full packets: the link takes more than what is sent on it.
    ip(&format!("route add default via 10.{net}.0.2 mtu 1500"));
    attach_companion(Companion::Decap, far, Attach::Native, pin).expect("attached");
    for at in [SocketAddr::from((vip, 80)), SocketAddr::from(([10, net as u8, 0, 1], REAL_PORT))] {
        let listener = TcpListener::bind(at).expect("a port");
        std::thread::spawn(move || listener.incoming().flatten().for_each(echo));
    }
}

fn echo(stream: TcpStream) {
    std::thread::spawn(move || {
        let mut to = stream.try_clone().expect("a second handle");
        let _ = std::io::copy(&mut &stream, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
}

/// Transfers to host `n`, one after the other, by the tunnel and by NAT.
fn transfers(n: usize, connections: usize) {
    for seed in 0..connections {
        transfer(TUNNEL[n], seed);
        transfer(NAT[n], seed);
    }
}

fn transfer(to: Ipv4Addr, seed: usize) {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(to.into(), 80), TIMEOUT).unwrap_or_else(|e| panic!("{to}: {e}"));
    stream.set_read_timeout(Some(TIMEOUT)).expect("a limit");
    let sent: Vec<u8> = (0..60_001 + seed).map(|at| (at * 31 + at / 256 + seed) as u8).collect();
    let writer = std::thread::spawn({
        let (mut stream, sent) = (stream.try_clone().expect("a second handle"), sent.clone());
        move || stream.write_all(&sent).and_then(|()| stream.shutdown(Shutdown::Write))
    });
    let mut received = Vec::new();
    (&stream).read_to_end(&mut received).unwrap_or_else(|e| panic!("{to}: {e}"));
    writer.join().expect("no panic").expect("written");
    assert!(received == sent, "{to}: {} of {} bytes came back, or others", received.len(), sent.len());
}

/// The VIPs of both hosts, by a tunnel and by NAT.
fn config(interfaces: &str, mode: &str) -> String {
    let vip = |n: usize, address: Ipv4Addr, real: &str| {
        let net = n + 1;
        format!(
            "[[vip]]\naddress = \"{address}\"\nport = 80\nprotocol = \"tcp\"\nreal = [{{ address = \"10.{net}.0.1\", {real} }}]\n"
        )
    };
    let vips = (0..2).map(|n| {
        let nat = format!("encap = \"nat\", port = {REAL_PORT}");
        vip(n, TUNNEL[n], "weight = 1") + &vip(n, NAT[n], &nat)
    });
    let vips: String = vips.collect();
    format!(
        "[node]\ninterface = {interfaces}\nmode = \"{mode}\"\n[tunnel]\nsource_v4 = \"10.2.0.2\"\n[nat]\nsources_v4 = [\"10.2.0.2\"]\n\
         [flows]\ncapacity = 10_000\n{vips}"
    )
}

const BOTH: &str = "[\"front\", \"back\"]";
const TURNED: &str = "[\"back\", \"front\"]";

/// Packets to each VIP, and what was sent back by NAT, in a seat.
fn carried(balancer: &Balancer, seat: &str) -> Vec<u64> {
    let counters = balancer.ask(&["counters"]);
    for seat in ["xdp", "afxdp"] {
        for none in ["no-interface", "defect", "no-socket"] {
            assert_eq!(counters[seat]["seat"][none], 0, "{counters}");
        }
    }
    let vip = |address: &Ipv4Addr| counters[seat]["vips"][format!("{address}:80/tcp")]["packets"].as_u64().unwrap_or(0);
    let replies = counters[seat]["reasons"]["nat-reply"].as_u64().unwrap_or(0);
    TUNNEL.iter().chain(&NAT).map(vip).chain([replies]).collect()
}

fn assert_attached(links: &Links) {
    let (front, back) = (links.xdp(NEAR[0]), links.xdp(NEAR[1]));
    assert_eq!((front.0, back.0), (XdpAttached::Driver, XdpAttached::Driver));
    assert_eq!(front.1, back.1, "one program on both");
}

#[test]
fn traffic_crosses_both_interfaces_in_both_seats() {
    in_namespace(|links| {
        let stand = Stand::new();
        let scratch = Scratch::new();
        for (interfaces, seat) in [(BOTH, "xdp"), (TURNED, "afxdp")] {
            let mut balancer = Balancer::start(&scratch.file("t.toml", config(interfaces, seat)));
            assert_attached(links);
            let other = if seat == "xdp" { "afxdp" } else { "xdp" };
            for seat in [seat, other] {
                let before = carried(&balancer, seat);
                assert_eq!(balancer.ask(&["mode", "set", seat])["mode"], seat);
                stand.transfers(2);
                let after = carried(&balancer, seat);
                let moved: Vec<_> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
                assert!(moved.iter().all(|&n| n > 50), "{seat}, {interfaces}: {moved:?}: who carried them?");
            }
            let workers = balancer.ask(&["mode", "show"])["workers"].clone();
            let places = |row: &Value| (row["interface"].as_str().unwrap_or("?").to_owned(), row["queue"].as_u64());
            let mut places: Vec<_> = workers.as_array().expect("rows").iter().map(places).collect();
            places.sort();
            let all = [("back".to_owned(), Some(0)), ("back".to_owned(), Some(1)), ("front".to_owned(), Some(0))];
            assert_eq!(places, all, "{workers}");
            balancer.signal(Signal::SIGTERM);
            balancer.end().done();
            assert_gone(&balancer.name);
            NEAR.into_iter().for_each(|name| links.assert_bare(name));
        }
    });
}

#[test]
fn the_mode_is_switched_while_both_interfaces_carry_transfers() {
    in_namespace(|_| {
        let stand = Stand::new();
        let scratch = Scratch::new();
        let balancer = Balancer::start(&scratch.file("t.toml", config(BOTH, "xdp")));
        let start = Instant::now();
        let missing = || ["xdp", "afxdp"].into_iter().find(|seat| carried(&balancer, seat).iter().any(|&n| n <= 50));
        while let Some(seat) = missing() {
            assert!(start.elapsed() < TIMEOUT, "{seat}: {:?}", carried(&balancer, seat));
            std::thread::scope(|scope| {
                let transfers = [0, 1].map(|n| {
                    let host = &stand.hosts[n];
                    scope.spawn(move || host.run(move || transfers(1 - n, 5)))
                });
                let mut seats = ["afxdp", "xdp"].into_iter().cycle();
                while !transfers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                    balancer.ask(&["mode", "set", seats.next().expect("endless")]);
                }
                for transfer in transfers {
                    transfer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                }
            });
        }
    });
}

#[test]
fn killed_taken_over_and_taken_away_on_both() {
    in_namespace(|links| {
        let stand = Stand::new();
        let scratch = Scratch::new();
        let mut first = Balancer::start(&scratch.file("t.toml", config(BOTH, "afxdp")));
        stand.transfers(1);
        first.signal(Signal::SIGKILL);
        assert!(was_ended_by(first.end().status, Signal::SIGKILL));
        let left = links.xdp(NEAR[0]);
        assert_attached(links);
        // Its workers are gone with it: the kernel goes on.
        stand.transfers(1);
        // In another order, without a gap, and as a new program; and its workers serve the right queues.
        let turned = scratch.file("turned.toml", config(TURNED, "afxdp"));
        let mut second = Balancer::start_as(&first.name, &turned, &["--leave-attached"]);
        let log = second.log();
        for name in NEAR {
            assert!(log.contains(&format!("{name}: took the place of the program that was attached")), "{log}");
        }
        assert_attached(links);
        assert_ne!(links.xdp(NEAR[0]), left, "it is still the old program");
        let before = second.ask(&["counters"])["afxdp"]["reasons"]["nat-reply"].as_u64();
        stand.transfers(1);
        assert!(second.ask(&["counters"])["afxdp"]["reasons"]["nat-reply"].as_u64() > before, "its workers get nothing");
        second.signal(Signal::SIGTERM);
        second.end().done();
        assert_attached(links);
        stand.transfers(1);
        // What was left on both is not taken for what one has.
        let one = scratch.file("one.toml", config("\"front\"", "xdp"));
        tandem(["run", "--name", &first.name, "-c", &one.display().to_string()])
            .refused(1, &["what a balancer before left attached is on another interface than front"]);
        assert_attached(links);
        tandem(["detach", &first.name]).done();
        assert!(!Paths::of(&first.name).pins.exists());
        NEAR.into_iter().for_each(|name| links.assert_bare(name));
    });
}

#[test]
fn a_capture_tells_by_which_interface() {
    in_namespace(|links| {
        let stand = Stand::new();
        let scratch = Scratch::new();
        for seat in ["xdp", "afxdp"] {
            let balancer = Balancer::start(&scratch.file("t.toml", config(BOTH, seat)));
            let file = scratch.path("frames.pcapng");
            let filter = "tcp dst port 80 and dst net 10.200.1.0/24";
            let capture = Capturing::start_on(links, NEAR[0], &balancer, &file, &["--rate", "100000", filter]);
            stand.transfers(1);
            let summary = capture.finish(links);
            assert_eq!((&summary["limited"], &summary["lost"]), (&0.into(), &0.into()), "{summary}");
            let Contents { names, frames, .. } = capture::read(&file);
            assert_eq!(names, NEAR);
            for (n, tunnel) in TUNNEL.iter().enumerate() {
                let to_host = |frame: &&Frame| !frame.is_out && frame.bytes[30..34] == tunnel.octets();
                let came: Vec<_> = frames.iter().filter(to_host).collect();
                assert!(came.len() > 10, "{seat}: {} to {tunnel}", came.len());
                for came in came {
                    let out: Vec<_> = frames.iter().filter(|frame| frame.is_out && frame.id == came.id).collect();
                    let [out] = out[..] else { panic!("{seat}: {} frames left for {came:?}", out.len()) };
                    assert_eq!((came.interface as usize, out.interface as usize), (1 - n, n), "{seat}: {out:?}");
                    assert!(out.comment.contains(&format!("real 10.{}.0.1", n + 1)), "{seat}: {out:?}");
                }
            }
        }
    });
}

#[test]
fn one_of_two_interfaces_vanishes() {
    in_namespace(|links| {
        let _stand = Stand::new();
        let scratch = Scratch::new();
        let mut balancer = Balancer::start(&scratch.file("t.toml", config(BOTH, "afxdp")));
        links.delete(NEAR[1]);
        balancer.end().refused(1, &["back: the interface vanished while the balancer was running"]);
        assert_gone(&balancer.name);
        links.assert_bare(NEAR[0]);
    });
}
