//! The balancer as a service: what it tells its manager, what it may do, what its logs look like, and the unit file.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::shell::{Balancer, Scratch, TANDEM, assert_gone, balancer_name, finish, skipped};
use super::wire::{NEAR, VIP_NAME, config, in_namespace, send};

const KERNEL: &str = "mode = \"xdp\"";
/// What a running balancer may do, with the bits (linux/capability.h).
const KEPT: [(&str, u32); 5] =
    [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_IPC_LOCK", 14), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];

/// The service manager's end.
struct Manager(UnixDatagram);

impl Manager {
    fn new(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
        Self(socket)
    }

    /// Waits for a message with this line; gives all of its lines, and those of the messages before.
    #[track_caller]
    fn hears(&self, line: &str) -> Vec<String> {
        let (mut lines, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let len = self.0.recv(&mut buffer).unwrap_or_else(|error| panic!("no {line:?} ({error}), only {lines:?}"));
            lines.extend(String::from_utf8_lossy(&buffer[..len]).lines().map(str::to_owned));
            if lines.iter().any(|heard| heard == line) {
                return lines;
            }
        }
    }
}

#[test]
fn it_tells_its_manager() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let file = scratch.file("t.toml", config(NEAR, KERNEL));
        let path = scratch.path("notify");
        let manager = Manager::new(&path);
        let name = balancer_name();
        let environment = [("NOTIFY_SOCKET", path.to_str().expect("text"))];
        let mut balancer = Balancer::start_with(&name, &file, &[], &environment);
        manager.hears("READY=1");
        // Each second, while the loop goes round.
        let began = Instant::now();
        manager.hears("WATCHDOG=1");
        manager.hears("WATCHDOG=1");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        balancer.signal(Signal::SIGHUP);
        let lines = manager.hears("RELOADING=1");
        assert!(lines.iter().any(|line| line.starts_with("MONOTONIC_USEC=")), "{lines:?}");
        manager.hears("READY=1");
        balancer.signal(Signal::SIGTERM);
        manager.hears("STOPPING=1");
        balancer.end().done();
        assert_gone(&name);
    });
}

/// The capabilities of each thread of a process, as the kernel has them: effective, permitted, bounding.
fn capabilities(process: u32) -> Vec<[u64; 3]> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("threads").filter_map(Result::ok);
    let of = |status: &str| {
        ["CapEff:", "CapPrm:", "CapBnd:"].map(|field| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a field");
            u64::from_str_radix(line.trim(), 16).expect("a number")
        })
    };
    tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok()).map(|status| of(&status)).collect()
}

#[test]
fn it_may_do_what_it_needs_and_no_more() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let first = config(NEAR, KERNEL);
        let balancer = Balancer::start(&scratch.file("t.toml", &first));
        let kept = KEPT.iter().fold(0_u64, |bits, (_, bit)| bits | 1 << bit);
        let found = capabilities(balancer.id());
        assert!(found.iter().all(|of| *of == [kept; 3]), "{found:x?}, not {kept:x}");
        // Enough for all that it does later: workers, another program in the place of the first, its own end.
        assert_eq!(balancer.ask(&["mode", "set", "afxdp"])["mode"], "afxdp");
        let quic = first.replace("port = 80\n", "port = 80\nflags = [\"quic\"]\n");
        scratch.file("t.toml", quic);
        balancer.ask(&["reload"]);
        send(5000..5004, 2);
        let found = capabilities(balancer.id());
        assert!(found.len() > 2 && found.iter().all(|of| *of == [kept; 3]), "{found:x?}, not {kept:x}");
        assert_eq!(balancer.ask(&["mode", "set", "xdp"])["mode"], "xdp");
        let mut balancer = balancer;
        balancer.signal(Signal::SIGTERM);
        balancer.end().done();
        assert_gone(&balancer.name);
        links.assert_bare(NEAR);
    });
}

#[test]
fn logs_for_machines() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let file = scratch.file("t.toml", config(NEAR, KERNEL));
        let mut balancer = Balancer::start_as(&balancer_name(), &file, &["--log-format", "json"]);
        balancer.signal(Signal::SIGHUP);
        std::thread::sleep(Duration::from_millis(500));
        balancer.signal(Signal::SIGTERM);
        let answer = balancer.end().done();
        let lines: Vec<Value> = answer.err.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        for line in &lines {
            for field in ["timestamp", "level", "message"] {
                assert!(line[field].is_string(), "no {field} in {line}");
            }
        }
        let in_force = lines.iter().filter(|line| line["message"] == "configuration in force").collect::<Vec<_>>();
        assert_eq!(in_force.len(), 2, "{}", answer.err);
        assert_eq!((&in_force[1]["vips"], &in_force[1]["vips_added"]), (&1.into(), &0.into()), "{}", in_force[1]);
    });
}

#[test]
fn one_takes_the_place_of_another() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let count = |balancer: &Balancer, counter: &str| {
            balancer.ask(&["counters"])["xdp"]["vips"][VIP_NAME][counter].as_u64().expect("a number")
        };
        for mode in ["xdp", "afxdp"] {
            let file = scratch.file("t.toml", config(NEAR, &format!("mode = \"{mode}\"")));
            let mut first = Balancer::start(&file);
            first.ask(&["mode", "set", "xdp"]);
            send(5000..5010, 1);
            first.ask(&["mode", "set", mode]);
            let mut second = Balancer::start_as(&first.name, &file, &["--take-over"]);
            let answer = first.end().done();
            assert!(answer.err.contains("left attached"), "{answer:?}");
            assert_eq!(second.ask(&["mode"])["mode"], mode);
            second.ask(&["mode", "set", "xdp"]);
            send(5000..5010, 1);
            assert_eq!((count(&second, "packets"), count(&second, "ring")), (20, 10), "a flow was lost");
            second.signal(Signal::SIGTERM);
            second.end().done();
            assert_gone(&second.name);
            links.assert_bare(NEAR);
        }
    });
}

#[test]
fn the_unit_file() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/tandem@.service");
    let text = fs::read_to_string(file).expect("the unit file");
    let set = |key: &str| -> BTreeSet<&str> {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("a setting");
        line.split_whitespace().collect()
    };
    let kept: BTreeSet<&str> = KEPT.iter().map(|(name, _)| *name).collect();
    assert_eq!(set("AmbientCapabilities="), kept);
    // Whoever gives up a part of the bounding set needs one more for it.
    assert_eq!(set("CapabilityBoundingSet="), kept.into_iter().chain(["CAP_SETPCAP"]).collect());
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return skipped("there is no systemd-analyze");
    }
    let scratch = Scratch::new();
    let here = scratch.file("tandem@.service", text.replace("/usr/bin/tandem", TANDEM));
    let answer = finish(Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(here)).done();
    assert!(!answer.err.contains("tandem@"), "{answer:?}");
}
