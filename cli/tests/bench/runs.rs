//! Whole benchmarks, as short as they can be.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tandem_bench::balancer::Setting;
use tandem_bench::device::{Device, Mode, Parts};
use tandem_bench::generate::{self, Generator, Load};
use tandem_bench::results::{Kind, Results, Run};
use tandem_bench::scenario::Scenario;
use tandem_lab::Interrupt;

use crate::common::{output, permitted, tandem};
use crate::{Directory, left};

/// The core of these tests' benchmarks: other tests may run beside them, so that rates mean nothing, and losses are no mistake.
fn bench(prefix: &str, directory: &Directory, more: &[&str]) -> (Results, String) {
    let out = directory.path("out");
    let mut arguments =
        vec!["bench", "--prefix", prefix, "--out", &out, "--repeats", "1", "--time", "0.3", "--directory", "/nowhere"];
    arguments.extend(more);
    let run = tandem(&arguments).output().expect("tandem starts");
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.code().is_some_and(|code| code < 2), "{said}");
    assert_eq!(left(prefix), Vec::<String>::new(), "{said}");
    (Results::load(directory.0.join("out").as_path()).unwrap_or_else(|e| panic!("{e}: {said}")), said)
}

fn row(results: &Results, kind: Kind, mode: Mode) -> &Run {
    results.runs.iter().find(|run| run.kind == kind && run.mode == mode).unwrap_or_else(|| panic!("no {kind:?} {mode:?}"))
}

/// Every mode forwards every frame as it must, and the report shows it.
#[test]
fn a_small_benchmark_is_whole() {
    if !permitted() {
        return;
    }
    let directory = Directory::new("whole");
    let (results, said) = bench("bn-whole", &directory, &["udp-sport-0-100", "--memory-flows", "100", "--no-search"]);
    for mode in Mode::ALL {
        let run = row(&results, Kind::Throughput, mode);
        assert!(run.valid, "{run:?}\n{said}");
        assert_eq!((run.spread, run.scenario.as_str()), (101, "udp-sport-0-100"));
        assert!(run.offered_pps > 10_000.0 && run.received_pps > 1000.0 && run.ns_per_packet.is_some(), "{run:?}");
        assert_eq!(run.forwarded_pps > 1000.0, mode != Mode::Drop, "{run:?}");
        let expected = mode.is_balancer().then_some(1.0);
        assert_eq!(run.expected_hit_ratio, expected);
        let bound = if mode.is_userspace() { "copy" } else { "native" };
        assert_eq!(run.bound, bound, "{mode:?}");
    }
    for mode in [Mode::Xdp, Mode::Afxdp] {
        let run = row(&results, Kind::InMemory, mode);
        assert!(run.valid && run.repeats.median > 1.0 && run.flow_hit_ratio == Some(1.0), "{run:?}");
    }
    let manifest = &results.manifest;
    assert!(!manifest.host.cpu.is_empty() && manifest.command.contains("bench --prefix"), "{manifest:?}");
    assert_eq!((manifest.interface.driver.as_str(), manifest.interface.queues), ("veth", 1));
    let page = std::fs::read_to_string(directory.path("out/index.html")).expect("a page");
    for chart in ["throughput", "cpu", "hits", "in-memory"] {
        assert!(page.contains(&format!("id=\"chart-{chart}\"")), "no chart {chart}");
    }
    assert!(
        page.split_once("<p class=\"caveat\">").is_some_and(|(before, _)| !before.contains("<h1>")),
        "the caveat comes first"
    );
    assert!(!page.contains("http://") || !page.contains("src="), "nothing from the network");
    let lines = std::fs::read_to_string(directory.path("out/results.csv")).expect("a table").lines().count();
    assert_eq!(lines, 1 + results.runs.iter().map(|run| run.repeats.all.len()).sum::<usize>());
    // The same results do not differ from themselves.
    let out = directory.path("out");
    assert!(output(&["bench", "compare", &out, &out]).contains("no change beyond noise"));
}

/// Loss-free rate and latencies, TCP with SYNs, IPv6, and sizes that differ.
#[test]
fn searches_and_other_traffic() {
    if !permitted() {
        return;
    }
    let directory = Directory::new("search");
    let (results, said) = bench("bn-search", &directory, &["udp6-sport-0-0", "--modes", "xdp", "--memory-flows", "0"]);
    let free = row(&results, Kind::LossFree, Mode::Xdp);
    assert!(!free.repeats.all.is_empty(), "{free:?}\n{said}");
    let latency = row(&results, Kind::Latency, Mode::Xdp);
    let found = latency.latency_us.unwrap_or_else(|| panic!("no latencies: {said}"));
    assert!(found.p50 > 0.1 && found.p50 <= found.p99 && found.p99 <= found.p999, "{found:?}");
    let (results, said) = bench(
        "bn-search",
        &directory,
        &["tcp-sport-0-1000-syn", "udp-sport-0-1000-imix", "--modes", "xdp", "--memory-flows", "0", "--no-search"],
    );
    for run in &results.runs {
        assert!(run.valid, "{run:?}\n{said}");
    }
    let syn = results.runs.iter().find(|run| run.scenario.contains("syn")).expect("a row");
    // A SYN always asks the ring.
    assert!(syn.expected_hit_ratio.is_some_and(|hit| (0.75..0.85).contains(&hit)), "{syn:?}");
}

/// The ends of a veth pair that the host has, in place of two ports of NICs.
struct Pair([&'static str; 2]);

impl Pair {
    fn new(ends: [&'static str; 2]) -> Self {
        let [a, b] = ends;
        let queues = ["numrxqueues", "1", "numtxqueues", "1"];
        let veth = [&["link", "add", a][..], &queues, &["type", "veth", "peer", "name", b], &queues].concat();
        assert!(Command::new("ip").args(veth).status().is_ok_and(|status| status.success()), "ip link add");
        Self(ends)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", self.0[0]]).status();
    }
}

/// Two ports of the host: one device after the other on them, and both are back at the end.
#[test]
fn ports_of_the_host_come_back() {
    if !permitted() {
        return;
    }
    let (directory, pair) = (Directory::new("ports"), Pair::new(["bn-port0", "bn-port1"]));
    let arguments = |device| {
        ["udp-sport-0-100", "--modes", "xdp,bounce,afxdp", "--memory-flows", "0", "--no-search", "--interface", device]
            .into_iter()
            .chain(["--generator-interface", pair.0[1]])
            .collect::<Vec<_>>()
    };
    let (results, said) = bench("bn-ports", &directory, &arguments(pair.0[0]));
    assert_eq!(results.runs.len(), 3);
    for run in &results.runs {
        assert!(run.valid && run.forwarded_pps > 1000.0, "{run:?}\n{said}");
    }
    assert_eq!(results.manifest.interface.name, pair.0[0]);
    for end in pair.0 {
        assert!(Path::new("/sys/class/net").join(end).exists(), "{end} did not come back");
    }
    // Somebody uses this one.
    let refused = tandem(&[&["bench", "--prefix", "bn-ports"], &arguments("lo")[..]].concat()).output().expect("tandem starts");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && said.contains("lo, which has the address 127.0.0.1"), "{said}");
    assert_eq!(left("bn-ports"), Vec::<String>::new());
}

/// The generators of userspace send the same.
#[test]
fn every_generator_sends_the_scenario() {
    if !permitted() {
        return;
    }
    for generator in ["af-xdp", "sendmmsg"] {
        let directory = Directory::new(generator);
        let arguments =
            ["udp-sport-0-100", "--modes", "xdp,bounce", "--memory-flows", "0", "--no-search", "--generator", generator];
        let (results, said) = bench("bn-gen", &directory, &arguments);
        assert!(results.runs.iter().all(|run| run.valid), "{generator}: {said}");
    }
}

#[test]
fn an_interrupted_benchmark_leaves_nothing() {
    if !permitted() {
        return;
    }
    let mut command: Command =
        tandem(&["bench", "--prefix", "bn-int", "--out", "/nowhere", "--time", "20", "udp-sport-0-0", "--modes", "xdp"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("tandem starts");
    let until = Instant::now() + Duration::from_secs(30);
    while !std::path::Path::new("/run/tandem/lab-bn-int-lb.sock").exists() {
        assert!(Instant::now() < until, "it does not start");
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_millis(500));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(1));
    assert_eq!(left("bn-int"), Vec::<String>::new());
}

/// Two runs of the same build do not differ; 30 ns in front of the kernel seat are found in the rows of the core alone, 300 ns also
/// in those with an interface. On a machine that is busy otherwise nothing can be told apart: for `make test-long` on a quiet one.
#[test]
fn a_delay_is_found_and_noise_is_not() {
    if std::env::var_os("TANDEM_LONG").is_none() {
        println!("SKIPPED: takes minutes and a quiet machine; TANDEM_LONG=1 runs it");
        return;
    }
    if !permitted() {
        return;
    }
    let directory = Directory::new("delay");
    let measure = |name: &str, delay: &str| {
        let out = directory.path(name);
        let arguments = ["bench", "--prefix", "bn-delay", "--out", &out, "--repeats", "9", "--time", "0.5", "--delay", delay];
        let what = ["udp-sport-0-0", "--modes", "xdp", "--memory-flows", "1000", "--no-search"];
        let run = tandem(&arguments).args(what).output().expect("tandem starts");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        out
    };
    let changed = |before: &str, after: &str| -> Vec<(String, f64)> {
        let said = output(&["bench", "compare", before, after, "--json"]);
        let comparison: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        let rows = comparison["rows"].as_array().expect("rows").iter().filter(|row| row["changed"] == true);
        rows.map(|row| (format!("{} {}", row["kind"], row["what"]), row["ratio"].as_f64().expect("a ratio"))).collect()
    };
    let (before, again) = (measure("before", "xdp:0"), measure("again", "xdp:0"));
    assert_eq!(changed(&before, &again), [], "the same build");
    let found = changed(&before, &measure("30", "xdp:30"));
    assert!(found.iter().any(|(row, ratio)| row == "\"in-memory\" \"ns\"" && *ratio > 1.0), "30 ns: {found:?}");
    let found = changed(&before, &measure("300", "xdp:300"));
    for row in ["\"in-memory\" \"ns\"", "\"throughput\" \"ns\""] {
        assert!(found.iter().any(|(name, ratio)| name == row && *ratio > 1.0), "300 ns in {row}: {found:?}");
    }
}

/// In the network stack instead of the driver.
#[test]
fn generic_attach_is_measured() {
    if !permitted() {
        return;
    }
    let directory = Directory::new("generic");
    let arguments = ["udp-sport-0-100", "--modes", "xdp,afxdp", "--memory-flows", "0", "--no-search", "--generic"];
    let (results, said) = bench("bn-generic", &directory, &arguments);
    for (mode, bound) in [(Mode::Xdp, "generic"), (Mode::Afxdp, "copy")] {
        let run = row(&results, Kind::Throughput, mode);
        assert!(run.valid && run.forwarded_pps > 1000.0, "{run:?}\n{said}");
        assert_eq!(run.bound, bound);
    }
}

/// Traffic from elsewhere, to a balancer that somebody else has started: both modes are measured, and the one before is back.
#[test]
fn traffic_from_elsewhere() {
    if !permitted() {
        return;
    }
    let (directory, interrupt) = (Directory::new("external"), Interrupt::catch().expect("signals"));
    let scenarios = [Scenario::find("udp-sport-0-100", Path::new("/nowhere")).expect("built in")];
    let parts = Parts {
        prefix: "bn-ext",
        program: Path::new(env!("CARGO_BIN_EXE_tandem")),
        scenarios: &scenarios,
        setting: &Setting { capacity: 10_000, cores: vec![1], generic: false },
        delay: None,
        ports: None,
        interrupt: &interrupt,
    };
    let device = Device::balancer(&parts).unwrap_or_else(|error| panic!("{error:#}"));
    let out = directory.path("out");
    let arguments = ["bench", "--external", "lab-bn-ext-lb", "--repeats", "1", "--time", "0.3", "--out", &out, "--wait"];
    // Nobody sends.
    let silent = tandem(&[&arguments[..], &["1"]].concat()).output().expect("tandem starts");
    let said = String::from_utf8_lossy(&silent.stderr);
    assert!(silent.status.code() == Some(1) && said.contains("no traffic after 1 s"), "{said}");

    let generator = Generator::load(generate::Kind::Live, &scenarios[0]).unwrap_or_else(|error| panic!("{error:#}"));
    let load = Load { rate: Some(20_000.0), stamped: false, core: 0 };
    let traffic = generator.start(&device.wire.lab, &load).unwrap_or_else(|error| panic!("{error:#}"));
    output(&[&arguments[..], &["20"]].concat());
    traffic.stop().unwrap_or_else(|error| panic!("{error:#}"));
    let results = Results::load(Path::new(&out)).expect("results");
    for (mode, bound) in [(Mode::Xdp, "native"), (Mode::Afxdp, "copy")] {
        let run = row(&results, Kind::Throughput, mode);
        assert!(run.received_pps > 1000.0 && run.forwarded_pps > 1000.0 && run.ns_per_packet.is_some(), "{run:?}");
        assert_eq!(run.bound, bound);
    }
    let mode = output(&["mode", "show", "--name", "lab-bn-ext-lb", "--json"]);
    assert!(mode.contains("\"xdp\""), "the mode before: {mode}");
    device.tear_down().expect("torn down");
    assert_eq!(left("bn-ext"), Vec::<String>::new());
}
