//! Notes the revision that the harness is built from, for its manifests.

use std::process::Command;

/// What a binary is made of, of all the files in git.
const SOURCES: [&str; 6] =
    [":(top)*.rs", ":(top)*.toml", ":(top)*.lock", ":(top)*.proto", ":(top)*.pkt", ":(top,exclude)*/tests/*"];

fn main() {
    println!("cargo:rustc-env=TANDEM_REVISION={}", revision().unwrap_or_else(|| "unknown".to_owned()));
    // Whatever moves the branch moves these two. The index is not watched: looking at the state of the files rewrites it.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file]) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    for path in git_sources(&["ls-files"]).iter().flat_map(|paths| paths.lines()) {
        println!("cargo:rerun-if-changed={path}");
    }
}

/// What git answers, without the newline at its end; none where there is no git or no repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("--no-optional-locks").args(arguments).output();
    let output = output.ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim_end().to_owned())
}

fn git_sources(arguments: &[&str]) -> Option<String> {
    git(&[arguments, &["--"], &SOURCES].concat())
}

fn revision() -> Option<String> {
    let revision = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git_sources(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() { revision } else { format!("{revision}, changed") })
}
