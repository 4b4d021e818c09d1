//! The control plane's tables against models, and what applying a plan writes.

mod counters;
mod plans;
mod prefixes;
mod scale;
