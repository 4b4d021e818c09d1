//! The committed inputs of a target, whole and damaged.

use std::path::Path;

/// Runs a body on each seed, on what is left of it when it is cut, and with single bytes changed: at a hundred places, with
/// `TANDEM_LONG=1` at all of them and each bit of them.
pub fn each(target: &str, run: impl Fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let is_long = std::env::var_os("TANDEM_LONG").is_some();
    let mut seeds = 0;
    for entry in entries {
        let path = entry.expect("an entry").path();
        let seed = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        run(&seed);
        for at in (0..seed.len()).step_by(if is_long { 1 } else { seed.len().div_ceil(100) }) {
            run(&seed[..at]);
            let mut changed = seed.clone();
            for bit in if is_long { 0..8 } else { at % 8..at % 8 + 1 } {
                changed[at] = seed[at] ^ 1 << bit;
                run(&changed);
            }
        }
        seeds += 1;
    }
    assert!(seeds > 0, "no seeds in {}", directory.display());
}

/// The same for a target of texts; what is none is not its input.
pub fn each_text(target: &str, run: impl Fn(&str)) {
    each(target, |bytes| {
        if let Ok(text) = std::str::from_utf8(bytes) {
            run(text);
        }
    });
}
