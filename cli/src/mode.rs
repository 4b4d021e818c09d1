//! `tandem mode`, `tandem counters`, `tandem reload` and `tandem save`.

mod probe;

use clap::{Args, Subcommand, ValueEnum};
use tandem_api::{seat_name, wire};

use crate::Failure;
use crate::target::{Connection, Target};

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
    /// What both seats cost on this host for each packet, and what mode auto makes of it; takes a core for 1 to 2 s
    Probe(probe::ProbeArgs),
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

#[derive(Args)]
pub struct SaveArgs {
    #[command(flatten)]
    target: Target,
}

/// The mode in force.
pub fn mode_of(client: &mut Connection) -> Result<wire::Mode, Failure> {
    client.ask(async |balancer| balancer.get_mode(wire::GetModeRequest {}).await)
}

/// The live switch.
pub fn set_mode(client: &mut Connection, mode: wire::Seat) -> Result<wire::Mode, Failure> {
    client.ask(async |balancer| balancer.set_mode(wire::SetModeRequest { mode: mode.into() }).await)
}

/// All counters.
pub fn counters_of(client: &mut Connection) -> Result<wire::Counters, Failure> {
    client.ask(async |balancer| balancer.get_counters(wire::GetCountersRequest {}).await)
}

pub fn mode(args: &ModeArgs) -> Result<(), Failure> {
    let to = match &args.verb {
        None | Some(ModeVerb::Show) => None,
        Some(ModeVerb::Set { mode: Seat::Xdp }) => Some(wire::Seat::Xdp),
        Some(ModeVerb::Set { mode: Seat::Afxdp }) => Some(wire::Seat::Afxdp),
        Some(ModeVerb::Probe(wish)) => return probe::probe(wish, &args.target),
    };
    let mut client = args.target.connect()?;
    let report = match to {
        None => mode_of(&mut client)?,
        Some(mode) => set_mode(&mut client, mode)?,
    };
    if args.target.json {
        println!("{}", serde_json::to_string(&report)?);
        return Ok(());
    }
    println!("{}: {} ({}), attached {}", report.interface, seat_name(report.mode()), report.why, report.attach);
    for worker in &report.workers {
        println!("  {} queue {} on core {}: {}", worker.interface, worker.queue, worker.core, worker.bound);
    }
    if let Some(decision) = &report.decision {
        if decision.reason != report.why {
            println!("  {}", decision.reason);
        }
        probe::print_candidates(decision);
    }
    if let Some(flows) = report.flows {
        println!("  {} flows in the table, {} of them depend on state", flows.flows, flows.on_state);
    }
    for row in &report.unreachable {
        println!("  no-next-hop: real {}: {}", row.real, row.why);
    }
    Ok(())
}

pub fn counters(args: &CountersArgs) -> Result<(), Failure> {
    let counters = counters_of(&mut args.target.connect()?)?;
    if args.target.json {
        println!("{}", serde_json::to_string(&counters)?);
        return Ok(());
    }
    for (name, seat) in [("xdp", counters.xdp), ("afxdp", counters.afxdp)] {
        println!("{name}");
        let seat = seat.unwrap_or_default();
        print_counts(&seat.reasons, "  ");
        print_counts(&seat.seat, "  ");
        for (vip, counts) in &seat.vips {
            println!("  {vip}");
            print_counts(&counts.counts, "    ");
        }
        for real in seat.reals.iter().filter(|real| real.packets != 0) {
            let vip = real.vip.as_deref().unwrap_or_default();
            println!("  {vip} > {}: {} packets, {} bytes", real.real, real.packets, real.bytes);
        }
    }
    Ok(())
}

/// Those that moved.
fn print_counts(counts: &std::collections::BTreeMap<String, u64>, indent: &str) {
    for (name, count) in counts.iter().filter(|(_, count)| **count != 0) {
        println!("{indent}{name:<18}{count}");
    }
}

pub fn reload(args: &ReloadArgs) -> Result<(), Failure> {
    let applied = args.target.connect()?.ask(async |balancer| balancer.reload(wire::ReloadRequest {}).await)?;
    if args.target.json {
        println!("{}", serde_json::to_string(&applied)?);
        return Ok(());
    }
    println!("the configuration is in force: {}", summary(&applied));
    applied.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    Ok(())
}

/// What a change did, in words.
pub fn summary(applied: &wire::Applied) -> String {
    let parts = [
        (u64::from(applied.vips_added), "VIPs added"),
        (u64::from(applied.vips_removed), "VIPs removed"),
        (u64::from(applied.reals_added), "reals added"),
        (u64::from(applied.reals_removed), "reals removed"),
        (u64::from(applied.rings), "rings published"),
        (applied.flows_forgotten, "flows forgotten"),
    ];
    let moved: Vec<String> = parts.iter().filter(|(n, _)| *n != 0).map(|(n, what)| format!("{n} {what}")).collect();
    if moved.is_empty() { "nothing changed in the tables".to_owned() } else { moved.join(", ") }
}

pub fn save(args: &SaveArgs) -> Result<(), Failure> {
    let saved = args.target.connect()?.ask(async |balancer| balancer.save(wire::SaveRequest { generation: 0 }).await)?;
    if args.target.json {
        println!("{}", serde_json::to_string(&saved)?);
    } else {
        println!("{}: the configuration in force is saved", saved.path);
    }
    Ok(())
}
