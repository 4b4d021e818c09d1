//! What this host is: interface, addresses, next hops, privileges. Read through netlink and procfs, changed by nothing here
//! but the neighbour table, where a silent next hop is asked for.

mod driver;
mod netlink;
mod privileges;
mod routes;
mod threads;
mod watch;
mod ways;

pub use driver::Driver;
pub use netlink::{Attached, FactError, Interface, Netlink};
pub use privileges::{Missing, check_privileges, is_bpffs, may_make_namespaces, may_open_sockets};
pub use threads::{named, softirq_time, time_of};
pub use watch::watch;
pub use ways::{Found, NextHop, NoHop, Ways};
