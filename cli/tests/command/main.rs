//! The command as a user meets it: bad input gives one clear message and the right exit status, and the host is left as
//! it was.

mod api;
mod auto;
mod capture;
mod captures;
mod check;
mod daemon;
mod decap;
mod filters;
mod flows;
mod katran_service;
mod libraries;
mod lifetime;
mod metrics;
mod modes;
mod noise;
mod probes;
mod python;
mod refusals;
mod reload;
mod replay;
mod replay_companions;
mod roots;
mod several;
mod shell;
mod trace;
mod twins;
mod vlans;
mod wire;
