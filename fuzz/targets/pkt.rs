//! Any text as a command file of Pktgen: traffic that can be walked, or a mistake with its place.
#![no_main]

use libfuzzer_sys::fuzz_target;

// Of the benchmark, whose other dependencies need not be built for it.
#[path = "../../bench/src/pkt/mod.rs"]
#[allow(dead_code)]
mod pkt;

fuzz_target!(|text: &str| {
    match pkt::Traffic::parse(text, "fuzz.pkt") {
        Ok(traffic) => {
            assert!(traffic.offered(1e10) >= 0.0);
            for step in traffic.walk().take(300) {
                let _ = (traffic.address(step.src_ip), traffic.address(step.dst_ip));
            }
        }
        Err(error) => assert!(error.to_string().starts_with("fuzz.pkt")),
    }
});
