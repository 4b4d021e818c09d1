//! `tandem bench`: the benchmark harness, its scenarios as captures, and two results side by side.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use tandem_bench::device::Mode;
use tandem_bench::generate::Kind as Generator;
use tandem_bench::harness::{self, Settings};
use tandem_bench::progress::Progress;
use tandem_bench::results::Results;
use tandem_bench::scenario::Scenario;
use tandem_bench::wire::Ports;
use tandem_bench::{built_in, compare, export, external, report};
use tandem_lab::{Interrupt, check_permitted};

use crate::Failure;

/// The classic spreads.
const SPREADS: [&str; 6] =
    ["udp-sport-0-0", "udp-sport-0-100", "udp-sport-0-1000", "udp-sport-0-2000", "udp-sport-0-6000", "udp-sport-0-8000"];
/// Those with loss-free rate and latencies.
const SEARCHED: [&str; 2] = ["udp-sport-0-0", "udp-sport-0-8000"];
const LATENCY_RATES: [f64; 2] = [20_000.0, 100_000.0];
const MEMORY_FLOWS: [u32; 6] = [1, 100, 1000, 8000, 65_536, 1_000_000];

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    verb: Option<BenchVerb>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand)]
enum BenchVerb {
    /// Writes scenarios as captures, for generators that play files
    Export(ExportArgs),
    /// Two results side by side: which rows changed beyond noise
    Compare(CompareArgs),
}

#[derive(Args)]
struct RunArgs {
    /// Scenarios, by name or as paths of .pkt files [default: the six spreads of UDP source ports]
    scenarios: Vec<String>,
    /// What forwards: xdp, afxdp, and of the references drop, bounce, fixed-header, afxdp-plain `[default: all]`; bytecode is
    /// the kernel seat's program in userspace, for the core alone (a build with `--features bytecode`)
    #[arg(long, value_delimiter = ',', value_parser = mode, value_name = "LIST")]
    modes: Vec<Mode>,
    /// Where results.json, results.csv and index.html go [default: bench-results/DATE]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Everything: all scenarios, ten million flows in memory
    #[arg(long)]
    full: bool,
    /// Repeats of each row, interleaved
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,
    /// Seconds of each
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    time: f64,
    /// The traffic generator
    #[arg(long, value_enum, default_value_t = GeneratorName::LiveFrames)]
    generator: GeneratorName,
    /// Flows that the balancer's table holds
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    capacity: u32,
    /// Attach the balancer to the network stack instead of the driver
    #[arg(long)]
    generic: bool,
    /// Pin of another XDP program to put beside the balancer, loaded and configured by you (`bpftool prog pin id N PATH`)
    #[arg(long, value_name = "PIN")]
    program: Option<PathBuf>,
    /// Bytes of outer headers that this program puts in front of a frame
    #[arg(long, value_name = "BYTES", default_value_t = 20, requires = "program")]
    program_overhead: usize,
    /// Share of frames that may be lost at the loss-free rate
    #[arg(long, value_name = "SHARE", default_value_t = 0.001)]
    loss_threshold: f64,
    /// Numbers of flows with which the core alone is measured; 0: not at all
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    memory_flows: Option<Vec<u32>>,
    /// Only the highest rates and the core alone: no loss-free rates, no latencies
    #[arg(long)]
    no_search: bool,
    /// The forwarding core [default: the last]
    #[arg(long, value_name = "CORE")]
    core: Option<usize>,
    /// The generator's core [default: the first]
    #[arg(long, value_name = "CORE")]
    generator_core: Option<usize>,
    /// A port of this host for the device under test, instead of veth pairs: with a cable to --generator-interface, one receive
    /// queue, and nobody else on it. While the benchmark runs, both are in namespaces of their own
    #[arg(long, value_name = "NAME", requires = "generator_interface")]
    interface: Option<String>,
    /// The port that sends to it, and gets what comes back
    #[arg(long, value_name = "NAME", requires = "interface")]
    generator_interface: Option<String>,
    /// Where scenarios are looked for by name
    #[arg(long, value_name = "DIR", default_value = "pktgen-scenarios")]
    directory: PathBuf,
    /// Prefix of the namespaces
    #[arg(long, value_name = "PREFIX", default_value_t = format!("bench-{}", std::process::id()))]
    prefix: String,
    /// Traffic comes from elsewhere (a real Pktgen-DPDK on another host): wait for it, and measure the running balancer of
    /// this name, by its own counters
    #[arg(long, value_name = "NAME", conflicts_with_all = ["scenarios", "full", "generator", "generic", "memory_flows", "interface"])]
    external: Option<String>,
    /// Seconds to wait for traffic from elsewhere
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds, requires = "external")]
    wait: f64,
    /// Write the results as JSON to standard output instead of tables
    #[arg(long)]
    json: bool,
    /// An artificial delay of so many nanoseconds in a seat, to see whether `compare` finds it
    #[arg(long, hide = true, value_parser = delay, value_name = "MODE:NS")]
    delay: Option<(Mode, f64)>,
}

#[derive(Clone, Copy, ValueEnum)]
enum GeneratorName {
    /// In the kernel: live frames
    LiveFrames,
    /// In userspace, over AF_XDP
    AfXdp,
    /// In userspace, over a packet socket
    Sendmmsg,
}

#[derive(Args)]
struct ExportArgs {
    /// Scenarios [default: all that are built in]
    scenarios: Vec<String>,
    /// Where the captures go
    #[arg(long, value_name = "DIR", default_value = "pktgen-scenarios")]
    out: PathBuf,
    /// Where scenarios are looked for by name
    #[arg(long, value_name = "DIR", default_value = "pktgen-scenarios")]
    directory: PathBuf,
}

#[derive(Args)]
struct CompareArgs {
    /// A results.json, or its directory
    before: PathBuf,
    /// Another one
    after: PathBuf,
    /// Compare different environments all the same
    #[arg(long)]
    force: bool,
    /// The smallest change that counts, as a share
    #[arg(long, value_name = "SHARE", default_value_t = compare::LEAST)]
    least: f64,
    /// As JSON
    #[arg(long)]
    json: bool,
}

fn mode(text: &str) -> Result<Mode, String> {
    if text == Mode::Bytecode.name() && !cfg!(feature = "bytecode") {
        return Err("this program was built without it; build with `--features bytecode`".to_owned());
    }
    let modes = Mode::ALL.into_iter().chain([Mode::Bytecode]);
    let known = || modes.clone().map(Mode::name).collect::<Vec<_>>().join(", ");
    modes.clone().find(|mode| mode.name() == text).ok_or_else(|| format!("expected one of {}", known()))
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.05..=3600.0).contains(seconds))
        .ok_or_else(|| "expected seconds from 0.05 to 3600".to_owned())
}

fn delay(text: &str) -> Result<(Mode, f64), String> {
    let parts = text.split_once(':').and_then(|(seat, nanos)| Some((mode(seat).ok()?, nanos.parse().ok()?)));
    parts.filter(|(mode, _)| mode.is_balancer()).ok_or_else(|| "expected xdp:NS or afxdp:NS".to_owned())
}

pub fn bench(args: &BenchArgs) -> Result<(), Failure> {
    match &args.verb {
        Some(BenchVerb::Export(args)) => export_captures(args),
        Some(BenchVerb::Compare(args)) => compare_results(args),
        None => run(&args.run),
    }
}

fn find(names: &[String], directory: &Path) -> Result<Vec<Scenario>, Failure> {
    names.iter().map(|name| Scenario::find(name, directory).map_err(|error| Failure::Usage(error.into()))).collect()
}

fn export_captures(args: &ExportArgs) -> Result<(), Failure> {
    let names = if args.scenarios.is_empty() {
        built_in::BUILT_IN.iter().map(|(name, ..)| (*name).to_owned()).collect()
    } else {
        args.scenarios.clone()
    };
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    for scenario in find(&names, &args.directory)? {
        let path = args.out.join(format!("{}.pcap", scenario.name));
        let frames = export::export(&scenario, &path)?;
        println!("{}: {frames} frames, {} flows", path.display(), scenario.flows());
    }
    Ok(())
}

fn compare_results(args: &CompareArgs) -> Result<(), Failure> {
    let load = |path: &Path| Results::load(path).map_err(|error| Failure::Usage(error.into()));
    let (before, after) = (load(&args.before)?, load(&args.after)?);
    let comparison = compare::compare(&before, &after, args.least, args.force)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&comparison)?);
    } else {
        print!("{}", comparison.text());
    }
    Ok(())
}

fn run(args: &RunArgs) -> Result<(), Failure> {
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("bench-results").join(date()));
    let results = match &args.external {
        Some(name) => elsewhere(args, name)?,
        None => {
            let settings = settings(args)?;
            check_permitted()?;
            let interrupt = Interrupt::catch()?;
            harness::run(&settings, &interrupt, &Progress::begin(harness::estimate(&settings)))?
        }
    };
    results.save(&out)?;
    let page = out.join("index.html");
    fs::write(&page, report::page(&results)?).with_context(|| page.display().to_string())?;
    let numbers = out.join("numbers.md");
    fs::write(&numbers, report::numbers(&results)).with_context(|| numbers.display().to_string())?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&results)?);
    } else {
        print!("{}", report::summary(&results));
        println!("{}", page.display());
    }
    match results.runs.iter().filter(|run| !run.valid).count() {
        0 => Ok(()),
        invalid => Err(anyhow!("{invalid} of {} rows are invalid; {} says why", results.runs.len(), page.display()).into()),
    }
}

/// Measures with a generator that is not ours.
fn elsewhere(args: &RunArgs, name: &str) -> Result<Results, Failure> {
    let modes = if args.modes.is_empty() { vec![Mode::Xdp, Mode::Afxdp] } else { args.modes.clone() };
    if let Some(mode) = modes.iter().find(|mode| !mode.is_balancer()) {
        return Err(Failure::Usage(anyhow!("--external measures a running balancer, which has no mode {}", mode.name())));
    }
    let time = Duration::from_secs_f64(args.time);
    let patience = Duration::from_secs_f64(args.wait);
    let settings = external::Settings { name: name.to_owned(), modes, repeats: args.repeats, time, patience };
    let whole = (time + Duration::from_millis(500)) * args.repeats * settings.modes.len() as u32;
    Ok(external::run(&settings, &Interrupt::catch()?, &Progress::begin(whole))?)
}

fn settings(args: &RunArgs) -> Result<Settings, Failure> {
    let names: Vec<String> = match (args.scenarios.is_empty(), args.full) {
        (false, _) => args.scenarios.clone(),
        (true, true) => built_in::BUILT_IN.iter().map(|(name, ..)| (*name).to_owned()).collect(),
        (true, false) => SPREADS.map(str::to_owned).to_vec(),
    };
    let scenarios = find(&names, &args.directory)?;
    let usage = |what: &str| Failure::Usage(anyhow!("{what}"));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (core, generator_core) = (args.core.unwrap_or(cores - 1), args.generator_core.unwrap_or(0));
    if core == generator_core {
        return Err(usage(
            "generator and device under test need a core each (--core, --generator-core); this machine may have only one",
        ));
    }
    // Named scenarios are all searched; of the default ones the narrowest and the widest.
    let searched = match (args.no_search, args.scenarios.is_empty()) {
        (true, _) => Vec::new(),
        (false, true) => SEARCHED.map(str::to_owned).to_vec(),
        (false, false) => scenarios.iter().map(|scenario| scenario.name.clone()).collect(),
    };
    let mut memory_flows = args.memory_flows.clone().unwrap_or_else(|| MEMORY_FLOWS.to_vec());
    if args.full && args.memory_flows.is_none() {
        memory_flows.push(10_000_000);
    }
    memory_flows.retain(|flows| *flows > 0);
    if memory_flows.iter().any(|flows| *flows > 1 << 24) {
        return Err(usage("--memory-flows: at most 16777216 flows"));
    }
    let modes = if args.modes.is_empty() { Mode::ALL.to_vec() } else { args.modes.clone() };
    Ok(Settings {
        scenarios,
        modes: modes.into_iter().chain(args.program.iter().map(|_| Mode::Program)).collect(),
        generator: match args.generator {
            GeneratorName::LiveFrames => Generator::Live,
            GeneratorName::AfXdp => Generator::Afxdp,
            GeneratorName::Sendmmsg => Generator::Sendmmsg,
        },
        repeats: args.repeats,
        time: Duration::from_secs_f64(args.time),
        capacity: args.capacity,
        generic: args.generic,
        searched,
        steps: 8,
        loss_threshold: args.loss_threshold,
        latency_rates: LATENCY_RATES.to_vec(),
        memory_flows,
        prefix: args.prefix.clone(),
        program: std::env::current_exe().context("cannot find this program's own file")?,
        generator_core,
        core,
        pinned: args.program.clone().map(|pin| (pin, args.program_overhead)),
        delay: args.delay,
        ports: args
            .interface
            .clone()
            .zip(args.generator_interface.clone())
            .map(|(device, generator)| Ports { device, generator }),
    })
}

/// UTC, to the second, as a directory's name.
fn date() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d-%H%M%S").to_string()
}
