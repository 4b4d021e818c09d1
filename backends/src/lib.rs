//! Tandem's two seats and what is around them.
//!
//! ```text
//! config: text > Plan        control: Plan > tables        memory: the tables, mapped or plain
//! xdp: the kernel seat       afxdp: the userspace seat      replay: frame by frame, without an interface
//! capture: frames for who looks
//! run: the balancer process  facts: what this host is
//! calibrate, probe: what the seats cost on it, and decision: which one forwards
//! ```
//!
//! The engine decides about frames; nothing here does.

pub mod afxdp;
pub mod calibrate;
pub mod capture;
pub mod config;
pub mod control;
pub mod decision;
pub mod facts;
pub mod memory;
pub mod probe;
pub mod replay;
pub mod run;
pub mod xdp;
