//! What `make fuzz` runs on Pktgen's command files, on its seeds: it is built with everything else, and what was found once is not
//! found again.

use tandem_bench::pkt;

#[path = "../../fuzz/bodies/pkt.rs"]
mod body;
#[path = "../../fuzz/bodies/seeds.rs"]
#[allow(dead_code, reason = "shared")]
mod seeds;

#[test]
fn command_files() {
    seeds::each_text("pkt", body::run);
}
