//! Gates that this machine can be made to provoke: real frames through real devices, and a closed gate for each. Those of
//! frequencies, other programs and lost workers are tested with recorded evidence in `bench/src/gates.rs`.

use std::path::Path;
use std::time::Duration;

use tandem_bench::balancer::{self, Setting, configuration};
use tandem_bench::device::{Device, Mode, Parts};
use tandem_bench::gates::Gate;
use tandem_bench::generate::{Generator, Kind, Load};
use tandem_bench::measure::{Trial, Wish, measure};
use tandem_bench::napi;
use tandem_bench::oracle::Oracle;
use tandem_bench::scenario::Scenario;
use tandem_lab::{Host, Interrupt};

use crate::common::permitted;
use crate::left;

const CORE: usize = 1;

fn scenario(name: &str) -> Scenario {
    Scenario::find(name, Path::new("/nowhere")).expect("built in")
}

/// Everything but the device, as it should be.
struct Right {
    scenario: Scenario,
    generator: Generator,
    oracle: Oracle,
    wish: Wish,
    interrupt: Interrupt,
}

impl Right {
    fn trial(&mut self, device: &mut Device, mode: Mode) -> Trial {
        let Self { scenario, generator, oracle, wish, interrupt } = self;
        measure(device, mode, scenario, generator, oracle, wish, interrupt).unwrap_or_else(|e| panic!("{e:#}"))
    }
}

#[track_caller]
fn closed(trial: &Trial, gate: Gate) {
    assert!(trial.reasons.iter().any(|reason| reason.gate == gate), "{gate:?} is open: {:?}", trial.reasons);
}

/// One balancer, in seven wrong ways.
#[test]
fn provoked_gates_close() {
    if !permitted() {
        return;
    }
    if std::thread::available_parallelism().map_or(1, std::num::NonZero::get) < 2 {
        eprintln!("SKIPPED: generator and device need a core each, and there is one");
        return;
    }
    let interrupt = Interrupt::catch().expect("signals");
    let scenarios = [scenario("udp-sport-0-2000")];
    // So small that flows push each other out.
    let setting = Setting { capacity: 500, cores: vec![CORE], generic: false };
    let program = Path::new(env!("CARGO_BIN_EXE_tandem"));
    let parts = Parts {
        prefix: "bn-gates",
        program,
        scenarios: &scenarios,
        setting: &setting,
        delay: None,
        ports: None,
        interrupt: &interrupt,
    };
    let mut device = Device::balancer(&parts).unwrap_or_else(|e| panic!("{e:#}"));
    let link = device.wire.lab.link(Host::Lb).expect("a link").clone();
    let plan = |capacity, source: [u8; 4]| {
        let setting = Setting { capacity, ..setting.clone() };
        let mut link = link.clone();
        link.v4 = source.into();
        balancer::plan(&configuration(&scenarios, &link, &setting).expect("a configuration")).expect("a plan")
    };
    let source = link.v4.octets();
    let load = Load { rate: Some(20_000.0), stamped: false, core: 0 };
    let [scenario] = scenarios.clone();
    let mut right = Right {
        generator: Generator::load(Kind::Live, &scenario).unwrap_or_else(|e| panic!("{e:#}")),
        oracle: Oracle::new(&plan(500, source)).expect("an engine"),
        wish: Wish {
            load,
            is_exact: true,
            time: Duration::from_millis(200),
            bound: Some("native".to_owned()),
            expected_hit: None,
        },
        interrupt: interrupt.clone(),
        scenario,
    };

    let trial = right.trial(&mut device, Mode::Xdp);
    let open: Vec<_> = trial.reasons.iter().filter(|reason| reason.gate != Gate::GeneratorSlow).collect();
    assert!(open.is_empty(), "before anything is wrong: {open:?}");
    let expected = Oracle::expected_hit_ratio(&plan(500, source), &right.scenario).expect("an engine");
    // On a busy machine one trial does not get to the end of the first cycle, in which no flow is known.
    let mut found = vec![trial.hit.expect("a hit ratio")];
    while found.last().is_some_and(|found| (expected - found).abs() >= 0.1) && found.len() < 20 {
        found.extend(right.trial(&mut device, Mode::Xdp).hit);
    }
    let settled = found.last().is_some_and(|found| (expected - found).abs() < 0.1);
    assert!(expected < 0.9 && settled, "2001 flows in 500 places: {found:?}, the engine says {expected}");

    // The flow table was expected to be large.
    right.wish.expected_hit = Some(Oracle::expected_hit_ratio(&plan(1_000_000, source), &right.scenario).expect("an engine"));
    closed(&right.trial(&mut device, Mode::Xdp), Gate::HitRatio);
    right.wish.expected_hit = None;

    // The generator sends other flows than declared: as Pktgen 24.05 does.
    let few = Scenario { sequence: right.scenario.sequence[..32].to_vec(), ..right.scenario.clone() };
    let whole = std::mem::replace(&mut right.generator, Generator::load(Kind::Live, &few).unwrap_or_else(|e| panic!("{e:#}")));
    closed(&right.trial(&mut device, Mode::Xdp), Gate::DeclaredFlows);
    right.generator = whole;

    // More than any generator can do.
    right.wish.load.rate = Some(1e9);
    closed(&right.trial(&mut device, Mode::Xdp), Gate::GeneratorSlow);
    right.wish.load.rate = Some(20_000.0);

    // The frames are right, but not by this configuration.
    let oracle = std::mem::replace(&mut right.oracle, Oracle::new(&plan(500, [192, 0, 2, 99])).expect("an engine"));
    closed(&right.trial(&mut device, Mode::Xdp), Gate::WrongFrames);
    right.oracle = oracle;

    // A veth has no zero-copy.
    right.wish.bound = Some("zerocopy".to_owned());
    closed(&right.trial(&mut device, Mode::Afxdp), Gate::BoundMode);
    right.wish.bound = None;

    // The program that was there at the beginning is another one's now.
    let program = std::mem::replace(&mut device.program, 0);
    closed(&right.trial(&mut device, Mode::Xdp), Gate::OtherProgram);
    device.program = program;

    // The receive queue moves to the generator's core.
    for (thread, _) in device.threads().into_iter().filter(|(_, kind)| *kind == "napi") {
        napi::pin(thread, 0).expect("a thread");
    }
    closed(&right.trial(&mut device, Mode::Xdp), Gate::QueueCore);

    device.tear_down().unwrap_or_else(|e| panic!("{e:#}"));
    assert_eq!(left("bn-gates"), Vec::<String>::new());
}
