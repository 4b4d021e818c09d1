//! `tandem mode probe`: both seats measured, in a private namespace or on a running balancer's interface.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use tandem_api::{decision_to_wire, seat_name, wire};
use tandem_backends::calibrate::{Calibrated, Record, calibrate};
use tandem_backends::config::{Attach, ModeWish, Plan};
use tandem_backends::decision::{Host, Numbers, decide};
use tandem_backends::facts::Netlink;
use tandem_backends::run::{LONGEST_TURN, Paths};

use crate::balancer::balancer_name;
use crate::target::Target;
use crate::{Failure, load};

#[derive(Args)]
pub struct ProbeArgs {
    /// For the interfaces, the attachment and the cores of this configuration
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["interface", "live"])]
    config: Option<PathBuf>,
    /// For this interface, attached natively
    #[arg(long, value_name = "NAME", conflicts_with = "live")]
    interface: Option<String>,
    /// Saves what was measured for the starts of the balancer --name (by default the interface's), until the next boot
    #[arg(long, conflicts_with = "live")]
    save: bool,
    /// Does nothing if that is saved already for this version, kernel and boot, or if the configuration's mode is not auto
    #[arg(long, requires = "save")]
    once: bool,
    /// On the interface of a running balancer, under the traffic that is there: each seat forwards for so many seconds, twice
    /// [default: 3]; the mode is then as it was
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "3",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(LONGEST_TURN)))]
    live: Option<u32>,
    /// Has the better seat forward from then on
    #[arg(long, requires = "live")]
    apply: bool,
}

pub fn probe(args: &ProbeArgs, target: &Target) -> Result<(), Failure> {
    if let Some(seconds) = args.live {
        return live(seconds, args.apply, target);
    }
    let plan = args.config.as_ref().map(load).transpose()?;
    let interfaces = match (&plan, &args.interface) {
        (Some(plan), _) => plan.interfaces.clone(),
        (None, name) => name.iter().cloned().collect(),
    };
    let path = if args.save { Some(record_path(target, &interfaces)?) } else { None };
    if args.once && plan.as_ref().is_some_and(|plan| plan.mode != ModeWish::Auto) {
        println!("nothing is measured: the configuration's mode is not auto");
        return Ok(());
    }
    if let Some(path) = path.as_ref().filter(|_| args.once)
        && let Ok(record) = Record::read(path)
    {
        println!("nothing is measured: {} has a measurement of {} ago", path.display(), record.age());
        return Ok(());
    }
    let attach = plan.as_ref().map_or(Attach::Native, |plan| plan.attach);
    let found = calibrate(attach, plan.as_ref().and_then(|plan| plan.cores.as_deref()));
    let saved = match (&path, &found) {
        (Some(path), Ok(calibration)) => Some(Record::new(*calibration, true).and_then(|record| record.write(path))),
        _ => None,
    };
    let calibrated = Calibrated::now(found.as_ref().map(|found| *found).map_err(ToString::to_string));
    let host = host(&interfaces, attach, plan.as_ref())?;
    let decision = decision_to_wire(&decide(&host, &Numbers::of(&calibrated, &host)));
    if target.json {
        println!("{}", serde_json::to_string(&decision)?);
    } else {
        print(&decision);
    }
    match (saved, found) {
        (Some(saved), _) => Ok(saved?),
        // Nothing that was asked for is there.
        (None, Err(error)) if args.save => Err(error.into()),
        (None, _) => Ok(()),
    }
}

/// Where the measurement of a balancer is saved.
fn record_path(target: &Target, interfaces: &[String]) -> Result<PathBuf, Failure> {
    let name = target.given_name().or(interfaces.first().map(String::as_str));
    let name = name.ok_or_else(|| Failure::Usage(anyhow!("whose is it? --save takes --name, --config or --interface")))?;
    let name = balancer_name(name).map_err(|why| Failure::Usage(anyhow!("{name:?}: {why}")))?;
    Ok(Paths::of(&name).calibration)
}

fn host(interfaces: &[String], attach: Attach, plan: Option<&Plan>) -> Result<Host, Failure> {
    if interfaces.is_empty() {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let why = "no interface is named (--config FILE, --interface NAME)".to_owned();
        let (driver, xdp_features) = (None, None);
        return Ok(Host { driver, xdp_features, queues: 0, cores, attach, no_zero_copy: Some(why), no_copy: None });
    }
    let netlink = Netlink::open()?;
    let interfaces = interfaces.iter().map(|name| netlink.interface(name)).collect::<Result<Vec<_>, _>>()?;
    Ok(Host::look(&interfaces, attach, plan.and_then(|plan| plan.cores.as_deref()))?)
}

fn live(seconds: u32, apply: bool, target: &Target) -> Result<(), Failure> {
    if !target.json {
        eprintln!("each seat forwards twice for {seconds} s, in turns");
    }
    let request = wire::ProbeModeRequest { seconds, apply };
    let report = target.connect()?.ask(async |balancer| balancer.probe_mode(request).await)?;
    if target.json {
        println!("{}", serde_json::to_string(&report)?);
        return Ok(());
    }
    if let Some(decision) = &report.decision {
        print(decision);
    }
    println!("in force: {} ({})", seat_name(report.mode()), report.why);
    Ok(())
}

fn print(decision: &wire::Decision) {
    if decision.queues > 0 {
        let driver = decision.driver.as_deref().unwrap_or("none, a virtual device");
        let features = if decision.xdp_features.is_empty() { "not told".to_owned() } else { decision.xdp_features.join(" ") };
        println!("driver: {driver}; XDP features: {features}");
        println!("receive queues: {}, cores: {}", decision.queues, decision.cores);
    }
    print_candidates(decision);
    if let Some(bounce) = decision.bounce {
        println!("  receiving and sending alone, without a balancer: {:.0} ns of CPU a packet", bounce.ns);
    }
    println!("chosen: {} ({}), {}", seat_name(decision.chosen()), decision.bound, decision.reason);
}

/// What was considered, and how each number was got.
pub fn print_candidates(decision: &wire::Decision) {
    for candidate in &decision.candidates {
        let cost = candidate.ns.map_or_else(|| "no number".to_owned(), |ns| format!("{ns:.0} ns of CPU a packet"));
        let possible = candidate.impossible.as_ref().map_or_else(String::new, |why| format!(", not possible: {why}"));
        println!("  {} ({}): {cost}{possible}", seat_name(candidate.mode()), candidate.bound);
        println!("    {}", candidate.how);
        if let Some(found) = candidate.measured {
            println!(
                "    {:.0} ns to receive (and to forward in XDP), {:.0} ns by workers; differences under {:.0} ns are noise; {:.0} \
                 packets/s at most, {} forwarded, {} lost, {} rounds",
                found.queue_ns, found.worker_ns, found.spread_ns, found.pps, found.forwarded, found.lost, found.rounds
            );
        }
    }
}
