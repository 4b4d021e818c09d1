//! `tandem trace`.

use std::path::PathBuf;

use clap::Args;
use tandem_backends::replay::{Instance, Tuple, explain};

use crate::replay::Seat;
use crate::{Failure, load};

#[derive(Args)]
pub struct TraceArgs {
    /// The configuration; MACs must be in it
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// The seat
    #[arg(long, value_enum, default_value = "engine")]
    backend: Seat,
    /// Where all random choices come from
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// The packet, for example "tcp 198.51.100.7:41000 > 10.200.1.1:80"; TCP: the SYN
    packet: String,
}

pub fn trace(args: &TraceArgs) -> Result<(), Failure> {
    let tuple: Tuple = args.packet.parse().map_err(|e: tandem_backends::replay::TupleError| Failure::Usage(e.into()))?;
    let plan = load(&args.config)?;
    let mut instance = Instance::new(args.backend.into(), &plan, args.seed)?;
    let frame = tuple.frame();
    let (decision, out) = instance.frame(&frame)?;
    let out = out.to_vec();
    if args.json {
        println!("{}", serde_json::to_string(&decision.row(0))?);
    } else {
        println!("packet    {tuple}");
        print!("{}", explain(&decision, instance.tables(), &out));
    }
    Ok(())
}
