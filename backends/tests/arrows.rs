//! The drawings of ARCHITECTURE.md, held to: who depends on whom, where `unsafe` lives, how long a file may be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proc_macro2::{TokenStream, TokenTree};
use serde_json::Value;

/// Crate, the crates of this workspace that it depends on, and those that its tests may use beside them.
const ARROWS: &[(&str, &[&str], &[&str])] = &[
    ("tandem-engine", &[], &[]),
    ("tandem-bpf", &["tandem-engine"], &[]),
    ("tandem-backends", &["tandem-engine"], &["tandem-lab"]),
    ("tandem-api", &["tandem-engine", "tandem-backends"], &[]),
    ("tandem-lab", &[], &[]),
    ("tandem-bench", &["tandem-engine", "tandem-backends", "tandem-api", "tandem-lab"], &[]),
    ("tandem-doctor", &["tandem-backends", "tandem-api"], &["tandem-lab"]),
    ("tandem", &["tandem-api", "tandem-backends", "tandem-bench", "tandem-doctor", "tandem-lab"], &[]),
];

/// Arrows without which there would be no such product: a test that saw no dependencies at all must fail.
const CERTAIN: &[(&str, &str)] = &[
    ("tandem-bpf", "tandem-engine"),
    ("tandem-backends", "tandem-engine"),
    ("tandem", "tandem-backends"),
    ("tandem", "tandem-api"),
    ("tandem", "tandem-lab"),
];

/// What the two crates that the verifier sees may use of other people's.
const FOREIGN: &[(&str, &[&str])] = &[("tandem-engine", &["zerocopy"]), ("tandem-bpf", &["aya-ebpf"])];

/// The files with `unsafe` in them, tests aside.
const UNSAFE: &[&str] = &[
    // The core's only one: integers that others change at any time.
    "engine/src/memory/shared.rs",
    // Instructions that the loader completes.
    "bpf/src/constants.rs",
    // Packet memory; helper calls, a per-CPU counter, link attributes and the symbol that must not be reached.
    "bpf/src/capture.rs",
    "bpf/src/frame.rs",
    "bpf/src/clock.rs",
    "bpf/src/decap.rs",
    "bpf/src/health.rs",
    "bpf/src/root.rs",
    "bpf/src/skb.rs",
    "bpf/src/main.rs",
    "bpf/src/panic.rs",
    "bpf/src/tables.rs",
    // Programs of measurements, and what setup tries a linker with: no part of what forwards.
    "bpf/src/bench/calibration.rs",
    "bpf/src/bench/generator.rs",
    "bpf/src/bench/hashed.rs",
    "bpf/src/bench/main.rs",
    "bpf/src/bench/references.rs",
    "bpf/src/bench/sink.rs",
    "bpf/src/bench/wrapper.rs",
    "scripts/bpf-probe.rs",
    // A program compiled at run time, on memory that it has the addresses of: a feature of the benchmarks.
    "bench/src/bytecode/mod.rs",
    // Mapped memory, and a prefetch.
    "backends/src/memory/area.rs",
    "backends/src/memory/desk.rs",
    // UMEM and sockets.
    "backends/src/afxdp/port.rs",
    "backends/src/afxdp/port/kernel.rs",
    // A question to the kernel through libbpf.
    "backends/src/facts/driver.rs",
    // One libc call each: membarrier, statfs, getrandom, clock_gettime.
    "backends/src/control/grace.rs",
    "backends/src/facts/privileges.rs",
    "backends/src/run/supplied.rs",
    "backends/src/xdp/clock.rs",
    "backends/src/xdp/slots.rs",
    // A packet socket, which no crate that is here already opens with the direction of frames.
    "doctor/src/probe/wire.rs",
    // An ioctl.
    "lab/src/offload.rs",
];

const LONGEST: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace")
}

/// The crates of this workspace.
fn packages() -> Vec<Value> {
    metadata(&["--no-deps"])
}

fn metadata(options: &[&str]) -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline"])
        .args(options)
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

fn name(of: &Value) -> &str {
    of["name"].as_str().expect("a name")
}

/// Whether a dependency is for tests and benchmarks only.
fn is_dev(dependency: &Value) -> bool {
    dependency["kind"] == "dev"
}

#[test]
fn crates_depend_on_each_other_as_drawn() {
    let packages = packages();
    let ours: BTreeSet<&str> = packages.iter().map(name).collect();
    let drawn: BTreeSet<&str> = ARROWS.iter().map(|(package, ..)| *package).collect();
    assert_eq!(ours, drawn, "the crates of the workspace are not those of the drawing");
    let mut found = BTreeSet::new();
    for package in &packages {
        let (_, normal, tests) = ARROWS.iter().find(|(drawn, ..)| *drawn == name(package)).expect("compared above");
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let to = name(dependency);
            if !ours.contains(to) {
                continue;
            }
            let allowed = normal.contains(&to) || is_dev(dependency) && tests.contains(&to);
            assert!(allowed, "{} depends on {to}, which ARCHITECTURE.md does not draw", name(package));
            found.insert((name(package), to));
        }
    }
    for arrow in CERTAIN {
        assert!(found.contains(arrow), "{arrow:?} is gone: was anything read?");
    }
}

#[test]
fn what_the_verifier_sees_has_no_other_dependencies() {
    let packages = packages();
    let ours: BTreeSet<&str> = packages.iter().map(name).collect();
    for (package, allowed) in FOREIGN {
        let package = packages.iter().find(|found| name(found) == *package).expect("a crate");
        let dependencies = package["dependencies"].as_array().expect("dependencies");
        let foreign: BTreeSet<&str> =
            dependencies.iter().filter(|d| !is_dev(d)).map(name).filter(|to| !ours.contains(to)).collect();
        assert_eq!(foreign, allowed.iter().copied().collect(), "of {}", name(package));
    }
}

/// Every source file of the workspace, by its path from the root.
fn sources() -> BTreeMap<String, String> {
    fn walk(directory: &Path, root: &Path, into: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry")) {
            let path = entry.path();
            if entry.file_type().expect("a type").is_dir() {
                walk(&path, root, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("below the root").display().to_string();
                into.insert(name, fs::read_to_string(&path).expect("a source file"));
            }
        }
    }
    let (root, mut found) = (root(), BTreeMap::new());
    for part in ["api", "engine", "bpf", "backends", "bench", "cli", "doctor", "interleave", "lab", "scripts"] {
        walk(&root.join(part), &root, &mut found);
    }
    found
}

/// Whether the keyword is among the tokens: comments and texts are none.
fn has_unsafe(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(word) => word == "unsafe",
        TokenTree::Group(group) => has_unsafe(group.stream()),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

#[test]
fn unsafe_is_only_where_it_is_said_to_be() {
    let with: BTreeSet<String> = sources()
        .into_iter()
        .filter(|(file, _)| !file.contains("/tests/"))
        .filter(|(file, text)| has_unsafe(text.parse().unwrap_or_else(|error| panic!("{file}: {error}"))))
        .map(|(file, _)| file)
        .collect();
    let named: BTreeSet<String> = UNSAFE.iter().map(|file| (*file).to_owned()).collect();
    let surplus: Vec<_> = with.difference(&named).collect();
    assert!(surplus.is_empty(), "`unsafe` in {surplus:?}: use a crate, or one of the files that are named here");
    let gone: Vec<_> = named.difference(&with).collect();
    assert!(gone.is_empty(), "no `unsafe` in {gone:?} any more: take it off the list");
}

#[test]
fn no_source_file_is_too_long() {
    let sources = sources();
    assert!(sources.len() > 100, "only {} files found", sources.len());
    let long: Vec<String> = sources
        .iter()
        .map(|(file, text)| (file, text.lines().count()))
        .filter(|(_, lines)| *lines > LONGEST)
        .map(|(file, lines)| format!("{file}: {lines} lines, at most {LONGEST}"))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// Of every dependency on Linux, by the list that cargo-deny is given; "or later" and exceptions only widen what a licence permits.
#[test]
fn licences_are_permissive() {
    let settings: toml::Table = fs::read_to_string(root().join("deny.toml")).expect("deny.toml").parse().expect("TOML");
    let allowed: Vec<&str> =
        settings["licenses"]["allow"].as_array().expect("a list").iter().filter_map(toml::Value::as_str).collect();
    let packages = metadata(&["--locked", "--filter-platform", "x86_64-unknown-linux-gnu"]);
    assert!(packages.len() > 100, "only {} packages found", packages.len());
    for package in &packages {
        let licence = package["license"].as_str().unwrap_or_else(|| panic!("{} names no licence", name(package)));
        let expression = spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX)
            .unwrap_or_else(|error| panic!("{}: licence {licence:?}: {error}", name(package)));
        let is_permissive = expression.evaluate(|wanted| wanted.license.id().is_some_and(|id| allowed.contains(&id.name)));
        assert!(is_permissive, "{}: licence {licence:?} is not among {allowed:?}", name(package));
    }
}

/// Everything that is built here comes from this repository or from crates.io, with its checksum.
#[test]
fn crates_come_from_one_registry() {
    const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";
    for file in ["Cargo.lock", "fuzz/Cargo.lock", "interleave/Cargo.lock"] {
        let text = fs::read_to_string(root().join(file)).expect(file);
        let lock: toml::Table = text.parse().unwrap_or_else(|error| panic!("{file}: {error}"));
        let packages = lock["package"].as_array().expect("packages");
        let (foreign, ours): (Vec<_>, Vec<_>) = packages.iter().partition(|package| package.get("source").is_some());
        assert!(foreign.len() > 30, "{file}: only {} crates of others found", foreign.len());
        for package in foreign {
            let name = &package["name"];
            assert_eq!(package["source"].as_str(), Some(REGISTRY), "{file}: where {name} comes from");
            assert!(package.get("checksum").is_some(), "{file}: {name} has no checksum");
        }
        for package in ours {
            let name = package["name"].as_str().expect("a name");
            assert!(name == "tandem" || name.starts_with("tandem-"), "{file}: {name} comes from nowhere");
        }
    }
}
