//! A Python with the libraries that judge us: other people's clients and parsers.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// From PyPI: gRPC with its compiler of proto files and its reflection, and the reference parser of OpenMetrics.
const LIBRARIES: [&str; 3] = ["grpcio-tools==1.85.1", "grpcio-reflection==1.85.1", "prometheus-client==0.26.0"];

/// It, or why there is none; says so past the harness. Made once, in the target directory.
pub fn python() -> Option<&'static Path> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match PYTHON.get_or_init(make) {
        Ok(python) => Some(python),
        Err(why) => {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "SKIPPED: no Python with {}: {why}", LIBRARIES.join(" and "));
            None
        }
    }
}

fn make() -> Result<PathBuf, String> {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    let (python, complete) = (home.join("bin/python"), home.join("complete"));
    if std::fs::read_to_string(&complete).is_ok_and(|made| made == LIBRARIES.join(" ")) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--timeout", "20", "--retries", "1"];
    run(Command::new(&python).args(pip).args(LIBRARIES))?;
    std::fs::write(complete, LIBRARIES.join(" ")).map_err(|error| error.to_string())?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))) }
}
