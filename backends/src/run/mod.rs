//! The balancer process: `tandem run`.
//!
//! ```text
//! start: plan > facts > tables > attach > mode > control socket > READY
//! loop:  control requests | a worker ended | every second: next hops, clock, is the interface there
//! stop:  mode xdp, workers end, program detached, pins removed (or left, if asked)
//! ```

mod balancer;
mod error;
mod protocol;
mod server;

pub use balancer::{Options, run};
pub use error::RunError;
pub use protocol::{ClientError, ModeName, ModeReport, Paths, Request, ask};
