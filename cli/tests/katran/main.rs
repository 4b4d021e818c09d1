//! `profile = "katran"` against an independent model of the rules that it follows.

mod beside;
mod companions;
mod compare;
mod frozen;
mod generate;
mod generated;
mod goldens;
mod model;
mod replayed;
mod seats;
mod settings;
mod vectors;
