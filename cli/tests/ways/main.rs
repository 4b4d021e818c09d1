//! The ways to the reals: real traffic while neighbours, routes, gateways and MTUs change under a running balancer.

mod fragments;
mod hops;
mod mtu;
mod stand;
