//! The command as a user meets it: bad input gives one clear message and the right exit status, and the host is left as
//! it was.

mod captures;
mod check;
mod daemon;
mod decap;
mod lifetime;
mod modes;
mod probes;
mod refusals;
mod reload;
mod replay;
mod replay_companions;
mod roots;
mod shell;
mod trace;
mod twins;
mod wire;
