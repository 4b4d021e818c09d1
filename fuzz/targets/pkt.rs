//! `../bodies/pkt.rs` under libFuzzer.
#![no_main]

// Of the benchmark, whose other dependencies need not be built for it.
#[path = "../../bench/src/pkt/mod.rs"]
#[allow(dead_code)]
mod pkt;

#[path = "../bodies/pkt.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|input: &str| body::run(input));
