//! What `make fuzz` runs, on its seeds: it is built with everything else, and what was found once is not found again.

#[path = "../../fuzz/bodies/capture.rs"]
mod capture;
#[path = "../../fuzz/bodies/config.rs"]
mod config;
#[path = "../../fuzz/bodies/frame.rs"]
mod frame;
#[path = "../../fuzz/bodies/seeds.rs"]
mod seeds;
#[path = "../../fuzz/bodies/tuple.rs"]
mod tuple;

#[test]
fn captures() {
    seeds::each("capture", capture::run);
}

#[test]
fn configurations() {
    seeds::each_text("config", config::run);
}

#[test]
fn frames() {
    seeds::each("frame", frame::run);
}

#[test]
fn tuples() {
    seeds::each_text("tuple", tuple::run);
}
