//! The command as a user meets it: bad input gives one clear message and the right exit status, and the host is left as
//! it was.

mod captures;
mod check;
mod decap;
mod lifetime;
mod probes;
mod refusals;
mod replay;
mod replay_companions;
mod roots;
mod several;
mod shell;
mod trace;
mod twins;
mod vlans;
mod wire;
