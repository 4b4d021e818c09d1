//! `tandem replay`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use tandem_backends::control::Counters;
use tandem_backends::replay::{Backend, Capture, Instance, write_capture};

use crate::{Failure, load};

/// Which seat runs the frames.
#[derive(Clone, Copy, ValueEnum)]
pub enum Seat {
    /// The loaded BPF program, by BPF_PROG_TEST_RUN (needs root)
    Xdp,
    /// The engine, as the AF_XDP workers run it (needs no privileges)
    Engine,
}

impl From<Seat> for Backend {
    fn from(seat: Seat) -> Self {
        match seat {
            Seat::Xdp => Self::Xdp,
            Seat::Engine => Self::Engine,
        }
    }
}

/// What a frame is run through.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Program {
    /// The balancer
    Balancer,
    /// The real servers' decapsulation (not available yet)
    Decap,
    /// The health checks' encapsulation (not available yet)
    HealthEncap,
}

#[derive(Args)]
pub struct ReplayArgs {
    /// The configuration; interface and mode in it are ignored, MACs must be in it
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// The seat
    #[arg(long, value_enum)]
    backend: Seat,
    /// A pcap or pcapng capture of Ethernet frames
    #[arg(long, value_name = "IN.pcap")]
    input: PathBuf,
    /// One frame for each input frame, as the data path left it
    #[arg(long, value_name = "OUT.pcap")]
    output: PathBuf,
    /// One JSON object a line for each frame
    #[arg(long, value_name = "V.jsonl")]
    verdicts: Option<PathBuf>,
    /// The counters after the last frame, as one JSON object
    #[arg(long, value_name = "C.json")]
    counters: Option<PathBuf>,
    /// Forget flows and counters before each frame
    #[arg(long)]
    fresh_per_frame: bool,
    /// Where all random choices come from
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// What the frames are run through
    #[arg(long, value_enum, default_value = "balancer")]
    program: Program,
    /// Socket mark of the frames, for health-encap (not available yet)
    #[arg(long)]
    mark: Option<u32>,
}

pub fn replay(args: &ReplayArgs) -> Result<(), Failure> {
    if args.program != Program::Balancer || args.mark.is_some() {
        let what = "--program decap and health-encap, and --mark, are not available yet; leave them out to replay the balancer";
        return Err(Failure::Usage(anyhow::anyhow!(what)));
    }
    if is_same_file(&args.input, &args.output) {
        let what = format!("{}: both the input and the output; write to another file", args.output.display());
        return Err(Failure::Usage(anyhow::anyhow!(what)));
    }
    let plan = load(&args.config)?;
    let mut input = Capture::open(&args.input).map_err(|e| Failure::Usage(e.into()))?;
    let mut instance = Instance::new(args.backend.into(), &plan, args.seed)?;
    let mut output = write_capture(&args.output)?;
    let mut verdicts = args.verdicts.as_deref().map(create).transpose()?;
    let mut number = 0;
    while let Some(frame) = input.next_frame().map_err(|e| Failure::Usage(e.into()))? {
        if args.fresh_per_frame {
            instance.start_anew();
        }
        let (decision, left) = instance.frame(&frame).with_context(|| format!("{}: frame {number}", args.input.display()))?;
        output.frame(left)?;
        if let Some(file) = &mut verdicts {
            serde_json::to_writer(&mut *file, &decision.row(number))?;
            file.write_all(b"\n")?;
        }
        number += 1;
    }
    output.finish()?;
    if let Some(mut file) = verdicts {
        file.flush()?;
    }
    if let Some(path) = &args.counters {
        let mut file = create(path)?;
        serde_json::to_writer_pretty(&mut file, &Counters::read(instance.tables(), 0..1))?;
        file.flush()?;
    }
    log::info!("{number} frames");
    Ok(())
}

/// Whether both paths lead to one file that is there.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let (one, other) = (one.canonicalize().ok(), other.canonicalize().ok());
    one.is_some() && one == other
}

fn create(path: &Path) -> Result<BufWriter<File>, anyhow::Error> {
    Ok(BufWriter::new(File::create(path).with_context(|| path.display().to_string())?))
}
