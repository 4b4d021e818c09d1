//! From "it does not forward" to the cause and the cure.
//!
//! ```text
//! setting: what this host's part is       facts: what is so on this host (or was, recorded)
//!      \____________________  _________________/
//!                           checks > findings > report: causes, consequences under them
//! ```
//!
//! A check is a pure function of setting and facts; all reading is done before the first one runs. So what no lab can provoke
//! is judged from recorded facts by the same code. Nothing here changes the host;
//! only [`probe`] sends anything, and only when it is asked to.

mod bundle;
pub mod checks;
pub mod explain;
pub mod facts;
mod finding;
mod network;
pub mod probe;
mod report;
mod setting;

pub use bundle::{Bundle, BundleError};
pub use finding::{Finding, Status};
pub use network::{Network, NoNetwork};
pub use report::{Report, Row, examine, judge};
pub use setting::{Balancer, Method, NoService, Ports, Role, SOMEBODY, Service, Setting};
