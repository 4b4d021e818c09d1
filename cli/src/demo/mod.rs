//! `tandem demo`: real traffic through both seats, live switches between them, and what came of it.

mod load;
mod progress;
mod report;
mod stage;
mod switches;

use anyhow::anyhow;
use clap::Args;
use tandem_lab::{Interrupt, check_permitted, find_program};

use crate::Failure;
use crate::lab::failure;
use load::{Amount, Through};
use progress::Step;
use report::Promise;
use stage::{SEATS, Stage, short};
use switches::Switched;

#[derive(Args)]
pub struct DemoArgs {
    /// HTTP requests through each seat
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(4..=100_000))]
    requests: u32,
    /// Seconds of each measurement of throughput
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Live switches in the middle of running transfers, about
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(2..=120))]
    switches: u32,
    /// Number of real servers
    #[arg(long, default_value_t = 3)]
    reals: u16,
    /// The lab's prefix: demos of different prefixes do not meet
    #[arg(long, default_value = "tandem-demo")]
    prefix: String,
}

/// What the demo found out.
struct Findings {
    seats: Vec<Through>,
    switched: Switched,
    promises: Vec<Promise>,
}

pub fn demo(args: &DemoArgs) -> Result<(), Failure> {
    check_permitted().map_err(anyhow::Error::from)?;
    for (program, package) in [("nginx", "nginx"), ("curl", "curl"), ("iperf3", "iperf3")] {
        find_program(program, package)?;
    }
    let interrupt = Interrupt::catch()?;
    let mut stage = Stage::build(&args.prefix, args.reals, switches::blob(args.switches), interrupt).map_err(failure)?;
    let (iperf3, iperf3_real) = stage.iperf3;
    let mut findings = perform(&mut stage, args)?;
    let step = Step::begin("Taking everything down", 0);
    findings.promises.push(report::of_teardown(&stage.tear_down()?));
    step.end("done");

    println!("\n{}", report::table(&findings.seats, &findings.switched, iperf3_real));
    println!("Rates are those of a functional rig (veth, all hosts on one machine), not the performance of a network card.");
    println!("iperf3 uses port {}: the first where its TCP and its UDP reach one real.\n", iperf3.port());
    let failed = findings.promises.iter().filter(|promise| !promise.kept).count();
    for promise in &findings.promises {
        println!("{}  {}", if promise.kept { "PASS" } else { "FAIL" }, promise.text);
    }
    println!("\nWhat to try next:");
    println!("  tandem lab up        the same lab, to play with: it prints the commands");
    println!("  tandem trace -c FILE \"tcp 10.90.1.2:41000 > 10.200.1.1:80\"");
    println!("                       why a packet goes where it goes (`lab up` names a FILE)");
    println!("  README.md            how it works and where to read on");
    if failed > 0 {
        return Err(anyhow!("{failed} of {} promises were not kept", findings.promises.len()).into());
    }
    Ok(())
}

fn perform(stage: &mut Stage, args: &DemoArgs) -> anyhow::Result<Findings> {
    // At most 25,000: the ports of both seats fit.
    let requests = args.requests.div_ceil(short().len() as u32) as u16;
    let amount = Amount { requests, seconds: args.seconds };
    let wanted = usize::from(requests) * short().len();
    let mut seats = Vec::new();
    for (mode, _) in SEATS {
        seats.push(load::run(stage, mode, amount)?);
    }
    let switched = switches::run(stage, args.switches)?;
    let counted = stage.counters()?;
    let mut promises: Vec<_> = seats.iter().flat_map(|through| report::of_seat(through, wanted)).collect();
    promises.extend(report::of_switches(&switched, args.switches));
    promises.push(report::of_counters(&counted));
    Ok(Findings { seats, switched, promises })
}
