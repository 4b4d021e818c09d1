//! The API of a running balancer: gRPC over a Unix socket, or over TCP with mutual TLS.
//!
//! ```text
//! Prometheus > metrics > provision
//! client > server: socket or TLS > balancer (tandem.v1), katran (lb.katran) > provision > run::Handle
//!                                                                                |
//!                                                          document: edits of the configuration's text
//! ```
//!
//! Changes are edits of the configuration in force, validated by the same rules as its file, and applied as a whole.

mod balancer;
mod capture;
pub mod client;
mod document;
mod flows;
mod health;
mod katran;
mod metrics;
mod names;
mod provision;
mod server;
mod stats;

pub use balancer::decision_to_wire;
pub use document::{Document, Draft, EditError};
pub use names::{NotAService, Service, seat_name, seat_to_wire, state_name};
pub use provision::{Applied, InForce, Provision, ProvisionError};
pub use server::{ServeError, Serving, serve};

/// The messages and services of `proto/tandem/v1/tandem.proto`.
#[allow(missing_docs, clippy::all, clippy::allow_attributes_without_reason, reason = "generated; the proto file documents it")]
pub mod wire {
    tonic::include_proto!("tandem.v1");
}

/// The messages and services of `proto/katran.proto`.
#[allow(missing_docs, clippy::all, clippy::allow_attributes_without_reason, reason = "generated; the proto file documents it")]
pub mod katran_wire {
    tonic::include_proto!("lb.katran");
}

/// Both, for reflection.
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
