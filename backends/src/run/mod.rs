//! The balancer process: `tandem run`.
//!
//! ```text
//! start: plan > facts > tables > attach > mode > control socket > READY
//! loop:  control requests | a worker ended | links, neighbours or routes changed: next hops
//!        | every second: the same, clock, is the interface there
//! stop:  mode xdp, workers end, program detached, pins removed (or left, if asked)
//! ```

mod balancer;
mod error;
mod hops;
mod paths;
mod protocol;
mod server;

pub use balancer::{Options, run};
pub use error::RunError;
pub use protocol::{ClientError, ModeName, ModeReport, Paths, Request, UnreachableRow, ask};
