//! `vectors/companions/`: the programs beside the balancer, through `tandem replay --program` with both backends.
//!
//! Expected values are from sections 9 and 6.1 of the reference text alone; the model knows the balancer only.

use std::process::Command;

use crate::beside::all;
use crate::replayed::{Scratch, backends, replay};
use crate::seats::skipped;
use crate::vectors::bytes;

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
    for (file, beside) in all() {
        let program = beside.program;
        if !is_available(&program) {
            skipped(&format!("this version of `tandem replay` has no program {program}"));
            continue;
        }
        let scratch = Scratch::new(&file);
        for row in &beside.vector {
            assert!(!row.shows.is_empty() && file.starts_with(&row.rule), "{file}: {} does not say what it shows", row.name);
            let mut options = vec!["--program".to_owned(), program.clone()];
            row.mark.iter().for_each(|mark| options.extend(["--mark".to_owned(), mark.to_string()]));
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            for backend in backends() {
                let name = format!("{file}, {}, {backend}", row.name);
                let written = replay(&scratch.0, backend, &beside.config[&row.config], &[bytes(&row.frame)], &options);
                assert_eq!(written.verdicts, [row.verdict(0)], "{name}");
                row.is_left(&written.frames[0]).unwrap_or_else(|why| panic!("{name}: {why}"));
            }
        }
    }
}
