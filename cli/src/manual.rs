//! `tandem man` and `tandem completions`: made from the command's own arguments.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{Cli, Failure};

#[derive(Args)]
pub struct ManArgs {
    /// Where the pages go: tandem.1, tandem-run.1, ...
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

#[derive(Args)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub fn man(args: &ManArgs) -> Result<(), Failure> {
    let directory = &args.directory;
    std::fs::create_dir_all(directory).with_context(|| format!("{}: cannot make the directory", directory.display()))?;
    clap_mangen::generate_to(Cli::command(), directory)
        .with_context(|| format!("{}: cannot write the pages", directory.display()))?;
    println!("{}: written", directory.display());
    Ok(())
}

pub fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut command = Cli::command();
    // Into memory first: a closed pipe is said as for every other verb.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "tandem", &mut script);
    std::io::Write::write_all(&mut std::io::stdout(), &script)?;
    Ok(())
}
