//! Frames through the real data path, one by one, without an interface: `tandem replay` and `tandem trace`.
//!
//! Two backends behind one trait: the loaded BPF program by `BPF_PROG_TEST_RUN`, and the engine on tables in plain memory.
//! Both write each decision into the trace cell, and everything that is reported is read from there and from the tables.
//! Time stands still unless the caller moves it.

mod buffer;
mod capture;
mod decision;
mod explain;
mod opening;
mod probing;
mod seats;
mod tuple;

pub use buffer::Buffer;
pub use capture::{Capture, CaptureError, write_capture};
pub(crate) use decision::real_addr;
pub use decision::{Action, Decision, VerdictRow};
pub use explain::explain;
pub use opening::Opening;
pub use probing::Probing;
pub use seats::{Backend, Instance, ReplayError};
pub use tuple::{Tuple, TupleError};
