//! `tandem doctor`: looks for what keeps packets from arriving, and says what cures it.

use std::io::{IsTerminal, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::{Args, Subcommand, ValueEnum};
use tandem_backends::config::Plan;
use tandem_doctor::checks::{all, by_id};
use tandem_doctor::explain::explain;
use tandem_doctor::facts::HostFacts;
use tandem_doctor::probe::{ARRIVED, Sighting, trace};
use tandem_doctor::{Bundle, Network, Ports, Report, Role, Service, Setting, Status, examine, judge};

use crate::{Failure, load};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DoctorArgs {
    #[command(subcommand)]
    verb: Option<DoctorVerb>,
    /// Whose checks are run [default: lb with -c; a host without a configuration has to say]
    #[arg(long)]
    role: Option<RoleName>,
    /// The balancer's configuration
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The balancer's name, as `tandem run --name` has it [default: the interface's]
    #[arg(long, requires = "config")]
    name: Option<String>,
    /// Print the command line for another host instead: a real server of the configuration, or with --role any host
    #[arg(long, value_name = "ADDRESS", requires = "config")]
    for_host: Option<IpAddr>,
    #[command(flatten)]
    part: Part,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Write setting, facts and report for a bug report
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// Judge the facts of such a file instead of this host's
    #[arg(long, value_name = "FILE", conflicts_with_all = ["role", "config", "bundle", "watch"])]
    facts: Option<PathBuf>,
    /// Look again every N seconds, until interrupted; a line for each check that changed
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "30", value_parser = clap::value_parser!(u64).range(1..))]
    watch: Option<u64>,
    /// Note every probe that this host sees, a line of JSON each, for --seconds
    #[arg(long, conflicts_with_all = ["watch", "probe"])]
    listen: bool,
    /// Send probes: from a client to the VIPs, from the balancer to each real in its tunnel, from a real with the VIP as the
    /// source to each --client
    #[arg(long, conflicts_with = "watch")]
    probe: bool,
    /// With --probe: length of the large ones' IP packets, which are not cut into fragments
    #[arg(long, value_name = "N", default_value_t = 1400, value_parser = clap::value_parser!(u16).range(100..))]
    bytes: u16,
    /// Ask on every link, by ARP and neighbour discovery, who has the VIPs
    #[arg(long, conflicts_with_all = ["watch", "probe", "listen"])]
    who_has: bool,
    /// Say how far each probe came, from the notes of all hosts that listened
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["role", "config"])]
    correlate: Vec<PathBuf>,
    /// How long --listen listens
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// With --watch: write each result there, for node_exporter's textfile collector
    #[arg(long, value_name = "FILE", requires = "watch")]
    metrics: Option<PathBuf>,
}

#[derive(Subcommand)]
enum DoctorVerb {
    /// Explains a check; without an id, lists all
    Explain {
        /// For example D-04
        id: Option<String>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum RoleName {
    Lb,
    Real,
    Router,
    Client,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Lb => Self::Lb,
            RoleName::Real => Self::Real,
            RoleName::Router => Self::Router,
            RoleName::Client => Self::Client,
        }
    }
}

/// This host's part, where there is no configuration: what `--for-host` prints.
#[derive(Args)]
struct Part {
    /// `PROTOCOL,VIP:PORT,METHOD[,vni=N][,ethernet][,real=ADDRESS]…`
    #[arg(long = "service", value_name = "SERVICE")]
    services: Vec<Service>,
    /// Outer source of the tunnels, or the network that it is crafted in
    #[arg(long = "source", value_name = "NETWORK")]
    sources: Vec<Network>,
    /// Address of a balancer
    #[arg(long = "balancer", value_name = "ADDRESS")]
    balancers: Vec<IpAddr>,
    /// Address of a client
    #[arg(long = "client", value_name = "ADDRESS")]
    clients: Vec<IpAddr>,
    /// UDP port of GUE
    #[arg(long, value_name = "N")]
    gue_port: Option<u16>,
    /// UDP port of FOU with IPv4 inside
    #[arg(long, value_name = "N")]
    fou_port_v4: Option<u16>,
    /// UDP port of FOU with IPv6 inside
    #[arg(long, value_name = "N")]
    fou_port_v6: Option<u16>,
    /// UDP port of Geneve
    #[arg(long, value_name = "N")]
    geneve_port: Option<u16>,
    /// The balancer may leave outer UDP checksums out
    #[arg(long)]
    zero_checksums: bool,
}

impl Part {
    /// Adds it to what the configuration says, or to nothing.
    fn add_to(&self, mut setting: Setting) -> Setting {
        setting.services.extend(self.services.iter().cloned());
        setting.sources.extend(&self.sources);
        setting.balancers.extend(&self.balancers);
        setting.clients.extend(&self.clients);
        let Ports { gue, fou_v4, fou_v6, geneve } = setting.ports;
        setting.ports = Ports {
            gue: self.gue_port.unwrap_or(gue),
            fou_v4: self.fou_port_v4.unwrap_or(fou_v4),
            fou_v6: self.fou_port_v6.unwrap_or(fou_v6),
            geneve: self.geneve_port.unwrap_or(geneve),
        };
        setting.zero_checksums |= self.zero_checksums;
        setting
    }
}

pub fn doctor(args: &DoctorArgs) -> Result<(), Failure> {
    if let Some(DoctorVerb::Explain { id }) = &args.verb {
        return explained(id.as_deref());
    }
    if let Some(file) = &args.facts {
        let bundle = Bundle::read(file).map_err(|error| Failure::Usage(error.into()))?;
        return tell(&judge(&bundle.facts, &bundle.setting), args.json);
    }
    if !args.correlate.is_empty() {
        return correlate(&args.correlate);
    }
    let setting = setting(args)?;
    if args.listen {
        return listen(&setting, Duration::from_secs(args.seconds));
    }
    if args.probe {
        return probe(&setting, args.bytes.into());
    }
    if args.who_has {
        return who_has(&setting);
    }
    if let Some(address) = args.for_host {
        return for_host(&setting, address, args.role.map(Role::from));
    }
    if let Some(seconds) = args.watch {
        return watch(&setting, Duration::from_secs(seconds), args.metrics.as_deref(), args.json);
    }
    let (report, facts) = examine(&setting);
    if let Some(file) = &args.bundle {
        write_bundle(file, &setting, facts, &report)?;
    }
    tell(&report, args.json)
}

fn explained(id: Option<&str>) -> Result<(), Failure> {
    let Some(id) = id else {
        for check in all() {
            println!("{} {}", check.id, check.title);
        }
        return Ok(());
    };
    let check = by_id(id).ok_or_else(|| {
        let known: Vec<&str> = all().map(|check| check.id).collect();
        Failure::Usage(anyhow!("there is no check `{id}`; there are {}", known.join(", ")))
    })?;
    print!("{}", explain(check));
    Ok(())
}

/// From the configuration, the options, or both.
fn setting(args: &DoctorArgs) -> Result<Setting, Failure> {
    let role = args.role.map(Role::from);
    let Some(file) = &args.config else {
        let role = role.ok_or_else(|| {
            Failure::Usage(anyhow!(
                "which host is this? `-c FILE` on the balancer; --role real, router or client elsewhere (`tandem doctor -c FILE --for-host \
                 ADDRESS` on the balancer prints the whole command line)"
            ))
        })?;
        return Ok(args.part.add_to(Setting::of(role)));
    };
    let plan = load(file)?;
    let setting = of_plan(&plan, file, args.name.as_deref());
    if role.is_some_and(|role| role != Role::Lb) && args.for_host.is_none() {
        let own = setting.sources.iter().filter(|source| source.is_host()).map(|source| source.address).collect::<Vec<_>>();
        let role = role.unwrap_or(Role::Lb);
        // Who has the configuration on another host may use it there.
        let other = Setting { role, balancer: None, balancers: own, ..setting };
        return Ok(args.part.add_to(other));
    }
    Ok(args.part.add_to(setting))
}

fn of_plan(plan: &Plan, file: &Path, name: Option<&str>) -> Setting {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    Setting::of_plan(plan, &file.display().to_string(), name)
}

/// Prints one command line to paste on another host.
fn for_host(setting: &Setting, address: IpAddr, role: Option<Role>) -> Result<(), Failure> {
    let is_real = setting.reals().contains(&address);
    let role = match role {
        Some(role) => role,
        None if is_real => Role::Real,
        None => {
            let reals: Vec<String> = setting.reals().iter().map(ToString::to_string).collect();
            return Err(Failure::Usage(anyhow!(
                "{address} is no real server of the configuration; those are {}. For another host, say --role router or --role client",
                reals.join(", ")
            )));
        }
    };
    if role == Role::Real && !is_real {
        return Err(Failure::Usage(anyhow!("{address} is no real server of the configuration")));
    }
    let facts = HostFacts::read(setting, |_, _| Vec::new());
    let interfaces = setting.balancer.iter().flat_map(|balancer| &balancer.interfaces);
    let indices: Vec<u32> = interfaces.filter_map(|name| facts.link(name)).map(|link| link.index).collect();
    let is_global = |address: &IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    };
    let own = facts.addresses.iter().filter(|own| indices.contains(&own.link)).map(|own| own.address).filter(is_global);
    println!("tandem doctor {}", setting.for_host(role, address, &own.collect::<Vec<_>>()).options().join(" "));
    Ok(())
}

fn write_bundle(file: &Path, setting: &Setting, facts: HostFacts, report: &Report) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Bundle { version, setting: setting.clone(), facts, report: Some(report.clone()) }.write(file)?;
    eprintln!("{}: setting, facts and report; look through it before you give it away", file.display());
    Ok(())
}

/// Says it, with the exit status of the worst.
fn tell(report: &Report, json: bool) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(report)?)?;
    } else {
        write!(out, "{report}")?;
    }
    if report.status == Status::Fail {
        let roots = if report.roots.is_empty() { String::new() } else { format!(": {}", report.roots.join(", ")) };
        return Err(anyhow!("{} checks failed{roots}", report.count(Status::Fail)).into());
    }
    Ok(())
}

/// A line for each probe that is seen, at once: whoever reads them may be waiting.
fn listen(setting: &Setting, time: Duration) -> Result<(), Failure> {
    eprintln!("listening for {} s as {}", time.as_secs(), setting.role);
    let mut out = std::io::stdout().lock();
    let mut written = Ok(());
    tandem_doctor::probe::listen(setting, Instant::now() + time, |sighting| {
        let line = serde_json::to_string(sighting).map_err(std::io::Error::other);
        let line = line.and_then(|line| writeln!(out, "{line}")).and_then(|()| out.flush());
        if written.is_ok() {
            written = line;
        }
    })
    .map_err(|error| anyhow!("cannot listen: {error}; it needs CAP_NET_RAW"))?;
    Ok(written?)
}

fn probe(setting: &Setting, largest: usize) -> Result<(), Failure> {
    let nonce = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
    for sent in tandem_doctor::probe::send(setting, nonce, largest).map_err(|error| Failure::Usage(error.into()))? {
        println!("{}", sent.nonce);
        eprintln!("{} probes sent, in IP packets of {} bytes", sent.ways, sent.bytes);
        if let Some(why) = sent.refused {
            eprintln!("not all of them left this host: {why}");
        }
    }
    eprintln!("`tandem doctor --correlate FILE…` with the notes of all who listen says how far they came");
    Ok(())
}

/// A line for each answer; somebody who is no balancer is an error.
fn who_has(setting: &Setting) -> Result<(), Failure> {
    if setting.services.is_empty() {
        return Err(Failure::Usage(anyhow!("no VIPs: -c FILE or --service names them")));
    }
    let claims = tandem_doctor::probe::claims(setting).map_err(|error| anyhow!("cannot ask: {error}; it needs CAP_NET_RAW"))?;
    for claim in &claims {
        let whose = if claim.is_balancers { "a balancer" } else { "no balancer that is known here" };
        println!("{} on {}: {}, {whose}", claim.vip, claim.interface, claim.mac);
    }
    match claims.iter().filter(|claim| !claim.is_balancers).count() {
        0 => Ok(()),
        others => Err(anyhow!(
            "{others} answers from hosts that are no balancers: who asks them sends past the balancer (`tandem doctor explain D-08`)"
        )
        .into()),
    }
}

fn correlate(files: &[PathBuf]) -> Result<(), Failure> {
    let mut sightings = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).map_err(|error| Failure::Usage(anyhow!("{}: {error}", file.display())))?;
        for (at, line) in text.lines().enumerate().filter(|(_, line)| line.starts_with('{')) {
            let sighting: Sighting = serde_json::from_str(line).map_err(|error| {
                Failure::Usage(anyhow!("{}:{}: no note of `tandem doctor --listen`: {error}", file.display(), at + 1))
            })?;
            sightings.push(sighting);
        }
    }
    let nonces: std::collections::BTreeSet<&String> = sightings.iter().map(|sighting| &sighting.nonce).collect();
    let traces: Vec<String> = nonces.into_iter().filter_map(|nonce| trace(&sightings, nonce)).collect();
    if traces.is_empty() {
        return Err(
            anyhow!("nobody noted a probe: was it sent while they listened, and did they know the VIPs (--service)?").into()
        );
    }
    print!("{}", traces.join("\n"));
    if traces.iter().all(|trace| trace.ends_with(ARRIVED)) { Ok(()) } else { Err(anyhow!("not every probe arrived").into()) }
}

/// Looks again and again; the whole report first, then what changed.
fn watch(setting: &Setting, pause: Duration, metrics: Option<&Path>, json: bool) -> Result<(), Failure> {
    let mut last: Option<Report> = None;
    loop {
        let (report, _) = examine(setting);
        if let Some(file) = metrics {
            // Whole or not at all: whoever reads it must not see half of it.
            let half = file.with_extension("part");
            std::fs::write(&half, report.metrics())
                .and_then(|()| std::fs::rename(&half, file))
                .map_err(|error| anyhow!("{}: cannot write the metrics: {error}", file.display()))?;
        }
        let mut out = std::io::stdout().lock();
        match &last {
            _ if json => writeln!(out, "{}", serde_json::to_string(&report)?)?,
            None => write!(out, "{report}")?,
            Some(last) => {
                for row in &report.checks {
                    let before = last.row(&row.id).map(|row| row.status);
                    if before != Some(row.status) {
                        let observed: Vec<&str> = row.findings.iter().map(|finding| finding.observed.as_str()).collect();
                        writeln!(out, "{} {} {}: {}", row.status.word(), row.id, row.title, observed.join("; "))?;
                    }
                }
            }
        }
        out.flush()?;
        if last.is_none() && std::io::stdout().is_terminal() {
            eprintln!("looking again every {} s; Ctrl-C ends", pause.as_secs());
        }
        last = Some(report);
        drop(out);
        std::thread::sleep(pause);
    }
}

/// What the start itself says, in its own words.
const SAID_BY_START: [&str; 2] = ["D-44", "D-49"];

/// The static part, when the balancer starts: what is not as it should be goes to the log. Nothing is refused here: what can
/// never work is an error of the start itself, with a message of its own.
pub fn at_start(plan: &Plan, file: &Path, name: Option<&str>) {
    let mut setting = of_plan(plan, file, name);
    if let Some(balancer) = &mut setting.balancer {
        balancer.is_starting = true;
    }
    let (report, _) = examine(&setting);
    let new = |row: &&tandem_doctor::Row| row.because.is_empty() && !SAID_BY_START.contains(&row.id.as_str());
    for row in report.checks.iter().filter(new) {
        for finding in row.findings.iter().filter(|finding| finding.status >= Status::Warn) {
            let cure = if finding.cures.is_empty() { String::new() } else { format!("; cure: {}", finding.cures.join("; ")) };
            let text = format!("doctor: {} {}: {}{cure}; {}", row.id, row.title, finding.observed, row.explain);
            if finding.status == Status::Fail { log::error!("{text}") } else { log::warn!("{text}") }
        }
    }
}
