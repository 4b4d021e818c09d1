//! `tandem flow`: the flows of a running balancer, and from one to another.

use std::fs::File;
use std::io::{BufRead, BufReader, Write, stdin, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use tandem_api::wire;
use tandem_backends::control::FlowExport;

use crate::Failure;
use crate::service::table;
use crate::target::Target;

#[derive(Args)]
pub struct FlowArgs {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    verb: FlowVerb,
}

#[derive(Subcommand)]
enum FlowVerb {
    /// How many flows each real has, and how many of them live by the flow table alone
    List,
    /// Writes the flows into a file, for a balancer with the same flows.key_file
    Export {
        /// JSON, a line for some thousands of flows; `-` is the standard output
        file: PathBuf,
        /// Only those that the ring would send to another real now
        #[arg(long)]
        depending: bool,
    },
    /// Enters the flows of a file; those that are known here stay as they are
    Import {
        /// What `tandem flow export` wrote; `-` is the standard input
        file: PathBuf,
    },
}

pub fn flow(args: &FlowArgs) -> Result<(), Failure> {
    match &args.verb {
        FlowVerb::List => list(&args.target),
        FlowVerb::Export { file, depending } => export(&args.target, file, *depending),
        FlowVerb::Import { file } => import(&args.target, file),
    }
}

fn list(target: &Target) -> Result<(), Failure> {
    let sums = target.connect()?.ask(async |balancer| balancer.list_flows(wire::ListFlowsRequest {}).await)?;
    if target.json {
        println!("{}", serde_json::to_string(&sums)?);
        return Ok(());
    }
    let mut table = table(&["VIP", "real", "flows", "depend on state"], &[2, 3]);
    for row in &sums.rows {
        table.add_row([&row.vip, &row.real, &row.flows.to_string(), &row.on_state.to_string()]);
    }
    println!("{table}");
    Ok(())
}

fn export(target: &Target, path: &Path, depending: bool) -> Result<(), Failure> {
    if target.json && is_standard(path) {
        return Err(Failure::Usage(anyhow!("--json and the flows cannot both go to the standard output; name a file")));
    }
    let parts = target.connect()?.done(|client| client.export_flows(depending))?;
    write(path, &parts).with_context(|| format!("{}: cannot write the flows", path.display()))?;
    let flows: usize = parts.iter().map(|part| part.flows.len()).sum();
    if target.json {
        println!("{}", serde_json::json!({ "flows": flows }));
    } else if is_standard(path) {
        log::info!("{flows} flows");
    } else {
        println!("{}: {flows} flows", path.display());
    }
    Ok(())
}

fn import(target: &Target, path: &Path) -> Result<(), Failure> {
    let parts = read(path).map_err(Failure::Usage)?;
    let done = target.connect()?.done(|client| client.import_flows(parts))?;
    if target.json {
        println!("{}", serde_json::to_string(&done)?);
    } else {
        println!("{} flows entered, {} known already", done.entered, done.known);
    }
    let not = [
        (done.no_real, "their VIP is not here, or not with their real: give both balancers the same VIPs and reals"),
        (
            done.other_id,
            "their VIP has another id here, which is part of what is hashed: start both balancers on new tables (`tandem detach`), \
             with the same configuration, VIPs in the same order",
        ),
        (done.too_old, "nothing came for so long that they are forgotten here"),
    ];
    for (flows, why) in not.iter().filter(|(flows, _)| *flows != 0) {
        log::warn!("{flows} flows were not entered: {why}");
    }
    let left: u64 = not.iter().map(|(flows, _)| flows).sum();
    if left != 0 && done.entered + done.known == 0 {
        return Err(anyhow!("none of the {left} flows fits here").into());
    }
    Ok(())
}

fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn write(path: &Path, parts: &[FlowExport]) -> std::io::Result<()> {
    let mut to: Box<dyn Write> = if is_standard(path) { Box::new(stdout().lock()) } else { Box::new(File::create(path)?) };
    for part in parts {
        to.write_all(serde_json::to_string(part)?.as_bytes())?;
        to.write_all(b"\n")?;
    }
    to.flush()
}

fn read(path: &Path) -> Result<Vec<FlowExport>, anyhow::Error> {
    let name = if is_standard(path) { "the standard input".to_owned() } else { path.display().to_string() };
    let from: Box<dyn BufRead> = if is_standard(path) {
        Box::new(stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(path).with_context(|| format!("{name}: cannot read it"))?))
    };
    let mut parts = Vec::new();
    for (at, line) in from.lines().enumerate() {
        let line = line.with_context(|| format!("{name}: cannot read it"))?;
        let what = || format!("{name}: line {}: no flows as `tandem flow export` writes them", at + 1);
        parts.push(serde_json::from_str(&line).with_context(what)?);
    }
    if parts.is_empty() {
        return Err(anyhow!("{name}: it is empty; `tandem flow export` writes a line at least"));
    }
    Ok(parts)
}
