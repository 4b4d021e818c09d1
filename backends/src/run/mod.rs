//! The balancer process: `tandem run`.
//!
//! ```text
//! start: plan > facts > tables > attach > mode > requests are served > READY
//! loop:  requests (another plan, the mode ...) | SIGHUP: the file again | a worker ended | links, neighbours or routes changed: next hops
//!        | every second: the same, clock, is the interface there
//! stop:  mode xdp, workers end, program detached, pins removed (or left, if asked)
//! ```

mod balancer;
mod capture;
mod decide;
mod error;
mod file;
mod hops;
mod live;
mod lock;
mod paths;
mod places;
mod protocol;
mod reload;
mod seats;
mod server;
mod supplied;

pub use balancer::{Life, Options, Signals, run};
pub use decide::calibration;
pub use error::RunError;
pub use live::{LONGEST_TURN, TURNS};
pub use places::Paths;
pub use protocol::{
    CaptureStream, CaptureWish, CoreRow, Handle, ModeName, ModeReport, ProbeWish, Refusal, Reply, Request, SeatCounters,
    UnreachableRow, WorkerRow,
};
