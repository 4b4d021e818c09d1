//! The command `tandem`: arguments in, exit status out. Every verb is short and calls the libraries.

mod balancer;
mod bench;
mod capture;
mod check;
mod decap;
mod demo;
mod doctor;
mod flow;
mod lab;
mod logs;
mod manual;
mod mode;
mod privileges;
mod replay;
mod root;
mod service;
mod target;
mod top;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tandem_backends::config::{self, Plan};

/// A layer-4 load balancer: one forwarding core, in the kernel (XDP) or in userspace (AF_XDP), switched live.
#[derive(Parser)]
#[command(name = "tandem", version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs the balancer in the foreground until SIGINT or SIGTERM
    Run(balancer::RunArgs),
    /// Removes what a balancer left attached and pinned
    Detach(balancer::DetachArgs),
    /// On a real server: takes the tunnels off, so that it needs no tunnel device
    Decap(decap::DecapArgs),
    /// Several XDP programs on one interface: attaches a root that calls what is in its slots
    Root(root::RootArgs),
    /// Validates a configuration without touching the host
    Check(check::CheckArgs),
    /// Runs a capture through the data path, frame by frame, without an interface
    Replay(replay::ReplayArgs),
    /// Explains what happens to one packet
    Trace(trace::TraceArgs),
    /// Shows or switches the seat of a running balancer, or measures this host
    Mode(mode::ModeArgs),
    /// Has a running balancer read its configuration again: all of it comes into force, or nothing does
    Reload(mode::ReloadArgs),
    /// Shows the counters of a running balancer, of both seats
    Counters(mode::CountersArgs),
    /// Looks for what keeps packets from arriving, on the balancer, a real server, a router or a client
    Doctor(doctor::DoctorArgs),
    /// The VIPs of a running balancer: list, add, change, remove
    Vip(service::VipArgs),
    /// The reals of a running balancer's VIPs: list, add, change, remove
    Real(service::RealArgs),
    /// Takes a real out of the ring, and lets it keep the flows it has
    Drain(service::DrainArgs),
    /// The flows of a running balancer: list, export, import
    Flow(flow::FlowArgs),
    /// What VIPs and reals of a running balancer did, both seats together
    Stats(service::StatsArgs),
    /// A live view of a running balancer
    Top(top::TopArgs),
    /// Writes frames of a running balancer into a pcapng file, as they come in and as they leave
    Capture(capture::CaptureArgs),
    /// Writes what was changed in a running balancer into its configuration file, comments kept
    Save(mode::SaveArgs),
    /// Network namespaces with real servers, to try things in
    Lab(lab::LabArgs),
    /// The five-minute proof: real traffic through both seats, and live switches between them
    Demo(demo::DemoArgs),
    /// The benchmark: the kernel seat against the userspace seat, like for like, with the evidence
    Bench(Box<bench::BenchArgs>),
    /// Writes the manual pages
    Man(manual::ManArgs),
    /// Prints a script that completes this command's arguments
    Completions(manual::CompletionsArgs),
}

impl Verb {
    fn log_format(&self) -> logs::LogFormat {
        match self {
            Self::Run(args) => args.log_format,
            _ => logs::LogFormat::Text,
        }
    }
}

/// What went wrong, and which exit status it has.
enum Failure {
    /// 1: the thing asked for failed, or a check failed.
    Failed(anyhow::Error),
    /// 2: wrong usage or unreadable input.
    Usage(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

fn main() -> ExitCode {
    let verb = Cli::parse().verb;
    logs::start(verb.log_format());
    let result = match verb {
        Verb::Run(args) => balancer::run(&args),
        Verb::Detach(args) => balancer::detach(&args),
        Verb::Decap(args) => decap::decap(&args),
        Verb::Root(args) => root::root(&args),
        Verb::Check(args) => check::check(&args),
        Verb::Replay(args) => replay::replay(&args),
        Verb::Trace(args) => trace::trace(&args),
        Verb::Mode(args) => mode::mode(&args),
        Verb::Reload(args) => mode::reload(&args),
        Verb::Counters(args) => mode::counters(&args),
        Verb::Doctor(args) => doctor::doctor(&args),
        Verb::Lab(args) => lab::lab(args),
        Verb::Demo(args) => demo::demo(&args),
        Verb::Bench(args) => bench::bench(&args),
        Verb::Vip(args) => service::vip(&args),
        Verb::Real(args) => service::real(&args),
        Verb::Drain(args) => service::drain(&args),
        Verb::Flow(args) => flow::flow(&args),
        Verb::Stats(args) => service::stats(&args),
        Verb::Top(args) => top::top(&args),
        Verb::Capture(args) => capture::capture(&args),
        Verb::Save(args) => mode::save(&args),
        Verb::Man(args) => manual::man(&args),
        Verb::Completions(args) => manual::completions(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Failed(error)) => complain(&error, 1),
        Err(Failure::Usage(error)) => complain(&error, 2),
    }
}

fn complain(error: &anyhow::Error, status: u8) -> ExitCode {
    // A closed pipe (`tandem … | head`) is no failure to report.
    let is_pipe = error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe);
    if !is_pipe {
        eprintln!("error: {}", chain(error));
    }
    ExitCode::from(status)
}

/// The error with its causes, each once: most of our messages contain their cause already.
fn chain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text.as_str() {
        "" => cause,
        _ if text.contains(&cause) => text,
        _ => format!("{text}: {cause}"),
    })
}

/// Reads a configuration; its warnings go to the log.
fn load(path: &PathBuf) -> Result<Plan, Failure> {
    let loaded = config::load(path).map_err(|error| Failure::Usage(error.into()))?;
    for warning in &loaded.warnings {
        log::warn!("{warning}");
    }
    Ok(loaded.plan)
}
