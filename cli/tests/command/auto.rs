//! Mode auto: what is measured, what is made of it, and the probe on the interface.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tandem_backends::run::Paths;

use super::modes::{run_without, text};
use super::shell::{Balancer, Run, Scratch, TANDEM, assert_gone, balancer_name, finish, tandem, was_ended_by};
use super::wire::{NEAR, VIP, VIP_NAME, client, config, in_namespace, send};

const AUTO: &str = "mode = \"auto\"";
const KERNEL: &str = "mode = \"xdp\"";

fn ns(candidate: &Value) -> f64 {
    candidate["ns"].as_f64().unwrap_or_else(|| panic!("{candidate} has no number"))
}

/// The three candidates of mode auto.
fn candidates(decision: &Value) -> [&Value; 3] {
    let all: Vec<&Value> = decision["candidates"].as_array().expect("candidates").iter().collect();
    let bound: Vec<&str> = all.iter().map(|candidate| text(&candidate["bound"])).collect();
    assert_eq!(bound, ["native", "zero-copy", "copy"]);
    all.try_into().expect("three")
}

/// That xdp and afxdp with copies were measured with real frames, as `how` says, and that the choice and its reason follow from it.
fn assert_measured(decision: &Value, how: &str) {
    let [xdp, zero_copy, copy] = candidates(decision);
    for candidate in [xdp, copy] {
        assert!(candidate["impossible"].is_null(), "{candidate}");
        assert!(text(&candidate["how"]).starts_with("measured in a private namespace"), "{candidate}");
        assert!(text(&candidate["how"]).contains(how), "{candidate}");
        assert!(candidate["measured"]["forwarded"].as_u64() > Some(1000), "{candidate}");
        assert_eq!(candidate["measured"]["ns"], candidate["ns"]);
    }
    assert!(ns(copy) > 0.0 && copy["measured"]["worker_ns"].as_f64() > Some(0.0), "{copy}");
    let reason = text(&decision["reason"]);
    for part in [format!("{:.0} in XDP", ns(xdp)), format!("{:.0} in AF_XDP with copies", ns(copy)), "private namespace".into()] {
        assert!(reason.contains(&part), "no {part:?} in {reason:?}");
    }
    let noise = [xdp, copy].map(|one| one["measured"]["spread_ns"].as_f64().expect("a spread")).into_iter().fold(0.0, f64::max);
    // Only a veth whose kernel does not say what it has may have zero-copy, for all that is known.
    if !zero_copy["impossible"].is_null() {
        let expected = if ns(copy) + noise < ns(xdp) { "afxdp" } else { "xdp" };
        assert_eq!(decision["chosen"], expected, "{decision}");
    }
}

#[test]
fn auto_chooses_by_what_it_measured() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let mut balancer = Balancer::start(&scratch.file("t.toml", config(NEAR, AUTO)));
        let report = balancer.ask(&["mode"]);
        let decision = &report["decision"];
        assert_measured(decision, "");
        assert_eq!((&report["mode"], &report["why"]), (&decision["chosen"], &decision["reason"]), "{report}");
        assert!(decision["bounce"]["ns"].as_f64() > Some(0.0), "{decision}");
        assert!(decision["queues"].as_u64() >= Some(1) && decision["cores"].as_u64() >= Some(1), "{decision}");
        let shown = tandem(["mode", "show", "--name", &balancer.name]).done().out;
        for part in ["xdp (native): ", "afxdp (copy): ", "ns of CPU a packet", "measured in a private namespace", " lost, "] {
            assert!(shown.contains(part), "no {part:?} in {shown}");
        }
        send(5000..5010, 1);
        let counters = balancer.ask(&["counters"]);
        let forwarded = |seat: &str| counters[seat]["reasons"]["forwarded"].as_u64().expect("a count");
        assert_eq!(forwarded("xdp") + forwarded("afxdp"), 10);
        balancer.signal(Signal::SIGTERM);
        balancer.end().done();
        assert_gone(&balancer.name);
    });
}

/// Without the privilege that a namespace takes there are the numbers of memory alone, and it says what is missing.
#[test]
fn without_the_privilege_to_measure() {
    in_namespace(|links| {
        links.veth();
        let (scratch, name) = (Scratch::new(), balancer_name());
        let file = scratch.file("t.toml", config(NEAR, AUTO));
        let balancer = Balancer::start_by(run_without("sys_admin", &name, &file), &name);
        let decision = balancer.ask(&["mode"])["decision"].clone();
        let [xdp, _, copy] = candidates(&decision);
        for candidate in [xdp, copy] {
            assert!(ns(candidate) > 0.0 && candidate["measured"].is_null(), "{candidate}");
            let how = text(&candidate["how"]);
            for part in ["measured in memory, without receiving and sending", "lacks CAP_SYS_ADMIN", "tandem mode probe --save"] {
                assert!(how.contains(part), "no {part:?} in {how:?}");
            }
        }
        assert_eq!(decision["chosen"], "xdp");
        assert!(text(&decision["reason"]).contains("lacks CAP_SYS_ADMIN"), "{decision}");
        assert!(balancer.log().contains("not measured with real frames"), "{}", balancer.log());
    });
}

/// What was measured with all privileges serves starts without them, until the next boot.
#[test]
fn a_saved_measurement() {
    in_namespace(|links| {
        links.veth();
        let (scratch, name) = (Scratch::new(), balancer_name());
        let file = scratch.file("t.toml", config(NEAR, AUTO));
        let config_file = file.display().to_string();
        let save = ["mode", "probe", "--save", "--once", "--config", &config_file, "--name", &name];
        let record = Paths::of(&name).calibration;
        let probed: Value = serde_json::from_str(&tandem(save.iter().chain(&["--json"])).done().out).expect("JSON");
        assert_measured(&probed, "");
        let again = tandem(save).done().out;
        assert!(again.contains("nothing is measured") && again.contains(&record.display().to_string()), "{again}");
        let start = || Balancer::start_by(run_without("sys_admin", &name, &file), &name);
        let text_of_record = fs::read_to_string(&record).expect("the record");
        let balancer = start();
        let decision = balancer.ask(&["mode"])["decision"].clone();
        assert_measured(&decision, ", saved ");
        // It is the same measurement.
        assert_eq!(
            candidates(&decision).map(|one| one["measured"].clone()),
            candidates(&probed).map(|one| one["measured"].clone())
        );
        assert_eq!(decision["chosen"], probed["chosen"]);
        // Whoever asked for it keeps it, until it is detached.
        let mut balancer = balancer;
        balancer.signal(Signal::SIGTERM);
        balancer.end().done();
        assert_eq!(fs::read_to_string(&record).expect("the record"), text_of_record);
        drop(balancer);
        assert_gone(&name);

        let mut other: Value = serde_json::from_str(&text_of_record).expect("JSON");
        other["origin"]["boot"] = "00000000-0000-0000-0000-000000000000".into();
        fs::create_dir_all(record.parent().expect("a directory")).expect("made");
        fs::write(&record, other.to_string()).expect("written");
        let balancer = start();
        let decision = balancer.ask(&["mode"])["decision"].clone();
        assert!(candidates(&decision)[0]["measured"].is_null(), "{decision}");
        drop(balancer);
        // Whoever may measure does so.
        fs::create_dir_all(record.parent().expect("a directory")).expect("made");
        fs::write(&record, other.to_string()).expect("written");
        let balancer = Balancer::start_as(&name, &file, &[]);
        assert_measured(&balancer.ask(&["mode"])["decision"], "");
        assert!(balancer.log().contains("what is saved is of another boot; measuring anew"), "{}", balancer.log());
        drop(balancer);

        // Another mode needs no measurement.
        let fixed = scratch.file("fixed.toml", config(NEAR, KERNEL)).display().to_string();
        let said = tandem(["mode", "probe", "--save", "--once", "--config", &fixed, "--name", &name]).done().out;
        assert!(said.contains("mode is not auto") && !record.exists(), "{said}");
    });
}

#[test]
fn the_probe_of_a_host() {
    in_namespace(|links| {
        links.veth();
        let said = tandem(["mode", "probe", "--interface", NEAR]).done().out;
        for part in ["XDP features: ", "receive queues: ", "xdp (native): ", "afxdp (copy): ", "chosen: "] {
            assert!(said.contains(part), "no {part:?} in {said}");
        }
        tandem(["mode", "probe", "--interface", "nosuch0"]).refused(1, &["there is no interface \"nosuch0\""]);
        // The demanded measurement that cannot be had is an error with its cure.
        let mut command = Command::new("setpriv");
        command.args([
            "--bounding-set",
            "-sys_admin",
            "--inh-caps",
            "-sys_admin",
            TANDEM,
            "mode",
            "probe",
            "--save",
            "--name",
            "x",
        ]);
        finish(&mut command).refused(1, &["lacks CAP_SYS_ADMIN", "as root"]);
    });
    for words in [&["--apply"][..], &["--once"], &["--live=0"], &["--live=13"], &["--live", "--save"]] {
        tandem(["mode", "probe"].iter().chain(words)).refused(2, &[]);
    }
    tandem(["mode", "probe", "--save", "--name", "a/b"]).refused(2, &["not the name of a balancer"]);
    tandem(["mode", "probe", "--save"]).refused(2, &["--save takes --name, --config or --interface"]);
}

/// The kernel's threads that serve the links of a measurement by this process.
fn threads_of(process: u32) -> usize {
    let names = fs::read_dir("/proc").expect("procfs").filter_map(Result::ok).map(|entry| entry.path().join("comm"));
    let ours = [format!("napi/c{process}"), format!("napi/r{process}")];
    names.filter_map(|path| fs::read_to_string(path).ok()).filter(|name| ours.iter().any(|ours| name.starts_with(ours))).count()
}

#[test]
fn a_measurement_that_is_killed_leaves_nothing() {
    in_namespace(|_| {
        let mut probe = Run::start(Command::new(TANDEM).args(["mode", "probe"]));
        let (process, until) = (probe.id(), Instant::now() + Duration::from_secs(60));
        while threads_of(process) < 4 {
            assert!(Instant::now() < until, "no measurement has begun");
            std::thread::sleep(Duration::from_millis(2));
        }
        probe.signal(Signal::SIGKILL);
        assert!(was_ended_by(probe.wait(), Signal::SIGKILL), "it was done already");
        while threads_of(process) > 0 {
            assert!(Instant::now() < until, "{} threads are left", threads_of(process));
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}

/// Sends datagrams of so many flows until `work` is done.
fn under_traffic<T>(flows: u16, work: impl FnOnce() -> T) -> T {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    let sockets: Vec<_> = (5000..5000 + flows).map(client).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for socket in &sockets {
                    // A full queue is no reason to stop.
                    let _ = socket.send_to(b"tandem", (VIP, 80));
                }
            }
        });
        // Also if it panics.
        let _stop = Stop(&stop);
        work()
    })
}

/// A probe whose turns are as long as this machine needs them.
fn probe_live(name: &str, more: &[&str]) -> Value {
    for turn in ["--live=1", "--live=4", "--live=12"] {
        let words = ["mode", "probe", turn, "--json", "--name", name];
        let answer = tandem(words.iter().chain(more));
        if !answer.err.contains("too few packets") {
            return serde_json::from_str(&answer.done().out).expect("JSON");
        }
    }
    panic!("this machine does not forward 10,000 packets in 12 s");
}

#[test]
fn the_probe_on_the_interface_keeps_flows_and_mode() {
    const FLOWS: u16 = 16;
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let balancer = Balancer::start(&scratch.file("t.toml", config(NEAR, KERNEL)));
        tandem(["mode", "probe", "--live=1", "--name", &balancer.name])
            .refused(1, &["too few packets to judge: ", "The mode is xdp as before"]);
        let before = balancer.ask(&["mode"]);
        assert_eq!((&before["mode"], &before["why"]), (&"xdp".into(), &"the configuration says so".into()));
        assert!(before["workers"].as_array().is_some_and(Vec::is_empty) && before["decision"].is_null(), "{before}");
        let (found, applied) =
            under_traffic(FLOWS, || (probe_live(&balancer.name, &[]), probe_live(&balancer.name, &["--apply"])));
        assert_eq!((&found["mode"], &found["why"]), (&before["mode"], &before["why"]), "{found}");
        assert_eq!(found["workers"], before["workers"], "workers that were there for the probe alone");
        let decision = &found["decision"];
        let all = decision["candidates"].as_array().expect("candidates");
        assert_eq!(all.iter().map(|one| text(&one["mode"])).collect::<Vec<_>>(), ["xdp", "afxdp"]);
        for candidate in all {
            assert!(text(&candidate["how"]).contains("measured on the interface, in 2 turns"), "{candidate}");
            assert!(candidate["measured"]["forwarded"].as_u64() >= Some(20_000), "{candidate}");
        }
        assert!(text(&decision["reason"]).starts_with("probe: "), "{decision}");
        assert_eq!(applied["mode"], applied["decision"]["chosen"], "{applied}");
        assert_eq!(balancer.ask(&["mode"])["decision"], applied["decision"]);
        // Every flow asked the ring once: none was lost by a switch.
        let counters = balancer.ask(&["counters"]);
        let asked: u64 =
            ["xdp", "afxdp"].map(|seat| counters[seat]["vips"][VIP_NAME]["ring"].as_u64().expect("a count")).iter().sum();
        assert_eq!(asked, u64::from(FLOWS), "{counters}");
    });
}

#[test]
fn who_sets_the_mode_ends_the_probe() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let balancer = Balancer::start(&scratch.file("t.toml", config(NEAR, KERNEL)));
        let mut command = Command::new(TANDEM);
        command.args(["mode", "probe", "--live=12", "--name", &balancer.name]);
        let probe = Run::start(&mut command);
        let until = Instant::now() + Duration::from_secs(60);
        while !text(&balancer.ask(&["mode"])["why"]).contains("a probe on the interface") {
            assert!(Instant::now() < until, "no probe has begun: {}", balancer.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        tandem(["mode", "probe", "--live", "--name", &balancer.name]).refused(1, &["a probe on the interface goes on already"]);
        balancer.ask(&["mode", "set", "afxdp"]);
        probe.end().refused(1, &["the probe was given up: the mode was set by hand"]);
        let report = balancer.ask(&["mode"]);
        assert_eq!((&report["mode"], &report["why"]), (&"afxdp".into(), &"set by hand".into()));
    });
}

/// The unit measures with the privileges that it does not give the balancer.
#[test]
fn the_unit_measures_before_it_starts() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/tandem@.service");
    let unit = fs::read_to_string(file).expect("the unit file");
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStartPre=")).expect("a command before the start");
    let words = line.strip_prefix("-+/usr/bin/tandem ").expect("with full privileges, and no failure of it fails the start");
    let (scratch, name) = (Scratch::new(), "unit");
    let config = scratch.file("t.toml", "[node]\ninterface = \"lo\"\nmode = \"xdp\"\n").display().to_string();
    let words = words.replace("/etc/tandem/%i.toml", &config).replace("%i", name);
    let said = tandem(words.split_whitespace()).done().out;
    assert!(said.contains("mode is not auto"), "{said}");
}
