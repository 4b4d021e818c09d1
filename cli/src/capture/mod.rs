//! `tandem capture`: frames of a running balancer, as they come in and as they leave.

mod file;
mod order;

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use pcap::{Capture, Linktype};
use signal_hook::consts::{SIGINT, SIGTERM};
use tandem_api::wire;
use tandem_backends::capture::RATE;

use crate::Failure;
use crate::target::Target;
use file::Captured;
use order::Order;

/// How long a frame waits for what became of it, and for those that were seen before.
const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Args)]
pub struct CaptureArgs {
    #[command(flatten)]
    target: Target,
    /// Where the frames go: a pcapng file; `-` is the standard output
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// Ends after so many frames
    #[arg(short, long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Ends after so many seconds
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// One of so many frames that the filter takes
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    sample: u32,
    /// So many frames a second at most, for each CPU
    #[arg(long, default_value_t = RATE, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Bytes of each frame at most [default: all, up to 2047]
    #[arg(short, long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(14..))]
    snap: Option<u32>,
    /// Frames as they come in, as they leave, or both
    #[arg(long, value_enum, default_value_t = Direction::Both)]
    direction: Direction,
    /// Which frames, as they come in, in tcpdump's language (pcap-filter(7)) [default: all]
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Direction {
    /// As they come in
    In,
    /// As they leave
    Out,
    /// Both
    Both,
}

/// libpcap's program for a filter.
fn compiled(filter: &str) -> Result<Vec<wire::FilterInstruction>, Failure> {
    if filter.is_empty() {
        return Ok(Vec::new());
    }
    let wrong = |error: pcap::Error| Failure::Usage(anyhow!("the filter {filter:?}: {}; `man 7 pcap-filter`", said(&error)));
    let program = Capture::dead(Linktype::ETHERNET).and_then(|capture| capture.compile(filter, true)).map_err(wrong)?;
    // The crate gives the numbers as a text alone.
    let instruction = |text: String| {
        let numbers: Vec<u32> = text.split(' ').map_while(|number| number.parse().ok()).collect();
        let &[code, jt, jf, k] = numbers.as_slice() else { return Err(anyhow!("libpcap made {text:?} of {filter:?}")) };
        Ok(wire::FilterInstruction { code, jt, jf, k })
    };
    let program = program.get_instructions().iter().map(ToString::to_string).map(instruction).collect::<Result<_, _>>();
    program.map_err(Failure::Failed)
}

fn said(error: &pcap::Error) -> String {
    match error {
        pcap::Error::PcapError(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What a capture did, for people and programs.
#[derive(Default, serde::Serialize)]
struct Summary {
    /// Frames written, as they came in, and as they left.
    r#in: u64,
    out: u64,
    #[serde(flatten)]
    counts: Option<wire::CaptureCounts>,
}

/// What goes on while it runs.
struct Run<'a> {
    args: &'a CaptureArgs,
    order: Order,
    /// None: nothing has come yet.
    file: Option<Captured<Box<dyn Write>>>,
    summary: Summary,
    end: Option<Instant>,
}

pub fn capture(args: &CaptureArgs) -> Result<(), Failure> {
    let filter = compiled(&args.filter.join(" "))?;
    if is_standard(&args.write) && stdout().is_terminal() {
        return Err(Failure::Usage(anyhow!("pcapng is nothing for a terminal: name a file, or pipe it: | tshark -r -")));
    }
    if is_standard(&args.write) && args.target.json {
        return Err(Failure::Usage(anyhow!("--json and the frames cannot both go to the standard output; name a file")));
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let CaptureArgs { sample, rate, .. } = *args;
    let request = wire::CaptureRequest { filter, sample, rate, snap: args.snap.unwrap_or(0) };
    let mut run = Run { args, order: Order::default(), file: None, summary: Summary::default(), end: None };
    let mut failed = None;
    let ended = args.target.connect()?.done(|client| {
        client.capture(request, |part| match run.part(part) {
            Ok(more) => more && !stop.load(Ordering::Relaxed),
            Err(error) => {
                failed = Some(error);
                false
            }
        })
    });
    if let Some(error) = failed {
        return Err(error.into());
    }
    // Also if the balancer ended it: what came is written.
    run.finish()?;
    ended
}

fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

impl Run<'_> {
    /// Another part; `false`: that is enough.
    fn part(&mut self, part: wire::CapturePart) -> Result<bool, anyhow::Error> {
        if self.file.is_none() {
            let interfaces = part.interfaces.into_iter().map(|interface| (interface.index, interface.name)).collect();
            let path = &self.args.write;
            let to: Box<dyn Write> =
                if is_standard(path) { Box::new(stdout()) } else { Box::new(File::create(path).with_context(|| self.wrong())?) };
            let file = Captured::new(
                Box::new(BufWriter::new(to)) as Box<dyn Write>,
                interfaces,
                self.args.snap,
                &self.args.filter.join(" "),
            );
            self.file = Some(file.with_context(|| self.wrong())?);
            self.end = self.args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        }
        self.summary.counts = part.counts.or(self.summary.counts);
        self.order.add(part.frames);
        let more = self.write(part.now.saturating_sub(PATIENCE.as_nanos() as u64))?;
        Ok(more && self.end.is_none_or(|end| Instant::now() < end))
    }

    /// Writes what was seen before `until`; `false`: that is enough.
    fn write(&mut self, until: u64) -> Result<bool, anyhow::Error> {
        let wrong = self.wrong();
        let Some(file) = &mut self.file else { return Ok(true) };
        let mut wrote = false;
        for seen in self.order.due(until) {
            let Summary { r#in, out, .. } = &mut self.summary;
            if self.args.count.is_some_and(|count| *r#in + *out >= count) {
                break;
            }
            let (wanted, number) = match seen.frame.fate {
                None => (self.args.direction != Direction::Out, r#in),
                Some(_) => (self.args.direction != Direction::In && seen.leaves(), out),
            };
            if wanted {
                *number += 1;
                wrote = true;
                file.write(&seen).with_context(|| wrong.clone())?;
            }
        }
        if wrote {
            file.flush().with_context(|| wrong.clone())?;
        }
        Ok(self.args.count.is_none_or(|count| self.summary.r#in + self.summary.out < count))
    }

    fn wrong(&self) -> String {
        format!("{}: cannot write the frames", self.args.write.display())
    }

    /// Writes the rest, and says what was done.
    fn finish(mut self) -> Result<(), Failure> {
        self.write(u64::MAX)?;
        let wrong = self.wrong();
        let Summary { r#in, out, counts } = self.summary;
        let counts = counts.unwrap_or_default();
        if let Some(file) = &mut self.file {
            file.finish(&counts, r#in + out).with_context(|| wrong)?;
        }
        if self.args.target.json {
            println!("{}", serde_json::to_string(&Summary { r#in, out, counts: Some(counts) })?);
            return Ok(());
        }
        let wire::CaptureCounts { accepted, limited, captured, lost } = counts;
        eprintln!(
            "{}: {} frames: {in} in, {out} out; the filter took {accepted}, of which {captured} were captured; {limited} were over the \
             rate, {lost} sights were lost",
            self.args.write.display(),
            r#in + out,
            in = r#in,
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_compiled() {
        let Ok(program) = compiled("udp and port 53") else { panic!("no filter") };
        assert_eq!((program[0].code, program[0].k), (0x28, 12), "the EtherType comes first");
        assert!(matches!(compiled(""), Ok(all) if all.is_empty()));
        let Err(Failure::Usage(error)) = compiled("udp adn port 53") else { panic!("a filter") };
        assert!(error.to_string().contains("syntax error"), "{error}");
    }
}
