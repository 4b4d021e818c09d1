//! The BPF object is the same, byte for byte, wherever its source lies. The other one takes a minute or two to build, so only
//! `TANDEM_LONG=1` does it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tandem_backends::xdp::{OBJECT, REFERENCES};

/// What cargo has to see, and what the object is made of.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (name, path) = (entry.file_name(), entry.path());
        let skipped = name == "target" || name.to_string_lossy().starts_with('.');
        match entry.file_type().unwrap() {
            kind if skipped || kind.is_symlink() => {}
            kind if kind.is_dir() => copy(&path, &to.join(name)),
            _ => drop(fs::copy(&path, to.join(name)).unwrap()),
        }
    }
}

/// A directory that goes with the test.
struct Elsewhere(PathBuf);

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_object_is_the_same_from_another_directory() {
    if std::env::var_os("TANDEM_LONG").is_none() {
        eprintln!("SKIPPED: builds the BPF object once more, for a minute or two; TANDEM_LONG=1 does it");
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    let there = Elsewhere(std::env::temp_dir().join(format!("tandem-elsewhere-{}", std::process::id())));
    copy(&root, &there.0);
    // The build script itself, as cargo runs it.
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let (script, out) = (there.0.join("build-script"), there.0.join("target/debug/build/backends/out"));
    fs::create_dir_all(&out).unwrap();
    run(Command::new(&rustc).args(["--edition", "2024", "-o"]).arg(&script).arg(there.0.join("backends/build.rs")));
    let mut build = Command::new(&script);
    build.env("CARGO_MANIFEST_DIR", there.0.join("backends")).env("OUT_DIR", &out).env("RUSTC", &rustc);
    run(build.env("CARGO_CFG_TARGET_ARCH", std::env::consts::ARCH));
    for (name, here) in [("tandem-bpf", OBJECT), ("tandem-bpf-bench", REFERENCES)] {
        let other = fs::read(out.join(name)).unwrap();
        let differs = here.iter().zip(&other).position(|(a, b)| a != b);
        assert!(here == other, "{name}: {} and {} bytes, the first other one at {differs:?}", here.len(), other.len());
        println!("{name}: {} bytes, the same from {}", here.len(), there.0.display());
    }
}
