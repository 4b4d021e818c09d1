//! The object built for the generic instruction set, 64-bit arithmetic alone and nothing misaligned: what this kernel says to it.
//!
//! What is shipped is built for v3, and is what every other part loads.

use std::path::{Path, PathBuf};

use aya::programs::{Program, ProgramError, ProgramInfo};
use aya::{EbpfLoader, VerifierLogLevel};

use tandem_backends::control::features;

use super::frames::Rng;
use super::plans;
use super::report::Report;

/// Where `scripts/kernels.sh` puts it; `TANDEM_GENERIC` elsewhere.
const OBJECT: &str = "/tandem-bpf-generic";

/// How the lines begin that end every verifier's log.
const NUMBERS: [&str; 3] = ["verification time ", "stack depth ", "processed "];

pub fn run(report: &mut Report) {
    let path = std::env::var_os("TANDEM_GENERIC").map_or_else(|| PathBuf::from(OBJECT), PathBuf::from);
    if !path.exists() {
        report.skip("generic instruction set", "no object; `make test-kernels` builds it");
        return;
    }
    let mut rng = Rng(4);
    let mut full = |profile| features(&plans::full(&mut rng, profile));
    for (name, program, features) in [
        ("balancer, the least there is to configure", "balancer", features(&plans::first(&mut Rng(4)))),
        ("balancer, everything, profile standard", "balancer", full("standard")),
        ("balancer, everything, profile katran", "balancer", full("katran")),
        ("decap", "decap", 0),
        ("health_encap", "health_encap", u32::MAX),
        ("root", "root", 0),
        ("tap", "tap", 0),
    ] {
        match loaded(&path, program, features) {
            Ok(said) => report.ok(&format!("generic instruction set, {name}: {said}")),
            Err(why) => report.fail(&format!("generic instruction set, {name}"), &why),
        }
    }
}

/// Loads one program; says how large it was.
fn loaded(path: &Path, name: &str, features: u32) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let mut loader = EbpfLoader::new();
    let loader = loader.verifier_log_level(VerifierLogLevel::STATS).override_global("FEATURES", &features, true);
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
