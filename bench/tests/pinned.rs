//! Another XDP program beside the balancer, by its pin: here one of the references, loaded and pinned as a user would.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::EbpfLoader;
use aya::programs::Xdp;
use tandem_backends::xdp::REFERENCES;
use tandem_bench::balancer::{Setting, configuration, plan};
use tandem_bench::device::{Device, Mode, Parts};
use tandem_bench::generate::{Generator, Kind, Load};
use tandem_bench::measure::{Wish, measure};
use tandem_bench::oracle::Oracle;
use tandem_bench::scenario::Scenario;
use tandem_lab::{BPFFS, Host, Interrupt, check_permitted, ensure_bpffs};

/// A pin that goes with the value.
struct Pin(PathBuf);

impl Drop for Pin {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn permitted() -> bool {
    let found = check_permitted();
    let required = std::env::var_os("TANDEM_REQUIRE_KERNEL").is_some_and(|value| value == "1");
    match &found {
        Err(error) if required => panic!("{error}"),
        Err(error) => eprintln!("SKIPPED: {error}"),
        Ok(()) => {}
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if cores < 2 {
        eprintln!("SKIPPED: generator and device need a core each, and there is one");
    }
    found.is_ok() && cores >= 2
}

#[test]
fn a_pinned_program_is_measured() {
    if !permitted() {
        return;
    }
    ensure_bpffs(Path::new(BPFFS)).expect("a BPF file system");
    let pin = Pin(Path::new(BPFFS).join(format!("bn-pinned-{}", std::process::id())));
    let mut ebpf = EbpfLoader::new().load(REFERENCES).expect("the object");
    let limit: &mut Xdp = ebpf.program_mut("limit").expect("the program").try_into().expect("an XDP program");
    limit.load().expect("loaded");
    limit.pin(&pin.0).expect("pinned");

    let scenarios = [Scenario::find("udp-sport-0-100", Path::new("/nowhere")).expect("built in")];
    let setting = Setting { capacity: 1000, cores: vec![1], generic: false };
    let interrupt = Interrupt::catch().expect("signals");
    let parts = Parts {
        prefix: "bn-pinned",
        program: Path::new("/nowhere"),
        scenarios: &scenarios,
        setting: &setting,
        delay: None,
        ports: None,
        interrupt: &interrupt,
    };
    // Nothing is there.
    let error = Device::pinned(Path::new("/sys/fs/bpf/bn-nothing"), 20, &parts).err().expect("no program").to_string();
    assert!(error.contains("no XDP program is pinned here"), "{error}");

    let mut device = Device::pinned(&pin.0, 20, &parts).unwrap_or_else(|error| panic!("{error:#}"));
    let text = configuration(&scenarios, device.wire.lab.link(Host::Lb).expect("a link"), &setting).expect("a configuration");
    let mut oracle = Oracle::new(&plan(&text).expect("a plan")).expect("an engine");
    let [scenario] = &scenarios;
    let generator = Generator::load(Kind::Live, scenario).unwrap_or_else(|error| panic!("{error:#}"));
    let load = Load { rate: Some(20_000.0), stamped: false, core: 0 };
    let time = Duration::from_millis(300);
    let wish = Wish { load, is_exact: false, time, bound: Some("native".to_owned()), expected_hit: None };
    let trial = measure(&mut device, Mode::Program, scenario, &generator, &mut oracle, &wish, &interrupt);
    let trial = trial.unwrap_or_else(|error| panic!("{error:#}"));
    assert!(trial.reasons.is_empty() && trial.forwarded_pps > 1000.0, "{:?}", trial.reasons);
    device.tear_down().expect("torn down");

    // Its frames are looked at: with another overhead they are not those of the scenario.
    let mut device = Device::pinned(&pin.0, 40, &parts).unwrap_or_else(|error| panic!("{error:#}"));
    let trial = measure(&mut device, Mode::Program, scenario, &generator, &mut oracle, &wish, &interrupt);
    assert!(!trial.unwrap_or_else(|error| panic!("{error:#}")).reasons.is_empty());
    device.tear_down().expect("torn down");
}
