//! The benchmark harness: the balancer's two seats, like for like, beside what they can be compared with.
//!
//! | module | what |
//! |---|---|
//! | [`pkt`], [`scenario`], [`built_in`], [`frames`], [`export`] | Pktgen's command files: read, stepped, as frames, as captures |
//! | [`wire`], [`napi`] | a veth pair with a receiver, its receive queue on a core of its own |
//! | [`device`], [`balancer`] | what forwards: the balancer as users run it, references |
//! | [`generate`] | traffic |
//! | [`measure`], [`gates`], [`oracle`], [`host`] | a measurement, its evidence, what makes it worthless |
//! | [`harness`], [`external`] | a whole benchmark, with traffic of its own or from elsewhere; [`progress`]: how far it is |
//! | [`results`], [`manifest`], [`statistics`], [`report`], [`compare`] | what came of it |
//! | [`kernel`], [`batches`], `bytecode`, [`rival`], [`scene`], [`timing`] | the core alone, and rivals for it: shared with the micro-benchmarks (`benches/`) |
//!
//! Compare numbers of one run only: machines differ, and so do the hours of a shared one; ratios travel better.

#[cfg(all(feature = "bytecode", not(target_arch = "x86_64")))]
compile_error!("the feature bytecode keeps packets below 4 GiB (MAP_32BIT), which only x86-64 has: build without it");

pub mod balancer;
pub mod batches;
pub mod built_in;
#[cfg(feature = "bytecode")]
pub mod bytecode;
pub mod compare;
pub mod device;
pub mod export;
pub mod external;
pub mod frames;
pub mod gates;
pub mod generate;
pub mod harness;
pub mod host;
pub mod kernel;
pub mod manifest;
pub mod measure;
pub mod napi;
pub mod oracle;
pub mod pkt;
pub mod progress;
pub mod report;
pub mod results;
pub mod rival;
pub mod scenario;
pub mod scene;
pub mod statistics;
pub mod timing;
pub mod wire;
pub mod yardstick;
