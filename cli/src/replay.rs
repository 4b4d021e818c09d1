//! `tandem replay`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use tandem_backends::config::Plan;
use tandem_backends::control::Counters;
use tandem_backends::replay::{Backend, Capture, Instance, Opening, Probing, VerdictRow, write_capture};

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
    /// The real servers' decapsulation: IPIP, and GUE on tunnel.gue_port
    Decap,
    /// The encapsulation of health checks' probes: the real of `[[health_encap]]` whose mark is --mark
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
    /// Socket mark of all frames, for health-encap; 0 is no mark
    #[arg(long, value_name = "N")]
    mark: Option<u32>,
}

pub fn replay(args: &ReplayArgs) -> Result<(), Failure> {
    if args.mark.is_some() && args.program != Program::HealthEncap {
        let what = "--mark is the socket mark of probes; it takes --program health-encap";
        return Err(Failure::Usage(anyhow::anyhow!(what)));
    }
    if is_same_file(&args.input, &args.output) {
        let what = format!("{}: both the input and the output; write to another file", args.output.display());
        return Err(Failure::Usage(anyhow::anyhow!(what)));
    }
    let plan = load(&args.config)?;
    let mut input = Capture::open(&args.input).map_err(|e| Failure::Usage(e.into()))?;
    let mut subject = Subject::new(args, &plan)?;
    let mut output = write_capture(&args.output)?;
    let mut verdicts = args.verdicts.as_deref().map(create).transpose()?;
    let mut number = 0;
    while let Some(frame) = input.next_frame().map_err(|e| Failure::Usage(e.into()))? {
        if args.fresh_per_frame {
            subject.start_anew()?;
        }
        let at = || format!("{}: frame {number}", args.input.display());
        subject
            .frame(number, &frame, |row, left| {
                output.frame(left)?;
                if let Some(file) = &mut verdicts {
                    serde_json::to_writer(&mut *file, row)?;
                    file.write_all(b"\n")?;
                }
                Ok(())
            })
            .with_context(at)?;
        number += 1;
    }
    output.finish()?;
    if let Some(mut file) = verdicts {
        file.flush()?;
    }
    if let Some(path) = &args.counters {
        let mut file = create(path)?;
        serde_json::to_writer_pretty(&mut file, &subject.counters()?)?;
        file.flush()?;
    }
    log::info!("{number} frames");
    Ok(())
}

/// What the frames are run through, set up.
enum Subject {
    Balancer(Box<Instance>),
    Decap(Opening),
    HealthEncap(Box<Probing>),
}

impl Subject {
    fn new(args: &ReplayArgs, plan: &Plan) -> Result<Self, anyhow::Error> {
        let backend = args.backend.into();
        Ok(match args.program {
            Program::Balancer => Self::Balancer(Box::new(Instance::new(backend, plan, args.seed)?)),
            Program::Decap => Self::Decap(Opening::new(backend, plan)?),
            Program::HealthEncap => Self::HealthEncap(Box::new(Probing::new(backend, plan, args.seed, args.mark.unwrap_or(0))?)),
        })
    }

    /// Runs a frame, and gives its verdict and what is left of it to `done`.
    fn frame(
        &mut self,
        number: u64,
        frame: &[u8],
        done: impl FnOnce(&VerdictRow<'_>, &[u8]) -> Result<(), anyhow::Error>,
    ) -> Result<(), anyhow::Error> {
        match self {
            Self::Balancer(instance) => {
                let (decision, left) = instance.frame(frame)?;
                done(&decision.row(number), left)
            }
            Self::Decap(opening) => {
                let (row, left) = opening.frame(number, frame)?;
                done(&row, left)
            }
            Self::HealthEncap(probing) => {
                let (row, left) = probing.frame(number, frame)?;
                done(&row, left)
            }
        }
    }

    /// Forgets flows and counters, and begins the random choices anew.
    fn start_anew(&mut self) -> Result<(), anyhow::Error> {
        match self {
            Self::Balancer(instance) => instance.start_anew(),
            Self::Decap(opening) => opening.start_anew(),
            Self::HealthEncap(probing) => probing.start_anew()?,
        }
        Ok(())
    }

    fn counters(&self) -> Result<serde_json::Value, anyhow::Error> {
        Ok(match self {
            Self::Balancer(instance) => serde_json::to_value(Counters::read(instance.tables(), 0..1))?,
            Self::Decap(opening) => opening.counters(),
            Self::HealthEncap(probing) => probing.counters(),
        })
    }
}

/// Whether both paths lead to one file that is there.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let (one, other) = (one.canonicalize().ok(), other.canonicalize().ok());
    one.is_some() && one == other
}

fn create(path: &Path) -> Result<BufWriter<File>, anyhow::Error> {
    Ok(BufWriter::new(File::create(path).with_context(|| path.display().to_string())?))
}
