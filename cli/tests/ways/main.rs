//! The ways to the reals: real traffic while neighbours, routes, gateways and MTUs change under a running balancer.

#[path = "../common/mod.rs"]
mod common;
mod fragments;
mod hops;
mod mtu;
mod stand;
