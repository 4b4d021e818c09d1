//! `tandem lab`: network namespaces with real servers, kept until they are taken down.

pub mod rig;
pub mod scene;

use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use tandem_backends::config::Protocol;
use tandem_lab::{
    DEFAULT_PREFIX, Host, Lab, LabError, MARKER, Removed, Servers, Services, Spec, Status, Topology, find_program, prefix_option,
};

use crate::Failure;
use scene::{Service, configuration, iperf3_port};

#[derive(Args)]
pub struct LabArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Builds a lab and leaves it there: client, router, balancer and real servers, each a network namespace
    Up(UpArgs),
    /// Ends a lab's processes and removes the lab; without a prefix the lab `tandem`, and all labs whose makers were killed
    Down {
        /// Which lab: labs of different prefixes coexist
        #[arg(long)]
        prefix: Option<String>,
    },
    /// Shows a lab
    Status {
        #[command(flatten)]
        which: Which,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Runs a command on a host of the lab; its exit status is passed on
    Exec {
        #[command(flatten)]
        which: Which,
        /// client, router, lb, real1, real2, …
        host: Host,
        /// The command and its arguments
        #[arg(required = true, last = true)]
        command: Vec<OsString>,
    },
}

#[derive(Args)]
struct Which {
    /// Which lab: labs of different prefixes coexist
    #[arg(long, default_value = DEFAULT_PREFIX)]
    prefix: String,
}

#[derive(Args)]
struct UpArgs {
    #[command(flatten)]
    which: Which,
    /// How the hosts are connected: each on a subnet of its own, with the addresses of the classic benchmark, or balancer and
    /// real servers on one segment
    #[arg(long, value_enum, default_value = "routed")]
    layout: Shape,
    /// Number of real servers
    #[arg(long, default_value_t = 3)]
    reals: u16,
    /// Virtual addresses [default: 10.200.1.1 and fc00:200::1; classic: 192.168.1.13]
    #[arg(long, value_name = "ADDR", num_args = 1..)]
    vip: Vec<IpAddr>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shape {
    Routed,
    Classic,
    Segment,
}

pub fn lab(args: LabArgs) -> Result<(), Failure> {
    match args.verb {
        Verb::Up(args) => up(&args),
        Verb::Down { prefix } => down(prefix),
        Verb::Status { which, json } => status(&which.prefix, json),
        Verb::Exec { which, host, command } => exec(&which.prefix, host, &command),
    }
}

/// A lab that cannot be built as asked for is wrong usage.
pub fn failure(error: anyhow::Error) -> Failure {
    match error.downcast_ref() {
        Some(LabError::Spec { .. } | LabError::NoHost { .. }) => Failure::Usage(error),
        _ => Failure::Failed(error),
    }
}

fn up(args: &UpArgs) -> Result<(), Failure> {
    let prefix = &args.which.prefix;
    let vips = [[10, 200, 1, 1].into(), [0xfc00, 0x200, 0, 0, 0, 0, 0, 1].into()];
    let mut spec = match args.layout {
        Shape::Routed => Spec::routed(prefix, &vips),
        Shape::Segment => Spec::segment(prefix, &vips),
        Shape::Classic => Spec::classic(prefix),
    };
    spec.reals = args.reals;
    if !args.vip.is_empty() {
        spec.vips.clone_from(&args.vip);
    }
    let mut lab = rig::build(spec).map_err(failure)?;
    let file = lab.directory().join("tandem.toml");
    let mut wanted = Services { blob: 16 << 20, ..Services::default() };
    for vip in &lab.topology().spec.vips {
        let (port, _) = iperf3_port(lab.topology(), *vip)?;
        wanted.web.push(SocketAddr::new(*vip, 80));
        wanted.iperf3.push(SocketAddr::new(*vip, port));
    }
    let services = services(&wanted, args.layout);
    fs::write(&file, configuration(lab.topology(), &services)?).with_context(|| file.display().to_string())?;
    let servers = serve(&lab, &mut wanted)?;
    lab.keep()?;
    // They are the lab's now: `tandem lab down` ends them.
    std::mem::forget(servers);
    describe(lab.topology());
    println!("\nOn every real server:");
    println!("  nginx   {}", list(&wanted.web));
    println!("  iperf3  {}", list(&wanted.iperf3));
    try_next(lab.topology(), &file.display().to_string(), &wanted);
    Ok(())
}

/// HTTP and iperf3 over each VIP; the classic layout also has the classic benchmark's port.
fn services(wanted: &Services, layout: Shape) -> Vec<Service> {
    let http = wanted.web.iter().map(|at| Service::http(*at));
    let iperf3 = wanted.iperf3.iter().flat_map(|at| Service::iperf3(*at));
    let classic = wanted.web.iter().filter(|_| matches!(layout, Shape::Classic));
    let classic = classic.map(|at| Service { protocol: Protocol::Udp, ..Service::http(SocketAddr::new(at.ip(), 5678)) });
    http.chain(iperf3).chain(classic).collect()
}

/// Starts what is installed of the servers, and says what is not.
fn serve(lab: &Lab, wanted: &mut Services) -> Result<Servers, LabError> {
    for (program, addresses) in [("nginx", &mut wanted.web), ("iperf3", &mut wanted.iperf3)] {
        if let Err(error) = find_program(program, program) {
            log::warn!("{error}; the lab is built without it");
            addresses.clear();
        }
    }
    Servers::start(lab, wanted)
}

fn try_next(topology: &Topology, file: &str, wanted: &Services) {
    let prefix = &topology.spec.prefix;
    let option = prefix_option(prefix);
    let name = rig::balancer_name(prefix);
    println!("\nTry:");
    println!("  tandem lab exec{option} lb -- tandem run -c {file} --name {name}");
    for vip in &wanted.web {
        println!("  tandem lab exec{option} client -- curl http://{}/", vip_text(vip.ip()));
    }
    for vip in &wanted.iperf3 {
        println!("  tandem lab exec{option} client -- iperf3 --client {} --port {}", vip.ip(), vip.port());
    }
    println!("  tandem mode set afxdp --name {name}");
    println!("  tandem counters --name {name}");
    println!("  tandem lab down{option}");
}

fn vip_text(vip: IpAddr) -> String {
    match vip {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

fn list(addresses: &[SocketAddr]) -> String {
    if addresses.is_empty() {
        return "not installed".to_owned();
    }
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn describe(topology: &Topology) {
    let spec = &topology.spec;
    println!("Lab `{}`, layout {}, VIPs {}", spec.prefix, spec.layout, join(&spec.vips));
    println!("  {:<8} {:<24} {:<6} {:<18} {:<24} gateway", "host", "namespace", "device", "IPv4", "IPv6");
    for link in &topology.links {
        let (v4, v6) = (format!("{}/{}", link.v4, link.v4_len), format!("{}/{}", link.v6, link.v6_len));
        let (host, gateway) = (link.host.to_string(), link.router.gateway_v4);
        println!("  {host:<8} {:<24} {:<6} {v4:<18} {v6:<24} {gateway}", link.namespace, link.interface);
    }
    println!("  {:<8} {:<24} one device for each host", "router", spec.namespace(Host::Router));
}

fn join(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn down(prefix: Option<String>) -> Result<(), Failure> {
    let prefixes = match prefix {
        Some(prefix) => vec![prefix],
        None => {
            let mut abandoned = Lab::abandoned().map_err(|error| failure(error.into()))?;
            abandoned.retain(|prefix| prefix != DEFAULT_PREFIX);
            abandoned.push(DEFAULT_PREFIX.to_owned());
            abandoned
        }
    };
    // All of them, also after one that cannot be removed; that one is the error.
    let mut removed = 0;
    let mut result = Ok(());
    for prefix in &prefixes {
        match Lab::down(prefix) {
            Ok(lab) => {
                describe_removed(prefix, &lab);
                removed += 1;
            }
            Err(LabError::Missing { .. }) => {}
            Err(error) => result = result.and(Err(failure(error.into()))),
        }
    }
    if removed == 0 && result.is_ok() {
        println!("there is no lab `{}`: nothing to remove", prefixes.join("`, `"));
        for other in Lab::all().map_err(|error| failure(error.into()))? {
            println!("there is a lab `{other}`: `tandem lab down --prefix {other}` removes it");
        }
    }
    result
}

fn describe_removed(prefix: &str, removed: &Removed) {
    let processes = removed.processes.len() + removed.stragglers;
    println!("lab `{prefix}` removed: {} namespaces, {processes} processes", removed.namespaces.len());
    for path in &removed.outside {
        println!("  {}", path.display());
    }
}

fn status(prefix: &str, json: bool) -> Result<(), Failure> {
    let status = Lab::status(prefix).map_err(|error| failure(error.into()))?;
    if json {
        println!("{}", serde_json::to_string(&status)?);
        return Ok(());
    }
    describe(&status.topology);
    println!("{}", owner(&status));
    for name in &status.missing_namespaces {
        println!("  missing: namespace {name}");
    }
    for process in &status.processes {
        let state = if process.alive { "runs" } else { "ended" };
        let (record, log) = (&process.process, process.process.log.display());
        println!("  {:<20} {:>8}  {state:<6} {log}", record.name, record.id.pid);
    }
    Ok(())
}

fn owner(status: &Status) -> String {
    let pid = status.owner.pid;
    match (status.kept, status.owner_alive) {
        (true, _) => format!("It stays until `tandem lab down{}`.", prefix_option(&status.topology.spec.prefix)),
        (false, true) => format!("Process {pid} uses it and will remove it."),
        (false, false) => format!("Process {pid}, whose it was, was killed: `tandem lab down` removes what is left."),
    }
}

/// Becomes the command, so that signals and the exit status are its own.
fn exec(prefix: &str, host: Host, words: &[OsString]) -> Result<(), Failure> {
    let lab = Lab::open(prefix).map_err(|error| failure(error.into()))?;
    if host != Host::Router {
        lab.link(host).map_err(|error| failure(error.into()))?;
    }
    let [program, arguments @ ..] = words else {
        return Err(Failure::Usage(anyhow!("no command")));
    };
    let error = lab.enter(host, || Command::new(program).args(arguments).env(MARKER, prefix).exec())?;
    Err(anyhow!("cannot start {} in {}: {error}", program.display(), lab.namespace(host)).into())
}
