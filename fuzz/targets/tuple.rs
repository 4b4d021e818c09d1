//! `../bodies/tuple.rs` under libFuzzer.
#![no_main]

#[path = "../bodies/tuple.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|input: &str| body::run(input));
