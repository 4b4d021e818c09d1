//! `tandem mode` and `tandem counters`: talk to a running balancer.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;
use tandem_backends::run::{ModeName, ModeReport, Paths, Request, ask};

use crate::Failure;

/// Which balancer.
#[derive(Args)]
struct Target {
    /// The balancer's name [default: the only one that runs]
    #[arg(long, global = true)]
    name: Option<String>,
    /// As JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Args)]
pub struct ModeArgs {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    verb: Option<ModeVerb>,
}

#[derive(Subcommand)]
enum ModeVerb {
    /// The mode in force, and why (the default)
    Show,
    /// The live switch: no packet and no flow is lost
    Set {
        /// The seat that shall forward
        mode: Seat,
    },
    /// What this host's two seats cost for each packet
    Probe,
}

#[derive(Clone, Copy, ValueEnum)]
enum Seat {
    Xdp,
    Afxdp,
}

#[derive(Args)]
pub struct CountersArgs {
    #[command(flatten)]
    target: Target,
}

#[derive(Args)]
pub struct ReloadArgs {
    #[command(flatten)]
    target: Target,
}

pub fn reload(args: &ReloadArgs) -> Result<(), Failure> {
    let value = ask(&socket(&args.target)?, &Request::Reload)?;
    if args.target.json {
        println!("{value}");
        return Ok(());
    }
    println!("the configuration is in force");
    print_counts(&value, "  ");
    Ok(())
}

pub fn mode(args: &ModeArgs) -> Result<(), Failure> {
    let request = match &args.verb {
        None | Some(ModeVerb::Show) => Request::Mode,
        Some(ModeVerb::Set { mode: Seat::Xdp }) => Request::SetMode(ModeName::Xdp),
        Some(ModeVerb::Set { mode: Seat::Afxdp }) => Request::SetMode(ModeName::Afxdp),
        Some(ModeVerb::Probe) => return probe(args.target.json),
    };
    let value = ask(&socket(&args.target)?, &request)?;
    if args.target.json {
        println!("{value}");
        return Ok(());
    }
    let report: ModeReport = serde_json::from_value(value)?;
    println!("{}: {:?} ({}), attached {}", report.interface, report.mode, report.why, report.attach);
    for worker in &report.workers {
        println!("  {} queue {} on core {}: {}", worker.interface, worker.queue, worker.core, worker.bound);
    }
    for candidate in report.decision.iter().flat_map(|decision| &decision.candidates) {
        let cost = candidate.ns.map_or_else(|| "not measured".to_owned(), |ns| format!("{ns:.0} ns a packet"));
        let possible = candidate.impossible.as_ref().map_or_else(String::new, |why| format!(", not possible: {why}"));
        println!("  considered {:?} ({}): {cost}{possible}", candidate.mode, candidate.bound);
    }
    if let Some(flows) = report.flows {
        println!("  {} flows in the table, {} of them depend on state", flows.flows, flows.on_state);
    }
    for row in &report.unreachable {
        println!("  no-next-hop: real {}: {}", row.real, row.why);
    }
    Ok(())
}

fn probe(json: bool) -> Result<(), Failure> {
    let costs = tandem_backends::probe::costs()?;
    if json {
        println!("{}", serde_json::to_string(&costs)?);
        return Ok(());
    }
    println!("a warm flow hit, UDP over IPv4, without a NIC, the fastest of many:");
    println!("  xdp    {:6.1} ns a packet (BPF_PROG_TEST_RUN, less an empty program)", costs.xdp_ns);
    println!("  afxdp  {:6.1} ns a packet (batches of 32, frames rewritten included)", costs.afxdp_ns);
    println!("AF_XDP also pays for the driver: little with zero-copy, about a microsecond a packet in copy mode.");
    Ok(())
}

pub fn counters(args: &CountersArgs) -> Result<(), Failure> {
    let value = ask(&socket(&args.target)?, &Request::Counters)?;
    if args.target.json {
        println!("{value}");
        return Ok(());
    }
    for seat in ["xdp", "afxdp"] {
        println!("{seat}");
        print_counts(&value[seat]["reasons"], "  ");
        print_counts(&value[seat]["seat"], "  ");
        for (vip, counts) in value[seat]["vips"].as_object().into_iter().flatten() {
            println!("  {vip}");
            print_counts(counts, "    ");
        }
        for real in value[seat]["reals"].as_array().into_iter().flatten().filter(|r| r["packets"] != 0) {
            let text = |key: &str| real[key].as_str().unwrap_or_default().to_owned();
            println!("  {} > {}: {} packets, {} bytes", text("vip"), text("real"), real["packets"], real["bytes"]);
        }
    }
    Ok(())
}

/// Those that moved.
fn print_counts(counts: &Value, indent: &str) {
    for (name, count) in counts.as_object().into_iter().flatten().filter(|(_, count)| **count != 0) {
        println!("{indent}{name:<18}{count}");
    }
}

fn socket(target: &Target) -> Result<PathBuf, Failure> {
    let name = match &target.name {
        Some(name) => name.clone(),
        None => {
            let mut names = Paths::names();
            match (names.pop(), names.is_empty()) {
                (Some(only), true) => only,
                (None, _) => return Err(anyhow!("no balancer is running on this host (nothing in /run/tandem)").into()),
                (Some(last), false) => {
                    return Err(Failure::Usage(anyhow!(
                        "several balancers run here ({}, {last}); say which: --name",
                        names.join(", ")
                    )));
                }
            }
        }
    };
    Ok(Paths::of(&name).socket)
}
