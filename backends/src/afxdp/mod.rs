//! The AF_XDP seat: the engine in userspace, pinned threads, each with receive queues of its own.
//!
//! ```text
//! NIC > XDP program: classify, make room, XSKMAP[interface, queue] > port.receive > handle > port.send > NIC
//! ```
//!
//! | file | what | knows sockets |
//! |---|---|---|
//! | [`port`] | the sockets of a worker over one UMEM, and `port/kernel.rs`: its system calls; the only `unsafe` of this seat | yes |
//! | [`frames`] | frames as linear tokens, and the ledger that conserves them | no |
//! | [`frame`] | one frame inside its chunk, as the core's `Packet` | no |
//! | [`work`] | what is done to a batch | no |
//! | [`tap`] | what is told of captured frames | no |
//! | [`worker`] | the loop | through `port` |
//! | [`epoch`] | grace periods | no |
//! | [`seat`] | all workers | through `worker` |
//!
//! What never happens here: a verdict that the engine did not give, a frame that goes back to the host's stack (the
//! kernel seat passes those before the hand-over), a lock, an allocation or a log line in the loop.

pub mod epoch;
pub mod error;
pub mod frame;
pub mod frames;
pub mod port;
pub mod seat;
pub mod tap;
pub mod work;
pub mod worker;

pub use error::{PortError, QueueName};
pub use frames::Census;
pub use port::{Ask, Bound, Port, PortConfig, Statistics, receive_queues};
pub use seat::{Event, Report, Seat, SeatConfig, SeatError, SocketInfo};
pub use tap::Tap;
pub use worker::{Clock, LaneReport, Pace, WorkerMemory, WorkerReport};
