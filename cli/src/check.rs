//! `tandem check`.

use std::path::PathBuf;

use clap::Args;
use tandem_backends::config;

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
    Ok(())
}
