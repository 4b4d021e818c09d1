//! Reference programs of the benchmarks.
