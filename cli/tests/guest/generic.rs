//! The object built for the generic instruction set, 64-bit arithmetic alone and nothing misaligned: what this kernel says to it.
//!
//! What is shipped is built for v3, and is what every other part loads.

use std::path::{Path, PathBuf};

use aya::programs::{Program, ProgramError, ProgramInfo};
use aya::{EbpfLoader, VerifierLogLevel};

use tandem_backends::control::features;
use tandem_backends::memory::Sizes;
use tandem_backends::xdp::{Direct, prepare};

use super::frames::Rng;
use super::plans;
use super::report::Report;

/// How the results are named, and those of the balancer.
pub const NAME: &str = "generic instruction set, ";
pub const BALANCERS: [&str; 3] = [
    "balancer, the least there is to configure",
    "balancer, everything, profile standard",
    "balancer, everything, profile katran",
];
/// How the lines begin that end every verifier's log.
const NUMBERS: [&str; 3] = ["verification time ", "stack depth ", "processed "];

pub fn run(report: &mut Report) {
    let Some(path) = std::env::var_os("TANDEM_GENERIC").map(PathBuf::from) else {
        report.skip("generic instruction set", "TANDEM_GENERIC names no object; `make test-kernels` builds one");
        return;
    };
    let mut rng = Rng(4);
    let mut full = |profile| features(&plans::full(&mut rng, profile));
    let [least, standard, katran] = BALANCERS;
    for (name, program, features) in [
        (least, "balancer", features(&plans::first(&mut Rng(4)))),
        (standard, "balancer", full("standard")),
        (katran, "balancer", full("katran")),
        ("decap", "decap", 0),
        ("health_encap", "health_encap", u32::MAX),
        ("root", "root", 0),
        ("tap", "tap", 0),
    ] {
        let name = format!("{NAME}{name}");
        match loaded(&path, program, features) {
            Ok(said) => report.ok(&format!("{name}: {said}")),
            // Their verifiers lose the bounds of a size in such code; what is shipped they take.
            Err(why) if is_old(&release()) && why.contains("unbounded memory access") => {
                report.skip(&name, &format!("refused: {why}"));
            }
            Err(why) => report.fail(&name, &why),
        }
    }
}

fn is_old(release: &str) -> bool {
    ["5.10.", "6.1."].iter().any(|begin| release.starts_with(begin))
}

fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default()
}

/// Loads one program; says how large it was.
fn loaded(path: &Path, name: &str, features: u32) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let mut loader = EbpfLoader::new();
    let sizes = Sizes { features, ..Sizes::for_plan(&plans::first(&mut Rng(4)), 1) };
    let direct = Direct::make(sizes, None).map_err(|error| error.to_string())?;
    loader.verifier_log_level(VerifierLogLevel::STATS);
    let bytes = prepare(&bytes, sizes, 0, &direct).map_err(|error| error.to_string())?;
    let mut ebpf = loader.load(&bytes).map_err(|error| format!("{error:?}"))?;
    let (done, info) = match ebpf.program_mut(name) {
        Some(Program::Xdp(program)) => (program.load(), program.info()),
        Some(Program::SchedClassifier(program)) => (program.load(), program.info()),
        _ => return Err("no such program".to_owned()),
    };
    done.map_err(|error| match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            // Before the numbers: why.
            let why = log.lines().rfind(|line| !NUMBERS.iter().any(|begin| line.starts_with(begin))).unwrap_or("no log");
            format!("{io_error}: {why}")
        }
        other => format!("{other:?}"),
    })?;
    Ok(info.map_or_else(|_| "loaded".to_owned(), |info| size(&info)))
}

/// Linux 5.10 does not tell how much its verifier followed.
fn size(info: &ProgramInfo) -> String {
    let instructions = info.size_translated().map_or_else(|| "loaded".to_owned(), |bytes| format!("{} instructions", bytes / 8));
    match info.verified_instruction_count() {
        Some(verified) => format!("{instructions}, {verified} verified"),
        None => instructions,
    }
}
