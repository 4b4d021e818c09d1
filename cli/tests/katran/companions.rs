//! `vectors/companions/`: the programs beside the balancer, through `tandem replay --program` with both backends.
//!
//! Expected values are from sections 9 and 6.1 of the reference text alone; the model knows the balancer only.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;

use serde::Deserialize;
use serde_json::json;

use crate::compare::hex;
use crate::replayed::{Scratch, backends, replay};
use crate::seats::skipped;
use crate::vectors::{bytes, directory, texts};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// `--program`.
    program: String,
    config: BTreeMap<String, String>,
    vector: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    rule: String,
    shows: String,
    config: String,
    /// `--mark`.
    mark: Option<u32>,
    frame: Vec<String>,
    action: String,
    reason: String,
    real: Option<IpAddr>,
    /// Hexadecimal digits, `??` for any byte.
    out: Option<Vec<String>>,
}

/// Frames are left as written, but for a random source port, in which Katran sets a bit of the second byte.
#[track_caller]
fn assert_left(name: &str, expected: &Row, left: &[u8]) {
    let Some(out) = &expected.out else {
        assert_eq!(hex(left), hex(&bytes(&expected.frame)), "{name}: not left as it was");
        return;
    };
    let digits: String = out.iter().filter(|line| line.contains('?')).flat_map(|line| line.split_whitespace()).collect();
    let port_is_random = !digits.is_empty();
    let fixed: Vec<String> = out.iter().map(|line| line.replace('?', "0")).collect();
    let mut left = left.to_vec();
    if port_is_random {
        let port = if left[12..14] == [0x86, 0xdd] { 54 } else { 34 };
        assert_ne!(left[port + 1] & 0x04, 0, "{name}: the bit 0x0400 of the source port is not set");
        left[port..port + 2].fill(0);
    }
    assert_eq!(hex(&left), hex(&bytes(&fixed)), "{name}");
}

/// Whether this version of the command runs the program.
fn is_available(program: &str) -> bool {
    let output = Command::new(env!("CARGO_BIN_EXE_tandem"))
        .args(["replay", "--program", program, "-c", "/dev/null", "--backend", "engine", "--input", "/dev/null", "--output", "-"])
        .output()
        .expect("the binary");
    !String::from_utf8_lossy(&output.stderr).contains("not available yet")
}

#[test]
fn programs_beside_the_balancer() {
    let files = texts(&directory().join("companions"));
    assert_eq!(files.len(), 2, "a file for each program");
    for (file, text) in files {
        let File { program, config, vector } = toml::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        if !is_available(&program) {
            skipped(&format!("this version of `tandem replay` has no program {program}"));
            continue;
        }
        let scratch = Scratch::new(&file);
        for row in &vector {
            assert!(!row.shows.is_empty() && file.starts_with(&row.rule), "{file}: {} does not say what it shows", row.name);
            let mut options = vec!["--program".to_owned(), program.clone()];
            row.mark.iter().for_each(|mark| options.extend(["--mark".to_owned(), mark.to_string()]));
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            for backend in backends() {
                let name = format!("{file}, {}, {backend}", row.name);
                let written = replay(&scratch.0, backend, &config[&row.config], &[bytes(&row.frame)], &options);
                let verdict = json!({
                    "frame": 0, "action": row.action, "reason": row.reason, "vip": null, "real": row.real, "from": "none",
                });
                assert_eq!(written.verdicts, [verdict], "{name}");
                assert_left(&name, row, &written.frames[0]);
            }
        }
    }
}
