//! What the benchmarks share: the configuration and frames they measure, a clock that counts only the thread's own time,
//! the harness that times an XDP program honestly, and the rivals.
//!
//! Every number is nanoseconds of thread CPU time per frame. Compare numbers of one run only: machines differ, and so do
//! the hours of a shared one; ratios travel better.

pub mod kernel;
pub mod rival;
pub mod scene;
pub mod timing;
