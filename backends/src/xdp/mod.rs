//! The kernel seat: the BPF object, its maps as the one memory, its programs on interfaces, its pins.
//!
//! Pins of one balancer, in a directory of its own on bpffs:
//!
//! ```text
//! ROOT VIPS RINGS REALS FLOWS COUNTS ... XSKS      the maps: the next process takes them over, flows and all
//! link link1 ...                                   the attachments: the program goes on without a process
//! ```

mod attach;
mod balancer;
mod capture;
mod clock;
mod companion;
mod constants;
mod decap;
mod direct;
mod error;
mod left;
mod object;
mod probes;
mod root;
mod slots;

pub use balancer::{Balancer, Budget, Headroom, LARGEST_TEST_FRAME};
pub use capture::{Sources, check_filter};
pub use clock::KernelClock;
pub use companion::{Companion, attach_companion};
pub use constants::{fill, prepare};
pub use decap::{Decap, attach_decap, decap_counts, decap_directory, detach_decap};
pub use direct::Direct;
pub use error::XdpError;
pub(crate) use error::{chain, errno};
pub use object::{OBJECT, REFERENCES, Role};
pub use root::{attach_root, detach_root, put_tap, root_array};
pub use slots::{SlotRow, SlotWish, list_slots};
pub use tandem_engine::strip::Tunnels;
