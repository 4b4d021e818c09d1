//! `tandem check`.

use std::path::PathBuf;

use clap::Args;
use tandem_backends::config;
use tandem_backends::memory::Sizes;

use crate::Failure;

#[derive(Args)]
pub struct CheckArgs {
    /// The configuration
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

pub fn check(args: &CheckArgs) -> Result<(), Failure> {
    let loaded = config::load(&args.config).map_err(|error| match error {
        config::ConfigError::Invalid { .. } => Failure::Failed(error.into()),
        config::ConfigError::Unreadable { .. } | config::ConfigError::TooLarge { .. } => Failure::Usage(error.into()),
    })?;
    for warning in &loaded.warnings {
        println!("warning: {warning}");
    }
    let reals: usize = loaded.plan.vips.iter().map(|vip| vip.reals.len()).sum();
    println!("{}: good: {} VIPs, {reals} reals", args.config.display(), loaded.plan.vips.len());
    // As `run` makes them: counters for each CPU, and for as many workers.
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u32;
    println!("memory of its tables with {cores} CPUs: {}", Sizes::for_plan(&loaded.plan, 2 * cores).in_words());
    Ok(())
}
