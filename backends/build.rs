//! Builds the BPF object, so that none is ever committed or stale.
//!
//! It needs a `core` for the BPF target and `bpf-linker`, which the toolchain of this workspace may not have:
//!
//! * `TANDEM_BPF_RUSTC`, else the toolchain's own rustc if it has `rust-src`, else `/usr/bin/rustc` with Debian's
//!   `rust-web-src`;
//! * `TANDEM_BPF_LINKER`, else `~/.cache/tandem/bin/bpf-linker` (what `make setup` leaves), else `bpf-linker` in `PATH`.
//!
//! `TANDEM_BPF_CPU=generic` builds for the first instruction set instead of v3: `make test-kernels` asks kernels for that, too.
//!
//! What is missing is an error that names `make setup`. The objects land in `OUT_DIR`: `tandem-bpf`,
//! and `tandem-bpf-bench` with what benchmarks compare it with.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "bpfel-unknown-none";

fn main() {
    if let Err(message) = build() {
        eprintln!("error: cannot build the BPF object: {message}");
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    for variable in ["TANDEM_BPF_RUSTC", "TANDEM_BPF_LINKER", "TANDEM_BPF_CPU"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let root = var_path("CARGO_MANIFEST_DIR")?.join("..");
    for part in ["bpf", "engine/src", "engine/Cargo.toml", "Cargo.lock", "Cargo.toml"] {
        println!("cargo:rerun-if-changed={}", root.join(part).display());
    }
    let out = var_path("OUT_DIR")?;
    let (rustc, linker) = (rustc()?, linker()?);
    // Beside the profiles' directories, so that all of them share one build of `core`.
    let target_dir = out.ancestors().nth(4).map_or_else(|| out.join("bpf"), |target| target.join("bpf"));
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo set for this build must not reach the other one.
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("CARGO_") && name_text != "CARGO_HOME"
            || name_text.starts_with("RUSTC_")
            || name_text == "RUSTFLAGS"
        {
            cargo.env_remove(&name);
        }
    }
    // No path of this machine is in the object: the same source is the same object everywhere.
    let remap = |from: PathBuf, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"))).unwrap_or_default();
    let absolute = root.canonicalize().map_err(|e| format!("{}: {e}", root.display()))?;
    let sysroot = sysroot(&rustc).ok_or_else(|| format!("{} does not tell its sysroot", rustc.display()))?;
    let flags = [
        remap(home, "cargo"),
        remap(sysroot, "rust"),
        remap(absolute, "tandem"),
        "-Cdebuginfo=2".to_owned(),
        // 32-bit arithmetic and jumps (Linux 5.1), and headers read by the word where they lie: together a fifth fewer
        // instructions. The kernel allows it on machines that read misaligned words as fast as others.
        format!("-Ctarget-cpu={}", env::var("TANDEM_BPF_CPU").as_deref().unwrap_or("v3")),
        "-Ctarget-feature=+allows-misaligned-mem-access".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("--cfg=bpf_target_arch=\"{}\"", var("CARGO_CFG_TARGET_ARCH")?),
    ];
    cargo
        .current_dir(&root)
        .env("RUSTC", &rustc)
        // Not among the flags: those are part of the names of symbols.
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &linker)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .args(["build", "--locked", "-Z", "build-std=core", "--target", TARGET, "--profile", "bpf", "-p", "tandem-bpf"])
        .arg("--target-dir")
        .arg(&target_dir);
    let output = cargo.output().map_err(|e| format!("cannot run cargo: {e}"))?;
    if !output.status.success() {
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!(
            "{}\n(rustc: {}; linker: {}; `make setup` installs both)",
            log.trim_end(),
            rustc.display(),
            linker.display()
        ));
    }
    for object in ["tandem-bpf", "tandem-bpf-bench"] {
        let built = target_dir.join(TARGET).join("bpf").join(object);
        std::fs::copy(&built, out.join(object)).map_err(|e| format!("{}: {e}", built.display()))?;
    }
    Ok(())
}

/// A rustc that has the source of `core` beside it.
fn rustc() -> Result<PathBuf, String> {
    let own = PathBuf::from(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let candidates = match env::var_os("TANDEM_BPF_RUSTC") {
        Some(named) => vec![PathBuf::from(named)],
        None => vec![own, PathBuf::from("/usr/bin/rustc")],
    };
    candidates.iter().find(|rustc| has_core_source(rustc)).cloned().ok_or_else(|| {
        format!("no rustc with the source of `core` (looked at {candidates:?}); run `make setup`, or install Debian's rustc-web and rust-web-src, or rustup's component rust-src")
    })
}

fn has_core_source(rustc: &Path) -> bool {
    sysroot(rustc).is_some_and(|sysroot| sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists())
}

fn sysroot(rustc: &Path) -> Option<PathBuf> {
    let output = Command::new(rustc).args(["--print", "sysroot"]).output().ok()?;
    output.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

fn linker() -> Result<PathBuf, String> {
    if let Some(named) = env::var_os("TANDEM_BPF_LINKER") {
        let named = PathBuf::from(named);
        return if named.exists() {
            Ok(named)
        } else {
            Err(format!("TANDEM_BPF_LINKER: {} does not exist; run `make setup`", named.display()))
        };
    }
    let in_path = env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    let cache = env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/tandem/bin"));
    cache
        .into_iter()
        .chain(in_path)
        .map(|dir| dir.join("bpf-linker"))
        .find(|linker| linker.exists())
        .ok_or_else(|| "no bpf-linker in ~/.cache/tandem/bin or PATH; run `make setup`, or `cargo install --locked bpf-linker --version 0.10.3`".to_owned())
}

fn var(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("cargo did not set {name}"))
}

fn var_path(name: &str) -> Result<PathBuf, String> {
    var(name).map(PathBuf::from)
}
