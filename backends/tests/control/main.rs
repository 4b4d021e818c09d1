//! The control plane's tables against models, and what applying a plan writes.

mod plans;
mod prefixes;
