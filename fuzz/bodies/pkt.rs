//! Any text as a command file of Pktgen: traffic that can be walked, or a mistake with its place.

use crate::pkt;

/// One input.
pub fn run(text: &str) {
    match pkt::Traffic::parse(text, "fuzz.pkt") {
        Ok(traffic) => {
            assert!(traffic.offered(1e10) >= 0.0);
            for step in traffic.walk().take(300) {
                let _ = (traffic.address(step.src_ip), traffic.address(step.dst_ip));
            }
        }
        Err(error) => assert!(error.to_string().starts_with("fuzz.pkt")),
    }
}
